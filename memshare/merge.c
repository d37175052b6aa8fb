/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Merging runs of pages: stage, freeze, compare, remap.
 *
 * The new mapping of a run is built at an address of its own and its page tables are filled while
 * the guest runs. Then the guest is frozen, every byte is compared, and what is equal is moved over
 * guest RAM in one step; then the guest goes on. A freeze ends after FREEZE_NS of work, the rest of
 * the batch waits for another. Nothing that may block happens in a freeze: references are given
 * back afterwards. MAP_POPULATE would make private copies and is never used.
 *
 * If the kernel refuses to move a mapping after it has removed the old one, the page is written
 * back from the staging mapping, which has the same bytes: the guest never sees a hole.
 */
#include "memshare/scanner.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define FREEZE_NS    300000 /* of work; one run more may be under way when it is reached */
#define FREEZE_TRIES 10
#define RETRY_NS     1000000

/* ---- the budget of mappings ---- */

static enum ms_kind kind_from(enum ms_source source)
{
    switch (source) {
    case MS_FROM_TEMPLATE: return MS_TEMPLATE;
    case MS_FROM_POOL: return MS_POOL;
    default: return MS_ANON;
    }
}

uint32_t ms_merge_shortest_run(const struct ms_scanner *scanner)
{
    uint64_t max = ms_max_mappings(scanner);
    /* each run prepared but not yet merged may add two, as may the next one in staging */
    uint64_t used = atomic_load(&scanner->pages.mappings) + 2 * (uint64_t)scanner->batch.n;

    if (used + 2 > max)
        return UINT32_MAX;
    if (used > max / 10 * 9)
        return 16;
    return used > max / 4 * 3 ? 4 : 1;
}

static bool affordable(const struct ms_scanner *scanner, const struct ms_run *run)
{
    return run->n >= ms_merge_shortest_run(scanner) ||
           ms_pages_delta(&scanner->pages, run->page, run->n, kind_from(run->source), run->index) <=
               0;
}

/* ---- staging ---- */

/* Fills the page tables. Old kernels cannot be asked to: the comparison does it then. */
static int populate(uint8_t *staging, size_t length)
{
    if (madvise(staging, length, MADV_POPULATE_READ) == 0 || errno == EINVAL)
        return 0;
    return -errno;
}

static int stage(struct ms_scanner *scanner, struct ms_run *run)
{
    int fd = run->source == MS_FROM_TEMPLATE ? scanner->config.tmpl.fd : scanner->link.pool_fd;
    size_t length = (size_t)run->n * MS_PAGE_SIZE;
    void *staging;
    int r;

    run->done = 0;
    run->staging = NULL;
    if (run->source == MS_FROM_ZERO)
        return 0;
    staging = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd,
                   (off_t)run->index * MS_PAGE_SIZE);
    if (staging == MAP_FAILED)
        return -errno;
    r = populate(staging, length);
    if (r < 0) {
        munmap(staging, length);
        return r;
    }
    run->staging = staging;
    return 0;
}

/* Removes what was not moved into guest RAM. A moved part is not ours to unmap: its old address may
 * belong to somebody else by now. */
static void unstage(struct ms_run *run)
{
    for (uint32_t i = 0; run->staging && i < run->n;) {
        uint32_t first = i;

        while (i < run->n && !(run->done >> i & 1))
            i++;
        if (i > first)
            munmap(run->staging + (size_t)first * MS_PAGE_SIZE, (size_t)(i - first) * MS_PAGE_SIZE);
        while (i < run->n && (run->done >> i & 1))
            i++;
    }
    run->staging = NULL;
}

/* ---- in the freeze ---- */

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
        !ms_is_mergeable(ms_where(&scanner->pages, run->page + i)))
        return false;
    if (run->source == MS_FROM_ZERO)
        return ms_is_zero_page(ram);
    return memcmp(ram, run->staging + (size_t)i * MS_PAGE_SIZE, MS_PAGE_SIZE) == 0;
}

static bool all_anon(const struct ms_scanner *scanner, uint64_t page, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ms_kind_of(ms_where(&scanner->pages, page + i)) != MS_ANON)
            return false;
    return true;
}

