/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Looking at pages: which changed, and what are they equal to? Scanner thread only.
 *
 * A pass goes over guest RAM window by window: the page tables say what is there, writes to merged
 * pages and discards are noted, and pages whose turn it is are hashed. A page of zeros or of the
 * pool must have looked the same twice; a template block goes at once, because a page just read
 * from disk is the best candidate there is. Pages that changed are left alone longer and longer.
 * Offers to the pool are gathered over windows and made in one message.
 */
#include "memshare/scanner.h"

#include <string.h>

#include "memshare/ms-hash.h"

#define NO_BLOCK  UINT64_MAX
#define PAY_EVERY 128 /* pages hashed between two looks at the budget */

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

/* Classifies a window and notes splits; afterwards MS_OWN pages may be merged. */
static int look_at_tables(struct ms_scanner *scanner, uint64_t first, uint64_t n)
{
    int r = ms_pagemap_classify(&scanner->pagemap, ms_ram_page(scanner, first), n,
                                scanner->window_class);

    if (r < 0)
        return r;
    for (uint64_t i = 0; i < n; i++) {
        if (scanner->window_class[i] == MS_OWN)
            note_split(scanner, first + i);
    }
    return 0;
}

static uint64_t window_at(const struct ms_scanner *scanner, uint64_t first)
{
    return scanner->n_pages - first < MS_WINDOW ? scanner->n_pages - first : MS_WINDOW;
}

void ms_scan_sweep(struct ms_scanner *scanner, bool with_tables)
{
    note_all_gone(scanner);
    for (uint64_t first = 0; with_tables && scanner->pages.n_shared && first < scanner->n_pages;
         first += MS_WINDOW)
        if (look_at_tables(scanner, first, window_at(scanner, first)) < 0)
            break;
    (void)ms_link_flush(&scanner->link);
}

/* ---- the template ---- */

/* First place in by_hash whose hash is not below `hash`. Hashes are spread evenly, so a few guesses
 * by proportion come close; halving finishes, whatever the distribution. */
