/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compressed clusters (zlib, raw deflate). A stream must give exactly one cluster: one that ends
 * early is an error, never a cluster with something else in its rest. The last cluster inflated is
 * kept, because guests read a cluster in pieces.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

struct cow_packed {
    z_stream stream;
    bool ready;     /* inflateInit2() was done */
    uint64_t entry; /* which cluster `out` holds; 0: none */
    uint8_t *in;    /* two clusters: the longest a descriptor can describe */
    uint8_t *out;   /* one cluster */
};

void cow_packed_free(struct cow_packed *packed)
{
    if (!packed)
        return;
    if (packed->ready)
        inflateEnd(&packed->stream);
    free(packed->in);
    free(packed->out);
    free(packed);
}

static struct cow_packed *packed_new(uint64_t cluster_size)
{
    struct cow_packed *packed = calloc(1, sizeof(*packed));

    if (!packed)
        return NULL;
    packed->in = malloc(2 * cluster_size);
    packed->out = malloc(cluster_size);
    packed->ready = packed->in && packed->out && inflateInit2(&packed->stream, -MAX_WBITS) == Z_OK;
    if (!packed->ready) {
        cow_packed_free(packed);
        return NULL;
    }
    return packed;
}

static int inflate_cluster(struct cow_packed *packed, size_t in_bytes, size_t out_bytes)
{
    z_stream *stream = &packed->stream;
    int r;

    if (inflateReset(stream) != Z_OK)
        return -EIO;
    stream->next_in = packed->in;
    stream->avail_in = (uInt)in_bytes;
    stream->next_out = packed->out;
    stream->avail_out = (uInt)out_bytes;
    r = inflate(stream, Z_FINISH);
    /* A full cluster may be there before the end of the stream was seen. */
    if ((r == Z_STREAM_END || r == Z_BUF_ERROR) && stream->avail_out == 0)
        return 0;
    return -EIO;
}

int cow_packed_get(struct cow_disk *disk, uint64_t entry, const uint8_t **ret_cluster)
{
    struct cow_packed *packed;
    uint64_t offset, length;
    int r;

    if (!disk->packed) {
        disk->packed = packed_new(disk->cluster_size);
        if (!disk->packed)
            return -ENOMEM;
    }
    packed = disk->packed;
    if (packed->entry != entry) {
        packed->entry = 0;
        cow_packed_range(disk, entry, &offset, &length);
        r = cow_read_full(disk->fd, packed->in, length, offset);
        if (r == 0)
            r = inflate_cluster(packed, length, disk->cluster_size);
        if (r < 0)
            return r;
        packed->entry = entry;
    }
    *ret_cluster = packed->out;
    return 0;
}
