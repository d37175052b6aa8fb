/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a guest offset to where its bytes are: L1, L2, entry. Every entry is checked here, on its
 * way out of the file, and nowhere else: alignment, reserved bits, inside the file, not on the
 * header, L1 or refcount table. A bad one is -EIO for the request that needed it.
 *
 * The depth is fixed (L1, L2, data), so no table can make a loop.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <unistd.h>

/* Does a cluster lie on a table that is in the file for good? */
static bool hits_table(const struct cow_disk *disk, uint64_t offset)
{
    const struct cow_table *tables[] = {disk->l1, disk->rt};

    if (offset < disk->cluster_size)
        return true;
    for (size_t i = 0; i < 2; i++) {
        const struct cow_table *table = tables[i];
        if (table && table->active && offset >= table->active &&
            offset < table->active + table->bytes)
            return true;
    }
    return false;
}

/* Makes the object of the L2 table `index`; *ret_table = NULL if the image has none and not
 * `create`. */
static int l2_table(struct cow_disk *disk, uint32_t index, bool create,
                    struct cow_table **ret_table)
{
    uint64_t entry, offset;
    int r;

    if (disk->l2[index]) {
        *ret_table = disk->l2[index];
        return 0;
    }
    r = cow_table_entry(disk, disk->l1, index, &entry);
    if (r < 0)
        return r;
    offset = entry & QCOW_OFFSET_MASK;
    if (offset == 0 && !create) {
        *ret_table = NULL;
        return 0;
    }
    if (entry & QCOW_L1_RESERVED || offset & (disk->cluster_size - 1) ||
        (offset && (hits_table(disk, offset) || offset + disk->cluster_size > disk->file_end)))
        return -EIO;
    disk->l2[index] = cow_table_new(disk, COW_TABLE_L2, index, offset, disk->cluster_size);
    if (!disk->l2[index])
        return -ENOMEM;
    *ret_table = disk->l2[index];
    return 0;
}

static int l2_page(struct cow_disk *disk, uint64_t cluster, bool create, struct cow_page **ret_page,
                   uint32_t *ret_slot)
{
    uint32_t table_bits = disk->cluster_bits - disk->entry_bits;
    uint32_t per_page = disk->page_bytes >> disk->entry_bits;
    uint64_t in_table = cluster & ((1ull << table_bits) - 1);
    struct cow_table *table;
    int r = l2_table(disk, (uint32_t)(cluster >> table_bits), create, &table);

    if (r < 0)
        return r;
    *ret_slot = (uint32_t)(in_table % per_page);
    if (!table) {
        *ret_page = NULL;
        return 0;
    }
    return cow_page_get(disk, table, (uint32_t)(in_table / per_page), ret_page);
}

int cow_l2_page(struct cow_disk *disk, uint64_t cluster, struct cow_page **ret_page,
                uint32_t *ret_slot)
{
    return l2_page(disk, cluster, true, ret_page, ret_slot);
}

void cow_packed_range(const struct cow_disk *disk, uint64_t entry, uint64_t *ret_offset,
                      uint64_t *ret_length)
{
    uint32_t offset_bits = 62 - (disk->cluster_bits - 8);
    uint64_t sectors = (entry & ~(QCOW_COPIED | QCOW_COMPRESSED)) >> offset_bits;

    *ret_offset = entry & ((1ull << offset_bits) - 1);
    *ret_length = (sectors + 1) * 512 - (*ret_offset & 511);
}

static int check_packed(const struct cow_disk *disk, uint64_t entry, uint64_t bitmap)
{
    uint64_t offset, length;

    cow_packed_range(disk, entry, &offset, &length);
    /* The last sector may be cut short, the first byte must be there. */
    if (offset < disk->cluster_size || offset >= disk->file_end)
        return -EIO;
    return disk->data_fd >= 0 || bitmap ? -EIO : 0;
}

/* May data lie at this offset? In an external data file anywhere. */
static bool data_fits(const struct cow_disk *disk, uint64_t offset)
{
    if (disk->data_fd >= 0)
        return offset < disk->data_end;
    return offset < disk->file_end && !hits_table(disk, offset);
}

/* Subclusters: who is not allocated comes from below or is zeroes, one by one. */
static int decode_bitmap(uint64_t bitmap, uint32_t sub, bool has_data, enum cow_kind *ret_kind)
{
    uint64_t allocated = bitmap & 0xffffffff, zero = bitmap >> 32;

    if (allocated & zero || (allocated && !has_data))
        return -EIO;
    if (zero >> sub & 1)
        *ret_kind = COW_ZERO;
    else
        *ret_kind = allocated >> sub & 1 ? COW_DATA : COW_BACKING;
    return 0;
}

