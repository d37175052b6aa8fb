/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a program that reads images may do: read and write the fds it has, use memory, report. It
 * can open nothing, start nothing, talk to nobody. If any part of it cannot be had, there is no
 * work.
 */
#include "cowdisk/sandbox/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define NOBODY 65534

int sandbox_set_limit(int resource, uint64_t soft, uint64_t hard)
{
    struct rlimit limit = {.rlim_cur = soft, .rlim_max = hard};
    struct rlimit now;

    if (getrlimit(resource, &now) < 0)
        return -errno;
    if (limit.rlim_max > now.rlim_max)
        limit.rlim_max = now.rlim_max;
    if (limit.rlim_cur > limit.rlim_max)
        limit.rlim_cur = limit.rlim_max;
    return setrlimit(resource, &limit) < 0 ? -errno : 0;
}

int sandbox_set_memory(uint64_t soft, uint64_t hard)
{
#if defined(__SANITIZE_ADDRESS__)
    (void)soft;
    (void)hard;
    return 0; /* its shadow takes terabytes of address space */
#else
    return sandbox_set_limit(RLIMIT_AS, soft, hard);
#endif
}

static int limit_resources(const struct sandbox_limits *limits)
{
    int r = sandbox_set_limit(RLIMIT_CORE, 0, 0);

    if (r == 0 && limits->cpu_seconds)
        r = sandbox_set_limit(RLIMIT_CPU, limits->cpu_seconds, limits->cpu_seconds + 60);
    if (r == 0 && limits->file_bytes)
        r = sandbox_set_limit(RLIMIT_FSIZE, limits->file_bytes, limits->file_bytes);
    if (r == 0)
        r = sandbox_set_limit(RLIMIT_NOFILE, limits->max_files, limits->max_files);
    if (r == 0)
        r = sandbox_set_memory(limits->memory, limits->max_memory);
    return r;
}

static int drop_privileges(void)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -errno;
    capng_clear(CAPNG_SELECT_BOTH);
    /* An account of its own if we are root; where there is none (a user namespace with one uid) at
     * least no capability. */
    if (geteuid() == 0 &&
        capng_change_id(NOBODY, NOBODY, CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING) == 0)
        return 0;
    capng_clear(CAPNG_SELECT_BOTH);
    return capng_apply(CAPNG_SELECT_CAPS) == 0 ? 0 : -EPERM;
}

/* ---- system calls ---------------------------------------------------------------------------- */

static const int allowed[] = {
    SCMP_SYS(read),            /* nothing we call, but libraries fall back to it */
    SCMP_SYS(pread64),         /* image, disk, hashes */
    SCMP_SYS(preadv),          /* image, through cowdisk */
    SCMP_SYS(write),           /* a last word on stderr: assertion, malloc */
    SCMP_SYS(pwrite64),        /* disk, hashes, kernel, initrd */
    SCMP_SYS(pwritev),         /* the same, through cowdisk */
    SCMP_SYS(lseek),           /* lengths, SEEK_DATA and SEEK_HOLE */
    SCMP_SYS(fstat),           /* kind and length of an fd */
    SCMP_SYS(ftruncate),       /* length of the disk */
    SCMP_SYS(fallocate),       /* space for the hash file */
    SCMP_SYS(fdatasync),       /* what is reported done is durable */
    SCMP_SYS(fsync),           /* the same */
    SCMP_SYS(msync),           /* the hash file, written through a mapping */
    SCMP_SYS(sendto),          /* status messages */
    SCMP_SYS(close),           /* duplicates of the fds */
    SCMP_SYS(munmap),          /* memory */
    SCMP_SYS(mremap),          /* memory */
    SCMP_SYS(brk),             /* memory */
    SCMP_SYS(madvise),         /* memory given back by malloc */
    SCMP_SYS(futex),           /* locks inside libc */
    SCMP_SYS(getrandom),       /* malloc's keys */
    SCMP_SYS(sysinfo),         /* qsort_r asks how much memory it may take */
    SCMP_SYS(clock_gettime),   /* CPU time used, where the vDSO has no answer */
    SCMP_SYS(rt_sigreturn),    /* return from a signal handler */
    SCMP_SYS(rt_sigprocmask),  /* abort() */
    SCMP_SYS(rt_sigaction),    /* abort() */
    SCMP_SYS(restart_syscall), /* a call continued after a stop */
    SCMP_SYS(getpid),          /* abort() */
    SCMP_SYS(gettid),          /* abort() */
    SCMP_SYS(exit),            /* the end */
    SCMP_SYS(exit_group),      /* the end */
#if defined(__SANITIZE_ADDRESS__)
    SCMP_SYS(sigaltstack), /* its own end */
#endif
};

static int allow_plain(scmp_filter_ctx ctx)
{
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
        if (r < 0)
            return r;
    }
    return 0;
}

static int allow_with_conditions(scmp_filter_ctx ctx)
{
    /* Duplicates, access mode and QEMU's image locks. */
    static const unsigned fcntl_commands[] = {F_DUPFD_CLOEXEC, F_GETFL, F_OFD_SETLK, F_OFD_GETLK};
    /* Memory that is never executable. */
    int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));

    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* fstat() of current C libraries: an fd, no path. */
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                             SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, AT_EMPTY_PATH));
    /* Our own limits: between parsing and hashing. */
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A0(SCMP_CMP_EQ, 0));
    /* abort() */
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
    for (size_t i = 0; i < 4 && r == 0; i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                             SCMP_A1(SCMP_CMP_EQ, fcntl_commands[i]));
    return r;
}

/* Libraries probe for things (open of a configuration file, ioctl on a device): those calls fail
 * with EPERM and the library goes on without. What nothing here has a reason to try kills. */
static int kill_the_rest(scmp_filter_ctx ctx)
{
    static const int deadly[] = {
        SCMP_SYS(execve),          SCMP_SYS(execveat),    SCMP_SYS(fork),
        SCMP_SYS(vfork),           SCMP_SYS(clone),       SCMP_SYS(clone3),
        SCMP_SYS(ptrace),          SCMP_SYS(socket),      SCMP_SYS(bpf),
        SCMP_SYS(connect),         SCMP_SYS(userfaultfd), SCMP_SYS(io_uring_setup),
        SCMP_SYS(setuid),          SCMP_SYS(unshare),     SCMP_SYS(init_module),
        SCMP_SYS(finit_module),    SCMP_SYS(mount),       SCMP_SYS(keyctl),
        SCMP_SYS(perf_event_open),
    };

    for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
        int r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
        if (r < 0)
            return r;
    }
    return 0;
}

static int filter_system_calls(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r;

    if (!ctx)
        return -ENOMEM;
    r = allow_plain(ctx);
    if (r == 0)
        r = allow_with_conditions(ctx);
    if (r == 0)
        r = kill_the_rest(ctx);
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    return r;
}

int sandbox_enter(const struct sandbox_limits *limits, struct cow_error *err)
{
    const char *what = "close other files";
    int r = 0;

    if (limits->first_closed_fd && close_range(limits->first_closed_fd, ~0u, 0) < 0 &&
        errno != ENOSYS)
        r = -errno;
    if (r == 0) {
        what = "set resource limits";
        r = limit_resources(limits);
    }
    if (r == 0) {
        what = "drop privileges";
        r = drop_privileges();
    }
    if (r == 0) {
        what = "filter system calls";
        r = filter_system_calls();
    }
    if (r < 0)
        snprintf(err->text, sizeof(err->text), "sandbox: cannot %s: %s", what, strerror(-r));
    return r;
}
