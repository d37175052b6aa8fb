/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * iobus: which device answers at a port. Devices claim ranges while the machine is set up; lookups
 * happen with the machine lock held.
 */
#ifndef VMM_IOBUS_H
#define VMM_IOBUS_H

#include <stdint.h>

#define IOBUS_MAX 32

struct iobus_range {
    uint16_t port, count;
    unsigned size; /* answers only accesses of this size; 0: all. 0xcf8 is PCI's for 4 bytes, 0xcf9
                      resets for 1 */
    void *opaque;
    uint32_t (*read)(void *opaque, uint16_t port, unsigned size);
    void (*write)(void *opaque, uint16_t port, unsigned size, uint32_t value);
};

struct iobus {
    struct iobus_range ranges[IOBUS_MAX];
    unsigned n;
};

int iobus_claim(struct iobus *bus, const struct iobus_range *range); /* -ENOSPC, -EEXIST */

/* Unclaimed: all ones; writes are dropped. */
uint32_t iobus_read(const struct iobus *bus, uint16_t port, unsigned size);
void iobus_write(const struct iobus *bus, uint16_t port, unsigned size, uint32_t value);

#endif
