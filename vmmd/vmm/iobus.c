/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * iobus: a short list of port ranges, searched in order: there are about ten.
 */
#include "vmmd/vmm/iobus.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

int iobus_claim(struct iobus *bus, const struct iobus_range *range)
{
    if (bus->n == IOBUS_MAX)
        return -ENOSPC;
    for (unsigned i = 0; i < bus->n; i++) {
        const struct iobus_range *r = &bus->ranges[i];
        bool same_size = !r->size || !range->size || r->size == range->size;
        if (same_size && range->port < r->port + r->count && r->port < range->port + range->count)
            return -EEXIST;
    }
    bus->ranges[bus->n++] = *range;
    return 0;
}

static const struct iobus_range *find(const struct iobus *bus, uint16_t port, unsigned size)
{
    for (unsigned i = 0; i < bus->n; i++) {
        const struct iobus_range *r = &bus->ranges[i];
        if ((!r->size || r->size == size) && port >= r->port &&
            port + size <= (unsigned)r->port + r->count)
            return r;
    }
    return NULL;
}

uint32_t iobus_read(const struct iobus *bus, uint16_t port, unsigned size)
{
    const struct iobus_range *r = find(bus, port, size);

    return r && r->read ? r->read(r->opaque, port, size) : 0xffffffff;
}

void iobus_write(const struct iobus *bus, uint16_t port, unsigned size, uint32_t value)
{
    const struct iobus_range *r = find(bus, port, size);

    if (r && r->write)
        r->write(r->opaque, port, size, value);
}
