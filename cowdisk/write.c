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

/* ---- new clusters ---------------------------------------------------------------------------- */

/* Takes as many clusters as lie side by side, counts them, and shortens the run to that. */
static int run_allocate(struct cow_disk *disk, struct cow_run *run)
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
    if (r < 0)
        cow_run_undo(disk, run);
    return r;
}

int cow_run_begin(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_run *ret_run)
{
    uint64_t in_cluster = offset & (disk->cluster_size - 1);
    struct cow_run run = {.offset = offset, .first_guest = offset >> disk->cluster_bits};
    uint32_t per_page = disk->page_bytes / sizeof(uint64_t), slot;
    struct cow_page *page;
    int r = cow_l2_page(disk, run.first_guest, &page, &slot);

    if (r == 0)
        r = cow_reserve_for_change(disk, page);
    if (r < 0)
        return r;
    run.n = cow_min(cow_clusters(disk, in_cluster + length), per_page - slot);
    run.n = cow_min(run.n, COW_MAX_RUN >> disk->cluster_bits);
    run.length = cow_min(length, (run.n << disk->cluster_bits) - in_cluster);
    r = run_allocate(disk, &run);
    if (r == 0)
        *ret_run = run;
    return r;
}

void cow_run_undo(struct cow_disk *disk, const struct cow_run *run)
{
    if (cow_refcount_set(disk, run->first_host, run->n, 0) < 0)
        disk->broken = true;
    else
        cow_alloc_release(disk, run->first_host, run->n);
}

/* The guest's clusters are the new ones from now on; the old ones lose a reference. */
static int run_map(struct cow_disk *disk, const struct cow_run *run, struct cow_page *page,
                   uint32_t slot)
{
    int r = 0;

    cow_page_dirty(page); /* stays in the cache from now on */
    cow_file_must_hold(disk, run->first_host, run->n);
    for (uint64_t i = 0; i < run->n; i++) {
        uint64_t *entry = &page->entry[slot + i], old = be64toh(*entry);
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

int cow_run_end(struct cow_disk *disk, const struct cow_run *run)
{
    struct cow_page *page;
    uint32_t slot;
    int r = cow_l2_page(disk, run->first_guest, &page, &slot);

    if (r < 0) {
        cow_run_undo(disk, run);
        return r;
    }
    return run_map(disk, run, page, slot);
}

/* ---- data ------------------------------------------------------------------------------------ */

/* Old bytes [offset, offset + *length) around the write into `buffer`. None need be written
 * (*length = 0) if they are zeroes and so is the cluster. */
static int surroundings(struct cow_disk *disk, uint8_t *buffer, uint64_t offset, bool fresh,
                        uint64_t *length)
{
    int r = *length ? cow_read_memory(disk, buffer, offset, *length) : 0;

    if (r == 0 && fresh && cow_is_zero(buffer, *length))
        *length = 0;
    return r;
}

int cow_run_around(struct cow_disk *disk, const struct cow_run *run, uint8_t *buffer,
                   uint64_t *ret_head, uint64_t *ret_tail)
{
    uint64_t host = run->first_host << disk->cluster_bits;
    uint64_t start = run->first_guest << disk->cluster_bits;
    uint64_t end = start + (run->n << disk->cluster_bits);
    uint64_t last_host = (run->first_host + run->n - 1) << disk->cluster_bits;
    uint64_t head = run->offset - start, tail = end - run->offset - run->length;
    int r = surroundings(disk, buffer, start, host >= run->fresh, &head);

    if (r == 0)
        r = surroundings(disk, buffer + disk->cluster_size, end - tail, last_host >= run->fresh,
                         &tail);
    if (r < 0)
        return r;
    *ret_head = head;
    *ret_tail = tail;
    return 0;
}

uint64_t cow_run_host(const struct cow_disk *disk, const struct cow_run *run)
{
    return (run->first_host << disk->cluster_bits) + (run->offset & (disk->cluster_size - 1));
}

static int run_write(struct cow_disk *disk, const struct cow_run *run, struct cow_iter *iter)
{
    struct cow_writer writer;
    uint64_t head, tail;
    int r = cow_run_around(disk, run, disk->bounce, &head, &tail);

    if (r < 0)
        return r;
    writer.fd = disk->fd;
    writer.offset = cow_run_host(disk, run) - head;
    writer.n = 0;
    r = cow_writer_add(&writer, disk->bounce, head);
    if (r == 0)
        r = cow_writer_add_iter(&writer, iter, run->length);
    if (r == 0)
        r = cow_writer_add(&writer, disk->bounce + disk->cluster_size, tail);
    if (r == 0)
        r = cow_writer_finish(&writer);
    return r;
}

/* Writes the beginning of an extent that is not ours to write in place. */
static int write_new(struct cow_disk *disk, struct cow_iter *iter, uint64_t offset, uint64_t length,
                     uint64_t *ret_done)
{
    struct cow_run run;
    int r = cow_commit_if_full(disk);

    if (r < 0)
        return r;
    if (!disk->bounce) {
        disk->bounce = malloc(2 * disk->cluster_size);
        if (!disk->bounce)
            return -ENOMEM;
    }
    r = cow_run_begin(disk, offset, length, &run);
    if (r < 0)
        return r;
    r = run_write(disk, &run, iter);
    if (r < 0) {
        cow_run_undo(disk, &run);
        return r;
    }
    *ret_done = run.length;
    return cow_run_end(disk, &run);
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
