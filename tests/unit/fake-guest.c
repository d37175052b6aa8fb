/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fake-guest: a guest process that runs no guest, to test the daemon with: well-behaved, dying and
 * lying ones. Installed as vmmd-guest in a directory that $VMMD_LIBEXEC names.
 *
 * What it does is told by the guest's name up to the first '-', which it learns from the path of
 * its log (fd 1): see is(). A test may include this file and define FAKE_GUEST_MAIN, the name that
 * main() then has, to be its own fake.
 */
#include "vmmd/proto.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_ADDRESS 0x7f0000000000u

struct fake {
    char name[PROTO_NAME_MAX];
    char behaviour[PROTO_NAME_MAX];
    uint32_t state; /* enum proto_guest_state */
    uint64_t nominal;
    int sock;    /* connection to vmmd, -1: none */
    int console; /* a console user, -1: none */
    int share;   /* socket to the pool, -1: none */
    struct proto_msg setup;
};

/* Behaviours: any other name is a good guest. */
static bool is(const struct fake *fake, const char *behaviour)
{
    return strcmp(fake->behaviour, behaviour) == 0;
}

static void read_name(struct fake *fake)
{
    char path[4096], *end, *slash;
    ssize_t n = readlink("/proc/self/fd/1", path, sizeof(path) - 1);

    if (n < 0)
        exit(90);
    path[n] = '\0';
    end = strrchr(path, '/');
    if (!end)
        return;
    *end = '\0';
    slash = strrchr(path, '/');
    snprintf(fake->name, sizeof(fake->name), "%.60s", slash ? slash + 1 : path);
    snprintf(fake->behaviour, sizeof(fake->behaviour), "%s", fake->name);
    fake->behaviour[strcspn(fake->behaviour, "-")] = '\0';
}

static void send_state(struct fake *fake, uint32_t state, const char *reason)
{
    struct proto_msg msg;

    fake->state = state;
    proto_init(&msg, PROTO_STATE);
    msg.state.state = state;
    msg.state.ram_address = RAM_ADDRESS;
    snprintf(msg.state.reason, sizeof(msg.state.reason), "%s", reason);
    proto_send(fake->sock, &msg);
}

static void send_memory(struct fake *fake, uint64_t cookie)
{
    struct proto_msg msg;

    proto_init(&msg, PROTO_MEMORY);
    msg.memory.cookie = cookie;
    msg.memory.nominal = fake->nominal;
    msg.memory.zero = fake->nominal / 4;
    msg.memory.private_ = fake->nominal - msg.memory.zero;
    msg.memory.resident = msg.memory.private_;
    msg.memory.cpu_ns = 1500000000;
    msg.memory.settled = 1;
    msg.memory.merges = 20;
    msg.memory.splits = 10;
    msg.memory.repacked = 5;
    msg.memory.freezes = 15;
    msg.memory.longest_freeze_ns = 250000;
    proto_send(fake->sock, &msg);
}

static void send_raw(struct fake *fake, const void *data, size_t size)
{
    if (send(fake->sock, data, size, MSG_NOSIGNAL) < 0)
        exit(91);
}

static void greet(struct fake *fake)
{
    struct proto_msg msg;

    if (is(fake, "silent"))
        return;
    proto_init(&msg, PROTO_HELLO);
    msg.hello.version = PROTO_VERSION;
    msg.hello.state = fake->state;
    msg.hello.pid = is(fake, "wrongpid") ? 1 : getpid();
    msg.hello.ram_address = fake->state == PROTO_GUEST_EMPTY ? 0 : RAM_ADDRESS;
    if (fake->state != PROTO_GUEST_EMPTY) {
        msg.hello.login = 1;
        snprintf(msg.hello.name, sizeof(msg.hello.name), "%s",
                 is(fake, "wrongname") ? "another" : fake->name);
    }
    if (is(fake, "early"))
        msg.hello.state = PROTO_GUEST_RUNNING;
    if (is(fake, "badmagic"))
        msg.header.magic++;
    if (is(fake, "badversion"))
        msg.hello.version++;
    if (is(fake, "unterminated"))
        memset(msg.hello.name, 'x', sizeof(msg.hello.name));
    if (is(fake, "fds")) {
        msg.fds[0] = 0;
        msg.n_fds = 1;
    }
    proto_send(fake->sock, &msg);
    if (is(fake, "twice"))
        proto_send(fake->sock, &msg);
}

static void send_damaged(struct fake *fake, uint64_t offset, unsigned count)
{
    struct proto_msg msg;

    proto_init(&msg, PROTO_DAMAGED);
    msg.damaged.offset = offset;
    for (unsigned i = 0; i < count; i++)
        proto_send(fake->sock, &msg);
}

