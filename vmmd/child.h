/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * child: processes the daemon starts or finds again, and their end as an event.
 */
#ifndef VMMD_CHILD_H
#define VMMD_CHILD_H

#include "vmmd/problem.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CHILD_FDS_MAX 24

struct event_base;
struct child;

/* The process ended. `info` is NULL if it was not our child: nobody knows how it ended. */
typedef void (*child_exited_fn)(void *opaque, const siginfo_t *info);

struct child_spec {
    char *const *argv;                 /* argv[0] is the path; or NULL: run `function` in a fork */
    int (*function)(const void *data); /* uses fds 0..n_fds-1; its result is the exit status */
    const void *data;
    int fds[CHILD_FDS_MAX]; /* fd i of the child is fds[i]; the caller keeps its own */
    int n_fds;              /* the child has these and no others */
    bool detached;          /* survives the daemon: own session; otherwise dies with it */
};

/*
 * Forks a child that waits at a gate: it does nothing until child_release(), and ends without
 * having done anything if the daemon dies first. So the daemon can write down who it is.
 * `exited` is called from the loop, once.
 */
int child_spawn(struct child **ret_child, struct event_base *base, const struct child_spec *spec,
                child_exited_fn exited, void *opaque, struct problem *problem);
void child_release(struct child *child);

/* Watches a process of an earlier daemon. -ESRCH if `pid` is not the process that started at
 * `start_ticks` (see child_start_ticks). */
int child_adopt(struct child **ret_child, struct event_base *base, pid_t pid, uint64_t start_ticks,
                child_exited_fn exited, void *opaque);

pid_t child_pid(const struct child *child);

/* When it started, in clock ticks since boot: pid and this name a process until reboot. */
/* CPU time its process has taken in all its threads; 0 if it cannot be read. */
double child_cpu_seconds(const struct child *child);
uint64_t child_start_ticks(const struct child *child);

/* Ends and frees one that was not released. */
void child_abort(struct child *child);

void child_kill(struct child *child); /* SIGKILL; `exited` follows */

/* Stops watching and frees; the process lives on (one at its gate ends). NULL is fine. */
void child_free(struct child *child);

/* "killed by signal 9 (Killed)", "exited with status 1", ... */
void child_describe_end(const siginfo_t *info, char *text, size_t size);

/*
 * The path of a program of ours: in $VMMD_LIBEXEC, else beside the daemon's own executable, else in
 * ../libexec/vmmd seen from there, else in the directory given at build time. 0, or -errno with
 * `problem` naming what is missing.
 */
int child_find_program(const char *name, char *path, size_t size, struct problem *problem);

#endif
