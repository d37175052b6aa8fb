/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing compressed clusters, one after the other: deflated data fills host clusters end to end,
 * and each host cluster is counted once for every guest cluster that lies in it. A cluster that
 * does not become smaller is written as it is.
 *
 * Only for a disk that nobody reads yet, with clusters that were never written.
 */
#include "cowdisk/transfer.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#define WINDOW_BITS 12 /* what QEMU's reader takes */
#define MEM_LEVEL   9

struct packer {
    struct cow_disk *disk;
    z_stream stream;
    bool ready;
    uint8_t *in, *out; /* a cluster each */
    uint64_t at, end;  /* host bytes that are left of the last cluster */
    uint16_t users;    /* guest clusters that lie in the cluster of `at` */
};

void packer_free(struct packer *packer)
{
    if (!packer)
        return;
    if (packer->ready)
        deflateEnd(&packer->stream);
    free(packer->in);
    free(packer->out);
    free(packer);
}

int packer_new(struct packer **ret_packer, struct cow_disk *disk)
{
    struct packer *packer = calloc(1, sizeof(*packer));

    if (!packer)
        return -ENOMEM;
    packer->disk = disk;
    packer->in = malloc(disk->cluster_size);
    packer->out = malloc(disk->cluster_size);
    packer->ready = packer->in && packer->out &&
                    deflateInit2(&packer->stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS,
                                 MEM_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK;
    if (!packer->ready) {
        packer_free(packer);
        return -ENOMEM;
    }
    *ret_packer = packer;
    return 0;
}

/* 0: it did not become smaller. */
static uint64_t deflate_cluster(struct packer *p, const uint8_t *cluster, uint64_t length)
{
    uint64_t bytes = p->disk->cluster_size;
    z_stream *stream = &p->stream;

    memcpy(p->in, cluster, length);
    memset(p->in + length, 0, bytes - length);
    if (deflateReset(stream) != Z_OK)
        return 0;
    stream->next_in = p->in;
    stream->avail_in = (uInt)bytes;
    stream->next_out = p->out;
    stream->avail_out = (uInt)bytes - 1;
    if (deflate(stream, Z_FINISH) != Z_STREAM_END)
        return 0;
    return bytes - 1 - stream->avail_out;
}

/* Makes `length` bytes (less than a cluster) from p->at on usable: the rest of the last cluster and
 * one more, if that lies behind it; else that one alone. */
static int take_room(struct packer *p, uint64_t length)
{
    struct cow_disk *disk = p->disk;
    uint64_t first, got, fresh;
    int r;

    if (p->end - p->at >= length)
        return 0;
    r = cow_alloc_reserve(disk, 1, &first, &got, &fresh);
    if (r < 0)
        return r;
    if (p->end != first << disk->cluster_bits) {
        p->at = first << disk->cluster_bits;
        p->users = 0;
    }
    p->end = (first + 1) << disk->cluster_bits;
    r = cow_alloc_reserve_block(disk, first);
    cow_file_must_hold(disk, first, 1);
    return r;
}

/* One more guest cluster lies in [p->at, p->at + length). */
static int count_users(struct packer *p, uint64_t length)
{
    struct cow_disk *disk = p->disk;
    uint64_t first = p->at >> disk->cluster_bits;
    uint64_t last = (p->at + length - 1) >> disk->cluster_bits;
    int r = 0;

    if (p->at % disk->cluster_size == 0)
        p->users = 0;
    r = cow_refcount_set(disk, first, 1, ++p->users);
    if (r == 0 && last != first) {
        p->users = 1;
        r = cow_refcount_set(disk, last, 1, 1);
    }
    return r;
}

static int write_packed(struct packer *p, struct cow_page *page, uint32_t slot, uint64_t length)
{
    struct cow_disk *disk = p->disk;
    uint32_t offset_bits = 62 - (disk->cluster_bits - 8);
    uint64_t sectors;
    int r = take_room(p, length);

    if (r == 0)
        r = cow_write_full(disk->fd, p->out, length, p->at);
    if (r == 0)
        r = count_users(p, length);
    if (r < 0)
        return r;
    sectors = ((p->at + length - 1) >> 9) - (p->at >> 9);
    page->entry[slot] = htobe64(QCOW_COMPRESSED | sectors << offset_bits | p->at);
    cow_page_dirty(page);
    p->at += length;
    return 0;
}

int packer_write(struct packer *p, const uint8_t *cluster, uint64_t length, uint64_t offset)
{
    struct cow_disk *disk = p->disk;
    struct iovec iov = {.iov_base = (void *)cluster, .iov_len = length};
    uint64_t packed = deflate_cluster(p, cluster, length);
    struct cow_page *page;
    uint32_t slot;
    int r;

    if (packed == 0)
        return cow_pwritev(disk, &iov, 1, offset);
    disk->unsynced = true;
    r = cow_commit_if_full(disk);
    if (r == 0)
        r = cow_l2_page(disk, offset >> disk->cluster_bits, &page, &slot);
    if (r < 0)
        return r;
    page->pins++;
    r = cow_reserve_for_change(disk, page);
    if (r == 0)
        r = write_packed(p, page, slot, packed);
    page->pins--;
    return r;
}
