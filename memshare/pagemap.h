/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel says about guest RAM: present or not, a file's page or our own, written or not.
 *
 * Each part in two ways, chosen at run time. The state of pages: the PAGEMAP_SCAN ioctl (Linux 6.7)
 * or pagemap entries. What was written: asynchronous write protection by userfaultfd
 * (UFFD_FEATURE_WP_ASYNC, Linux 6.7), which needs PAGEMAP_SCAN; without it nothing is tracked and
 * the scanner compares hashes. All fds are opened at creation. Safe from any thread.
 *
 * Tracked memory is what was registered here: guest RAM as it was at first, and what
 * ms_pagemap_track added since. A run that was merged is a new mapping, which is not tracked.
 */
#ifndef MS_PAGEMAP_H
#define MS_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>

/* What a page is, in the low bits of its class; and flags beside it. */
enum ms_class {
    MS_ABSENT,  /* no memory behind it, or only the kernel's zero page */
    MS_OWN,     /* anonymous memory */
    MS_FILE,    /* a page of a file: template, pool, memory image */
    MS_SWAPPED, /* swapped out, or in a state only the kernel knows: never acted on */
};
#define MS_CLASS_MASK 3u
#define MS_TRACKED    4u /* the kernel knows whether it was written */
#define MS_WRITTEN    8u /* tracked: since it was armed; set as well if it never was */

struct ms_pagemap {
    int fd;
    int uffd; /* -1: nothing is tracked */
    int statm;
    bool has_scan;
};

enum ms_pagemap_allow {
    MS_ALLOW_ENTRIES, /* read entries only */
    MS_ALLOW_SCAN,    /* and PAGEMAP_SCAN */
    MS_ALLOW_ALL,     /* and tracking */
};

/* `ram`: page-aligned, `bytes` of it are tracked if that is possible and allowed. */
int ms_pagemap_open(struct ms_pagemap *pagemap, void *ram, uint64_t bytes,
                    enum ms_pagemap_allow allow);
void ms_pagemap_close(struct ms_pagemap *pagemap);

/* The class of each of `n` pages from `start` on, with flags. 0 or -errno. Without `files`, which
 * costs the kernel a cache miss a page, MS_OWN and MS_FILE may both be told as MS_OWN. */
int ms_pagemap_classify(const struct ms_pagemap *pagemap, const void *start, uint64_t n, bool files,
                        uint8_t *ret_class);

/* From now on a write to one of these pages makes it MS_WRITTEN: those of our own memory that are
 * tracked and written now. Others are left alone. A first write then costs the guest about a
 * microsecond. */
int ms_pagemap_arm(const struct ms_pagemap *pagemap, void *start, uint64_t n);
/* The same for all of `n` pages of which none is armed, and tells their classes as
 * ms_pagemap_classify() does with `files`: in one walk of the page tables. What is armed now is not
 * MS_WRITTEN. What is not tracked is told as MS_ABSENT. */
int ms_pagemap_arm_all(const struct ms_pagemap *pagemap, void *start, uint64_t n,
                       uint8_t *ret_class);
/* New anonymous memory in place of old: tracked like its neighbours, so that they are one mapping.
 * Does nothing if nothing is tracked. */
void ms_pagemap_track(const struct ms_pagemap *pagemap, void *start, uint64_t n);

/* Pages of anonymous memory of this process, roughly: cheap to ask, whatever its size. */
uint64_t ms_pagemap_anonymous(const struct ms_pagemap *pagemap);

#endif
