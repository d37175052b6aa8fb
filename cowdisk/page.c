/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tables and the cache of their pages. All four kinds of table (L1, L2, refcount table, refcount
 * block) are cached alike, 4 KiB at a time (or one cluster, if that is less). All images of a chain
 * share one cache under one bound: however deep the chain, it takes no more memory.
 *
 * A page is read from the table's active place, which nobody overwrites, so a clean page can be
 * dropped at any time. A dirty page stays until a commit. The cache never writes and never commits:
 * if everything in it is dirty or pinned it grows; callers keep that small by cow_commit_if_full().
 *
 * A table object of an L2 table or refcount block goes with its last page; its reserved second
 * place is given back then.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <stdlib.h>

struct cow_table *cow_table_new(struct cow_disk *disk, enum cow_table_kind kind, uint32_t index,
                                uint64_t active, uint64_t bytes)
{
    uint32_t n_pages = (uint32_t)((bytes + disk->page_bytes - 1) / disk->page_bytes);
    struct cow_table *table = calloc(1, sizeof(*table));

    if (!table)
        return NULL;
    table->disk = disk;
    table->kind = kind;
    table->index = index;
    table->active = active;
    table->bytes = bytes;
    table->n_pages = n_pages;
    table->page = calloc(n_pages, sizeof(*table->page));
    table->stale = calloc((n_pages + 63) / 64, sizeof(*table->stale));
    if (!table->page || !table->stale) {
        free(table->page);
        free(table->stale);
        free(table);
        errno = ENOMEM;
        return NULL;
    }
    return table;
}

void cow_table_free(struct cow_table *table)
{
    struct cow_disk *disk;

    if (!table)
        return;
    disk = table->disk;
    if (table->other)
        cow_alloc_release(disk, table->other >> disk->cluster_bits,
                          cow_clusters(disk, table->bytes));
    if (table->kind == COW_TABLE_L2)
        disk->l2[table->index] = NULL;
    else if (table->kind == COW_TABLE_RB)
        disk->alloc.rb[table->index] = NULL;
    free(table->page);
    free(table->stale);
    free(table);
}

/* Frees the object of an L2 table or refcount block that holds nothing any more. */
static void drop_if_empty(struct cow_table *table)
{
    bool child = table->kind == COW_TABLE_L2 || table->kind == COW_TABLE_RB;

    if (child && table->n_loaded == 0 && !table->moving)
        cow_table_free(table);
}

/* Takes the least useful clean page out of the cache; NULL if there is none. `keep` survives. */
static struct cow_page *evict(struct cow_cache *cache, const struct cow_table *keep,
                              size_t *ret_slot)
{
    for (size_t turns = 2 * cache->n_slots; turns > 0; turns--) {
        size_t i = cache->hand;
        struct cow_page *page = cache->slot[i];

        cache->hand = (i + 1) % cache->n_slots;
        if (page->dirty || page->pins > 0)
            continue;
        if (page->recent) {
            page->recent = false;
            continue;
        }
        page->table->page[page->number] = NULL;
        page->table->n_loaded--;
        if (page->table != keep)
            drop_if_empty(page->table);
        *ret_slot = i;
        return page;
    }
    return NULL;
}

static void slot_remove(struct cow_cache *cache, size_t slot)
{
    free(cache->slot[slot]);
    cache->slot[slot] = cache->slot[--cache->n_slots];
    if (cache->hand >= cache->n_slots)
        cache->hand = 0;
}

/* An unused page in a slot of its own. */
static struct cow_page *page_new(struct cow_disk *disk, const struct cow_table *keep,
                                 size_t *ret_slot)
{
    struct cow_cache *cache = disk->cache;
    struct cow_page *page;

    if (cache->n_slots >= COW_MAX_PAGES) {
        page = evict(cache, keep, ret_slot);
        if (page && page->bytes == disk->page_bytes)
            return page;
        if (page) /* of an image with other clusters */
            slot_remove(cache, *ret_slot);
    }
    if (cache->n_slots == cache->capacity) {
        size_t capacity = cache->capacity ? 2 * cache->capacity : 16;
        struct cow_page **slot = realloc(cache->slot, capacity * sizeof(*slot));
        if (!slot)
            return NULL;
        cache->slot = slot;
        cache->capacity = capacity;
    }
    page = malloc(sizeof(*page) + disk->page_bytes);
    if (!page)
        return NULL;
    page->bytes = disk->page_bytes;
    *ret_slot = cache->n_slots++;
    return page;
}

