/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest process's main thread against its vmmd, with an engine that cannot be created: what is
 * said when a guest cannot be built, what is refused, and that the process ends.
 */
#include "vmmd/proto.h"
#include "vmmd/vmm/worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define PATIENCE 30 /* seconds until a hang is called one */

struct fixture {
    pid_t pid;
    int sock;
};

static int refuse(const struct engine_config *config, struct engine **ret_engine)
{
    (void)config, (void)ret_engine;
    return -ENOTSUP;
}

const struct engine_ops *engine_soft(void)
{
    static const struct engine_ops ops = {.name = "fake", .create = refuse};

    return &ops;
}

static void run_worker(int listen_fd)
{
    struct worker *w = calloc(1, sizeof(*w));
    int status;

    alarm(PATIENCE);
    if (!freopen("/dev/null", "w", stderr))
        _exit(99);
    w->listen_fd = listen_fd;
    status = worker_run(w);
    free(w);
    _exit(status);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    socklen_t bytes = sizeof(address);

    alarm(PATIENCE);
    /* An abstract name of the kernel's choice. */
    assert_int_equal(bind(listen_fd, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
    assert_int_equal(listen(listen_fd, 1), 0);
    assert_int_equal(getsockname(listen_fd, (struct sockaddr *)&address, &bytes), 0);
    f->pid = fork();
    if (f->pid == 0)
        run_worker(listen_fd);
    f->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(f->sock, (struct sockaddr *)&address, bytes), 0);
    close(listen_fd);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->sock >= 0)
        close(f->sock);
    if (f->pid > 0)
        waitpid(f->pid, NULL, 0);
    free(f);
    alarm(0);
    return 0;
}

static int exit_status(struct fixture *f)
{
    int status;

    assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
    f->pid = 0;
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect_hello(struct fixture *f)
{
    struct proto_msg msg;

    assert_int_equal(proto_recv(f->sock, &msg), 0);
    assert_int_equal(msg.header.type, PROTO_HELLO);
    assert_int_equal(msg.hello.state, PROTO_GUEST_EMPTY);
}

static void send_setup(struct fixture *f, uint32_t vcpus, uint64_t memory_bytes)
{
    struct proto_msg msg;

    proto_init(&msg, PROTO_SETUP);
    snprintf(msg.setup.name, sizeof(msg.setup.name), "g");
    msg.setup.memory_bytes = memory_bytes;
    msg.setup.vcpus = vcpus;
    msg.setup.engine = PROTO_ENGINE_SOFT;
    msg.setup.n_disks = 1;
    for (int i = 0; i < 3; i++)
        msg.fds[i] = memfd_create("file", MFD_CLOEXEC);
    msg.n_fds = 3;
    assert_int_equal(proto_send(f->sock, &msg), 0);
    proto_close_fds(&msg);
}

/* One STATE, with the reason, and then the end: nothing that would take it back. */
static void expect_failed(struct fixture *f, const char *why)
{
    struct proto_msg msg;

    assert_int_equal(proto_recv(f->sock, &msg), 0);
    assert_int_equal(msg.header.type, PROTO_STATE);
    assert_int_equal(msg.state.state, PROTO_GUEST_FAILED);
    assert_non_null(strstr(msg.state.reason, why));
    assert_int_equal(proto_recv(f->sock, &msg), -ECONNRESET);
    assert_int_equal(exit_status(f), 1);
}

static void test_engine_fails(void **state)
{
    struct fixture *f = *state;

    expect_hello(f);
    send_setup(f, 1, 16u << 20);
    expect_failed(f, "cannot create the fake engine");
}

static void test_no_vcpus(void **state)
{
    struct fixture *f = *state;

    expect_hello(f);
    send_setup(f, 0, 16u << 20);
    expect_failed(f, "0 vCPUs");
}

static void test_odd_memory(void **state)
{
    struct fixture *f = *state;

    expect_hello(f);
    send_setup(f, 1, 1);
    expect_failed(f, "cannot reserve");
}

/* vmmd does not wait for the answer: the process must end all the same. */
static void test_failed_without_vmmd(void **state)
{
    struct fixture *f = *state;

    expect_hello(f);
    send_setup(f, 1, 16u << 20);
    close(f->sock);
    f->sock = -1;
    assert_int_equal(exit_status(f), 1);
}

static void test_quit_before_setup(void **state)
{
    struct fixture *f = *state;
    struct proto_msg msg;

    expect_hello(f);
    proto_init(&msg, PROTO_QUIT);
    assert_int_equal(proto_send(f->sock, &msg), 0);
    assert_int_equal(exit_status(f), 0);
}

/* Nothing but SETUP and QUIT makes sense now, nor a SETUP without its fds. */
static void test_nonsense_before_setup(void **state)
{
    struct fixture *f = *state;
    struct proto_msg msg;

    expect_hello(f);
    proto_init(&msg, PROTO_PAUSE);
    assert_int_equal(proto_send(f->sock, &msg), 0);
    assert_int_equal(proto_recv(f->sock, &msg), -ECONNRESET);
    assert_int_equal(exit_status(f), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_engine_fails),      TEST(test_no_vcpus),
        TEST(test_odd_memory),        TEST(test_failed_without_vmmd),
        TEST(test_quit_before_setup), TEST(test_nonsense_before_setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
