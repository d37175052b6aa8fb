/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looking at pages: which changed, and what are they equal to? Scanner thread only.
 *
 * A pass goes over guest RAM window by window: the page tables say what is there; writes to merged
 * pages and discards are noted. Where the kernel tracks writes, a page that was written is armed,
 * and looked at once when a later pass finds it not written since; after that it costs nothing
 * until it is written again. Elsewhere pages whose turn it is are hashed, and must have looked the
 * same twice. Pages that keep changing are left alone longer and longer either way. What the disk
 * and the pool hint at comes first, before every window. Offers to the pool are gathered over
 * windows and made in one message.
 */
#include "memshare/scanner.h"

#include <string.h>
#include <unistd.h>

#include "memshare/ms-hash.h"

#define PAY_EVERY    128   /* pages between two looks at the budget */
#define SPLITS_SOON  500   /* looking for splits may take 1/500 of the time when there are many, */
#define SPLITS_MANY  64    /* that is, 1/64 of resident; */
#define SPLITS_SHARE 20000 /* 1/20000 when there are a few; */
#define SPLITS_REST  16 /* as much in any case, but not more often than every 16th time at rest */

/* ---- what the page tables say ---- */

static void return_reference(struct ms_scanner *scanner, uint32_t where)
{
    if (where & MS_SPLIT)
        return;
    if (ms_kind_of(where) == MS_POOL)
        ms_link_drop(&scanner->link, ms_index_of(where));
    else if (ms_kind_of(where) == MS_TEMPLATE)
        ms_link_template_drop(&scanner->link, ms_index_of(where));
}

/* Discarded pages are anonymous memory now. */
static void note_gone(struct ms_scanner *scanner, uint64_t page)
{
    uint32_t where = ms_where(&scanner->pages, page);

    if (ms_kind_of(where) == MS_ANON)
        return;
    return_reference(scanner, where);
    ms_pages_set(&scanner->pages, page, 1, MS_ANON, 0);
}

static void note_all_gone(struct ms_scanner *scanner)
{
    for (uint64_t word = 0; word < (scanner->n_pages + 63) / 64; word++) {
        uint64_t bits = 0;

        if (atomic_load_explicit(&scanner->pages.gone[word], memory_order_relaxed))
            bits = atomic_exchange(&scanner->pages.gone[word], 0);
        for (; bits; bits &= bits - 1)
            note_gone(scanner, word * 64 + (uint64_t)__builtin_ctzll(bits));
    }
}

/* The guest wrote to a merged page, and the kernel gave it one of its own. */
static void note_split(struct ms_scanner *scanner, uint64_t page)
{
    uint32_t where = ms_where(&scanner->pages, page);

    if (ms_kind_of(where) == MS_ANON || (where & MS_SPLIT))
        return;
    return_reference(scanner, where);
    ms_pages_set_split(&scanner->pages, page);
    ms_pages_back_off(&scanner->pages, page, MS_BACKOFF_MAX);
    atomic_fetch_add(&scanner->splits, 1);
}

static enum ms_class class_at(const struct ms_scanner *scanner, uint64_t i)
{
    return (enum ms_class)(scanner->window_class[i] & MS_CLASS_MASK);
}

/* Classifies a window; afterwards MS_OWN pages may be merged. With `splits` it finds merged pages
 * that were written to; else they still count as merged. */
static int look_at_tables(struct ms_scanner *scanner, uint64_t first, uint64_t n, bool splits)
{
    int r = ms_pagemap_classify(&scanner->pagemap, ms_ram_page(scanner, first), n, splits,
                                scanner->window_class);

    if (r < 0)
        return r;
    for (uint64_t i = 0; i < n; i++) {
        if (class_at(scanner, i) != MS_OWN)
            continue;
        if (splits)
            note_split(scanner, first + i);
        else if (!ms_is_private(ms_where(&scanner->pages, first + i)))
            scanner->window_class[i] = MS_FILE;
    }
    return 0;
}

/* The same in the first pass, where nothing is known yet: arms all that is there, so that it can be
 * looked at without waiting for the next pass. */
