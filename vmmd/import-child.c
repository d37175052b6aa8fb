/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * import-child: starting vmmd-import and listening to it. What it said last is believed only if it
 * then ended well.
 */
#include "vmmd/import-child.h"
#include "vmmd/child.h"
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
#define FIRST_FD          4
#define MESSAGES_PER_TURN 16

struct import_child {
    struct import_child_spec spec;
    struct child *child;
    int status; /* socket from the process */
    struct event *status_event;
    bool released, done, cancelled;
    struct cow_import_msg last;   /* DONE, or FAILED */
    char error[PROBLEM_TEXT_MAX]; /* "" or why it failed */
};

/* ---- what the process says ---- */

static bool is_text(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

static bool is_whole(const struct cow_import_msg *msg, ssize_t n)
{
    return n == sizeof(*msg) && is_text(msg->error, sizeof(msg->error)) &&
           is_text(msg->os_name, sizeof(msg->os_name)) &&
           is_text(msg->kernel_name, sizeof(msg->kernel_name)) &&
           is_text(msg->cmdline, sizeof(msg->cmdline));
}

static void handle(struct import_child *child, const struct cow_import_msg *msg, ssize_t n)
{
    const struct import_child_spec *spec = &child->spec;

    if (is_whole(msg, n) && msg->type == COW_IMPORT_PROGRESS) {
        if (spec->progress && msg->total > 0)
            spec->progress(spec->opaque, (double)msg->done / (double)msg->total);
    } else if (is_whole(msg, n) && msg->type == COW_IMPORT_DONE) {
        child->done = true;
        child->last = *msg;
    } else if (is_whole(msg, n) && msg->type == COW_IMPORT_FAILED) {
        child->last = *msg;
        text_copy(child->error, sizeof(child->error), msg->error);
    } else {
        snprintf(child->error, sizeof(child->error), PROGRAM " sent nonsense");
        child_kill(child->child);
    }
}

static void receive(struct import_child *child, unsigned limit)
{
    struct cow_import_msg msg;

    for (unsigned i = 0; i < limit && child->status_event; i++) {
        ssize_t n = recv(child->status, &msg, sizeof(msg), MSG_DONTWAIT | MSG_TRUNC);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) { /* it closed its end; its exit follows */
            event_free(child->status_event);
            child->status_event = NULL;
            return;
        }
        if (!child->done && !child->error[0])
            handle(child, &msg, n);
    }
}

static void on_status(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    receive(opaque, MESSAGES_PER_TURN);
}

static void on_exited(void *opaque, const siginfo_t *info)
{
    struct import_child *child = opaque;
    const struct import_child_spec *spec = &child->spec;
    bool well = info && info->si_code == CLD_EXITED && info->si_status == 0;
    char how[128];

    receive(child, UINT_MAX);
    child_free(child->child);
    child->child = NULL;
    if (child->cancelled) {
        spec->ended(spec->opaque, -ECANCELED, NULL, "cancelled");
    } else if (child->done && well && !child->error[0]) {
        spec->ended(spec->opaque, 0, &child->last, "");
    } else {
        if (!child->error[0]) {
            child_describe_end(info, how, sizeof(how));
            snprintf(child->error, sizeof(child->error), PROGRAM ": %s", how);
        }
        spec->ended(spec->opaque, -EIO, &child->last, child->error);
    }
}

/* ---- the beginning and the end ---- */

static int spawn(struct import_child *child, struct event_base *base, int status,
                 struct problem *problem)
{
    const struct import_child_spec *spec = &child->spec;
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), r;
    char path[PATH_MAX];
    char *argv[IMPORT_CHILD_OPTIONS_MAX + 2] = {path};
    struct child_spec process = {.argv = argv, .n_fds = FIRST_FD + spec->n_fds};

    if (null_fd < 0)
        return problem_errno(problem, -errno, "cannot open /dev/null");
    for (int i = 0; i < IMPORT_CHILD_OPTIONS_MAX && spec->options[i]; i++)
        argv[i + 1] = (char *)spec->options[i];
    process.fds[0] = process.fds[1] = null_fd;
    process.fds[2] = STDERR_FILENO;
    process.fds[3] = status;
    for (int i = 0; i < spec->n_fds; i++)
        process.fds[FIRST_FD + i] = spec->fds[i] >= 0 ? spec->fds[i] : null_fd;
    r = child_find_program(PROGRAM, path, sizeof(path), problem);
    if (r == 0)
        r = child_spawn(&child->child, base, &process, on_exited, child, problem);
    close(null_fd);
    return r;
}

int import_child_new(struct import_child **ret_child, struct daemon *daemon,
                     const struct import_child_spec *spec, struct problem *problem)
{
    struct import_child *child = calloc(1, sizeof(*child));
    int socks[2], r;

    if (!child)
        return problem_errno(problem, -ENOMEM, "cannot start " PROGRAM);
    child->spec = *spec;
    child->status = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0) {
        r = problem_errno(problem, -errno, "cannot make a socket");
        free(child);
        return r;
    }
    child->status = socks[0];
    child->status_event = event_new(daemon->base, socks[0], EV_READ | EV_PERSIST, on_status, child);
    if (!child->status_event || event_add(child->status_event, NULL) < 0)
        r = problem_errno(problem, -ENOMEM, "cannot start " PROGRAM);
    else
        r = spawn(child, daemon->base, socks[1], problem);
    close(socks[1]);
    if (r < 0)
        import_child_free(child);
    else
        *ret_child = child;
    return r;
}

void import_child_go(struct import_child *child)
{
    child->released = true;
    child_release(child->child);
}

void import_child_cancel(struct import_child *child)
{
    child->cancelled = true;
    child_kill(child->child);
}

void import_child_free(struct import_child *child)
{
    if (!child)
        return;
    if (child->child && child->released) {
        child_kill(child->child);
        child_free(child->child);
    } else if (child->child) {
        child_abort(child->child);
    }
    if (child->status_event)
        event_free(child->status_event);
    if (child->status >= 0)
        close(child->status);
    free(child);
}
