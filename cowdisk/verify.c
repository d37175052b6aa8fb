/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Integrity of a template: each 4 KiB block of a raw disk that was opened with its hashes is
 * compared with its hash when it is read for the first time. A block that matched is not looked at
 * again; one that did not is never taken for good, and is compared again with the next read.
 *
 * The bytes compared are those in the caller's buffer where it holds the whole block. The buffer
 * may be guest memory, which a guest can write to meanwhile: so a mismatch is decided by a second
 * read into memory of our own, and no guest can have a good template called damaged.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

struct cow_verify {
    const struct cow_hashes *hashes;
    void (*damaged)(void *opaque, uint64_t offset);
    void *opaque;
    uint64_t n_left; /* blocks not known to be good */
    uint64_t *good;  /* bitmap, by block */
    uint8_t block[COW_BLOCK_SIZE];
};

int cow_verify_new(struct cow_disk *disk, const struct cow_open_options *o, struct cow_error *err)
{
    struct cow_verify *v;

    if (disk->writable || o->hashes->disk_bytes != disk->file_end) {
        cow_fail(err, "%s",
                 disk->writable ? "a disk with hashes can only be read"
                                : "the hashes belong to a disk of another size");
        return disk->writable ? -EINVAL : -ESTALE;
    }
    v = malloc(sizeof(*v));
    if (!v)
        return -ENOMEM;
    *v = (struct cow_verify){
        .hashes = o->hashes,
        .damaged = o->damaged,
        .opaque = o->opaque,
        .n_left = o->hashes->n_blocks,
        .good = calloc(o->hashes->n_blocks / 64 + 1, sizeof(uint64_t)),
    };
    if (!v->good) {
        free(v);
        return -ENOMEM;
    }
    disk->verify = v;
    return 0;
}

void cow_verify_free(struct cow_disk *disk)
{
    if (disk->verify)
        free(disk->verify->good);
    free(disk->verify);
    disk->verify = NULL;
}

static bool is_good(const struct cow_verify *v, uint64_t block)
{
    return v->good[block / 64] >> block % 64 & 1;
}

/* A block in one piece of the caller's memory. */
static bool matches(const struct cow_verify *v, uint64_t block, const void *data)
{
    return XXH3_64bits(data, COW_BLOCK_SIZE) == v->hashes->hash[block];
}

static void set_good(struct cow_verify *v, uint64_t block)
{
    v->good[block / 64] |= 1ull << block % 64;
    v->n_left--;
}

/* Reads the block again and, if it is good, gives the caller `length` bytes from `skip` on. */
static int read_again(struct cow_disk *disk, uint64_t block, struct cow_iter *iter, size_t skip,
                      size_t length)
{
    struct cow_verify *v = disk->verify;
    uint64_t offset = block * COW_BLOCK_SIZE;
    size_t there = (size_t)cow_min(COW_BLOCK_SIZE, v->hashes->disk_bytes - offset);
    int r;

    memset(v->block + there, 0, COW_BLOCK_SIZE - there);
    r = cow_read_full(disk->fd, v->block, there, offset);
    if (r < 0)
        return r;
    if (!matches(v, block, v->block)) {
        if (v->damaged)
            v->damaged(v->opaque, offset);
        return -EIO;
    }
    cow_iter_fill(iter, v->block + skip, length);
    set_good(v, block);
    return 0;
}

/* The part of one block that was read: `length` bytes from `skip` on, where `iter` is. */
static int verify_part(struct cow_disk *disk, uint64_t block, const struct cow_iter *at,
                       size_t skip, size_t length)
{
    struct cow_verify *v = disk->verify;
    struct cow_iter iter = *at;
    const struct iovec *iov = iter.iov;

    if (length == COW_BLOCK_SIZE && iov->iov_len - iter.skip >= length &&
        (block + 1) * COW_BLOCK_SIZE <= v->hashes->disk_bytes &&
        matches(v, block, (const uint8_t *)iov->iov_base + iter.skip)) {
        set_good(v, block);
        return 0;
    }
    return read_again(disk, block, &iter, skip, length);
}

int cow_verify_iter(struct cow_disk *disk, const struct cow_iter *start, uint64_t offset,
                    uint64_t length)
{
    struct cow_verify *v = disk->verify;
    struct cow_iter iter = *start;
    int result = 0;

    if (!v || v->n_left == 0)
        return 0;
    while (length > 0) {
        uint64_t block = offset / COW_BLOCK_SIZE;
        size_t skip = offset % COW_BLOCK_SIZE;
        size_t part = (size_t)cow_min(COW_BLOCK_SIZE - skip, length);

        if (!is_good(v, block)) {
            int r = verify_part(disk, block, &iter, skip, part);
            if (result == 0)
                result = r; /* go on: all damage in the range is told */
        }
        cow_iter_skip(&iter, part);
        offset += part;
        length -= part;
    }
    return result;
}

/* ---- all of a disk --------------------------------------------------------------------------- */

int cow_hashes_verify(int raw_fd, const struct cow_hashes *hashes,
                      void (*damaged)(void *opaque, uint64_t offset), cow_progress_fn progress,
                      void *opaque)
{
    const uint64_t per_read = (1u << 20) / COW_BLOCK_SIZE;
    uint8_t *buffer = malloc(per_read * COW_BLOCK_SIZE);
    uint64_t n_damaged = 0;
    int r = buffer ? 0 : -ENOMEM;

    for (uint64_t block = 0; block < hashes->n_blocks && r == 0; block += per_read) {
        uint64_t n = cow_min(per_read, hashes->n_blocks - block);
        uint64_t offset = block * COW_BLOCK_SIZE;
        uint64_t bytes = cow_min(n * COW_BLOCK_SIZE, hashes->disk_bytes - offset);

        memset(buffer + bytes, 0, n * COW_BLOCK_SIZE - bytes);
        r = cow_read_full(raw_fd, buffer, bytes, offset);
        for (uint64_t i = 0; i < n && r == 0; i++) {
            if (XXH3_64bits(buffer + i * COW_BLOCK_SIZE, COW_BLOCK_SIZE) == hashes->hash[block + i])
                continue;
            damaged(opaque, offset + i * COW_BLOCK_SIZE);
            n_damaged++;
        }
        if (r == 0 && progress && progress(opaque, offset + bytes, hashes->disk_bytes) != 0)
            r = -ECANCELED;
    }
    free(buffer);
    return r == 0 && n_damaged > 0 ? -EILSEQ : r;
}
