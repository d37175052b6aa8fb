/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ledger: a look at the page tables, by any thread, without a lock.
 *
 * What is present is the kernel's answer of this moment; `where` only tells which file a file's
 * page belongs to. While the scanner remaps, a page may be counted as what it was a moment before.
 */
#include "memshare/scanner.h"

#include <string.h>

static void count_page(struct ms_ledger *ledger, uint8_t class, uint32_t where)
{
    if (class == MS_OWN)
        ledger->private_ += MS_PAGE_SIZE;
    else if (class != MS_FILE)
        ledger->zero += MS_PAGE_SIZE;
    else if (ms_kind_of(where) == MS_TEMPLATE)
        ledger->template_ += MS_PAGE_SIZE;
    else if (ms_kind_of(where) == MS_LINEAGE)
        ledger->lineage += MS_PAGE_SIZE;
    else
        ledger->pool += MS_PAGE_SIZE;
}

void ms_scanner_counters(struct ms_scanner *scanner, struct ms_ledger *ret_ledger)
{
    *ret_ledger = (struct ms_ledger){
        .nominal = scanner->config.ram_bytes,
        .merges = atomic_load(&scanner->merges),
        .splits = atomic_load(&scanner->splits),
        .cpu_ns = atomic_load(&scanner->budget.spent_ns),
        .mappings = atomic_load(&scanner->pages.mappings),
        .mappings_skipped = atomic_load(&scanner->pages.n_skipped),
        .passes = atomic_load(&scanner->passes),
        .repacked = atomic_load(&scanner->repacked),
        .freezes = atomic_load(&scanner->freezes),
        .longest_freeze_ns = atomic_load(&scanner->longest_freeze_ns),
        .settled = atomic_load(&scanner->settled),
    };
}

int ms_scanner_ledger(struct ms_scanner *scanner, struct ms_ledger *ret_ledger)
{
    struct ms_ledger ledger;
    uint8_t class[MS_WINDOW];

    ms_scanner_counters(scanner, &ledger);
    for (uint64_t first = 0; first < scanner->n_pages; first += MS_WINDOW) {
        uint64_t n = scanner->n_pages - first < MS_WINDOW ? scanner->n_pages - first : MS_WINDOW;
        int r = ms_pagemap_classify(&scanner->pagemap, ms_ram_page(scanner, first), n, true, class);

        if (r < 0)
            return r;
        for (uint64_t i = 0; i < n; i++)
            count_page(&ledger, class[i] & MS_CLASS_MASK, ms_where(&scanner->pages, first + i));
    }
    ledger.resident = ledger.lineage + ledger.template_ + ledger.pool + ledger.private_;
    *ret_ledger = ledger;
    return 0;
}
