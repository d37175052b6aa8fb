/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Included before every source file of the fuzzed image reader (-include): memory from the heap
 * holds a pattern that is nowhere else. Where it turns up in what a guest would read, or in the
 * image, bytes came from outside of the image. calloc() stays as it is: zeroes are no secret.
 */
#ifndef CANARY_H
#define CANARY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CANARY 0x9d3f61c8a5e7b24bull

static inline void canary_fill(void *data, size_t length)
{
    const uint64_t pattern = CANARY;
    uint8_t *p = data;

    for (size_t i = 0; i < length; i += sizeof(pattern))
        memcpy(p + i, &pattern, length - i < sizeof(pattern) ? length - i : sizeof(pattern));
}

static inline void *canary_malloc(size_t length)
{
    void *data = malloc(length);

    if (data)
        canary_fill(data, length);
    return data;
}

#define malloc(length) canary_malloc(length)

#endif
