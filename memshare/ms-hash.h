/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page hash. A hint, never proof: whoever acts on it compares the bytes.
 *
 * MS_WEAK_HASH (a build variant of the tests) cuts it to four bits, so that everything collides.
 */
#ifndef MS_HASH_H
#define MS_HASH_H

#include <stdint.h>

#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h> /* the widest vectors of this processor */
#endif

#include "memshare/memshare.h"

static inline uint64_t ms_hash_page(const void *page)
{
    uint64_t hash = XXH3_64bits(page, MS_PAGE_SIZE);

#if defined(__x86_64__)
    /* It leaves the upper halves of vector registers in use, and all older code slow. */
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vzeroupper");
#endif
#ifdef MS_WEAK_HASH
    hash &= 0xf;
#endif
    return hash;
}

#endif
