/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * irqchip: wiring of the controllers and their place in port, MMIO and MSR space.
 */
#include "vmmd/vmm/engine-soft/irqchip.h"

#include "vmmd/vmm/state.h"

#include <string.h>

#define LAPIC_PAGE       0xfee00u
#define IOAPIC_PAGE      0xfec00u
#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define APIC_ENABLED     0x800u
#define GSI_COUNT        24u

void irqchip_reset(struct irqchip *c, uint64_t tsc_khz)
{
    memset(c, 0, sizeof(*c));
    c->tsc_khz = tsc_khz;
    lapic_reset(&c->lapic);
    ioapic_reset(&c->ioapic);
}

void irqchip_line(struct irqchip *c, unsigned gsi, bool level)
{
    if (gsi >= GSI_COUNT)
        return;
    if (gsi < 16)
        pic_line(c, gsi, level);
    ioapic_line(c, gsi == 0 ? 2 : gsi, level); /* as the MADT says: ISA IRQ 0 is GSI 2 */
}

void irqchip_msi(struct irqchip *c, uint64_t address, uint32_t data)
{
    unsigned mode = data >> 8 & 7;

    if (address >> 20 == 0xfee && mode <= 1) /* fixed or lowest priority: there is one CPU */
        lapic_deliver(&c->lapic, data & 0xff, false);
}

static bool apic_on(const struct irqchip *c)
{
    return c->lapic.base & APIC_ENABLED;
}

static bool extint_pending(const struct irqchip *c)
{
    return (!apic_on(c) || lapic_accepts_extint(&c->lapic)) && pic_pending(c);
}

bool irqchip_pending(const struct irqchip *c)
{
    return (apic_on(c) && lapic_next_vector(&c->lapic) >= 0) || extint_pending(c);
}

int irqchip_acknowledge(struct irqchip *c)
{
    struct lapic *a = &c->lapic;
    int vector;

    if (extint_pending(c))
        return pic_acknowledge(c);
    if (!apic_on(c))
        return -1;
    vector = lapic_next_vector(a);
    if (vector >= 0) {
        a->irr[vector >> 5] &= ~(1u << (vector & 31));
        a->isr[vector >> 5] |= 1u << (vector & 31);
    }
    return vector;
}

void irqchip_run_timers(struct irqchip *c, uint64_t now, uint64_t tsc)
{
    pit_run_timer(c, now);
    lapic_run_timer(&c->lapic, now, tsc);
}

uint64_t irqchip_deadline(const struct irqchip *c, uint64_t now, uint64_t tsc)
{
    uint64_t due = UINT64_MAX;

    if (c->pit.channel[0].next)
        due = c->pit.channel[0].next;
    if (c->lapic.next && c->lapic.next < due)
        due = c->lapic.next;
    if (c->lapic.deadline) {
        uint64_t left = c->lapic.deadline > tsc ? c->lapic.deadline - tsc : 0;
        unsigned __int128 ns = (unsigned __int128)left * 1000000 / c->tsc_khz;
        if (ns < UINT64_MAX - now && now + (uint64_t)ns < due)
            due = now + (uint64_t)ns;
    }
    return due;
}

bool irqchip_pio_read(struct irqchip *c, uint16_t port, uint64_t now, uint8_t *ret_value)
{
    switch (port) {
    case 0x20:
    case 0x21:
    case 0xa0:
    case 0xa1:
    case 0x4d0:
    case 0x4d1: *ret_value = pic_read(c, port); return true;
    case 0x40:
    case 0x41:
    case 0x42:
    case 0x43:
    case 0x61: *ret_value = pit_read(&c->pit, port, now); return true;
    default: return false;
    }
}

bool irqchip_pio_write(struct irqchip *c, uint16_t port, uint64_t now, uint8_t value)
{
    switch (port) {
    case 0x20:
    case 0x21:
    case 0xa0:
    case 0xa1:
    case 0x4d0:
    case 0x4d1: pic_write(c, port, value); return true;
    case 0x40:
    case 0x41:
    case 0x42:
    case 0x43:
    case 0x61: pit_write(&c->pit, port, value, now); return true;
    default: return false;
    }
}

bool irqchip_mmio_read(struct irqchip *c, uint64_t gpa, uint64_t now, uint32_t *ret_value)
{
    if (gpa >> 12 == LAPIC_PAGE)
        *ret_value = lapic_read(c, gpa & 0xff0, now);
    else if (gpa >> 12 == IOAPIC_PAGE)
        *ret_value = ioapic_read(&c->ioapic, gpa & 0xff);
    else
        return false;
    return true;
}

bool irqchip_mmio_write(struct irqchip *c, uint64_t gpa, uint64_t now, uint32_t value)
{
    if (gpa >> 12 == LAPIC_PAGE)
        lapic_write(c, gpa & 0xff0, value, now);
    else if (gpa >> 12 == IOAPIC_PAGE)
        ioapic_write(c, gpa & 0xff, value);
    else
        return false;
    return true;
}

bool irqchip_msr_read(struct irqchip *c, uint32_t index, uint64_t *ret_value)
{
    if (index == MSR_APIC_BASE)
        *ret_value = c->lapic.base;
    else if (index == MSR_TSC_DEADLINE)
        *ret_value = c->lapic.deadline;
    else
        return false;
    return true;
}

bool irqchip_msr_write(struct irqchip *c, uint32_t index, uint64_t value)
{
    if (index ==
        MSR_APIC_BASE) { /* the address stays where the MADT says; only enable can change */
        c->lapic.base = (c->lapic.base & ~(uint64_t)APIC_ENABLED) | (value & APIC_ENABLED);
        return true;
    }
    if (index != MSR_TSC_DEADLINE)
        return false;
    if ((c->lapic.lvt[0] >> 17 & 3) == 2)
        c->lapic.deadline = value;
    return true;
}

uint32_t irqchip_get_tpr(const struct irqchip *c)
{
    return c->lapic.tpr;
}

void irqchip_set_tpr(struct irqchip *c, uint32_t tpr)
{
    c->lapic.tpr = tpr & 0xff;
}

/* Saved whole: plain integers in a fixed layout; the version changes with it. Clocks in it are
 * guest time. */
#define IRQCHIP_VERSION 1

void irqchip_save(const struct irqchip *c, struct state *s)
{
    state_begin(s, "irqchip-soft", IRQCHIP_VERSION);
    state_put(s, c, sizeof(*c));
    state_end(s);
}

void irqchip_load(struct irqchip *c, struct state *s)
{
    struct irqchip loaded;

    if (state_open(s, "irqchip-soft") == IRQCHIP_VERSION)
        state_get(s, &loaded, sizeof(loaded));
    state_close(s); /* another version: bytes are left over */
    if (s->error)
        return;
    loaded.tsc_khz = c->tsc_khz; /* this host's; and a divisor */
    loaded.pic[0].base &= 0xf8;
    loaded.pic[1].base &= 0xf8;
    *c = loaded;
}
