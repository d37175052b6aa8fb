/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An overlay's content goes into its backing file. While that is being written the overlay hides
 * every place that changes; its clusters are given up only when the backing file is durable. So at
 * every moment the overlay shows what it showed before.
 */
#include "cowdisk/transfer.h"

#include <errno.h>

static int check_disks(const struct cow_disk *overlay, struct cow_error *err)
{
    if (overlay->raw || !overlay->backing) {
        cow_fail(err, "the image has no backing file to commit to");
        return -EINVAL;
    }
    if (overlay->header.n_snapshots) {
        cow_fail(err, "its snapshots read from the backing file as it is: convert them first");
        return -ENOTSUP;
    }
    if (overlay->header.has_identity) {
        cow_fail(err, "its backing file is a template: guests depend on it as it is");
        return -ENOTSUP;
    }
    if (!overlay->writable || !overlay->backing->writable) {
        cow_fail(err, "the image or its backing file is not open for writing");
        return -EROFS;
    }
    return 0;
}

/* Pieces end where clusters of any size do, so that zeroes stay zero clusters. */
static int commit_piece(struct transfer *t, struct cow_disk *overlay, uint64_t offset,
                        uint64_t *ret_length)
{
    uint64_t left = overlay->size - offset;
    struct cow_map map;
    struct iovec iov;
    int r = cow_map(overlay, offset, left, &map);

    t->verb = "reading the image";
    if (r < 0)
        return r;
    *ret_length = map.length;
    if (map.kind == COW_MAP_BACKING)
        return 0;
    if (map.kind == COW_MAP_DATA) {
        *ret_length = cow_min(map.length, TRANSFER_BYTES - offset % TRANSFER_BYTES);
        iov = (struct iovec){.iov_base = t->data, .iov_len = *ret_length};
        r = cow_preadv(overlay, &iov, 1, offset);
        if (r < 0)
            return r;
    }
    t->verb = "writing to the backing file";
    if (map.kind == COW_MAP_ZERO)
        return cow_write_zeroes(overlay->backing, offset, *ret_length);
    return transfer_write(overlay->backing, t->data, *ret_length, offset);
}

static int commit_all(struct transfer *t, struct cow_disk *overlay)
{
    for (uint64_t offset = 0; offset < overlay->size;) {
        uint64_t length;
        int r = commit_piece(t, overlay, offset, &length);

        if (r < 0)
            return r;
        offset += length;
        r = transfer_tell(t, offset);
        if (r < 0)
            return r;
    }
    t->verb = "writing to the backing file";
    return cow_flush(overlay->backing);
}

int cow_commit_to_backing(struct cow_disk *overlay, unsigned flags, cow_progress_fn progress,
                          void *opaque, struct cow_error *err)
{
    struct transfer t;
    int r = transfer_start(&t, overlay->size, progress, opaque, err);

    if (r == 0)
        r = check_disks(overlay, err);
    if (r == 0)
        r = cow_flush(overlay);
    if (r == 0 && overlay->size > overlay->backing->size)
        r = cow_resize(overlay->backing, overlay->size, 0, err);
    if (r == 0)
        r = commit_all(&t, overlay);
    if (r == 0 && !(flags & COW_KEEP)) {
        t.verb = "emptying the image";
        r = cow_truncate_map(overlay, 0);
    }
    return transfer_end(&t, r);
}
