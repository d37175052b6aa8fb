/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The qcow2 format: positions, bits and the header in the host's byte order. Source: QEMU
 * docs/interop/qcow2.rst. No code but the smallest helpers.
 */
#ifndef COWDISK_FORMAT_H
#define COWDISK_FORMAT_H

#include "cowdisk/cowdisk.h"

#include <stdint.h>

#define QCOW_MAGIC             0x514649fbu /* "QFI\xfb" */
#define QCOW_MIN_CLUSTER_BITS  9u
#define QCOW_MAX_CLUSTER_BITS  21u
#define QCOW_MIN_EXTENDED_BITS 14u /* clusters of images with subclusters */
#define QCOW_SUBCLUSTERS       32u
#define QCOW_V2_HEADER_BYTES   72u
#define QCOW_V3_HEADER_BYTES   104u
#define QCOW_MAX_HEADER_BYTES  4096u /* of the fixed part; extensions follow it */
#define QCOW_MAX_NAME          1023u

/* Byte positions in the header. */
enum {
    QCOW_H_MAGIC = 0,
    QCOW_H_VERSION = 4,
    QCOW_H_BACKING_OFFSET = 8,
    QCOW_H_BACKING_LENGTH = 16,
    QCOW_H_CLUSTER_BITS = 20,
    QCOW_H_SIZE = 24,
    QCOW_H_CRYPT = 32,
    QCOW_H_L1_SIZE = 36,
    QCOW_H_L1_OFFSET = 40,
    QCOW_H_RT_OFFSET = 48,
    QCOW_H_RT_CLUSTERS = 56,
    QCOW_H_SNAPSHOTS = 60,
    QCOW_H_SNAPSHOTS_OFFSET = 64,
    QCOW_H_INCOMPATIBLE = 72,
    QCOW_H_COMPATIBLE = 80,
    QCOW_H_AUTOCLEAR = 88,
    QCOW_H_REFCOUNT_ORDER = 96,
    QCOW_H_LENGTH = 100,
    QCOW_H_COMPRESSION = 104,
};

#define QCOW_INCOMPAT_DIRTY         (1ull << 0)
#define QCOW_INCOMPAT_CORRUPT       (1ull << 1)
#define QCOW_INCOMPAT_EXTERNAL_DATA (1ull << 2)
#define QCOW_INCOMPAT_COMPRESSION   (1ull << 3)
#define QCOW_INCOMPAT_EXTENDED_L2   (1ull << 4)

/* Byte positions in an entry of the snapshot table; extra data, id and name follow it. */
enum {
    QCOW_S_L1_OFFSET = 0,
    QCOW_S_L1_SIZE = 8,
    QCOW_S_ID_LENGTH = 12,
    QCOW_S_NAME_LENGTH = 14,
    QCOW_S_DATE_SEC = 16,
    QCOW_S_DATE_NSEC = 20,
    QCOW_S_VM_CLOCK = 24,
    QCOW_S_VM_STATE_BYTES = 32,
    QCOW_S_EXTRA_LENGTH = 36,
    QCOW_S_BYTES = 40,
    /* in the extra data */
    QCOW_S_VM_STATE_BYTES_64 = 0,
    QCOW_S_DISK_SIZE = 8,
};

#define QCOW_EXT_END            0u
#define QCOW_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW_EXT_FEATURE_NAMES  0x6803f857u
#define QCOW_EXT_DATA_FILE      0x44415441u
#define QCOW_EXT_BITMAPS        0x23852875u
#define QCOW_EXT_IDENTITY       0x766d6d64u /* ours: of the backing file; 16 bytes */

#define QCOW_COMPAT_LAZY_REFCOUNTS (1ull << 0)
#define QCOW_AUTOCLEAR_BITMAPS     (1ull << 0)
#define QCOW_AUTOCLEAR_DATA_RAW    (1ull << 1)

#define QCOW_OFFSET_MASK 0x00fffffffffffe00ull
#define QCOW_COPIED      (1ull << 63)
#define QCOW_COMPRESSED  (1ull << 62)
#define QCOW_ZERO        1ull
/* Bits that must be zero, apart from alignment. */
#define QCOW_L1_RESERVED 0x7f000000000001ffull
#define QCOW_L2_RESERVED 0x3f000000000001feull
#define QCOW_RT_RESERVED 0x00000000000001ffull

#define QCOW_REFCOUNT_ORDER 4u /* 16 bits: the only width we write */

struct cow_header {
    uint32_t version;
    uint64_t backing_offset;
    uint32_t backing_length;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt;
    uint32_t l1_size; /* entries */
    uint64_t l1_offset;
    uint64_t rt_offset;
    uint32_t rt_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint64_t bitmaps_offset; /* of the contents of the bitmaps extension in the file; 0: none */
    uint32_t refcount_order;
    uint32_t header_length;
    uint8_t compression;
    char backing_name[QCOW_MAX_NAME + 1]; /* "" without a backing file */
    char backing_format[16];              /* "" if the file does not say */
    char data_name[QCOW_MAX_NAME + 1];    /* "" if the file does not say */
    bool has_identity;
    struct cow_identity identity; /* of the backing file when the image was made */
};

#endif
