/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * job: long work that somebody waits for.
 *
 * A job outlives the work by a minute so that whoever asked can still read how it ended. It owns
 * nothing of the work: cancelling is a message to the worker, and the worker ends the job.
 */
#include "vmmd/job.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>

#define PROGRESS_STEP 0.005 /* smaller ones are not worth a message */

static void on_removal(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    job_free(opaque);
}

static unsigned count_running(const struct daemon *daemon)
{
    const struct job *job;
    unsigned n = 0;

    TAILQ_FOREACH(job, &daemon->jobs, link)
    n += job->state == JOB_RUNNING;
    return n;
}

static void drop_oldest(struct daemon *daemon)
{
    struct job *job, *oldest = NULL;
    unsigned n = 0;

    TAILQ_FOREACH(job, &daemon->jobs, link)
    {
        n++;
        if (!oldest && job->state != JOB_RUNNING)
            oldest = job;
    }
    if (n >= JOBS_KEPT_MAX && oldest)
        job_free(oldest);
}

int job_room(const struct daemon *daemon, struct problem *problem)
{
    if (count_running(daemon) < JOBS_RUNNING_MAX)
        return 0;
    return problem_set(problem, PROBLEM_LIMIT_EXCEEDED, "%d jobs are running already",
                       JOBS_RUNNING_MAX);
}

int job_new(struct job **ret_job, struct daemon *daemon, const char *kind, const char *name,
            void (*cancel)(void *opaque), void *opaque, struct problem *problem)
{
    struct job *job;

    drop_oldest(daemon);
    job = calloc(1, sizeof(*job));
    if (!job)
        return problem_errno(problem, -ENOMEM, "cannot start a job");
    *job = (struct job){.daemon = daemon, .kind = kind, .cancel = cancel, .opaque = opaque};
    job->removal = event_new(daemon->base, -1, 0, on_removal, job);
    if (!job->removal) {
        free(job);
        return problem_errno(problem, -ENOMEM, "cannot start a job");
    }
    job->id = ++daemon->next_job;
    snprintf(job->name, sizeof(job->name), "%s", name);
    TAILQ_INSERT_TAIL(&daemon->jobs, job, link);
    if (daemon->listener)
        daemon->listener->job_added(daemon->listener_opaque, job);
    *ret_job = job;
    return 0;
}

void job_set_progress(struct job *job, double progress)
{
    if (progress < job->progress + PROGRESS_STEP || progress > 1)
        return;
    job->progress = progress;
    if (job->daemon->listener)
        job->daemon->listener->job_changed(job->daemon->listener_opaque, job);
}

void job_finish(struct job *job, enum job_state state, const char *error, const char *result)
{
    struct daemon *daemon = job->daemon;

    job->state = state;
    job->cancel = NULL;
    if (state == JOB_DONE)
        job->progress = 1;
    snprintf(job->error, sizeof(job->error), "%s", error ? error : "");
    snprintf(job->result, sizeof(job->result), "%s", result ? result : "");
    event_add(job->removal, &(struct timeval){.tv_sec = JOB_KEEP_SECONDS});
    if (daemon->listener) {
        daemon->listener->job_changed(daemon->listener_opaque, job);
        daemon->listener->job_finished(daemon->listener_opaque, job);
    }
}

int job_cancel(struct job *job, struct problem *problem)
{
    if (job->state != JOB_RUNNING)
        return problem_set(problem, PROBLEM_WRONG_STATE, "%s of %s is %s", job->kind, job->name,
                           job_state_name(job->state));
    if (!job->cancel)
        return problem_set(problem, PROBLEM_BUSY, "%s of %s cannot be cancelled any more",
                           job->kind, job->name);
    job->cancel(job->opaque);
    return 0;
}

const char *job_state_name(enum job_state state)
{
    static const char *const names[] = {"running", "done", "failed", "cancelled"};

    return names[state];
}

void job_free(struct job *job)
{
    struct daemon *daemon = job->daemon;

    TAILQ_REMOVE(&daemon->jobs, job, link);
    if (daemon->listener)
        daemon->listener->job_removed(daemon->listener_opaque, job);
    event_free(job->removal);
    free(job);
}