static int take_stock(struct ms_scanner *scanner, uint64_t first, uint64_t n)
{
    int r = ms_pagemap_arm_all(&scanner->pagemap, ms_ram_page(scanner, first), n,
                               scanner->window_class);

    for (uint64_t i = 0; r == 0 && i < n; i++) {
        if (class_at(scanner, i) != MS_OWN)
            continue;
        note_split(scanner, first + i);
        scanner->pages.state[first + i] |= MS_ARMED;
    }
    return r;
}

static uint64_t window_at(const struct ms_scanner *scanner, uint64_t first)
{
    return scanner->n_pages - first < MS_WINDOW ? scanner->n_pages - first : MS_WINDOW;
}

/* ---- splits ---- */

/* What would be memory of our own if nothing had been merged: it grows with every split. */
static uint64_t own_memory(const struct ms_scanner *scanner)
{
    return ms_pagemap_anonymous(&scanner->pagemap) + atomic_load(&scanner->merges);
}

/* To find splits the kernel has to look at every merged page. That is done if there may be some, as
 * often as it costs little, and now and then in any case, for the count is not always exact. */
static bool splits_due(struct ms_scanner *scanner)
{
    uint64_t own = own_memory(scanner);
    uint64_t since = ms_now_ns() - scanner->splits_ns;
    uint64_t grown;

    if (!scanner->pages.n_shared)
        return false;
    if (!scanner->pagemap.has_scan)
        return true; /* entries tell it without cost */
    if (own < scanner->splits_own)
        scanner->splits_own = own;
    grown = own - scanner->splits_own;
    if (grown * SPLITS_MANY > scanner->pass_resident)
        return since >= scanner->splits_cost_ns * SPLITS_SOON;
    return since >=
           scanner->splits_cost_ns * SPLITS_SHARE + (grown ? 0 : SPLITS_REST * scanner->at_rest_ns);
}

static void note_look(struct ms_scanner *scanner)
{
    scanner->splits_own = own_memory(scanner);
    scanner->splits_ns = ms_now_ns();
}

static void look_for_splits(struct ms_scanner *scanner)
{
    uint64_t cpu = ms_thread_cpu_ns();

    note_look(scanner);
    for (uint64_t first = 0; first < scanner->n_pages; first += MS_WINDOW)
        if (look_at_tables(scanner, first, window_at(scanner, first), true) < 0)
            break;
    scanner->splits_cost_ns = ms_thread_cpu_ns() - cpu;
}

void ms_scan_sweep(struct ms_scanner *scanner)
{
    note_all_gone(scanner);
    if (splits_due(scanner))
        look_for_splits(scanner);
    (void)ms_link_flush(&scanner->link);
}

/* ---- the memory image ---- */

static bool lineage_has(const struct ms_scanner *scanner, uint64_t page)
{
    const struct ms_lineage *lineage = &scanner->config.lineage;
    uint8_t image[MS_PAGE_SIZE];

    if (lineage->fd <= 0)
        return false;
    return pread(lineage->fd, image, sizeof(image),
                 (off_t)(lineage->offset + page * MS_PAGE_SIZE)) == MS_PAGE_SIZE &&
           memcmp(image, ms_ram_page(scanner, page), MS_PAGE_SIZE) == 0;
}

/* ---- one page ---- */

static uint64_t hash_of(struct ms_scanner *scanner, uint64_t page)
{
    uint64_t hash = ms_hash_page(ms_ram_page(scanner, page));

    atomic_fetch_add_explicit(&scanner->hashed, 1, memory_order_relaxed);
    return hash ? hash : 1; /* 0 is for pages not looked at */
}

static bool is_zero(const struct ms_scanner *scanner, uint64_t page, uint64_t hash)
{
    return hash == scanner->zero_hash && ms_is_zero_page(ms_ram_page(scanner, page));
}

