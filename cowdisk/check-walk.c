/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every reference in the metadata of an image: header, active L1, L1 of the snapshots, L2, data,
 * snapshot table, bitmaps, refcount table and blocks. Counting is the same for all; what is wrong
 * with an entry itself is noted on the first pass.
 *
 * The depth is fixed and every number is checked before it leads anywhere: the walk cannot loop.
 * Its length is bounded by the number of tables the image names, so it asks the caller now and then
 * whether to go on.
 */
#include "cowdisk/check.h"

#include <errno.h>
#include <stdlib.h>

#define SNAPSHOT_FIXED    40u
#define MAX_EXTRA         1024u       /* bytes of a snapshot's extra data, as QEMU */
#define MAX_SNAPSHOT_L1   (32u << 20) /* bytes */
#define EXT_BITMAPS       0x23852875u
#define MAX_BITMAPS       65535u
#define MAX_BITMAP_DIR    (64u << 20) /* bytes, as QEMU */
#define MAX_BITMAP_TABLE  (32u << 20) /* entries: 256 MiB of them */
#define AUTOCLEAR_BITMAPS 1ull
#define BITMAP_RESERVED   0xff000000000001feull
#define BITMAP_FIXED      24u

static unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

/* [offset, offset + bytes) is used once more. The file's last cluster may be cut short. */
static void refer(struct check *c, uint64_t offset, uint64_t bytes, const char *what)
{
    uint64_t first, last;

    if (bytes == 0)
        return;
    if (offset > c->file_bytes + c->cluster_size ||
        bytes >= c->file_bytes + c->cluster_size - offset) {
        check_problem(c, "%s at 0x%llx is outside of the file", what, (unsigned long long)offset);
        c->lowest_outside = cow_min(c->lowest_outside, offset);
        return;
    }
    first = offset >> c->header.cluster_bits;
    last = (offset + bytes - 1) >> c->header.cluster_bits;
    for (uint64_t i = first; i <= last; i++) {
        if (i >= c->first && i < c->first + c->n && c->refs[i - c->first] < UINT32_MAX)
            c->refs[i - c->first]++;
    }
}

/* ---- L2 -------------------------------------------------------------------------------------- */

enum check_entry check_entry_kind(const struct check *c, uint64_t entry)
{
    if (entry & QCOW_COMPRESSED)
        return CHECK_PACKED;
    if (entry & QCOW_OFFSET_MASK)
        return CHECK_ALLOCATED;
    /* In an external data file offset 0 is a place like any other. */
    if (c->header.incompatible & QCOW_INCOMPAT_EXTERNAL_DATA && entry & QCOW_COPIED)
        return CHECK_ALLOCATED;
    return CHECK_EMPTY;
}

static void count_packed(struct check *c, uint64_t entry)
{
    uint32_t offset_bits = 62 - (c->header.cluster_bits - 8);
    uint64_t sectors = (entry & ~(QCOW_COPIED | QCOW_COMPRESSED)) >> offset_bits;
    uint64_t offset = entry & ((1ull << offset_bits) - 1);

    if (entry & QCOW_COPIED)
        check_problem(c, "the compressed cluster at 0x%llx has the COPIED flag",
                      (unsigned long long)offset);
    if (c->header.incompatible & QCOW_INCOMPAT_EXTERNAL_DATA) {
        check_problem(c, "the compressed cluster at 0x%llx cannot be in a data file",
                      (unsigned long long)offset);
        return;
    }
    refer(c, offset, (sectors + 1) * 512 - (offset & 511), "a compressed cluster");
}

static void count_allocated(struct check *c, uint64_t entry, uint64_t subclusters)
{
    uint64_t offset = entry & QCOW_OFFSET_MASK;

    if (entry & QCOW_L2_RESERVED)
        check_problem(c, "the entry of the cluster at 0x%llx has reserved bits",
                      (unsigned long long)offset);
    if (subclusters >> 32 & subclusters)
        check_problem(c, "subclusters at 0x%llx are both data and zero",
                      (unsigned long long)offset);
    if (offset % c->cluster_size)
        check_problem(c, "the data cluster at 0x%llx is not aligned", (unsigned long long)offset);
    if (!(c->header.incompatible & QCOW_INCOMPAT_EXTERNAL_DATA))
        refer(c, offset, c->cluster_size, "a data cluster");
}

