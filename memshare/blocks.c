/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which block of the template has this hash? Scanner thread only. The hashes were sorted at import,
 * so nothing is built and nothing copied: all guests search the same pages of one file.
 */
#include "memshare/scanner.h"

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
uint64_t ms_find_block(struct ms_scanner *scanner, uint64_t page, uint64_t hash)
{
    const struct ms_template *tmpl = &scanner->config.tmpl;
    uint64_t next = scanner->tmpl_block + (page - scanner->tmpl_page);
    uint64_t block = MS_NO_BLOCK;
    uint64_t at;

    if (tmpl->fd < 0 || !tmpl->n_blocks)
        return MS_NO_BLOCK;
    if (page > scanner->tmpl_page && next < tmpl->n_blocks && tmpl->hash[next] == hash) {
        block = next;
    } else {
        at = lower_bound(tmpl, hash);
        if (at < tmpl->n_blocks && tmpl->hash[tmpl->by_hash[at]] == hash)
            block = tmpl->by_hash[at];
    }
    if (block == MS_NO_BLOCK || block >= MS_MAX_INDEX)
        return MS_NO_BLOCK;
    scanner->tmpl_page = page;
    scanner->tmpl_block = block;
    return block;
}
