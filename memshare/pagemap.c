/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading page tables: see pagemap.h. No state but the fd, no lock.
 *
 * Reading an untouched page maps the kernel's shared zero page, which costs nothing and is not part
 * of Rss; it must not be taken for a page of our own. PAGEMAP_SCAN names it; the entries do not,
 * but a page of our own is mapped once ("exclusive") as long as nobody forks, and the zero page
 * never is.
 */
#include "memshare/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memshare/memshare.h"

/* The kernel's interface (linux/fs.h since 6.7), repeated here so that older headers do. */
struct scan_region {
    uint64_t start, end, categories;
};

struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_IOCTL   _IOWR('f', 16, struct scan_arg)
#define SCAN_PROTECT (1u << 0) /* flag: write-protect what matches */
#define SCAN_ALLOWED (1u << 0) /* categories from here on */
#define SCAN_WRITTEN (1u << 1)
#define SCAN_FILE    (1u << 2)
#define SCAN_PRESENT (1u << 3)
#define SCAN_SWAPPED (1u << 4)
#define SCAN_PFNZERO (1u << 5)
#define SCAN_REGIONS 512

/* linux/userfaultfd.h since 5.11 and 6.7 */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_WP_ASYNC ((uint64_t)1 << 15)

#define ENTRY_PRESENT ((uint64_t)1 << 63)
#define ENTRY_SWAPPED ((uint64_t)1 << 62)
#define ENTRY_FILE    ((uint64_t)1 << 61)
#define ENTRY_ALONE   ((uint64_t)1 << 56)
#define ENTRIES       256

static int scan_some(const struct ms_pagemap *pagemap, uint64_t start, uint64_t end, bool files,
                     struct scan_region *region, uint64_t *ret_walked)
{
    struct scan_arg arg = {
        .size = sizeof(arg),
        .start = start,
        .end = end,
        .vec = (uint64_t)(uintptr_t)region,
        .vec_len = SCAN_REGIONS,
        .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
        .return_mask = SCAN_PRESENT | SCAN_SWAPPED | SCAN_PFNZERO | SCAN_ALLOWED | SCAN_WRITTEN |
                       (files ? SCAN_FILE : 0),
    };
    int n = ioctl(pagemap->fd, SCAN_IOCTL, &arg);

    if (n < 0)
        return -errno;
    *ret_walked = arg.walk_end;
    return n;
}

/* Without privilege we may ask for user mode only, which asynchronous protection does not mind. */
static int track_all(struct ms_pagemap *pagemap, void *ram, uint64_t bytes)
{
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC};
    int r;

    pagemap->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (pagemap->uffd < 0)
        return -errno;
    if (ioctl(pagemap->uffd, UFFDIO_API, &api) == 0) {
        ms_pagemap_track(pagemap, ram, bytes / MS_PAGE_SIZE);
        r = ms_pagemap_arm(pagemap, ram, 1);
        if (r == 0)
            return 0;
    }
    close(pagemap->uffd);
    pagemap->uffd = -1;
    return -ENOTSUP;
}

int ms_pagemap_open(struct ms_pagemap *pagemap, void *ram, uint64_t bytes,
                    enum ms_pagemap_allow allow)
{
    struct scan_region region[SCAN_REGIONS];
    uint64_t start = (uint64_t)(uintptr_t)ram;
    uint64_t walked;

    pagemap->uffd = -1;
    pagemap->statm = -1;
    pagemap->fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap->fd < 0)
        return -errno;
    pagemap->statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    pagemap->has_scan = allow >= MS_ALLOW_SCAN &&
                        scan_some(pagemap, start, start + MS_PAGE_SIZE, true, region, &walked) >= 0;
    if (pagemap->has_scan && allow >= MS_ALLOW_ALL)
        (void)track_all(pagemap, ram, bytes); /* without it hashes are compared */
    return 0;
}

