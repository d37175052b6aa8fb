/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest side inside: the scanner and what its files share.
 *
 *   scanner.c  life, the loop, calls from other threads      pages.c    what is known of each page
 *   scan.c     looking at pages: changed? equal to what?     pagemap.c  what the page tables say
 *   offers.c   what the pool is asked                        link.c     the pool's protocol
 *   blocks.c   which template block has this hash            budget.c, hints.c
 *   merge.c    runs: read, freeze, compare, remap            ledger.c   the true ledger
 *   repack.c   longer runs for old pages
 *
 * Everything is the scanner thread's alone unless it says otherwise. A freeze is never asked for
 * with a lock held, and no message is sent nor lock taken during one.
 */
#ifndef MS_SCANNER_H
#define MS_SCANNER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "memshare/budget.h"
#include "memshare/hints.h"
#include "memshare/link.h"
#include "memshare/memshare.h"
#include "memshare/pagemap.h"
#include "memshare/pages.h"
#include "memshare/view.h"

#define MS_WINDOW           1024u /* pages classified at a time */
#define MS_RUN_MAX          64u   /* pages of a run: one remap, so one step of a freeze */
#define MS_BATCH_RUNS       64u   /* runs prepared at a time */
#define MS_BATCH_PAGES      64u
#define MS_DEFAULT_MAPPINGS 40000u
#define MS_MAX_TOKENS       8u /* sockets of earlier connections kept open */

/* What a run is to become. */
enum ms_source {
    MS_FROM_ZERO,
    MS_FROM_LINEAGE,
    MS_FROM_TEMPLATE,
    MS_FROM_POOL,
    MS_FROM_SELF, /* the same bytes in memory of its own: it leaves an old pool */
};

struct ms_run {
    enum ms_source source;
    uint32_t n;
    uint64_t page;
    uint32_t index;   /* page of the memory image, template block, slot or page of its first page */
    uint8_t *content; /* [n] pages in the batch's buffer; NULL: slots of the pool, see view.h */
    uint64_t done;    /* bit i: page + i was remapped */
    bool again;       /* the pages are of the pool already; they get other slots */
};

struct ms_batch {
    uint32_t n;
    uint32_t pages, closed;               /* pages of all runs; of those that are complete */
    uint8_t *content;                     /* [MS_BATCH_PAGES + MS_RUN_MAX] pages */
    struct ms_run run[MS_BATCH_RUNS + 1]; /* the last one is still open */
};

/* Offers gathered during a pass. */
struct ms_offers {
    uint32_t n;
    struct ms_offer offer[MS_MAX_OFFER];
    uint32_t slot[MS_MAX_OFFER];
    uint32_t item[MS_MAX_PUBLISH];
    uint8_t (*page)[MS_PAGE_SIZE]; /* [MS_MAX_PUBLISH] copies to publish */
};

struct ms_scanner {
    struct ms_scanner_config config;
    uint8_t *ram;
    uint64_t n_pages;
    uint64_t zero_hash;
    struct ms_pages pages;
    struct ms_pagemap pagemap; /* any thread */
    struct ms_budget budget;
    struct ms_link link;
    struct ms_view view;   /* of the link's pool */
    pthread_t thread;      /* that runs the scanner */
    struct ms_hints hints; /* own lock */
    struct ms_batch batch;
    struct ms_offers offers;
    uint8_t window_class[MS_WINDOW];
    uint64_t tmpl_page,
        tmpl_block; /* the last template hit: the next page is likely the next block */

    int wake; /* eventfd: something changed, look at the flags */
    _Atomic bool stop;

    pthread_mutex_t connect_lock; /* guards the two below */
    int connect_sock, connect_pool_fd;
    _Atomic bool connect_wanted; /* the two above wait to be taken; read without the lock too */

    /* Sockets of connections whose pool we may still map: while they are open, that pool keeps our
     * references. Closed when no page of an old pool is mapped. */
    int token[MS_MAX_TOKENS];
    _Atomic uint32_t n_tokens;

