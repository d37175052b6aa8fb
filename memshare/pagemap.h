/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the page tables say about guest RAM: present or not, a file's page or our own.
 *
 * Two ways, chosen at run time: the PAGEMAP_SCAN ioctl (Linux 6.7) or reading pagemap entries. Both
 * use one fd opened at creation. Safe from any thread.
 */
#ifndef MS_PAGEMAP_H
#define MS_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>

enum ms_class {
    MS_ABSENT,  /* no memory behind it, or only the kernel's zero page */
    MS_OWN,     /* anonymous memory */
    MS_FILE,    /* a page of a file: template, pool, memory image */
    MS_SWAPPED, /* swapped out, or in a state only the kernel knows: never acted on */
};

struct ms_pagemap {
    int fd;
    bool has_scan;
};

/* `probe`: a page-aligned address of our memory. `allow_scan` false: only read entries. */
int ms_pagemap_open(struct ms_pagemap *pagemap, const void *probe, bool allow_scan);
void ms_pagemap_close(struct ms_pagemap *pagemap);

/* The class of each of `n` pages from `start` on. 0 or -errno. */
int ms_pagemap_classify(const struct ms_pagemap *pagemap, const void *start, uint64_t n,
                        uint8_t *ret_class);

#endif
