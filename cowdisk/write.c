/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing. A cluster that this image owns alone is written in place. Any other gets a new one: the
 * data goes there, together with what surrounds it in its first and last cluster, and only then the
 * L2 entry changes, in memory; a commit makes it part of the image. A failed write leaves the map
 * as it was.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>

/* One run of new clusters, side by side in the guest's disk and in the file. */
struct run {
    uint64_t offset, length; /* guest bytes to write */
    uint64_t first_guest;    /* cluster */
    uint64_t first_host, n;  /* clusters */
    uint64_t fresh;          /* the file was never written from here on */
    struct cow_page *page;   /* of the L2 table, pinned */
    uint32_t slot;
};

/* ---- data ------------------------------------------------------------------------------------ */

/* Old bytes [offset, offset + length) around the write into `buffer`. *ret_skip: no need to write
 * them, because they are zeroes and so is the cluster. */
static int surroundings(struct cow_disk *disk, uint8_t *buffer, uint64_t offset, uint64_t length,
                        bool fresh, bool *ret_skip)
{
    int r = cow_read_memory(disk, buffer, offset, length);

    if (r == 0)
        *ret_skip = fresh && cow_is_zero(buffer, length);
    return r;
}

static int write_data(struct cow_disk *disk, const struct run *run, struct cow_iter *iter)
{
    uint64_t host = run->first_host << disk->cluster_bits;
    uint64_t start = run->first_guest << disk->cluster_bits;
    uint64_t end = start + (run->n << disk->cluster_bits);
    uint64_t last_host = (run->first_host + run->n - 1) << disk->cluster_bits;
    uint64_t head = run->offset - start, tail = end - run->offset - run->length;
    uint8_t *before = disk->bounce, *after = disk->bounce + disk->cluster_size;
    bool skip_head = true, skip_tail = true;
    struct cow_writer writer;
    int r = 0;

    if (head > 0)
        r = surroundings(disk, before, start, head, host >= run->fresh, &skip_head);
    if (r == 0 && tail > 0)
        r = surroundings(disk, after, end - tail, tail, last_host >= run->fresh, &skip_tail);
    if (r < 0)
        return r;
    writer.fd = disk->fd;
    writer.offset = host + (skip_head ? head : 0);
    writer.n = 0;
    r = cow_writer_add(&writer, before, skip_head ? 0 : head);
    if (r == 0)
        r = cow_writer_add_iter(&writer, iter, run->length);
    if (r == 0)
        r = cow_writer_add(&writer, after, skip_tail ? 0 : tail);
    if (r == 0)
        r = cow_writer_finish(&writer);
    return r;
}

/* ---- new clusters ---------------------------------------------------------------------------- */

/* Takes as many clusters as lie side by side, counts them, and shortens the run to that. */
static int run_allocate(struct cow_disk *disk, struct run *run)
{
    uint64_t start = run->first_guest << disk->cluster_bits, n;
    int r = cow_alloc_reserve(disk, run->n, &run->first_host, &n, &run->fresh);

    if (r < 0)
        return r;
    run->n = n;
    run->length = cow_min(run->length, start + (n << disk->cluster_bits) - run->offset);
    r = cow_refcount_set(disk, run->first_host, n, 1);
    if (r == 0)
        r = cow_alloc_reserve_block(disk, run->first_host);
    return r;
}

static void run_undo(struct cow_disk *disk, const struct run *run)
{
    if (cow_refcount_set(disk, run->first_host, run->n, 0) < 0)
        disk->broken = true;
    else
        cow_alloc_release(disk, run->first_host, run->n);
}

/* The guest's clusters are the new ones from now on; the old ones lose a reference. */
static int run_map(struct cow_disk *disk, const struct run *run)
{
    int r = 0;

    cow_page_dirty(run->page);
    cow_file_must_hold(disk, run->first_host, run->n);
    for (uint64_t i = 0; i < run->n; i++) {
        uint64_t *entry = &run->page->entry[run->slot + i], old = be64toh(*entry);
        int dropped;

        *entry = htobe64((run->first_host + i) << disk->cluster_bits | QCOW_COPIED);
        dropped = cow_entry_drop(disk, old);
        if (dropped < 0)
            r = dropped;
    }
    if (r < 0)
        disk->broken = true; /* an image whose refcounts deny its own clusters */
    return r;
}