static int page_load(struct cow_disk *disk, const struct cow_table *table, uint32_t number,
                     struct cow_page *page)
{
    uint64_t start = (uint64_t)number * disk->page_bytes;
    size_t length = cow_min(disk->page_bytes, table->bytes - start);

    memset((uint8_t *)page->entry + length, 0, disk->page_bytes - length);
    if (table->active == 0) {
        memset(page->entry, 0, length);
        return 0;
    }
    return cow_read_full(disk->fd, page->entry, length, table->active + start);
}

int cow_page_get(struct cow_disk *disk, struct cow_table *table, uint32_t number,
                 struct cow_page **ret_page)
{
    struct cow_page *page = table->page[number];
    size_t slot;
    int r;

    if (page) {
        page->recent = true;
        *ret_page = page;
        return 0;
    }
    page = page_new(disk, table, &slot);
    if (!page) {
        drop_if_empty(table);
        return -ENOMEM;
    }
    disk->cache->slot[slot] = page;
    r = page_load(disk, table, number, page);
    if (r < 0) {
        slot_remove(disk->cache, slot);
        drop_if_empty(table);
        return r;
    }
    page->table = table;
    page->number = number;
    page->pins = 0;
    page->recent = true;
    page->dirty = false;
    table->page[number] = page;
    table->n_loaded++;
    *ret_page = page;
    return 0;
}

void cow_page_dirty(struct cow_page *page)
{
    if (page->dirty)
        return;
    page->dirty = true;
    page->table->disk->n_dirty++;
}

void cow_page_clean(struct cow_page *page)
{
    if (!page->dirty)
        return;
    page->dirty = false;
    page->table->disk->n_dirty--;
}

int cow_table_entry(struct cow_disk *disk, struct cow_table *table, uint64_t index,
                    uint64_t *ret_entry)
{
    uint32_t per_page = disk->page_bytes / sizeof(uint64_t);
    struct cow_page *page;
    int r = cow_page_get(disk, table, (uint32_t)(index / per_page), &page);

    if (r < 0)
        return r;
    *ret_entry = be64toh(page->entry[index % per_page]);
    return 0;
}

int cow_table_set_entry(struct cow_disk *disk, struct cow_table *table, uint64_t index,
                        uint64_t entry)
{
    uint32_t per_page = disk->page_bytes / sizeof(uint64_t);
    struct cow_page *page;
    int r = cow_page_get(disk, table, (uint32_t)(index / per_page), &page);

    if (r < 0)
        return r;
    page->entry[index % per_page] = htobe64(entry);
    cow_page_dirty(page);
    return 0;
}

int cow_cache_attach(struct cow_disk *disk)
{
    disk->cache = disk->backing ? disk->backing->cache : NULL;
    if (disk->cache)
        return 0;
    disk->cache = calloc(1, sizeof(*disk->cache));
    disk->owns_cache = true;
    return disk->cache ? 0 : -ENOMEM;
}

void cow_cache_detach(struct cow_disk *disk)
{
    struct cow_cache *cache = disk->cache;

    if (!cache)
        return;
    for (size_t i = cache->n_slots; i-- > 0;) {
        struct cow_page *page = cache->slot[i];
        struct cow_table *table = page->table;

        if (table->disk != disk)
            continue;
        table->page[page->number] = NULL;
        table->moving = false;
        slot_remove(cache, i);
        if (--table->n_loaded == 0)
            drop_if_empty(table);
    }
    cow_packed_forget(cache->packed, disk);
    if (disk->owns_cache) {
        cow_packed_free(cache->packed);
        free(cache->slot);
        free(cache);
    }
    disk->cache = NULL;
}