static void shut(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void ms_pagemap_close(struct ms_pagemap *pagemap)
{
    shut(&pagemap->fd);
    shut(&pagemap->uffd);
    shut(&pagemap->statm);
}

void ms_pagemap_track(const struct ms_pagemap *pagemap, void *start, uint64_t n)
{
    struct uffdio_register range = {
        .range = {.start = (uint64_t)(uintptr_t)start, .len = n * MS_PAGE_SIZE},
        .mode = UFFDIO_REGISTER_MODE_WP,
    };

    /* Should it fail, these pages are known by their hashes. */
    if (pagemap->uffd >= 0)
        (void)ioctl(pagemap->uffd, UFFDIO_REGISTER, &range);
}

int ms_pagemap_arm(const struct ms_pagemap *pagemap, void *start, uint64_t n)
{
    struct scan_arg arg = {
        .size = sizeof(arg),
        .flags = SCAN_PROTECT,
        .start = (uint64_t)(uintptr_t)start,
        .end = (uint64_t)(uintptr_t)start + n * MS_PAGE_SIZE,
        .category_inverted = SCAN_PFNZERO,
        .category_mask = SCAN_PRESENT | SCAN_WRITTEN | SCAN_PFNZERO,
    };

    if (pagemap->uffd < 0)
        return -ENOTSUP;
    return ioctl(pagemap->fd, SCAN_IOCTL, &arg) < 0 ? -errno : 0;
}

static uint8_t class_of_categories(uint64_t categories)
{
    uint8_t flags = 0;

    if (categories & SCAN_FILE)
        return MS_FILE; /* also while the kernel moves it, when it is not "present" */
    if (categories & SCAN_SWAPPED)
        return MS_SWAPPED;
    if (!(categories & SCAN_PRESENT) || (categories & SCAN_PFNZERO))
        return MS_ABSENT;
    if (categories & SCAN_ALLOWED)
        flags = MS_TRACKED | (categories & SCAN_WRITTEN ? MS_WRITTEN : 0);
    return MS_OWN | flags;
}

static void note_regions(const struct scan_region *region, int n, uint64_t start,
                         uint8_t *ret_class)
{
    for (int i = 0; i < n; i++)
        memset(ret_class + (region[i].start - start) / MS_PAGE_SIZE,
               class_of_categories(region[i].categories),
               (region[i].end - region[i].start) / MS_PAGE_SIZE);
}

/* With a list of regions to fill, the kernel takes care to protect only what matches. */
int ms_pagemap_arm_all(const struct ms_pagemap *pagemap, void *start, uint64_t n,
                       uint8_t *ret_class)
{
    struct scan_region region[SCAN_REGIONS];
    uint64_t first = (uint64_t)(uintptr_t)start, end = first + n * MS_PAGE_SIZE;

    memset(ret_class, MS_ABSENT, n);
    for (uint64_t at = first; at < end;) {
        struct scan_arg arg = {
            .size = sizeof(arg),
            .flags = SCAN_PROTECT,
            .start = at,
            .end = end,
            .vec = (uint64_t)(uintptr_t)region,
            .vec_len = SCAN_REGIONS,
            .category_inverted = SCAN_PFNZERO,
            .category_mask = SCAN_PRESENT | SCAN_WRITTEN | SCAN_PFNZERO,
            .return_mask = SCAN_PRESENT | SCAN_ALLOWED | SCAN_FILE,
        };
        int found = ioctl(pagemap->fd, SCAN_IOCTL, &arg);

        if (found < 0)
            return -errno;
        note_regions(region, found, first, ret_class);
        if (arg.walk_end <= at)
            return -EIO; /* no progress: never loop on it */
        at = arg.walk_end;
    }
    return 0;
}

uint64_t ms_pagemap_anonymous(const struct ms_pagemap *pagemap)
{
    char text[128];
    ssize_t n = pread(pagemap->statm, text, sizeof(text) - 1, 0);
    uint64_t resident, file;
    char *at;

    if (n <= 0)
        return 0;
    text[n] = '\0';
    (void)strtoull(text, &at, 10);
    resident = strtoull(at, &at, 10);
    file = strtoull(at, &at, 10);
    return resident > file ? resident - file : 0;
}

static int classify_by_scan(const struct ms_pagemap *pagemap, uint64_t start, uint64_t n,
                            bool files, uint8_t *ret_class)
{
    struct scan_region region[SCAN_REGIONS];
    uint64_t end = start + n * MS_PAGE_SIZE;

    memset(ret_class, MS_ABSENT, n);
    for (uint64_t at = start; at < end;) {
        uint64_t walked;
        int found = scan_some(pagemap, at, end, files, region, &walked);

        if (found < 0)
            return found;
        note_regions(region, found, start, ret_class);
        if (walked <= at)
            return -EIO; /* no progress: never loop on it */
        at = walked;
    }
    return 0;
}

static uint8_t class_of_entry(uint64_t entry)
{
    if (!(entry & (ENTRY_PRESENT | ENTRY_SWAPPED)))
        return MS_ABSENT;
    if (entry & ENTRY_FILE)
        return MS_FILE; /* also while the kernel moves it, when it is not "present" */
    if (entry & ENTRY_SWAPPED)
        return MS_SWAPPED;
    return entry & ENTRY_ALONE ? MS_OWN : MS_ABSENT;
}

static int classify_by_entries(const struct ms_pagemap *pagemap, uint64_t start, uint64_t n,
                               uint8_t *ret_class)
{
    uint64_t entry[ENTRIES];

    for (uint64_t done = 0; done < n;) {
        uint64_t want = n - done < ENTRIES ? n - done : ENTRIES;
        off_t at = (off_t)((start / MS_PAGE_SIZE + done) * sizeof(entry[0]));
        ssize_t got = pread(pagemap->fd, entry, want * sizeof(entry[0]), at);

        if (got < (ssize_t)sizeof(entry[0]))
            return got < 0 ? -errno : -EIO;
        want = (uint64_t)got / sizeof(entry[0]);
        for (uint64_t i = 0; i < want; i++)
            ret_class[done + i] = class_of_entry(entry[i]);
        done += want;
    }
    return 0;
}

int ms_pagemap_classify(const struct ms_pagemap *pagemap, const void *start, uint64_t n, bool files,
                        uint8_t *ret_class)
{
    uint64_t at = (uint64_t)(uintptr_t)start;

    return pagemap->has_scan ? classify_by_scan(pagemap, at, n, files, ret_class)
                             : classify_by_entries(pagemap, at, n, ret_class);
}
