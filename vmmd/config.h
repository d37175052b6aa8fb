/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config: vmmd.conf.
 */
#ifndef VMMD_CONFIG_H
#define VMMD_CONFIG_H

#include "vmmd/engine.h"
#include "vmmd/problem.h"

#include <stdbool.h>
#include <stdint.h>

#define MIB                 (UINT64_C(1) << 20)
#define GUEST_MEMORY_MIN    (32 * MIB)
#define SCAN_BUDGET_MAX     100u
#define MAX_GUESTS_LIMIT    4096u
#define START_TIMEOUT_LIMIT 3600u

struct config {
    unsigned scan_budget;    /* percent of one core per guest, 1..100 */
    uint64_t pool_max;       /* bytes of one share group's store; 0: half of the host */
    uint64_t default_memory; /* bytes */
    enum engine_choice default_engine;
    unsigned max_guests;
    unsigned start_timeout; /* seconds until a guest that does not start is given up */
};

void config_init(struct config *config); /* the defaults */

/* Reads `path` over the defaults. A missing file is an error only if `required`. On failure
 * *config is untouched and `problem` names file and line. */
int config_load(struct config *config, const char *path, bool required, struct problem *problem);

#endif
