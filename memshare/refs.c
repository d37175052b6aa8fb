/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sparse counters: see refs.h. Plain data, one thread; numbers are bounded by the caller, so the
 * table of chunks is too.
 */
#include "memshare/refs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memshare/memshare.h"

void ms_refs_free(struct ms_refs *refs)
{
    for (uint32_t i = 0; i < refs->n_chunks; i++)
        free(refs->chunk[i]);
    free(refs->chunk);
    memset(refs, 0, sizeof(*refs));
}

uint32_t ms_refs_get(const struct ms_refs *refs, uint32_t number)
{
    uint32_t c = number / MS_REFS_CHUNK;

    if (c >= refs->n_chunks || !refs->chunk[c])
        return 0;
    return refs->chunk[c]->count[number % MS_REFS_CHUNK];
}

static struct ms_refs_chunk *chunk_for(struct ms_refs *refs, uint32_t number)
{
    uint32_t c = number / MS_REFS_CHUNK;

    if (c >= refs->n_chunks) {
        uint32_t want = (c + 1) + (c + 1) / 2;
        struct ms_refs_chunk **grown = realloc(refs->chunk, want * sizeof(*grown));

        if (!grown)
            return NULL;
        memset(grown + refs->n_chunks, 0, (want - refs->n_chunks) * sizeof(*grown));
        refs->bytes += (want - refs->n_chunks) * sizeof(*grown);
        refs->chunk = grown;
        refs->n_chunks = want;
    }
    if (!refs->chunk[c]) {
        refs->chunk[c] = calloc(1, sizeof(struct ms_refs_chunk));
        if (refs->chunk[c])
            refs->bytes += sizeof(struct ms_refs_chunk);
    }
    return refs->chunk[c];
}

int ms_refs_add(struct ms_refs *refs, uint32_t number)
{
    struct ms_refs_chunk *chunk = chunk_for(refs, number);
    uint32_t *count;

    if (!chunk)
        return -ENOMEM;
    count = &chunk->count[number % MS_REFS_CHUNK];
    if (*count == UINT32_MAX)
        return -EOVERFLOW;
    if ((*count)++ == 0)
        chunk->used++;
    refs->total++;
    return 0;
}

int ms_refs_sub(struct ms_refs *refs, uint32_t number)
{
    uint32_t c = number / MS_REFS_CHUNK;
    uint32_t *count;

    if (ms_refs_get(refs, number) == 0)
        return -ENOENT;
    count = &refs->chunk[c]->count[number % MS_REFS_CHUNK];
    refs->total--;
    if (--*count == 0 && --refs->chunk[c]->used == 0) {
        free(refs->chunk[c]);
        refs->chunk[c] = NULL;
        refs->bytes -= sizeof(struct ms_refs_chunk);
    }
    return 0;
}

uint64_t ms_refs_saved(const struct ms_refs *own,
                       uint32_t (*of)(const void *context, uint32_t number), const void *context)
{
    uint64_t saved = 0;

    for (uint32_t c = 0; c < own->n_chunks; c++) {
        const struct ms_refs_chunk *chunk = own->chunk[c];

        for (uint32_t i = 0; chunk && i < MS_REFS_CHUNK; i++) {
            uint64_t count = chunk->count[i];
            uint64_t all = count ? of(context, c * MS_REFS_CHUNK + i) : 0;

            if (all > 1)
                saved += count * MS_PAGE_SIZE * (all - 1) / all;
        }
    }
    return saved;
}
