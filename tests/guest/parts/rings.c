/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rings: see rings.h. Every gate but the INT_* has IST 1, so that what interrupted code did to its
 * stack does not matter and the trap's frame lies at one place. Page tables are an identity map
 * of 4 GiB that ring 3 may use as well; the 2 MiB around rings_page are mapped by pages of 4 KiB.
 */
#include "../rings.h"

#define PTE_ALL   7ull /* present, writable, ring 3 */
#define PTE_2M    0x87ull
#define PTE_CACHE 0x18ull /* PWT, PCD */
#define PAGE      4096u
#define STACK     2048u

uint64_t rings_gdt[SEL_END / 8], rings_ldt[SEL_LDT_END / 8];
struct tss rings_tss __attribute__((aligned(16)));
struct interrupts rings_idt __attribute__((aligned(16)));
volatile uint64_t scratch[16] __attribute__((aligned(64)));
uint64_t rings_page[512] __attribute__((aligned(4096)));
volatile uint64_t *rings_pte;

static uint64_t tables[7][512] __attribute__((aligned(4096)));
static struct {
    uint8_t trap[STACK], ring0[STACK], ring3[STACK];
} stacks __attribute__((aligned(64)));

/* Stub n pushes an error code where the CPU does not, and n. */
__asm__(".pushsection .text\n"
        ".set vector, 0\n"
        ".p2align 4\n"
        "trap_stubs:\n"
        ".rept 240\n"
        ".p2align 4\n"
        ".if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21\n"
        ".else\n"
        "pushq $0\n"
        ".endif\n"
        "pushq $vector\n"
        "jmp trap_common\n"
        ".set vector, vector + 1\n"
        ".endr\n"
        "trap_common:\n"
        "push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi\n"
        "push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15\n"
        "mov %es, %eax; push %rax; mov %ds, %eax; push %rax\n"
        "mov %gs, %eax; push %rax; mov %fs, %eax; push %rax\n"
        "mov %rsp, last_trap\n"
        "mov $0x18, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"
        "xor %eax, %eax; mov %eax, %fs; mov %eax, %gs\n"
        "mov runner_rsp, %rsp\n"
        "pushq $2; popfq\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "ret\n"
        /* enter(frame in rdi, argument in rsi, data selector in edx) */
        "enter:\n"
        "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, runner_rsp\n"
        "mov %edx, %ds; mov %edx, %es\n"
        "pushq 32(%rdi); pushq 24(%rdi); pushq 16(%rdi); pushq 8(%rdi); pushq (%rdi)\n"
        "mov %rsi, %rdi\n"
        "xor %eax, %eax; xor %ebx, %ebx; xor %ecx, %ecx; xor %edx, %edx; xor %esi, %esi\n"
        "xor %ebp, %ebp; xor %r8d, %r8d; xor %r9d, %r9d; xor %r10d, %r10d; xor %r11d, %r11d\n"
        "iretq\n"
        /* INT_OWN: the frame into scratch[1..5], CS, SS and flags into [6..8] */
        ".globl rings_int_target\n"
        "rings_int_target:\n"
        "pushfq; popq scratch+64\n"
        "mov %rsp, scratch+72\n"
        "mov (%rsp), %rax; mov %rax, scratch+8; mov 8(%rsp), %rax; mov %rax, scratch+16\n"
        "mov 16(%rsp), %rax; mov %rax, scratch+24; mov 24(%rsp), %rax; mov %rax, scratch+32\n"
        "mov 32(%rsp), %rax; mov %rax, scratch+40\n"
        "mov %cs, %eax; mov %rax, scratch+48; mov %ss, %eax; mov %rax, scratch+56\n"
        "iretq\n"
        ".popsection");

extern const char trap_stubs[], rings_int_target[];
void enter(const struct frame *frame, uint64_t argument, uint32_t data);
struct trap *last_trap;
uint64_t runner_rsp;

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
           (uint64_t)(base >> 24) << 56;
}

static void fill_gdt(void)
{
    uint64_t *g = rings_gdt;
    uint32_t at = (uint32_t)(uint64_t)scratch;

    g[SEL_CODE0 / 8] = descriptor(0, 0xfffff, 0x9b, 0xa);
    g[SEL_DATA0 / 8] = descriptor(0, 0xfffff, 0x93, 0xc);
    g[SEL_CODE0_32 / 8] = descriptor(0, 0xfffff, 0x9b, 0xc);
    g[SEL_CODE3_32 / 8] = descriptor(0, 0xfffff, 0xfb, 0xc);
    g[SEL_DATA3 / 8] = descriptor(0, 0xfffff, 0xf3, 0xc);
    g[SEL_CODE3 / 8] = descriptor(0, 0xfffff, 0xfb, 0xa);
    g[SEL_TSS / 8] = descriptor((uint32_t)(uint64_t)&rings_tss, sizeof(rings_tss) - 1, 0x89, 0);
    g[SEL_LDT / 8] = descriptor((uint32_t)(uint64_t)rings_ldt, sizeof(rings_ldt) - 1, 0x82, 0);
    g[SEL_CONFORMING / 8] = descriptor(0, 0xfffff, 0x9f, 0xa);
    g[SEL_ABSENT / 8] = descriptor(0, 0xfffff, 0x73, 0xc);
    g[SEL_EXECUTE_ONLY / 8] = descriptor(0, 0xfffff, 0xf9, 0xa);
    g[SEL_READ_ONLY / 8] = descriptor(0, 0xfffff, 0xf1, 0xc);
    g[SEL_SMALL / 8] = descriptor(at, 7, 0xf3, 0x4);
    g[SEL_CODE_ABSENT / 8] = descriptor(0, 0xfffff, 0x7b, 0xa);
    g[SEL_FRESH / 8] = descriptor(0, 0xfffff, 0xf2, 0xc);
    g[SEL_FREE_TSS / 8] =
        descriptor((uint32_t)(uint64_t)&rings_tss, sizeof(rings_tss) - 1, 0x89, 0);
    rings_ldt[SEL_LDT_DATA / 8] = descriptor(at, 0xfffff, 0xf3, 0xc);
    rings_ldt[SEL_LDT_CODE0 / 8] = descriptor(0, 0xfffff, 0x9b, 0xa);
}

