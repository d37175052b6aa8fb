/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lapic: a local APIC in xAPIC mode for one CPU with id 0. The bus clock is 1 GHz: one timer tick
 * is one ns. Source: Intel SDM vol. 3, chapter 11.
 */
#include "vmmd/vmm/engine-soft/irqchip.h"

#include <string.h>

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE };

#define LVT_MASKED    0x10000u
#define SVR_ENABLED   0x100u
#define VERSION       0x00050014u /* 6 LVT entries */
#define ESR_ILLEGAL   0x40u
#define BASE_AT_RESET 0xfee00900ull /* enabled, bootstrap processor */

void lapic_reset(struct lapic *a)
{
    memset(a, 0, sizeof(*a));
    a->base = BASE_AT_RESET;
    a->svr = 0x1ff; /* as firmware leaves it: virtual wire mode, 8259 through LINT0 */
    a->dfr = ~0u;
    for (int i = 0; i < LVT_COUNT; i++)
        a->lvt[i] = LVT_MASKED;
    a->lvt[LVT_LINT0] = 0x700;
    a->lvt[LVT_LINT1] = 0x400;
}

static int top_bit(const uint32_t *reg)
{
    for (int i = 7; i >= 0; i--)
        if (reg[i])
            return i * 32 + 31 - __builtin_clz(reg[i]);
    return -1;
}

static uint32_t processor_priority(const struct lapic *a)
{
    int vector = top_bit(a->isr);
    uint32_t service = vector < 0 ? 0 : (uint32_t)vector & 0xf0;

    return (a->tpr & 0xf0) > service ? a->tpr & 0xff : service;
}

int lapic_next_vector(const struct lapic *a)
{
    if (!(a->svr & SVR_ENABLED))
        return -1;
    int vector = top_bit(a->irr);
    return vector >= 0 && ((uint32_t)vector & 0xf0) > (processor_priority(a) & 0xf0) ? vector : -1;
}

bool lapic_accepts_extint(const struct lapic *a)
{
    uint32_t lint0 = a->lvt[LVT_LINT0];

    return !(lint0 & LVT_MASKED) && (lint0 & 0x700) == 0x700;
}

void lapic_deliver(struct lapic *a, unsigned vector, bool level)
{
    uint32_t bit = 1u << (vector & 31);

    if (vector < 16) {
        a->esr |= ESR_ILLEGAL;
        return;
    }
    a->irr[vector >> 5] |= bit;
    if (level)
        a->tmr[vector >> 5] |= bit;
    else
        a->tmr[vector >> 5] &= ~bit;
}

static void end_of_interrupt(struct irqchip *c)
{
    struct lapic *a = &c->lapic;
    int vector = top_bit(a->isr);

    if (vector < 0)
        return;
    a->isr[vector >> 5] &= ~(1u << (vector & 31));
    if (a->tmr[vector >> 5] >> (vector & 31) & 1)
        ioapic_eoi(c, (unsigned)vector);
}

static unsigned timer_mode(const struct lapic *a)
{
    return a->lvt[LVT_TIMER] >> 17 & 3;
}

static uint64_t period(const struct lapic *a)
{
    unsigned code = (a->divide & 3) | (a->divide >> 1 & 4);
    uint64_t divisor = code == 7 ? 1 : 2ull << code;

    return a->initial_count * divisor;
}

static void start_timer(struct lapic *a, uint64_t now)
{
    a->count_start = now;
    a->next = a->initial_count ? now + period(a) : 0;
}

static void fire_timer(struct lapic *a)
{
    if (!(a->lvt[LVT_TIMER] & LVT_MASKED))
        lapic_deliver(a, a->lvt[LVT_TIMER] & 0xff, false);
}

void lapic_run_timer(struct lapic *a, uint64_t now, uint64_t tsc)
{
    if (a->next && now >= a->next) {
        if (timer_mode(a) == TIMER_PERIODIC) {
            a->next += period(a);
            if (a->next < now) /* fell behind: lost ticks are not made up for */
                a->next = now + period(a);
        } else {
            a->next = 0;
        }
        fire_timer(a);
    }
    if (a->deadline && tsc >= a->deadline) {
        a->deadline = 0;
        fire_timer(a);
    }
}

