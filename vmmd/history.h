/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * history: the last hour of a guest's memory, or of all guests', in a ring of samples. In memory
 * only: it begins anew with the daemon.
 */
#ifndef VMMD_HISTORY_H
#define VMMD_HISTORY_H

#include <stdint.h>

#define HISTORY_SECONDS 10 /* between two samples */
#define HISTORY_SAMPLES 360

struct daemon;

struct history_sample {
    uint64_t time;     /* microseconds since the epoch, whole seconds */
    uint64_t resident; /* bytes, whole pages */
    uint64_t saved;
    uint64_t cpu_ns; /* in the time since the sample before: of the scanner, whole microseconds */
    uint64_t merges, splits;
};

/* Counters as they were at the last sample. */
struct history_counters {
    uint64_t cpu_ns, merges, splits;
};

struct history_entry;

/* Zeroed: empty. Memory is taken with the first sample. */
struct history {
    struct history_entry *ring;
    unsigned first, n;
};

/* Values too large for an entry are kept as the largest; without memory nothing is kept. */
void history_add(struct history *history, const struct history_sample *sample);
/* Number i from 0, the oldest, to history->n - 1. */
struct history_sample history_get(const struct history *history, unsigned i);
void history_free(struct history *history);

/* Takes one sample of each guest that is up, and one of all together. */
void history_tick(struct daemon *daemon, uint64_t now);

#endif
