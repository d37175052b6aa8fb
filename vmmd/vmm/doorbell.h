/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * doorbell: queue kicks that do not stop a vCPU. Where the engine can (ioeventfd), a guest's write
 * to a notification address becomes an eventfd in the kernel, and a thread here calls the device.
 *
 * The thread does for a device what a vCPU thread does else: with the machine lock held, inside a
 * dma bracket. While the machine is paused it does nothing, and what rang before is done by then.
 */
#ifndef VMM_DOORBELL_H
#define VMM_DOORBELL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#define DOORBELL_MAX 64

struct machine;

struct doorbell {
    int fd;
    uint64_t gpa; /* 0: not in the guest's address space now */
    unsigned size;
    void *opaque;
    unsigned index;
    void (*ring)(void *opaque, unsigned index);
};

struct doorbells {
    struct machine *machine;
    struct doorbell bell[DOORBELL_MAX];
    unsigned n;
    int wake_fd; /* ends the thread */
    pthread_t thread;
    bool started;
    sem_t serving; /* 1: nobody serves bells, nor holds them off */
};

/* No bells on an engine without ioeventfd: all functions do nothing then. 0 or -errno. */
int doorbells_init(struct doorbells *d, struct machine *m);
int doorbells_start(struct doorbells *d); /* after the last doorbell_add() */
void doorbells_destroy(struct doorbells *d);

/* `ring` will be called with the lock and in a dma bracket for writes of `size` bytes. *ret_bell is
 * the number for doorbell_move(); -ENOTSUP: the engine cannot, writes come as MMIO. */
int doorbell_add(struct doorbells *d, unsigned size, void (*ring)(void *opaque, unsigned index),
                 void *opaque, unsigned index, unsigned *ret_bell);
/* Its address is gpa now; 0: none. Machine lock held. Where it cannot be, writes come as MMIO. */
void doorbell_move(struct doorbells *d, unsigned bell, uint64_t gpa);

/* The gate is closed, no lock held: serves what has rung, and then nothing until released. */
void doorbells_hold(struct doorbells *d);
void doorbells_release(struct doorbells *d);

#endif
