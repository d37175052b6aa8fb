/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Putting refcounts right. Each step leaves an image that is no worse than the one before it, also
 * if it is the last one (kill -9, power):
 *
 *   1. COPIED flags that are too many go: from here on no write can reach data of somebody else.
 *   2. Leaks only: refcounts are lowered in place; each is right by itself. Else a whole new
 *      refcount table with its blocks is written behind the end of the file, and once it is
 *      durable one write into the header's first sector makes it the image's.
 *   3. COPIED flags that are missing are set. Missing, they only cost a copy.
 *   4. The dirty and the corrupt bit go when a new check found nothing.
 *
 * Must never free what it could not follow, and never put the new table where an entry that points
 * outside of the file would reach it: a file that was cut short is refused before the first step.
 */
#include "cowdisk/check.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- leaks only: in place -------------------------------------------------------------------- */

static bool lower_block(struct check *c, uint64_t first, uint64_t per_block)
{
    uint8_t *block = (uint8_t *)c->l2;
    unsigned order = c->header.refcount_order;
    bool changed = false;

    for (uint64_t i = 0; i < per_block; i++) {
        uint64_t at = first + i - c->first;
        if (first + i < c->first || at >= c->n || c->counts[at] <= c->refs[at])
            continue;
        if (first + i == c->n_clusters - 1) /* behind the file's end: not leaked */
            continue;
        changed = cow_count_put(block, order, i, c->refs[at]) || changed;
    }
    return changed;
}

