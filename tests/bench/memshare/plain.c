/* SPDX-License-Identifier: GPL-2.0-or-later */
/* XXH3 as the library has it: in a file of its own, so that no inlined variant takes its place. */
#include <xxhash.h>

#include "tests/bench/memshare/bench.h"

uint64_t plain_hash(const void *page)
{
    return XXH3_64bits(page, MS_PAGE_SIZE);
}
