/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * probe: a guest of four instructions in 64-bit ring 0 that counts to 20,000, timed. On VT-x or SVM
 * that takes some ten microseconds; where a kernel without them offers /dev/kvm, ring 0 is emulated
 * and it takes 17 ms and more. CPU flags are not asked: a nested host may hide them.
 *
 * It runs in a child process that is killed when its time is over: whatever a strange /dev/kvm
 * does, the daemon neither hangs nor crashes. Called before the daemon has threads or children.
 */
#include "vmmd/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEVICE       "/dev/kvm"
#define TURNS        20000u
#define LIMIT_NS     3000000u /* between 0.02 ms and 17 ms */
#define ATTEMPTS     3        /* the fastest counts: the host may be busy */
#define PATIENCE_MS  700
#define KILL_MS      200
#define RAM_BYTES    0x8000u
#define TABLES       0x1000u /* three pages */
#define GDT          0x4000u
#define CODE         0x5000u
#define CR0_ENTRY    0x80010033u
#define EFER_LME_LMA 0x500u

_Static_assert(PATIENCE_MS + KILL_MS < 1000, "vmmd starts, and refuses, within a second");

/* mov $TURNS, %ecx; 1: dec %ecx; jnz 1b; out %al, $0x99 */
static const uint8_t code[] = {0xb9, 0x20, 0x4e, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x99};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- in the child ---- */

struct guest {
    int kvm, vm, vcpu;
    uint8_t *ram;
    struct kvm_run *run;
};

static void fill_ram(uint8_t *ram)
{
    const uint64_t gdt[4] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
    uint64_t *tables = (uint64_t *)(ram + TABLES);

    tables[0] = (TABLES + 0x1000) | 3;
    tables[512] = (TABLES + 0x2000) | 3;
    tables[1024] = 0x83; /* the first 2 MiB */
    memcpy(ram + GDT, gdt, sizeof(gdt));
    memcpy(ram + CODE, code, sizeof(code));
}

static int enter(const struct guest *g)
{
    struct kvm_segment flat = {.limit = 0xffffffff, .present = 1, .s = 1, .g = 1};
    struct kvm_regs regs = {.rip = CODE, .rsp = RAM_BYTES, .rflags = 2};
    struct kvm_sregs s;

    if (ioctl(g->vcpu, KVM_GET_SREGS, &s) < 0)
        return -1;
    s.cs = s.ds = s.es = s.fs = s.gs = s.ss = flat;
    s.cs.selector = 0x10, s.cs.type = 11, s.cs.l = 1;
    s.ds.selector = s.es.selector = s.fs.selector = s.gs.selector = s.ss.selector = 0x18;
    s.ds.type = s.es.type = s.fs.type = s.gs.type = s.ss.type = 3;
    s.tr = (struct kvm_segment){.limit = 0x67, .type = 11, .present = 1};
    s.gdt.base = GDT;
    s.gdt.limit = 31;
    s.cr0 = CR0_ENTRY;
    s.cr3 = TABLES;
    s.cr4 = 0x20;
    s.efer = EFER_LME_LMA;
    if (ioctl(g->vcpu, KVM_SET_SREGS, &s) < 0)
        return -1;
    return ioctl(g->vcpu, KVM_SET_REGS, &regs);
}

