/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The images that our own reader does not read, through libqcow: qcow version 1, and qcow2 with AES
 * encryption. libqcow gives heap memory for disk data where an image is damaged, ignores zero
 * clusters, mixes up clusters that are used twice and can run forever, so it never sees an image
 * that was not checked here first: every table and every cluster lies inside the file as a whole,
 * no cluster is of a kind that it gets wrong, whatever is compressed gives a whole cluster, and
 * nothing lies below. What it read is read once more from the start, with other memory and in other
 * pieces, and compared.
 *
 * libqcow opens files by name, and nothing can be opened here. Its open() is ours, below: the one
 * name it is given is the source's fd.
 *
 * Must never run outside of the sandbox.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <fcntl.h>
#include <libqcow.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zlib.h>

#include "cowdisk/internal.h"

#define SOURCE_NAME      "/the source" /* for libqcow; no file has this name here */
#define V1_HEADER_BYTES  48u
#define V1_MIN_L2_BITS   6u
#define V1_MAX_L2_BITS   13u
#define MAX_CLUSTER_BITS 16u /* libqcow is slow and untested with larger ones */
#define COPY_STEP        (1u << 20)
#define COMPARE_STEP     (192u << 10)
#define CPU_BASE         60u           /* seconds */
#define CPU_BYTES        (16ull << 20) /* that one more second is for */
#define MAX_PASSPHRASE   1024u

/* An image of version 1 while it is checked. */
struct v1 {
    struct cow_error *err;
    uint64_t file_bytes, size;
    uint32_t cluster_bits, l2_bits, crypt;
    uint64_t l1_offset, l1_size; /* entries */
    uint64_t budget;             /* bytes that may still be referred to: no sound image overlaps */
    uint64_t *l2;
    uint8_t *in, *out; /* a cluster each, to inflate */
    uint64_t *seen;    /* bitmap: clusters of the file in use */
};

struct old {
    struct import *import;
    libqcow_file_t *file;
    uint64_t size;
    uint8_t *buffer, *other; /* COPY_STEP each */
    char passphrase[MAX_PASSPHRASE];
    size_t passphrase_bytes; /* 0: not encrypted */
};

/* ---- what libqcow may open ------------------------------------------------------------------- */

/* By this name the linker knows it: <fcntl.h> calls ours open64. */
int open_for_libqcow(const char *path, int flags, ...) __asm__("open");

