/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One disk, as a whole, into a new file: raw and sparse, or qcow2. Nobody knows the new file before
 * it is complete and durable, so there is nothing to keep in order on the way.
 */
#include "cowdisk/transfer.h"

#include <errno.h>
#include <unistd.h>

struct convert {
    struct transfer t;
    struct cow_disk *from;
    struct cow_disk *to;   /* NULL: raw */
    struct packer *packer; /* NULL: no compression */
    int fd;
};

static int put_raw(struct convert *c, uint64_t length, uint64_t offset)
{
    for (uint64_t at = 0; at < length;) {
        bool zero;
        uint64_t n = transfer_run(c->t.data + at, length - at, COW_BLOCK_SIZE, &zero);
        int r = zero ? 0 : cow_write_full(c->fd, c->t.data + at, n, offset + at);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}

static int put_qcow(struct convert *c, uint64_t length, uint64_t offset)
{
    uint64_t cluster = c->to->cluster_size;

    for (uint64_t at = 0; at < length;) {
        bool zero;
        uint64_t n = transfer_run(c->t.data + at, length - at, cluster, &zero);
        struct iovec iov;
        int r = 0;

        if (c->packer)
            n = cow_min(n, cluster);
        iov = (struct iovec){.iov_base = c->t.data + at, .iov_len = n};
        if (!zero && c->packer)
            r = packer_write(c->packer, c->t.data + at, n, offset + at);
        else if (!zero)
            r = cow_pwritev(c->to, &iov, 1, offset + at);
        if (r < 0)
            return r;
        at += n;
    }
    return 0;
}

/* The next piece: *ret_length > 0; data is in the buffer unless *ret_zero. Pieces of data begin at
 * a multiple of the buffer's length, so at the beginning of a cluster of whatever size. */
static int get(struct convert *c, uint64_t offset, uint64_t *ret_length, bool *ret_zero)
{
    uint64_t left = c->from->size - offset, piece = TRANSFER_BYTES - offset % TRANSFER_BYTES;
    struct cow_map map;
    struct iovec iov;
    int r = transfer_map(c->from, offset, left, &map);

    if (r < 0)
        return r;
    *ret_zero = map.kind == COW_MAP_ZERO && (map.length >= piece || map.length == left);
    if (*ret_zero) {
        *ret_length =
            map.length == left ? left : map.length - (offset + map.length) % TRANSFER_BYTES;
        return 0;
    }
    *ret_length = cow_min(piece, left);
    iov = (struct iovec){.iov_base = c->t.data, .iov_len = *ret_length};
    return cow_preadv(c->from, &iov, 1, offset);
}

/* Of an image with tables EIO is more likely to be damage than a broken disk. */
static int read_failed(struct convert *c, int r, uint64_t offset)
{
    c->t.verb = "reading the image";
    if (r == -EIO && !c->from->raw)
        cow_fail(c->t.err,
                 "the image is damaged or truncated (near byte %llu of the disk): "
                 "see vmctl image check",
                 (unsigned long long)offset);
    return r;
}

static int copy(struct convert *c)
{
    for (uint64_t offset = 0; offset < c->from->size;) {
        uint64_t length;
        bool zero;
        int r = get(c, offset, &length, &zero);

        if (r < 0)
            return read_failed(c, r, offset);
        if (!zero)
            r = c->to ? put_qcow(c, length, offset) : put_raw(c, length, offset);
        if (r < 0) {
            c->t.verb = "writing the new image";
            return r;
        }
        offset += length;
        r = transfer_tell(&c->t, offset);
        if (r < 0)
            return r;
    }
    return 0;
}

static int make_raw(struct convert *c)
{
    int r = ftruncate(c->fd, (off_t)c->from->size) < 0 ? -errno : 0;

    if (r == 0)
        r = copy(c);
    return r < 0 ? r : cow_sync(c->fd);
}

static int make_qcow(struct convert *c, const struct cow_convert_options *options)
{
    struct cow_create_options create = {.size = c->from->size,
                                        .cluster_bits = options->cluster_bits};
    struct cow_open_options open = {.fd = c->fd, .format = COW_FORMAT_QCOW2, .data_fd = -1};
    int r = cow_create(c->fd, &create, c->t.err), closed;

    if (r == 0)
        r = cow_open(&c->to, &open, c->t.err);
    if (r == 0 && options->compress)
        r = packer_new(&c->packer, c->to);
    if (r == 0)
        r = copy(c);
    packer_free(c->packer);
    closed = cow_close(c->to);
    return r < 0 ? r : closed;
}

int cow_convert(struct cow_disk *disk, int fd, const struct cow_convert_options *options,
                cow_progress_fn progress, void *opaque, struct cow_error *err)
{
    struct convert c = {.from = disk, .fd = fd};
    int r = transfer_start(&c.t, disk->size, progress, opaque, err);

    if (r == 0)
        r = options->format == COW_FORMAT_QCOW2 ? make_qcow(&c, options) : make_raw(&c);
    return transfer_end(&c.t, r);
}
