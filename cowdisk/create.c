/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new image: header, refcount table, one refcount block and an empty L1 table, one after the
 * other. The header is written last, so that a killed process leaves no file with the qcow2 magic
 * that is not a whole image. All of it becomes durable at once: a file that is still being made
 * when the power goes must not have its name yet.
 *
 * The backing format is always stored: without it QEMU would probe the template, and a guest could
 * write a qcow2 header into a raw disk.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct layout {
    uint64_t cluster_size;
    uint32_t l1_size;
    uint64_t rt_offset, rb_offset, l1_offset; /* bytes */
    uint64_t n_clusters, l1_clusters, rb_clusters;
};

static void put32(uint8_t *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

static int check_arguments(int fd, const struct cow_create_options *o, unsigned bits,
                           struct cow_error *err)
{
    size_t length = o->backing_name ? strlen(o->backing_name) : 0;
    struct stat st;

    if (bits < QCOW_MIN_CLUSTER_BITS || bits > QCOW_MAX_CLUSTER_BITS) {
        cow_fail(err, "cluster size 2^%u is outside of 512 bytes to 2 MiB", bits);
        return -EINVAL;
    }
    if (o->size == 0 || o->size % 512 || o->size > COW_MAX_VIRTUAL_SIZE) {
        cow_fail(err, "disk size %llu is not a multiple of 512 from 512 bytes to 64 TiB",
                 (unsigned long long)o->size);
        return -EINVAL;
    }
    if (length > QCOW_MAX_NAME || (o->backing_name && length == 0)) {
        cow_fail(err, "backing file name of %zu bytes: 1 to %u are possible", length,
                 QCOW_MAX_NAME);
        return -EINVAL;
    }
    if (length > 0 && o->backing_format != COW_FORMAT_RAW &&
        o->backing_format != COW_FORMAT_QCOW2) {
        cow_fail(err, "the format of the backing file must be given: raw or qcow2");
        return -EINVAL;
    }
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size != 0) {
        cow_fail(err, "the new image must be an empty regular file");
        return -EINVAL;
    }
    return 0;
}

static int plan(uint64_t size, unsigned bits, struct layout *ret_layout, struct cow_error *err)
{
    uint64_t cluster = 1ull << bits, per_l2 = 1ull << (2 * bits - 3);
    uint64_t l1_size = (size + per_l2 - 1) / per_l2;
    struct layout l = {.cluster_size = cluster};

    if (l1_size > COW_MAX_L1_BYTES / 8) {
        cow_fail(err, "a disk of %llu bytes needs larger clusters than %llu bytes",
                 (unsigned long long)size, (unsigned long long)cluster);
        return -EINVAL;
    }
    l.l1_size = (uint32_t)l1_size;
    l.l1_clusters = (l1_size * 8 + cluster - 1) / cluster;
    /* As many refcount blocks as it takes to count themselves and all the rest. */
    do {
        l.rb_clusters++;
        l.n_clusters = 2 + l.rb_clusters + l.l1_clusters;
    } while (l.rb_clusters * (cluster / 2) < l.n_clusters);
    l.rt_offset = cluster;
    l.rb_offset = 2 * cluster;
    l.l1_offset = (2 + l.rb_clusters) * cluster;
    if (l.rb_clusters > cluster / 8) {
        cow_fail(err, "a disk of %llu bytes needs larger clusters than %llu bytes",
                 (unsigned long long)size, (unsigned long long)cluster);
        return -EINVAL;
    }
    *ret_layout = l;
    return 0;
}

