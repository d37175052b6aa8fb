/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hash file of a template. Host byte order (the file never leaves the machine that made it):
 *
 *   header, 64 bytes | hash[n_blocks], 64 bits each | by_hash[n_blocks], 32 bits each
 *
 * Version 1 had zeroes in place of the identity, which is computed then.
 *
 * The header holds a checksum of itself (with the checksum zero) and of everything behind it, and
 * is written last: a half-written file has no magic. The file is made through a mapping of
 * preallocated space, so memory stays with the page cache. A mapped file is checked as if somebody
 * hostile had written it, because a reader indexes by the numbers in it.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define HASH_MAGIC   0x6873616864776f63ull /* "cowdhash" */
#define HASH_VERSION 2u
#define READ_BYTES   (1u << 20)
#define N_BUCKETS    65536u

struct hash_header {
    uint64_t magic;
    uint32_t version, block_size;
    uint64_t disk_bytes, n_blocks;
    uint64_t file_bytes;
    struct cow_identity identity; /* since version 2 */
    uint64_t checksum;
};

_Static_assert(sizeof(struct hash_header) == 64, "part of the file format");

/* A hash file while it is made. */
struct builder {
    int raw_fd;
    cow_progress_fn progress;
    void *opaque;
    uint64_t disk_bytes, n_blocks;
    uint64_t zero_hash;
    uint64_t *hash;
    uint32_t *by_hash;
    uint8_t *buffer;
};

static uint64_t file_length(uint64_t n_blocks)
{
    return sizeof(struct hash_header) + n_blocks * (sizeof(uint64_t) + sizeof(uint32_t));
}

static uint64_t file_checksum(const struct hash_header *header, const void *body)
{
    struct hash_header h = *header;
    uint64_t sum;

    h.checksum = 0;
    sum = XXH3_64bits(&h, sizeof(h));
    return XXH3_64bits_withSeed(body, header->file_bytes - sizeof(h), sum);
}

/* XXH3-128 of the hashes, seeded with the size. */
static void identify(const uint64_t *hash, uint64_t n_blocks, uint64_t disk_bytes,
                     struct cow_identity *ret_identity)
{
    XXH128_hash_t sum = XXH3_128bits_withSeed(hash, n_blocks * sizeof(*hash), disk_bytes);

    _Static_assert(sizeof(*ret_identity) == sizeof(XXH128_canonical_t), "all of it");
    XXH128_canonicalFromHash((XXH128_canonical_t *)ret_identity, sum);
}

/* ---- hashing --------------------------------------------------------------------------------- */

static int report(const struct builder *b, uint64_t done)
{
    if (b->progress && b->progress(b->opaque, done, b->disk_bytes) != 0)
        return -ECANCELED;
    return 0;
}

/* The next stretch of blocks from `block` on that holds data; both ends rounded outwards. Without
 * SEEK_DATA everything is data. */
static void next_data(const struct builder *b, uint64_t block, uint64_t *ret_start,
                      uint64_t *ret_end)
{
    off_t data = lseek(b->raw_fd, (off_t)(block * COW_BLOCK_SIZE), SEEK_DATA), hole;

    *ret_start = block;
    *ret_end = b->n_blocks;
    if (data < 0) {
        if (errno == ENXIO)
            *ret_start = b->n_blocks;
        return;
    }
    *ret_start = cow_min((uint64_t)data / COW_BLOCK_SIZE, b->n_blocks);
    hole = lseek(b->raw_fd, data, SEEK_HOLE);
    if (hole > data)
        *ret_end = cow_min(((uint64_t)hole + COW_BLOCK_SIZE - 1) / COW_BLOCK_SIZE, b->n_blocks);
    if (*ret_start < block)
        *ret_start = block;
    if (*ret_end <= *ret_start)
        *ret_end = b->n_blocks;
}

static int hash_data(struct builder *b, uint64_t start, uint64_t end)
{
    const uint64_t per_read = READ_BYTES / COW_BLOCK_SIZE;

    while (start < end) {
        uint64_t n = cow_min(per_read, end - start);
        int r = cow_read_full(b->raw_fd, b->buffer, n * COW_BLOCK_SIZE, start * COW_BLOCK_SIZE);
        if (r < 0)
            return r;
        for (uint64_t i = 0; i < n; i++)
            b->hash[start + i] = XXH3_64bits(b->buffer + i * COW_BLOCK_SIZE, COW_BLOCK_SIZE);
        start += n;
        r = report(b, cow_min(start * COW_BLOCK_SIZE, b->disk_bytes));
        if (r < 0)
            return r;
    }
    return 0;
}

