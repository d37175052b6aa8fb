/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Merging runs of pages: read, freeze, compare, remap, fill in.
 *
 * What a run is to become is brought into memory while the guest runs: long runs of the pool into a
 * mapping of the store, others into a buffer, files always, for one may be cut short under a
 * mapping.
 * Then the guest is frozen, every byte is compared with that, and what is equal is mapped anew in
 * one step; then the guest goes on, and the page tables of the new mappings are filled. The content
 * of a slot we hold a reference to, of a template and of a memory image never changes, so what was
 * compared is what the mapping shows. A freeze ends after FREEZE_NS of work, the rest of the batch
 * waits for another. Nothing that may block happens in a freeze: references are given back
 * afterwards. MAP_POPULATE would make private copies and is never used.
 *
 * If the kernel fails to map after it has removed the old pages, they are written back from what
 * they were compared with, which has the same bytes: the guest never sees a hole.
 */
#include "memshare/scanner.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FREEZE_NS      300000 /* of work; one run more may be under way when it is reached */
#define FREEZE_TRIES   10
#define VIEW_LEAST_RUN 4 /* pages; to bring fewer into view costs more than to copy them */
#define RETRY_NS       1000000

/* ---- the budget of mappings ---- */

static enum ms_kind kind_from(enum ms_source source)
{
    switch (source) {
    case MS_FROM_TEMPLATE: return MS_TEMPLATE;
    case MS_FROM_POOL: return MS_POOL;
    case MS_FROM_LINEAGE: return MS_LINEAGE;
    default: return MS_ANON;
    }
}

/* Runs that add mappings must be longer, the fewer mappings are left. */
static uint32_t shortest_run(const struct ms_scanner *scanner)
{
    uint64_t max = ms_max_mappings(scanner);
    /* each run prepared but not yet merged may add two, as may the next one */
    uint64_t used = atomic_load(&scanner->pages.mappings) + 2 * (uint64_t)scanner->batch.n;

    if (used + 2 > max)
        return UINT32_MAX;
    if (used > max / 10 * 9)
        return 16;
    return used > max / 4 * 3 ? 4 : 1;
}

static bool affordable(const struct ms_scanner *scanner, const struct ms_run *run)
{
    return run->n >= shortest_run(scanner) ||
           ms_pages_delta(&scanner->pages, run->page, run->n, kind_from(run->source), run->index) <=
               0;
}

/* ---- before it ---- */

static int fd_of(const struct ms_scanner *scanner, enum ms_source source)
{
    switch (source) {
    case MS_FROM_TEMPLATE: return scanner->config.tmpl.fd;
    case MS_FROM_LINEAGE: return scanner->config.lineage.fd;
    case MS_FROM_POOL: return scanner->link.pool_fd;
    default: return -1;
    }
}

/* Where page `index` of a source is in its file. */
static off_t offset_of(const struct ms_scanner *scanner, enum ms_source source, uint32_t index)
{
    uint64_t base = source == MS_FROM_LINEAGE ? scanner->config.lineage.offset : 0;

    return (off_t)(base + (uint64_t)index * MS_PAGE_SIZE);
}

/* Reads what the run is to become. The last block of a disk may be short: zeros follow it, as they
 * do in a mapping; but a page beyond the end of the file is no page of it. */
