/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk's end. The size stands in the same sector of the header as the positions of the tables, so
 * a commit changes both at once (commit.c).
 *
 * Growing: first everything behind the old end is made to read as zeroes (a backing file may go on
 * there, a cluster that was cut may hold old bytes), then the size changes. Shrinking: first the
 * size, then what lies behind it is given back. Killed in between, the image is the old or the new
 * one; at worst it keeps clusters that nobody can see, which the next change of its size deals
 * with.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Guest bytes that one L2 table describes. */
static uint64_t l2_span(const struct cow_disk *disk)
{
    return disk->cluster_size << (disk->cluster_bits - 3);
}

static uint64_t round_up(const struct cow_disk *disk, uint64_t offset)
{
    return (offset + disk->cluster_size - 1) & ~(disk->cluster_size - 1);
}

/* The next commit gives the disk this size. */
static int commit_size(struct cow_disk *disk, uint64_t size)
{
    uint64_t old = disk->header.size;
    int r;

    disk->header.size = size;
    disk->header_dirty = true;
    r = cow_commit(disk);
    if (r < 0) {
        disk->header.size = old;
        disk->header_dirty = false;
        return r;
    }
    disk->size = size;
    return 0;
}

/* ---- growing --------------------------------------------------------------------------------- */

static int grow_l1(struct cow_disk *disk, uint64_t n_entries)
{
    struct cow_table *old = disk->l1, *grown;
    struct cow_table **l2 = realloc(disk->l2, n_entries * sizeof(*l2));
    int r;

    if (!l2)
        return -ENOMEM;
    disk->l2 = l2;
    memset(l2 + disk->header.l1_size, 0, (n_entries - disk->header.l1_size) * sizeof(*l2));
    r = cow_table_enlarge(disk, old, n_entries * sizeof(uint64_t), &grown);
    if (r < 0)
        return r;
    disk->l1 = grown;
    disk->header.l1_size = (uint32_t)n_entries;
    r = cow_table_drop(disk, old);
    if (r < 0)
        disk->broken = true;
    return r < 0 ? r : cow_alloc_prepare(disk);
}

static int grow(struct cow_disk *disk, uint64_t size, struct cow_error *err)
{
    uint64_t n_entries = (size + l2_span(disk) - 1) / l2_span(disk);
    int r = 0;

    if (n_entries > COW_MAX_L1_BYTES / sizeof(uint64_t)) {
        cow_fail(err, "a disk of %llu bytes needs larger clusters than %llu bytes",
                 (unsigned long long)size, (unsigned long long)disk->cluster_size);
        return -EINVAL;
    }
    if (n_entries > disk->header.l1_size)
        r = grow_l1(disk, n_entries);
    if (r == 0)
        r = cow_zero_range(disk, disk->size, round_up(disk, size));
    return r < 0 ? r : commit_size(disk, size);
}

/* ---- shrinking ------------------------------------------------------------------------------- */

/* An L2 table without an entry that refers to anything; nothing is pending in it. */
static int drop_l2(struct cow_disk *disk, uint32_t index)
{
    struct cow_table *table = disk->l2[index];
    uint64_t entry, offset;
    int r = cow_table_entry(disk, disk->l1, index, &entry);

    if (r < 0 || entry == 0)
        return r;
    if (table) {
        cow_table_forget(disk, table);
        cow_table_free(table);
    }
    offset = entry & QCOW_OFFSET_MASK;
    r = cow_table_set_entry(disk, disk->l1, index, 0);
    if (r == 0) {
        r = cow_refcount_drop(disk, offset >> disk->cluster_bits, false);
        if (r < 0)
            disk->broken = true;
    }
    return r < 0 ? r : 0;
}

int cow_truncate_map(struct cow_disk *disk, uint64_t start)
{
    uint64_t end = disk->header.l1_size * l2_span(disk);
    uint64_t first = (start + l2_span(disk) - 1) / l2_span(disk);
    int r = cow_unmap_range(disk, start, end);

    if (r == 0)
        r = cow_commit(disk); /* no table is being moved from here on */
    for (uint64_t i = first; i < disk->header.l1_size && r == 0; i++) {
        r = cow_commit_if_full(disk);
        if (r == 0)
            r = drop_l2(disk, (uint32_t)i);
    }
    return r < 0 ? r : cow_commit(disk);
}

/* What a failure leaves behind the end is no error: the disk has its size. */
static int shrink(struct cow_disk *disk, uint64_t size)
{
    int r = commit_size(disk, size);

    return r < 0 ? r : cow_truncate_map(disk, round_up(disk, size));
}

/* ---- both ------------------------------------------------------------------------------------ */

static int resize_raw(struct cow_disk *disk, uint64_t size, struct cow_error *err)
{
    struct stat st;

    if (fstat(disk->fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode)) {
        cow_fail(err, "a block device cannot be resized");
        return -ENOTSUP;
    }
    if (ftruncate(disk->fd, (off_t)size) < 0)
        return errno == EFBIG ? -ENOSPC : -errno;
    disk->size = disk->file_end = size;
    disk->unsynced = true;
    return cow_flush(disk);
}

static int check_request(const struct cow_disk *disk, uint64_t size, unsigned flags,
                         struct cow_error *err)
{
    if (!disk->writable || disk->alone) {
        cow_fail(err, "the image is not open for writing");
        return -EROFS;
    }
    if (disk->broken)
        return -EIO;
    if (size == 0 || size % 512 || size > COW_MAX_VIRTUAL_SIZE) {
        cow_fail(err, "disk size %llu is not a multiple of 512 from 512 bytes to 64 TiB",
                 (unsigned long long)size);
        return -EINVAL;
    }
    if (!disk->raw && disk->header.version < 3 && disk->header.n_snapshots) {
        cow_fail(err, "snapshots of a version 2 image do not know their size: convert it first");
        return -ENOTSUP;
    }
    if (size < disk->size && !(flags & COW_SHRINK)) {
        cow_fail(err, "the disk has %llu bytes; to make it smaller would cut data off",
                 (unsigned long long)disk->size);
        return -EINVAL;
    }
    return 0;
}

int cow_resize(struct cow_disk *disk, uint64_t size, unsigned flags, struct cow_error *err)
{
    int r;

    cow_fail(err, "%s", "");
    r = check_request(disk, size, flags, err);
    if (r == 0 && size == disk->size)
        return 0;
    if (r == 0 && disk->raw)
        r = resize_raw(disk, size, err);
    else if (r == 0)
        r = cow_commit_if_full(disk); /* bitmaps go: they are for the old size */
    if (r == 0 && !disk->raw)
        r = cow_commit(disk);
    if (r == 0 && !disk->raw)
        r = size > disk->size ? grow(disk, size, err) : shrink(disk, size);
    if (r < 0 && err && err->text[0] == '\0')
        cow_fail(err, "%s", strerror(-r));
    return r;
}
