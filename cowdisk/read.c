/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading: each piece of the request from where the map says it is. Data goes from the file
 * straight into the caller's buffers.
 */
#include "cowdisk/internal.h"

#include <errno.h>

/* What is compared with hashes is told only if it matches them. */
static int read_data(struct cow_disk *disk, struct cow_iter *iter, uint64_t offset, uint64_t length)
{
    struct cow_iter start = *iter;
    int r = cow_iter_read(iter, cow_data_file(disk), length, offset);

    return r == 0 && disk->verify ? cow_verify_iter(disk, &start, offset, length) : r;
}

int cow_read_place(const struct cow_place *place, struct cow_iter *iter, uint64_t offset)
{
    const struct cow_extent *extent = &place->extent;
    struct cow_disk *disk = place->disk;
    const uint8_t *cluster;
    int r = 0;

    switch (extent->kind) {
    case COW_DATA: return read_data(disk, iter, extent->host, extent->length);
    case COW_PACKED:
        r = cow_packed_get(disk, extent->entry, &cluster);
        if (r == 0)
            cow_iter_fill(iter, cluster + (offset & (disk->cluster_size - 1)), extent->length);
        return r;
    case COW_BACKING:
    case COW_ZERO: break;
    }
    cow_iter_zero(iter, extent->length);
    return 0;
}

int cow_find_place(struct cow_disk *disk, uint64_t offset, uint64_t length,
                   struct cow_place *ret_place)
{
    struct cow_place place = {.disk = disk};
    int r;

    if (disk->raw) {
        place.extent = (struct cow_extent){.kind = COW_DATA, .host = offset, .length = length};
        *ret_place = place;
        return 0;
    }
    r = cow_lookup(disk, offset, length, &place.extent);
    if (r == 0 && place.extent.kind == COW_BACKING)
        r = cow_trace_below(disk, offset, place.extent.length, &place);
    if (r == 0)
        *ret_place = place;
    return r;
}

int cow_read_iter(struct cow_disk *disk, struct cow_iter *iter, uint64_t offset, uint64_t length)
{
    if (disk->raw)
        return read_data(disk, iter, offset, length);
    while (length > 0) {
        struct cow_place place;
        int r = cow_find_place(disk, offset, length, &place);
        if (r == 0)
            r = cow_read_place(&place, iter, offset);
        if (r < 0)
            return r;
        offset += place.extent.length;
        length -= place.extent.length;
    }
    return 0;
}

int cow_read_memory(struct cow_disk *disk, void *data, uint64_t offset, uint64_t length)
{
    uint64_t there = offset < disk->size ? cow_min(length, disk->size - offset) : 0;
    struct iovec iov = {.iov_base = data, .iov_len = there};
    struct cow_iter iter = {.iov = &iov, .iovcnt = 1};

    memset((uint8_t *)data + there, 0, length - there);
    return cow_read_iter(disk, &iter, offset, there);
}

int cow_preadv(struct cow_disk *disk, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    struct cow_iter iter = {.iov = iov, .iovcnt = iovcnt};
    uint64_t length;
    int r = cow_iov_bytes(iov, iovcnt, &length);

    if (r < 0)
        return r;
    if (offset > disk->size || length > disk->size - offset)
        return -EINVAL;
    r = cow_read_iter(disk, &iter, offset, length);
    if (r < 0)
        return r;
    disk->stats.reads++;
    disk->stats.read_bytes += length;
    return 0;
}

bool cow_extent_is_zero(const struct cow_disk *disk, const struct cow_extent *extent,
                        uint64_t offset)
{
    if (extent->kind == COW_BACKING)
        return cow_below(disk, offset) == 0;
    return extent->kind == COW_ZERO;
}
