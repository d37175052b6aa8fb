/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * template-read: a vmmd-import process reads the disk of a template and compares it with its
 * hashes, to verify it or to write it into somebody's file; the job tells how far it is and how it
 * ended. The daemon itself reads none of the files. The template may be deleted meanwhile: the
 * process has its files open, and here only its name is kept.
 */
#include "vmmd/template-read.h"
#include "cowdisk/cowdisk.h"
#include "vmmd/child.h"
#include "vmmd/template.h"
#include "vmmd/text.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM           "vmmd-import"
#define MESSAGES_PER_TURN 16
#define OPTIONS_MAX       4
#define KIND_VERIFY       "verify"

struct reading {
    LIST_ENTRY(reading) link;
    struct daemon *daemon;
    struct job *job;
    char name[NAME_LENGTH_MAX + 1]; /* of the template */
    struct child *child;
    int status; /* socket from vmmd-import */
    struct event *status_event;
    bool done; /* all of it is good */
    bool cancelled;
    const char *kind;             /* of the job */
    bool damaged;                 /* the template is, says the process */
    char error[PROBLEM_TEXT_MAX]; /* "" or why it failed */
};

static void reading_free(struct reading *reading)
{
    LIST_REMOVE(reading, link);
    if (reading->status_event)
        event_free(reading->status_event);
    if (reading->status >= 0)
        close(reading->status);
    child_free(reading->child);
    free(reading);
}

static void on_cancel(void *opaque)
{
    struct reading *reading = opaque;

    reading->cancelled = true;
    reading->job->cancel = NULL;
    child_kill(reading->child); /* the rest happens when it is gone */
}

/* ---- what the process says ---- */

static void take_error(struct reading *reading, const struct cow_import_msg *msg)
{
    char text[sizeof(msg->error)];

    text_copy(text, sizeof(text), msg->error);
    snprintf(reading->error, sizeof(reading->error), "template %s: %.400s", reading->name, text);
    reading->damaged = msg->damaged == 1;
}

static void handle(struct reading *reading, const struct cow_import_msg *msg, ssize_t n)
{
    bool whole = n == sizeof(*msg) && memchr(msg->error, '\0', sizeof(msg->error));

    if (whole && msg->type == COW_IMPORT_PROGRESS) {
        if (msg->total > 0)
            job_set_progress(reading->job, (double)msg->done / (double)msg->total);
    } else if (whole && msg->type == COW_IMPORT_DONE) {
        reading->done = true;
    } else if (whole && msg->type == COW_IMPORT_FAILED) {
        take_error(reading, msg);
    } else {
        snprintf(reading->error, sizeof(reading->error), "template %s: " PROGRAM " sent nonsense",
                 reading->name);
        child_kill(reading->child);
    }
}

static void receive(struct reading *reading, unsigned limit)
{
    struct cow_import_msg msg;

    for (unsigned i = 0; i < limit && reading->status_event; i++) {
        ssize_t n = recv(reading->status, &msg, sizeof(msg), MSG_DONTWAIT | MSG_TRUNC);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) { /* it closed its end; its exit follows */
            event_free(reading->status_event);
            reading->status_event = NULL;
            return;
        }
        if (!reading->done && !reading->error[0])
            handle(reading, &msg, n);
    }
}

static void on_status(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    receive(opaque, MESSAGES_PER_TURN);
}

static void on_child_exited(void *opaque, const siginfo_t *info)
{
    struct reading *reading = opaque;
    struct job *job = reading->job;
    char name[NAME_LENGTH_MAX + 1], error[PROBLEM_TEXT_MAX], how[128];
    enum job_state state = JOB_FAILED;

    receive(reading, UINT_MAX);
    memcpy(name, reading->name, sizeof(name));
    memcpy(error, reading->error, sizeof(error));
    if (reading->cancelled) {
        state = JOB_CANCELLED;
        snprintf(error, sizeof(error), "cancelled");
    } else if (reading->done && !error[0] && info && info->si_code == CLD_EXITED &&
               info->si_status == 0) {
        state = JOB_DONE;
    } else if (!error[0]) {
        child_describe_end(info, how, sizeof(how));
        snprintf(error, sizeof(error), "template %s: " PROGRAM ": %s", name, how);
    } else if (reading->damaged) {
        daemon_happened(reading->daemon, "template-damaged", name, "%s", error);
    }
    reading_free(reading);
    job_finish(job, state, error, state == JOB_DONE ? name : NULL);
}