/* What a bad one does instead of, or right after, saying that it runs. */
static void misbehave(struct fake *fake)
{
    struct proto_msg msg;

    if (is(fake, "short"))
        send_raw(fake, "x", 1);
    if (is(fake, "huge")) {
        static char zeroes[65536];
        send_raw(fake, zeroes, sizeof(zeroes));
    }
    if (is(fake, "direction")) {
        proto_init(&msg, PROTO_PAUSE);
        proto_send(fake->sock, &msg);
    }
    if (is(fake, "badstate"))
        send_state(fake, 77, "");
    if (is(fake, "exit"))
        exit(3);
    if (is(fake, "killed"))
        raise(SIGKILL);
    if (is(fake, "device")) {
        proto_init(&msg, PROTO_DEVICE);
        snprintf(msg.text.text, sizeof(msg.text.text), "virtio-blk:\nbad\x1b[2J queue \xff");
        for (int i = 0; i < 100; i++)
            proto_send(fake->sock, &msg);
    }
    if (is(fake, "damaged"))
        send_damaged(fake, 0, 2);
    if (is(fake, "faroff"))
        send_damaged(fake, 1ull << 50, 1);
    if (is(fake, "unaligned"))
        send_damaged(fake, 512, 1);
    if (is(fake, "ruins"))
        send_damaged(fake, 0, PROTO_DAMAGED_MAX + 1);
    while (is(fake, "flood"))
        send_memory(fake, 0);
}

static void set_up(struct fake *fake, struct proto_msg *msg)
{
    struct stat st;

    fake->nominal = msg->setup.memory_bytes;
    fstat(msg->fds[1], &st); /* the console log: empty at the first start */
    dprintf(msg->fds[1], "fake console of %s: %s\r\n", msg->setup.name, msg->setup.cmdline);
    if (is(fake, "failed")) {
        send_state(fake, PROTO_GUEST_FAILED, "the kernel is not one");
        exit(1);
    }
    if (is(fake, "never"))
        return;
    send_state(fake, PROTO_GUEST_RUNNING, "");
    proto_init(msg, PROTO_LOGIN);
    proto_send(fake->sock, msg);
    send_memory(fake, 0);
    if (is(fake, "reboot") && st.st_size == 0) {
        send_state(fake, PROTO_GUEST_REBOOT, "");
        exit(0);
    }
    misbehave(fake);
}

static void open_console(struct fake *fake, struct proto_msg *msg)
{
    if (fake->console >= 0)
        close(fake->console);
    fake->console = proto_take_fd(msg, 0);
    dprintf(fake->console, "%s login: ", fake->name);
}

static void open_share(struct fake *fake, struct proto_msg *msg)
{
    if (!msg->share.has_pool)
        return;
    fake->share = proto_take_fd(msg, 0);
    if (is(fake, "poollie"))
        send(fake->share, "garbage", 7, MSG_NOSIGNAL);
}

/* The only way to say something that the daemon keeps. */
static void tell_budget(struct fake *fake, uint32_t percent)
{
    struct proto_msg msg;

    proto_init(&msg, PROTO_DEVICE);
    snprintf(msg.text.text, sizeof(msg.text.text), "budget %u", percent);
    proto_send(fake->sock, &msg);
}

static void handle(struct fake *fake, struct proto_msg *msg)
{
    bool deaf = is(fake, "deaf");

    switch (msg->header.type) {
    case PROTO_SETUP: set_up(fake, msg); break;
    case PROTO_SHARE: open_share(fake, msg); break;
    case PROTO_PAUSE:
        if (!deaf)
            send_state(fake, PROTO_GUEST_PAUSED, "");
        break;
    case PROTO_RESUME:
        if (!deaf)
            send_state(fake, PROTO_GUEST_RUNNING, "");
        break;
    case PROTO_POWER_BUTTON:
        if (deaf)
            break;
        send_state(fake, PROTO_GUEST_STOPPED, "powered off");
        exit(0);
    case PROTO_QUIT:
        if (deaf)
            break;
        send_state(fake, PROTO_GUEST_STOPPED, "");
        exit(0);
    case PROTO_CONSOLE: open_console(fake, msg); break;
    case PROTO_QUERY_MEMORY:
        if (!deaf)
            send_memory(fake, msg->query.cookie);
        break;
    case PROTO_BUDGET:
        if (is(fake, "budget"))
            tell_budget(fake, msg->budget.percent);
        break;
    default: break;
    }
}

/* A connection to vmmd, until it ends. */
static void serve(struct fake *fake)
{
    struct proto_msg msg;
    int r;

    greet(fake);
    while ((r = proto_recv(fake->sock, &msg)) == 0) {
        handle(fake, &msg);
        proto_close_fds(&msg);
    }
    close(fake->sock);
    fake->sock = -1;
}

#ifndef FAKE_GUEST_MAIN
#define FAKE_GUEST_MAIN main
#endif
int FAKE_GUEST_MAIN(void);
int FAKE_GUEST_MAIN(void)
{
    struct fake fake = {.sock = -1, .console = -1, .share = -1};

    read_name(&fake);
    for (;;) {
        fake.sock = accept(PROTO_LISTEN_FD, NULL, NULL);
        if (fake.sock < 0)
            return 92;
        serve(&fake);
        if (fake.state == PROTO_GUEST_EMPTY)
            return 0; /* nobody will set it up any more */
    }
}