    /* this pass */
    uint64_t pass_resident, pass_merged, pass_fresh;
    bool known; /* a pass has been over everything since the start */
    bool pass_splits;
    bool pass_full;      /* the pool had no room for a page of it */
    uint64_t leave_at;   /* the page where the next look for pages of old pools begins */
    uint64_t repack_at;  /* the page where the next look for short runs begins */
    uint64_t splits_own; /* memory of our own plus what was merged, when splits were looked for */
    uint64_t splits_ns, splits_cost_ns; /* when that was, and what it cost */
    uint64_t looked;                    /* pages another guest has too, since the last pass ended */
    unsigned quiet_passes;              /* in a row */
    uint64_t interval_ns;               /* until the next pass */
    uint64_t
        at_rest_ns;     /* the least time between passes and looks at rest; tests have less of it */
    uint64_t anonymous; /* pages of our own at the end of the last pass, roughly */

    /* since start; read by any thread */
    _Atomic uint64_t merges, splits, passes, hashed;
    _Atomic bool settled;
    _Atomic uint64_t freezes, longest_freeze_ns, repacked;
};

static inline uint8_t *ms_ram_page(const struct ms_scanner *scanner, uint64_t page)
{
    return scanner->ram + page * MS_PAGE_SIZE;
}

/* scanner.c: stop or a new connection is waiting: leave long work soon. */
bool ms_scanner_interrupted(void *opaque);
/* scanner.c: sleeps up to `ns`, less if something happens (with_link: also on the socket). */
void ms_scanner_sleep(struct ms_scanner *scanner, uint64_t ns, bool with_link);
/* scanner.c: charges the budget and sleeps off what is owed. */
void ms_scanner_pay(struct ms_scanner *scanner);

/* merge.c: maps fresh memory over pages of any kind, of one mapping with its neighbours. 0 or
 * -errno of mmap. Any thread. */
int ms_map_fresh(struct ms_scanner *scanner, uint64_t page, uint64_t n);
bool ms_is_zero_page(const void *page);
/* Adds a page that looks like it can be merged. The page must be our own memory, split, or of an
 * old pool. May merge what was gathered. */
void ms_merge_add(struct ms_scanner *scanner, enum ms_source source, uint64_t page, uint32_t index);
/* Merges what was gathered. */
void ms_merge_flush(struct ms_scanner *scanner);
/* Maps pages of the pool from the slots `slot`.. in place of those they are mapped from now, at
 * most MS_RUN_MAX. Returns which were, bit by bit; references are the caller's to give back. */
uint64_t ms_merge_again(struct ms_scanner *scanner, uint64_t page, uint32_t n, uint32_t slot);

/* leave.c: when the pool we are connected to has got all it takes of the pages of earlier ones, the
 * rest become memory of our own. */
void ms_leave_old(struct ms_scanner *scanner);

/* repack.c: gets longer runs for some pages whose mappings are short, if mappings are scarce. */
void ms_repack(struct ms_scanner *scanner);

/* blocks.c: a template block with this hash, best the one after the last found, so that runs stay
 * long; or MS_NO_BLOCK. */
#define MS_NO_BLOCK UINT64_MAX
uint64_t ms_find_block(struct ms_scanner *scanner, uint64_t page, uint64_t hash);

/* offers.c */
void ms_offer_page(struct ms_scanner *scanner, uint64_t page, uint64_t hash);
/* Makes the offers gathered, and merges what comes of them. */
void ms_flush_offers(struct ms_scanner *scanner);
/* The page is not what was offered any more: the pool forgets it. */
void ms_take_back(struct ms_scanner *scanner, uint64_t page);
/* May it be mapped anew without giving a reference back first? */
bool ms_still_mergeable(const struct ms_scanner *scanner, uint64_t page);

/* scan.c */
void ms_scan_pass(struct ms_scanner *scanner);
/* Takes note of discards, and of writes to merged pages if that is due; gives those references
 * back. */
void ms_scan_sweep(struct ms_scanner *scanner);
void ms_scan_hints(struct ms_scanner *scanner);
void ms_scan_looks(struct ms_scanner *scanner);

/* Nothing is ever owed then. */
static inline bool ms_is_unlimited(const struct ms_scanner *scanner)
{
    return atomic_load(&scanner->budget.percent) >= 100;
}

static inline uint64_t ms_max_mappings(const struct ms_scanner *scanner)
{
    return scanner->config.max_mappings ? scanner->config.max_mappings : MS_DEFAULT_MAPPINGS;
}

/* As ms_scanner_new, but with a choice for tests: with less help from the kernel. */
int ms_scanner_new_with(struct ms_scanner **ret_scanner, const struct ms_scanner_config *config,
                        enum ms_pagemap_allow allow);

#endif
