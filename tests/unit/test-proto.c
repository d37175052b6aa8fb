/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The messages between vmmd and a guest process: what is well-formed arrives whole, everything else
 * is refused, and no fd leaks on the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmmd/proto.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct pair {
    int a, b; /* what a sends b receives */
    unsigned open_fds;
};

static unsigned count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int setup(void **state)
{
    struct pair *pair = calloc(1, sizeof(*pair));
    int socks[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, socks), 0);
    pair->a = socks[0];
    pair->b = socks[1];
    pair->open_fds = count_fds();
    *state = pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;

    close(pair->a);
    close(pair->b);
    free(pair);
    return 0;
}

/* Sends header and body as they are, with fds. */
static void send_raw(struct pair *pair, const struct proto_header *header, const void *body,
                     size_t size, int n_fds)
{
    struct iovec iov[2] = {{(void *)header, sizeof(*header)}, {(void *)body, size}};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * 32)] = {0};
    struct msghdr mh = {.msg_iov = iov, .msg_iovlen = 2};
    int fds[32];

    for (int i = 0; i < n_fds; i++)
        fds[i] = pair->a;
    if (n_fds > 0) {
        mh.msg_control = control;
        mh.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&mh);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * (size_t)n_fds);
    }
    assert_true(sendmsg(pair->a, &mh, MSG_NOSIGNAL) >= 0);
}

static void expect_refused(struct pair *pair)
{
    struct proto_msg msg;

    memset(&msg, 0x5a, sizeof(msg));
    assert_int_equal(proto_recv(pair->b, &msg), -EPROTO);
    assert_int_equal(msg.header.magic, 0x5a5a5a5a); /* untouched */
    assert_int_equal(count_fds(), pair->open_fds);
}

static void test_round_trip(void **state)
{
    struct pair *pair = *state;
    struct proto_msg out, in;

    proto_init(&out, PROTO_SETUP);
    strcpy(out.setup.name, "web");
    out.setup.memory_bytes = 1u << 30;
    out.setup.n_disks = PROTO_DISKS_MAX;
    strcpy(out.setup.disks[7].serial, "twenty-characters-xx");
    for (int i = 0; i < 14; i++)
        out.fds[i] = pair->a;
    out.n_fds = 14;
    assert_int_equal(proto_send(pair->a, &out), 0);
    assert_int_equal(proto_recv(pair->b, &in), 0);
    assert_int_equal(in.n_fds, 14);
    assert_string_equal(in.setup.disks[7].serial, "twenty-characters-xx");
    assert_string_equal(in.setup.name, "web");
    assert_int_equal(in.setup.memory_bytes, 1u << 30);
    assert_true(fcntl(in.fds[0], F_GETFD) & FD_CLOEXEC);
    int taken = proto_take_fd(&in, 3);
    assert_true(taken >= 0);
    assert_int_equal(proto_take_fd(&in, 3), -1);
    assert_int_equal(proto_take_fd(&in, PROTO_MAX_FDS), -1);
    assert_int_equal(proto_take_fd(&in, -1), -1);
    proto_close_fds(&in);
    close(taken);
    assert_int_equal(count_fds(), pair->open_fds);
    assert_int_equal(proto_recv(pair->b, &in), -EAGAIN);
}

static void test_bad_headers(void **state)
{
    struct pair *pair = *state;
    static const struct proto_header cases[] = {
        {PROTO_MAGIC + 1, PROTO_VERSION, PROTO_PAUSE, 0},
        {PROTO_MAGIC, PROTO_VERSION + 1, PROTO_PAUSE, 0},
        {PROTO_MAGIC, PROTO_VERSION, 0, 0},
        {PROTO_MAGIC, PROTO_VERSION, 0xffffffff, 0},
        {PROTO_MAGIC, PROTO_VERSION, PROTO_PAUSE, 1},
        {PROTO_MAGIC, PROTO_VERSION, PROTO_STATE, 0},
        {PROTO_MAGIC, PROTO_VERSION, PROTO_STATE, 0xffffffff},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        send_raw(pair, &cases[i], "", 0, 0);
        expect_refused(pair);
        send_raw(pair, &cases[i], "", 0, 3);
        expect_refused(pair);
    }
}

static void test_lengths(void **state)
{
    struct pair *pair = *state;
    struct proto_msg msg;
    static char big[70000];

    proto_init(&msg, PROTO_QUERY_MEMORY);
    send_raw(pair, &msg.header, big, sizeof(struct proto_query) - 1, 0);
    expect_refused(pair);
    send_raw(pair, &msg.header, big, sizeof(struct proto_query) + 1, 0);
    expect_refused(pair);
    send_raw(pair, &msg.header, big, sizeof(big), 0); /* longer than any message */
    expect_refused(pair);
    assert_int_equal(send(pair->a, big, 1, 0), 1);
    expect_refused(pair);
}

