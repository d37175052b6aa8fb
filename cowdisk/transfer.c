/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The steps that convert, commit and rebase share.
 */
#include "cowdisk/transfer.h"

#include <errno.h>
#include <stdlib.h>

int transfer_start(struct transfer *t, uint64_t total, cow_progress_fn progress, void *opaque,
                   struct cow_error *err)
{
    cow_fail(err, "%s", "");
    *t = (struct transfer){
        .total = total, .verb = "", .progress = progress, .opaque = opaque, .err = err};
    t->data = malloc(TRANSFER_BYTES);
    return t->data ? 0 : -ENOMEM;
}

int transfer_end(struct transfer *t, int r)
{
    free(t->data);
    if (r < 0 && t->err && t->err->text[0] == '\0')
        cow_fail(t->err, "%s%s%s", t->verb, *t->verb ? ": " : "", strerror(-r));
    return r;
}

int transfer_tell(const struct transfer *t, uint64_t done)
{
    return t->progress && t->progress(t->opaque, done, t->total) ? -ECANCELED : 0;
}

int transfer_map(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_map *ret_map)
{
    struct cow_map map = {.kind = COW_MAP_BACKING, .length = length};

    while (disk && offset < disk->size && map.kind == COW_MAP_BACKING) {
        int r = cow_map(disk, offset, cow_min(map.length, disk->size - offset), &map);
        if (r < 0)
            return r;
        disk = disk->backing;
    }
    if (map.kind == COW_MAP_BACKING)
        map.kind = COW_MAP_ZERO;
    *ret_map = map;
    return 0;
}

uint64_t transfer_run(const uint8_t *data, uint64_t length, uint64_t unit, bool *ret_zero)
{
    uint64_t at = cow_min(unit, length);

    *ret_zero = cow_is_zero(data, at);
    while (at < length) {
        uint64_t step = cow_min(unit, length - at);
        if (cow_is_zero(data + at, step) != *ret_zero)
            break;
        at += step;
    }
    return at;
}

int transfer_write(struct cow_disk *disk, const uint8_t *data, uint64_t length, uint64_t offset)
{
    uint64_t unit = disk->raw ? COW_BLOCK_SIZE : disk->cluster_size;

    for (uint64_t at = 0; at < length;) {
        bool zero;
        /* Up to the next boundary first: a cluster that is only partly covered is data. */
        uint64_t n = transfer_run(data + at, length - at, unit - (offset + at) % unit, &zero);
        struct iovec iov;
        int r;

        if ((offset + at) % unit)
            n = cow_min(n, unit - (offset + at) % unit);
        iov = (struct iovec){.iov_base = (void *)(data + at), .iov_len = n};
        r = zero ? cow_write_zeroes(disk, offset + at, n) : cow_pwritev(disk, &iov, 1, offset + at);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}
