/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gate: who may run guest code now. A closed gate holds every vCPU outside guest code; it is closed
 * for microseconds to merge pages, and for as long as a person likes to pause the guest.
 *
 * A vCPU thread enters before it runs guest code and leaves before it halts or ends. Closing
 * counts: several closers may overlap. Lock order: the gate's mutex comes last but for what `kick`
 * takes (the engine's own lock).
 */
#ifndef VMM_GATE_H
#define VMM_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned inside;     /* vCPUs that run guest code or emulate for it */
    unsigned closed;     /* closers */
    atomic_bool closing; /* closed > 0, readable without the lock */
    bool stop;           /* vCPUs shall end */
};

void gate_init(struct gate *g);
void gate_destroy(struct gate *g);

bool gate_enter(
    struct gate *g); /* blocks while closed; false: end the vCPU (it is not inside then) */
void gate_leave(struct gate *g);
/* For a vCPU inside: let closers through. false: it was told to end and is outside now. */
bool gate_pass(struct gate *g);

/* Closes and waits until nobody is inside. `kick` makes vCPUs look (gate_pass). Not by a vCPU
 * thread. */
void gate_close(struct gate *g, void (*kick)(void *opaque), void *opaque);
void gate_open(struct gate *g);
/* Tells all vCPUs to end, also through a closed gate. */
void gate_stop(struct gate *g);
bool gate_stopping(struct gate *g);

#endif