static int read_content(struct ms_scanner *scanner, struct ms_run *run)
{
    size_t length = (size_t)run->n * MS_PAGE_SIZE, have = 0;
    off_t offset = offset_of(scanner, run->source, run->index);
    int fd = fd_of(scanner, run->source);

    run->done = 0;
    if (run->source == MS_FROM_ZERO)
        return 0;
    run->content = NULL;
    if (run->source == MS_FROM_POOL && run->n >= VIEW_LEAST_RUN &&
        ms_view_bring(&scanner->view, fd, run->index, run->n) == 0)
        return 0;
    run->content = scanner->batch.content + (size_t)scanner->batch.closed * MS_PAGE_SIZE;
    scanner->batch.closed += run->n;
    if (run->source == MS_FROM_SELF)
        return 0; /* in the freeze: the guest may still write */
    while (have < length) {
        ssize_t n = pread(fd, run->content + have, length - have, offset + (off_t)have);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    if (length - have >= MS_PAGE_SIZE)
        return -EIO;
    memset(run->content + have, 0, length - have);
    return 0;
}

/* ---- in the freeze ---- */

/* What page `i` of the run is to become. */
static const uint8_t *content_of(const struct ms_scanner *scanner, const struct ms_run *run,
                                 uint32_t i)
{
    if (!run->content)
        return ms_view_at(&scanner->view, run->index + i);
    return run->content + (size_t)i * MS_PAGE_SIZE;
}

bool ms_is_zero_page(const void *page)
{
    static const uint8_t zero[MS_PAGE_SIZE];

    return memcmp(page, zero, MS_PAGE_SIZE) == 0;
}

static bool is_equal(const struct ms_scanner *scanner, const struct ms_run *run, uint32_t i)
{
    const uint8_t *ram = ms_ram_page(scanner, run->page + i);

    /* Given away, or merged another way since: its references are open, so leave it as it is. */
    if (ms_is_gone(&scanner->pages, run->page + i) ||
        (!run->again && !ms_still_mergeable(scanner, run->page + i)))
        return false;
    if (run->source == MS_FROM_ZERO)
        return ms_is_zero_page(ram);
    if (run->source == MS_FROM_SELF)
        return ms_kind_of(ms_where(&scanner->pages, run->page + i)) == MS_OLD;
    return memcmp(ram, content_of(scanner, run, i), MS_PAGE_SIZE) == 0;
}

static bool all_of(const struct ms_scanner *scanner, uint64_t page, uint32_t n, enum ms_kind kind)
{
    for (uint32_t i = 0; i < n; i++)
        if (ms_kind_of(ms_where(&scanner->pages, page + i)) != kind)
            return false;
    return true;
}

int ms_map_fresh(struct ms_scanner *scanner, uint64_t page, uint64_t n)
{
    uint8_t *ram = ms_ram_page(scanner, page);
    size_t length = n * MS_PAGE_SIZE;

    if (mmap(ram, length, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return -errno;
    (void)madvise(ram, length, MADV_NOHUGEPAGE); /* like its neighbours, or it cannot join them */
    ms_pagemap_track(&scanner->pagemap, ram, n);
    return 0;
}

/* Gives the pages up, where the mapping shows what they are to become without them. */
static int drop(uint8_t *ram, size_t length)
{
    return madvise(ram, length, MADV_DONTNEED) < 0 ? -errno : 0;
}

/* Mapping failed: make sure that guest RAM is there and has its bytes; without a copy they are
 * zeros. */
static void put_back(struct ms_scanner *scanner, uint64_t page, uint32_t n, const uint8_t *copy)
{
    uint8_t *ram = ms_ram_page(scanner, page);
    size_t length = (size_t)n * MS_PAGE_SIZE;

    if (madvise(ram, length, MADV_NORMAL) == 0 || errno != ENOMEM)
        return; /* there is no hole */
    if (ms_map_fresh(scanner, page, n) == 0 && copy)
        memcpy(ram, copy, length);
    ms_pages_set(&scanner->pages, page, n, MS_ANON, 0);
}

static int drop_zeros(struct ms_scanner *scanner, uint64_t page, uint32_t n)
{
    int r;

    if (all_of(scanner, page, n, MS_ANON))
        return drop(ms_ram_page(scanner, page), (size_t)n * MS_PAGE_SIZE);
    r = ms_map_fresh(scanner, page, n);
    if (r < 0)
        put_back(scanner, page, n, NULL);
    return r;
}

/* The bytes stay; only what holds them changes. */
static int copy_home(struct ms_scanner *scanner, uint64_t page, uint32_t n, uint8_t *content)
{
    uint8_t *ram = ms_ram_page(scanner, page);
    size_t length = (size_t)n * MS_PAGE_SIZE;
    int r;

    memcpy(content, ram, length);
    r = ms_map_fresh(scanner, page, n);
    if (r < 0)
        put_back(scanner, page, n, content);
    else
        memcpy(ram, content, length);
    return r;
}

/* The first write to a mapping takes longer than the first write to another of its pages. A page
 * that others have often begins a mapping, one that nobody has seldom does, so that would tell them
 * apart: it is done here. */
static void even_out(uint8_t *ram)
{
    *(volatile uint8_t *)ram = *(volatile uint8_t *)ram;
    (void)madvise(ram, MS_PAGE_SIZE, MADV_DONTNEED); /* the slot shows again */
}

static int map_in(struct ms_scanner *scanner, struct ms_run *run, uint32_t first, uint32_t n)
{
    uint64_t page = run->page + first;
    uint8_t *ram = ms_ram_page(scanner, page);
    size_t length = (size_t)n * MS_PAGE_SIZE;
    int r;

    if (run->source == MS_FROM_LINEAGE && all_of(scanner, page, n, MS_LINEAGE))
        return drop(ram, length);
    if (mmap(ram, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED,
             fd_of(scanner, run->source),
             offset_of(scanner, run->source, run->index + first)) != MAP_FAILED) {
        if (run->source == MS_FROM_POOL && scanner->link.hide)
            even_out(ram);
        return 0;
    }
    r = -errno;
    put_back(scanner, page, n, content_of(scanner, run, first));
    return r;
}

/* Remaps pages [first, first + n) of the run, which are equal. */
static void swap_in(struct ms_scanner *scanner, struct ms_run *run, uint32_t first, uint32_t n)
{
    uint64_t page = run->page + first;
    int r;

    switch (run->source) {
    case MS_FROM_ZERO: r = drop_zeros(scanner, page, n); break;
    case MS_FROM_SELF:
        r = copy_home(scanner, page, n, run->content + (size_t)first * MS_PAGE_SIZE);
        break;
    default: r = map_in(scanner, run, first, n);
    }
    if (r < 0)
        return;
    ms_pages_set(&scanner->pages, page, n, kind_from(run->source), run->index + first);
    for (uint32_t i = first; i < first + n; i++)
        run->done |= (uint64_t)1 << i;
}

static void merge_run(struct ms_scanner *scanner, struct ms_run *run)
{
    for (uint32_t i = 0; i < run->n;) {
        uint32_t first = i;

        while (i < run->n && is_equal(scanner, run, i))
            i++;
        if (i > first)
            swap_in(scanner, run, first, i - first);
        else
            i++;
    }
}

struct frozen_work {
    struct ms_scanner *scanner;
    uint32_t *next;
};

/* As many runs as fit into one freeze, from *next on. */
static void merge_some(void *arg)
{
    const struct frozen_work *work = arg;
    struct ms_scanner *scanner = work->scanner;
    struct ms_batch *batch = &scanner->batch;
    uint64_t begin = ms_now_ns(), cpu = ms_thread_cpu_ns(), spent = 0;

    while (*work->next < batch->n && spent < FREEZE_NS) {
        merge_run(scanner, &batch->run[(*work->next)++]);
        spent = ms_now_ns() - begin;
    }
    if (!pthread_equal(pthread_self(), scanner->thread)) /* whose time is charged as a whole */
        ms_budget_add(&scanner->budget, ms_thread_cpu_ns() - cpu);
    atomic_fetch_add(&scanner->freezes, 1);
    if (spent > atomic_load(&scanner->longest_freeze_ns))
        atomic_store(&scanner->longest_freeze_ns, spent);
}

static int freeze_and_merge(struct ms_scanner *scanner, uint32_t *next)
{
    struct frozen_work work = {scanner, next};
    int r = -EBUSY;

    for (int i = 0; i < FREEZE_TRIES && r == -EBUSY; i++) {
        if (ms_scanner_interrupted(scanner))
            return -ECANCELED;
        if (i > 0)
            ms_scanner_sleep(scanner, RETRY_NS, false);
        r = scanner->config.ops->frozen(scanner->config.opaque, merge_some, &work);
    }
    return r;
}

/* ---- after it ---- */

/* Fills the page tables of what was mapped, so that neither the guest nor the ledger waits for it.
 * A look does that, mostly for the pages around as well; but the kernel leaves out those that
 * somebody else has locked at that moment, so each page is looked at. */
static void fill_in(struct ms_scanner *scanner, uint64_t page, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        (void)*(volatile uint8_t *)ms_ram_page(scanner, page + i);
}

static void fill_in_run(struct ms_scanner *scanner, const struct ms_run *run)
{
    for (uint32_t i = 0; run->source != MS_FROM_ZERO && i < run->n; i++) {
        uint32_t first = i;

        while (i < run->n && (run->done >> i & 1))
            i++;
        if (i > first)
            fill_in(scanner, run->page + first, i - first);
    }
}

/* A merged page begins anew when it is split one day. The pool knows where it went if it went
 * there. */
static void forget_page(struct ms_scanner *scanner, uint64_t page, enum ms_source source)
{
    if (source != MS_FROM_POOL)
        ms_take_back(scanner, page);
    scanner->pages.state[page] &= MS_SKIPPED;
}

/* References follow what happened: taken for template blocks, given back for slots not mapped. */
static void settle_run(struct ms_scanner *scanner, const struct ms_run *run)
{
    for (uint32_t i = 0; i < run->n; i++) {
        if (run->done >> i & 1) {
            scanner->pass_merged++;
            forget_page(scanner, run->page + i, run->source);
            if (run->source == MS_FROM_TEMPLATE)
                ms_link_template_ref(&scanner->link, run->index + i);
            continue;
        }
        ms_pages_back_off(&scanner->pages, run->page + i, MS_BACKOFF_MAX);
        ms_pages_clear(&scanner->pages, run->page + i, MS_DONE);
        if (run->source == MS_FROM_POOL)
            ms_link_drop(&scanner->link, run->index + i);
    }
    if (run->source != MS_FROM_SELF)
        atomic_fetch_add(&scanner->merges, (uint64_t)__builtin_popcountll(run->done));
}

/* No mapping is left for it; that will not change soon. */
static void skip_run(struct ms_scanner *scanner, struct ms_run *run)
{
    run->done = 0;
    settle_run(scanner, run);
    for (uint32_t i = 0; i < run->n; i++)
        ms_pages_set_backoff(&scanner->pages, run->page + i, MS_BACKOFF_MAX);
    ms_pages_set_skipped(&scanner->pages, run->page, true);
}

/* The last run is complete: it goes with the batch if there is a mapping left for it. */
static void close_run(struct ms_scanner *scanner)
{
    struct ms_batch *batch = &scanner->batch;
    struct ms_run *run = &batch->run[batch->n];

    if (!run->n)
        return;
    if (!affordable(scanner, run))
        skip_run(scanner, run);
    else if (read_content(scanner, run) < 0)
        settle_run(scanner, run);
    else
        batch->n++;
    batch->run[batch->n].n = 0;
}

static void merge_batch(struct ms_scanner *scanner)
{
    struct ms_batch *batch = &scanner->batch;
    uint32_t next = 0;

    while (next < batch->n && freeze_and_merge(scanner, &next) == 0)
        ;
    for (uint32_t i = 0; i < batch->n; i++) {
        fill_in_run(scanner, &batch->run[i]);
        settle_run(scanner, &batch->run[i]);
    }
    if (!ms_is_unlimited(scanner))
        ms_scanner_pay(scanner);
}

void ms_merge_flush(struct ms_scanner *scanner)
{
    struct ms_batch *batch = &scanner->batch;

    close_run(scanner);
    if (batch->n)
        merge_batch(scanner);
    batch->n = 0;
    batch->pages = 0;
    batch->closed = 0;
    batch->run[0].n = 0;
}

uint64_t ms_merge_again(struct ms_scanner *scanner, uint64_t page, uint32_t n, uint32_t slot)
{
    struct ms_batch *batch = &scanner->batch;
    struct ms_run *run = &batch->run[0];
    uint32_t next = 0;
    uint64_t done = 0;

    ms_merge_flush(scanner);
    *run =
        (struct ms_run){.source = MS_FROM_POOL, .page = page, .index = slot, .n = n, .again = true};
    if (read_content(scanner, run) == 0) {
        batch->n = 1;
        if (freeze_and_merge(scanner, &next) == 0) {
            fill_in_run(scanner, run);
            done = run->done;
        }
    }
    batch->n = 0;
    batch->closed = 0;
    run->n = 0;
    return done;
}

void ms_merge_add(struct ms_scanner *scanner, enum ms_source source, uint64_t page, uint32_t index)
{
    struct ms_batch *batch = &scanner->batch;
    struct ms_run *run = &batch->run[batch->n];

    if (run->n && (run->n == MS_RUN_MAX || run->source != source || run->page + run->n != page ||
                   (source != MS_FROM_ZERO && run->index + run->n != index))) {
        close_run(scanner);
        if (batch->n == MS_BATCH_RUNS || batch->pages >= MS_BATCH_PAGES)
            ms_merge_flush(scanner);
        run = &batch->run[batch->n];
    }
    if (!run->n)
        *run = (struct ms_run){.source = source, .page = page, .index = index};
    run->n++;
    batch->pages++;
}