static int drop_zeros(struct ms_scanner *scanner, uint64_t page, uint32_t n)
{
    uint8_t *ram = ms_ram_page(scanner, page);
    size_t length = (size_t)n * MS_PAGE_SIZE;

    if (all_anon(scanner, page, n))
        return madvise(ram, length, MADV_DONTNEED) < 0 ? -errno : 0;
    if (mmap(ram, length, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return -errno;
    (void)madvise(ram, length, MADV_NOHUGEPAGE); /* like its neighbours, or it cannot join them */
    return 0;
}

/* The move failed: make sure that guest RAM is there and has its bytes. */
static void put_back(uint8_t *ram, const uint8_t *copy, size_t length)
{
    if (mmap(ram, length, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == ram)
        memcpy(ram, copy, length);
}

static int move_in(struct ms_scanner *scanner, struct ms_run *run, uint32_t first, uint32_t n)
{
    uint8_t *from = run->staging + (size_t)first * MS_PAGE_SIZE;
    uint8_t *to = ms_ram_page(scanner, run->page + first);
    size_t length = (size_t)n * MS_PAGE_SIZE;
    int r;

    if (mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) != MAP_FAILED)
        return 0;
    r = -errno;
    if (madvise(to, length, MADV_NORMAL) < 0 && errno == ENOMEM) { /* is there a hole? */
        put_back(to, from, length);
        ms_pages_set(&scanner->pages, run->page + first, n, MS_ANON, 0);
    }
    return r;
}

/* Remaps pages [first, first + n) of the run, which are equal. */
static void swap_in(struct ms_scanner *scanner, struct ms_run *run, uint32_t first, uint32_t n)
{
    int r = run->source == MS_FROM_ZERO ? drop_zeros(scanner, run->page + first, n)
                                        : move_in(scanner, run, first, n);

    if (r < 0)
        return;
    ms_pages_set(&scanner->pages, run->page + first, n, kind_from(run->source), run->index + first);
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
    uint64_t begin = ms_now_ns(), spent = 0;

    while (*work->next < batch->n && spent < FREEZE_NS) {
        merge_run(scanner, &batch->run[(*work->next)++]);
        spent = ms_now_ns() - begin;
    }
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

/* ---- around it ---- */

/* References follow what happened: taken for template blocks, given back for slots not mapped. */
static void settle_run(struct ms_scanner *scanner, const struct ms_run *run)
{
    for (uint32_t i = 0; i < run->n; i++) {
        if (run->done >> i & 1) {
            scanner->pass_merged++;
            ms_pages_set_backoff(&scanner->pages, run->page + i, 0);
            if (run->source == MS_FROM_TEMPLATE)
                ms_link_template_ref(&scanner->link, run->index + i);
            continue;
        }
        ms_pages_back_off(&scanner->pages, run->page + i, MS_BACKOFF_MAX);
        if (run->source == MS_FROM_POOL)
            ms_link_drop(&scanner->link, run->index + i);
    }
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
    int r;

    if (!run->n)
        return;
    if (!affordable(scanner, run)) {
        skip_run(scanner, run);
    } else {
        r = stage(scanner, run);
        if (r == -ENOMEM)
            skip_run(scanner, run);
        else if (r < 0)
            settle_run(scanner, run);
        else
            batch->n++;
    }
    batch->run[batch->n].n = 0;
}

static void merge_batch(struct ms_scanner *scanner)
{
    struct ms_batch *batch = &scanner->batch;
    uint32_t next = 0;

    while (next < batch->n && freeze_and_merge(scanner, &next) == 0)
        ;
    for (uint32_t i = 0; i < batch->n; i++) {
        unstage(&batch->run[i]);
        settle_run(scanner, &batch->run[i]);
    }
    batch->n = 0;
    batch->pages = 0;
    batch->run[0].n = 0;
    ms_scanner_pay(scanner);
}

void ms_merge_flush(struct ms_scanner *scanner)
{
    close_run(scanner);
    if (scanner->batch.n)
        merge_batch(scanner);
    scanner->batch.pages = 0;
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
