/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pic: the pair of 8259A interrupt controllers. Linux uses it only until the IOAPIC is up; edge and
 * level triggering (ELCR), specific and non-specific EOI, automatic EOI. No rotation, no special
 * mask mode.
 */
#include "vmmd/vmm/engine-soft/irqchip.h"

#define CASCADE 2

/* The most urgent line that is raised, not masked, and above what is in service; or -1. */
static int pic_best(const struct pic *p, uint8_t irr)
{
    int raised = irr & ~p->imr;

    if (!raised)
        return -1;
    int line = __builtin_ctz((unsigned)raised);
    return p->isr && __builtin_ctz(p->isr) <= line ? -1 : line;
}

static uint8_t master_irr(const struct irqchip *c)
{
    bool slave = pic_best(&c->pic[1], c->pic[1].irr) >= 0;

    return (uint8_t)((c->pic[0].irr & ~(1u << CASCADE)) | (slave ? 1u << CASCADE : 0));
}

bool pic_pending(const struct irqchip *c)
{
    return pic_best(&c->pic[0], master_irr(c)) >= 0;
}

static void take(struct pic *p, int line)
{
    if (!(p->elcr >> line & 1))
        p->irr &= (uint8_t) ~(1u << line);
    if (!p->auto_eoi)
        p->isr |= (uint8_t)(1u << line);
}

int pic_acknowledge(struct irqchip *c)
{
    struct pic *master = &c->pic[0], *slave = &c->pic[1];
    int line = pic_best(master, master_irr(c));

    if (line < 0)
        return master->base + 7; /* spurious */
    take(master, line);
    if (line != CASCADE)
        return master->base + line;
    line = pic_best(slave, slave->irr);
    if (line < 0)
        return slave->base + 7;
    take(slave, line);
    return slave->base + line;
}

void pic_line(struct irqchip *c, unsigned irq, bool level)
{
    struct pic *p = &c->pic[irq >> 3];
    uint8_t bit = (uint8_t)(1u << (irq & 7));

    if (p->elcr & bit)
        p->irr = level ? p->irr | bit : p->irr & (uint8_t)~bit;
    else if (level && !(p->line & bit))
        p->irr |= bit; /* edge: latches the rise */
    p->line = level ? p->line | bit : p->line & (uint8_t)~bit;
}

static void write_command(struct pic *p, uint8_t value)
{
    if (value & 0x10) { /* ICW1 */
        p->init = 1;
        p->need_icw4 = value & 1;
        p->imr = p->isr = p->auto_eoi = p->read_isr = 0;
        p->irr = p->line & p->elcr;
    } else if (value & 8) { /* OCW3 */
        if (value & 2)
            p->read_isr = value & 1;
    } else { /* OCW2 */
        unsigned command = value >> 5;
        if (command == 1 || command == 5)
            p->isr &= (uint8_t)(p->isr - 1);
        else if (command == 3 || command == 7)
            p->isr &= (uint8_t) ~(1u << (value & 7));
    }
}

static void write_data(struct pic *p, uint8_t value)
{
    switch (p->init) {
    case 0: p->imr = value; break;
    case 1:
        p->base = value & 0xf8;
        p->init = 2;
        break;
    case 2: p->init = p->need_icw4 ? 3 : 0; break;
    case 3:
        p->auto_eoi = value >> 1 & 1;
        p->init = 0;
        break;
    }
}

void pic_write(struct irqchip *c, uint16_t port, uint8_t value)
{
    struct pic *p = &c->pic[port >= 0x4d0 ? port & 1 : port >> 7 & 1];

    if (port >= 0x4d0)
        p->elcr = value & (port & 1 ? 0xde : 0xf8); /* system lines stay edge-triggered */
    else if (port & 1)
        write_data(p, value);
    else
        write_command(p, value);
}

uint8_t pic_read(struct irqchip *c, uint16_t port)
{
    const struct pic *p = &c->pic[port >= 0x4d0 ? port & 1 : port >> 7 & 1];

    if (port >= 0x4d0)
        return p->elcr;
    if (port & 1)
        return p->imr;
    return p->read_isr ? p->isr : p->irr;
}