static int run_write(struct cow_disk *disk, struct run *run, struct cow_iter *iter)
{
    int r = cow_reserve_for_change(disk, run->page);

    if (r < 0)
        return r;
    r = run_allocate(disk, run);
    if (r < 0 && run->first_host == 0)
        return r;
    if (r == 0)
        r = write_data(disk, run, iter);
    if (r < 0) {
        run_undo(disk, run);
        return r;
    }
    return run_map(disk, run);
}

/* Writes the beginning of an extent that is not ours to write in place. */
static int write_new(struct cow_disk *disk, struct cow_iter *iter, uint64_t offset, uint64_t length,
                     uint64_t *ret_done)
{
    uint64_t in_cluster = offset & (disk->cluster_size - 1);
    struct run run = {.offset = offset, .first_guest = offset >> disk->cluster_bits};
    uint32_t per_page = disk->page_bytes / sizeof(uint64_t);
    int r = cow_commit_if_full(disk);

    if (r < 0)
        return r;
    if (!disk->bounce) {
        disk->bounce = malloc(2 * disk->cluster_size);
        if (!disk->bounce)
            return -ENOMEM;
    }
    r = cow_l2_page(disk, run.first_guest, &run.page, &run.slot);
    if (r < 0)
        return r;
    run.n = cow_min(cow_clusters(disk, in_cluster + length), per_page - run.slot);
    run.n = cow_min(run.n, COW_MAX_RUN >> disk->cluster_bits);
    run.length = cow_min(length, (run.n << disk->cluster_bits) - in_cluster);
    run.page->pins++;
    r = run_write(disk, &run, iter);
    run.page->pins--;
    *ret_done = run.length;
    return r;
}

/* ---- requests -------------------------------------------------------------------------------- */

static int write_in_place(struct cow_disk *disk, struct cow_iter *iter, uint64_t host,
                          uint64_t length)
{
    struct cow_writer writer;
    int r;

    writer.fd = disk->fd;
    writer.offset = host;
    writer.n = 0;
    r = cow_writer_add_iter(&writer, iter, length);
    return r < 0 ? r : cow_writer_finish(&writer);
}

int cow_write_iter(struct cow_disk *disk, struct cow_iter *iter, uint64_t offset, uint64_t length)
{
    if (disk->broken)
        return -EIO;
    disk->unsynced = true;
    if (disk->raw)
        return write_in_place(disk, iter, offset, length);
    if (disk->header.autoclear) {
        int r = cow_autoclear(disk);
        if (r < 0)
            return r;
    }
    while (length > 0) {
        struct cow_extent extent;
        uint64_t done;
        int r = cow_lookup(disk, offset, length, &extent);
        if (r < 0)
            return r;
        done = extent.length;
        if (extent.owned)
            r = write_in_place(disk, iter, extent.host, extent.length);
        else
            r = write_new(disk, iter, offset, extent.length, &done);
        if (r < 0)
            return r;
        offset += done;
        length -= done;
    }
    return 0;
}

int cow_pwritev(struct cow_disk *disk, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    struct cow_iter iter = {.iov = iov, .iovcnt = iovcnt};
    uint64_t length;
    int r = cow_iov_bytes(iov, iovcnt, &length);

    if (r < 0)
        return r;
    if (!disk->writable || disk->alone)
        return -EROFS;
    if (offset > disk->size || length > disk->size - offset)
        return -EINVAL;
    r = cow_write_iter(disk, &iter, offset, length);
    if (r < 0)
        return r;
    disk->stats.writes++;
    disk->stats.written_bytes += length;
    return 0;
}

int cow_flush(struct cow_disk *disk)
{
    disk->stats.flushes++;
    return disk->writable ? cow_commit(disk) : 0;
}
