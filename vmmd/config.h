/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config: vmmd.conf.
 */
#ifndef VMMD_CONFIG_H
#define VMMD_CONFIG_H

#include "memshare/memshare.h"
#include "vmmd/engine.h"
#include "vmmd/name.h"
#include "vmmd/problem.h"

#include <stdbool.h>
#include <stdint.h>

#define MIB                 (UINT64_C(1) << 20)
#define GUEST_MEMORY_MIN    (32 * MIB)
#define SCAN_BUDGET_MAX     100u
#define MAX_GUESTS_LIMIT    4096u
#define START_TIMEOUT_LIMIT 3600u

#define HOST_ROOT_MAX 256
#define GROUPS_MAX    64u /* share groups with settings of their own */

/* How much memory must be available: a part of all there is, or so many bytes. */
struct pressure_limit {
    unsigned percent;
    uint64_t bytes; /* 0: percent counts */
};

struct pressure_config {
    struct pressure_limit low, critical;
    unsigned storm_reserve; /* percent of what sharing saves that is kept available, too */
    bool pause_guests;
    unsigned pause_interval; /* ms between two of them; not in the file */
};

struct group_config {
    char name[NAME_LENGTH_MAX + 1];
    enum ms_timing timing;
};

enum raise_choice { RAISE_AUTO, RAISE_YES, RAISE_NO };

struct config {
    unsigned scan_budget;    /* percent of one core per guest, 1..100 */
    uint64_t pool_max;       /* bytes of one share group's store; 0: half of the host */
    uint64_t default_memory; /* bytes */
    enum engine_choice default_engine;
    enum cpu_model cpu_model; /* of guests of the KVM engine */
    unsigned max_guests;
    unsigned start_timeout; /* seconds until a guest that does not start is given up */
    struct pressure_config pressure;
    enum raise_choice raise_max_map_count;
    enum ms_timing timing; /* of groups that are not among these: */
    struct group_config groups[GROUPS_MAX];
    unsigned n_groups;
    char host_root[HOST_ROOT_MAX]; /* before /proc, /sys and /dev/kvm; for tests */
    bool session;                  /* told by the command line, not by the file */
};

void config_init(struct config *config); /* the defaults */

/* Reads `path` over the defaults. A missing file is an error only if `required`. On failure
 * *config is untouched and `problem` names file and line. */
int config_load(struct config *config, const char *path, bool required, struct problem *problem);

/* Whether a share group hides by whom a page is shared. */
enum ms_timing config_timing(const struct config *config, const char *group);

#endif
