/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * template-read: a vmmd-import process reads the disk of a template and compares it with its
 * hashes, to verify it or to write it into somebody's file; the job tells how far it is and how it
 * ended. The daemon itself reads none of the files. The template may be deleted meanwhile: the
 * process has its files open, and here only its name is kept.
 */
#include "vmmd/template-read.h"
#include "vmmd/import-child.h"
#include "vmmd/template.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIND_VERIFY "verify"

struct reading {
    LIST_ENTRY(reading) link;
    struct daemon *daemon;
    struct job *job;
    const char *kind;               /* of the job */
    char name[NAME_LENGTH_MAX + 1]; /* of the template */
    struct import_child *child;
    struct stat disk; /* as it was at the beginning */
};

/* What is to be done. */
struct task {
    const char *kind;
    const char *options[4]; /* of vmmd-import; ends with NULL */
    int output;             /* the file it writes, or -1 */
};

static void reading_free(struct reading *reading)
{
    LIST_REMOVE(reading, link);
    import_child_free(reading->child);
    free(reading);
}

static void on_cancel(void *opaque)
{
    struct reading *reading = opaque;

    reading->job->cancel = NULL;
    import_child_cancel(reading->child); /* the rest happens when it is gone */
}

static void on_progress(void *opaque, double fraction)
{
    job_set_progress(((struct reading *)opaque)->job, fraction);
}

/* All of it was read and is what was imported. */
static void accept(const struct reading *reading)
{
    struct template *tmpl = template_find(reading->daemon, reading->name);

    if (tmpl)
        template_accept(tmpl, &reading->disk);
}

static void on_ended(void *opaque, int result, const struct cow_import_msg *msg, const char *why)
{
    struct reading *reading = opaque;
    struct job *job = reading->job;
    enum job_state state = result == 0            ? JOB_DONE
                           : result == -ECANCELED ? JOB_CANCELLED
                                                  : JOB_FAILED;
    char name[NAME_LENGTH_MAX + 1], error[PROBLEM_TEXT_MAX] = "";

    memcpy(name, reading->name, sizeof(name));
    if (state == JOB_CANCELLED)
        snprintf(error, sizeof(error), "%s", why);
    else if (state == JOB_FAILED)
        snprintf(error, sizeof(error), "template %s: %.400s", name, why);
    if (state == JOB_DONE)
        accept(reading);
    if (state == JOB_FAILED && msg->damaged == 1)
        daemon_happened(reading->daemon, "template-damaged", name, "%s", error);
    reading_free(reading);
    job_finish(job, state, error, state == JOB_DONE ? name : NULL);
}

/* ---- the beginning ---- */

static struct reading *reading_new(struct template *tmpl, const char *kind)
{
    struct reading *reading = calloc(1, sizeof(*reading));

    if (!reading)
        return NULL;
    reading->daemon = tmpl->daemon;
    reading->kind = kind;
    memcpy(reading->name, tmpl->name, sizeof(reading->name));
    LIST_INSERT_HEAD(&tmpl->daemon->readings, reading, link);
    return reading;
}

static int start_child(struct reading *reading, const struct template_fds *files,
                       const struct task *task, struct problem *problem)
{
    struct import_child_spec spec = {
        .fds = {files->disk, task->output, files->hashes},
        .n_fds = 3,
        .progress = on_progress,
        .ended = on_ended,
        .opaque = reading,
    };

    memcpy(spec.options, task->options, sizeof(task->options));
    return import_child_new(&reading->child, reading->daemon, &spec, problem);
}

static int start(struct template *tmpl, const struct task *task, struct job **ret_job,
                 struct problem *problem)
{
    struct template_fds files;
    struct reading *reading;
    int r = job_room(tmpl->daemon, problem);

    if (r == 0)
        r = template_open_changed(tmpl, &files, problem);
    if (r < 0)
        return r;
    reading = reading_new(tmpl, task->kind);
    if (!reading) {
        template_close(&files);
        return problem_errno(problem, -ENOMEM, "template %s", tmpl->name);
    }
    if (fstat(files.disk, &reading->disk) < 0)
        r = problem_errno(problem, -errno, "template %s: cannot examine its disk", tmpl->name);
    if (r == 0)
        r = start_child(reading, &files, task, problem);
    template_close(&files);
    if (r == 0)
        r = job_new(&reading->job, tmpl->daemon, task->kind, tmpl->name, on_cancel, reading,
                    problem);
    if (r < 0) {
        reading_free(reading);
        return r;
    }
    import_child_go(reading->child);
    *ret_job = reading->job;
    return 0;
}

int template_verify(struct template *tmpl, struct job **ret_job, struct problem *problem)
{
    const struct task task = {KIND_VERIFY, {"--verify"}, -1};
    const struct reading *other;

    LIST_FOREACH(other, &tmpl->daemon->readings, link)
    if (strcmp(other->name, tmpl->name) == 0 && strcmp(other->kind, KIND_VERIFY) == 0)
        return problem_set(problem, PROBLEM_IN_USE, "template %s is being verified already",
                           tmpl->name);
    return start(tmpl, &task, ret_job, problem);
}

static int check_output(int fd, struct problem *problem)
{
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || flags & (O_PATH | O_APPEND))
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "the output is not open for reading and writing");
    if (fstat(fd, &st) < 0)
        return problem_errno(problem, -errno, "cannot examine the output");
    if (!S_ISREG(st.st_mode) || st.st_size != 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the output is not an empty file");
    return 0;
}

int template_export(struct template *tmpl, const struct export_request *request,
                    struct job **ret_job, struct problem *problem)
{
    const char *format = request->format ? request->format : "qcow2";
    const struct task task = {
        "export", {"--export", format, request->compress ? "--compress" : NULL}, request->output};
    bool raw = strcmp(format, "raw") == 0;
    int r = check_output(request->output, problem);

    if (r < 0)
        return r;
    if (!raw && strcmp(format, "qcow2") != 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "format \"%.32s\": must be raw or qcow2", format);
    if (raw && request->compress)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "a raw image is not compressed");
    return start(tmpl, &task, ret_job, problem);
}

void template_readings_abort_all(struct daemon *daemon)
{
    while (!LIST_EMPTY(&daemon->readings))
        reading_free(LIST_FIRST(&daemon->readings));
}
