/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * problem: kinds of failure, their names and the errno that stands for each.
 */
#include "vmmd/problem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int error;
} kinds[PROBLEM_KINDS] = {
    [PROBLEM_FAILED] = {"Failed", EIO},
    [PROBLEM_NOT_FOUND] = {"NotFound", ENOENT},
    [PROBLEM_EXISTS] = {"Exists", EEXIST},
    [PROBLEM_INVALID_NAME] = {"InvalidName", EINVAL},
    [PROBLEM_INVALID_ARGUMENT] = {"InvalidArgument", EINVAL},
    [PROBLEM_IN_USE] = {"InUse", EBUSY},
    [PROBLEM_WRONG_STATE] = {"WrongState", EBUSY},
    [PROBLEM_BAD_IMAGE] = {"BadImage", EINVAL},
    [PROBLEM_NOT_SUPPORTED] = {"NotSupported", EOPNOTSUPP},
    [PROBLEM_LIMIT_EXCEEDED] = {"LimitExceeded", E2BIG},
    [PROBLEM_NO_SPACE] = {"NoSpace", ENOSPC},
    [PROBLEM_NO_MEMORY] = {"NoMemory", ENOMEM},
    [PROBLEM_BUSY] = {"Busy", EAGAIN},
};

const char *problem_kind_name(enum problem_kind kind)
{
    return kinds[kind].name;
}

int problem_set(struct problem *problem, enum problem_kind kind, const char *format, ...)
{
    va_list args;

    if (problem) {
        problem->kind = kind;
        va_start(args, format);
        vsnprintf(problem->text, sizeof(problem->text), format, args);
        va_end(args);
    }
    return -kinds[kind].error;
}

int problem_errno(struct problem *problem, int error, const char *format, ...)
{
    va_list args;
    size_t n;

    if (!problem)
        return error;
    problem->kind = error == -ENOSPC || error == -EDQUOT ? PROBLEM_NO_SPACE : PROBLEM_FAILED;
    va_start(args, format);
    vsnprintf(problem->text, sizeof(problem->text), format, args);
    va_end(args);
    n = strlen(problem->text);
    snprintf(problem->text + n, sizeof(problem->text) - n, ": %s", strerror(-error));
    return error;
}
