/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hostmem: reading /proc/meminfo, the limits of memory cgroups, and PSI.
 *
 * Which cgroup vmmd is in is looked up every time: it may be moved while it runs, and its guests
 * are in the same one. A limit counts with what is left below it: page cache that nobody used
 * lately (inactive_file) is given up before anybody is killed.
 */
#include "vmmd/hostmem.h"
#include "vmmd/cgroup.h"
#include "vmmd/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PSI_FILE "/proc/pressure/memory"
#define PSI_TRIGGER \
    "some 150000 2000000" /* 150 ms of 2 s: the shortest window anybody may ask for */
#define LEVELS_MAX 64     /* of nested cgroups */

/* ---- small files ---- */

static FILE *open_text(const char *root, const char *path)
{
    char full[PATH_MAX];

    if ((size_t)snprintf(full, sizeof(full), "%s%s", root, path) >= sizeof(full)) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    return fopen(full, "re");
}

/* The number after `key` at the beginning of a line; false: there is no such line. */
static bool find_number(const char *root, const char *path, const char *key, uint64_t *ret)
{
    FILE *file = open_text(root, path);
    size_t n = strlen(key);
    bool found = false;
    char line[256];

    if (!file)
        return false;
    while (!found && fgets(line, sizeof(line), file))
        found = strncmp(line, key, n) == 0 && sscanf(line + n, " %" SCNu64, ret) == 1;
    fclose(file);
    return found;
}

/* The one number that a file holds. "max", which is no limit, is none. */
static bool read_number(const char *root, const char *directory, const char *name, uint64_t *ret)
{
    char path[PATH_MAX];

    if ((size_t)snprintf(path, sizeof(path), "%s/%s", directory, name) >= sizeof(path))
        return false;
    return find_number(root, path, "", ret);
}

/* ---- limits ---- */

/* Limit, use, and how much of that is page cache nobody used lately. False: no limit here. */
static bool read_level(const char *root, const char *directory, bool unified, uint64_t *ret_limit,
                       uint64_t *ret_used)
{
    const char *inactive = unified ? "inactive_file " : "total_inactive_file ";
    uint64_t limit = UINT64_MAX, high, used, cache = 0;
    char path[PATH_MAX];

    read_number(root, directory, unified ? "memory.max" : "memory.limit_in_bytes", &limit);
    if (unified && read_number(root, directory, "memory.high", &high) && high < limit)
        limit = high; /* beyond it everybody is slowed down until nobody gets anywhere */
    if (limit == UINT64_MAX ||
        !read_number(root, directory, unified ? "memory.current" : "memory.usage_in_bytes", &used))
        return false;
    if ((size_t)snprintf(path, sizeof(path), "%s/memory.stat", directory) < sizeof(path))
        find_number(root, path, inactive, &cache);
    *ret_limit = limit;
    *ret_used = used > cache ? used - cache : 0;
    return true;
}

/* Version 1 says "no limit" with a limit that is larger than any host. */
static void look_at_level(const char *root, const struct cgroup *cgroup, struct hostmem *hostmem,
                          uint64_t host_total)
{
    char directory[2 * PATH_MAX], name[HOSTMEM_WHERE_MAX];
    uint64_t limit, used, left;

    snprintf(directory, sizeof(directory), "%s%s", cgroup->mount, cgroup->path);
    if (!read_level(root, directory, cgroup->unified, &limit, &used) || limit >= host_total)
        return;
    left = limit > used ? limit - used : 0;
    if (limit < hostmem->total)
        hostmem->total = limit;
    if (left >= hostmem->available)
        return;
    hostmem->available = left;
    text_copy(name, sizeof(name) - 16, cgroup->path[0] ? cgroup->path : "/");
    snprintf(hostmem->where, sizeof(hostmem->where), "memory cgroup %.140s", name);
}

static void look_at_cgroup(const char *root, const char *controller, struct hostmem *hostmem,
                           uint64_t host_total)
{
    struct cgroup cgroup;

    if (!cgroup_find(&cgroup, root, controller))
        return;
    for (int i = 0; i < LEVELS_MAX; i++) {
        char *slash = strrchr(cgroup.path, '/');

        look_at_level(root, &cgroup, hostmem, host_total);
        if (!slash)
            break;
        *slash = '\0';
    }
}

int hostmem_read(const char *root, struct hostmem *ret_hostmem)
{
    struct hostmem hostmem = {.where = "this host"};
    uint64_t host_total;

    errno = EINVAL; /* if it can be opened and does not say */
    if (!find_number(root, "/proc/meminfo", "MemTotal:", &hostmem.total) ||
        !find_number(root, "/proc/meminfo", "MemAvailable:", &hostmem.available))
        return errno ? -errno : -EINVAL;
    if (hostmem.total == 0 || hostmem.total > UINT64_MAX / 1024 ||
        hostmem.available > hostmem.total)
        return -EINVAL;
    host_total = hostmem.total *= 1024;
    hostmem.available *= 1024;
    look_at_cgroup(root, "memory", &hostmem, host_total);
    look_at_cgroup(root, NULL, &hostmem, host_total);
    *ret_hostmem = hostmem;
    return 0;
}

/* ---- PSI ---- */

double hostmem_stall(const char *root)
{
    FILE *file = open_text(root, PSI_FILE);
    double percent = -1;
    char line[256];

    if (!file)
        return -1;
    while (percent < 0 && fgets(line, sizeof(line), file))
        if (sscanf(line, "some avg10=%lf", &percent) != 1)
            percent = -1;
    fclose(file);
    return percent;
}

/* A trigger reports by POLLPRI, which libevent does not know; an epoll descriptor around it is
 * readable then. */
static int wrap(int trigger)
{
    struct epoll_event event = {.events = EPOLLPRI, .data.fd = trigger};
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    if (epoll < 0)
        return -errno;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, trigger, &event) < 0) {
        int r = -errno;

        close(epoll);
        return r;
    }
    return epoll;
}

int hostmem_stall_watch(const char *root, int *ret_trigger)
{
    char path[PATH_MAX];
    struct statfs fs;
    int fd, r;

    snprintf(path, sizeof(path), "%s" PSI_FILE, root);
    fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstatfs(fd, &fs) < 0)
        r = -errno;
    else if (fs.f_type != PROC_SUPER_MAGIC)
        r = -ENOENT; /* a test's file is not to be written to */
    else
        r = write(fd, PSI_TRIGGER, sizeof(PSI_TRIGGER)) < 0 ? -errno : wrap(fd);
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_trigger = fd;
    return r;
}

int hostmem_stall_clear(int fd)
{
    struct epoll_event event;

    if (epoll_wait(fd, &event, 1, 0) > 0 && (event.events & EPOLLERR))
        return -EIO;
    return 0;
}