/* What one L2 entry means for its subcluster `sub`; host is the offset of its cluster. */
static int decode(const struct cow_disk *disk, const uint64_t *place, uint32_t sub,
                  enum cow_kind *ret_kind, uint64_t *ret_host)
{
    uint64_t entry = be64toh(place[0]), bitmap = disk->n_subs > 1 ? be64toh(place[1]) : 0;
    uint64_t offset = entry & QCOW_OFFSET_MASK;
    /* Offset 0 is a place as any other in a data file: there the copied bit tells. */
    bool has_data = offset || (disk->data_fd >= 0 && entry & QCOW_COPIED);

    *ret_host = offset;
    if (entry & QCOW_COMPRESSED) {
        *ret_kind = COW_PACKED;
        return check_packed(disk, entry, bitmap);
    }
    if (entry & QCOW_L2_RESERVED || offset & (disk->cluster_size - 1))
        return -EIO;
    if (has_data && !data_fits(disk, offset))
        return -EIO;
    if (entry & QCOW_ZERO) {
        if (disk->header.version < 3 || disk->n_subs > 1)
            return -EIO;
        *ret_kind = COW_ZERO;
        return 0;
    }
    if (disk->n_subs > 1)
        return decode_bitmap(bitmap, sub, has_data, ret_kind);
    *ret_kind = has_data ? COW_DATA : COW_BACKING;
    return 0;
}

/* How many subclusters from `sub` of entry `slot` on continue what the first one began, at most
 * `max`. */
static uint64_t uniform_run(const struct cow_disk *disk, const struct cow_page *page, uint32_t slot,
                            uint32_t sub, uint64_t max, const struct cow_extent *first,
                            uint64_t first_host)
{
    uint32_t per_page = disk->page_bytes >> disk->entry_bits, step = disk->n_subs > 1 ? 2 : 1;
    uint64_t n = 1;

    max = cow_min(max, (uint64_t)(per_page - slot) * disk->n_subs - sub);
    if (first->kind == COW_PACKED)
        return cow_min(max, disk->n_subs - sub);
    for (; n < max; n++) {
        uint64_t cluster = (sub + n) / disk->n_subs, host;
        const uint64_t *place = &page->entry[(slot + cluster) * step];
        enum cow_kind kind;

        if (decode(disk, place, (uint32_t)((sub + n) % disk->n_subs), &kind, &host) < 0 ||
            kind != first->kind)
            break;
        if (kind == COW_DATA && (host != first_host + (cluster << disk->cluster_bits) ||
                                 !!(be64toh(*place) & QCOW_COPIED) != first->owned))
            break;
    }
    return n;
}

/* Without an L2 table: the rest of what it would describe, and of those behind it that lack too. */
static int extent_without_table(struct cow_disk *disk, uint64_t offset, uint64_t length,
                                struct cow_extent *ret_extent)
{
    uint32_t span_bits = 2 * disk->cluster_bits - disk->entry_bits;
    uint64_t index = offset >> span_bits, end = (index + 1) << span_bits, entry;

    while (end - offset < length && !disk->l2[++index]) {
        int r = cow_table_entry(disk, disk->l1, index, &entry);
        if (r < 0)
            return r;
        if (entry & QCOW_OFFSET_MASK || entry & QCOW_L1_RESERVED)
            break;
        end = (index + 1) << span_bits;
    }
    *ret_extent = (struct cow_extent){
        .kind = COW_BACKING,
        .length = cow_min(length, end - offset),
    };
    return 0;
}

int cow_lookup(struct cow_disk *disk, uint64_t offset, uint64_t length,
               struct cow_extent *ret_extent)
{
    uint64_t in_cluster = offset & (disk->cluster_size - 1), in_sub, host, n;
    uint32_t sub = (uint32_t)(in_cluster >> disk->sub_bits), slot;
    struct cow_extent extent = {0};
    const uint64_t *place;
    struct cow_page *page;
    int r = l2_page(disk, offset >> disk->cluster_bits, false, &page, &slot);