/* Fragmented: allocated, but not right behind the one before. */
static void count_shape(struct check *c, enum check_entry kind, uint64_t entry, uint64_t *next)
{
    struct cow_check_result *result = &c->result;
    uint64_t offset = entry & QCOW_OFFSET_MASK;

    result->allocated_clusters++;
    if (kind == CHECK_PACKED) {
        result->compressed_clusters++;
        result->fragmented_clusters++;
        return;
    }
    if (*next && offset != *next)
        result->fragmented_clusters++;
    *next = offset + c->cluster_size;
}

static int count_l2(struct check *c, uint64_t l2_offset, bool active)
{
    uint64_t n = c->cluster_size / 8 / c->entry_words, next = 0;
    int r = cow_read_full(c->fd, c->l2, c->cluster_size, l2_offset);

    if (r < 0)
        return r;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t entry = be64toh(c->l2[i * c->entry_words]);
        uint64_t subclusters = c->entry_words == 2 ? be64toh(c->l2[i * 2 + 1]) : 0;
        enum check_entry kind = check_entry_kind(c, entry);

        if (kind == CHECK_PACKED)
            count_packed(c, entry);
        else if (kind == CHECK_ALLOCATED)
            count_allocated(c, entry, subclusters);
        else if (entry & QCOW_L2_RESERVED)
            check_problem(c, "an empty L2 entry has reserved bits");
        if (kind == CHECK_PACKED ? subclusters != 0 : kind == CHECK_EMPTY && (uint32_t)subclusters)
            check_problem(c, "subclusters are allocated in a cluster without any");
        if (kind != CHECK_EMPTY && active && c->tell)
            count_shape(c, kind, entry, &next);
    }
    return 0;
}

/* ---- L1 -------------------------------------------------------------------------------------- */

bool check_l2_place(const struct check *c, uint64_t l1_entry, uint64_t *ret_offset)
{
    *ret_offset = l1_entry & QCOW_OFFSET_MASK;
    return *ret_offset && *ret_offset % c->cluster_size == 0 && *ret_offset < c->file_bytes;
}

static int tick(struct check *c)
{
    c->done++;
    if (c->progress && c->done % 64 == 0)
        return c->progress(c->opaque, cow_min(c->done, c->total), c->total) ? -ECANCELED : 0;
    return 0;
}

