/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * features: what of the host's kernel vmmd makes use of, and what each missing one costs.
 */
#ifndef VMMD_FEATURES_H
#define VMMD_FEATURES_H

#include "vmmd/cpu.h"

#include <stdbool.h>
#include <stdint.h>

#define FEATURES_MAX 8

struct feature {
    const char *name;
    char value[48];   /* "yes", "no", a number */
    bool good;        /* as vmmd would like it */
    const char *cost; /* what it costs that it is not; "" if it is good */
};

struct features {
    struct feature item[FEATURES_MAX];
    unsigned n;
};

/* Looks at the kernel and at files below `root`. `max_mappings`: of the RAM of one guest. */
void features_find(struct features *ret, const char *root, uint64_t max_mappings,
                   const struct cpu_control *cpu);

#endif
