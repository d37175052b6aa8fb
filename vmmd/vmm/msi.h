/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * msi: interrupts by message from devices. Where the engine can (irqfd), a vector that fires again
 * with the same address and data is bound to an eventfd: from then on a device's interrupt is a
 * write to that, and the kernel has the route. Elsewhere, and where the engine has no more routes,
 * each is a call of engine_ops.msi().
 *
 * Routes are changed when a vector fires, not when its table entry is written: entries are written
 * word by word, and many never fire. A vector's first interrupt after a change goes by msi(), so
 * that a guest which changes an entry for every interrupt has no route set for each of them.
 *
 * The machine lock is held in all functions but msi_destroy(). What is bound is not saved: after a
 * load vectors are bound anew.
 */
#ifndef VMM_MSI_H
#define VMM_MSI_H

#include <stdint.h>

#define MSI_MAX 240 /* PCI_MAX_VECTORS in each slot but the bridge's */

struct machine;

enum msi_way {
    MSI_NEW,     /* did not fire yet with this address and data */
    MSI_FIRED,   /* once */
    MSI_BOUND,   /* to its eventfd */
    MSI_REFUSED, /* the engine cannot bind it */
};

struct msi_vector {
    int fd;
    enum msi_way way;
    uint64_t address;
    uint32_t data;
};

struct msi {
    struct msi_vector vector[MSI_MAX];
    unsigned n;
};

/* Makes `n` vectors, before guest code runs: *ret_first and those that follow. -ENOSPC, or why
 * there is no eventfd. */
int msi_add(struct machine *m, unsigned n, unsigned *ret_first);

/* Interrupts the guest. */
void msi_fire(struct machine *m, unsigned vector, uint64_t address, uint32_t data);

void msi_destroy(struct machine *m); /* nothing fires any more, and the engine is gone */

#endif
