/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Internal snapshots: the table, read entry by entry. Every length in it is checked before
 * anything is read by it; the L1 table of a snapshot is judged like that of the active state when
 * the snapshot is opened.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Where in the table we are. */
struct walk {
    int fd;
    const struct cow_header *header;
    uint64_t at, end; /* bytes of the file; no entry goes beyond `end` */
    uint32_t number;
    struct cow_error *err;
};

struct entry {
    struct cow_snapshot snapshot;
    uint64_t l1_offset;
    uint32_t l1_size;
};

static int walk_begin(struct walk *w, int fd, const struct cow_header *h, struct cow_error *err)
{
    off_t file_bytes = lseek(fd, 0, SEEK_END);

    if (file_bytes < 0) {
        int r = -errno;
        cow_fail(err, "cannot tell the file's length: %s", strerror(-r));
        return r;
    }
    *w = (struct walk){.fd = fd, .header = h, .at = h->snapshots_offset, .err = err};
    w->end = cow_min((uint64_t)file_bytes, h->snapshots_offset + COW_MAX_SNAPSHOT_TABLE);
    if (h->n_snapshots > COW_MAX_SNAPSHOTS) {
        cow_fail(err, "%u snapshots are too many", h->n_snapshots);
        return -EINVAL;
    }
    if (h->n_snapshots &&
        (h->snapshots_offset % (1ull << h->cluster_bits) || h->snapshots_offset == 0 ||
         h->snapshots_offset > (uint64_t)file_bytes)) {
        cow_fail(err, "the snapshot table (offset 0x%llx) is not inside the file",
                 (unsigned long long)h->snapshots_offset);
        return -EINVAL;
    }
    return 0;
}

/* `length` bytes more of the table. */
static int take(struct walk *w, void *data, uint64_t length, const char *what)
{
    int r;

    if (w->at > w->end || length > w->end - w->at) {
        cow_fail(w->err, "the %s of snapshot %u reaches beyond the snapshot table", what,
                 w->number);
        return -EINVAL;
    }
    r = cow_read_full(w->fd, data, length, w->at);
    if (r < 0)
        cow_fail(w->err, "reading the snapshot table: %s", strerror(-r));
    else
        w->at += length;
    return r;
}

static int take_text(struct walk *w, char *text, size_t size, uint32_t length, const char *what)
{
    if (length >= size) {
        cow_fail(w->err, "the %s of snapshot %u is longer than %zu bytes", what, w->number,
                 size - 1);
        return -EINVAL;
    }
    return take(w, text, length, what);
}

/* The extra data grew over time: an old entry lacks its end. */
static int take_extra(struct walk *w, struct cow_snapshot *s, uint32_t length)
{
    uint8_t extra[COW_MAX_SNAPSHOT_EXTRA] = {0};
    int r;

    if (length > sizeof(extra)) {
        cow_fail(w->err, "snapshot %u has %u bytes of extra data, which is too much", w->number,
                 length);
        return -EINVAL;
    }
    r = take(w, extra, length, "extra data");
    if (r < 0)
        return r;
    if (length >= QCOW_S_VM_STATE_BYTES_64 + 8)
        s->vm_state_bytes = cow_get64(extra + QCOW_S_VM_STATE_BYTES_64);
    if (length >= QCOW_S_DISK_SIZE + 8)
        s->virtual_size = cow_get64(extra + QCOW_S_DISK_SIZE);
    return 0;
}

static int walk_next(struct walk *w, struct entry *ret_entry)
{
    uint8_t raw[QCOW_S_BYTES];
    struct entry e = {.snapshot.virtual_size = w->header->size};
    struct cow_snapshot *s = &e.snapshot;
    int r;

    w->at = (w->at + 7) & ~7ull;
    w->number++;
    r = take(w, raw, sizeof(raw), "beginning");
    if (r < 0)
        return r;
    e.l1_offset = cow_get64(raw + QCOW_S_L1_OFFSET);
    e.l1_size = cow_get32(raw + QCOW_S_L1_SIZE);
    s->date_sec = cow_get32(raw + QCOW_S_DATE_SEC);
    s->date_nsec = cow_get32(raw + QCOW_S_DATE_NSEC);
    s->vm_clock_ns = cow_get64(raw + QCOW_S_VM_CLOCK);
    s->vm_state_bytes = cow_get32(raw + QCOW_S_VM_STATE_BYTES);
    r = take_extra(w, s, cow_get32(raw + QCOW_S_EXTRA_LENGTH));
    if (r == 0)
        r = take_text(w, s->id, sizeof(s->id), cow_get32(raw + QCOW_S_ID_LENGTH) >> 16, "id");
    if (r == 0)
        r = take_text(w, s->name, sizeof(s->name), cow_get32(raw + QCOW_S_ID_LENGTH) & 0xffff,
                      "name");
    if (r == 0)
        *ret_entry = e;
    return r;
}

int cow_snapshots_read(int fd, struct cow_snapshot **ret_list, size_t *ret_n, struct cow_error *err)
{
    struct cow_snapshot *list = NULL;
    struct cow_header header;
    struct walk w;
    int r;

    r = cow_header_parse(fd, &header, err);
    if (r == 0)
        r = walk_begin(&w, fd, &header, err);
    if (r == 0 && header.n_snapshots) {
        list = calloc(header.n_snapshots, sizeof(*list));
        r = list ? 0 : -ENOMEM;
        if (r < 0)
            cow_fail(err, "%s", strerror(-r));
    }
    for (uint32_t i = 0; r == 0 && i < header.n_snapshots; i++) {
        struct entry e;
        r = walk_next(&w, &e);
        if (r == 0)
            list[i] = e.snapshot;
    }
    if (r < 0) {
        free(list);
        return r;
    }
    *ret_list = list;
    *ret_n = header.n_snapshots;
    return 0;
}

int cow_snapshot_select(int fd, const char *snapshot, struct cow_header *h, struct cow_error *err)
{
    struct entry e, found = {0};
    bool have = false, by_id = false;
    struct walk w;
    int r = walk_begin(&w, fd, h, err);

    /* An id counts for more than a name, as QEMU has it. */
    for (uint32_t i = 0; r == 0 && i < h->n_snapshots && !by_id; i++) {
        r = walk_next(&w, &e);
        if (r < 0)
            break;
        by_id = strcmp(e.snapshot.id, snapshot) == 0;
        if (by_id || (!have && strcmp(e.snapshot.name, snapshot) == 0)) {
            found = e;
            have = true;
        }
    }
    if (r < 0)
        return r;
    if (!have) {
        cow_fail(err, "the image has no snapshot \"%.150s\"", snapshot);
        return -ENOENT;
    }
    h->l1_offset = found.l1_offset;
    h->l1_size = found.l1_size;
    h->size = found.snapshot.virtual_size;
    return 0;
}
