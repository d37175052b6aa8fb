/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How pending metadata becomes the image, in one step.
 *
 * qcow2 has no journal: a refcount and the entry that justifies it are two writes, and whoever dies
 * between them leaves a leak or an overcommitted cluster. But the header's first sector holds the
 * positions of both the L1 table and the refcount table. So:
 *
 *   1. Every table that changed gets a second place in the file, one that the image on disk counts
 *      as free; so does every table that points to it, up to L1 and the refcount table. The pending
 *      refcounts count the new places and not the old ones.
 *   2. The tables are written there. New data was written to free clusters before.
 *   3. fdatasync.
 *   4. One write of 72 bytes in the header's first sector points to the new L1 and refcount tables.
 *   5. fdatasync. Only now may anything that the old image used be written to.
 *
 * A crash before 4 leaves the old image, after 4 the new one, whole; each is clean for `qemu-img
 * check`, without leaks: all of this for the price of the two fdatasyncs that the classic order
 * (data and refcounts, then L2) needs as well. What step 4 relies on is that a disk writes 512
 * bytes or does not.
 *
 * A table that a snapshot uses as well loses one reference by its move and stays what it is.
 *
 * Otherwise the old place of a table becomes the second place of its next version. It differs from
 * the current one only in the pages that just changed, so a commit writes these and those changed
 * now: a few pages for each table.
 *
 * A commit that fails before 3 (a full disk) changed nothing in the image and is simply tried again
 * by the next flush. After a failed fdatasync nobody knows what the file holds (the kernel drops
 * the pages it could not write): then the disk takes no more writes until it is opened again, which
 * finds the last committed image.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGES_PER_WRITE 16u

static uint64_t table_clusters(const struct cow_disk *disk, const struct cow_table *table)
{
    return cow_clusters(disk, table->bytes);
}

static void stale_set(struct cow_table *table, uint32_t page)
{
    table->stale[page / 64] |= 1ull << (page % 64);
}

static bool stale_get(const struct cow_table *table, uint32_t page)
{
    return table->stale[page / 64] >> (page % 64) & 1;
}

/* ---- step 1: places -------------------------------------------------------------------------- */

/* Asks the file system for the space now. */
static int claim_space(struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    if (fallocate(disk->fd, 0, (off_t)offset, (off_t)length) == 0)
        return 0;
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
        return -ENOSPC;
    return 0; /* the file system cannot promise: the write itself will tell */
}

int cow_table_reserve(struct cow_disk *disk, struct cow_table *table)
{
    uint64_t n = table_clusters(disk, table), first, fresh;
    bool all_zero;
    int r;

    if (table->other)
        return 0;
    r = cow_alloc_reserve_exactly(disk, n, &first, &fresh);
    if (r < 0)
        return r;
    r = claim_space(disk, first << disk->cluster_bits, (uint64_t)table->n_pages * disk->page_bytes);
    if (r < 0) {
        cow_alloc_release(disk, first, n);
        return r;
    }
    table->other = first << disk->cluster_bits;
    all_zero = table->active == 0 && table->other >= fresh;
    for (uint32_t i = 0; i < table->n_pages; i++) {
        if (!all_zero)
            stale_set(table, i);
    }
    return 0;
}

int cow_reserve_for_change(struct cow_disk *disk, struct cow_page *l2_page)
{
    struct cow_table *tables[] = {l2_page->table, disk->l1, disk->rt};
    int r = 0;

    l2_page->pins++;
    for (size_t i = 0; i < 3 && r == 0; i++)
        r = cow_table_reserve(disk, tables[i]);
    l2_page->pins--;
    return r;
}

static int update_parent(struct cow_disk *disk, const struct cow_table *table)
{
    switch (table->kind) {
    case COW_TABLE_L2:
        return cow_table_set_entry(disk, disk->l1, table->index, table->other | QCOW_COPIED);
    case COW_TABLE_RB: return cow_table_set_entry(disk, disk->rt, table->index, table->other);
    case COW_TABLE_L1:
    case COW_TABLE_RT: break; /* the header, in step 4 */
    }
    return 0;
}

void cow_file_must_hold(struct cow_disk *disk, uint64_t first, uint64_t n)
{
    uint64_t end = (first + n) << disk->cluster_bits;

    if (disk->used_end < end)
        disk->used_end = end;
}