static int lower_window(struct check *c)
{
    uint64_t per_block = c->cluster_size * 8 >> c->header.refcount_order;
    uint64_t n_entries = ((uint64_t)c->header.rt_clusters << c->header.cluster_bits) / 8;
    uint64_t last = (c->first + c->n - 1) / per_block;

    for (uint64_t i = c->first / per_block; i <= last && i < n_entries; i++) {
        uint64_t entry;
        int r = cow_read_full(c->fd, &entry, sizeof(entry), c->header.rt_offset + 8 * i);
        entry = be64toh(entry);
        if (r == 0 && entry == 0)
            continue;
        if (r == 0)
            r = cow_read_full(c->fd, c->l2, c->cluster_size, entry);
        if (r == 0 && lower_block(c, i * per_block, per_block))
            r = cow_write_full(c->fd, c->l2, c->cluster_size, entry);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- all: a new refcount table --------------------------------------------------------------- */

struct rebuild {
    uint64_t base; /* cluster of the new table; its blocks follow */
    uint64_t rt_clusters;
    uint64_t n_blocks;
    uint64_t per_block;
    uint64_t *rt; /* [n_blocks], big endian; 0: the block counts nothing and is not there */
};

static int plan(const struct check *c, struct rebuild *b, struct cow_error *err)
{
    uint64_t end;

    b->base = c->n_clusters;
    b->per_block = c->cluster_size * 8 >> c->header.refcount_order;
    do {
        end = b->base + b->rt_clusters + b->n_blocks;
        b->n_blocks = (end + b->per_block - 1) / b->per_block;
        b->rt_clusters = (b->n_blocks * 8 + c->cluster_size - 1) >> c->header.cluster_bits;
    } while (b->base + b->rt_clusters + b->n_blocks > end);
    if (b->rt_clusters << c->header.cluster_bits > COW_MAX_RT_BYTES) {
        cow_fail(err, "the file is too large for a new refcount table");
        return -EFBIG;
    }
    if (c->lowest_outside < end << c->header.cluster_bits) {
        cow_fail(err,
                 "an entry points to 0x%llx, behind the end of the file: it was cut short. "
                 "Data is missing; copy what can be read to a new image",
                 (unsigned long long)c->lowest_outside);
        return -ENOTSUP;
    }
    b->rt = calloc(b->rt_clusters, c->cluster_size);
    return b->rt ? 0 : -ENOMEM;
}

/* A block that counts nothing need not be there, but those that count the new structures are in any
 * case: whether one is there must be known before it is its turn. */
static bool is_written(const struct rebuild *b, uint64_t block)
{
    return block >= b->base / b->per_block || b->rt[block];
}

static uint64_t new_count(const struct check *c, const struct rebuild *b, uint64_t cluster)
{
    if (cluster < c->n_clusters)
        return c->refs[cluster - c->first];
    if (cluster < b->base + b->rt_clusters)
        return 1;
    cluster -= b->base + b->rt_clusters;
    return cluster < b->n_blocks && is_written(b, cluster);
}

/* Block `i`: its clusters are in the window, or behind the end of the file. */
static int write_block(struct check *c, struct rebuild *b, uint64_t i)
{
    uint64_t place = b->base + b->rt_clusters + i;
    bool any = false;

    memset(c->l2, 0, c->cluster_size);
    for (uint64_t k = 0; k < b->per_block; k++) {
        uint64_t count = new_count(c, b, i * b->per_block + k);
        if (!cow_count_put((uint8_t *)c->l2, c->header.refcount_order, k, count))
            return -ERANGE;
        any = any || count;
    }
    if (!any && i < b->base / b->per_block)
        return 0;
    b->rt[i] = htobe64(place << c->header.cluster_bits);
    return cow_write_full(c->fd, c->l2, c->cluster_size, place << c->header.cluster_bits);
}

/* All blocks, window by window. A window is a multiple of every block's clusters. */
static int write_blocks(struct check *c, struct rebuild *b)
{
    uint64_t i = 0;

    _Static_assert(COW_CHECK_WINDOW % (8ull << QCOW_MAX_CLUSTER_BITS) == 0, "whole blocks");
    c->no_structures = true;
    for (c->first = 0; c->first < c->n_clusters; c->first += COW_CHECK_WINDOW) {
        uint64_t end = c->first + COW_CHECK_WINDOW;
        int r;

        c->n = cow_min(COW_CHECK_WINDOW, c->n_clusters - c->first);
        r = check_count_references(c);
        for (; i < b->n_blocks && r == 0 && (i * b->per_block < end || end >= c->n_clusters); i++)
            r = write_block(c, b, i);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The file's new end; more clusters may need a second window's memory. */
static int take_new_size(struct check *c)
{
    off_t end = lseek(c->fd, 0, SEEK_END);
    uint64_t n;

    if (end < 0)
        return -errno;
    c->file_bytes = (uint64_t)end;
    c->n_clusters = (c->file_bytes + c->cluster_size - 1) / c->cluster_size + 1;
    n = cow_min(c->n_clusters, COW_CHECK_WINDOW);
    free(c->refs);
    free(c->counts);
    c->refs = calloc(n, sizeof(*c->refs));
    c->counts = calloc(n, sizeof(*c->counts));
    return c->refs && c->counts ? 0 : -ENOMEM;
}

/* The step that makes the new table the image's: one write within the first sector. */
static int switch_table(struct check *c, const struct rebuild *b)
{
    struct {
        uint64_t rt_offset;
        uint32_t rt_clusters;
    } __attribute__((packed)) fields = {
        .rt_offset = htobe64(b->base << c->header.cluster_bits),
        .rt_clusters = htobe32((uint32_t)b->rt_clusters),
    };
    int r = cow_write_full(c->fd, &fields, sizeof(fields), QCOW_H_RT_OFFSET);

    if (r == 0)
        r = cow_sync(c->fd);
    if (r < 0)
        return r;
    c->header.rt_offset = b->base << c->header.cluster_bits;
    c->header.rt_clusters = (uint32_t)b->rt_clusters;
    return take_new_size(c);
}

static int give_up(struct check *c)
{
    /* What was written behind the end is in nobody's way, but need not stay. */
    return ftruncate(c->fd, (off_t)c->file_bytes) < 0 ? -errno : 0;
}

static int rebuild(struct check *c, struct rebuild *b, struct cow_error *err)
{
    uint64_t end = (b->base + b->rt_clusters + b->n_blocks) << c->header.cluster_bits;
    int r = write_blocks(c, b);

    c->no_structures = false;
    if (r == 0)
        r = cow_write_full(c->fd, b->rt, b->rt_clusters << c->header.cluster_bits,
                           b->base << c->header.cluster_bits);
    if (r == 0 && ftruncate(c->fd, (off_t)end) < 0)
        r = -errno;
    if (r == 0)
        r = cow_sync(c->fd);
    if (r == -ERANGE)
        cow_fail(err, "a cluster is used more often than refcounts of %u bits can tell",
                 1u << c->header.refcount_order);
    if (r < 0)
        (void)give_up(c);
    else
        r = switch_table(c, b);
    return r;
}

/* ---- the steps ------------------------------------------------------------------------------- */

static int sync_after(struct check *c, int r)
{
    return r < 0 ? r : cow_sync(c->fd);
}

int check_repair(struct check *c, unsigned flags, struct cow_error *err)
{
    bool all = flags & COW_REPAIR_ALL;
    bool in_place = !c->blind && !c->need_rebuild;
    struct rebuild b = {0};
    int r = 0;

    if (all && c->need_rebuild)
        r = plan(c, &b, err);
    if (r == 0 && all && c->result.corruptions)
        r = sync_after(c, check_each_window(c, check_clear_copied));
    if (r == 0 && b.rt)
        r = rebuild(c, &b, err);
    else if (r == 0 && c->result.leaks && in_place)
        r = sync_after(c, check_each_window(c, lower_window));
    if (r == 0 && (all || in_place))
        r = sync_after(c, check_each_window(c, check_set_copied));
    free(b.rt);
    return r;
}

int check_mark_clean(struct check *c)
{
    uint64_t bits = c->header.incompatible & ~(QCOW_INCOMPAT_DIRTY | QCOW_INCOMPAT_CORRUPT);
    uint64_t value = htobe64(bits);
    int r = cow_write_full(c->fd, &value, sizeof(value), QCOW_H_INCOMPATIBLE);

    if (r == 0)
        r = cow_sync(c->fd);
    if (r == 0)
        c->header.incompatible = bits;
    return r;
}
