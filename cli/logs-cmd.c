/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl logs: what a guest wrote to its console, from the log file that vmmd passes.
 *
 * The file begins with a hole where old output was given up; SEEK_DATA skips it. With -f the kernel
 * tells when there is more (inotify on the descriptor, whose path we need not know).
 */
#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 65536

static int write_all(const char *data, size_t n)
{
    while (n) {
        ssize_t written = write(STDOUT_FILENO, data, n);

        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            cli_tell("cannot write: %m");
            return -1;
        }
        data += written;
        n -= (size_t)written;
    }
    return 0;
}

/* Prints data from *at to the end, over holes. */
static int print_from(int fd, off_t *at)
{
    char chunk[CHUNK];

    for (;;) {
        off_t data = lseek(fd, *at, SEEK_DATA), hole;
        ssize_t n;

        if (data < 0)
            return 0; /* ENXIO: nothing but a hole up to the end */
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole < 0)
            return 0;
        *at = data;
        n = pread(fd, chunk, hole - data < CHUNK ? (size_t)(hole - data) : CHUNK, data);
        if (n < 0) {
            cli_tell("cannot read the log: %m");
            return -1;
        }
        if (n == 0)
            return 0;
        if (write_all(chunk, (size_t)n) < 0)
            return -1;
        *at += n;
    }
}

/* Was the log deleted, with its guest? */
static bool is_deleted(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_nlink == 0;
}

static int watch_file(int fd)
{
    char path[32];
    int watch = inotify_init1(IN_CLOEXEC);

    if (watch < 0)
        return -1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (inotify_add_watch(watch, path, IN_MODIFY | IN_ATTRIB) < 0) {
        close(watch);
        return -1;
    }
    return watch;
}

static int follow(int fd, off_t *at)
{
    int watch = watch_file(fd);
    int r = watch < 0 ? -1 : 0;

    if (r < 0)
        cli_tell("cannot follow the log: %m");
    /* Once more after watching began: what came in between is not told. */
    while (r == 0) {
        char events[4096];

        r = print_from(fd, at);
        if (r < 0 || is_deleted(fd))
            break;
        if (read(watch, events, sizeof(events)) < 0 && errno != EINTR)
            r = -1;
    }
    if (watch >= 0)
        close(watch);
    return r;
}

int cli_logs(struct cli *cli, const struct cli_args *args)
{
    char *path = cli_guest_path(cli, args->name[0]);
    off_t at = 0;
    int fd = -1, r = -1;

    if (path)
        r = cli_call_for(cli, path, CLI_GUEST, "OpenLog", NULL, DBUS_TYPE_UNIX_FD, &fd);
    free(path);
    if (r < 0)
        return CLI_FAILED;
    r = args->value[OPT_FOLLOW] ? follow(fd, &at) : print_from(fd, &at);
    close(fd);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}
