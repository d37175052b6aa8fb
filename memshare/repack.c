/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Longer runs for pages that are in the pool already. Scanner thread only.
 *
 * Where guests come and go the store is not in the order any of them would like, and neighbours of
 * a guest end up in slots far apart, each a mapping of its own. When more than half of the mappings
 * are used, stretches of pool pages in short runs are looked for, and the daemon is asked for a row
 * of slots with their content. It refuses if others share too many of them. A few stretches a pass,
 * beginning where the last look ended.
 */
#include "memshare/scanner.h"

#define STRETCH_MIN  8u  /* pages */
#define RUN_SHORT    3u  /* pages of a run, on average, below which it is worth it */
#define STRETCH_MANY 64u /* in one pass */

struct stretch {
    uint64_t page;
    uint32_t n;
    uint32_t runs;
    uint32_t slot[MS_MAX_REPACK];
};

/* The pool pages from `page` on, which is one. */
static void find_stretch(const struct ms_scanner *scanner, uint64_t page, struct stretch *stretch)
{
    stretch->page = page;
    stretch->n = 0;
    stretch->runs = 0;
    for (; page < scanner->n_pages && stretch->n < MS_MAX_REPACK; page++) {
        uint32_t where = ms_where(&scanner->pages, page);

        if (ms_kind_of(where) != MS_POOL || (where & MS_SPLIT))
            break;
        stretch->slot[stretch->n] = ms_index_of(where);
        if (stretch->n == 0 || stretch->slot[stretch->n] != stretch->slot[stretch->n - 1] + 1)
            stretch->runs++;
        stretch->n++;
    }
}

/* Every reference that is not in use at the end is given back: of the old slots or of the new. */
static int repack_stretch(struct ms_scanner *scanner, const struct stretch *stretch)
{
    uint32_t slot[MS_MAX_REPACK];
    uint64_t done;
    int r = ms_link_repack(&scanner->link, stretch->slot, stretch->n, slot);

    if (r < 0 || slot[0] > MS_MAX_INDEX)
        return r;
    done = ms_merge_again(scanner, stretch->page, stretch->n, slot[0]);
    for (uint32_t i = 0; i < stretch->n; i++) {
        uint32_t where = ms_where(&scanner->pages, stretch->page + i);

        if (!(done >> i & 1))
            ms_link_drop(&scanner->link, slot[i]);
        /* not there any more either, if it could not be mapped and is memory of its own now */
        if (done >> i & 1 || ms_kind_of(where) != MS_POOL)
            ms_link_drop(&scanner->link, stretch->slot[i]);
    }
    atomic_fetch_add(&scanner->repacked, (uint64_t)__builtin_popcountll(done));
    return 0;
}

static bool is_scarce(const struct ms_scanner *scanner)
{
    return atomic_load(&scanner->pages.mappings) > ms_max_mappings(scanner) / 2;
}

void ms_repack(struct ms_scanner *scanner)
{
    struct stretch stretch;
    uint64_t looked = 0, page = scanner->repack_at;

    if (!is_scarce(scanner) || !ms_link_is_up(&scanner->link))
        return;
    for (unsigned many = 0; looked < scanner->n_pages && many < STRETCH_MANY;) {
        if (page >= scanner->n_pages)
            page = 0;
        find_stretch(scanner, page, &stretch);
        looked += stretch.n ? stretch.n : 1;
        page += stretch.n ? stretch.n : 1;
        if (stretch.n < STRETCH_MIN || stretch.n >= stretch.runs * RUN_SHORT)
            continue;
        if (ms_scanner_interrupted(scanner) || repack_stretch(scanner, &stretch) < 0)
            break;
        many++;
        ms_scanner_pay(scanner);
    }
    scanner->repack_at = page;
}
