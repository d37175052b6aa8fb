/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an image file says about itself, for people and for whoever opens what it names. Of any
 * image whose header can be understood, also of those that we refuse to read.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static void qcow_info(const struct cow_header *h, struct cow_info *info)
{
    info->version = h->version;
    info->virtual_size = h->size;
    info->cluster_bits = h->cluster_bits;
    info->refcount_bits = 1u << h->refcount_order;
    info->n_snapshots = h->n_snapshots;
    info->compression = h->compression;
    info->encryption = h->crypt;
    info->extended_l2 = h->incompatible & QCOW_INCOMPAT_EXTENDED_L2;
    info->lazy_refcounts = h->compatible & QCOW_COMPAT_LAZY_REFCOUNTS;
    info->dirty = h->incompatible & QCOW_INCOMPAT_DIRTY;
    info->corrupt = h->incompatible & QCOW_INCOMPAT_CORRUPT;
    info->has_data_file = h->incompatible & QCOW_INCOMPAT_EXTERNAL_DATA;
    info->data_file_raw = info->has_data_file && h->autoclear & QCOW_AUTOCLEAR_DATA_RAW;
    memcpy(info->backing_name, h->backing_name, sizeof(info->backing_name));
    memcpy(info->backing_format, h->backing_format, sizeof(info->backing_format));
    memcpy(info->data_name, h->data_name, sizeof(info->data_name));
    info->has_identity = h->has_identity;
    info->identity = h->identity;
}

/* Numbers that our enums do not name belong to formats that nobody has defined. */
static int check_kinds(const struct cow_header *h, struct cow_error *err)
{
    if (h->compression > COW_COMPRESSION_ZSTD) {
        cow_fail(err, "the image uses compression of an unknown kind (%u)", h->compression);
        return -ENOTSUP;
    }
    if (h->crypt > COW_ENCRYPTION_LUKS) {
        cow_fail(err, "the image uses encryption of an unknown kind (%u)", h->crypt);
        return -ENOTSUP;
    }
    return 0;
}

int cow_info_read(int fd, enum cow_format format, struct cow_info *ret_info, struct cow_error *err)
{
    struct cow_info info = {0};
    struct cow_header header;
    int r = cow_file_bytes(fd, &info.file_bytes, err);
    struct stat st;

    _Static_assert(sizeof(info.backing_name) == sizeof(header.backing_name), "one limit");
    _Static_assert(sizeof(info.data_name) == sizeof(header.data_name), "one limit");
    if (r == 0 && format == COW_FORMAT_PROBE)
        r = cow_probe(fd, &format, err);
    if (r == 0 && fstat(fd, &st) < 0)
        r = -errno;
    if (r < 0)
        return r;
    info.format = format;
    info.allocated_bytes = (uint64_t)st.st_blocks * 512;
    info.virtual_size = cow_raw_size(info.file_bytes);
    if (format == COW_FORMAT_QCOW2) {
        r = cow_header_parse(fd, &header, err);
        if (r == 0)
            r = check_kinds(&header, err);
        if (r < 0)
            return r;
        qcow_info(&header, &info);
    }
    *ret_info = info;
    return 0;
}
