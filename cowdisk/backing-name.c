/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The name of the backing file in the header of an image. The header's extensions and the position
 * of the name are brought into the file's first 512 bytes, which a disk writes or does not; the
 * name itself, if it does not fit there, is written to unused bytes of the header's cluster before.
 *
 * Must never touch what the old header refers to before the new one is durable.
 */
#include "cowdisk/transfer.h"

#include <errno.h>
#include <stdlib.h>

#define SECTOR 512u

struct edit {
    struct cow_disk *disk;
    uint8_t *old;     /* the first cluster */
    uint64_t old_end; /* of its extensions */
    uint8_t sector[SECTOR];
    uint64_t used; /* bytes of the sector */
    bool full;
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

static void add_extension(struct edit *e, uint32_t type, const void *data, uint64_t length)
{
    uint64_t bytes = 8 + ((length + 7) & ~7ull);

    if (e->full || bytes > SECTOR - e->used) {
        e->full = true;
        return;
    }
    memset(e->sector + e->used, 0, bytes);
    put32(e->sector + e->used, type);
    put32(e->sector + e->used + 4, (uint32_t)length);
    memcpy(e->sector + e->used + 8, data, length);
    e->used += bytes;
}

/* Header and extensions of the new header. The names of features are for messages only. */
static void build(struct edit *e, const char *format, bool with_names)
{
    const struct cow_header *h = &e->disk->header;
    uint64_t end = h->backing_offset ? h->backing_offset : e->disk->cluster_size;
    uint64_t at = h->header_length;

    e->full = h->header_length > SECTOR;
    e->used = e->full ? 0 : h->header_length;
    memset(e->sector, 0, sizeof(e->sector));
    memcpy(e->sector, e->old, e->used);
    if (format)
        add_extension(e, QCOW_EXT_BACKING_FORMAT, format, strlen(format));
    while (at + 8 <= end) {
        uint32_t type = cow_get32(e->old + at), length = cow_get32(e->old + at + 4);
        at += 8;
        if (type == QCOW_EXT_END || length > end - at)
            break;
        if (type != QCOW_EXT_BACKING_FORMAT && type != QCOW_EXT_IDENTITY &&
            (with_names || type != QCOW_EXT_FEATURE_NAMES))
            add_extension(e, type, e->old + at, length);
        at += (length + 7ull) & ~7ull;
    }
    e->old_end = at;
    add_extension(e, QCOW_EXT_END, "", 0);
}

/* Unused bytes of the first cluster, behind the first sector; 0: there are not so many. */
static uint64_t find_room(const struct edit *e, uint64_t length)
{
    const struct cow_header *h = &e->disk->header;
    uint64_t at = e->old_end > SECTOR ? (e->old_end + 7) & ~7ull : SECTOR;
    uint64_t old = h->backing_offset, old_end = old + h->backing_length;

    if (old && at < old_end && old < at + length)
        at = (old_end + 7) & ~7ull;
    return at + length <= e->disk->cluster_size ? at : 0;
}

static int place_name(struct edit *e, const char *name, struct cow_error *err)
{
    uint64_t length = strlen(name), at;
    int r;

    put32(e->sector + QCOW_H_BACKING_LENGTH, (uint32_t)length);
    if (length <= SECTOR - e->used) {
        put64(e->sector + QCOW_H_BACKING_OFFSET, e->used);
        memcpy(e->sector + e->used, name, length);
        return 0;
    }
    at = find_room(e, length);
    if (at == 0) {
        cow_fail(err, "the header has no room for a name of %llu bytes",
                 (unsigned long long)length);
        return -ENOTSUP;
    }
    put64(e->sector + QCOW_H_BACKING_OFFSET, at);
    r = cow_write_full(e->disk->fd, name, length, at);
    return r < 0 ? r : cow_sync(e->disk->fd);
}

static int switch_sector(struct edit *e, const char *name, const char *format,
                         struct cow_error *err)
{
    int r = 0;

    build(e, format, true);
    if (e->full)
        build(e, format, false);
    if (e->full) {
        cow_fail(err, "the header has no room for another extension");
        return -ENOTSUP;
    }
    put64(e->sector + QCOW_H_BACKING_OFFSET, 0);
    put32(e->sector + QCOW_H_BACKING_LENGTH, 0);
    if (name)
        r = place_name(e, name, err);
    if (r == 0)
        r = cow_write_full(e->disk->fd, e->sector, SECTOR, 0);
    return r < 0 ? r : cow_sync(e->disk->fd);
}

int cow_set_backing_name(struct cow_disk *disk, const char *name, enum cow_format format,
                         struct cow_error *err)
{
    struct edit edit = {.disk = disk};
    int r;

    if (name && (name[0] == '\0' || strlen(name) > QCOW_MAX_NAME)) {
        cow_fail(err, "backing file name of %zu bytes: 1 to %u are possible", strlen(name),
                 QCOW_MAX_NAME);
        return -EINVAL;
    }
    edit.old = malloc(disk->cluster_size);
    if (!edit.old)
        return -ENOMEM;
    r = cow_read_full(disk->fd, edit.old, disk->cluster_size, 0);
    if (r == 0)
        r = switch_sector(&edit, name, name ? format == COW_FORMAT_RAW ? "raw" : "qcow2" : NULL,
                          err);
    free(edit.old);
    return r;
}
