/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Discard and write-zeroes. Whole clusters become zero clusters (L2 entry 1): an empty entry would
 * show the template through. Their old clusters go back to the file system at the next commit. Ends
 * that cover a part of a cluster are written as zeroes by write-zeroes and left alone by discard.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <fcntl.h>

static const uint8_t zeroes[65536];

/* ---- qcow2 ----------------------------------------------------------------------------------- */

/* Gives the first of the `n` entries that share a page a value that refers to no cluster. */
static int set_entries(struct cow_disk *disk, uint64_t cluster, uint64_t n, uint64_t value,
                       uint64_t *ret_done)
{
    uint32_t per_page = disk->page_bytes / sizeof(uint64_t), slot;
    struct cow_page *page;
    int r = cow_commit_if_full(disk);

    if (r < 0)
        return r;
    r = cow_l2_page(disk, cluster, &page, &slot);
    if (r < 0)
        return r;
    r = cow_reserve_for_change(disk, page);
    if (r < 0)
        return r;
    n = cow_min(n, per_page - slot);
    cow_page_dirty(page); /* stays in the cache from now on */
    for (uint64_t i = 0; i < n; i++) {
        uint64_t old = be64toh(page->entry[slot + i]);
        page->entry[slot + i] = htobe64(value);
        r = cow_entry_drop(disk, old);
        if (r < 0) {
            disk->broken = true;
            return r;
        }
    }
    *ret_done = n;
    return 0;
}

static int zero_bytes(struct cow_disk *disk, uint64_t offset, uint64_t end);

/* Version 2 has no zero clusters. Where nothing lies below, an empty entry is as good; elsewhere
 * zeroes are written. */
static int zero_run_v2(struct cow_disk *disk, uint64_t offset, uint64_t length, uint64_t *ret_done)
{
    uint64_t below = cow_below(disk, offset), done = 0;
    int r;

    if (below == 0) {
        r = set_entries(disk, offset >> disk->cluster_bits, cow_clusters(disk, length), 0, &done);
        done <<= disk->cluster_bits;
    } else {
        done = cow_min(length, cow_clusters(disk, below) << disk->cluster_bits);
        r = zero_bytes(disk, offset, offset + done);
    }
    if (r == 0)
        *ret_done = done;
    return r;
}

static int zero_run(struct cow_disk *disk, uint64_t offset, uint64_t length, uint64_t *ret_done)
{
    uint64_t n;
    int r;

    if (disk->header.version < 3)
        return zero_run_v2(disk, offset, length, ret_done);
    r = set_entries(disk, offset >> disk->cluster_bits, cow_clusters(disk, length), QCOW_ZERO, &n);
    if (r == 0)
        *ret_done = n << disk->cluster_bits;
    return r;
}

static int zero_clusters(struct cow_disk *disk, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        struct cow_extent extent;
        uint64_t done = 0;
        int r = cow_lookup(disk, offset, end - offset, &extent);
        if (r < 0)
            return r;
        if (cow_extent_is_zero(disk, &extent, offset)) {
            offset += extent.length;
            continue;
        }
        r = zero_run(disk, offset, extent.length, &done);
        if (r < 0)
            return r;
        offset += cow_min(done, end - offset);
    }
    return 0;
}

/* Part of a cluster. */
static int zero_bytes(struct cow_disk *disk, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        struct cow_extent extent;
        int r = cow_lookup(disk, offset, end - offset, &extent);
        if (r < 0)
            return r;
        extent.length = cow_min(extent.length, sizeof(zeroes));
        if (!cow_extent_is_zero(disk, &extent, offset)) {
            struct iovec iov = {.iov_base = (void *)zeroes, .iov_len = extent.length};
            struct cow_iter iter = {.iov = &iov, .iovcnt = 1};
            r = cow_write_iter(disk, &iter, offset, extent.length);
            if (r < 0)
                return r;
        }
        offset += extent.length;
    }
    return 0;
}

int cow_zero_range(struct cow_disk *disk, uint64_t offset, uint64_t end)
{
    uint64_t mask = disk->cluster_size - 1, start = cow_min((offset + mask) & ~mask, end);
    int r = zero_bytes(disk, offset, start);

    return r < 0 ? r : zero_clusters(disk, start, end);
}

