/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ioapic: 24 pins, edge and level, for one CPU. Level interrupts keep Remote-IRR until the CPU's
 * EOI and are sent again if the line is still up. Source: Intel 82093AA.
 */
#include "vmmd/vmm/engine-soft/irqchip.h"

#include <string.h>

#define PINS         24u
#define VERSION      0x00170011u
#define RT_MASKED    (1ull << 16)
#define RT_LEVEL     (1ull << 15)
#define RT_REMOTE    (1ull << 14)
#define RT_READ_ONLY 0x5000ull /* Remote-IRR and delivery status */

void ioapic_reset(struct ioapic *io)
{
    memset(io, 0, sizeof(*io));
    for (unsigned i = 0; i < PINS; i++)
        io->redirection[i] = RT_MASKED;
}

static void service(struct irqchip *c, unsigned pin)
{
    struct ioapic *io = &c->ioapic;
    uint64_t entry = io->redirection[pin];
    bool level = entry & RT_LEVEL;

    if (!(io->irr >> pin & 1) || (entry & RT_MASKED) || (level && (entry & RT_REMOTE)))
        return;
    if ((entry >> 8 & 7) <= 1)
        lapic_deliver(&c->lapic, entry & 0xff, level);
    if (level)
        io->redirection[pin] |= RT_REMOTE;
    else
        io->irr &= ~(1u << pin);
}

void ioapic_line(struct irqchip *c, unsigned pin, bool level)
{
    struct ioapic *io = &c->ioapic;
    uint32_t bit = 1u << pin;

    if (io->redirection[pin] & RT_LEVEL)
        io->irr = level ? io->irr | bit : io->irr & ~bit;
    else if (level && !(io->line & bit))
        io->irr |= bit;
    io->line = level ? io->line | bit : io->line & ~bit;
    service(c, pin);
}

void ioapic_eoi(struct irqchip *c, unsigned vector)
{
    struct ioapic *io = &c->ioapic;

    for (unsigned pin = 0; pin < PINS; pin++) {
        uint64_t entry = io->redirection[pin];
        if ((entry & 0xff) == vector && (entry & RT_REMOTE)) {
            io->redirection[pin] &= ~RT_REMOTE;
            service(c, pin);
        }
    }
}

uint32_t ioapic_read(const struct ioapic *io, uint32_t offset)
{
    if (offset == 0)
        return io->select;
    if (offset != 0x10)
        return 0;
    if (io->select == 0 || io->select == 2)
        return io->id;
    if (io->select == 1)
        return VERSION;
    if (io->select >= 0x10 && io->select < 0x10 + 2 * PINS)
        return (uint32_t)(io->redirection[(io->select - 0x10) >> 1] >> (io->select & 1 ? 32 : 0));
    return 0;
}

static void write_redirection(struct irqchip *c, unsigned pin, bool high, uint32_t value)
{
    struct ioapic *io = &c->ioapic;
    uint64_t entry = io->redirection[pin];

    if (high) {
        entry = (entry & 0xffffffffull) | (uint64_t)value << 32;
    } else {
        entry = (entry & ~0xffffffffull) | (entry & RT_READ_ONLY) | (value & ~RT_READ_ONLY);
        if (!(entry & RT_LEVEL))
            entry &= ~RT_REMOTE;
        else if (io->line >> pin & 1)
            io->irr |= 1u << pin;
        else
            io->irr &= ~(1u << pin);
    }
    io->redirection[pin] = entry;
    service(c, pin);
}

void ioapic_write(struct irqchip *c, uint32_t offset, uint32_t value)
{
    struct ioapic *io = &c->ioapic;

    if (offset == 0)
        io->select = value & 0xff;
    else if (offset != 0x10)
        return;
    else if (io->select == 0)
        io->id = value & 0x0f000000;
    else if (io->select >= 0x10 && io->select < 0x10 + 2 * PINS)
        write_redirection(c, (io->select - 0x10) >> 1, io->select & 1, value);
}
