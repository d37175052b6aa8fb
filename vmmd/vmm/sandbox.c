/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox: vCPU threads run a stranger's code; assume that it gets out of the engine. What it finds
 * then: no file can be opened, no program started, no socket made, no new executable memory; only
 * the fds that vmmd passed.
 */
#include "vmmd/vmm/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <seccomp.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

int sandbox_drop_privileges(uint32_t uid, uint32_t gid)
{
    const struct rlimit none = {0, 0};

    capng_clear(CAPNG_SELECT_BOTH);
    if (geteuid() == 0) /* the bounding set, while we may */
        capng_apply(CAPNG_SELECT_BOUNDS);
    if (uid != 0 &&
        (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0))
        return -errno;
    if (capng_apply(CAPNG_SELECT_CAPS) < 0 && geteuid() == 0)
        return -EPERM;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        return -errno;
    /* /proc/PID/smaps stays readable for the owner; cores are off. */
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    return 0;
}

struct rule {
    int syscall;
    const char *reason;
};

static const struct rule rules[] = {
    {SCMP_SYS(read), "event fds, timers"},
    {SCMP_SYS(write), "console log, event fds"},
    {SCMP_SYS(pread64), "disk, pagemap"},
    {SCMP_SYS(pwrite64), "disk"},
    {SCMP_SYS(preadv), "disk"},
    {SCMP_SYS(preadv2), "disk: what is in the page cache"},
    {SCMP_SYS(io_uring_enter), "disk: a ring limited to reads, writes and flushes"},
    {SCMP_SYS(pwritev), "disk"},
    {SCMP_SYS(lseek), "disk: end of file, holes"},
    {SCMP_SYS(fdatasync), "disk: flush"},
    {SCMP_SYS(fsync), "disk: flush"},
    {SCMP_SYS(fallocate), "disk: discard; console log: bounded size"},
    {SCMP_SYS(ftruncate), "disk: growth of the overlay"},
    {SCMP_SYS(fstat), "disk size"},
    {SCMP_SYS(newfstatat), "fstat in glibc"},
    {SCMP_SYS(fcntl), "image locks, close on exec"},
    {SCMP_SYS(close), "consoles and sockets that ended"},
    {SCMP_SYS(accept4), "a restarted vmmd connects"},
    {SCMP_SYS(getsockopt), "who connected"},
    {SCMP_SYS(recvmsg), "vmmd, pool, consoles"},
    {SCMP_SYS(recvfrom), "vmmd, pool, consoles"},
    {SCMP_SYS(sendmsg), "vmmd, pool, consoles"},
    {SCMP_SYS(sendto), "vmmd, pool, consoles"},
    {SCMP_SYS(poll), "main loop"},
    {SCMP_SYS(ppoll), "main loop"},
    {SCMP_SYS(munmap), "memory"},
    {SCMP_SYS(mremap), "page merging: a checked page replaces another"},
    {SCMP_SYS(madvise), "memory given back"},
    {SCMP_SYS(brk), "malloc"},
    {SCMP_SYS(futex), "locks"},
    {SCMP_SYS(clock_gettime), "time, where the vDSO cannot"},
    {SCMP_SYS(clock_nanosleep), "scan budget"},
    {SCMP_SYS(gettimeofday), "time, where the vDSO cannot"},
    {SCMP_SYS(time), "CMOS clock, where the vDSO cannot"},
    {SCMP_SYS(timer_create), "guest timers: a signal to the vCPU thread"},
    {SCMP_SYS(timer_settime), "guest timers"},
    {SCMP_SYS(timer_delete), "guest timers"},
    {SCMP_SYS(timerfd_settime), "console: a line without an end"},
    {SCMP_SYS(getrandom), "virtio-rng"},
    {SCMP_SYS(rt_sigreturn), "signal handlers"},
    {SCMP_SYS(rt_sigaction), "guest timers; abort"},
    {SCMP_SYS(rt_sigprocmask), "threads, abort"},
    {SCMP_SYS(restart_syscall), "interrupted waits"},
    {SCMP_SYS(sched_yield), "locks"},
    {SCMP_SYS(gettid), "guest timers; abort"},
    {SCMP_SYS(getpid), "abort"},
    {SCMP_SYS(tgkill), "abort, pthread_kill to own threads"},
    {SCMP_SYS(set_robust_list), "thread start"},
    {SCMP_SYS(rseq), "thread start"},
    {SCMP_SYS(sigaltstack), "thread end"},
    {SCMP_SYS(exit), "thread end"},
    {SCMP_SYS(exit_group), "end"},
};

static int add_rules(scmp_filter_ctx filter, const unsigned long *ioctls)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(rules) / sizeof(rules[0]); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, rules[i].syscall, 0);
    /* Memory may be mapped, never as code: the engine's buffer exists already. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* PAGEMAP_SCAN, _IOWR('f', 16, 96 bytes): which pages changed. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, 0xc0606610u));
    /* UFFDIO_REGISTER, _IOWR(0xaa, 0, 32 bytes): new memory is tracked like the old. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, 0xc020aa00u));
    /* What the engine asks of the kernel: of descriptors that it was given. */
    for (; r == 0 && ioctls && *ioctls; ioctls++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, *ioctls));
    /* A thread name; nothing else of prctl. */
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                             SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME));
    return r;
}

int sandbox_filter(const unsigned long *ioctls)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r;

    if (!filter)
        return -ENOMEM;
    r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (r == 0)
        r = add_rules(filter, ioctls);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r;
}
