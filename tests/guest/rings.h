/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rings: runs short pieces of code in ring 0 or 3, in 64-bit or 32-bit code segments, on descriptor
 * tables and page tables of the guest's own, and tells how each ended: by `int $0x80`, with which
 * registers, or by which exception. parts/rings.c; one CPU.
 */
#ifndef GUEST_RINGS_H
#define GUEST_RINGS_H

#include "runtime.h"

#include <stdbool.h>

/* Selectors. 0x28-0x38 lie as SYSRET wants them. */
enum {
    SEL_CODE0 = 0x10,
    SEL_DATA0 = 0x18,
    SEL_CODE0_32 = 0x20,
    SEL_CODE3_32 = 0x28 | 3,
    SEL_DATA3 = 0x30 | 3,
    SEL_CODE3 = 0x38 | 3,
    SEL_TSS = 0x40, /* 16 bytes, as the LDT and the call gates */
    SEL_LDT = 0x50,
    SEL_GATE3 = 0x60,       /* call gate, DPL 3, to ring 0 */
    SEL_GATE0 = 0x70,       /* DPL 0 */
    SEL_GATE_ABSENT = 0x80, /* not present */
    SEL_GATE_NULL = 0x90,   /* leads to the null selector */
    SEL_GATE_DATA = 0xa0,   /* leads to a data segment */
    SEL_CONFORMING = 0xb0,  /* code, DPL 0 */
    SEL_ABSENT = 0xb8,      /* data, DPL 3, not present */
    SEL_EXECUTE_ONLY = 0xc0,
    SEL_READ_ONLY = 0xc8,
    SEL_SMALL = 0xd0, /* data, DPL 3, 8 bytes at `scratch` */
    SEL_CODE_ABSENT = 0xd8,
    SEL_FRESH = 0xe0, /* data, DPL 3, not accessed yet */
    SEL_FREE_TSS = 0xe8,
    SEL_END = 0xf8,
    SEL_LDT_DATA = 0x08 | 4 | 3, /* in the LDT: data, DPL 3, at `scratch` */
    SEL_LDT_CODE0 = 0x10 | 4,
    SEL_LDT_END = 0x18
};

enum {
    TRAP_DE = 0,
    TRAP_DB = 1,
    TRAP_UD = 6,
    TRAP_NM = 7,
    TRAP_DF = 8,
    TRAP_TS = 10,
    TRAP_NP = 11,
    TRAP_SS = 12,
    TRAP_GP = 13,
    TRAP_PF = 14,
    TRAP_DONE = 0x80,
    /* Gates for `int` to be tried on; no stack of their own. */
    INT_DPL0 = 0x81,
    INT_ABSENT = 0x82,
    INT_OWN = 0x83,      /* DPL 3, interrupt gate: rings_int_target */
    INT_OWN_TRAP = 0x84, /* DPL 3, trap gate: the same */
    INT_NULL = 0x86,     /* DPL 3, to the null selector */
    INT_DATA = 0x87,     /* DPL 3, to a data segment */
    INT_TASK = 0x88,     /* DPL 3, a task gate: there are none in long mode */
    IDT_GATES = 0xf0     /* beyond: outside of the limit */
};

enum mode { RING0, RING3, RING3_IOPL3, COMPAT0, COMPAT3, MODES };

/* As the trap's code pushes it. */
struct trap {
    uint64_t fs, gs, ds, es;
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error;
    struct frame frame;
};

struct tss {
    uint32_t reserved;
    uint64_t rsp[3];
    uint64_t reserved2, ist[7];
    uint64_t reserved3;
    uint16_t reserved4, io_base;
    uint8_t io[9]; /* ports 0-63; the last byte is all ones */
} __attribute__((packed));

struct table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

/* A piece of code; it begins with rdi = the argument and ends by `int $0x80`. */
#define CODE(name, text)                                                          \
    extern const char name[];                                                     \
    __asm__(".pushsection .text\n.p2align 4\n.globl " #name "\n" #name ":\n" text \
            "\nint $0x80\n.popsection")
#define CODE32(name, text) CODE(name, ".code32\n" text "\nint $0x80\n.code64")

extern uint64_t rings_gdt[SEL_END / 8], rings_ldt[SEL_LDT_END / 8];
extern struct tss rings_tss;
extern struct interrupts rings_idt;
extern volatile uint64_t scratch[16];
extern uint64_t rings_page[512]; /* a page of its own, mapped by rings_pte */
extern volatile uint64_t *rings_pte;

void rings_start(void);
void rings_load_gdt(const void *base, uint16_t limit);
void rings_load_idt(const void *base, uint16_t limit);

/* Runs `code`; what it left. Valid until the next call. */
const struct trap *rings_run(enum mode mode, const void *code, uint64_t argument);

static inline uint64_t read_cr0(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}

static inline uint64_t read_cr3(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr3, %0" : "=r"(v));
    return v;
}

static inline uint64_t read_cr4(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr4, %0" : "=r"(v));
    return v;
}

static inline uint64_t read_cr2(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr2, %0" : "=r"(v));
    return v;
}

static inline void write_cr0(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory");
}

static inline void write_cr3(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
}

static inline void write_cr4(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return lo | (uint64_t)hi << 32;
}

static inline void invlpg(const void *at)
{
    __asm__ volatile("invlpg (%0)" : : "r"(at) : "memory");
}

struct cpuid {
    uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t index)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(index));
    return r;
}

#endif