int open_for_libqcow(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list args;

    if (strcmp(path, SOURCE_NAME) == 0)
        return fcntl(FD_SOURCE, F_DUPFD_CLOEXEC, FD_BELOW);
    va_start(args, flags);
    if (flags & O_CREAT)
        mode = va_arg(args, mode_t);
    va_end(args);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* ---- checks ---------------------------------------------------------------------------------- */

/* A bitmap of the file's clusters. */
static uint64_t *seen_new(uint64_t file_bytes, uint32_t cluster_bits)
{
    return calloc((file_bytes >> cluster_bits) / 64 + 1, sizeof(uint64_t));
}

/* Each cluster of data belongs to one place of the disk. */
static int see(uint64_t *seen, uint64_t cluster, struct cow_error *err)
{
    if (seen[cluster / 64] >> (cluster % 64) & 1) {
        cow_fail(err, "the image is damaged: cluster %llu of the file is used twice",
                 (unsigned long long)cluster);
        return -EINVAL;
    }
    seen[cluster / 64] |= 1ull << (cluster % 64);
    return 0;
}

/* ---- checks: version 1 ----------------------------------------------------------------------- */

static int v1_header(struct v1 *v)
{
    uint8_t raw[V1_HEADER_BYTES];
    off_t end = lseek(FD_SOURCE, 0, SEEK_END);
    uint64_t per_table;
    int r = end < 0 ? -errno : cow_read_full(FD_SOURCE, raw, sizeof(raw), 0);

    if (r < 0)
        return r;
    v->file_bytes = (uint64_t)end;
    v->size = cow_get64(raw + 24);
    v->cluster_bits = raw[32];
    v->l2_bits = raw[33];
    v->crypt = cow_get32(raw + 36);
    v->l1_offset = cow_get64(raw + 40);
    if (cow_get64(raw + 8)) {
        cow_fail(v->err, "the image needs a backing file; make it one file first: "
                         "qemu-img convert -O qcow2 IMAGE NEW");
        return -ENOTSUP;
    }
    if (v->cluster_bits < QCOW_MIN_CLUSTER_BITS || v->cluster_bits > MAX_CLUSTER_BITS ||
        v->l2_bits < V1_MIN_L2_BITS || v->l2_bits > V1_MAX_L2_BITS || v->size % 512 ||
        v->size > IMPORT_MAX_DISK || v->crypt > COW_ENCRYPTION_AES) {
        cow_fail(v->err, "the header of this image of version 1 is not valid");
        return -EINVAL;
    }
    per_table = 1ull << (v->cluster_bits + v->l2_bits);
    v->l1_size = (v->size + per_table - 1) / per_table;
    if (v->l1_size > COW_MAX_L1_BYTES / 8 || v->l1_offset < sizeof(raw) ||
        v->l1_offset > v->file_bytes || v->l1_size * 8 > v->file_bytes - v->l1_offset) {
        cow_fail(v->err, "the L1 table is not inside the file");
        return -EINVAL;
    }
    v->budget = v->file_bytes;
    return 0;
}

/* [offset, offset + bytes) is in the file, past the header, and has not been counted by too many
 * others. What is not compressed is aligned: libqcow reads from elsewhere if not. */
static int v1_use(struct v1 *v, uint64_t offset, uint64_t bytes, uint64_t alignment)
{
    if (offset < V1_HEADER_BYTES || offset > v->file_bytes || bytes > v->file_bytes - offset ||
        bytes > v->budget || offset % alignment) {
        cow_fail(v->err, "the image is damaged or truncated: what should be at 0x%llx is not there",
                 (unsigned long long)offset);
        return -EINVAL;
    }
    v->budget -= bytes;
    return 0;
}

static int v1_inflates(struct v1 *v, uint64_t offset, uint64_t bytes)
{
    z_stream stream = {
        .next_in = v->in,
        .avail_in = (uInt)bytes,
        .next_out = v->out,
        .avail_out = 1u << v->cluster_bits,
    };
    int r = cow_read_full(FD_SOURCE, v->in, bytes, offset);

    if (r < 0)
        return r;
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
        return -ENOMEM;
    r = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    if (r == Z_STREAM_END && stream.avail_out == 0)
        return 0;
    cow_fail(v->err, "the image is damaged: the compressed cluster at 0x%llx is not a whole one",
             (unsigned long long)offset);
    return -EINVAL;
}

static int v1_cluster(struct v1 *v, uint64_t entry)
{
    uint64_t cluster = 1ull << v->cluster_bits;
    uint32_t offset_bits = 63 - v->cluster_bits;
    int r;

    if (entry == 0)
        return 0;
    if (entry & QCOW_COPIED) { /* in version 1: compressed */
        uint64_t offset = entry & ((1ull << offset_bits) - 1);
        uint64_t bytes = (entry >> offset_bits) & (cluster - 1);

        if (v->crypt) {
            cow_fail(v->err, "the image has clusters that are compressed and encrypted");
            return -ENOTSUP;
        }
        r = v1_use(v, offset, bytes, 1);
        return r < 0 ? r : v1_inflates(v, offset, bytes);
    }
    r = v1_use(v, entry, cluster, cluster);
    return r < 0 ? r : see(v->seen, entry >> v->cluster_bits, v->err);
}

static int v1_tables(struct v1 *v)
{
    uint64_t l2_bytes = 8ull << v->l2_bits;
    int r = 0;

    for (uint64_t i = 0; i < v->l1_size && r == 0; i++) {
        uint64_t entry;
        r = cow_read_full(FD_SOURCE, &entry, sizeof(entry), v->l1_offset + 8 * i);
        entry = be64toh(entry);
        if (r < 0 || entry == 0)
            continue;
        r = v1_use(v, entry, l2_bytes, 1ull << v->cluster_bits);
        if (r == 0)
            r = cow_read_full(FD_SOURCE, v->l2, l2_bytes, entry);
        for (uint64_t k = 0; k < l2_bytes / 8 && r == 0; k++)
            r = v1_cluster(v, be64toh(v->l2[k]));
    }
    return r;
}

static int check_v1(struct old *o, uint32_t *ret_crypt)
{
    struct v1 v = {.err = &o->import->error};
    int r = v1_header(&v);

    if (r == 0) {
        v.l2 = malloc(8ull << v.l2_bits);
        v.in = malloc(1ull << v.cluster_bits);
        v.out = malloc(1ull << v.cluster_bits);
        v.seen = seen_new(v.file_bytes, v.cluster_bits);
        r = v.l2 && v.in && v.out && v.seen ? v1_tables(&v) : -ENOMEM;
    }
    free(v.l2);
    free(v.in);
    free(v.out);
    free(v.seen);
    if (r == 0) {
        o->size = v.size;
        *ret_crypt = v.crypt;
    }
    return r;
}

/* ---- checks: AES ----------------------------------------------------------------------------- */

/* One extent of an encrypted image: plain clusters, as a whole in the file. */
static int check_extent(struct cow_disk *disk, const struct cow_extent *extent, uint64_t *seen,
                        struct cow_error *err)
{
    uint64_t mask = disk->cluster_size - 1;
    uint64_t end = (extent->host + extent->length + mask) & ~mask;

    if (extent->kind == COW_BACKING)
        return 0;
    if (extent->kind == COW_DATA && end <= disk->file_end) {
        int r = 0;
        for (uint64_t at = extent->host; at < end && r == 0; at += disk->cluster_size)
            r = see(seen, at >> disk->cluster_bits, err);
        return r;
    }
    if (extent->kind == COW_DATA)
        cow_fail(err, "the image is damaged or truncated: what should be at 0x%llx is not there",
                 (unsigned long long)extent->host);
    else
        cow_fail(err,
                 "the image is encrypted and has %s clusters: decrypt it first with qemu-img "
                 "convert --object secret,... -O qcow2",
                 extent->kind == COW_ZERO ? "zero" : "compressed");
    return extent->kind == COW_DATA ? -EINVAL : -ENOTSUP;
}

static int check_aes(struct old *o)
{
    struct cow_open_options options = {.fd = FD_SOURCE,
                                       .format = COW_FORMAT_QCOW2,
                                       .flags = COW_RDONLY | COW_CIPHERTEXT,
                                       .data_fd = -1};
    struct cow_error *err = &o->import->error;
    struct cow_disk *disk;
    uint64_t *seen;
    int r = cow_open(&disk, &options, err);

    if (r < 0)
        return r;
    o->size = disk->size;
    seen = seen_new(disk->file_end, disk->cluster_bits);
    if (!seen)
        r = -ENOMEM;
    else if (disk->header.incompatible || disk->cluster_bits > MAX_CLUSTER_BITS) {
        cow_fail(err, "the image is encrypted and of a kind that cannot be imported: decrypt it "
                      "first with qemu-img convert --object secret,... -O qcow2");
        r = -ENOTSUP;
    }
    for (uint64_t at = 0; at < disk->size && r == 0;) {
        struct cow_extent extent;
        r = cow_lookup(disk, at, disk->size - at, &extent);
        if (r == -EIO)
            cow_fail(err, "the image is damaged (near byte %llu of the disk): see qemu-img check",
                     (unsigned long long)at);
        if (r == 0)
            r = check_extent(disk, &extent, seen, err);
        at += r == 0 ? extent.length : 0;
    }
    free(seen);
    (void)cow_close(disk);
    return r;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int take_passphrase(struct old *o)
{
    int r;

    if (!o->import->has_passphrase) {
        cow_fail(&o->import->error,
                 "the image is encrypted (AES): its passphrase is needed (--passphrase)");
        return -EACCES;
    }
    r = cow_read_full(FD_PASSPHRASE, o->passphrase, sizeof(o->passphrase) - 1, 0);
    if (r < 0)
        return r;
    o->passphrase_bytes = strcspn(o->passphrase, "\n");
    o->import->encrypted = true;
    return 0;
}

/* `perturb`: what memory holds that nobody wrote to. */
static int open_file(struct old *o, int perturb)
{
    size64_t size = 0;

    mallopt(M_PERTURB, perturb);
    o->file = NULL;
    if (libqcow_file_initialize(&o->file, NULL) == 1 &&
        (!o->passphrase_bytes ||
         libqcow_file_set_utf8_password(o->file, (const uint8_t *)o->passphrase,
                                        o->passphrase_bytes, NULL) == 1) &&
        libqcow_file_open(o->file, SOURCE_NAME, LIBQCOW_OPEN_READ, NULL) == 1 &&
        libqcow_file_get_media_size(o->file, &size, NULL) == 1 && size == o->size)
        return 0;
    cow_fail(&o->import->error, "the image cannot be read: libqcow does not open it");
    return -EIO;
}

static void close_file(struct old *o)
{
    if (o->file)
        libqcow_file_free(&o->file, NULL);
    mallopt(M_PERTURB, 0);
}

static int read_piece(struct old *o, uint64_t offset, uint64_t length)
{
    if (libqcow_file_read_buffer_at_offset(o->file, o->buffer, length, (off64_t)offset, NULL) ==
        (ssize_t)length)
        return 0;
    cow_fail(&o->import->error, "the image cannot be read at byte %llu of the disk",
             (unsigned long long)offset);
    return -EIO;
}

/* Blocks of zeroes stay holes. */
static int write_sparse(const uint8_t *data, uint64_t length, uint64_t offset)
{
    for (uint64_t at = 0; at < length; at += COW_BLOCK_SIZE) {
        uint64_t n = cow_min(COW_BLOCK_SIZE, length - at);
        int r = cow_is_zero(data + at, n) ? 0 : cow_write_full(FD_DISK, data + at, n, offset + at);
        if (r < 0)
            return r;
    }
    return 0;
}

static int copy(struct old *o)
{
    int r = open_file(o, 0xa5);

    for (uint64_t at = 0; at < o->size && r == 0; at += COPY_STEP) {
        uint64_t length = cow_min(COPY_STEP, o->size - at);
        r = read_piece(o, at, length);
        if (r == 0)
            r = write_sparse(o->buffer, length, at);
        if (r == 0)
            r = import_progress(o->import, at + length);
    }
    close_file(o);
    return r;
}

static int compare(struct old *o)
{
    int r = open_file(o, 0x3c);

    for (uint64_t at = 0; at < o->size && r == 0; at += COMPARE_STEP) {
        uint64_t length = cow_min(COMPARE_STEP, o->size - at);
        r = read_piece(o, at, length);
        if (r == 0)
            r = cow_read_full(FD_DISK, o->other, length, at);
        if (r == 0 && memcmp(o->buffer, o->other, length) != 0) {
            cow_fail(&o->import->error, "the image reads differently twice near byte %llu",
                     (unsigned long long)at);
            r = -EIO;
        }
    }
    close_file(o);
    return r;
}

static int check_image(struct old *o, uint32_t version)
{
    uint32_t crypt = COW_ENCRYPTION_AES;
    int r = version == 1 ? check_v1(o, &crypt) : check_aes(o);

    if (r == 0 && crypt)
        r = take_passphrase(o);
    if (r == 0)
        r = import_check_size(o->import, o->size);
    if (r == 0 && ftruncate(FD_DISK, (off_t)o->size) < 0)
        r = -errno;
    if (r == 0)
        r = import_limit_cpu(CPU_BASE + (unsigned)(o->size / CPU_BYTES));
    return r;
}

bool import_is_old(uint32_t *ret_version)
{
    uint8_t raw[V1_HEADER_BYTES];

    if (cow_read_full(FD_SOURCE, raw, sizeof(raw), 0) < 0 || cow_get32(raw) != QCOW_MAGIC)
        return false;
    *ret_version = cow_get32(raw + QCOW_H_VERSION);
    return *ret_version == 1 || cow_get32(raw + QCOW_H_CRYPT) == COW_ENCRYPTION_AES;
}

int import_copy_old(struct import *import, uint32_t version)
{
    struct old o = {.import = import};
    int r;

    if (import->snapshot) {
        cow_fail(&import->error, "of an image of this kind only the current state can be imported");
        return -ENOTSUP;
    }
    r = check_image(&o, version);

    if (r == 0) {
        o.buffer = malloc(COPY_STEP);
        o.other = malloc(COPY_STEP);
        r = o.buffer && o.other ? copy(&o) : -ENOMEM;
    }
    if (r == 0)
        r = compare(&o);
    if (r == 0)
        r = import_limit_cpu(0);
    if (r == 0)
        r = cow_sync(FD_DISK);
    free(o.buffer);
    free(o.other);
    explicit_bzero(o.passphrase, sizeof(o.passphrase));
    return r;
}