static void test_fds_where_none_belong(void **state)
{
    struct pair *pair = *state;
    struct proto_msg msg;

    proto_init(&msg, PROTO_PAUSE);
    send_raw(pair, &msg.header, "", 0, 1);
    expect_refused(pair);
    proto_init(&msg, PROTO_CONSOLE);
    send_raw(pair, &msg.header, "", 0, 2);
    expect_refused(pair);
    send_raw(pair, &msg.header, "", 0, PROTO_MAX_FDS + 8); /* more than fit: truncated */
    expect_refused(pair);
}

static void test_unterminated_texts(void **state)
{
    struct pair *pair = *state;
    struct proto_msg msg;

    proto_init(&msg, PROTO_STATE);
    memset(msg.state.reason, 'x', sizeof(msg.state.reason));
    assert_int_equal(proto_send(pair->a, &msg), 0);
    expect_refused(pair);
    proto_init(&msg, PROTO_HELLO);
    memset(msg.hello.name, 'x', sizeof(msg.hello.name));
    assert_int_equal(proto_send(pair->a, &msg), 0);
    expect_refused(pair);
    proto_init(&msg, PROTO_DEVICE);
    memset(msg.text.text, 'x', sizeof(msg.text.text));
    assert_int_equal(proto_send(pair->a, &msg), 0);
    expect_refused(pair);
    proto_init(&msg, PROTO_SETUP);
    msg.setup.n_disks = 1;
    memset(msg.setup.cmdline, 'x', sizeof(msg.setup.cmdline));
    assert_int_equal(proto_send(pair->a, &msg), 0);
    expect_refused(pair);
    proto_init(&msg, PROTO_SETUP);
    msg.setup.n_disks = 1;
    memset(msg.setup.disks[7].serial, 'x', sizeof(msg.setup.disks[7].serial));
    assert_int_equal(proto_send(pair->a, &msg), 0);
    expect_refused(pair);
}

static void test_bad_numbers_of_disks(void **state)
{
    static const uint32_t numbers[] = {0, PROTO_DISKS_MAX + 1, UINT32_MAX};
    struct pair *pair = *state;
    struct proto_msg msg;

    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        proto_init(&msg, PROTO_SETUP);
        msg.setup.n_disks = numbers[i];
        assert_int_equal(proto_send(pair->a, &msg), 0);
        expect_refused(pair);
    }
}

static void test_random_bytes(void **state)
{
    struct pair *pair = *state;
    uint8_t bytes[4096];
    struct proto_msg msg;

    srand(1);
    for (int i = 0; i < 20000; i++) {
        size_t size = 1 + (size_t)rand() % sizeof(bytes);

        for (size_t j = 0; j < size; j++)
            bytes[j] = (uint8_t)rand();
        if (i % 2) { /* a good beginning gets further */
            proto_init(&msg, (enum proto_type)(rand() % 70));
            memcpy(bytes, &msg.header, sizeof(msg.header));
            size = sizeof(msg.header) + msg.header.length;
            if (size > sizeof(bytes))
                continue;
        }
        assert_int_equal(send(pair->a, bytes, size, 0), (ssize_t)size);
        if (proto_recv(pair->b, &msg) == 0)
            proto_close_fds(&msg);
    }
    assert_int_equal(count_fds(), pair->open_fds);
}

static void test_end(void **state)
{
    struct pair *pair = *state;
    struct proto_msg msg;

    shutdown(pair->a, SHUT_RDWR);
    assert_int_equal(proto_recv(pair->b, &msg), -ECONNRESET);
    proto_init(&msg, PROTO_PAUSE);
    assert_int_equal(proto_send(pair->b, &msg), -EPIPE);
    msg.n_fds = PROTO_MAX_FDS + 1;
    assert_int_equal(proto_send(pair->a, &msg), -EINVAL);
}

/* The kernel reports the reset of a peer that left something unread before that peer's last words:
 * they must not be lost. */
static void test_last_words(void **state)
{
    struct pair *pair = *state;
    struct proto_msg msg;

    proto_init(&msg, PROTO_PAUSE);
    assert_int_equal(proto_send(pair->b, &msg), 0); /* never read */
    proto_init(&msg, PROTO_STATE);
    strcpy(msg.state.reason, "the end");
    assert_int_equal(proto_send(pair->a, &msg), 0);
    close(pair->a);
    pair->a = open("/dev/null", O_RDONLY);
    assert_int_equal(proto_recv(pair->b, &msg), 0);
    assert_string_equal(msg.state.reason, "the end");
    assert_int_equal(proto_recv(pair->b, &msg), -ECONNRESET);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_round_trip),
        CASE(test_bad_headers),
        CASE(test_lengths),
        CASE(test_fds_where_none_belong),
        CASE(test_unterminated_texts),
        CASE(test_bad_numbers_of_disks),
        CASE(test_random_bytes),
        CASE(test_end),
        CASE(test_last_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
