/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pci: configuration space, BAR decoding and MSI-X. Every offset a guest gives is bounded here
 * before it indexes anything.
 */
#include "vmmd/vmm/pci.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <string.h>

#define COMMAND         0x04
#define COMMAND_MEMORY  0x0002u
#define COMMAND_NO_INTX 0x0400u
#define STATUS          0x06
#define STATUS_CAPS     0x0010u
#define BAR0            0x10
#define CAP_POINTER     0x34
#define IRQ_LINE        0x3c
#define IRQ_PIN         0x3d
#define CAP_MSIX        0x11
#define MSIX_ENABLE     0x8000u
#define MSIX_MASK_ALL   0x4000u
#define MSIX_ENTRY_MASK 1u
#define MSIX_BAR_BYTES  4096u
#define MSIX_PBA        0x800u

static void put16(struct pci_device *d, unsigned at, uint16_t v)
{
    memcpy(d->config + at, &v, sizeof(v));
}

static void put32(struct pci_device *d, unsigned at, uint32_t v)
{
    memcpy(d->config + at, &v, sizeof(v));
}

static uint16_t get16(const struct pci_device *d, unsigned at)
{
    uint16_t v;

    memcpy(&v, d->config + at, sizeof(v));
    return v;
}

static uint32_t get32(const struct pci_device *d, unsigned at)
{
    uint32_t v;

    memcpy(&v, d->config + at, sizeof(v));
    return v;
}

/* ---- interrupts
 * ----------------------------------------------------------------------------------------- */

bool pci_msix_enabled(const struct pci_device *dev)
{
    return dev->msix_at && (get16(dev, dev->msix_at + 2u) & MSIX_ENABLE);
}

static bool msix_masked(const struct pci_device *dev, unsigned vector)
{
    return (dev->msix[vector].control & MSIX_ENTRY_MASK) ||
           (get16(dev, dev->msix_at + 2u) & MSIX_MASK_ALL);
}

void pci_msix_fire(struct pci_device *dev, unsigned vector)
{
    if (vector >= dev->n_vectors || !pci_msix_enabled(dev))
        return;
    if (msix_masked(dev, vector)) {
        dev->pending |= 1u << vector;
        return;
    }
    dev->pending &= ~(1u << vector);
    msi_fire(dev->machine, dev->first_msi + vector, dev->msix[vector].address,
             dev->msix[vector].data);
}

static void fire_unmasked(struct pci_device *dev)
{
    for (unsigned v = 0; v < dev->n_vectors; v++)
        if ((dev->pending >> v & 1) && !msix_masked(dev, v))
            pci_msix_fire(dev, v);
}

static void update_intx(struct pci_device *dev)
{
    bool level = dev->intx && !pci_msix_enabled(dev) && !(get16(dev, COMMAND) & COMMAND_NO_INTX);

    machine_irq(dev->machine, PCI_FIRST_GSI + dev->slot % PCI_GSIS, level);
}

void pci_intx(struct pci_device *dev, bool level)
{
    if (dev->intx == level)
        return;
    dev->intx = level;
    update_intx(dev);
}

void pci_reset(struct pci_device *dev)
{
    dev->pending = 0;
    pci_intx(dev, false);
}

/* ---- the MSI-X table, in BAR 1
 * ---------------------------------------------------------------------------- */

static uint32_t msix_read32(const struct pci_device *dev, uint64_t offset)
{
    uint32_t words[4];

    if (offset >= MSIX_PBA)
        return offset == MSIX_PBA ? dev->pending : 0;
    if (offset / 16 >= dev->n_vectors)
        return 0;
    memcpy(words, &dev->msix[offset / 16], sizeof(words));
    return words[offset / 4 & 3];
}

static uint64_t msix_read(struct pci_device *dev, uint64_t offset, unsigned size)
{
    uint64_t value = msix_read32(dev, offset & ~3ull);

    if (size == 8)
        value |= (uint64_t)msix_read32(dev, (offset & ~3ull) + 4) << 32;
    return value >> (8 * (offset & 3));
}

static void msix_write32(struct pci_device *dev, uint64_t offset, uint32_t value)
{
    uint32_t words[4];

    if (offset / 16 >= dev->n_vectors)
        return;
    memcpy(words, &dev->msix[offset / 16], sizeof(words));
    words[offset / 4 & 3] = value;
    memcpy(&dev->msix[offset / 16], words, sizeof(words));
}

static void msix_write(struct pci_device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    if (size < 4 || (offset & 3)) /* the specification allows only whole words */
        return;
    msix_write32(dev, offset, (uint32_t)value);
    if (size == 8)
        msix_write32(dev, offset + 4, (uint32_t)(value >> 32));
    fire_unmasked(dev);
}

static const struct pci_bar_ops msix_bar = {msix_read, msix_write};

