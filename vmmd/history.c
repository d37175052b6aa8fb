/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * history: the ring, and the taking of samples.
 *
 * An entry is 24 bytes, so that an hour of a guest is less than 9 KiB. Samples are made from the
 * last report of a guest process: nobody is asked for one.
 */
#include "vmmd/history.h"
#include "vmmd/guest.h"

#include <stdlib.h>

#define PAGE_BYTES 4096u

struct history_entry {
    uint32_t time;            /* seconds */
    uint32_t resident, saved; /* pages */
    uint32_t cpu;             /* microseconds */
    uint32_t merges, splits;
};

static uint32_t fit(uint64_t value)
{
    return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

void history_add(struct history *history, const struct history_sample *sample)
{
    unsigned at = (history->first + history->n) % HISTORY_SAMPLES;

    if (!history->ring)
        history->ring = calloc(HISTORY_SAMPLES, sizeof(*history->ring));
    if (!history->ring)
        return;
    history->ring[at] = (struct history_entry){
        .time = fit(sample->time / 1000000),
        .resident = fit(sample->resident / PAGE_BYTES),
        .saved = fit(sample->saved / PAGE_BYTES),
        .cpu = fit(sample->cpu_ns / 1000),
        .merges = fit(sample->merges),
        .splits = fit(sample->splits),
    };
    if (history->n < HISTORY_SAMPLES)
        history->n++;
    else
        history->first = (history->first + 1) % HISTORY_SAMPLES;
}

struct history_sample history_get(const struct history *history, unsigned i)
{
    const struct history_entry *entry = &history->ring[(history->first + i) % HISTORY_SAMPLES];

    return (struct history_sample){
        .time = (uint64_t)entry->time * 1000000,
        .resident = (uint64_t)entry->resident * PAGE_BYTES,
        .saved = (uint64_t)entry->saved * PAGE_BYTES,
        .cpu_ns = (uint64_t)entry->cpu * 1000,
        .merges = entry->merges,
        .splits = entry->splits,
    };
}

void history_free(struct history *history)
{
    free(history->ring);
    *history = (struct history){0};
}

/* A counter that went back began anew. */
static uint64_t grown(uint64_t now, uint64_t before)
{
    return now >= before ? now - before : now;
}

static void sample_guest(struct guest *guest, uint64_t now, struct history_sample *total)
{
    const struct proto_memory *memory = &guest->memory;
    struct history_counters *before = &guest->counters_before;
    struct history_sample sample = {
        .time = now,
        .resident = memory->resident,
        .saved = guest->saved,
        .cpu_ns = grown(memory->cpu_ns, before->cpu_ns),
        .merges = grown(memory->merges, before->merges),
        .splits = grown(memory->splits, before->splits),
    };

    *before = (struct history_counters){memory->cpu_ns, memory->merges, memory->splits};
    history_add(&guest->history, &sample);
    total->resident += sample.resident;
    total->saved += sample.saved;
    total->cpu_ns += sample.cpu_ns;
    total->merges += sample.merges;
    total->splits += sample.splits;
}

void history_tick(struct daemon *daemon, uint64_t now)
{
    struct history_sample total = {.time = now};
    struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->phase == PHASE_UP)
        sample_guest(guest, now, &total);
    history_add(&daemon->history, &total);
}