static uint32_t current_count(const struct lapic *a, uint64_t now)
{
    if (timer_mode(a) == TIMER_TSC_DEADLINE || !a->next || now >= a->next || !a->initial_count)
        return 0;
    return (uint32_t)((a->next - now) / (period(a) / a->initial_count));
}

uint32_t lapic_read(struct irqchip *c, uint32_t reg, uint64_t now)
{
    const struct lapic *a = &c->lapic;

    switch (reg) {
    case 0x20: return a->id;
    case 0x30: return VERSION;
    case 0x80: return a->tpr;
    case 0xa0: return processor_priority(a);
    case 0xd0: return a->ldr;
    case 0xe0: return a->dfr;
    case 0xf0: return a->svr;
    case 0x280: return a->esr;
    case 0x300: return a->icr[0];
    case 0x310: return a->icr[1];
    case 0x380: return a->initial_count;
    case 0x390: return current_count(a, now);
    case 0x3e0: return a->divide;
    }
    if (reg >= 0x100 && reg < 0x180)
        return a->isr[(reg - 0x100) >> 4];
    if (reg >= 0x180 && reg < 0x200)
        return a->tmr[(reg - 0x180) >> 4];
    if (reg >= 0x200 && reg < 0x280)
        return a->irr[(reg - 0x200) >> 4];
    if (reg >= 0x320 && reg < 0x380)
        return a->lvt[(reg - 0x320) >> 4];
    return 0;
}

/* INIT, SIPI and NMI to other CPUs go nowhere: there is one. */
static void send_ipi(struct lapic *a, uint32_t value)
{
    unsigned shorthand = value >> 18 & 3, mode = value >> 8 & 7, dest = a->icr[1] >> 24;
    bool logical = value & 0x800, self;

    a->icr[0] = value & ~0x1000u; /* delivered at once: never pending */
    if (shorthand)
        self = shorthand != 3;
    else if (logical)
        self = dest & (a->ldr >> 24);
    else
        self = dest == 0 || dest == 0xff;
    if (self && mode <= 1)
        lapic_deliver(a, value & 0xff, false);
}

static void write_svr(struct lapic *a, uint32_t value)
{
    a->svr = value & 0x3ff;
    if (!(value & SVR_ENABLED))
        for (int i = 0; i < LVT_COUNT; i++)
            a->lvt[i] |= LVT_MASKED;
}

static void write_lvt(struct lapic *a, unsigned entry, uint32_t value)
{
    if (entry == LVT_TIMER) {
        unsigned old = timer_mode(a);
        a->lvt[LVT_TIMER] = value & 0x700ff;
        if (timer_mode(a) != old) /* a change of mode disarms */
            a->next = a->deadline = 0;
        return;
    }
    a->lvt[entry] = value & (entry == LVT_ERROR ? 0x100ffu : 0x1a7ffu);
}

void lapic_write(struct irqchip *c, uint32_t reg, uint32_t value, uint64_t now)
{
    struct lapic *a = &c->lapic;

    switch (reg) {
    case 0x20: a->id = value & 0xff000000; break;
    case 0x80: irqchip_set_tpr(c, value); break;
    case 0xb0: end_of_interrupt(c); break;
    case 0xd0: a->ldr = value & 0xff000000; break;
    case 0xe0: a->dfr = value | 0x0fffffff; break;
    case 0xf0: write_svr(a, value); break;
    case 0x280: a->esr = 0; break;
    case 0x300: send_ipi(a, value); break;
    case 0x310: a->icr[1] = value & 0xff000000; break;
    case 0x380:
        a->initial_count = value;
        if (timer_mode(a) != TIMER_TSC_DEADLINE)
            start_timer(a, now);
        break;
    case 0x3e0: a->divide = value & 0xb; break;
    default:
        if (reg >= 0x320 && reg < 0x380)
            write_lvt(a, (reg - 0x320) >> 4, value);
    }
}
