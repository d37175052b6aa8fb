/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * features: asks the kernel by trying, not by its version. Nothing here changes the host.
 */
#include "vmmd/features.h"

#include "vmmd/mapcount.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux 6.7, newer than the headers here; memshare/pagemap.c is who uses them. */
#define SCAN_REQUEST     0xc0606610u
#define SCAN_BYTES       96
#define FEATURE_WP_ASYNC ((uint64_t)1 << 15)
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static void add(struct features *f, const char *name, bool good, const char *value,
                const char *cost)
{
    struct feature *item = &f->item[f->n++];

    *item = (struct feature){.name = name, .good = good, .cost = good ? "" : cost};
    snprintf(item->value, sizeof(item->value), "%s", value);
}

static void add_bool(struct features *f, const char *name, bool there, const char *cost)
{
    add(f, name, there, there ? "yes" : "no", cost);
}

/* An empty range is scanned in no time; a kernel without it says ENOTTY. */
static bool has_pagemap_scan(void)
{
    uint64_t arg[SCAN_BYTES / 8] = {SCAN_BYTES};
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool there;

    if (fd < 0)
        return false;
    there = ioctl(fd, SCAN_REQUEST, arg) >= 0 || (errno != ENOTTY && errno != EPERM);
    close(fd);
    return there;
}

static bool has_wp_async(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    bool there;

    if (fd < 0)
        return false;
    there = ioctl(fd, UFFDIO_API, &api) == 0;
    close(fd);
    return there;
}

/* Without arguments it fails, but not with ENOSYS, nor EPERM where it is forbidden. */
static bool has_io_uring(void)
{
    return syscall(SYS_io_uring_setup, 0, NULL) < 0 && errno != ENOSYS && errno != EPERM;
}

static bool has_file(const char *root, const char *path)
{
    char name[PATH_MAX];

    snprintf(name, sizeof(name), "%s%s", root, path);
    return access(name, F_OK) == 0;
}

static bool read_number(const char *root, const char *path, uint64_t *ret)
{
    char name[PATH_MAX], text[32] = "";
    FILE *file;
    bool got;

    snprintf(name, sizeof(name), "%s%s", root, path);
    file = fopen(name, "re");
    if (!file)
        return false;
    got = fgets(text, sizeof(text), file) && sscanf(text, "%" SCNu64, ret) == 1;
    fclose(file);
    return got;
}

static void add_ksm(struct features *f, const char *root)
{
    uint64_t run;

    if (!read_number(root, "/sys/kernel/mm/ksm/run", &run))
        add(f, "KSM", true, "not there", "");
    else
        add(f, "KSM", run != 1, run == 1 ? "running" : "off",
            "the kernel merges, too, where a process asks for it: processor time for what vmmd "
            "does");
}

static void add_max_map_count(struct features *f, const char *root, uint64_t max_mappings)
{
    uint64_t count = 0;
    char text[48];

    read_number(root, "/proc/sys/vm/max_map_count", &count);
    snprintf(text, sizeof(text), "%" PRIu64 ", %" PRIu64 " a guest", count, max_mappings);
    add(f, "max_map_count", count >= MAP_COUNT_WANTED, text,
        "a guest of more than some GiB runs out of mappings: short runs stay unshared");
}

static void add_cpu(struct features *f, const struct cpu_control *cpu)
{
    add(f, "CPU control", cpu->means != CPU_NICE, cpu_means_name(cpu->means),
        "CPU limits and reserves are refused, shares hold roughly: vmmd needs a cgroup with the "
        "cpu controller that it may write to");
}

void features_find(struct features *ret, const char *root, uint64_t max_mappings,
                   const struct cpu_control *cpu)
{
    *ret = (struct features){0};
    add_bool(ret, "PAGEMAP_SCAN", has_pagemap_scan(),
             "the scanner reads the whole page map to see what changed (Linux 6.7 has it)");
    add_bool(ret, "WP_ASYNC", has_wp_async(),
             "writes are not tracked: every page is hashed again in each pass (Linux 6.7 has it)");
    add_bool(ret, "io_uring", has_io_uring(),
             "disk requests are done one after the other by a thread");
    add_bool(ret, "cgroup v2", has_file(root, "/sys/fs/cgroup/cgroup.controllers"),
             "memory limits and stalls are seen for the whole host only");
    add_max_map_count(ret, root, max_mappings);
    add_cpu(ret, cpu);
    add_ksm(ret, root);
}