static const char *create(struct guest *g, const char *root)
{
    struct kvm_userspace_memory_region region = {.memory_size = RAM_BYTES};
    char path[PATH_MAX];
    int bytes;

    snprintf(path, sizeof(path), "%s" DEVICE, root);
    g->kvm = open(path, O_RDWR | O_CLOEXEC);
    if (g->kvm < 0)
        return "open";
    if (ioctl(g->kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return "version";
    g->vm = ioctl(g->kvm, KVM_CREATE_VM, 0);
    if (g->vm < 0)
        return "KVM_CREATE_VM";
    ioctl(g->vm, KVM_SET_TSS_ADDR, 0xfffbd000); /* where a host needs it */
    g->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->ram == MAP_FAILED)
        return "memory";
    fill_ram(g->ram);
    region.userspace_addr = (uint64_t)(uintptr_t)g->ram;
    if (ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return "memory region";
    g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, 0);
    bytes = ioctl(g->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (g->vcpu < 0 || bytes <= 0)
        return "KVM_CREATE_VCPU";
    g->run = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    return g->run == MAP_FAILED ? "vCPU memory" : NULL;
}

static const char *run(struct guest *g, uint64_t *ret_ns)
{
    uint64_t best = UINT64_MAX;

    for (int i = 0; i < ATTEMPTS; i++) {
        uint64_t began;
        if (enter(g) < 0)
            return "registers";
        began = now_ns();
        if (ioctl(g->vcpu, KVM_RUN, 0) < 0)
            return "KVM_RUN";
        errno = 0;
        if (g->run->exit_reason != KVM_EXIT_IO || g->run->io.port != 0x99)
            return "guest code";
        if (now_ns() - began < best)
            best = now_ns() - began;
    }
    *ret_ns = best;
    return NULL;
}

static void examine(const char *root, struct probe_answer *ret)
{
    struct guest g = {0};
    const char *step = create(&g, root);

    if (!step)
        step = run(&g, &ret->took_ns);
    if (step) {
        ret->error = errno ? errno : ENODEV;
        snprintf(ret->step, sizeof(ret->step), "%s", step);
    }
}

/* ---- in the daemon ---- */

/* -ETIMEDOUT; -EIO: it ended without a word. */
static int wait_for_answer(int fd, struct probe_answer *ret)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t end = now_ns() + PATIENCE_MS * 1000000ull;
    int r;

    do {
        uint64_t now = now_ns();
        r = poll(&p, 1, now < end ? (int)((end - now) / 1000000) : 0);
    } while (r < 0 && errno == EINTR);
    if (r <= 0)
        return r < 0 ? -errno : -ETIMEDOUT;
    return read(fd, ret, sizeof(*ret)) == sizeof(*ret) ? 0 : -EIO;
}

/* A process that sticks in the kernel is left behind. */
static void end_child(pid_t pid)
{
    struct pollfd p = {.fd = pidfd_open(pid, 0), .events = POLLIN};
    int r;

    kill(pid, SIGKILL);
    do
        r = poll(&p, p.fd >= 0, KILL_MS);
    while (r < 0 && errno == EINTR);
    while (waitpid(pid, NULL, r == 1 ? 0 : WNOHANG) < 0 && errno == EINTR)
        ;
    if (p.fd >= 0)
        close(p.fd);
}

static int ask_child(void (*how)(const char *root, struct probe_answer *ret), const char *root,
                     struct probe_answer *ret)
{
    int pipes[2], r;
    pid_t pid;

    if (pipe2(pipes, O_CLOEXEC) < 0)
        return -errno;
    pid = fork();
    if (pid == 0) {
        struct probe_answer a = {0};
        how(root, &a);
        _exit(write(pipes[1], &a, sizeof(a)) != sizeof(a));
    }
    close(pipes[1]);
    r = pid < 0 ? -EAGAIN : wait_for_answer(pipes[0], ret);
    if (pid > 0)
        end_child(pid);
    close(pipes[0]);
    return r;
}

static enum probe_result judge(const struct probe_answer *a, char *text, size_t size)
{
    double ms = (double)a->took_ns / 1e6;

    if (strcmp(a->step, "open") == 0) {
        snprintf(text, size, "%s: %s", DEVICE, strerror(a->error));
        return PROBE_NONE;
    }
    if (a->step[0]) {
        snprintf(text, size, "%s does not run a guest: %s: %s", DEVICE, a->step,
                 strerror(a->error));
        return PROBE_BROKEN;
    }
    if (a->took_ns > LIMIT_NS) {
        snprintf(text, size,
                 "%s emulates kernel code, it has no VT-x or SVM underneath: %u loop turns took "
                 "%.1f ms, %.0f at most would be hardware",
                 DEVICE, TURNS, ms, LIMIT_NS / 1e6);
        return PROBE_EMULATED;
    }
    snprintf(text, size, "%s runs kernel code natively: %u loop turns took %.3f ms", DEVICE, TURNS,
             ms);
    return PROBE_HARDWARE;
}

enum probe_result probe_with(void (*how)(const char *root, struct probe_answer *ret),
                             const char *root, char *text, size_t size)
{
    struct probe_answer a = {0};
    int r = ask_child(how, root, &a);

    if (r == 0)
        return judge(&a, text, size);
    if (r == -ETIMEDOUT)
        snprintf(text, size, "%s did not run a small guest within %d ms", DEVICE, PATIENCE_MS);
    else
        snprintf(text, size, "%s: the probe failed: %s", DEVICE, strerror(-r));
    return PROBE_BROKEN;
}

enum probe_result probe_kvm(const char *root, char *text, size_t size)
{
    return probe_with(examine, root, text, size);
}