/* Counts the new place, uncounts the old one: pending. */
static int recount(struct cow_disk *disk, struct cow_table *table)
{
    uint64_t n = table_clusters(disk, table);
    int r = cow_refcount_set(disk, table->other >> disk->cluster_bits, n, 1);

    cow_file_must_hold(disk, table->other >> disk->cluster_bits, n);
    for (uint64_t i = 0; i < n && r >= 0 && table->active; i++) {
        r = cow_refcount_drop(disk, (table->active >> disk->cluster_bits) + i, true);
        if (r > 0 && table->kind != COW_TABLE_L2)
            return -EIO; /* nobody can share these */
        if (r > 0)
            table->shared = true;
    }
    return r < 0 ? r : 0;
}

static int move_table(struct cow_disk *disk, struct cow_table *table)
{
    int r = cow_table_reserve(disk, table);

    if (r < 0)
        return r;
    table->moving = true;
    table->next_moving = disk->moving;
    disk->moving = table;
    r = recount(disk, table);
    if (r >= 0)
        r = update_parent(disk, table);
    if (r < 0)
        disk->broken = true; /* the pending state is half changed */
    return r;
}

/* Moving one table changes others, refcount blocks above all; each moves once. */
static int move_changed_tables(struct cow_disk *disk)
{
    bool again;

    do {
        again = false;
        for (size_t i = 0; i < disk->cache->n_slots; i++) {
            struct cow_page *page = disk->cache->slot[i];
            if (!page->dirty || page->table->disk != disk || page->table->moving)
                continue;
            int r = move_table(disk, page->table);
            if (r < 0)
                return r;
            again = true;
        }
    } while (again);
    return 0;
}

/* ---- step 2: contents ------------------------------------------------------------------------ */

static bool page_wanted(const struct cow_table *table, uint32_t page)
{
    return stale_get(table, page) || (table->page[page] && table->page[page]->dirty);
}

/* Writes pages [first, first + n) of the next version. */
static int write_pages(struct cow_disk *disk, const struct cow_table *table, uint32_t first,
                       uint32_t n)
{
    _Alignas(COW_PAGE_BYTES) uint8_t buffer[PAGES_PER_WRITE * COW_PAGE_BYTES];
    uint64_t start = (uint64_t)first * disk->page_bytes;
    size_t length = (size_t)n * disk->page_bytes;
    bool all_here = true;

    for (uint32_t i = 0; i < n; i++)
        all_here = all_here && table->page[first + i];
    memset(buffer, 0, length);
    if (!all_here && table->active) {
        size_t valid = cow_min(length, table->bytes - start);
        int r = cow_read_full(disk->fd, buffer, valid, table->active + start);
        if (r < 0)
            return r;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct cow_page *page = table->page[first + i];
        if (page)
            memcpy(buffer + (size_t)i * disk->page_bytes, page->entry, disk->page_bytes);
    }
    return cow_write_full(disk->fd, buffer, length, table->other + start);
}

static int write_table(struct cow_disk *disk, struct cow_table *table)
{
    /* From here on the second place is neither old nor new, whatever happens. */
    for (uint32_t i = 0; i < table->n_pages; i++) {
        if (page_wanted(table, i))
            stale_set(table, i);
    }
    for (uint32_t i = 0; i < table->n_pages;) {
        uint32_t n = 0;
        while (n < PAGES_PER_WRITE && i + n < table->n_pages && stale_get(table, i + n))
            n++;
        if (n > 0) {
            int r = write_pages(disk, table, i, n);
            if (r < 0)
                return r;
        }
        i += n ? n : 1;
    }
    return 0;
}

/* A cluster in use must not begin past the end of the file: the file grows to hold all of them, the
 * unwritten parts as holes. */
