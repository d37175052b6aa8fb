/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * problem: why something a person asked for was not done: a kind that programs can test (on the bus
 * org.vmmd1.Error.KIND) and one line that names the thing and the reason.
 */
#ifndef VMMD_PROBLEM_H
#define VMMD_PROBLEM_H

enum problem_kind {
    PROBLEM_FAILED,
    PROBLEM_NOT_FOUND,
    PROBLEM_EXISTS,
    PROBLEM_INVALID_NAME,
    PROBLEM_INVALID_ARGUMENT,
    PROBLEM_IN_USE,
    PROBLEM_WRONG_STATE,
    PROBLEM_BAD_IMAGE,
    PROBLEM_NOT_SUPPORTED,
    PROBLEM_LIMIT_EXCEEDED,
    PROBLEM_NO_SPACE,
    PROBLEM_NO_MEMORY,
    PROBLEM_BUSY,
    PROBLEM_KINDS
};

#define PROBLEM_TEXT_MAX 512

struct problem {
    enum problem_kind kind;
    char text[PROBLEM_TEXT_MAX];
};

/* Fills `problem` (may be NULL) and returns the kind's -errno, so that callers can return it. */
int problem_set(struct problem *problem, enum problem_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Likewise from -errno `error`: the text ends with ": " and what the error means. Returns `error`.
 */
int problem_errno(struct problem *problem, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "NotFound" and so on. */
const char *problem_kind_name(enum problem_kind kind);

#endif