/* ---- configuration space
 * ------------------------------------------------------------------------------------ */

static struct pci_device *selected(struct pci_bus *bus)
{
    unsigned slot = bus->address >> 11 & 0x1f;

    if (!(bus->address & 0x80000000u) || (bus->address & 0x00ff0700u) || slot >= PCI_MAX_SLOTS)
        return NULL;
    return bus->slots[slot];
}

static uint32_t config_read(void *opaque, uint16_t port, unsigned size)
{
    struct pci_bus *bus = opaque;
    const struct pci_device *dev = selected(bus);
    unsigned at = (bus->address & 0xfc) | (port & 3);
    uint32_t value = 0;

    if (!dev || at + size > sizeof(dev->config))
        return 0xffffffff;
    memcpy(&value, dev->config + at, size);
    return value;
}

static void config_write(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct pci_bus *bus = opaque;
    struct pci_device *dev = selected(bus);
    unsigned at = (bus->address & 0xfc) | (port & 3);

    if (!dev || at + size > sizeof(dev->config))
        return;
    for (unsigned i = 0; i < size; i++, value >>= 8) {
        uint8_t mask = dev->writable[at + i];
        dev->config[at + i] = (uint8_t)((dev->config[at + i] & ~mask) | (value & mask));
    }
    if (dev->msix_at)
        fire_unmasked(dev);
    if (dev->slot > 0)
        update_intx(dev);
    if (dev->moved && at < BAR0 + 8)
        dev->moved(dev);
}

uint64_t pci_bar_address(const struct pci_device *dev, unsigned bar)
{
    return get16(dev, COMMAND) & COMMAND_MEMORY ? get32(dev, BAR0 + 4 * bar) : 0;
}

static uint32_t address_read(void *opaque, uint16_t port, unsigned size)
{
    (void)port;
    return size == 4 ? ((struct pci_bus *)opaque)->address : 0xffffffff;
}

static void address_write(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    if (size == 4)
        ((struct pci_bus *)opaque)->address = value;
}

/* ---- setting up
 * -----------------------------------------------------------------------------------------------
 */

static void set_identity(struct pci_device *dev, const struct pci_id *id)
{
    put16(dev, 0x00, id->vendor);
    put16(dev, 0x02, id->device);
    put32(dev, 0x08, id->class_code << 8 | id->revision);
    put16(dev, 0x2c, id->subsystem_vendor);
    put16(dev, 0x2e, id->subsystem);
}

int pci_bus_init(struct pci_bus *bus, struct machine *m)
{
    /* Class 0600 is what Linux looks for before it trusts mechanism #1. */
    const struct pci_id bridge = {.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000};
    struct iobus_range address = {0xcf8, 4, 4, bus, address_read, address_write};
    struct iobus_range data = {0xcfc, 4, 0, bus, config_read, config_write};
    int r;

    *bus = (struct pci_bus){.machine = m, .next_bar = PCI_WINDOW_START + 0x1000000};
    bus->bridge.machine = m;
    bus->bridge.name = "host bridge";
    set_identity(&bus->bridge, &bridge);
    bus->slots[0] = &bus->bridge;
    r = iobus_claim(&m->ports, &address);
    return r < 0 ? r : iobus_claim(&m->ports, &data);
}

static void set_bar(struct pci_bus *bus, struct pci_device *dev, unsigned i,
                    const struct pci_bar *bar)
{
    uint32_t base = (bus->next_bar + bar->size - 1) & ~(bar->size - 1), mask = ~(bar->size - 1);

    dev->bars[i] = *bar;
    put32(dev, BAR0 + 4 * i, base);
    memcpy(dev->writable + BAR0 + 4 * i, &mask, sizeof(mask));
    bus->next_bar = base + bar->size;
}

static void set_command(struct pci_device *dev)
{
    put16(dev, COMMAND, COMMAND_MEMORY);
    put16(dev, STATUS, STATUS_CAPS);
    dev->writable[COMMAND] = 0x46;     /* memory, bus master, parity */
    dev->writable[COMMAND + 1] = 0x05; /* SERR, INTx disable */
    dev->writable[0x0c] = dev->writable[0x0d] = 0xff;
    dev->writable[IRQ_LINE] = 0xff;
    dev->config[IRQ_LINE] = 0xff;
    dev->config[IRQ_PIN] = 1;
}

