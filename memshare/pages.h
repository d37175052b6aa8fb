/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the scanner knows of each page of guest RAM, about thirteen bytes a page.
 *
 * where: what is mapped there (kind and place). Written by the scanner thread only, and where a
 * mapping changes only while the guest is frozen, so a discard (which never runs during a freeze)
 * may trust it. A page whose mapping is not MS_ANON may still hold a page of our own, after a
 * write: MS_SPLIT is set once the scanner has seen that and given the reference back.
 * gone: a bit per page, set by discard after it has mapped anonymous memory there, cleared by the
 * scanner thread when it has taken note.
 */
#ifndef MS_PAGES_H
#define MS_PAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "memshare/ms-proto.h"

enum ms_kind {
    MS_ANON,
    MS_LINEAGE,  /* the parent's memory image */
    MS_TEMPLATE, /* the template's disk */
    MS_POOL,     /* the pool we are connected to */
    MS_OLD,      /* a pool of an earlier connection */
};

#define MS_KIND_SHIFT   (MS_INDEX_BITS + 1)
#define MS_SPLIT        (1u << MS_INDEX_BITS)
#define MS_TURN         64u   /* pages that have their turn in the same passes */
#define MS_SKIPPED      0x80u /* first page of a run not merged for want of a mapping */
#define MS_HINTED       0x40u /* offered, and the pool knows of nobody else: hash[] is what it was */
#define MS_ARMED        0x20u /* tracked, and to be looked at if it was not written since */
#define MS_DONE         0x10u /* looked at since it was armed: nothing to do until it is written */
#define MS_HASHED       0x08u /* tracked, and not written since hash[] was taken */
#define MS_BACKOFF_MASK 0x07u
#define MS_BACKOFF_MAX  6 /* a page is looked at every 2^6 passes at least */
#define MS_BACKOFF_NEWS 3 /* a page that was written and is backed off less is news */
#define MS_BACKOFF_IDLE 3 /* a page that nobody else has: every 2^3 passes */

struct ms_pages {
    uint64_t n;
    _Atomic uint32_t *where;
    uint64_t *hash; /* 0: never looked at; else the hash then, never 0 */
    uint8_t *state; /* looked at every 2^backoff passes (the low bits), and flags */
    _Atomic uint64_t *gone;
    _Atomic uint64_t mappings;  /* VMAs, as far as they follow from `where` */
    uint64_t n_shared;          /* pages whose kind is not MS_ANON */
    uint64_t n_old;             /* pages whose kind is MS_OLD */
    _Atomic uint64_t n_skipped; /* pages with MS_SKIPPED */
};

int ms_pages_init(struct ms_pages *pages, uint64_t n);
void ms_pages_free(struct ms_pages *pages);

static inline uint32_t ms_where(const struct ms_pages *pages, uint64_t page)
{
    return atomic_load_explicit(&pages->where[page], memory_order_acquire);
}

static inline enum ms_kind ms_kind_of(uint32_t where)
{
    return (enum ms_kind)(where >> MS_KIND_SHIFT);
}

static inline uint32_t ms_index_of(uint32_t where)
{
    return where & MS_MAX_INDEX;
}

/* May it be mapped anew without giving a reference back first? */
static inline bool ms_is_mergeable(uint32_t where)
{
    return ms_kind_of(where) == MS_ANON || ms_kind_of(where) == MS_OLD || (where & MS_SPLIT);
}

/* Is it known to be memory of our own, if it is there? */
static inline bool ms_is_private(uint32_t where)
{
    return ms_kind_of(where) == MS_ANON || (where & MS_SPLIT);
}

static inline bool ms_is_gone(const struct ms_pages *pages, uint64_t page)
{
    return atomic_load_explicit(&pages->gone[page / 64], memory_order_acquire) >> (page % 64) & 1;
}

/* Notes that [page, page + n) is mapped from index.. of kind now; keeps the count of mappings. */
void ms_pages_set(struct ms_pages *pages, uint64_t page, uint64_t n, enum ms_kind kind,
                  uint32_t index);
void ms_pages_set_split(struct ms_pages *pages, uint64_t page);
/* How many mappings more (or fewer) there were if it were set so. */
int64_t ms_pages_delta(const struct ms_pages *pages, uint64_t page, uint64_t n, enum ms_kind kind,
                       uint32_t index);
/* The connection changed: pool pages are pages of an old pool now. */
void ms_pages_pool_to_old(struct ms_pages *pages);
/* Every page is worth a look again; what is known of its content stays. */
void ms_pages_forget_state(struct ms_pages *pages);

static inline unsigned ms_backoff(const struct ms_pages *pages, uint64_t page)
{
    return pages->state[page] & MS_BACKOFF_MASK;
}

static inline void ms_pages_clear(struct ms_pages *pages, uint64_t page, unsigned flags)
{
    pages->state[page] &= (uint8_t)~flags;
}

/* Is it the page's turn in this pass? Work is spread over the passes, but neighbours come together,
 * or runs would be torn apart. */
static inline bool ms_pages_due(const struct ms_pages *pages, uint64_t page, uint64_t pass)
{
    uint64_t mask = ((uint64_t)1 << ms_backoff(pages, page)) - 1;

    return ((page / MS_TURN ^ pass) & mask) == 0;
}

static inline void ms_pages_set_backoff(struct ms_pages *pages, uint64_t page, unsigned backoff)
{
    pages->state[page] = (uint8_t)((pages->state[page] & ~MS_BACKOFF_MASK) | backoff);
}

static inline void ms_pages_back_off(struct ms_pages *pages, uint64_t page, unsigned max)
{
    unsigned backoff = ms_backoff(pages, page);

    ms_pages_set_backoff(pages, page, backoff < max ? backoff + 1 : max);
}

static inline void ms_pages_set_skipped(struct ms_pages *pages, uint64_t page, bool skipped)
{
    if (!(pages->state[page] & MS_SKIPPED) == !skipped)
        return;
    pages->state[page] ^= MS_SKIPPED;
    atomic_fetch_add(&pages->n_skipped, skipped ? 1 : UINT64_MAX);
}

#endif
