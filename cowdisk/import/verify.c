/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd-import --verify: compares the disk of a template with its hashes. Changes nothing.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define NAMED 5u /* damaged blocks that are told by their offsets */

struct verify {
    struct import *import;
    uint64_t n_damaged;
    char offsets[160];
};

static void on_damaged(void *opaque, uint64_t offset)
{
    struct verify *v = opaque;
    size_t used = strlen(v->offsets);

    if (v->n_damaged++ < NAMED)
        snprintf(v->offsets + used, sizeof(v->offsets) - used, "%s%llu", used ? ", " : "",
                 (unsigned long long)offset);
}

static int on_progress(void *opaque, uint64_t done, uint64_t total)
{
    struct import *import = ((struct verify *)opaque)->import;

    import->total = total;
    return import_progress(import, done);
}

static void tell_damage(const struct verify *v, uint64_t n_blocks)
{
    v->import->damaged = true;
    snprintf(v->import->error.text, sizeof(v->import->error.text),
             "%llu of %llu blocks are damaged, at byte %s%s", (unsigned long long)v->n_damaged,
             (unsigned long long)n_blocks, v->offsets, v->n_damaged > NAMED ? ", ..." : "");
}

int import_verify(struct import *import)
{
    struct verify v = {.import = import};
    int r = import_map_hashes(import);

    if (r < 0)
        return r;
    r = cow_hashes_verify(FD_SOURCE, &import->hashes, on_damaged, on_progress, &v);
    if (r == -EILSEQ)
        tell_damage(&v, import->hashes.n_blocks);
    else if (r < 0)
        snprintf(import->error.text, sizeof(import->error.text), "reading the disk: %s",
                 strerror(-r));
    cow_hashes_unmap(&import->hashes);
    return r;
}
