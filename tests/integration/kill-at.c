/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Preloaded into a program: kills it -9 at its KILL_AT-th system call that changes a file, counted
 * from 1, before the call; with KILL_HALF=1 a write has written half of its bytes by then. So a
 * test can stop a program at every instant there is, one after the other, instead of at a random
 * time.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long calls_left;
static int half;

__attribute__((constructor)) static void start(void)
{
    const char *at = getenv("KILL_AT"), *mode = getenv("KILL_HALF");

    calls_left = at ? atol(at) : 0;
    half = mode && *mode == '1';
}

static int is_time(void)
{
    return calls_left > 0 && --calls_left == 0;
}

static void die(void)
{
    syscall(SYS_tgkill, getpid(), gettid(), SIGKILL);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset);
ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t offset);
int ftruncate64(int fd, off_t length);
int fallocate64(int fd, int mode, off_t offset, off_t length);

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    if (is_time()) {
        if (half)
            syscall(SYS_pwrite64, fd, data, length / 2, offset);
        die();
    }
    return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t offset)
{
    if (is_time()) {
        if (half)
            syscall(SYS_pwrite64, fd, iov[0].iov_base, iov[0].iov_len / 2, offset);
        die();
    }
    return syscall(SYS_pwritev, fd, iov, n, offset, 0L);
}

int ftruncate64(int fd, off_t length)
{
    if (is_time())
        die();
    return (int)syscall(SYS_ftruncate, fd, length);
}

int fallocate64(int fd, int mode, off_t offset, off_t length)
{
    if (is_time())
        die();
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int fdatasync(int fd)
{
    if (is_time())
        die();
    return (int)syscall(SYS_fdatasync, fd);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    if (is_time())
        die();
    return (int)syscall(SYS_linkat, from, old, to, new, flags);
}
