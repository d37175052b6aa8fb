/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * msi: see msi.h. An eventfd has no reader but the kernel, which empties it as it injects; should
 * it ever be full, the interrupt goes the other way and is not lost.
 */
#include "vmmd/vmm/msi.h"

#include "vmmd/vmm/machine.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int msi_add(struct machine *m, unsigned n, unsigned *ret_first)
{
    struct msi *msi = &m->msi;
    unsigned first = msi->n;

    if (n > MSI_MAX - first)
        return -ENOSPC;
    for (unsigned i = first; i < first + n; i++) {
        msi->vector[i] = (struct msi_vector){.fd = -1};
        msi->n = i + 1; /* so that it is closed, whatever happens */
        if (!m->ops->irqfd)
            continue;
        msi->vector[i].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (msi->vector[i].fd < 0)
            return -errno;
    }
    *ret_first = first;
    return 0;
}

static void bind(struct machine *m, struct msi_vector *v)
{
    bool bound = v->address && m->ops->irqfd(m->engine, v->fd, v->address, v->data) == 0;

    v->way = bound ? MSI_BOUND : MSI_REFUSED;
}

void msi_fire(struct machine *m, unsigned vector, uint64_t address, uint32_t data)
{
    struct msi_vector *v = &m->msi.vector[vector];
    const uint64_t one = 1;

    if (v->address != address || v->data != data) {
        v->address = address;
        v->data = data;
        v->way = MSI_NEW;
    }
    if (v->way == MSI_FIRED && v->fd >= 0)
        bind(m, v);
    if (v->way == MSI_NEW)
        v->way = MSI_FIRED;
    if (v->way != MSI_BOUND || write(v->fd, &one, sizeof(one)) != sizeof(one))
        machine_msi(m, address, data);
}

void msi_destroy(struct machine *m)
{
    for (unsigned i = 0; i < m->msi.n; i++)
        if (m->msi.vector[i].fd >= 0)
            close(m->msi.vector[i].fd);
    m->msi.n = 0;
}
