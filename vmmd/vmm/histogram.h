/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * histogram: how long something took, each time, in little memory: four buckets per power of two,
 * so that a quantile is at most a quarter too large. The caller's lock guards it.
 */
#ifndef VMM_HISTOGRAM_H
#define VMM_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_BUCKETS 252u

struct histogram {
    uint64_t count, max;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t value);
/* The smallest bound known of which at least `parts` of `whole` values are no larger; 0 if there is
 * no value. */
uint64_t histogram_quantile(const struct histogram *h, uint64_t parts, uint64_t whole);

#endif