/* A page that stood still: whose is it? */
static void find_source(struct ms_scanner *scanner, uint64_t page, uint64_t hash)
{
    uint64_t block;

    scanner->pages.state[page] |= MS_DONE;
    if (is_zero(scanner, page, hash)) {
        ms_merge_add(scanner, MS_FROM_ZERO, page, 0);
    } else if (lineage_has(scanner, page)) {
        ms_merge_add(scanner, MS_FROM_LINEAGE, page, (uint32_t)page);
    } else {
        block = ms_find_block(scanner, page, hash);
        if (block != MS_NO_BLOCK)
            ms_merge_add(scanner, MS_FROM_TEMPLATE, page, (uint32_t)block);
        else
            ms_offer_page(scanner, page, hash);
    }
}

/* The kernel does not say whether it was written: it must have the same hash twice. A template
 * block goes at once, because a page just read from disk is the best candidate there is. */
static void look_at_hash(struct ms_scanner *scanner, uint64_t page)
{
    struct ms_pages *pages = &scanner->pages;
    uint64_t before = pages->hash[page];
    uint64_t hash = hash_of(scanner, page);

    if (before == hash) {
        if (!(pages->state[page] & MS_HINTED))
            find_source(scanner, page, hash);
        else
            ms_pages_back_off(pages, page, MS_BACKOFF_IDLE);
        return;
    }
    ms_take_back(scanner, page);
    pages->hash[page] = hash;
    if (!is_zero(scanner, page, hash) && ms_find_block(scanner, page, hash) != MS_NO_BLOCK)
        find_source(scanner, page, hash);
    else if (before)
        ms_pages_back_off(pages, page, MS_BACKOFF_MAX);
    else
        scanner->pass_fresh++;
}

/* What is to be done about the protection of a page. */
enum arming {
    ARM_EITHER, /* it is armed already */
    ARM_IT,
    ARM_NOT, /* not there: its first touch would cost more; or written, and to be left alone */
};

static enum arming look_at_writes(struct ms_scanner *scanner, uint64_t page, bool written, bool due)
{
    struct ms_pages *pages = &scanner->pages;

    if (!written) {
        if (due && !(pages->state[page] & MS_DONE)) {
            if (!(pages->state[page] & MS_HASHED))
                pages->hash[page] = hash_of(scanner, page);
            pages->state[page] |= MS_HASHED;
            find_source(scanner, page, pages->hash[page]);
        }
        return ARM_EITHER;
    }
    ms_take_back(scanner, page);
    if (pages->state[page] & MS_ARMED)
        ms_pages_back_off(pages, page, MS_BACKOFF_MAX);
    ms_pages_clear(pages, page, MS_ARMED | MS_DONE | MS_HASHED);
    if (!due)
        return ARM_NOT;
    pages->state[page] |= MS_ARMED;
    if (ms_backoff(pages, page) < MS_BACKOFF_NEWS)
        scanner->pass_fresh++;
    return ARM_IT;
}

/* Our own memory; or, after a change of the connection, pages of the old pool. */
static bool is_candidate(const struct ms_scanner *scanner, uint64_t page, enum ms_class class)
{
    return class == MS_OWN ||
           (class == MS_FILE && ms_kind_of(ms_where(&scanner->pages, page)) == MS_OLD);
}

/* ---- hints and passes ---- */

static void scan_hint(struct ms_scanner *scanner, uint64_t page, uint64_t block, uint64_t n)
{
    if (look_at_tables(scanner, page, n, true) < 0)
        return;
    for (uint64_t i = 0; i < n; i++) {
        if (!is_candidate(scanner, page + i, class_at(scanner, i)))
            continue;
        if (scanner->config.tmpl.hash[block + i] == scanner->zero_hash)
            continue; /* a hole of the disk: the pass drops the page when it stays zero */
        ms_merge_add(scanner, MS_FROM_TEMPLATE, page + i, (uint32_t)(block + i));
    }
}

void ms_scan_hints(struct ms_scanner *scanner)
{
    struct ms_hint hint;

    note_all_gone(scanner);
    while (!ms_scanner_interrupted(scanner) && ms_hints_get(&scanner->hints, &hint)) {
        while (hint.n) {
            uint64_t n = hint.n < MS_WINDOW ? hint.n : MS_WINDOW;

            scan_hint(scanner, hint.page, hint.block, n);
            hint.page += n;
            hint.block += n;
            hint.n -= n;
        }
    }
    ms_merge_flush(scanner);
}

