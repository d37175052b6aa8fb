/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * runtime: the little that a test guest needs: ports, text on the serial console, time, power-off,
 * PCI configuration, halting. Ring 0, 64-bit, memory identity-mapped up to 4 GiB, interrupts off
 * but in halt_until().
 */
#ifndef GUEST_RUNTIME_H
#define GUEST_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define COM1 0x3f8

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

static inline void print(const char *text)
{
    while (*text)
        outb(COM1, (uint8_t)*text++);
}

static inline void print_number(uint64_t n)
{
    char digits[24], *at = digits + sizeof(digits) - 1;

    *at = '\0';
    do
        *--at = (char)('0' + n % 10);
    while (n /= 10);
    print(at);
}

static inline int typed(void) /* somebody typed: the byte, or -1 */
{
    return inb(COM1 + 5) & 1 ? inb(COM1) : -1;
}

static inline void power_off(void)
{
    outw(0x604, 5 << 10 | 1 << 13);
    for (;;)
        __asm__ volatile("cli; hlt");
}

static inline uint32_t pci_read(unsigned slot, unsigned at)
{
    outl(0xcf8, 0x80000000u | slot << 11 | (at & 0xfc));
    return inl(0xcfc);
}

/* The slot of a virtio device by its PCI device id, or 0. */
static inline unsigned pci_find_virtio(uint16_t device)
{
    for (unsigned slot = 1; slot < 16; slot++)
        if (pci_read(slot, 0) == (0x1af4u | (uint32_t)device << 16))
            return slot;
    return 0;
}

/* ---- what the boot protocol tells ---- */

/* The end of the RAM that holds `address`. */
static inline uint64_t ram_end(const uint8_t *boot_params, uint64_t address)
{
    uint64_t end = 0;

    for (unsigned i = 0; i < boot_params[0x1e8]; i++) { /* e820: 20 bytes an entry */
        const uint8_t *e = boot_params + 0x2d0 + 20 * i;
        uint64_t start = *(const uint64_t *)e, size = *(const uint64_t *)(e + 8);
        if (*(const uint32_t *)(e + 16) == 1 && start <= address && start + size > end)
            end = start + size;
    }
    return end;
}

/* The rate of the TSC, from the command line; 0: it does not say. */
static inline uint64_t tsc_khz(const uint8_t *boot_params)
{
    static const char name[] = "tsc_early_khz=";
    const char *line = (const char *)(uint64_t) * (const uint32_t *)(boot_params + 0x228);
    uint64_t khz = 0;

    for (unsigned i = 0; *line && name[i]; line++)
        i = *line == name[i] ? i + 1 : *line == name[0];
    while (*line >= '0' && *line <= '9')
        khz = khz * 10 + (uint64_t)(*line++ - '0');
    return khz;
}

/* ---- interrupts, halting ---- */

#define LAPIC        0xfee00000ull
#define TIMER_VECTOR 0x30u
#define CODE_SEGMENT 0x10u

struct gate_descriptor {
    uint16_t offset_low, selector;
    uint8_t stack, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

struct interrupts {
    struct gate_descriptor gate[256];
};

struct frame {
    uint64_t rip, cs, rflags, rsp, ss;
};

static inline volatile uint32_t *lapic(unsigned reg)
{
    return (volatile uint32_t *)(LAPIC + reg);
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}

/* `handler`: a function with __attribute__((interrupt)). */
static inline void set_handler(struct interrupts *idt, unsigned vector, void *handler)
{
    uint64_t at = (uint64_t)handler;

    idt->gate[vector] = (struct gate_descriptor){
        (uint16_t)at, CODE_SEGMENT, 0, 0x8e, (uint16_t)(at >> 16), (uint32_t)(at >> 32), 0};
}

/* Interrupts come from the local APIC only; `handler` of its timer must write its EOI. */
static inline void start_interrupts(struct interrupts *idt, void *handler)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = {sizeof(*idt) - 1, (uint64_t)idt};

    set_handler(idt, TIMER_VECTOR, handler);
    __asm__ volatile("lidt %0" : : "m"(idtr));
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    *lapic(0xf0) = 0x1ff;                    /* on */
    *lapic(0x320) = TIMER_VECTOR | 2u << 17; /* TSC deadline */
}

static inline void end_of_interrupt(void)
{
    *lapic(0xb0) = 0;
}

/* Until an interrupt came: that of the timer at this TSC at the latest. */
static inline void halt_until(uint64_t tsc)
{
    wrmsr(0x6e0, tsc);
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

void guest_main(uint8_t *boot_params);

#endif
