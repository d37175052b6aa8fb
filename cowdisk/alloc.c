/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Refcounts and free clusters of an image opened for writing.
 *
 * Two views exist side by side. The refcount blocks in the cache hold the *pending* state, what the
 * next commit makes true. The `used` bitmaps hold what must not be handed out: everything that the
 * image on disk uses or the pending state uses or somebody reserved. A cluster freed now is pending
 * free but stays used until the commit is durable, because a crash before that goes back to the
 * image that still refers to it: giving it away earlier would show one file's new data in another
 * file.
 *
 * Must never hand out a cluster that the image on disk refers to.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

static bool bit_get(const uint64_t *map, uint64_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

/* ---- chunks ---------------------------------------------------------------------------------- */

/* Makes room for one more chunk in the arrays. */
static int grow_arrays(struct cow_alloc *alloc)
{
    size_t n = alloc->n_chunks + 1;
    void *p;

    p = realloc(alloc->rb, n * sizeof(*alloc->rb));
    if (!p)
        return -ENOMEM;
    alloc->rb = p;
    p = realloc(alloc->used, n * sizeof(*alloc->used));
    if (!p)
        return -ENOMEM;
    alloc->used = p;
    p = realloc(alloc->n_free, n * sizeof(*alloc->n_free));
    if (!p)
        return -ENOMEM;
    alloc->n_free = p;
    return 0;
}

/* One more chunk, all of it free. */
static int chunk_append(struct cow_alloc *alloc)
{
    uint64_t *used;
    int r;

    if ((alloc->n_chunks + 1) * alloc->per_chunk > COW_MAX_CLUSTERS)
        return -ENOSPC;
    r = grow_arrays(alloc);
    if (r < 0)
        return r;
    used = calloc((alloc->per_chunk + 63) / 64, sizeof(*used));
    if (!used)
        return -ENOMEM;
    alloc->rb[alloc->n_chunks] = NULL;
    alloc->used[alloc->n_chunks] = used;
    alloc->n_free[alloc->n_chunks] = (uint32_t)alloc->per_chunk;
    alloc->n_chunks++;
    return 0;
}

static bool is_used(const struct cow_alloc *alloc, uint64_t cluster)
{
    return bit_get(alloc->used[cluster / alloc->per_chunk], cluster % alloc->per_chunk);
}

static void mark_used(struct cow_alloc *alloc, uint64_t cluster)
{
    uint64_t chunk = cluster / alloc->per_chunk, i = cluster % alloc->per_chunk;

    alloc->used[chunk][i / 64] |= 1ull << (i % 64);
    alloc->n_free[chunk]--;
}

static void mark_free(struct cow_alloc *alloc, uint64_t cluster)
{
    uint64_t chunk = cluster / alloc->per_chunk, i = cluster % alloc->per_chunk;

    alloc->used[chunk][i / 64] &= ~(1ull << (i % 64));
    alloc->n_free[chunk]++;
    alloc->cursor = cow_min(alloc->cursor, cluster);
}

/* ---- loading --------------------------------------------------------------------------------- */

static int load_block(struct cow_disk *disk, uint64_t chunk, uint64_t entry, uint8_t *block,
                      struct cow_error *err)
{
    struct cow_alloc *alloc = &disk->alloc;
    int r;

    if (entry & QCOW_RT_RESERVED || entry & (disk->cluster_size - 1) || entry == 0 ||
        entry + disk->cluster_size > disk->file_end) {
        cow_fail(err, "refcount block %llu lies at 0x%llx, which is not a cluster of the file",
                 (unsigned long long)chunk, (unsigned long long)entry);
        return -EINVAL;
    }
    r = cow_read_full(disk->fd, block, disk->cluster_size, entry);
    if (r < 0) {
        cow_fail(err, "reading a refcount block: %s", strerror(-r));
        return r;
    }
    for (uint64_t i = 0; i < alloc->per_chunk; i++) {
        if (cow_count_get(block, disk->header.refcount_order, i)) {
            mark_used(alloc, chunk * alloc->per_chunk + i);
            alloc->n_counted++;
        }
    }
    return 0;
}

/* Entry `i` of the refcount table, which is not empty. */
static int load_chunk(struct cow_disk *disk, uint64_t i, uint64_t entry, uint8_t *block,
                      struct cow_error *err)
{
    struct cow_alloc *alloc = &disk->alloc;
    uint64_t max_chunk =
        cow_clusters(disk, disk->file_end) / alloc->per_chunk + COW_MAX_CHUNKS_BEYOND;
    int r;

    if (i > max_chunk) {
        cow_fail(err, "refcount block %llu is for clusters far beyond the end of the file",
                 (unsigned long long)i);
        return -EINVAL;
    }
    while (alloc->n_chunks <= i) {
        r = chunk_append(alloc);
        if (r < 0) {
            cow_fail(err,
                     r == -ENOSPC ? "refcount table describes more than %llu clusters"
                                  : "out of memory (%llu clusters)",
                     (unsigned long long)COW_MAX_CLUSTERS);
            return r == -ENOSPC ? -EINVAL : r;
        }
    }
    return load_block(disk, i, entry, block, err);
}

/* Past the cache: most of the table is empty and never looked at again. */
static int load_blocks(struct cow_disk *disk, uint8_t *block, struct cow_error *err)
{
    uint64_t n_entries = disk->rt->bytes / sizeof(uint64_t), entries[512];
    int r;

    for (uint64_t i = 0; i < n_entries; i++) {
        uint64_t in_part = i % 512;
        if (in_part == 0) {
            r = cow_read_full(disk->fd, entries, 8 * cow_min(n_entries - i, 512),
                              disk->rt->active + 8 * i);
            if (r < 0) {
                cow_fail(err, "reading the refcount table: %s", strerror(-r));
                return r;
            }
        }
        if (entries[in_part] == 0)
            continue;
        r = load_chunk(disk, i, be64toh(entries[in_part]), block, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int cow_alloc_load(struct cow_disk *disk, struct cow_error *err)
{
    uint8_t *block;
    int r;

    disk->alloc.per_chunk = disk->cluster_size * 8 >> disk->header.refcount_order;
    block = malloc(disk->cluster_size);
    if (!block)
        return -ENOMEM;
    r = load_blocks(disk, block, err);
    free(block);
    if (r < 0)
        return r;
    /* The header itself must be counted, or the first allocation would destroy the image. */
    if (disk->alloc.n_chunks == 0 || !is_used(&disk->alloc, 0)) {
        cow_fail(err, "refcounts are missing or damaged: repair it with qemu-img check -r all");
        return -EINVAL;
    }
    return 0;
}

void cow_alloc_unload(struct cow_disk *disk)
{
    struct cow_alloc *alloc = &disk->alloc;

    for (uint64_t i = 0; i < alloc->n_chunks; i++)
        free(alloc->used[i]);
    free(alloc->used);
    free(alloc->rb);
    free(alloc->n_free);
    free(alloc->freed);
    memset(alloc, 0, sizeof(*alloc));
}

/* ---- what the image refers to no more -------------------------------------------------------- */

/* Without memory to remember it the cluster just stays unused until the image is opened again. */
static void freed_add(struct cow_alloc *alloc, uint64_t cluster)
{
    struct cow_range *last = alloc->n_freed ? &alloc->freed[alloc->n_freed - 1] : NULL;

    if (last && last->first + last->n == cluster) {
        last->n++;
        return;
    }
    if (alloc->n_freed == alloc->freed_capacity) {
        size_t capacity = alloc->freed_capacity ? 2 * alloc->freed_capacity : 64;
        struct cow_range *freed = realloc(alloc->freed, capacity * sizeof(*freed));
        if (!freed)
            return;
        alloc->freed = freed;
        alloc->freed_capacity = capacity;
    }
    alloc->freed[alloc->n_freed++] = (struct cow_range){.first = cluster, .n = 1};
}

void cow_alloc_committed(struct cow_disk *disk)
{
    struct cow_alloc *alloc = &disk->alloc;

    for (size_t i = 0; i < alloc->n_freed; i++) {
        struct cow_range *range = &alloc->freed[i];

        for (uint64_t k = 0; k < range->n; k++)
            mark_free(alloc, range->first + k);
        /* Space for the host; a file system that cannot do it keeps the bytes until reuse. */
        (void)!fallocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         (off_t)(range->first << disk->cluster_bits),
                         (off_t)(range->n << disk->cluster_bits));
    }
    alloc->n_freed = 0;
}

/* ---- tables that go, a larger refcount table --------------------------------------------------
 */

int cow_table_copy(struct cow_disk *disk, struct cow_table *from, struct cow_table *to)
{
    for (uint32_t i = 0; i < from->n_pages; i++) {
        struct cow_page *source, *copy;
        int r = cow_page_get(disk, from, i, &source);
        if (r < 0)
            return r;
        source->pins++;
        r = cow_page_get(disk, to, i, &copy);
        source->pins--;
        if (r < 0)
            return r;
        memcpy(copy->entry, source->entry, disk->page_bytes);
        cow_page_dirty(copy);
    }
    return 0;
}

void cow_table_forget(struct cow_disk *disk, struct cow_table *table)
{
    struct cow_cache *cache = disk->cache;

    for (size_t i = cache->n_slots; i-- > 0;) {
        struct cow_page *page = cache->slot[i];
        if (page->table != table)
            continue;
        cow_page_clean(page);
        cache->slot[i] = cache->slot[--cache->n_slots];
        free(page);
    }
    cache->hand = 0;
    table->n_loaded = 0;
}

int cow_table_drop(struct cow_disk *disk, struct cow_table *table)
{
    uint64_t n = cow_clusters(disk, table->bytes);
    uint64_t pending = (table->moving ? table->other : table->active) >> disk->cluster_bits;
    struct cow_table **link;
    int r = 0;

    for (uint64_t i = 0; i < n && r >= 0 && pending; i++)
        r = cow_refcount_drop(disk, pending + i, false);
    if (table->moving) {
        for (link = &disk->moving; *link != table;)
            link = &(*link)->next_moving;
        *link = table->next_moving;
        for (uint64_t i = 0; i < n && table->active; i++)
            freed_add(&disk->alloc, (table->active >> disk->cluster_bits) + i);
        table->other = 0; /* goes with the freed clusters, not at once */
    }
    cow_table_forget(disk, table);
    cow_table_free(table);
    return r < 0 ? r : 0;
}

int cow_table_enlarge(struct cow_disk *disk, struct cow_table *old, uint64_t bytes,
                      struct cow_table **ret_table)
{
    struct cow_table *grown = cow_table_new(disk, old->kind, old->index, 0, bytes);
    int r;

    if (!grown)
        return -ENOMEM;
    r = cow_table_copy(disk, old, grown);
    if (r < 0) {
        cow_table_forget(disk, grown);
        cow_table_free(grown);
        return r;
    }
    *ret_table = grown;
    return 0;
}

static int rt_grow(struct cow_disk *disk)
{
    struct cow_table *old = disk->rt, *grown;
    uint64_t bytes = 2 * cow_clusters(disk, old->bytes) << disk->cluster_bits;
    int r;

    if (bytes > COW_MAX_RT_BYTES)
        return -ENOSPC;
    r = cow_table_enlarge(disk, old, bytes, &grown);
    if (r < 0)
        return r;
    disk->rt = grown;
    disk->header.rt_clusters = (uint32_t)(bytes >> disk->cluster_bits);
    return cow_table_drop(disk, old);
}

int cow_alloc_prepare(struct cow_disk *disk)
{
    struct cow_alloc *alloc = &disk->alloc;
    /* Clusters that one step of a write, or a commit, may take at most. */
    uint64_t step = (COW_MAX_RUN >> disk->cluster_bits) + 4 * COW_MAX_DIRTY_PAGES +
                    cow_clusters(disk, disk->l1->bytes);
    uint64_t chunks = alloc->n_chunks + step / alloc->per_chunk + 2;

    while (chunks > disk->rt->bytes / sizeof(uint64_t)) {
        int r = rt_grow(disk);
        if (r < 0)
            return r;
    }
    return 0;
}

/* One more chunk for allocation; the refcount table has an entry for it. */
static int chunk_add(struct cow_disk *disk)
{
    if (disk->alloc.n_chunks >= disk->rt->bytes / sizeof(uint64_t))
        return -ENOSPC;
    return chunk_append(&disk->alloc);
}

/* ---- reserving ------------------------------------------------------------------------------- */

/* The first free cluster of a chunk from bit `i` on; per_chunk if there is none. */
static uint64_t find_in_chunk(const struct cow_alloc *alloc, uint64_t chunk, uint64_t i)
{
    const uint64_t *used = alloc->used[chunk];

    while (i < alloc->per_chunk) {
        uint64_t word = ~used[i / 64] >> (i % 64);
        if (word) {
            i += (uint64_t)__builtin_ctzll(word);
            return cow_min(i, alloc->per_chunk);
        }
        i = (i / 64 + 1) * 64;
    }
    return alloc->per_chunk;
}

static int find_free(struct cow_disk *disk, uint64_t *ret_cluster)
{
    struct cow_alloc *alloc = &disk->alloc;
    uint64_t chunk = alloc->cursor / alloc->per_chunk, i = alloc->cursor % alloc->per_chunk;

    for (;; chunk++, i = 0) {
        while (chunk >= alloc->n_chunks) {
            int r = chunk_add(disk);
            if (r < 0)
                return r;
        }
        if (alloc->n_free[chunk] == 0)
            continue;
        i = find_in_chunk(alloc, chunk, i);
        if (i < alloc->per_chunk) {
            *ret_cluster = chunk * alloc->per_chunk + i;
            return 0;
        }
    }
}

static void take(struct cow_disk *disk, uint64_t first, uint64_t n, uint64_t *ret_fresh)
{
    uint64_t end = (first + n) << disk->cluster_bits;

    for (uint64_t i = 0; i < n; i++)
        mark_used(&disk->alloc, first + i);
    *ret_fresh = disk->file_end;
    if (disk->file_end < end)
        disk->file_end = end;
}

int cow_alloc_reserve(struct cow_disk *disk, uint64_t want, uint64_t *ret_first, uint64_t *ret_got,
                      uint64_t *ret_fresh)
{
    struct cow_alloc *alloc = &disk->alloc;
    uint64_t first, chunk_end, n = 1;
    int r = find_free(disk, &first);

    if (r < 0)
        return r;
    chunk_end = (first / alloc->per_chunk + 1) * alloc->per_chunk;
    while (n < want && first + n < chunk_end && !is_used(alloc, first + n))
        n++;
    take(disk, first, n, ret_fresh);
    alloc->cursor = first + n;
    *ret_first = first;
    *ret_got = n;
    return 0;
}

int cow_alloc_reserve_exactly(struct cow_disk *disk, uint64_t n, uint64_t *ret_first,
                              uint64_t *ret_fresh)
{
    struct cow_alloc *alloc = &disk->alloc;
    uint64_t first, got, run;

    if (n == 1)
        return cow_alloc_reserve(disk, 1, ret_first, &got, ret_fresh);
    first = cow_clusters(disk, disk->file_end);
    for (run = 0; run < n;) {
        while (first + run >= alloc->n_chunks * alloc->per_chunk) {
            int r = chunk_add(disk);
            if (r < 0)
                return r;
        }
        if (is_used(alloc, first + run)) {
            first += run + 1;
            run = 0;
        } else {
            run++;
        }
    }
    take(disk, first, n, ret_fresh);
    *ret_first = first;
    return 0;
}

void cow_alloc_release(struct cow_disk *disk, uint64_t first, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        mark_free(&disk->alloc, first + i);
}

/* ---- refcounts ------------------------------------------------------------------------------- */

static int block_table(struct cow_disk *disk, uint64_t chunk, struct cow_table **ret_table)
{
    struct cow_alloc *alloc = &disk->alloc;
    uint64_t entry;
    int r;

    if (chunk >= alloc->n_chunks)
        return -EIO;
    if (!alloc->rb[chunk]) {
        r = cow_table_entry(disk, disk->rt, chunk, &entry);
        if (r < 0)
            return r;
        alloc->rb[chunk] =
            cow_table_new(disk, COW_TABLE_RB, (uint32_t)chunk, entry, disk->cluster_size);
        if (!alloc->rb[chunk])
            return -ENOMEM;
    }
    *ret_table = alloc->rb[chunk];
    return 0;
}

/* The page that holds the refcount of a cluster, and the refcount's place in it. */
static int count_page(struct cow_disk *disk, uint64_t cluster, struct cow_page **ret_page,
                      uint64_t *ret_place)
{
    uint32_t per_page = disk->page_bytes * 8 >> disk->header.refcount_order;
    uint64_t i = cluster % disk->alloc.per_chunk;
    struct cow_table *table;
    int r = block_table(disk, cluster / disk->alloc.per_chunk, &table);

    if (r < 0)
        return r;
    r = cow_page_get(disk, table, (uint32_t)(i / per_page), ret_page);
    if (r < 0)
        return r;
    *ret_place = i % per_page;
    return 0;
}

int cow_refcount_set(struct cow_disk *disk, uint64_t first, uint64_t n, unsigned count)
{
    for (uint64_t i = 0; i < n; i++) {
        unsigned order = disk->header.refcount_order;
        struct cow_page *page;
        uint64_t place, old;
        int r = count_page(disk, first + i, &page, &place);
        if (r < 0)
            return r;
        old = cow_count_get((const uint8_t *)page->entry, order, place);
        disk->alloc.n_counted += (uint64_t)(count != 0) - (uint64_t)(old != 0);
        cow_count_put((uint8_t *)page->entry, order, place, count);
        cow_page_dirty(page);
    }
    return 0;
}

int cow_refcount_drop(struct cow_disk *disk, uint64_t cluster, bool keep)
{
    unsigned order = disk->header.refcount_order;
    struct cow_page *page;
    uint64_t place, count;
    int r = count_page(disk, cluster, &page, &place);

    if (r < 0)
        return r;
    count = cow_count_get((const uint8_t *)page->entry, order, place);
    if (count == 0)
        return -EIO;
    cow_count_put((uint8_t *)page->entry, order, place, --count);
    cow_page_dirty(page);
    if (count == 0) {
        disk->alloc.n_counted--;
        if (!keep)
            freed_add(&disk->alloc, cluster);
    }
    return count > 0;
}

int cow_alloc_reserve_block(struct cow_disk *disk, uint64_t cluster)
{
    struct cow_table *table;
    int r = block_table(disk, cluster / disk->alloc.per_chunk, &table);

    return r < 0 ? r : cow_table_reserve(disk, table);
}