static uint64_t lower_bound(const struct ms_template *tmpl, uint64_t hash)
{
    uint64_t low = 0, high = tmpl->n_blocks;

    for (int step = 0; low < high; step++) {
        uint64_t middle = low + (high - low) / 2;

        if (step == 0 && high > 64) {
            middle = (uint64_t)(((unsigned __int128)hash * high) >> 64);
        } else if (step < 4 && high - low > 64) {
            uint64_t at_low = tmpl->hash[tmpl->by_hash[low]];
            uint64_t at_high = tmpl->hash[tmpl->by_hash[high - 1]];

            if (hash > at_low && hash < at_high)
                middle = low + (uint64_t)((unsigned __int128)(hash - at_low) * (high - 1 - low) /
                                          (at_high - at_low));
        }
        if (tmpl->hash[tmpl->by_hash[middle]] < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A block with this hash, best the one after the last block found, so that runs stay long. */
static uint64_t find_block(struct ms_scanner *scanner, uint64_t page, uint64_t hash)
{
    const struct ms_template *tmpl = &scanner->config.tmpl;
    uint64_t next = scanner->tmpl_block + (page - scanner->tmpl_page);
    uint64_t block = NO_BLOCK;
    uint64_t at;

    if (tmpl->fd < 0 || !tmpl->n_blocks)
        return NO_BLOCK;
    if (page > scanner->tmpl_page && next < tmpl->n_blocks && tmpl->hash[next] == hash) {
        block = next;
    } else {
        at = lower_bound(tmpl, hash);
        if (at < tmpl->n_blocks && tmpl->hash[tmpl->by_hash[at]] == hash)
            block = tmpl->by_hash[at];
    }
    if (block == NO_BLOCK || block >= MS_MAX_INDEX)
        return NO_BLOCK;
    scanner->tmpl_page = page;
    scanner->tmpl_block = block;
    return block;
}

/* ---- the pool ---- */

static bool still_mergeable(const struct ms_scanner *scanner, uint64_t page)
{
    return ms_is_mergeable(ms_where(&scanner->pages, page));
}

/* Sends copies of pages [0, n) gathered in offers->page. */
static int publish(struct ms_scanner *scanner, uint32_t n)
{
    struct ms_offers *offers = &scanner->offers;
    uint32_t slot[MS_MAX_PUBLISH];
    int r = ms_link_publish(&scanner->link, offers->item, offers->page, n, slot);

    for (uint32_t i = 0; r == 0 && i < n; i++)
        offers->slot[offers->item[i]] = slot[i];
    return r;
}

/* Sends the pages the daemon asked for. Copied first and hashed again: one that changed meanwhile
 * is not what was asked for, and to send it would be a lie. */
static int publish_wanted(struct ms_scanner *scanner)
{
    struct ms_offers *offers = &scanner->offers;
    uint32_t n = 0;
    int r = 0;

    for (uint32_t i = 0; i < offers->n && r == 0; i++) {
        if (offers->slot[i] != MS_SLOT_PUBLISH)
            continue;
        offers->slot[i] = MS_SLOT_UNIQUE;
        memcpy(offers->page[n], ms_ram_page(scanner, offers->offer[i].page), MS_PAGE_SIZE);
        if (ms_hash_page(offers->page[n]) != offers->offer[i].hash)
            continue;
        offers->item[n++] = i;
        if (n == MS_MAX_PUBLISH) {
            r = publish(scanner, n);
            n = 0;
        }
    }
    return r == 0 && n ? publish(scanner, n) : r;
}

static void flush_offers(struct ms_scanner *scanner)
{
    struct ms_offers *offers = &scanner->offers;
    uint32_t n = offers->n;
    int r;

    if (!n)
        return;
    r = ms_link_offer(&scanner->link, offers->offer, n, offers->slot);
    if (r == 0)
        r = publish_wanted(scanner);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        uint32_t page = offers->offer[i].page;

        if (offers->slot[i] > MS_MAX_INDEX)
            ms_pages_back_off(&scanner->pages, page, MS_BACKOFF_IDLE);
        else if (still_mergeable(scanner, page))
            ms_merge_add(scanner, MS_FROM_POOL, page, offers->slot[i]);
        else
            ms_link_drop(&scanner->link, offers->slot[i]);
    }
    offers->n = 0;
    ms_merge_flush(scanner);
}

static void offer(struct ms_scanner *scanner, uint64_t page, uint64_t hash)
{
    struct ms_offers *offers = &scanner->offers;

    if (!ms_link_is_up(&scanner->link)) {
        ms_pages_back_off(&scanner->pages, page, MS_BACKOFF_IDLE);
        return;
    }
    offers->offer[offers->n++] = (struct ms_offer){.hash = hash, .page = (uint32_t)page};
    if (offers->n == MS_MAX_OFFER)
        flush_offers(scanner);
}

/* ---- one page ---- */

enum stability { FRESH, CHANGED, STABLE };

static enum stability remember(struct ms_scanner *scanner, uint64_t page, uint64_t hash)
{
    uint32_t now = (uint32_t)(hash ^ hash >> 32);
    uint32_t before = scanner->pages.seen[page];

    if (now == 0)
        now = 1;
    scanner->pages.seen[page] = now;
    if (before == 0)
        return FRESH;
    return before == now ? STABLE : CHANGED;
}

static void look_at_page(struct ms_scanner *scanner, uint64_t page)
{
    uint64_t hash = ms_hash_page(ms_ram_page(scanner, page));
    enum stability stability = remember(scanner, page, hash);
    bool is_zero = hash == scanner->zero_hash && ms_is_zero_page(ms_ram_page(scanner, page));
    uint64_t block = is_zero ? NO_BLOCK : find_block(scanner, page, hash);

    if (block != NO_BLOCK)
        ms_merge_add(scanner, MS_FROM_TEMPLATE, page, (uint32_t)block);
    else if (stability == FRESH)
        scanner->pass_fresh++;
    else if (stability == CHANGED)
        ms_pages_back_off(&scanner->pages, page, MS_BACKOFF_MAX);
    else if (is_zero)
        ms_merge_add(scanner, MS_FROM_ZERO, page, 0);
    else
        offer(scanner, page, hash);
}

/* Our own memory; or, after a change of the connection, pages of the old pool. */
static bool is_candidate(const struct ms_scanner *scanner, uint64_t page, uint8_t class)
{
    return class == MS_OWN ||
           (class == MS_FILE && ms_kind_of(ms_where(&scanner->pages, page)) == MS_OLD);
}

/* ---- hints and passes ---- */

static void scan_hint(struct ms_scanner *scanner, uint64_t page, uint64_t block, uint64_t n)
{
    if (look_at_tables(scanner, page, n) < 0)
        return;
    for (uint64_t i = 0; i < n; i++) {
        if (!is_candidate(scanner, page + i, scanner->window_class[i]))
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

/* Another guest has these pages too, the daemon says. */
static void scan_look(struct ms_scanner *scanner, uint32_t page, uint32_t n)
{
    if (look_at_tables(scanner, page, n) < 0)
        return;
    for (uint32_t i = 0; i < n; i++)
        if (is_candidate(scanner, page + i, scanner->window_class[i]))
            look_at_page(scanner, page + i);
}

/* They come at once, whatever their backoff. Unless they make a run too short to be merged: two
 * guests would call each other for ever. */
void ms_scan_looks(struct ms_scanner *scanner)
{
    uint32_t shortest = ms_merge_shortest_run(scanner);
    uint32_t page[MS_MAX_LOOK], count;

    (void)ms_link_poll(&scanner->link);
    count = ms_link_take_look(&scanner->link, page);
    for (uint32_t i = 0; i < count;) {
        uint32_t n = 1;

        while (i + n < count && page[i + n] == page[i] + n)
            n++;
        if (n >= shortest && page[i] < scanner->n_pages && n <= scanner->n_pages - page[i]) {
            scan_look(scanner, page[i], n);
            scanner->looked += n;
        }
        i += n;
    }
    if (count) {
        flush_offers(scanner);
        ms_merge_flush(scanner);
    }
}

static void scan_window(struct ms_scanner *scanner, uint64_t first, uint64_t n)
{
    uint64_t pass = atomic_load(&scanner->passes);
    unsigned looked = 0;

    if (look_at_tables(scanner, first, n) < 0)
        return;
    for (uint64_t i = 0; i < n; i++) {
        uint8_t class = scanner->window_class[i];
        bool candidate = is_candidate(scanner, first + i, class);

        scanner->pass_resident += class == MS_OWN || class == MS_FILE;
        if (candidate && !ms_pages_due(&scanner->pages, first + i, pass))
            continue;
        ms_pages_set_skipped(&scanner->pages, first + i, false);
        if (!candidate)
            continue;
        look_at_page(scanner, first + i);
        if (++looked % PAY_EVERY == 0)
            ms_scanner_pay(scanner);
    }
}

void ms_scan_pass(struct ms_scanner *scanner)
{
    scanner->pass_merged = 0;
    scanner->pass_fresh = 0;
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
    flush_offers(scanner);
    ms_merge_flush(scanner);
    note_all_gone(scanner);
    (void)ms_link_flush(&scanner->link);
}
