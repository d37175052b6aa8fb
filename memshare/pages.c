/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The per-page tables: see pages.h. They are zero-filled mappings, so that pages the guest never
 * touches cost nothing here either.
 */
#include "memshare/pages.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

static void *table_new(size_t bytes)
{
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return table == MAP_FAILED ? NULL : table;
}

static void table_free(void *table, size_t bytes)
{
    if (table)
        munmap(table, bytes);
}

static size_t gone_bytes(uint64_t n)
{
    return (n + 63) / 64 * sizeof(uint64_t);
}

int ms_pages_init(struct ms_pages *pages, uint64_t n)
{
    memset(pages, 0, sizeof(*pages));
    pages->n = n;
    pages->where = table_new(n * sizeof(uint32_t));
    pages->hash = table_new(n * sizeof(uint64_t));
    pages->state = table_new(n);
    pages->gone = table_new(gone_bytes(n));
    if (!pages->where || !pages->hash || !pages->state || !pages->gone) {
        ms_pages_free(pages);
        return -ENOMEM;
    }
    atomic_init(&pages->mappings, 1);
    return 0;
}

void ms_pages_free(struct ms_pages *pages)
{
    table_free((void *)pages->where, pages->n * sizeof(uint32_t));
    table_free(pages->hash, pages->n * sizeof(uint64_t));
    table_free(pages->state, pages->n);
    table_free((void *)pages->gone, gone_bytes(pages->n));
    memset(pages, 0, sizeof(*pages));
}

/* Does one mapping cover two neighbours? MS_SPLIT plays no part: the mapping stays as it was. */
static bool joined(uint32_t left, uint32_t right)
{
    left &= ~MS_SPLIT;
    right &= ~MS_SPLIT;
    if (ms_kind_of(left) == MS_ANON)
        return ms_kind_of(right) == MS_ANON;
    return right == left + 1;
}

static int64_t borders_inside(const struct ms_pages *pages, uint64_t from, uint64_t to)
{
    int64_t borders = 0;

    for (uint64_t p = from; p < to; p++)
        if (p > 0 && p < pages->n && !joined(ms_where(pages, p - 1), ms_where(pages, p)))
            borders++;
    return borders;
}

static uint32_t make_where(enum ms_kind kind, uint32_t index)
{
    return kind == MS_ANON ? 0 : (uint32_t)kind << MS_KIND_SHIFT | index;
}

int64_t ms_pages_delta(const struct ms_pages *pages, uint64_t page, uint64_t n, enum ms_kind kind,
                       uint32_t index)
{
    int64_t before = borders_inside(pages, page, page + n + 1);
    uint32_t last = make_where(kind, index + (uint32_t)(n - 1));
    int64_t after = 0;

    if (page > 0 && !joined(ms_where(pages, page - 1), make_where(kind, index)))
        after++;
    if (page + n < pages->n && !joined(last, ms_where(pages, page + n)))
        after++;
    return after - before;
}

void ms_pages_set(struct ms_pages *pages, uint64_t page, uint64_t n, enum ms_kind kind,
                  uint32_t index)
{
    int64_t delta = ms_pages_delta(pages, page, n, kind, index);

    for (uint64_t i = 0; i < n; i++) {
        enum ms_kind old = ms_kind_of(ms_where(pages, page + i));

        pages->n_shared += (kind != MS_ANON) - (uint64_t)(old != MS_ANON);
        pages->n_old += (kind == MS_OLD) - (uint64_t)(old == MS_OLD);
        atomic_store_explicit(&pages->where[page + i], make_where(kind, index + (uint32_t)i),
                              memory_order_release);
    }
    atomic_fetch_add(&pages->mappings, (uint64_t)delta);
}

void ms_pages_set_split(struct ms_pages *pages, uint64_t page)
{
    atomic_store_explicit(&pages->where[page], ms_where(pages, page) | MS_SPLIT,
                          memory_order_release);
}

void ms_pages_pool_to_old(struct ms_pages *pages)
{
    for (uint64_t p = 0; p < pages->n; p++) {
        uint32_t where = ms_where(pages, p);

        if (ms_kind_of(where) != MS_POOL)
            continue;
        where = (uint32_t)MS_OLD << MS_KIND_SHIFT | (where & (MS_SPLIT | MS_MAX_INDEX));
        atomic_store_explicit(&pages->where[p], where, memory_order_release);
        pages->n_old++;
    }
}

void ms_pages_forget_state(struct ms_pages *pages)
{
    for (uint64_t page = 0; page < pages->n; page++) {
        if (pages->state[page])
            pages->state[page] &= MS_ARMED | MS_HASHED;
    }
    atomic_store(&pages->n_skipped, 0);
}