static void set_gate(unsigned vector, const void *to, unsigned selector, unsigned type,
                     unsigned ist)
{
    uint64_t at = (uint64_t)to;

    rings_idt.gate[vector] = (struct gate_descriptor){(uint16_t)at,
                                                      (uint16_t)selector,
                                                      (uint8_t)ist,
                                                      (uint8_t)type,
                                                      (uint16_t)(at >> 16),
                                                      (uint32_t)(at >> 32),
                                                      0};
}

static void fill_idt(void)
{
    for (unsigned i = 0; i < IDT_GATES; i++)
        set_gate(i, trap_stubs + 16 * i, SEL_CODE0, 0x8e, 1);
    set_gate(TRAP_DONE, trap_stubs + 16 * TRAP_DONE, SEL_CODE0, 0xee, 1);
    set_gate(INT_ABSENT, rings_int_target, SEL_CODE0, 0x6e, 0);
    set_gate(INT_OWN, rings_int_target, SEL_CODE0, 0xee, 0);
    set_gate(INT_OWN_TRAP, rings_int_target, SEL_CODE0, 0xef, 0);
    set_gate(INT_NULL, rings_int_target, 0, 0xee, 0);
    set_gate(INT_DATA, rings_int_target, SEL_DATA0, 0xee, 0);
    set_gate(INT_TASK, rings_int_target, SEL_TSS, 0xe5, 0);
}

static void fill_page_tables(void)
{
    uint64_t window = (uint64_t)rings_page >> 21;

    tables[0][0] = (uint64_t)tables[1] | PTE_ALL;
    for (uint64_t i = 0; i < 4; i++) {
        tables[1][i] = (uint64_t)tables[2 + i] | PTE_ALL;
        for (uint64_t j = 0; j < 512; j++)
            tables[2 + i][j] = (i << 30 | j << 21) | PTE_2M | (i == 3 ? PTE_CACHE : 0);
    }
    for (uint64_t i = 0; i < 512; i++)
        tables[6][i] = (window << 21 | i << 12) | PTE_ALL;
    tables[2][window] = (uint64_t)tables[6] | PTE_ALL;
    rings_pte = &tables[6][(uint64_t)rings_page >> 12 & 511];
    write_cr3((uint64_t)tables[0]);
}

void rings_load_gdt(const void *base, uint16_t limit)
{
    struct table_register r = {limit, (uint64_t)base};
    __asm__ volatile("lgdt %0" : : "m"(r));
}

void rings_load_idt(const void *base, uint16_t limit)
{
    struct table_register r = {limit, (uint64_t)base};
    __asm__ volatile("lidt %0" : : "m"(r));
}

void rings_start(void)
{
    fill_gdt();
    fill_idt();
    fill_page_tables();
    rings_tss.rsp[0] = (uint64_t)(stacks.ring0 + STACK);
    rings_tss.ist[0] = (uint64_t)(stacks.trap + STACK);
    rings_tss.io_base = sizeof(rings_tss); /* none */
    rings_load_gdt(rings_gdt, sizeof(rings_gdt) - 1);
    rings_load_idt(&rings_idt, IDT_GATES * 16 - 1);
    __asm__ volatile(
        "lldt %w0; ltr %w1; mov %2, %%ds; mov %2, %%es; mov %2, %%ss; mov %3, %%fs; mov %3, %%gs"
        :
        : "r"(SEL_LDT), "r"(SEL_TSS), "r"(SEL_DATA0), "r"(0));
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

const struct trap *rings_run(enum mode mode, const void *code, uint64_t argument)
{
    static const struct {
        uint16_t cs, ss, flags;
    } modes[MODES] = {
        [RING0] = {SEL_CODE0, SEL_DATA0, 2},
        [RING3] = {SEL_CODE3, SEL_DATA3, 0x202},
        [RING3_IOPL3] = {SEL_CODE3, SEL_DATA3, 0x3202},
        [COMPAT0] = {SEL_CODE0_32, SEL_DATA0, 2},
        [COMPAT3] = {SEL_CODE3_32, SEL_DATA3, 0x202},
    };
    struct frame frame = {(uint64_t)code, modes[mode].cs, modes[mode].flags,
                          (uint64_t)(stacks.ring3 + STACK), modes[mode].ss};

    enter(&frame, argument, modes[mode].ss);
    return last_trap;
}
