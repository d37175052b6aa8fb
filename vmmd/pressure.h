/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pressure: the daemon sees memory running out before the kernel has to kill somebody.
 *
 *   none      all is well
 *   low       no guest is started, and nothing is merged (merging takes memory before it gives)
 *   critical  also guests are paused, one after the other, those of the lowest priority first, and
 *             the sooner the faster memory goes
 *
 * What was paused here goes on when the level is none again; what a person paused or resumed is
 * left alone.
 */
#ifndef VMMD_PRESSURE_H
#define VMMD_PRESSURE_H

#include "vmmd/config.h"
#include "vmmd/hostmem.h"

#define PRESSURE_REASON_MAX 320

struct daemon;
struct guest;
struct pressure;

enum pressure_level { PRESSURE_NONE, PRESSURE_LOW, PRESSURE_CRITICAL };

/* What a judgement stands on. */
struct pressure_view {
    struct hostmem memory;
    uint64_t at_risk; /* what sharing saves: each page of it may be written to and come back */
    bool stalls;      /* somebody waited for memory just now */
};

struct pressure_limits {
    uint64_t low, critical; /* of what is available, bytes */
};

/* Where the levels begin. */
struct pressure_limits pressure_limits(const struct pressure_config *config,
                                       const struct pressure_view *view);

/* The level that follows `before`: a level is left only with a quarter more than it begins with. */
enum pressure_level pressure_judge(enum pressure_level before, uint64_t available,
                                   const struct pressure_limits *limits);

/*
 * Whether so much memory went (`fallen` bytes in `elapsed` ms; a time too short to tell counts as
 * 100 ms) that, at this rate, half of what is available now will be gone within `wait` ms.
 */
bool pressure_falling(uint64_t available, uint64_t fallen, uint64_t elapsed, uint64_t wait);

const char *pressure_level_name(enum pressure_level level); /* "none", "low", "critical" */

/* Begins to watch; reads all figures once. NULL: no memory. */
struct pressure *pressure_new(struct daemon *daemon);
void pressure_free(struct pressure *pressure); /* NULL is fine */

/* Looks now and does what the level asks for. */
void pressure_check(struct pressure *pressure);

/* Whether this guest may be started, as of now: NoMemory, which says what to do, if not. */
int pressure_admit(struct pressure *pressure, const struct guest *guest, struct problem *problem);

enum pressure_level pressure_level(const struct pressure *pressure);
const char *pressure_reason(const struct pressure *pressure); /* of the level; "" for none */
const struct pressure_view *pressure_view(const struct pressure *pressure);
const struct pressure_limits *pressure_limits_now(const struct pressure *pressure);

#endif
