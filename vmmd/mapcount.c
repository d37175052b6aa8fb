/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mapcount: reading and raising vm.max_map_count, once, at the daemon's start.
 *
 * It is a setting of the whole host: it is never lowered, and only a system service raises it
 * without having been told to.
 */
#include "vmmd/mapcount.h"
#include "vmmd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAP_COUNT_FILE    "/proc/sys/vm/max_map_count"
#define MAP_COUNT_DEFAULT 65530u /* the kernel's, if it cannot be read */

static unsigned long read_count(const char *path)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned long count;

    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof(text) - 1);

        text[n > 0 ? n : 0] = '\0';
        close(fd);
    }
    count = strtoul(text, NULL, 10);
    return count ? count : MAP_COUNT_DEFAULT;
}

static int write_count(const char *path, unsigned long count)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%lu\n", count), r = 0;
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (write(fd, text, (size_t)n) != n)
        r = -errno;
    close(fd);
    return r;
}

static bool shall_raise(const struct config *config)
{
    return config->raise_max_map_count == RAISE_YES ||
           (config->raise_max_map_count == RAISE_AUTO && !config->session);
}

uint64_t mapcount_settle(const struct config *config)
{
    char path[PATH_MAX];
    unsigned long before, now;
    int r = 0;

    snprintf(path, sizeof(path), "%s" MAP_COUNT_FILE, config->host_root);
    before = now = read_count(path);
    if (before < MAP_COUNT_WANTED && shall_raise(config)) {
        r = write_count(path, MAP_COUNT_WANTED);
        now = read_count(path);
    }
    if (now > before)
        log_info("raised vm.max_map_count from %lu to %lu, so that more memory can be shared",
                 before, now);
    else if (now < MAP_COUNT_WANTED && config->raise_max_map_count != RAISE_NO)
        log_info("vm.max_map_count is %lu, which limits how much memory guests can share%s%s: "
                 "as root, sysctl -w vm.max_map_count=%u",
                 now, r < 0 ? "; it cannot be raised here: " : "", r < 0 ? strerror(-r) : "",
                 MAP_COUNT_WANTED);
    return now / 4 * 3; /* the rest is for everything that is not guest RAM */
}
