/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memfd of page slots: see store.h. One thread.
 *
 * The file only grows, in steps: a guest process that reads holes makes the kernel allocate pages
 * there, so holes it could read are kept few. Guests get it read-only.
 */
#include "memshare/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memshare/memshare.h"
#include "memshare/ms-proto.h"

#define STORE_STEP     4096u /* slots by which the file and the tables grow */
#define RUN_SEARCH_MAX 4096u /* slots looked at for a run of free ones */

static uint64_t default_max_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long size = sysconf(_SC_PAGESIZE);

    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 2 : (uint64_t)1 << 30;
}

static int map_view(struct ms_store *store)
{
    void *view = mmap(NULL, (size_t)store->max_slots * MS_PAGE_SIZE, PROT_READ,
                      MAP_SHARED | MAP_NORESERVE, store->fd, 0);

    if (view == MAP_FAILED)
        return -errno;
    store->view = view;
    return 0;
}

int ms_store_init(struct ms_store *store, const char *name, uint64_t max_bytes, bool held)
{
    uint64_t max_slots = (max_bytes ? max_bytes : default_max_bytes()) / MS_PAGE_SIZE;
    char label[64];
    int r = 0;

    memset(store, 0, sizeof(*store));
    store->max_slots = max_slots < MS_MAX_INDEX ? (uint32_t)max_slots : MS_MAX_INDEX;
    snprintf(label, sizeof(label), "memshare-%s", name);
    store->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (store->fd < 0)
        return -errno;
    /* 0600: a guest process under another user cannot reopen its read-only fd for writing. */
    if (fchmod(store->fd, 0600) < 0 || fcntl(store->fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
        r = -errno;
    else if (held)
        r = map_view(store);
    if (r < 0) {
        close(store->fd);
        store->fd = -1;
    }
    return r;
}

void ms_store_free(struct ms_store *store)
{
    if (store->fd >= 0)
        close(store->fd);
    store->fd = -1;
    if (store->view)
        munmap((void *)store->view, (size_t)store->max_slots * MS_PAGE_SIZE);
    store->view = NULL;
    free(store->refs);
    free(store->hash);
    store->refs = NULL;
    store->hash = NULL;
}

uint64_t ms_store_table_bytes(const struct ms_store *store)
{
    return store->capacity * (sizeof(*store->refs) + sizeof(*store->hash));
}

/* Mostly in use: better to extend the store than to fill its gaps one by one. */
static bool is_dense(const struct ms_store *store)
{
    return store->used >= store->n_slots / 4 * 3;
}

void ms_store_seek_run(struct ms_store *store, uint32_t n)
{
    bool can_extend = store->max_slots - store->n_slots >= n;
    uint32_t run = 0;
    uint32_t at;

    if (store->cursor > store->n_slots)
        store->cursor = store->n_slots;
    if (store->cursor == store->n_slots && !is_dense(store))
        store->cursor = 0;
    for (at = store->cursor; at < store->n_slots && at - store->cursor < RUN_SEARCH_MAX; at++) {
        run = store->refs[at] ? 0 : run + 1;
        if (run == n) {
            store->cursor = at + 1 - n;
            return;
        }
    }
    if (at == store->n_slots && can_extend)
        store->cursor = store->n_slots - run;
    else if (is_dense(store) && can_extend)
        store->cursor = store->n_slots;
}

static int grow_tables(struct ms_store *store)
{
    uint32_t want = store->capacity + store->capacity / 2 + STORE_STEP;
    uint32_t *refs;
    uint64_t *hash;

    if (want > store->max_slots)
        want = store->max_slots;
    refs = realloc(store->refs, want * sizeof(*refs));
    if (!refs)
        return -ENOMEM;
    store->refs = refs;
    hash = realloc(store->hash, want * sizeof(*hash));
    if (!hash)
        return -ENOMEM;
    store->hash = hash;
    memset(refs + store->capacity, 0, (want - store->capacity) * sizeof(*refs));
    store->capacity = want;
    return 0;
}

/* Sets the content of a free or reserved slot. */
static int fill(struct ms_store *store, const void *page, uint64_t hash, uint32_t slot)
{
    ssize_t n;

    ms_store_punch(store); /* before the slot could be one that still waits for it */
    n = pwrite(store->fd, page, MS_PAGE_SIZE, (off_t)slot * MS_PAGE_SIZE);
    if (n != MS_PAGE_SIZE)
        return n < 0 ? -errno : -EIO;
    if (store->view)
        (void)*(volatile const uint8_t *)(store->view + (size_t)slot * MS_PAGE_SIZE);
    store->refs[slot]++;
    store->hash[slot] = hash;
    store->used++;
    if (slot >= store->n_slots)
        store->n_slots = slot + 1;
    return 0;
}

/* The first free slot from the cursor on; those from n_slots on are all free. max_slots: none. */
static uint32_t find_free(const struct ms_store *store)
{
    for (uint32_t at = store->cursor; at < store->n_slots; at++)
        if (store->refs[at] == 0)
            return at;
    if (store->n_slots < store->max_slots)
        return store->n_slots;
    for (uint32_t at = 0; at < store->n_slots; at++)
        if (store->refs[at] == 0)
            return at;
    return store->max_slots;
}

static int reach(struct ms_store *store, uint32_t slot)
{
    if (slot >= store->max_slots)
        return -ENOSPC;
    if (slot >= store->capacity) {
        int r = grow_tables(store);

        if (r < 0)
            return r;
    }
    if (slot >= store->file_slots) {
        uint32_t want = store->file_slots + STORE_STEP;

        if (want > store->max_slots)
            want = store->max_slots;
        if (want <= slot)
            want = slot + 1;
        if (ftruncate(store->fd, (off_t)want * MS_PAGE_SIZE) < 0)
            return -errno;
        store->file_slots = want;
    }
    return 0;
}

int ms_store_put(struct ms_store *store, const void *page, uint64_t hash, uint32_t *ret_slot)
{
    uint32_t slot = find_free(store);
    int r = reach(store, slot);

    if (r == 0)
        r = fill(store, page, hash, slot);
    if (r < 0)
        return r;
    store->cursor = slot + 1;
    *ret_slot = slot;
    return 0;
}

static void trim(struct ms_store *store)
{
    while (store->n_slots && store->refs[store->n_slots - 1] == 0)
        store->n_slots--;
}

int ms_store_reserve(struct ms_store *store, uint32_t n, uint32_t *ret_slot)
{
    uint32_t slot;
    int r;

    if (store->reserved + n > store->max_slots / 2)
        return -ENOSPC;
    ms_store_seek_run(store, n);
    slot = store->cursor;
    for (uint32_t i = 0; i < n; i++) {
        r = reach(store, slot + i);
        if (r < 0)
            return r;
        if (store->refs[slot + i])
            return -ENOSPC; /* no row of that length is left */
    }
    for (uint32_t i = 0; i < n; i++)
        store->refs[slot + i] = MS_RESERVED;
    store->reserved += n;
    if (store->n_slots < slot + n)
        store->n_slots = slot + n;
    store->cursor = slot + n;
    *ret_slot = slot;
    return 0;
}

void ms_store_unreserve(struct ms_store *store, uint32_t slot, uint32_t n)
{
    for (uint32_t i = slot; i < slot + n; i++)
        store->refs[i] &= ~MS_RESERVED;
    store->reserved -= n;
    trim(store);
}

int ms_store_copy(struct ms_store *store, uint32_t slot, uint32_t from)
{
    uint8_t page[MS_PAGE_SIZE];
    ssize_t n = pread(store->fd, page, MS_PAGE_SIZE, (off_t)from * MS_PAGE_SIZE);

    if (n != MS_PAGE_SIZE)
        return n < 0 ? -errno : -EIO;
    return fill(store, page, store->hash[from], slot);
}

uint32_t ms_store_unref(struct ms_store *store, uint32_t slot)
{
    store->refs[slot]--;
    if (ms_store_refs(store, slot))
        return ms_store_refs(store, slot);
    store->used--;
    if (store->punch_n && slot == store->punch_first + store->punch_n) {
        store->punch_n++;
    } else {
        ms_store_punch(store);
        store->punch_first = slot;
        store->punch_n = 1;
    }
    trim(store);
    return 0;
}

void ms_store_punch(struct ms_store *store)
{
    if (!store->punch_n)
        return;
    /* Should it fail, the memory returns when the slot is used again: nothing reads it till then.
     */
    (void)!fallocate(store->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)store->punch_first * MS_PAGE_SIZE,
                     (off_t)store->punch_n * MS_PAGE_SIZE);
    store->punch_n = 0;
}