static int hash_all(struct builder *b)
{
    uint64_t block = 0;

    while (block < b->n_blocks) {
        uint64_t start, end;
        int r;

        next_data(b, block, &start, &end);
        while (block < start)
            b->hash[block++] = b->zero_hash;
        if (start == b->n_blocks)
            break;
        r = hash_data(b, start, end);
        if (r < 0)
            return r;
        block = end;
    }
    return report(b, b->disk_bytes);
}

/* ---- sorting --------------------------------------------------------------------------------- */

static int compare_blocks(const void *a, const void *b, void *opaque)
{
    const uint64_t *hash = opaque;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    if (hash[x] != hash[y])
        return hash[x] < hash[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void sort_bucket(const struct builder *b, uint32_t *first, uint64_t n)
{
    uint64_t i = 1;

    /* In block order already: all that a bucket full of zero blocks needs. */
    while (i < n && compare_blocks(&first[i - 1], &first[i], b->hash) < 0)
        i++;
    if (i < n)
        qsort_r(first, n, sizeof(*first), compare_blocks, b->hash);
}

/* One pass by the upper 16 bits of the hash, then each small bucket by itself. */
static int sort_blocks(struct builder *b)
{
    uint64_t *start = calloc(N_BUCKETS + 1, sizeof(*start)), at = 0;

    if (!start)
        return -ENOMEM;
    for (uint64_t i = 0; i < b->n_blocks; i++)
        start[(b->hash[i] >> 48) + 1]++;
    for (uint32_t k = 0; k < N_BUCKETS; k++)
        start[k + 1] += start[k];
    for (uint64_t i = 0; i < b->n_blocks; i++)
        b->by_hash[start[b->hash[i] >> 48]++] = (uint32_t)i;
    /* Each start has become its bucket's end. */
    for (uint32_t k = 0; k < N_BUCKETS; k++) {
        sort_bucket(b, b->by_hash + at, start[k] - at);
        at = start[k];
    }
    free(start);
    return 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int prepare(struct builder *b, int raw_fd, uint8_t **ret_buffer)
{
    static const uint8_t zero_block[COW_BLOCK_SIZE];
    off_t end = lseek(raw_fd, 0, SEEK_END);

    if (end < 0)
        return -errno;
    b->raw_fd = raw_fd;
    b->disk_bytes = (uint64_t)end;
    b->n_blocks = (b->disk_bytes + COW_BLOCK_SIZE - 1) / COW_BLOCK_SIZE;
    if (b->n_blocks > UINT32_MAX)
        return -EFBIG;
    b->zero_hash = XXH3_64bits(zero_block, sizeof(zero_block));
    b->buffer = malloc(READ_BYTES);
    *ret_buffer = b->buffer;
    return b->buffer ? 0 : -ENOMEM;
}

static int finish_file(const struct builder *b, int hash_fd, void *map, uint64_t bytes)
{
    struct hash_header header = {
        .magic = HASH_MAGIC,
        .version = HASH_VERSION,
        .block_size = COW_BLOCK_SIZE,
        .disk_bytes = b->disk_bytes,
        .n_blocks = b->n_blocks,
        .file_bytes = bytes,
    };
    int r;

    identify(b->hash, b->n_blocks, b->disk_bytes, &header.identity);
    header.checksum = file_checksum(&header, (uint8_t *)map + sizeof(header));
    if (msync(map, bytes, MS_SYNC) < 0)
        return -errno;
    r = cow_write_full(hash_fd, &header, sizeof(header), 0);
    return r < 0 ? r : cow_sync(hash_fd);
}

int cow_hashes_write(int raw_fd, int hash_fd, cow_progress_fn progress, void *opaque)
{
    struct builder b = {.progress = progress, .opaque = opaque};
    uint8_t *buffer = NULL, *map = MAP_FAILED;
    uint64_t bytes = 0;
    int r = prepare(&b, raw_fd, &buffer);

    if (r == 0) {
        bytes = file_length(b.n_blocks);
        /* Space first: a full disk must be an error, not a SIGBUS. */
        r = -posix_fallocate(hash_fd, 0, (off_t)bytes);
        if (r == -EFBIG)
            r = -ENOSPC;
    }
    if (r == 0) {
        map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, hash_fd, 0);
        r = map == MAP_FAILED ? -errno : 0;
    }
    if (r == 0) {
        b.hash = (uint64_t *)(map + sizeof(struct hash_header));
        b.by_hash = (uint32_t *)(b.hash + b.n_blocks);
        r = hash_all(&b);
    }
    if (r == 0)
        r = sort_blocks(&b);
    if (r == 0)
        r = finish_file(&b, hash_fd, map, bytes);
    if (map != MAP_FAILED)
        munmap(map, bytes);
    free(buffer);
    return r;
}

/* ---- reading --------------------------------------------------------------------------------- */

static const char *judge_header(const struct hash_header *h, uint64_t file_bytes,
                                uint64_t disk_bytes)
{
    if (h->magic != HASH_MAGIC || h->version == 0 || h->version > HASH_VERSION ||
        h->block_size != COW_BLOCK_SIZE)
        return "it is not a hash file, or one of another version";
    if (h->disk_bytes != disk_bytes)
        return "it belongs to a disk of another size";
    if (h->n_blocks != (disk_bytes + COW_BLOCK_SIZE - 1) / COW_BLOCK_SIZE ||
        h->n_blocks > UINT32_MAX || h->file_bytes != file_length(h->n_blocks) ||
        h->file_bytes != file_bytes)
        return "its length is wrong";
    return NULL;
}

static const char *judge_body(const struct hash_header *h, const struct cow_hashes *hashes)
{
    if (file_checksum(h, hashes->hash) != h->checksum)
        return "its checksum is wrong";
    for (uint64_t i = 0; i < hashes->n_blocks; i++) {
        if (hashes->by_hash[i] >= hashes->n_blocks)
            return "a block number in it is beyond the disk";
    }
    return NULL;
}

int cow_hashes_map(int hash_fd, uint64_t disk_bytes, struct cow_hashes *ret_hashes,
                   struct cow_error *err)
{
    struct cow_hashes hashes = {0};
    struct hash_header header;
    const char *why = "it is too short";
    struct stat st;
    int r;

    if (fstat(hash_fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size < sizeof(header))
        goto bad;
    hashes.map_bytes = (size_t)st.st_size;
    hashes.map = mmap(NULL, hashes.map_bytes, PROT_READ, MAP_SHARED, hash_fd, 0);
    if (hashes.map == MAP_FAILED) {
        r = -errno;
        cow_fail(err, "mapping the hash file: %s", strerror(-r));
        return r;
    }
    memcpy(&header, hashes.map, sizeof(header));
    why = judge_header(&header, hashes.map_bytes, disk_bytes);
    if (!why) {
        hashes.disk_bytes = header.disk_bytes;
        hashes.n_blocks = header.n_blocks;
        hashes.hash = (const uint64_t *)((const uint8_t *)hashes.map + sizeof(header));
        hashes.by_hash = (const uint32_t *)(hashes.hash + hashes.n_blocks);
        why = judge_body(&header, &hashes);
    }
    if (!why) {
        hashes.identity = header.identity;
        if (header.version < 2)
            identify(hashes.hash, hashes.n_blocks, hashes.disk_bytes, &hashes.identity);
        *ret_hashes = hashes;
        return 0;
    }
    munmap(hashes.map, hashes.map_bytes);
bad:
    cow_fail(err, "the hash file is damaged: %s", why);
    return -EINVAL;
}

void cow_hashes_unmap(struct cow_hashes *hashes)
{
    if (!hashes || !hashes->map)
        return;
    munmap(hashes->map, hashes->map_bytes);
    memset(hashes, 0, sizeof(*hashes));
}

int cow_hashes_identity(int hash_fd, uint64_t disk_bytes, struct cow_identity *ret_identity,
                        struct cow_error *err)
{
    struct hash_header header;
    struct cow_hashes hashes;
    struct stat st;
    const char *why;
    int r = fstat(hash_fd, &st) < 0 ? -errno : 0;

    if (r == 0)
        r = cow_read_full(hash_fd, &header, sizeof(header), 0);
    if (r < 0) {
        cow_fail(err, "reading the hash file: %s", strerror(-r));
        return r;
    }
    why = judge_header(&header, (uint64_t)st.st_size, disk_bytes);
    if (why) {
        cow_fail(err, "the hash file is damaged: %s", why);
        return -EINVAL;
    }
    if (header.version >= 2) {
        *ret_identity = header.identity;
        return 0;
    }
    r = cow_hashes_map(hash_fd, disk_bytes, &hashes, err);
    if (r < 0)
        return r;
    *ret_identity = hashes.identity;
    cow_hashes_unmap(&hashes);
    return 0;
}
