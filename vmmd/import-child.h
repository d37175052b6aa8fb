/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * import-child: a vmmd-import process at work on one image, and what it says. It is not trusted:
 * nonsense ends it. Everything happens on the loop.
 */
#ifndef VMMD_IMPORT_CHILD_H
#define VMMD_IMPORT_CHILD_H

#include "cowdisk/cowdisk.h"
#include "vmmd/daemon.h"

#define IMPORT_CHILD_OPTIONS_MAX 12
#define IMPORT_CHILD_FDS_MAX     (7 + COW_IMPORT_MAX_BELOW)

struct import_child;

struct import_child_spec {
    const char *options[IMPORT_CHILD_OPTIONS_MAX]; /* of the program; ends with NULL */
    int fds[IMPORT_CHILD_FDS_MAX]; /* its fds from 4 on; -1: /dev/null; they stay the caller's */
    int n_fds;
    void (*progress)(void *opaque, double fraction); /* 0..1; may be NULL */
    /* Called once, when the process is gone: 0 and its last word (DONE), or -errno with one line
     * that says why. The child may be freed in there, and must be freed. */
    void (*ended)(void *opaque, int result, const struct cow_import_msg *msg, const char *error);
    void *opaque;
};

/* Starts it; it waits until import_child_go(). */
int import_child_new(struct import_child **ret_child, struct daemon *daemon,
                     const struct import_child_spec *spec, struct problem *problem);
void import_child_go(struct import_child *child);
/* Ends it: `ended` follows with -ECANCELED. */
void import_child_cancel(struct import_child *child);
/* Ends it without a word, if it runs. NULL is fine. */
void import_child_free(struct import_child *child);

#endif
