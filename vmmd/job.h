/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * job: long work that somebody waits for, as seen from outside: progress, end, cancellation.
 */
#ifndef VMMD_JOB_H
#define VMMD_JOB_H

#include "vmmd/daemon.h"
#include "vmmd/name.h"

#define JOBS_RUNNING_MAX 16  /* more are refused: LimitExceeded */
#define JOBS_KEPT_MAX    256 /* the oldest finished ones go first */
#define JOB_KEEP_SECONDS 60  /* after its end */

enum job_state { JOB_RUNNING, JOB_DONE, JOB_FAILED, JOB_CANCELLED };

struct job {
    TAILQ_ENTRY(job) link;
    struct daemon *daemon;
    uint64_t id;
    const char *kind; /* "import", "create", "verify", "export" */
    char name[NAME_LENGTH_MAX + 1];
    enum job_state state;
    double progress; /* 0..1 */
    char error[PROBLEM_TEXT_MAX];
    char result[NAME_LENGTH_MAX + 1]; /* name of what it made, "" if nothing */
    struct event *removal;
    void (*cancel)(void *opaque); /* NULL: cannot be cancelled (any more) */
    void *opaque;
};

/* LimitExceeded if no more jobs may run: to be asked before work begins. */
int job_room(const struct daemon *daemon, struct problem *problem);

/* A running job. `cancel` must lead to job_finish(), now or later. Failed. */
int job_new(struct job **ret_job, struct daemon *daemon, const char *kind, const char *name,
            void (*cancel)(void *opaque), void *opaque, struct problem *problem);

void job_set_progress(struct job *job, double progress);

/* Ends it; removed after JOB_KEEP_SECONDS. `error` and `result` may be NULL. */
void job_finish(struct job *job, enum job_state state, const char *error, const char *result);

int job_cancel(struct job *job, struct problem *problem);
const char *job_state_name(enum job_state state);
void job_free(struct job *job);

#endif