/* Version 2 has no zero clusters: zeroes are written, a cluster at most. */
static int pin_v2(struct cow_disk *disk, uint64_t offset, uint64_t length, uint64_t *ret_done)
{
    uint64_t n = cow_min(length, sizeof(zeroes));
    struct iovec iov = {.iov_base = (void *)zeroes, .iov_len = n};
    struct cow_iter iter = {.iov = &iov, .iovcnt = 1};

    *ret_done = n;
    return cow_write_iter(disk, &iter, offset, n);
}

int cow_pin_zeroes(struct cow_disk *disk, uint64_t offset, uint64_t end)
{
    while (offset < end) {
        struct cow_extent extent;
        uint64_t done = 0;
        int r = cow_lookup(disk, offset, end - offset, &extent);
        if (r < 0)
            return r;
        if (extent.kind != COW_BACKING) {
            offset += extent.length;
            continue;
        }
        if (disk->header.version < 3) {
            r = pin_v2(disk, offset, extent.length, &done);
        } else {
            r = set_entries(disk, offset >> disk->cluster_bits, cow_clusters(disk, extent.length),
                            QCOW_ZERO, &done);
            done <<= disk->cluster_bits;
        }
        if (r < 0)
            return r;
        offset += cow_min(done, end - offset);
    }
    return 0;
}

int cow_unmap_range(struct cow_disk *disk, uint64_t start, uint64_t end)
{
    while (start < end) {
        struct cow_extent extent;
        uint64_t done;
        int r = cow_lookup(disk, start, end - start, &extent);
        if (r < 0)
            return r;
        if (extent.kind == COW_BACKING) {
            start += extent.length;
            continue;
        }
        r = set_entries(disk, start >> disk->cluster_bits, cow_clusters(disk, extent.length), 0,
                        &done);
        if (r < 0)
            return r;
        start += cow_min(done << disk->cluster_bits, end - start);
    }
    return 0;
}

/* The whole clusters inside a range; the disk's last cluster counts as whole up to its end. */
static void whole_clusters(const struct cow_disk *disk, uint64_t offset, uint64_t length,
                           uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t mask = disk->cluster_size - 1, end = offset + length;

    *ret_start = (offset + mask) & ~mask;
    *ret_end = end == disk->size ? end : end & ~mask;
}

static int qcow_write_zeroes(struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    uint64_t start, end;
    int r;

    whole_clusters(disk, offset, length, &start, &end);
    if (start >= end)
        return zero_bytes(disk, offset, offset + length);
    r = zero_bytes(disk, offset, start);
    if (r == 0)
        r = zero_clusters(disk, start, end);
    if (r == 0)
        r = zero_bytes(disk, end, offset + length);
    return r;
}

/* ---- raw ------------------------------------------------------------------------------------- */

static int raw_write_zeroes(struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    if (fallocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                  (off_t)length) == 0)
        return 0;
    while (length > 0) {
        size_t n = cow_min(length, sizeof(zeroes));
        int r = cow_write_full(disk->fd, zeroes, n, offset);
        if (r < 0)
            return r;
        offset += n;
        length -= n;
    }
    return 0;
}

/* ---- requests -------------------------------------------------------------------------------- */

static int check_request(const struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    if (!disk->writable || disk->alone)
        return -EROFS;
    if (offset > disk->size || length > disk->size - offset)
        return -EINVAL;
    return disk->broken ? -EIO : 0;
}

int cow_write_zeroes(struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    int r = check_request(disk, offset, length);

    if (r < 0 || length == 0)
        return r;
    disk->unsynced = true;
    r = disk->raw ? raw_write_zeroes(disk, offset, length)
                  : qcow_write_zeroes(disk, offset, length);
    if (r < 0)
        return r;
    disk->stats.writes++;
    return 0;
}

int cow_discard(struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    uint64_t start, end;
    int r = check_request(disk, offset, length);

    if (r < 0 || length == 0)
        return r;
    disk->unsynced = true;
    if (disk->raw) {
        r = raw_write_zeroes(disk, offset, length);
    } else {
        whole_clusters(disk, offset, length, &start, &end);
        r = start < end ? zero_clusters(disk, start, end) : 0;
    }
    if (r < 0)
        return r;
    disk->stats.discards++;
    return 0;
}
