/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * proto: framing and checks of the messages between vmmd and a guest process.
 *
 * Both ends treat the other as hostile: exact length per type, NUL-terminated text, no more fds
 * than the type may carry. It must never leave a received fd open on an error path.
 */
#include "vmmd/proto.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct shape {
    uint32_t type, length;
    int max_fds;
};

static const struct shape shapes[] = {
    {PROTO_SETUP, sizeof(struct proto_setup), 6 + PROTO_DISKS_MAX},
    {PROTO_SHARE, sizeof(struct proto_share), 2},
    {PROTO_PAUSE, 0, 0},
    {PROTO_RESUME, 0, 0},
    {PROTO_POWER_BUTTON, 0, 0},
    {PROTO_QUIT, 0, 0},
    {PROTO_CONSOLE, 0, 1},
    {PROTO_QUERY_MEMORY, sizeof(struct proto_query), 0},
    {PROTO_BALLOON, sizeof(struct proto_balloon), 0},
    {PROTO_BUDGET, sizeof(struct proto_budget), 0},
    {PROTO_HELLO, sizeof(struct proto_hello), 0},
    {PROTO_STATE, sizeof(struct proto_state), 0},
    {PROTO_LOGIN, 0, 0},
    {PROTO_MEMORY, sizeof(struct proto_memory), 0},
    {PROTO_DEVICE, sizeof(struct proto_text), 0},
    {PROTO_DAMAGED, sizeof(struct proto_damaged), 0},
};

static const struct shape *shape_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if (shapes[i].type == type)
            return &shapes[i];
    return NULL;
}

static void *body_of(struct proto_msg *msg)
{
    return &msg->setup; /* all members of the union begin here */
}

void proto_init(struct proto_msg *msg, enum proto_type type)
{
    const struct shape *shape = shape_of(type);

    memset(msg, 0, sizeof(*msg));
    msg->header = (struct proto_header){
        .magic = PROTO_MAGIC,
        .version = PROTO_VERSION,
        .type = type,
        .length = shape ? shape->length : 0,
    };
    for (int i = 0; i < PROTO_MAX_FDS; i++)
        msg->fds[i] = -1;
}

int proto_send(int sock, const struct proto_msg *msg)
{
    struct iovec iov[2] = {
        {(void *)&msg->header, sizeof(msg->header)},
        {(void *)&msg->setup, msg->header.length},
    };
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * PROTO_MAX_FDS)] = {0};
    struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2};

    if (msg->n_fds < 0 || msg->n_fds > PROTO_MAX_FDS)
        return -EINVAL;
    if (msg->n_fds > 0) {
        mh.msg_control = control;
        mh.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)msg->n_fds);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&mh);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)msg->n_fds);
        memcpy(CMSG_DATA(cmsg), msg->fds, sizeof(int) * (size_t)msg->n_fds);
    }
    for (;;) {
        if (sendmsg(sock, &mh, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

static void take_control(struct proto_msg *msg, struct msghdr *mh)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (msg->n_fds < PROTO_MAX_FDS)
                msg->fds[msg->n_fds++] = fd;
            else
                close(fd);
        }
    }
}

static bool terminated(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

static bool setup_ok(const struct proto_setup *setup)
{
    for (int i = 0; i < PROTO_DISKS_MAX; i++)
        if (!terminated(setup->disks[i].serial, sizeof(setup->disks[i].serial)))
            return false;
    return setup->n_disks >= 1 && setup->n_disks <= PROTO_DISKS_MAX &&
           terminated(setup->name, sizeof(setup->name)) &&
           terminated(setup->cmdline, sizeof(setup->cmdline));
}

static bool body_ok(const struct proto_msg *m)
{
    switch (m->header.type) {
    case PROTO_SETUP: return setup_ok(&m->setup);
    case PROTO_HELLO: return terminated(m->hello.name, sizeof(m->hello.name));
    case PROTO_STATE: return terminated(m->state.reason, sizeof(m->state.reason));
    case PROTO_DEVICE: return terminated(m->text.text, sizeof(m->text.text));
    default: return true;
    }
}

static int check(const struct proto_msg *msg, size_t got, int flags)
{
    const struct proto_header *h = &msg->header;
    const struct shape *shape;

    if ((flags & (MSG_TRUNC | MSG_CTRUNC)) || got < sizeof(*h))
        return -EPROTO;
    if (h->magic != PROTO_MAGIC || h->version != PROTO_VERSION)
        return -EPROTO;
    shape = shape_of(h->type);
    if (!shape || h->length != shape->length || got != sizeof(*h) + shape->length)
        return -EPROTO;
    if (msg->n_fds > shape->max_fds || !body_ok(msg))
        return -EPROTO;
    return 0;
}

int proto_recv(int sock, struct proto_msg *ret_msg)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * PROTO_MAX_FDS)];
    struct proto_msg msg;
    ssize_t got;
    int r, was_reset = 0;

    proto_init(&msg, 0);
    struct iovec iov[2] = {
        {&msg.header, sizeof(msg.header)},
        {body_of(&msg), offsetof(struct proto_msg, fds) - offsetof(struct proto_msg, setup)},
    };
    struct msghdr mh = {
        .msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};

    /* A peer that exits with messages unread gives ECONNRESET once, ahead of its own last messages:
     * those are still to be read. */
    do
        got = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
    while (got < 0 && (errno == EINTR || (errno == ECONNRESET && !was_reset++)));
    if (got < 0)
        return -errno;
    take_control(&msg, &mh);
    if (got == 0) {
        proto_close_fds(&msg);
        return -ECONNRESET;
    }
    r = check(&msg, (size_t)got, mh.msg_flags);
    if (r < 0) {
        proto_close_fds(&msg);
        return r;
    }
    *ret_msg = msg;
    return 0;
}

void proto_close_fds(struct proto_msg *msg)
{
    for (int i = 0; i < PROTO_MAX_FDS; i++) {
        if (msg->fds[i] >= 0)
            close(msg->fds[i]);
        msg->fds[i] = -1;
    }
    msg->n_fds = 0;
}

int proto_take_fd(struct proto_msg *msg, int i)
{
    if (i < 0 || i >= PROTO_MAX_FDS)
        return -1;
    int fd = msg->fds[i];
    msg->fds[i] = -1;
    return fd;
}
