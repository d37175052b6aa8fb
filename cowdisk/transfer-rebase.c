/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Another backing file under an image. What the image takes from below is compared with what the
 * new backing file shows there; clusters that differ are copied into the image, which changes
 * nothing for whoever reads it. Only then, in one step, does the header name the new one.
 */
#include "cowdisk/transfer.h"

#include <errno.h>
#include <stdlib.h>

struct rebase {
    struct transfer t;
    struct cow_disk *disk, *below; /* the new one; NULL: none */
    uint8_t *other;                /* TRANSFER_BYTES of what it shows */
};

static int read_below(struct rebase *b, uint64_t offset, uint64_t length)
{
    if (b->below)
        return cow_read_memory(b->below, b->other, offset, length);
    memset(b->other, 0, length);
    return 0;
}

/* Whole clusters from `at` on that differ, or do not. */
static uint64_t same_run(const struct rebase *b, uint64_t at, uint64_t length, bool *ret_same)
{
    uint64_t end = at;

    while (end < length) {
        uint64_t step = cow_min(b->disk->cluster_size, length - end);
        bool same = memcmp(b->t.data + end, b->other + end, step) == 0;
        if (end == at)
            *ret_same = same;
        else if (same != *ret_same)
            break;
        end += step;
    }
    return end - at;
}

/* Whole clusters go into the image. Zeroes, too: that nothing lies below them now says nothing of
 * the new backing file. */
static int keep(struct rebase *b, uint64_t at, uint64_t length, uint64_t offset)
{
    for (uint64_t end = at + length; at < end;) {
        bool zero;
        uint64_t n = transfer_run(b->t.data + at, end - at, b->disk->cluster_size, &zero);
        struct iovec iov = {.iov_base = b->t.data + at, .iov_len = n};
        int r = zero ? cow_pin_zeroes(b->disk, offset + at, offset + at + n)
                     : cow_pwritev(b->disk, &iov, 1, offset + at);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}

static int copy_differences(struct rebase *b, uint64_t length, uint64_t offset)
{
    for (uint64_t at = 0; at < length;) {
        bool same = true;
        uint64_t n = same_run(b, at, length, &same);
        int r = same ? 0 : keep(b, at, n, offset);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}

/* The beginning of a range that comes from below. */
static int rebase_piece(struct rebase *b, uint64_t offset, uint64_t length, uint64_t *ret_length)
{
    struct cow_map before, after;
    struct iovec iov;
    int r = transfer_map(b->disk, offset, length, &before);

    b->t.verb = "reading the old backing file";
    if (r < 0)
        return r;
    b->t.verb = "reading the new backing file";
    r = transfer_map(b->below, offset, length, &after);
    if (r < 0)
        return r;
    *ret_length = cow_min(before.length, after.length) & ~(b->disk->cluster_size - 1);
    if (before.kind == COW_MAP_ZERO && after.kind == COW_MAP_ZERO && *ret_length)
        return 0;
    *ret_length = cow_min(length, TRANSFER_BYTES - offset % TRANSFER_BYTES);
    r = read_below(b, offset, *ret_length);
    if (r < 0)
        return r;
    b->t.verb = "reading the old backing file";
    iov = (struct iovec){.iov_base = b->t.data, .iov_len = *ret_length};
    r = cow_preadv(b->disk, &iov, 1, offset);
    if (r < 0)
        return r;
    b->t.verb = "writing to the image";
    return copy_differences(b, *ret_length, offset);
}

static int copy_all(struct rebase *b)
{
    uint64_t size = b->disk->size;

    for (uint64_t offset = 0; offset < size;) {
        struct cow_map map;
        uint64_t length;
        int r = cow_map(b->disk, offset, size - offset, &map);

        b->t.verb = "reading the image";
        length = map.length;
        if (r == 0 && map.kind == COW_MAP_BACKING)
            r = rebase_piece(b, offset, map.length, &length);
        if (r < 0)
            return r;
        offset += length;
        r = transfer_tell(&b->t, offset);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_disk(const struct cow_disk *disk, bool unsafe, struct cow_error *err)
{
    if (disk->raw) {
        cow_fail(err, "a raw image has no backing file");
        return -EINVAL;
    }
    if (disk->header.n_snapshots && !unsafe) {
        cow_fail(err, "its snapshots read from the old backing file: convert them first");
        return -ENOTSUP;
    }
    if (!disk->writable) {
        cow_fail(err, "the image is not open for writing");
        return -EROFS;
    }
    return 0;
}

int cow_rebase(struct cow_disk *disk, const struct cow_rebase_options *options,
               cow_progress_fn progress, void *opaque, struct cow_error *err)
{
    struct rebase b = {.disk = disk, .below = options->backing};
    int r = transfer_start(&b.t, disk->size, progress, opaque, err);

    b.other = malloc(TRANSFER_BYTES);
    if (!b.other)
        r = -ENOMEM;
    if (r == 0)
        r = check_disk(disk, options->unsafe, err);
    if (r == 0 && !options->unsafe)
        r = disk->alone ? -EROFS : copy_all(&b);
    if (r == 0) {
        b.t.verb = "writing to the image";
        r = cow_flush(disk);
    }
    if (r == 0)
        r = cow_set_backing_name(disk, options->backing_name, options->backing_format, err);
    free(b.other);
    return transfer_end(&b.t, r);
}
