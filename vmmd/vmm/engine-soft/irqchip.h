/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * irqchip: the interrupt controllers and timers of a PC in software, for the engine that has none
 * in the kernel: two 8259s, a local APIC (xAPIC, one CPU, id 0), an IOAPIC with 24 pins, an 8254.
 *
 * Pure models: they know neither the engine nor threads. The caller holds one lock over all of it
 * and, after each call, asks irqchip_pending() and irqchip_deadline(). Times are ns of guest time,
 * TSC values are guest TSC. Sources: Intel 8259A and 8254 data sheets, 82093AA, Intel SDM vol. 3
 * chapter 11.
 */
#ifndef ENGINE_SOFT_IRQCHIP_H
#define ENGINE_SOFT_IRQCHIP_H

#include <stdbool.h>
#include <stdint.h>

struct state;

struct pic {
    uint8_t irr, isr, imr, base, init, need_icw4, read_isr, auto_eoi, elcr, line;
};

struct lapic {
    uint32_t isr[8], irr[8], tmr[8], tpr, svr, esr, lvt[6], icr[2], ldr, dfr, initial_count, divide,
        id;
    uint64_t base;        /* IA32_APIC_BASE */
    uint64_t count_start; /* ns: when the count was loaded */
    uint64_t next;        /* ns: when it reaches zero; 0: not running */
    uint64_t deadline;    /* TSC: 0: disarmed */
};

struct ioapic {
    uint32_t select, id, irr, line;
    uint64_t redirection[24];
};

struct pit_channel {
    uint32_t count;
    uint8_t mode, access, write_low, write_state, read_state, latched, latch_state;
    uint16_t latch;
    uint64_t start, next; /* ns */
};

struct pit {
    struct pit_channel channel[3];
    uint8_t port61;
};

struct irqchip {
    struct pic pic[2];
    struct lapic lapic;
    struct ioapic ioapic;
    struct pit pit;
    uint64_t tsc_khz;
};

void irqchip_reset(struct irqchip *c, uint64_t tsc_khz);

/* A GSI 0..23 changes level (0..15 are the ISA lines; ISA 0 is pin 2 of the IOAPIC). */
void irqchip_line(struct irqchip *c, unsigned gsi, bool level);
void irqchip_msi(struct irqchip *c, uint64_t address, uint32_t data);

bool irqchip_pending(const struct irqchip *c);
int irqchip_acknowledge(struct irqchip *c); /* the vector to take now, or -1 */

/* Fires what is due; then the next moment something will be due, ns, UINT64_MAX for never. */
void irqchip_run_timers(struct irqchip *c, uint64_t now, uint64_t tsc);
uint64_t irqchip_deadline(const struct irqchip *c, uint64_t now, uint64_t tsc);

/* true: the port, address or MSR is one of ours. */
bool irqchip_pio_read(struct irqchip *c, uint16_t port, uint64_t now, uint8_t *ret_value);
bool irqchip_pio_write(struct irqchip *c, uint16_t port, uint64_t now, uint8_t value);
bool irqchip_mmio_read(struct irqchip *c, uint64_t gpa, uint64_t now, uint32_t *ret_value);
bool irqchip_mmio_write(struct irqchip *c, uint64_t gpa, uint64_t now, uint32_t value);
bool irqchip_msr_read(struct irqchip *c, uint32_t index, uint64_t *ret_value);
bool irqchip_msr_write(struct irqchip *c, uint32_t index, uint64_t value);
uint32_t irqchip_get_tpr(const struct irqchip *c);
void irqchip_set_tpr(struct irqchip *c, uint32_t tpr);

void irqchip_save(const struct irqchip *c, struct state *s);
void irqchip_load(struct irqchip *c, struct state *s);

/* ---- between the models, not for others */
void pic_line(struct irqchip *c, unsigned irq, bool level);
bool pic_pending(const struct irqchip *c);
int pic_acknowledge(struct irqchip *c);
uint8_t pic_read(struct irqchip *c, uint16_t port);
void pic_write(struct irqchip *c, uint16_t port, uint8_t value);

void lapic_reset(struct lapic *a);
void lapic_deliver(struct lapic *a, unsigned vector, bool level);
int lapic_next_vector(const struct lapic *a); /* or -1 */
bool lapic_accepts_extint(const struct lapic *a);
void lapic_run_timer(struct lapic *a, uint64_t now, uint64_t tsc);
uint32_t lapic_read(struct irqchip *c, uint32_t reg, uint64_t now);
void lapic_write(struct irqchip *c, uint32_t reg, uint32_t value, uint64_t now);

void ioapic_reset(struct ioapic *io);
void ioapic_line(struct irqchip *c, unsigned pin, bool level);
void ioapic_eoi(struct irqchip *c, unsigned vector);
uint32_t ioapic_read(const struct ioapic *io, uint32_t offset);
void ioapic_write(struct irqchip *c, uint32_t offset, uint32_t value);

void pit_run_timer(struct irqchip *c, uint64_t now);
uint8_t pit_read(struct pit *p, uint16_t port, uint64_t now);
void pit_write(struct pit *p, uint16_t port, uint8_t value, uint64_t now);

#endif
