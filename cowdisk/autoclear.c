/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Autoclear bits stand for features whose data a program that does not know them makes wrong by
 * writing: bitmaps of changed blocks above all. Before the first change the bits are cleared, and
 * the clusters of the bitmaps, which nobody refers to from then on, are given back: both in one
 * commit, so that at no instant they are leaked.
 *
 * Bitmaps whose tables are damaged are left alone: their clusters are leaked then, which harms
 * nobody.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_BITMAPS      65535u
#define MAX_DIRECTORY    (64u << 20) /* bytes, as QEMU */
#define DIRECTORY_ENTRY  24u         /* and then extra data and a name */
#define TABLE_RESERVED   0xff000000000001feull
#define ENTRIES_PER_READ 512u

/* Goes through everything that the bitmaps use, first to look, then to give it up. */
struct walk {
    struct cow_disk *disk;
    bool give_up;
    uint64_t budget; /* clusters: no more than the file has */
};

static int use_clusters(struct walk *w, uint64_t offset, uint64_t bytes)
{
    struct cow_disk *disk = w->disk;
    uint64_t n = cow_clusters(disk, bytes);

    if (offset & (disk->cluster_size - 1) || offset == 0 || offset > disk->file_end ||
        bytes > disk->file_end - offset + disk->cluster_size || n > w->budget)
        return -EINVAL;
    w->budget -= n;
    for (uint64_t i = 0; w->give_up && i < n; i++) {
        int r = cow_refcount_drop(disk, (offset >> disk->cluster_bits) + i, false);
        if (r < 0 && r != -EIO) /* -EIO: it was not counted to begin with */
            return r;
    }
    return 0;
}

static int walk_table(struct walk *w, uint64_t offset, uint32_t n)
{
    uint64_t table[ENTRIES_PER_READ];
    int r = use_clusters(w, offset, 8ull * n); /* first: it bounds how long this takes */

    for (uint32_t i = 0; i < n && r == 0; i++) {
        uint64_t entry;
        if (i % ENTRIES_PER_READ == 0)
            r = cow_read_full(w->disk->fd, table, cow_min(n - i, ENTRIES_PER_READ) * sizeof(*table),
                              offset + 8ull * i);
        entry = r == 0 ? be64toh(table[i % ENTRIES_PER_READ]) : 0;
        if (entry & TABLE_RESERVED)
            r = -EINVAL;
        else if (entry & QCOW_OFFSET_MASK)
            r = use_clusters(w, entry & QCOW_OFFSET_MASK, w->disk->cluster_size);
    }
    return r;
}

static int walk_directory(struct walk *w, const uint8_t *directory, uint64_t bytes, uint32_t n)
{
    uint64_t at = 0;
    int r = 0;

    for (uint32_t i = 0; i < n && r == 0; i++) {
        const uint8_t *entry = directory + at;
        uint64_t length;
        if (bytes - at < DIRECTORY_ENTRY)
            return -EINVAL;
        length =
            DIRECTORY_ENTRY + (cow_get32(entry + 16) & 0xffff) + (uint64_t)cow_get32(entry + 20);
        length = (length + 7) & ~7ull;
        if (length > bytes - at)
            return -EINVAL;
        r = walk_table(w, cow_get64(entry), cow_get32(entry + 8));
        at += length;
    }
    return r;
}

static int walk_bitmaps(struct walk *w)
{
    struct cow_disk *disk = w->disk;
    uint8_t extension[24], *directory;
    uint64_t bytes, offset;
    uint32_t n;
    int r = cow_read_full(disk->fd, extension, sizeof(extension), disk->header.bitmaps_offset);

    if (r < 0)
        return r;
    n = cow_get32(extension);
    bytes = cow_get64(extension + 8);
    offset = cow_get64(extension + 16);
    w->budget = cow_clusters(disk, disk->file_end);
    if (n > MAX_BITMAPS || bytes > MAX_DIRECTORY || bytes > disk->file_end)
        return -EINVAL;
    directory = malloc(bytes ? bytes : 1);
    if (!directory)
        return -ENOMEM;
    r = cow_read_full(disk->fd, directory, bytes, offset);
    if (r == 0)
        r = walk_directory(w, directory, bytes, n);
    if (r == 0)
        r = use_clusters(w, offset, bytes);
    free(directory);
    return r;
}

int cow_autoclear(struct cow_disk *disk)
{
    struct walk walk = {.disk = disk};
    int r;

    if (disk->header.autoclear == 0)
        return 0;
    if (!disk->autoclearing) {
        r = cow_alloc_prepare(disk);
        if (r < 0)
            return r;
        if (disk->header.autoclear & QCOW_AUTOCLEAR_BITMAPS && disk->header.bitmaps_offset &&
            walk_bitmaps(&walk) == 0) {
            walk.give_up = true;
            r = walk_bitmaps(&walk);
        }
        if (r < 0) {
            disk->broken = true; /* some of it is given up, some not */
            return r;
        }
        disk->autoclearing = disk->header_dirty = true;
    }
    return cow_commit(disk);
}
