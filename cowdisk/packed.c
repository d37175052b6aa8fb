/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compressed clusters: raw deflate (which the format calls zlib) and zstd. What is compressed must
 * give exactly one cluster: data that ends early is an error, never a cluster with something else
 * in its rest. The last clusters are kept, because guests read a cluster in pieces; all images of a
 * chain share them, under one bound.
 *
 * A descriptor counts sectors, so behind the compressed data lies whatever follows it in the last
 * sector. zstd frames are decompressed into the cluster itself, never through a window of the size
 * that the frame asks for.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

struct unpacked {
    const struct cow_disk *disk; /* whose cluster this is; NULL: nobody's */
    uint64_t entry;              /* which one: its L2 entry */
    uint64_t used;               /* when it was wanted last */
    uint64_t bytes;
    uint8_t *data;
};

struct cow_packed {
    struct libdeflate_decompressor *deflate;
    ZSTD_DCtx *zstd;
    uint64_t in_bytes;
    uint8_t *in;
    uint64_t clock;
    uint64_t total; /* bytes in `kept` */
    struct unpacked kept[COW_MAX_UNPACKED];
};

/* ---- what is kept ---------------------------------------------------------------------------- */

static void drop(struct cow_packed *packed, struct unpacked *unpacked)
{
    packed->total -= unpacked->bytes;
    free(unpacked->data);
    memset(unpacked, 0, sizeof(*unpacked));
}

void cow_packed_forget(struct cow_packed *packed, const struct cow_disk *disk)
{
    for (size_t i = 0; packed && i < COW_MAX_UNPACKED; i++) {
        if (packed->kept[i].disk == disk)
            drop(packed, &packed->kept[i]);
    }
}

void cow_packed_free(struct cow_packed *packed)
{
    if (!packed)
        return;
    for (size_t i = 0; i < COW_MAX_UNPACKED; i++)
        free(packed->kept[i].data);
    libdeflate_free_decompressor(packed->deflate);
    ZSTD_freeDCtx(packed->zstd);
    free(packed->in);
    free(packed);
}

static struct unpacked *find(struct cow_packed *packed, const struct cow_disk *disk, uint64_t entry)
{
    for (size_t i = 0; i < COW_MAX_UNPACKED; i++) {
        if (packed->kept[i].disk == disk && packed->kept[i].entry == entry)
            return &packed->kept[i];
    }
    return NULL;
}

/* The one that nobody wanted for longest; an empty one if there is one and not `only_full`. */
static struct unpacked *oldest(struct cow_packed *packed, bool only_full)
{
    struct unpacked *best = NULL;

    for (size_t i = 0; i < COW_MAX_UNPACKED; i++) {
        struct unpacked *u = &packed->kept[i];
        if ((u->data || !only_full) && (!best || u->used < best->used))
            best = u;
    }
    return best;
}

/* A place for one more cluster, not yet anybody's. */
static struct unpacked *make_room(struct cow_packed *packed, uint64_t bytes)
{
    struct unpacked *u;

    while (packed->total > 0 && packed->total + bytes > COW_MAX_UNPACKED_BYTES)
        drop(packed, oldest(packed, true));
    u = oldest(packed, false);
    if (u->bytes != bytes) {
        if (u->data)
            drop(packed, u);
        u->data = malloc(bytes);
        if (!u->data)
            return NULL;
        u->bytes = bytes;
        packed->total += bytes;
    }
    u->disk = NULL;
    return u;
}

/* ---- decompressing --------------------------------------------------------------------------- */

/* As QEMU, content with a cluster that is full before the data says that it ends: slower, and rare.
 */
static int unpack_endless(const uint8_t *in, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
    z_stream stream = {
        .next_in = (uint8_t *)in,
        .avail_in = (uInt)in_bytes,
        .next_out = out,
        .avail_out = (uInt)out_bytes,
    };
    int r;

    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
        return -ENOMEM;
    r = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && stream.avail_out == 0 ? 0 : -EIO;
}

static int unpack_deflate(struct cow_packed *packed, size_t in_bytes, uint8_t *out,
                          size_t out_bytes)
{
    if (!packed->deflate)
        packed->deflate = libdeflate_alloc_decompressor();
    if (!packed->deflate)
        return -ENOMEM;
    switch (libdeflate_deflate_decompress(packed->deflate, packed->in, in_bytes, out, out_bytes,
                                          NULL)) {
    case LIBDEFLATE_SUCCESS: return 0;
    case LIBDEFLATE_SHORT_OUTPUT: return -EIO;
    case LIBDEFLATE_BAD_DATA:
    case LIBDEFLATE_INSUFFICIENT_SPACE: break;
    }
    return unpack_endless(packed->in, in_bytes, out, out_bytes);
}

/* Frame after frame until the cluster is full. */
static int unpack_zstd(struct cow_packed *packed, size_t in_bytes, uint8_t *out, size_t out_bytes)
{
    size_t at = 0, done = 0;

    if (!packed->zstd)
        packed->zstd = ZSTD_createDCtx();
    if (!packed->zstd)
        return -ENOMEM;
    while (done < out_bytes) {
        size_t frame = ZSTD_findFrameCompressedSize(packed->in + at, in_bytes - at), n;
        if (ZSTD_isError(frame) || frame == 0)
            return -EIO;
        n = ZSTD_decompressDCtx(packed->zstd, out + done, out_bytes - done, packed->in + at, frame);
        if (ZSTD_isError(n))
            return -EIO;
        at += frame;
        done += n;
    }
    return 0;
}

static int unpack(struct cow_disk *disk, struct cow_packed *packed, uint64_t entry, uint8_t *out)
{
    uint64_t offset, length;
    int r;

    if (packed->in_bytes < 2 * disk->cluster_size) { /* the longest a descriptor can describe */
        free(packed->in);
        packed->in_bytes = 0;
        packed->in = malloc(2 * disk->cluster_size);
        if (!packed->in)
            return -ENOMEM;
        packed->in_bytes = 2 * disk->cluster_size;
    }
    cow_packed_range(disk, entry, &offset, &length);
    r = cow_read_full(disk->fd, packed->in, length, offset);
    if (r < 0)
        return r;
    if (disk->header.compression == COW_COMPRESSION_ZSTD)
        return unpack_zstd(packed, length, out, disk->cluster_size);
    return unpack_deflate(packed, length, out, disk->cluster_size);
}

int cow_packed_get(struct cow_disk *disk, uint64_t entry, const uint8_t **ret_cluster)
{
    struct cow_packed *packed = disk->cache->packed;
    struct unpacked *u;
    int r;

    if (!packed) {
        packed = disk->cache->packed = calloc(1, sizeof(*packed));
        if (!packed)
            return -ENOMEM;
    }
    u = find(packed, disk, entry);
    if (!u) {
        u = make_room(packed, disk->cluster_size);
        if (!u)
            return -ENOMEM;
        r = unpack(disk, packed, entry, u->data);
        if (r < 0)
            return r;
        u->disk = disk;
        u->entry = entry;
    }
    u->used = ++packed->clock;
    *ret_cluster = u->data;
    return 0;
}
