/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pool as the guest process sees it to compare its own pages with: a read-only mapping of the
 * store. Comparing against the store's own memory saves a copy of every page that is merged.
 *
 * Scanner thread only. The mapping may move when the store has grown, so addresses are asked for
 * anew, never kept.
 */
#ifndef MS_VIEW_H
#define MS_VIEW_H

#include <stdint.h>

struct ms_view {
    const uint8_t *at; /* NULL: nothing is mapped */
    uint64_t slots;    /* that the mapping has room for */
    uint64_t there;    /* that the file is known to have */
    uint64_t seen;     /* pages brought in since the last release */
};

/* Makes slots [slot, slot + n) of the pool `fd` readable, and brings them in, so that comparing
 * does not wait for it. 0; -EIO: the store has no such slots, or could shrink under us; -errno. */
int ms_view_bring(struct ms_view *view, int fd, uint32_t slot, uint32_t n);

/* The bytes of a slot that was brought in; until the next ms_view_bring(). */
const uint8_t *ms_view_at(const struct ms_view *view, uint32_t slot);

/* Lets go of what was brought in: what is not looked at should not count as mapped. */
void ms_view_release(struct ms_view *view);
void ms_view_close(struct ms_view *view);

#endif