/* Header, backing format and identity, backing name: all of it must fit into the first cluster. */
static int build_header(const struct layout *l, const struct cow_create_options *o, unsigned bits,
                        uint8_t *raw, size_t *ret_length, struct cow_error *err)
{
    const char *format = o->backing_format == COW_FORMAT_RAW ? "raw" : "qcow2";
    size_t length = QCOW_V3_HEADER_BYTES;
    size_t name_length = o->backing_name ? strlen(o->backing_name) : 0;

    put32(raw + QCOW_H_MAGIC, QCOW_MAGIC);
    put32(raw + QCOW_H_VERSION, 3);
    put32(raw + QCOW_H_CLUSTER_BITS, bits);
    put64(raw + QCOW_H_SIZE, o->size);
    put32(raw + QCOW_H_L1_SIZE, l->l1_size);
    put64(raw + QCOW_H_L1_OFFSET, l->l1_offset);
    put64(raw + QCOW_H_RT_OFFSET, l->rt_offset);
    put32(raw + QCOW_H_RT_CLUSTERS, 1);
    put32(raw + QCOW_H_REFCOUNT_ORDER, QCOW_REFCOUNT_ORDER);
    put32(raw + QCOW_H_LENGTH, QCOW_V3_HEADER_BYTES);
    if (name_length) {
        put32(raw + length, QCOW_EXT_BACKING_FORMAT);
        put32(raw + length + 4, (uint32_t)strlen(format));
        memcpy(raw + length + 8, format, strlen(format));
        length += 16;
    }
    if (name_length && o->backing_identity) {
        put32(raw + length, QCOW_EXT_IDENTITY);
        put32(raw + length + 4, sizeof(*o->backing_identity));
        memcpy(raw + length + 8, o->backing_identity, sizeof(*o->backing_identity));
        length += 8 + sizeof(*o->backing_identity);
    }
    length += 8; /* the extension of type 0 ends them */
    if (name_length) {
        put64(raw + QCOW_H_BACKING_OFFSET, length);
        put32(raw + QCOW_H_BACKING_LENGTH, (uint32_t)name_length);
        memcpy(raw + length, o->backing_name, name_length);
        length += name_length;
    }
    if (length > l->cluster_size) {
        cow_fail(err, "backing file name of %zu bytes does not fit into a cluster of %llu bytes",
                 name_length, (unsigned long long)l->cluster_size);
        return -EINVAL;
    }
    *ret_length = length;
    return 0;
}

static int write_tables(int fd, const struct layout *l)
{
    size_t rt_bytes = l->rb_clusters * 8, rb_bytes = l->n_clusters * 2;
    uint8_t *rt = calloc(1, rt_bytes);
    uint16_t *rb = calloc(1, rb_bytes);
    int r = rt && rb ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < l->rb_clusters && r == 0; i++)
        put64(rt + 8 * i, l->rb_offset + i * l->cluster_size);
    for (uint64_t i = 0; i < l->n_clusters && r == 0; i++)
        rb[i] = htobe16(1);
    /* The L1 table is all zeroes: a hole up to its end. */
    if (r == 0 && ftruncate(fd, (off_t)(l->l1_offset + l->l1_size * 8ull)) < 0)
        r = errno == EFBIG ? -ENOSPC : -errno;
    if (r == 0)
        r = cow_write_full(fd, rt, rt_bytes, l->rt_offset);
    if (r == 0)
        r = cow_write_full(fd, rb, rb_bytes, l->rb_offset);
    free(rt);
    free(rb);
    return r;
}

int cow_create(int fd, const struct cow_create_options *options, struct cow_error *err)
{
    uint8_t raw[QCOW_V3_HEADER_BYTES + 48 + QCOW_MAX_NAME] = {0};
    unsigned bits = options->cluster_bits ? options->cluster_bits : COW_CLUSTER_BITS;
    struct layout layout = {0};
    size_t length = 0;
    int r;

    r = check_arguments(fd, options, bits, err);
    if (r == 0)
        r = plan(options->size, bits, &layout, err);
    if (r == 0)
        r = build_header(&layout, options, bits, raw, &length, err);
    if (r < 0)
        return r;
    r = write_tables(fd, &layout);
    if (r == 0)
        r = cow_write_full(fd, raw, length, 0);
    if (r == 0)
        r = cow_sync(fd);
    if (r < 0)
        cow_fail(err, "writing the new image: %s", strerror(-r));
    return r;
}
