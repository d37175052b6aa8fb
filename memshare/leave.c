/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leaving the pools of earlier connections. Scanner thread only.
 *
 * Their daemon is gone, so nobody can free a slot of theirs: their memory returns only when nobody
 * maps any of it. Pages that others have too move to the new pool, like any page. What is left when
 * there is nothing more to be merged is ours alone, or changes too often: it becomes memory of our
 * own, some of it each pass. Not while the new pool is full: what others still share there would
 * take more memory than before.
 */
#include "memshare/scanner.h"

#define LEAVE_MANY 2048u /* pages in one pass: 8 MiB, which the old pool cannot give back yet */

void ms_leave_old(struct ms_scanner *scanner)
{
    uint64_t page = scanner->leave_at;
    unsigned many = 0;

    if (!scanner->pages.n_old || !scanner->quiet_passes || scanner->pass_full ||
        !ms_link_is_up(&scanner->link))
        return;
    for (uint64_t looked = 0; looked < scanner->n_pages && many < LEAVE_MANY; looked++) {
        if (page >= scanner->n_pages)
            page = 0;
        if (ms_kind_of(ms_where(&scanner->pages, page)) == MS_OLD) {
            ms_merge_add(scanner, MS_FROM_SELF, page, (uint32_t)page);
            many++;
        }
        page++;
    }
    ms_merge_flush(scanner);
    scanner->leave_at = page;
}