    if (r < 0)
        return r;
    if (!page)
        return extent_without_table(disk, offset, length, ret_extent);
    place = &page->entry[slot << (disk->entry_bits - 3)];
    extent.entry = be64toh(*place);
    r = decode(disk, place, sub, &extent.kind, &host);
    if (r < 0)
        return r;
    in_sub = offset & ((1ull << disk->sub_bits) - 1);
    extent.owned = extent.kind == COW_DATA && extent.entry & QCOW_COPIED;
    extent.host = host + in_cluster;
    n = (in_sub + length + (1ull << disk->sub_bits) - 1) >> disk->sub_bits;
    n = uniform_run(disk, page, slot, sub, n, &extent, host);
    extent.length = cow_min(length, (n << disk->sub_bits) - in_sub);
    *ret_extent = extent;
    return 0;
}

int cow_entry_drop(struct cow_disk *disk, uint64_t entry)
{
    uint64_t offset, length, last;
    int r;

    if (!(entry & QCOW_COMPRESSED)) {
        offset = entry & QCOW_OFFSET_MASK;
        r = offset ? cow_refcount_drop(disk, offset >> disk->cluster_bits, false) : 0;
        return r < 0 ? r : 0;
    }
    cow_packed_range(disk, entry, &offset, &length);
    last = (offset + length - 1) >> disk->cluster_bits;
    for (uint64_t i = offset >> disk->cluster_bits; i <= last; i++) {
        r = cow_refcount_drop(disk, i, false);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- for others ------------------------------------------------------------------------------ */

static int check_range(const struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    if (length == 0 || offset > disk->size || length > disk->size - offset)
        return -EINVAL;
    return 0;
}

/* A file system that cannot tell holes has none. */
static void map_raw(const struct cow_disk *disk, uint64_t offset, uint64_t length,
                    struct cow_map *ret_map)
{
    struct cow_map map = {.kind = COW_MAP_DATA, .length = length};
    off_t data = lseek(disk->fd, (off_t)offset, SEEK_DATA), hole;

    if (data < 0 && errno == ENXIO) {
        map.kind = COW_MAP_ZERO;
    } else if (data > (off_t)offset) {
        map.kind = COW_MAP_ZERO;
        map.length = cow_min(length, (uint64_t)data - offset);
    } else if (data == (off_t)offset) {
        hole = lseek(disk->fd, data, SEEK_HOLE);
        if (hole > data)
            map.length = cow_min(length, (uint64_t)hole - offset);
    }
    *ret_map = map;
}

int cow_map(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_map *ret_map)
{
    static const enum cow_map_kind kinds[] = {
        [COW_DATA] = COW_MAP_DATA,
        [COW_PACKED] = COW_MAP_DATA,
        [COW_ZERO] = COW_MAP_ZERO,
        [COW_BACKING] = COW_MAP_BACKING,
    };
    struct cow_extent extent;
    int r = check_range(disk, offset, length);

    if (r < 0)
        return r;
    if (disk->raw) {
        map_raw(disk, offset, length, ret_map);
        return 0;
    }
    r = cow_lookup(disk, offset, length, &extent);
    if (r < 0)
        return r;
    *ret_map =
        (struct cow_map){.kind = kinds[extent.kind], .length = extent.length, .offset = offset};
    return 0;
}

/* Of a raw image at the bottom: what the file really holds, and zeroes behind its end. */
static void map_bottom(const struct cow_place *place, struct cow_map *map)
{
    uint64_t end = place->disk->file_end, offset = place->extent.host;

    if (offset >= end) {
        map->kind = COW_MAP_ZERO;
        return;
    }
    map->kind = COW_MAP_BACKING;
    map->length = cow_min(map->length, end - offset);
    map->offset = offset;
}

int cow_map_chain(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_map *ret_map)
{
    struct cow_place place = {.disk = disk, .extent = {.kind = COW_DATA, .length = length}};
    struct cow_map map = {.kind = COW_MAP_DATA};
    int r = check_range(disk, offset, length);

    if (r == 0 && !disk->raw)
        r = cow_lookup(disk, offset, length, &place.extent);
    if (r == 0 && place.extent.kind == COW_BACKING)
        r = cow_trace_below(disk, offset, place.extent.length, &place);
    if (r < 0)
        return r;
    map.length = place.extent.length;
    if (place.extent.kind == COW_ZERO)
        map.kind = COW_MAP_ZERO;
    else if (place.disk != disk && place.disk->raw)
        map_bottom(&place, &map);
    *ret_map = map;
    return 0;
}
