/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-run: runs one guest process without vmmd: for benchmarks and for tests of the guest process
 * alone.
 *
 *   guest-run [-m MIB] [-b SCAN_BUDGET] [-q] [-k] KERNEL INITRD|- RAW_DISK|- [CMDLINE]
 *
 * Makes an overlay and hashes over the raw disk in a temporary directory, starts vmmd-guest from
 * its own directory, prints the console, and ends at the login prompt (-q) or when the guest ends.
 * -k: on the KVM engine, in vmmd-guest-kvm.
 * Prints on stderr: wall seconds and user and system CPU seconds of the guest process until then.
 * Exit status 0 if the login prompt was seen or the guest powered off.
 */
#include "cowdisk/cowdisk.h"
#include "vmmd/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct run {
    char dir[64];
    uint64_t memory;
    unsigned budget;
    bool quit_at_login, kvm;
    pid_t pid;
    int sock, console;
};

static void die(const char *what)
{
    fprintf(stderr, "guest-run: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int temp_file(const struct run *r, const char *name)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", r->dir, name);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        die(path);
    unlink(path);
    return fd;
}

static void start(struct run *r)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char program[512];
    ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 20);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (n < 0 || listener < 0)
        die("start");
    program[n] = '\0';
    strcpy(strrchr(program, '/'), r->kvm ? "/vmmd-guest-kvm" : "/vmmd-guest");
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/sock", r->dir);
    if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listener, 4) < 0)
        die("bind");
    r->pid = fork();
    if (r->pid == 0) {
        if (dup2(listener, PROTO_LISTEN_FD) < 0 || fcntl(PROTO_LISTEN_FD, F_SETFD, 0) < 0)
            _exit(126);
        execl(program, "vmmd-guest", (char *)NULL);
        _exit(127);
    }
    close(listener);
    r->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(r->sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        die("connect");
    unlink(addr.sun_path);
}

static int open_or_die(const char *path, int how)
{
    int fd = open(path, how | O_CLOEXEC);

    if (fd < 0)
        die(path);
    return fd;
}

static void setup(struct run *r, char **argv, const char *cmdline)
{
    struct cow_create_options create;
    struct cow_error error = {{0}};
    struct proto_msg msg;
    int disk = -1, overlay = temp_file(r, "overlay"), hashes = temp_file(r, "hashes");
    uint64_t size = 1 << 20;
    struct stat st;

    proto_init(&msg, PROTO_SETUP);
    if (strcmp(argv[2], "-") != 0) {
        disk = open_or_die(argv[2], O_RDONLY);
        if (fstat(disk, &st) < 0)
            die(argv[2]);
        size = (uint64_t)st.st_size;
        if (cow_hashes_write(disk, hashes, NULL, NULL) < 0)
            die("hashes");
    }
    create = (struct cow_create_options){
        .size = size, .backing_name = disk < 0 ? NULL : argv[2], .backing_format = COW_FORMAT_RAW};
    if (cow_create(overlay, &create, &error) < 0) {
        fprintf(stderr, "guest-run: %s\n", error.text);
        exit(1);
    }
    snprintf(msg.setup.name, sizeof(msg.setup.name), "guest-run");
    msg.setup.memory_bytes = r->memory;
    msg.setup.vcpus = 1;
    msg.setup.engine = r->kvm ? PROTO_ENGINE_KVM : PROTO_ENGINE_SOFT;
    msg.setup.scan_budget = r->budget;
    snprintf(msg.setup.cmdline, sizeof(msg.setup.cmdline), "%s", cmdline);
    msg.fds[msg.n_fds++] = open_or_die(argv[0], O_RDONLY);
    msg.fds[msg.n_fds++] = temp_file(r, "log");
    if (strcmp(argv[1], "-") != 0) {
        msg.setup.flags |= PROTO_SETUP_INITRD;
        msg.fds[msg.n_fds++] = open_or_die(argv[1], O_RDONLY);
    }
    if (disk >= 0) {
        msg.setup.flags |= PROTO_SETUP_TEMPLATE;
        msg.fds[msg.n_fds++] = disk;
        msg.fds[msg.n_fds++] = hashes;
    }
    if (r->kvm) {
        msg.setup.flags |= PROTO_SETUP_KVM;
        msg.fds[msg.n_fds++] = open_or_die("/dev/kvm", O_RDWR);
    }
    msg.setup.disks[msg.setup.n_disks++].format = PROTO_DISK_QCOW2;
    msg.fds[msg.n_fds++] = overlay;
    if (proto_send(r->sock, &msg) < 0)
        die("send");
    proto_close_fds(&msg);
}

