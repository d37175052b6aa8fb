/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mapcount: vm.max_map_count, which limits how finely the memory of a guest can be shared: each
 * run of shared pages is a mapping of its own.
 */
#ifndef VMMD_MAPCOUNT_H
#define VMMD_MAPCOUNT_H

#include "vmmd/config.h"

#define MAP_COUNT_WANTED 1048576u /* where a guest of some GiB does not run out of mappings */

/* Reads it, raises it if the settings and the kernel let it, says in the log what it did or what
 * should be done. Returns how many mappings one guest may use for its RAM. */
uint64_t mapcount_settle(const struct config *config);

#endif