/* ---- the beginning ---- */

/* What is to be done. */
struct task {
    const char *kind;
    char *const *options; /* of vmmd-import; ends with NULL */
    int output;           /* the file it writes, or -1 */
};

static int start_child(struct reading *reading, const struct template_fds *files,
                       const struct task *task, int status, struct problem *problem)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), r;
    char path[PATH_MAX];
    char *argv[OPTIONS_MAX + 2] = {path};
    struct child_spec spec = {.argv = argv, .n_fds = 7};

    if (null_fd < 0)
        return problem_errno(problem, -errno, "cannot open /dev/null");
    for (int i = 0; i < OPTIONS_MAX && task->options[i]; i++)
        argv[i + 1] = task->options[i];
    for (int i = 0; i < spec.n_fds; i++)
        spec.fds[i] = null_fd;
    spec.fds[2] = STDERR_FILENO;
    spec.fds[3] = status;
    spec.fds[4] = files->disk;
    if (task->output >= 0)
        spec.fds[5] = task->output;
    spec.fds[6] = files->hashes;
    r = child_find_program(PROGRAM, path, sizeof(path), problem);
    if (r == 0)
        r = child_spawn(&reading->child, reading->daemon->base, &spec, on_child_exited, reading,
                        problem);
    close(null_fd);
    return r;
}

static int start_work(struct reading *reading, const struct template_fds *files,
                      const struct task *task, struct problem *problem)
{
    int socks[2], r;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0)
        return problem_errno(problem, -errno, "template %s: cannot make a socket", reading->name);
    reading->status = socks[0];
    reading->status_event =
        event_new(reading->daemon->base, socks[0], EV_READ | EV_PERSIST, on_status, reading);
    if (!reading->status_event || event_add(reading->status_event, NULL) < 0)
        r = problem_errno(problem, -ENOMEM, "template %s", reading->name);
    else
        r = start_child(reading, files, task, socks[1], problem);
    close(socks[1]);
    return r;
}

static struct reading *reading_new(struct template *tmpl, const char *kind)
{
    struct reading *reading = calloc(1, sizeof(*reading));

    if (!reading)
        return NULL;
    reading->daemon = tmpl->daemon;
    reading->kind = kind;
    reading->status = -1;
    memcpy(reading->name, tmpl->name, sizeof(reading->name));
    LIST_INSERT_HEAD(&tmpl->daemon->readings, reading, link);
    return reading;
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
    r = start_work(reading, &files, task, problem);
    template_close(&files);
    if (r == 0)
        r = job_new(&reading->job, tmpl->daemon, task->kind, tmpl->name, on_cancel, reading,
                    problem);
    if (r < 0) {
        if (reading->child) {
            child_abort(reading->child);
            reading->child = NULL;
        }
        reading_free(reading);
        return r;
    }
    child_release(reading->child);
    *ret_job = reading->job;
    return 0;
}

int template_verify(struct template *tmpl, struct job **ret_job, struct problem *problem)
{
    char *const options[] = {"--verify", NULL};
    const struct task task = {KIND_VERIFY, options, -1};
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
    char *const options[] = {"--export", (char *)format, request->compress ? "--compress" : NULL,
                             NULL};
    const struct task task = {"export", options, request->output};
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
    while (!LIST_EMPTY(&daemon->readings)) {
        struct reading *reading = LIST_FIRST(&daemon->readings);

        child_kill(reading->child);
        reading_free(reading);
    }
}
