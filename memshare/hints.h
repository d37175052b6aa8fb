/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Template hints on their way from device threads to the scanner: a bounded ring under a small lock
 * of its own. When it is full new hints are lost; the scan finds those pages anyway.
 */
#ifndef MS_HINTS_H
#define MS_HINTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define MS_MAX_HINTS 4096u

struct ms_hint {
    uint64_t page;
    uint64_t block;
    uint64_t n;
};

struct ms_hints {
    pthread_mutex_t lock; /* guards everything below; nothing is called while it is held */
    uint32_t first, count;
    struct ms_hint hint[MS_MAX_HINTS];
};

void ms_hints_init(struct ms_hints *hints);
void ms_hints_destroy(struct ms_hints *hints);
/* Returns true if the ring was empty: the scanner may be asleep. */
bool ms_hints_put(struct ms_hints *hints, struct ms_hint hint);
bool ms_hints_waiting(struct ms_hints *hints);
bool ms_hints_get(struct ms_hints *hints, struct ms_hint *ret_hint);

#endif
