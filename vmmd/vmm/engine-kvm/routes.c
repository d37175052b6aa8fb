/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * routes: interrupts into the guest, queue kicks out of it.
 *
 * GSI 0 to 23 are the IOAPIC's pins and, up to 15, the 8259's: ISA IRQ 0 is pin 2, as the MADT
 * says. From 24 on each GSI is an MSI that an eventfd fires. The kernel knows only whole tables:
 * every change writes all of it.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

#define IOAPIC_PINS  24u
#define PIC_LINES    16u
#define PIT_PIN      2u
#define CASCADE_LINE 2u /* of the 8259: joins the two chips */

static unsigned add_chip(struct kvm_irq_routing_entry *to, unsigned gsi, unsigned chip,
                         unsigned pin)
{
    *to = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = pin},
    };
    return 1;
}

static unsigned add_legacy(struct kvm_irq_routing_entry *to)
{
    unsigned n = 0;

    for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
        if (gsi < PIC_LINES && gsi != CASCADE_LINE)
            n += add_chip(to + n, gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                          gsi % 8);
        if (gsi != PIT_PIN)
            n += add_chip(to + n, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? PIT_PIN : gsi);
    }
    return n;
}

int kvm_set_routes(struct engine *e)
{
    struct kvm_irq_routing *table;
    int r;

    table = calloc(1, sizeof(*table) +
                          (KVM_LEGACY_ROUTES + KVM_MAX_ROUTES) * sizeof(table->entries[0]));
    if (!table)
        return -ENOMEM;
    table->nr = add_legacy(table->entries);
    for (unsigned i = 0; i < KVM_MAX_ROUTES; i++) {
        if (e->routes[i].fd < 0)
            continue;
        table->entries[table->nr++] = (struct kvm_irq_routing_entry){
            .gsi = IOAPIC_PINS + i,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo = (uint32_t)e->routes[i].address,
                      .address_hi = (uint32_t)(e->routes[i].address >> 32),
                      .data = e->routes[i].data},
        };
    }
    r = kvm_ioctl(e->vm_fd, KVM_SET_GSI_ROUTING, table);
    free(table);
    return r;
}

int kvm_irq_line(struct engine *e, unsigned gsi, bool level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level};

    return gsi < IOAPIC_PINS ? kvm_ioctl(e->vm_fd, KVM_IRQ_LINE, &line) : -EINVAL;
}

int kvm_msi(struct engine *e, uint64_t address, uint32_t data)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    int r = kvm_ioctl(e->vm_fd, KVM_SIGNAL_MSI, &msi);

    return r < 0 ? r : 0; /* 0 and 1: whether the guest takes it now */
}

/* ---- eventfds ---- */

static int attach(struct engine *e, unsigned i, bool add)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)e->routes[i].fd,
        .gsi = IOAPIC_PINS + i,
        .flags = add ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
    };

    return kvm_ioctl(e->vm_fd, KVM_IRQFD, &irqfd);
}

static unsigned route_of(const struct engine *e, int fd)
{
    unsigned i = 0;

    while (i < KVM_MAX_ROUTES && e->routes[i].fd != fd)
        i++;
    return i;
}

static int remove_irqfd(struct engine *e, unsigned i)
{
    int r;

    if (i == KVM_MAX_ROUTES)
        return -ENOENT;
    r = attach(e, i, false);
    e->routes[i].fd = -1;
    return r < 0 ? r : kvm_set_routes(e);
}

static int set_irqfd(struct engine *e, unsigned i, int fd, uint64_t address, uint32_t data)
{
    struct kvm_route before;
    bool is_new = i == KVM_MAX_ROUTES;
    int r;

    if (is_new)
        i = route_of(e, -1);
    if (i == KVM_MAX_ROUTES)
        return -ENOSPC;
    before = e->routes[i];
    e->routes[i] = (struct kvm_route){fd, address, data};
    r = kvm_set_routes(e);
    if (r == 0 && is_new)
        r = attach(e, i, true);
    if (r < 0)
        e->routes[i] = before;
    return r;
}

int kvm_irqfd(struct engine *e, int fd, uint64_t address, uint32_t data)
{
    unsigned i;
    int r;

    if (fd < 0)
        return -EBADF;
    pthread_mutex_lock(&e->lock);
    i = route_of(e, fd);
    r = address ? set_irqfd(e, i, fd, address, data) : remove_irqfd(e, i);
    pthread_mutex_unlock(&e->lock);
    return r;
}

/* Taking an eventfd off waits for what it has fired; what is written meanwhile is found when it is
 * put on again. */
int kvm_settle_irqfds(struct engine *e)
{
    int r = 0;

    pthread_mutex_lock(&e->lock);
    for (unsigned i = 0; i < KVM_MAX_ROUTES; i++) {
        if (e->routes[i].fd < 0)
            continue;
        r = attach(e, i, false);
        if (r == 0)
            r = attach(e, i, true);
        if (r < 0)
            break;
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}

int kvm_ioeventfd(struct engine *e, uint64_t gpa, unsigned size, int fd, bool add)
{
    struct kvm_ioeventfd event = {
        .addr = gpa, .len = size, .fd = fd, .flags = add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};

    return kvm_ioctl(e->vm_fd, KVM_IOEVENTFD, &event);
}