/* Another guest published pages of ours; the references are ours. */
void ms_scan_looks(struct ms_scanner *scanner)
{
    struct ms_look look[MS_MAX_LOOK];
    uint32_t count;

    (void)ms_link_poll(&scanner->link);
    count = ms_link_take_look(&scanner->link, look);
    for (uint32_t i = 0; i < count; i++) {
        if (look[i].page < scanner->n_pages && ms_still_mergeable(scanner, look[i].page))
            ms_merge_add(scanner, MS_FROM_POOL, look[i].page, look[i].slot);
        else
            ms_link_drop(&scanner->link, look[i].slot);
    }
    scanner->looked += count;
    if (count)
        ms_merge_flush(scanner);
}

/* Nothing of our own is there (any more). */
static void look_at_nothing(struct ms_scanner *scanner, uint64_t page)
{
    ms_take_back(scanner, page);
    ms_pages_clear(&scanner->pages, page, MS_ARMED | MS_DONE | MS_HASHED);
}

static enum arming scan_page(struct ms_scanner *scanner, uint64_t page, uint8_t class,
                             uint64_t pass)
{
    bool due = ms_pages_due(&scanner->pages, page, pass);

    if (!is_candidate(scanner, page, (enum ms_class)(class & MS_CLASS_MASK))) {
        look_at_nothing(scanner, page);
        return ARM_NOT;
    }
    if (due)
        ms_pages_set_skipped(&scanner->pages, page, false);
    if (class & MS_TRACKED)
        return look_at_writes(scanner, page, class & MS_WRITTEN, due);
    if (due)
        look_at_hash(scanner, page);
    return ARM_NOT;
}

static void arm(struct ms_scanner *scanner, uint64_t first, uint64_t end)
{
    if (end > first)
        (void)ms_pagemap_arm(&scanner->pagemap, ms_ram_page(scanner, first), end - first);
}

static void scan_window(struct ms_scanner *scanner, uint64_t first, uint64_t n)
{
    uint64_t pass = atomic_load(&scanner->passes);
    uint64_t arm_first = first, arm_end = first;
    int r;

    if (scanner->known || scanner->pagemap.uffd < 0)
        r = look_at_tables(scanner, first, n, scanner->pass_splits);
    else
        r = take_stock(scanner, first, n);
    if (r < 0)
        return;
    for (uint64_t i = 0; i < n; i++) {
        scanner->pass_resident += class_at(scanner, i) == MS_OWN || class_at(scanner, i) == MS_FILE;
        switch (scan_page(scanner, first + i, scanner->window_class[i], pass)) {
        case ARM_IT: arm_end = first + i + 1; break;
        case ARM_NOT:
            arm(scanner, arm_first, arm_end);
            arm_first = arm_end = first + i + 1;
            break;
        case ARM_EITHER: break;
        }
        if (i % PAY_EVERY == PAY_EVERY - 1 && !ms_is_unlimited(scanner))
            ms_scanner_pay(scanner);
    }
    arm(scanner, arm_first, arm_end);
}

void ms_scan_pass(struct ms_scanner *scanner)
{
    scanner->pass_splits = splits_due(scanner);
    if (scanner->pass_splits || !scanner->known)
        note_look(scanner);
    scanner->pass_merged = 0;
    scanner->pass_fresh = 0;
    scanner->pass_full = false;
    scanner->pass_resident = 0;
    note_all_gone(scanner);
    for (uint64_t first = 0; first < scanner->n_pages; first += MS_WINDOW) {
        if (ms_scanner_interrupted(scanner))
            break;
        ms_scan_looks(scanner);
        scan_window(scanner, first, window_at(scanner, first));
        ms_scanner_pay(scanner);
        ms_scan_hints(scanner);
    }
    scanner->known = true;
    ms_flush_offers(scanner);
    ms_merge_flush(scanner);
    note_all_gone(scanner);
    ms_repack(scanner);
    ms_leave_old(scanner);
    (void)ms_link_flush(&scanner->link);
}
