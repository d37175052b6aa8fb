/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Refcounts as the file has them, of every width from 1 to 64 bits. A refcount block that is not
 * where a block can be counts nothing: its clusters then show as counted too low.
 */
#include "cowdisk/check.h"

#include <errno.h>
#include <stdlib.h>

static bool block_is_there(const struct check *c, uint64_t entry)
{
    return entry && !(entry & QCOW_RT_RESERVED) && entry % c->cluster_size == 0 &&
           entry < c->file_bytes;
}

/* The refcounts of one block that are in the window. */
static void take_block(struct check *c, uint64_t first, uint64_t per_block)
{
    const uint8_t *block = (const uint8_t *)c->l2;
    unsigned order = c->header.refcount_order;

    for (uint64_t i = 0; i < per_block; i++) {
        uint64_t cluster = first + i;
        if (cluster >= c->first && cluster < c->first + c->n)
            c->counts[cluster - c->first] =
                (uint32_t)cow_min(cow_count_get(block, order, i), UINT32_MAX);
    }
}

int check_load_counts(struct check *c)
{
    uint64_t per_block = c->cluster_size * 8 >> c->header.refcount_order;
    uint64_t n_entries = ((uint64_t)c->header.rt_clusters << c->header.cluster_bits) / 8;
    uint64_t last = (c->first + c->n - 1) / per_block;

    memset(c->counts, 0, c->n * sizeof(*c->counts));
    for (uint64_t i = c->first / per_block; i <= last && i < n_entries; i++) {
        uint64_t entry;
        int r = cow_read_full(c->fd, &entry, sizeof(entry), c->header.rt_offset + 8 * i);
        if (r < 0)
            return r;
        entry = be64toh(entry);
        if (!block_is_there(c, entry))
            continue;
        r = cow_read_full(c->fd, c->l2, c->cluster_size, entry);
        if (r < 0)
            return r;
        take_block(c, i * per_block, per_block);
    }
    return 0;
}

uint32_t check_count_of(const struct check *c, uint64_t cluster)
{
    uint64_t per_block = c->cluster_size * 8 >> c->header.refcount_order, entry;
    uint64_t n_entries = ((uint64_t)c->header.rt_clusters << c->header.cluster_bits) / 8;
    unsigned order = c->header.refcount_order;
    uint64_t i = cluster % per_block, bit = i << order;
    uint8_t bytes[8];

    if (cluster / per_block >= n_entries ||
        cow_read_full(c->fd, &entry, sizeof(entry), c->header.rt_offset + cluster / per_block * 8) <
            0)
        return 0;
    entry = be64toh(entry);
    if (!block_is_there(c, entry) ||
        cow_read_full(c->fd, bytes, sizeof(bytes), entry + bit / 8) < 0)
        return 0;
    return (uint32_t)cow_min(cow_count_get(bytes, order, order < 3 ? bit % 8 >> order : 0),
                             UINT32_MAX);
}

int check_blocks(struct check *c)
{
    uint64_t n_entries = ((uint64_t)c->header.rt_clusters << c->header.cluster_bits) / 8;

    for (uint64_t i = 0; i < n_entries; i++) {
        uint64_t entry, cluster;
        int r = cow_read_full(c->fd, &entry, sizeof(entry), c->header.rt_offset + 8 * i);
        if (r < 0)
            return r;
        entry = be64toh(entry);
        cluster = entry >> c->header.cluster_bits;
        if (!block_is_there(c, entry) || cluster < c->first || cluster >= c->first + c->n ||
            c->refs[cluster - c->first] == 1)
            continue;
        check_note(c, "refcount block %llu at 0x%llx is used by others, too", (unsigned long long)i,
                   (unsigned long long)entry);
        c->need_rebuild = true;
    }
    return 0;
}
