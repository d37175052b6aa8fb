/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading and judging a qcow2 header. Nothing in it is believed: every number is checked against
 * its limit and the file's length before anyone uses it. What we do not read correctly is refused
 * with the reason; what we read but must not write is refused by cow_header_check_writable().
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <unistd.h>

static int fixed_fields(const uint8_t *raw, struct cow_header *h, struct cow_error *err)
{
    if (cow_get32(raw + QCOW_H_MAGIC) != QCOW_MAGIC) {
        cow_fail(err, "not a qcow2 image");
        return -EINVAL;
    }
    h->version = cow_get32(raw + QCOW_H_VERSION);
    h->backing_offset = cow_get64(raw + QCOW_H_BACKING_OFFSET);
    h->backing_length = cow_get32(raw + QCOW_H_BACKING_LENGTH);
    h->cluster_bits = cow_get32(raw + QCOW_H_CLUSTER_BITS);
    h->size = cow_get64(raw + QCOW_H_SIZE);
    h->crypt = cow_get32(raw + QCOW_H_CRYPT);
    h->l1_size = cow_get32(raw + QCOW_H_L1_SIZE);
    h->l1_offset = cow_get64(raw + QCOW_H_L1_OFFSET);
    h->rt_offset = cow_get64(raw + QCOW_H_RT_OFFSET);
    h->rt_clusters = cow_get32(raw + QCOW_H_RT_CLUSTERS);
    h->n_snapshots = cow_get32(raw + QCOW_H_SNAPSHOTS);
    h->snapshots_offset = cow_get64(raw + QCOW_H_SNAPSHOTS_OFFSET);
    h->refcount_order = QCOW_REFCOUNT_ORDER;
    h->header_length = QCOW_V2_HEADER_BYTES;
    if (h->version != 2 && h->version != 3) {
        cow_fail(err, "qcow version %u is not supported (2 and 3 are)%s", h->version,
                 h->version == 1 ? ": convert it with qemu-img convert -O qcow2" : "");
        return -ENOTSUP;
    }
    if (h->cluster_bits < QCOW_MIN_CLUSTER_BITS || h->cluster_bits > QCOW_MAX_CLUSTER_BITS) {
        cow_fail(err, "cluster size 2^%u is outside of 512 bytes to 2 MiB", h->cluster_bits);
        return -EINVAL;
    }
    return 0;
}

static int v3_fields(const uint8_t *raw, struct cow_header *h, struct cow_error *err)
{
    if (h->version < 3)
        return 0;
    h->incompatible = cow_get64(raw + QCOW_H_INCOMPATIBLE);
    h->compatible = cow_get64(raw + QCOW_H_COMPATIBLE);
    h->autoclear = cow_get64(raw + QCOW_H_AUTOCLEAR);
    h->refcount_order = cow_get32(raw + QCOW_H_REFCOUNT_ORDER);
    h->header_length = cow_get32(raw + QCOW_H_LENGTH);
    if (h->header_length < QCOW_V3_HEADER_BYTES || h->header_length > QCOW_MAX_HEADER_BYTES ||
        h->header_length > 1u << h->cluster_bits || h->header_length % 8) {
        cow_fail(err, "header length %u is not valid", h->header_length);
        return -EINVAL;
    }
    if (h->refcount_order > 6) {
        cow_fail(err, "refcount width 2^%u is not valid", h->refcount_order);
        return -EINVAL;
    }
    if (h->header_length > QCOW_H_COMPRESSION)
        h->compression = raw[QCOW_H_COMPRESSION];
    return 0;
}

static int refuse_encryption(const struct cow_header *h, struct cow_error *err)
{
    const char *what = h->crypt == COW_ENCRYPTION_AES    ? "encrypted (AES)"
                       : h->crypt == COW_ENCRYPTION_LUKS ? "encrypted (LUKS)"
                                                         : "encrypted in an unknown way";

    if (h->crypt == COW_ENCRYPTION_NONE)
        return 0;
    cow_fail(err,
             "the image is %s, which is not supported: decrypt it first with qemu-img convert "
             "--object secret,... -O qcow2",
             what);
    return -ENOTSUP;
}