static int extend_file(const struct cow_disk *disk)
{
    struct stat st;

    if (fstat(disk->fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size >= disk->used_end)
        return 0;
    if (ftruncate(disk->fd, (off_t)disk->used_end) < 0)
        return errno == EFBIG ? -ENOSPC : -errno;
    return 0;
}

static int write_tables(struct cow_disk *disk)
{
    for (struct cow_table *table = disk->moving; table; table = table->next_moving) {
        int r = write_table(disk, table);
        if (r < 0)
            return r;
    }
    return extend_file(disk);
}

/* ---- steps 3 to 5 ---------------------------------------------------------------------------- */

static int sync_or_break(struct cow_disk *disk)
{
    int r = cow_sync(disk->fd);

    if (r < 0)
        disk->broken = true;
    else
        disk->unsynced = false;
    return r;
}

static uint64_t next_place(const struct cow_table *table)
{
    return table->moving ? table->other : table->active;
}

static int switch_header(struct cow_disk *disk)
{
    const struct cow_header *h = &disk->header;
    struct {
        uint64_t size;
        uint32_t crypt, l1_size;
        uint64_t l1_offset, rt_offset;
        uint32_t rt_clusters, n_snapshots;
        uint64_t snapshots_offset, incompatible, compatible, autoclear;
    } __attribute__((packed)) fields = {
        .size = htobe64(h->size),
        .l1_size = htobe32(h->l1_size),
        .l1_offset = htobe64(next_place(disk->l1)),
        .rt_offset = htobe64(next_place(disk->rt)),
        .rt_clusters = htobe32((uint32_t)table_clusters(disk, disk->rt)),
        .n_snapshots = htobe32(h->n_snapshots),
        .snapshots_offset = htobe64(h->snapshots_offset),
        .incompatible = htobe64(h->incompatible),
        .compatible = htobe64(h->compatible),
        .autoclear = htobe64(disk->autoclearing ? 0 : h->autoclear),
    };
    size_t length = (h->version < 3 ? QCOW_H_SNAPSHOTS : QCOW_H_REFCOUNT_ORDER) - QCOW_H_SIZE;
    int r;

    _Static_assert(sizeof(fields) == QCOW_H_REFCOUNT_ORDER - QCOW_H_SIZE, "as in the header");
    disk->unsynced = true;
    r = cow_write_full(disk->fd, &fields, length, QCOW_H_SIZE);
    /* Some bytes of one page: refused for lack of space (copy-on-write file systems), nothing
     * changed. */
    if (r < 0 && r != -ENOSPC)
        disk->broken = true;
    return r;
}

/* The new place is the place; the old one, out of date by this commit's pages, is the second,
 * unless it belongs to a snapshot. */
static void swap_places(struct cow_table *table)
{
    uint64_t old = table->active;

    table->active = table->other;
    table->other = table->shared ? 0 : old;
    table->shared = table->moving = false;
    memset(table->stale, 0, (table->n_pages + 63) / 64 * sizeof(*table->stale));
    for (uint32_t i = 0; i < table->n_pages; i++) {
        if (table->page[i] && table->page[i]->dirty) {
            stale_set(table, i);
            cow_page_clean(table->page[i]);
        }
    }
}

static void finish(struct cow_disk *disk)
{
    while (disk->moving) {
        struct cow_table *table = disk->moving;
        disk->moving = table->next_moving;
        swap_places(table);
    }
    disk->header.l1_offset = disk->l1->active;
    disk->header.rt_offset = disk->rt->active;
    if (disk->autoclearing)
        disk->header.autoclear = 0;
    disk->header_dirty = disk->autoclearing = false;
    cow_alloc_committed(disk);
}

int cow_commit(struct cow_disk *disk)
{
    int r;

    if (disk->broken)
        return -EIO;
    if (disk->n_dirty == 0 && !disk->header_dirty)
        return disk->unsynced ? sync_or_break(disk) : 0;
    disk->unsynced = true;
    r = cow_alloc_prepare(disk);
    if (r < 0)
        return r;
    r = move_changed_tables(disk);
    if (r < 0)
        return r;
    r = write_tables(disk);
    if (r < 0)
        return r;
    r = sync_or_break(disk);
    if (r < 0)
        return r;
    r = switch_header(disk);
    if (r < 0)
        return r;
    r = sync_or_break(disk);
    if (r < 0)
        return r;
    finish(disk);
    return 0;
}

static bool is_full(const struct cow_disk *disk)
{
    return disk->n_dirty >= COW_MAX_DIRTY_PAGES || disk->alloc.n_freed >= COW_MAX_FREED;
}

bool cow_commit_is_due(const struct cow_disk *disk)
{
    return is_full(disk) || disk->header.autoclear;
}

int cow_commit_if_full(struct cow_disk *disk)
{
    if (disk->broken)
        return -EIO;
    if (disk->header.autoclear) {
        int r = cow_autoclear(disk);
        if (r < 0)
            return r;
    }
    if (is_full(disk)) {
        int r = cow_commit(disk);
        if (r < 0)
            return r;
    }
    return cow_alloc_prepare(disk);
}
