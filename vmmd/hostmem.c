/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hostmem: reading /proc/meminfo, the limits of memory cgroups, and PSI.
 *
 * Which cgroup vmmd is in is looked up every time: it may be moved while it runs, and its guests
 * are in the same one. A limit counts with what is left below it: page cache that nobody used
 * lately (inactive_file) is given up before anybody is killed.
 */
#include "vmmd/hostmem.h"
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

/* ---- where the cgroup is ---- */

struct cgroup {
    char mount[PATH_MAX]; /* where its hierarchy is mounted */
    char path[PATH_MAX];  /* below that: "" or "/a/b" */
    bool unified;         /* version 2 */
};

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = list; (at = strstr(at, word)); at++)
        if ((at == list || at[-1] == ',') && strchr(",\n ", at[n]))
            return true;
    return false;
}

/* Our path in one hierarchy as /proc/self/cgroup tells it: "4:memory:/a/b" or "0::/a/b". */
static bool own_path(const char *root, bool unified, char *path, size_t size)
{
    FILE *file = open_text(root, "/proc/self/cgroup");
    char line[PATH_MAX + 256];
    bool found = false;

    if (!file)
        return false;
    while (!found && fgets(line, sizeof(line), file)) {
        char *controllers = strchr(line, ':');
        char *at = controllers ? strchr(controllers + 1, ':') : NULL;

        if (!at)
            continue;
        *at++ = '\0';
        at[strcspn(at, "\n")] = '\0';
        found = unified ? strncmp(line, "0:", 2) == 0 && !controllers[1]
                        : has_word(controllers + 1, "memory");
        found = found && (size_t)snprintf(path, size, "%s", at) < size;
    }
    fclose(file);
    return found;
}

/* \040 and the like, as mountinfo writes spaces. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; to++) {
        unsigned value;

        if (from[0] == '\\' && sscanf(from + 1, "%3o", &value) == 1 && strlen(from) >= 4) {
            *to = (char)value;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* One line of mountinfo: "31 23 0:28 ROOT MOUNT options - TYPE source superoptions". */
static bool parse_mount(char *line, bool unified, char **ret_root, char **ret_mount)
{
    char *field[5] = {0}, *rest, *tail = strstr(line, " - ");
    char type[32], options[256] = "";

    if (!tail || sscanf(tail, " - %31s %*s %255s", type, options) < 1)
        return false;
    if (unified ? strcmp(type, "cgroup2") != 0
                : strcmp(type, "cgroup") != 0 || !has_word(options, "memory"))
        return false;
    rest = line;
    for (int i = 0; i < 5; i++)
        field[i] = strsep(&rest, " ");
    if (!field[4])
        return false;
    unescape(field[3]);
    unescape(field[4]);
    *ret_root = field[3];
    *ret_mount = field[4];
    return true;
}

/* A container may see its hierarchy from somewhere below the top: what is above is cut off. */
static const char *below(const char *path, const char *top)
{
    size_t n = strlen(top);

    if (strcmp(top, "/") == 0)
        return strcmp(path, "/") == 0 ? "" : path;
    if (strncmp(path, top, n) == 0 && (path[n] == '/' || !path[n]))
        return path + n;
    return "";
}

static bool find_cgroup(const char *root, bool unified, struct cgroup *ret)
{
    FILE *file;
    char *line = NULL, *top, *mount, path[PATH_MAX];
    bool found = false;
    size_t size = 0;

    if (!own_path(root, unified, path, sizeof(path)) || strstr(path, ".."))
        return false;
    file = open_text(root, "/proc/self/mountinfo");
    if (!file)
        return false;
    while (!found && getline(&line, &size, file) > 0) {
        if (!parse_mount(line, unified, &top, &mount))
            continue;
        snprintf(ret->mount, sizeof(ret->mount), "%s", mount);
        snprintf(ret->path, sizeof(ret->path), "%s", below(path, top));
        ret->unified = unified;
        found = true;
    }
    free(line);
    fclose(file);
    return found;
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

static void look_at_cgroup(const char *root, bool unified, struct hostmem *hostmem,
                           uint64_t host_total)
{
    struct cgroup cgroup;

    if (!find_cgroup(root, unified, &cgroup))
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
    look_at_cgroup(root, false, &hostmem, host_total);
    look_at_cgroup(root, true, &hostmem, host_total);
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
