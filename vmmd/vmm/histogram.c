/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * histogram: see histogram.h. Values below 4 have a bucket each; above, the two bits behind the
 * highest one choose among the four of a power of two.
 */
#include "vmmd/vmm/histogram.h"

static unsigned bucket_of(uint64_t value)
{
    unsigned power;

    if (value < 4)
        return (unsigned)value;
    power = 63 - (unsigned)__builtin_clzll(value);
    return (power - 1) * 4 + (unsigned)(value >> (power - 2) & 3);
}

static uint64_t last_of(unsigned bucket)
{
    unsigned power = bucket / 4 + 1;

    if (bucket < 4)
        return bucket;
    /* The last bucket's end wraps to the largest value there is. */
    return ((uint64_t)(bucket % 4 + 5) << (power - 2)) - 1;
}

void histogram_add(struct histogram *h, uint64_t value)
{
    h->bucket[bucket_of(value)]++;
    h->count++;
    if (value > h->max)
        h->max = value;
}

uint64_t histogram_quantile(const struct histogram *h, uint64_t parts, uint64_t whole)
{
    uint64_t want = (h->count * parts + whole - 1) / whole, seen = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= want && seen > 0)
            return last_of(i) < h->max ? last_of(i) : h->max;
    }
    return 0;
}
