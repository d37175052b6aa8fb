/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * verify: a vmmd-import process reads the disk of a template and compares it with its hashes; the
 * job tells how far it is and how it ended. The daemon itself reads neither file. The template may
 * be deleted meanwhile: the process has its files open, and here only its name is kept.
 */
#include "vmmd/verify.h"
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
#include <unistd.h>

#define PROGRAM           "vmmd-import"
#define MESSAGES_PER_TURN 16

struct verify {
    LIST_ENTRY(verify) link;
    struct daemon *daemon;
    struct job *job;
    char name[NAME_LENGTH_MAX + 1]; /* of the template */
    struct child *child;
    int status; /* socket from vmmd-import */
    struct event *status_event;
    bool done; /* all of it is good */
    bool cancelled;
    bool told;                    /* the process said why it failed */
    char error[PROBLEM_TEXT_MAX]; /* "" or why it failed */
};

static void verify_free(struct verify *verify)
{
    LIST_REMOVE(verify, link);
    if (verify->status_event)
        event_free(verify->status_event);
    if (verify->status >= 0)
        close(verify->status);
    child_free(verify->child);
    free(verify);
}

static void on_cancel(void *opaque)
{
    struct verify *verify = opaque;

    verify->cancelled = true;
    verify->job->cancel = NULL;
    child_kill(verify->child); /* the rest happens when it is gone */
}

/* ---- what the process says ---- */

static void take_error(struct verify *verify, const struct cow_import_msg *msg)
{
    char text[sizeof(msg->error)];

    text_copy(text, sizeof(text), msg->error);
    snprintf(verify->error, sizeof(verify->error), "template %s: %.400s", verify->name, text);
    verify->told = true;
}

static void handle(struct verify *verify, const struct cow_import_msg *msg, ssize_t n)
{
    bool whole = n == sizeof(*msg) && memchr(msg->error, '\0', sizeof(msg->error));

    if (whole && msg->type == COW_IMPORT_PROGRESS) {
        if (msg->total > 0)
            job_set_progress(verify->job, (double)msg->done / (double)msg->total);
    } else if (whole && msg->type == COW_IMPORT_DONE) {
        verify->done = true;
    } else if (whole && msg->type == COW_IMPORT_FAILED) {
        take_error(verify, msg);
    } else {
        snprintf(verify->error, sizeof(verify->error), "template %s: " PROGRAM " sent nonsense",
                 verify->name);
        child_kill(verify->child);
    }
}

static void receive(struct verify *verify, unsigned limit)
{
    struct cow_import_msg msg;

    for (unsigned i = 0; i < limit && verify->status_event; i++) {
        ssize_t n = recv(verify->status, &msg, sizeof(msg), MSG_DONTWAIT | MSG_TRUNC);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) { /* it closed its end; its exit follows */
            event_free(verify->status_event);
            verify->status_event = NULL;
            return;
        }
        if (!verify->done && !verify->error[0])
            handle(verify, &msg, n);
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
    struct verify *verify = opaque;
    struct job *job = verify->job;
    char name[NAME_LENGTH_MAX + 1], error[PROBLEM_TEXT_MAX], how[128];
    enum job_state state = JOB_FAILED;

    receive(verify, UINT_MAX);
    memcpy(name, verify->name, sizeof(name));
    memcpy(error, verify->error, sizeof(error));
    if (verify->cancelled) {
        state = JOB_CANCELLED;
        snprintf(error, sizeof(error), "cancelled");
    } else if (verify->done && !error[0] && info && info->si_code == CLD_EXITED &&
               info->si_status == 0) {
        state = JOB_DONE;
    } else if (!error[0]) {
        child_describe_end(info, how, sizeof(how));
        snprintf(error, sizeof(error), "template %s: " PROGRAM ": %s", name, how);
    } else if (verify->told) {
        daemon_happened(verify->daemon, "template-damaged", name, "%s", error);
    }
    verify_free(verify);
    job_finish(job, state, error, state == JOB_DONE ? name : NULL);
}

/* ---- the beginning ---- */

static int start_child(struct verify *verify, const struct template_fds *files, int status,
                       struct problem *problem)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), r;
    char path[PATH_MAX];
    char *argv[] = {path, "--verify", NULL};
    struct child_spec spec = {.argv = argv, .n_fds = 7};

    if (null_fd < 0)
        return problem_errno(problem, -errno, "cannot open /dev/null");
    for (int i = 0; i < spec.n_fds; i++)
        spec.fds[i] = null_fd;
    spec.fds[2] = STDERR_FILENO;
    spec.fds[3] = status;
    spec.fds[4] = files->disk;
    spec.fds[6] = files->hashes;
    r = child_find_program(PROGRAM, path, sizeof(path), problem);
    if (r == 0)
        r = child_spawn(&verify->child, verify->daemon->base, &spec, on_child_exited, verify,
                        problem);
    close(null_fd);
    return r;
}

static int start(struct verify *verify, const struct template_fds *files, struct problem *problem)
{
    int socks[2], r;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0)
        return problem_errno(problem, -errno, "template %s: cannot make a socket", verify->name);
    verify->status = socks[0];
    verify->status_event =
        event_new(verify->daemon->base, socks[0], EV_READ | EV_PERSIST, on_status, verify);
    if (!verify->status_event || event_add(verify->status_event, NULL) < 0)
        r = problem_errno(problem, -ENOMEM, "template %s", verify->name);
    else
        r = start_child(verify, files, socks[1], problem);
    close(socks[1]);
    return r;
}

static int check(const struct template *tmpl, struct problem *problem)
{
    const struct verify *other;

    LIST_FOREACH(other, &tmpl->daemon->verifies, link)
    if (strcmp(other->name, tmpl->name) == 0)
        return problem_set(problem, PROBLEM_IN_USE, "template %s is being verified already",
                           tmpl->name);
    return job_room(tmpl->daemon, problem);
}

int verify_start(struct template *tmpl, struct job **ret_job, struct problem *problem)
{
    struct template_fds files;
    struct verify *verify;
    int r = check(tmpl, problem);

    if (r == 0)
        r = template_open_changed(tmpl, &files, problem);
    if (r < 0)
        return r;
    verify = calloc(1, sizeof(*verify));
    if (!verify) {
        template_close(&files);
        return problem_errno(problem, -ENOMEM, "template %s", tmpl->name);
    }
    verify->daemon = tmpl->daemon;
    verify->status = -1;
    memcpy(verify->name, tmpl->name, sizeof(verify->name));
    LIST_INSERT_HEAD(&tmpl->daemon->verifies, verify, link);
    r = start(verify, &files, problem);
    template_close(&files);
    if (r == 0)
        r = job_new(&verify->job, tmpl->daemon, "verify", tmpl->name, on_cancel, verify, problem);
    if (r < 0) {
        if (verify->child) {
            child_abort(verify->child);
            verify->child = NULL;
        }
        verify_free(verify);
        return r;
    }
    child_release(verify->child);
    *ret_job = verify->job;
    return 0;
}

void verify_abort_all(struct daemon *daemon)
{
    while (!LIST_EMPTY(&daemon->verifies)) {
        struct verify *verify = LIST_FIRST(&daemon->verifies);

        child_kill(verify->child);
        verify_free(verify);
    }
}
