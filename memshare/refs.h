/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counters by number, sparse: chunks exist only where a counter is not zero. Used per client (how
 * often does it map slot N, template block N) and per template (how often do all clients).
 */
#ifndef MS_REFS_H
#define MS_REFS_H

#include <stddef.h>
#include <stdint.h>

#define MS_REFS_CHUNK 1024u

struct ms_refs_chunk {
    uint32_t used; /* counters that are not zero */
    uint32_t count[MS_REFS_CHUNK];
};

struct ms_refs {
    struct ms_refs_chunk **chunk;
    uint32_t n_chunks;
    uint64_t total; /* sum of all counters */
    size_t bytes;   /* memory of the chunks */
};

void ms_refs_free(struct ms_refs *refs);
uint32_t ms_refs_get(const struct ms_refs *refs, uint32_t number);
/* 0, -ENOMEM, or -EOVERFLOW: the counter is full. */
int ms_refs_add(struct ms_refs *refs, uint32_t number);
/* 0, or -ENOENT: the counter is zero. */
int ms_refs_sub(struct ms_refs *refs, uint32_t number);

/* Bytes saved by the holder of `own` when each page counts 1/n: n is what of(number) says. */
uint64_t ms_refs_saved(const struct ms_refs *own,
                       uint32_t (*of)(const void *context, uint32_t number), const void *context);

#endif