static int refuse_features(const struct cow_header *h, struct cow_error *err)
{
    const uint64_t known = QCOW_INCOMPAT_DIRTY | QCOW_INCOMPAT_CORRUPT |
                           QCOW_INCOMPAT_EXTERNAL_DATA | QCOW_INCOMPAT_COMPRESSION |
                           QCOW_INCOMPAT_EXTENDED_L2;

    if (h->incompatible & ~known) {
        cow_fail(err,
                 "the image needs features that are unknown here (incompatible bits 0x%llx): "
                 "convert it with the program that made it",
                 (unsigned long long)(h->incompatible & ~known));
        return -ENOTSUP;
    }
    if (h->compression > COW_COMPRESSION_ZSTD) {
        cow_fail(err,
                 "the image is compressed in an unknown way (%u; zlib and zstd are known): "
                 "convert it with the program that made it",
                 h->compression);
        return -ENOTSUP;
    }
    /* The spec wants the bit exactly if the type is not zlib. */
    if (!(h->incompatible & QCOW_INCOMPAT_COMPRESSION) != (h->compression == 0)) {
        cow_fail(err, "the image contradicts itself about how it is compressed");
        return -EINVAL;
    }
    if (h->incompatible & QCOW_INCOMPAT_EXTENDED_L2 && h->cluster_bits < QCOW_MIN_EXTENDED_BITS) {
        cow_fail(err, "clusters of %u bytes are too small for subclusters", 1u << h->cluster_bits);
        return -EINVAL;
    }
    return 0;
}

/* A table of `bytes` at `offset` must be aligned, past the header and inside the file. */
static int check_table(const struct cow_header *h, const char *name, uint64_t offset,
                       uint64_t bytes, uint64_t file_bytes, struct cow_error *err)
{
    uint64_t cluster = 1ull << h->cluster_bits;

    if (bytes == 0)
        return 0;
    if (offset % cluster || offset < cluster || offset > file_bytes ||
        bytes > file_bytes - offset) {
        cow_fail(err, "the %s table (offset 0x%llx, %llu bytes) is not inside the file", name,
                 (unsigned long long)offset, (unsigned long long)bytes);
        return -EINVAL;
    }
    return 0;
}

static int check_sizes(const struct cow_header *h, uint64_t file_bytes, struct cow_error *err)
{
    uint32_t entry_bits = h->incompatible & QCOW_INCOMPAT_EXTENDED_L2 ? 4 : 3;
    uint64_t per_table = 1ull << (2 * h->cluster_bits - entry_bits);
    uint64_t rt_bytes = (uint64_t)h->rt_clusters << h->cluster_bits;
    int r;

    if (h->size > COW_MAX_VIRTUAL_SIZE || h->size % 512) {
        cow_fail(err, "virtual size %llu is not a multiple of 512 up to 64 TiB",
                 (unsigned long long)h->size);
        return -EINVAL;
    }
    if (h->l1_size > COW_MAX_L1_BYTES / sizeof(uint64_t) ||
        h->l1_size < (h->size + per_table - 1) / per_table) {
        cow_fail(err, "L1 table of %u entries does not fit a disk of %llu bytes", h->l1_size,
                 (unsigned long long)h->size);
        return -EINVAL;
    }
    if (h->n_snapshots > COW_MAX_SNAPSHOTS) {
        cow_fail(err, "%u snapshots are too many", h->n_snapshots);
        return -EINVAL;
    }
    if (rt_bytes > COW_MAX_RT_BYTES || rt_bytes == 0) {
        cow_fail(err, "refcount table of %u clusters is not valid", h->rt_clusters);
        return -EINVAL;
    }
    r = check_table(h, "L1", h->l1_offset, (uint64_t)h->l1_size * 8, file_bytes, err);
    if (r == 0)
        r = check_table(h, "refcount", h->rt_offset, rt_bytes, file_bytes, err);
    return r;
}

/* A file name of `length` bytes at `offset`; the caller checked that it is in the header cluster.
 */
static int read_name(int fd, const char *what, uint64_t offset, uint32_t length, char *ret_name,
                     struct cow_error *err)
{
    int r;

    if (length == 0 || length > QCOW_MAX_NAME) {
        cow_fail(err, "the %s name of %u bytes is not valid", what, length);
        return -EINVAL;
    }
    r = cow_read_full(fd, ret_name, length, offset);
    if (r < 0)
        return r;
    ret_name[length] = '\0';
    for (uint32_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)ret_name[i];
        if (c < ' ' || c == 0x7f) {
            cow_fail(err, "the %s name has control characters in it", what);
            return -EINVAL;
        }
    }
    return 0;
}

static int read_backing_name(int fd, struct cow_header *h, struct cow_error *err)
{
    if (h->backing_offset == 0)
        return 0;
    if (h->backing_offset < h->header_length || h->backing_offset > 1ull << h->cluster_bits ||
        h->backing_offset + h->backing_length > 1ull << h->cluster_bits) {
        cow_fail(err,
                 "the backing file name (offset 0x%llx, %u bytes) is not in the header cluster",
                 (unsigned long long)h->backing_offset, h->backing_length);
        return -EINVAL;
    }
    return read_name(fd, "backing file", h->backing_offset, h->backing_length, h->backing_name,
                     err);
}

