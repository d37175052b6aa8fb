/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gate: who may run guest code now. A closed gate holds every vCPU outside guest code: for as long
 * as a person likes, to pause the guest, or for the time of a piece of work (page merging).
 *
 * A vCPU thread enters before it runs guest code and leaves before it halts or ends. Closing
 * counts: several closers may overlap.
 *
 * Work is done by the last vCPU thread that comes out, and the gate is open again when it is done:
 * a guest never waits for another thread to be scheduled, only for the work itself. A vCPU that
 * halts anyway does it before it sleeps; one that does not halt soon is kicked. When nobody is
 * inside, who brings the work does it.
 *
 * Lock order: the gate's mutex comes last, and is held neither during work nor during a kick, so
 * that a thread preempted there holds nobody up. At the gate a vCPU thread holds no lock.
 */
#ifndef VMM_GATE_H
#define VMM_GATE_H

#include "vmmd/vmm/histogram.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What work did to the guest, in ns and counts since start. */
struct gate_times {
    /* A vCPU stood at the gate because of work, its own share of the work included. A vCPU that
     * works before it halts counts too, though it wanted nothing else. */
    struct histogram held;
    struct histogram came; /* from a kick until the work began: the guest runs meanwhile */
    struct histogram cpu;  /* CPU time of the works: what is left where nobody wants the CPU too */
    uint64_t by_halting, by_kicked, by_bringer; /* works, by who did them */
};

struct gate_work;

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned inside;        /* vCPUs that run guest code or emulate for it */
    unsigned closed;        /* closers */
    atomic_bool closing;    /* closed > 0, readable without the lock */
    bool stop;              /* vCPUs shall end */
    struct gate_work *work; /* to be done, or being done; NULL: none */
    uint64_t left_at;       /* CLOCK_MONOTONIC ns: when the last vCPU inside left unasked */
    struct gate_times times;
};

void gate_init(struct gate *g);
void gate_destroy(struct gate *g); /* `times` stay readable */

bool gate_enter(
    struct gate *g); /* blocks while closed; false: end the vCPU (it is not inside then) */
void gate_leave(struct gate *g);
/* For a vCPU inside: let closers and work through. false: it was told to end and is outside now. */
bool gate_pass(struct gate *g);

/* Closes and waits until nobody is inside and no work is being done. `kick` makes vCPUs look
 * (gate_pass). Not by a vCPU thread. */
void gate_close(struct gate *g, void (*kick)(void *opaque), void *opaque);
void gate_open(struct gate *g);

/* Returns after run(arg) was called, once, in some thread, while nobody was inside. It must not
 * block. Not by a vCPU thread. */
void gate_work(struct gate *g, void (*run)(void *arg), void *arg, void (*kick)(void *opaque),
               void *opaque);

/* Tells all vCPUs to end, also through a closed gate. */
void gate_stop(struct gate *g);
bool gate_stopping(struct gate *g);

#endif
