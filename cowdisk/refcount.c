/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One refcount in a refcount block: 1 << order bits wide, from 1 to 64. Those narrower than a byte
 * fill it from its lowest bit on.
 */
#include "cowdisk/internal.h"

uint64_t cow_count_get(const uint8_t *block, unsigned order, uint64_t i)
{
    unsigned bytes = 1u << order >> 3;
    uint64_t v = 0;

    if (order < 3) {
        uint64_t bit = i << order;
        return block[bit / 8] >> (bit % 8) & ((1u << (1u << order)) - 1);
    }
    for (unsigned k = 0; k < bytes; k++)
        v = v << 8 | block[i * bytes + k];
    return v;
}

bool cow_count_put(uint8_t *block, unsigned order, uint64_t i, uint64_t count)
{
    unsigned bits = 1u << order, bytes = bits / 8;

    if (bits < 64 && count >> bits)
        return false;
    if (order < 3) {
        uint64_t bit = i << order;
        unsigned mask = ((1u << bits) - 1) << (bit % 8);
        block[bit / 8] = (uint8_t)((block[bit / 8] & ~mask) | count << (bit % 8));
        return true;
    }
    for (unsigned k = bytes; k-- > 0; count >>= 8)
        block[i * bytes + k] = (uint8_t)count;
    return true;
}