static int read_extension(int fd, struct cow_header *h, uint32_t type, uint32_t length,
                          uint64_t offset, struct cow_error *err)
{
    switch (type) {
    case QCOW_EXT_BITMAPS:
        if (length < 24)
            return 0;
        h->bitmaps_offset = offset;
        return 0;
    case QCOW_EXT_BACKING_FORMAT:
        return cow_read_full(fd, h->backing_format, cow_min(length, sizeof(h->backing_format) - 1),
                             offset);
    case QCOW_EXT_DATA_FILE:
        return read_name(fd, "external data file", offset, length, h->data_name, err);
    case QCOW_EXT_IDENTITY:
        if (length != sizeof(h->identity)) {
            cow_fail(err, "the identity of the backing file takes %u bytes instead of %zu", length,
                     sizeof(h->identity));
            return -EINVAL;
        }
        h->has_identity = true;
        return cow_read_full(fd, &h->identity, sizeof(h->identity), offset);
    default: return 0;
    }
}

static int read_extensions(int fd, struct cow_header *h, struct cow_error *err)
{
    uint64_t end = h->backing_offset ? h->backing_offset : 1ull << h->cluster_bits;
    uint64_t at = h->header_length;

    while (at + 8 <= end) {
        uint8_t head[8];
        uint32_t type, length;
        int r = cow_read_full(fd, head, sizeof(head), at);
        if (r < 0)
            return r;
        type = cow_get32(head);
        length = cow_get32(head + 4);
        at += 8;
        if (type == QCOW_EXT_END)
            return 0;
        if (length > end - at) {
            cow_fail(err, "header extension 0x%08x is longer than the header", type);
            return -EINVAL;
        }
        r = read_extension(fd, h, type, length, at, err);
        if (r < 0)
            return r;
        at += (length + 7ull) & ~7ull;
    }
    return 0;
}

int cow_header_parse(int fd, struct cow_header *ret_header, struct cow_error *err)
{
    uint8_t raw[QCOW_V3_HEADER_BYTES + 8];
    struct cow_header h = {0};
    int r = cow_read_full(fd, raw, sizeof(raw), 0);

    if (r < 0) {
        cow_fail(err, "reading the header: %s", strerror(-r));
        return r;
    }
    r = fixed_fields(raw, &h, err);
    if (r == 0)
        r = v3_fields(raw, &h, err);
    if (r == 0)
        r = read_backing_name(fd, &h, err);
    if (r == 0)
        r = read_extensions(fd, &h, err);
    if (r == 0)
        *ret_header = h;
    return r;
}

int cow_header_read(int fd, const char *snapshot, bool ciphertext, struct cow_header *ret_header,
                    struct cow_error *err)
{
    off_t file_bytes = lseek(fd, 0, SEEK_END);
    struct cow_header h;
    int r;

    if (file_bytes < 0) {
        r = -errno;
        cow_fail(err, "cannot tell the file's length: %s", strerror(-r));
        return r;
    }
    r = cow_header_parse(fd, &h, err);
    if (r == 0)
        r = refuse_features(&h, err);
    if (r == 0 && !(ciphertext && h.crypt == COW_ENCRYPTION_AES))
        r = refuse_encryption(&h, err);
    if (r == 0 && snapshot)
        r = cow_snapshot_select(fd, snapshot, &h, err);
    if (r == 0)
        r = check_sizes(&h, (uint64_t)file_bytes, err);
    if (r == 0)
        *ret_header = h;
    return r;
}

int cow_header_check_writable(const struct cow_header *h, struct cow_error *err)
{
    const char *why = NULL;

    if (h->incompatible & QCOW_INCOMPAT_CORRUPT)
        why = "it is marked corrupt: repair it with vmctl image check --repair all";
    else if (h->incompatible & QCOW_INCOMPAT_DIRTY)
        why = "its refcounts are out of date: repair it with vmctl image check --repair all";
    else if (h->incompatible & QCOW_INCOMPAT_EXTERNAL_DATA)
        why = "it keeps its data in an external file";
    else if (h->incompatible & QCOW_INCOMPAT_EXTENDED_L2)
        why = "it has subclusters (extended L2 entries)";
    if (!why)
        return 0;
    cow_fail(err, "the image can only be read: %s", why);
    return -ENOTSUP;
}
