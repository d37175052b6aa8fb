/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the bytes are that an image does not hold itself: down through all that lies under it, one
 * lookup for each image on the way. In a deep chain the answers are kept by the image on top, so
 * that a read costs two steps, however deep the chain: its own table, and what it remembers of the
 * rest. What lies under an image does not change while it is open; where it might (an image below
 * that is open for writing), nothing is kept.
 *
 * The disk is remembered in units no larger than the smallest cluster below (such a unit is in one
 * piece, but for subclusters), and in whole regions where they are in one piece.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>

#define N_UNITS       16384u /* 1 GiB of clusters of 64 KiB */
#define N_REGIONS     4096u
#define MIN_UNIT_BITS 12u
#define MAX_UNIT_BITS 16u
#define REGION_BITS   21u

/* A place, in few bytes. */
struct slot {
    uint64_t start;  /* guest offset */
    uint32_t length; /* 0: a region that is not in one piece (a new table says so of the first) */
    enum cow_kind kind;
    struct cow_disk *disk;
    uint64_t where; /* COW_DATA: in the file; COW_PACKED: the L2 entry */
};

/* By the low bits of their number: what lies together does not push each other out. */
struct cow_trace {
    struct slot unit[N_UNITS], region[N_REGIONS];
};

/* Down from `disk` on, which may be NULL: nothing is there, which is zeroes. */
static int walk(struct cow_disk *disk, uint64_t offset, uint64_t length,
                struct cow_place *ret_place)
{
    struct cow_extent extent = {.kind = COW_ZERO};

    for (; disk && offset < disk->size; disk = disk->backing) {
        int r;

        length = cow_min(length, disk->size - offset);
        if (disk->raw) {
            extent = (struct cow_extent){.kind = COW_DATA, .host = offset};
            break;
        }
        r = cow_lookup(disk, offset, length, &extent);
        if (r < 0)
            return r;
        length = extent.length;
        if (extent.kind != COW_BACKING)
            break;
        extent.kind = COW_ZERO; /* if nothing is there */
    }
    extent.length = length;
    *ret_place = (struct cow_place){.disk = disk, .extent = extent};
    return 0;
}

void cow_trace_prepare(struct cow_disk *disk)
{
    const struct cow_disk *below = disk->backing;

    disk->unit_bits = cow_min(disk->cluster_bits, MAX_UNIT_BITS);
    disk->fixed_below = !below || (!below->writable && (below->raw || below->fixed_below));
    if (!below || below->raw)
        return;
    disk->unit_bits = (uint32_t)cow_min(disk->unit_bits, below->unit_bits);
    /* With one table to look into, looking is as fast as remembering. */
    disk->traces = disk->fixed_below && below->backing && below->unit_bits >= MIN_UNIT_BITS;
}

static bool covers(const struct slot *slot, uint64_t offset)
{
    return offset >= slot->start && offset - slot->start < slot->length;
}

/* Remembers the region or unit around `offset` in `slot`. False: its beginning cannot be told, or
 * ends before `least` bytes. */
static bool fill(struct cow_disk *disk, uint64_t offset, uint32_t bits, uint64_t least,
                 struct slot *slot)
{
    uint64_t start = offset >> bits << bits;
    const struct cow_extent *extent;
    struct cow_place place;

    if (walk(disk->backing, start, 1ull << bits, &place) < 0)
        return false;
    extent = &place.extent;
    if (extent->length < least)
        return false;
    *slot = (struct slot){
        .start = start,
        .length = (uint32_t)extent->length,
        .kind = extent->kind,
        .disk = place.disk,
        .where = extent->kind == COW_PACKED ? extent->entry : extent->host,
    };
    return true;
}

/* The slot that tells of `offset`, or NULL. */
static const struct slot *find(struct cow_disk *disk, uint64_t offset)
{
    uint32_t bits = disk->backing->unit_bits;
    struct slot *unit = &disk->trace->unit[(offset >> bits) % N_UNITS];
    struct slot *region = &disk->trace->region[(offset >> REGION_BITS) % N_REGIONS];
    uint64_t start = offset >> REGION_BITS << REGION_BITS;

    if (covers(unit, offset))
        return unit;
    if (covers(region, offset))
        return region;
    if (region->start != start || region->length) {
        if (fill(disk, offset, REGION_BITS, 1ull << REGION_BITS, region))
            return region;
        *region = (struct slot){.start = start};
    }
    return fill(disk, offset, bits, (offset & ((1ull << bits) - 1)) + 1, unit) ? unit : NULL;
}

/* One step: the place of `offset`, at most `length` bytes of it. */
static int step(struct cow_disk *disk, uint64_t offset, uint64_t length,
                struct cow_place *ret_place)
{
    const struct slot *slot = disk->trace ? find(disk, offset) : NULL;
    uint64_t skip;

    if (!slot)
        return walk(disk->backing, offset, length, ret_place);
    skip = offset - slot->start;
    *ret_place = (struct cow_place){
        .disk = slot->disk,
        .extent = {.kind = slot->kind, .length = cow_min(length, slot->length - skip)},
    };
    if (slot->kind == COW_PACKED)
        ret_place->extent.entry = slot->where;
    else
        ret_place->extent.host = slot->where + skip;
    return 0;
}

static bool continues(const struct cow_place *place, const struct cow_place *next)
{
    if (place->extent.kind == COW_ZERO)
        return next->extent.kind == COW_ZERO;
    return place->extent.kind == COW_DATA && next->extent.kind == COW_DATA &&
           place->disk == next->disk &&
           next->extent.host == place->extent.host + place->extent.length;
}

int cow_trace_below(struct cow_disk *disk, uint64_t offset, uint64_t length,
                    struct cow_place *ret_place)
{
    struct cow_place place, next;
    int r;

    if (disk->traces && !disk->trace)
        disk->trace = calloc(1, sizeof(*disk->trace)); /* without memory it just takes longer */
    r = step(disk, offset, length, &place);
    while (r == 0 && disk->trace && place.extent.length < length) {
        if (step(disk, offset + place.extent.length, length - place.extent.length, &next) < 0 ||
            !continues(&place, &next))
            break;
        place.extent.length += next.extent.length;
    }
    if (r == 0)
        *ret_place = place;
    return r;
}

void cow_trace_free(struct cow_disk *disk)
{
    free(disk->trace);
}
