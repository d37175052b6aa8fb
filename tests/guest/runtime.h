/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * runtime: the little that a test guest needs: ports, text on the serial console, time, power-off,
 * PCI configuration. Ring 0, 64-bit, memory identity-mapped up to 4 GiB, interrupts off.
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

void guest_main(uint8_t *boot_params);

#endif