static void add_msix(struct pci_bus *bus, struct pci_device *dev, unsigned n_vectors)
{
    const struct pci_bar bar = {&msix_bar, MSIX_BAR_BYTES};
    uint8_t body[10] = {0};
    uint32_t table = 1, pba = MSIX_PBA | 1; /* both in BAR 1 */

    set_bar(bus, dev, 1, &bar);
    body[0] = (uint8_t)(n_vectors - 1);
    memcpy(body + 2, &table, 4);
    memcpy(body + 6, &pba, 4);
    dev->msix_at = pci_add_capability(dev, CAP_MSIX, body, 12);
    dev->writable[dev->msix_at + 3] = 0xc0;
    dev->n_vectors = n_vectors;
    for (unsigned i = 0; i < n_vectors; i++)
        dev->msix[i].control = MSIX_ENTRY_MASK;
}

int pci_add(struct pci_bus *bus, struct pci_device *dev, const struct pci_id *id,
            const struct pci_bar *bar0, unsigned n_vectors)
{
    unsigned slot = 1, first_msi;
    int r;

    while (slot < PCI_MAX_SLOTS && bus->slots[slot])
        slot++;
    if (slot == PCI_MAX_SLOTS || n_vectors == 0 || n_vectors > PCI_MAX_VECTORS)
        return -ENOSPC;
    r = msi_add(bus->machine, n_vectors, &first_msi);
    if (r < 0)
        return r;
    dev->machine = bus->machine;
    dev->first_msi = first_msi;
    dev->slot = slot;
    set_identity(dev, id);
    set_command(dev);
    set_bar(bus, dev, 0, bar0);
    add_msix(bus, dev, n_vectors);
    bus->slots[slot] = dev;
    return 0;
}

uint8_t pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, uint8_t length)
{
    unsigned at = 0x40, last = CAP_POINTER;

    for (unsigned next = dev->config[CAP_POINTER]; next; next = dev->config[next + 1u]) {
        last = next + 1u;
        at = next + 32u; /* each gets 32 bytes: all of ours fit */
    }
    if (length > 32 || at + 32u > sizeof(dev->config))
        return 0;
    dev->config[last] = (uint8_t)at;
    dev->config[at] = id;
    memcpy(dev->config + at + 2, body, length - 2u);
    return (uint8_t)at;
}

/* ---- memory space
 * ------------------------------------------------------------------------------------------------
 */

static struct pci_device *decode(struct pci_bus *bus, uint64_t gpa, unsigned size,
                                 const struct pci_bar **ret_bar, uint64_t *ret_offset)
{
    for (unsigned s = 1; s < PCI_MAX_SLOTS && bus->slots[s]; s++) {
        struct pci_device *dev = bus->slots[s];
        if (!(get16(dev, COMMAND) & COMMAND_MEMORY))
            continue;
        for (unsigned i = 0; i < 2; i++) {
            uint64_t base = get32(dev, BAR0 + 4 * i);
            if (gpa < base || gpa - base + size > dev->bars[i].size)
                continue;
            *ret_bar = &dev->bars[i];
            *ret_offset = gpa - base;
            return dev;
        }
    }
    return NULL;
}

uint64_t pci_mmio_read(struct pci_bus *bus, uint64_t gpa, unsigned size)
{
    const struct pci_bar *bar;
    uint64_t offset;
    struct pci_device *dev = decode(bus, gpa, size, &bar, &offset);

    return dev ? bar->ops->read(dev, offset, size) : ~0ull;
}

void pci_mmio_write(struct pci_bus *bus, uint64_t gpa, unsigned size, uint64_t value)
{
    const struct pci_bar *bar;
    uint64_t offset;
    struct pci_device *dev = decode(bus, gpa, size, &bar, &offset);

    if (dev)
        bar->ops->write(dev, offset, size, value);
}

/* ---- state
 * ---------------------------------------------------------------------------------------------------------
 */

void pci_bus_save(struct pci_bus *bus, struct state *s)
{
    state_begin(s, "pci", 1);
    state_put_field(s, bus->address);
    state_end(s);
}

void pci_bus_load(struct pci_bus *bus, struct state *s)
{
    if (state_open(s, "pci") == 1)
        state_get_field(s, bus->address);
    state_close(s);
}

void pci_save(const struct pci_device *dev, struct state *s)
{
    uint8_t intx = dev->intx;

    state_put_field(s, dev->config);
    state_put_field(s, dev->msix);
    state_put_field(s, dev->pending);
    state_put_field(s, intx);
}

/* Only what a guest may write is taken over: identity, capabilities and BAR sizes stay ours. */
void pci_load(struct pci_device *dev, struct state *s)
{
    uint8_t config[sizeof(dev->config)], intx;

    state_get_field(s, config);
    for (unsigned i = 0; i < sizeof(config); i++)
        dev->config[i] =
            (uint8_t)((dev->config[i] & ~dev->writable[i]) | (config[i] & dev->writable[i]));
    state_get_field(s, dev->msix);
    state_get_field(s, dev->pending);
    state_get_field(s, intx);
    dev->intx = intx;
    if (dev->moved)
        dev->moved(dev);
}