static int each_l1(struct check *c, uint64_t l1_offset, uint64_t l1_size,
                   int (*fn)(struct check *c, uint64_t index, uint64_t entry, uint64_t at))
{
    uint64_t per_read = c->cluster_size / 8;

    for (uint64_t i = 0; i < l1_size; i += per_read) {
        uint64_t n = cow_min(per_read, l1_size - i);
        int r = cow_read_full(c->fd, c->l1, n * 8, l1_offset + i * 8);
        for (uint64_t k = 0; k < n && r == 0; k++) {
            if (c->l1[k])
                r = fn(c, i + k, be64toh(c->l1[k]), l1_offset + (i + k) * 8);
            if (r == 0)
                r = tick(c);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

int check_each_l1(struct check *c,
                  int (*fn)(struct check *c, uint64_t index, uint64_t entry, uint64_t at))
{
    return each_l1(c, c->header.l1_offset, c->header.l1_size, fn);
}

static int count_l1_entry(struct check *c, uint64_t index, uint64_t entry, bool active)
{
    uint64_t offset;

    if (entry & QCOW_L1_RESERVED)
        check_problem(c, "L1 entry %llu has reserved bits", (unsigned long long)index);
    if (!(entry & QCOW_OFFSET_MASK)) {
        check_problem(c, "L1 entry %llu has flags, but no table", (unsigned long long)index);
        return 0;
    }
    if ((entry & QCOW_OFFSET_MASK) % c->cluster_size)
        check_problem(c, "the L2 table at 0x%llx is not aligned",
                      (unsigned long long)(entry & QCOW_OFFSET_MASK));
    if (!check_l2_place(c, entry, &offset))
        c->blind = true;
    refer(c, entry & QCOW_OFFSET_MASK, c->cluster_size, "an L2 table");
    return check_l2_place(c, entry, &offset) ? count_l2(c, offset, active) : 0;
}

static int count_active(struct check *c, uint64_t index, uint64_t entry, uint64_t at)
{
    (void)at;
    return count_l1_entry(c, index, entry, true);
}

static int count_frozen(struct check *c, uint64_t index, uint64_t entry, uint64_t at)
{
    (void)at;
    return count_l1_entry(c, index, entry, false);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static int count_snapshot_l1(struct check *c, uint32_t number, const uint8_t *fixed)
{
    uint64_t l1_offset = cow_get64(fixed), l1_size = cow_get32(fixed + 8);

    if (c->header.version >= 3 && cow_get32(fixed + 36) < 16)
        check_problem(c, "snapshot %u lacks the data of version 3", number);
    if (l1_offset % c->cluster_size || l1_size * 8 > MAX_SNAPSHOT_L1) {
        check_problem(c, "snapshot %u has no valid L1 table (0x%llx)", number,
                      (unsigned long long)l1_offset);
        c->blind = true;
        return 0;
    }
    refer(c, l1_offset, l1_size * 8, "the L1 table of a snapshot");
    if (l1_offset > c->file_bytes || l1_size * 8 > c->file_bytes - l1_offset) {
        c->blind = true;
        return 0;
    }
    return each_l1(c, l1_offset, l1_size, count_frozen);
}

static int count_snapshots(struct check *c, uint64_t start)
{
    uint64_t at = start;

    for (uint32_t i = 0; i < c->header.n_snapshots; i++) {
        uint8_t fixed[SNAPSHOT_FIXED];
        int r = cow_read_full(c->fd, fixed, sizeof(fixed), at);
        if (r == 0 && (at > c->file_bytes || cow_get32(fixed + 36) > MAX_EXTRA)) {
            check_problem(c, "the snapshot table is not valid from entry %u on", i);
            c->blind = true;
            break;
        }
        if (r == 0)
            r = count_snapshot_l1(c, i, fixed);
        if (r < 0)
            return r;
        at += SNAPSHOT_FIXED + cow_get32(fixed + 36) + get16(fixed + 12) + get16(fixed + 14);
        at = (at + 7) & ~7ull;
    }
    if (c->header.n_snapshots)
        refer(c, start, at - start, "the snapshot table");
    return 0;
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

static int count_bitmap_table(struct check *c, uint64_t offset, uint64_t size)
{
    uint64_t entry;

    if (offset == 0 || offset % c->cluster_size || size > MAX_BITMAP_TABLE ||
        offset > c->file_bytes || size * 8 > c->file_bytes - offset) {
        check_problem(c, "a bitmap table at 0x%llx is not valid", (unsigned long long)offset);
        c->blind = true;
        return 0;
    }
    refer(c, offset, size * 8, "a bitmap table");
    for (uint64_t i = 0; i < size; i++) {
        int r = cow_read_full(c->fd, &entry, sizeof(entry), offset + 8 * i);
        if (r == 0)
            r = tick(c);
        if (r < 0)
            return r;
        entry = be64toh(entry);
        if (entry & BITMAP_RESERVED || (entry & QCOW_OFFSET_MASK) % c->cluster_size)
            check_problem(c, "an entry of the bitmap table at 0x%llx is not valid",
                          (unsigned long long)offset);
        if (entry & QCOW_OFFSET_MASK)
            refer(c, entry & QCOW_OFFSET_MASK, c->cluster_size, "a bitmap");
    }
    return 0;
}

static void bad_directory(struct check *c, uint64_t offset)
{
    check_problem(c, "the bitmap directory at 0x%llx is not valid", (unsigned long long)offset);
    c->blind = true;
}

/* Entries of `n` bitmaps, one behind the other, fill the directory. */
static int count_bitmap_directory(struct check *c, uint64_t offset, uint64_t size, uint32_t n)
{
    uint64_t at = offset, end = offset + size;

    if (offset == 0 || offset % c->cluster_size || size > MAX_BITMAP_DIR || n > MAX_BITMAPS ||
        offset > c->file_bytes || size > c->file_bytes - offset) {
        bad_directory(c, offset);
        return 0;
    }
    refer(c, offset, size, "the bitmap directory");
    for (uint32_t i = 0; i < n; i++) {
        uint8_t fixed[BITMAP_FIXED];
        uint64_t length;
        int r = cow_read_full(c->fd, fixed, sizeof(fixed), at);
        if (r < 0)
            return r;
        length = BITMAP_FIXED + cow_get32(fixed + 20) + (uint64_t)get16(fixed + 18);
        length = (length + 7) & ~7ull;
        if (length > end - at)
            break;
        r = count_bitmap_table(c, cow_get64(fixed), cow_get32(fixed + 8));
        if (r < 0)
            return r;
        at += length;
    }
    if (at != end)
        bad_directory(c, offset);
    return 0;
}

/* The header extension of bitmaps counts only while its autoclear bit is set. */
static int count_bitmaps(struct check *c)
{
    uint64_t at = c->header.header_length;

    if (!(c->header.autoclear & AUTOCLEAR_BITMAPS) || c->header.version < 3)
        return 0;
    while (at + 32 <= c->cluster_size) {
        uint8_t ext[32];
        int r = cow_read_full(c->fd, ext, sizeof(ext), at);
        if (r < 0)
            return r;
        if (cow_get32(ext) == QCOW_EXT_END)
            break;
        if (cow_get32(ext) == EXT_BITMAPS && cow_get32(ext + 4) >= 24)
            return count_bitmap_directory(c, cow_get64(ext + 24), cow_get64(ext + 16),
                                          cow_get32(ext + 8));
        at += 8 + ((cow_get32(ext + 4) + 7ull) & ~7ull);
    }
    return 0;
}

/* ---- refcount structures --------------------------------------------------------------------- */

static int count_structures(struct check *c)
{
    uint64_t n = ((uint64_t)c->header.rt_clusters << c->header.cluster_bits) / 8, per = 512;
    uint64_t entries[512];

    refer(c, c->header.rt_offset, n * 8, "the refcount table");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t entry;
        if (i % per == 0) {
            int r =
                cow_read_full(c->fd, entries, cow_min(per, n - i) * 8, c->header.rt_offset + 8 * i);
            if (r < 0)
                return r;
        }
        entry = be64toh(entries[i % per]);
        if (entry & QCOW_RT_RESERVED || entry % c->cluster_size) {
            check_problem(c, "refcount block %llu at 0x%llx is not aligned", (unsigned long long)i,
                          (unsigned long long)entry);
            c->need_rebuild = true;
        } else if (entry) {
            refer(c, entry, c->cluster_size, "a refcount block");
            c->need_rebuild = c->need_rebuild || entry >= c->file_bytes;
        }
    }
    return 0;
}

int check_count_references(struct check *c)
{
    int r;

    memset(c->refs, 0, c->n * sizeof(*c->refs));
    refer(c, 0, c->cluster_size, "the header");
    refer(c, c->header.l1_offset, c->header.l1_size * 8ull, "the L1 table");
    r = check_each_l1(c, count_active);
    if (r == 0)
        r = count_snapshots(c, c->header.snapshots_offset);
    if (r == 0)
        r = count_bitmaps(c);
    if (r == 0 && !c->no_structures)
        r = count_structures(c);
    return r;
}