static void attach_console(struct run *r)
{
    struct proto_msg msg;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        die("socketpair");
    proto_init(&msg, PROTO_CONSOLE);
    msg.fds[0] = pair[1];
    msg.n_fds = 1;
    if (proto_send(r->sock, &msg) < 0)
        die("send");
    close(pair[1]);
    r->console = pair[0];
}

/* Until the guest ended or shows its prompt. true: all went well. */
static bool follow(struct run *r)
{
    struct pollfd fds[2] = {{.fd = r->sock, .events = POLLIN},
                            {.fd = r->console, .events = POLLIN}};
    struct proto_msg msg;
    char text[4096];

    for (;;) {
        poll(fds, 2, -1);
        if (fds[1].revents) {
            ssize_t n = read(r->console, text, sizeof(text));
            if (n <= 0)
                fds[1].fd = -1;
            else if (write(STDOUT_FILENO, text, (size_t)n) < 0)
                return false;
        }
        if (!fds[0].revents)
            continue;
        if (proto_recv(r->sock, &msg) < 0)
            return false;
        if (msg.header.type == PROTO_LOGIN && r->quit_at_login)
            return true;
        if (msg.header.type == PROTO_DEVICE)
            fprintf(stderr, "guest-run: device failed: %s\n", msg.text.text);
        if (msg.header.type != PROTO_STATE || msg.state.state == PROTO_GUEST_RUNNING)
            continue;
        fprintf(stderr, "guest-run: state %u: %s\n", msg.state.state, msg.state.reason);
        return msg.state.state == PROTO_GUEST_STOPPED;
    }
}

static void finish(struct run *r, double started)
{
    double wall = now() - started;
    struct proto_msg msg;
    struct rusage u;
    int status;

    proto_init(&msg, PROTO_QUIT);
    proto_send(r->sock, &msg);
    wait4(r->pid, &status, 0, &u);
    fprintf(stderr, "wall %.2f user %.2f sys %.2f maxrss %ld KiB\n", wall,
            (double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6,
            (double)u.ru_stime.tv_sec + (double)u.ru_stime.tv_usec / 1e6, u.ru_maxrss);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fprintf(stderr, "guest-run: guest process status %#x\n", status);
}

int main(int argc, char **argv)
{
    struct run r = {.dir = "/tmp/guest-run-XXXXXX", .memory = 256ull << 20, .budget = 10};
    struct proto_msg msg;
    double started;
    bool good;
    int option;

    while ((option = getopt(argc, argv, "m:b:qk")) != -1) {
        if (option == 'm')
            r.memory = strtoull(optarg, NULL, 10) << 20;
        else if (option == 'b')
            r.budget = (unsigned)strtoul(optarg, NULL, 10);
        else if (option == 'q')
            r.quit_at_login = true;
        else if (option == 'k')
            r.kvm = true;
        else
            return 2;
    }
    if (argc - optind < 3) {
        fprintf(stderr, "usage: guest-run [-m MIB] [-b BUDGET] [-q] [-k] KERNEL INITRD|- "
                        "RAW_DISK|- [CMDLINE]\n");
        return 2;
    }
    if (!mkdtemp(r.dir))
        die(r.dir);
    started = now();
    start(&r);
    if (proto_recv(r.sock, &msg) < 0 || msg.header.type != PROTO_HELLO)
        die("hello");
    setup(&r, argv + optind,
          argc - optind > 3 ? argv[optind + 3] : "root=/dev/vda rw console=ttyS0");
    if (proto_recv(r.sock, &msg) < 0 || msg.header.type != PROTO_STATE ||
        msg.state.state != PROTO_GUEST_RUNNING) {
        fprintf(stderr, "guest-run: %s\n", msg.state.reason);
        return 1;
    }
    attach_console(&r);
    rmdir(r.dir);
    good = follow(&r);
    finish(&r, started);
    return good ? 0 : 1;
}
