/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * corners: what went wrong once in the engine. A guest that sees all is well says so at each step;
 * one that hangs says nothing more.
 *
 *   watchpoints   a data watchpoint raises #DB behind the instruction; one on the stack, where the
 *                 frame of an interrupt is written, must not stop the guest
 *   halting       a timer that is due before, at, and just after HLT
 *   answering     each typed byte is answered by one, from HLT to HLT with nothing but the serial
 *                 port's interrupt to wake it: who types at once types into the moment of halting;
 *                 ! begins the next, a dot powers off
 *   endless       the frame of #DB is written to what is watched: one #DB leads to the next,
 * without one instruction in between. The guest is lost; who runs it must not be
 */
#include "runtime.h"

#define IOAPIC        0xfec00000ull
#define SERIAL_GSI    4u
#define SERIAL_VECTOR 0x31u
#define DEBUG_VECTOR  1u
#define CALL_VECTOR   0x32u
#define SWEEP         3000u /* HLTs */
#define WATCH_WRITES  (1ull << 16)
#define WATCH_8_BYTES (2ull << 18)
#define WATCH_ON      1ull

static struct interrupts idt;
static volatile uint64_t watched, debugs, timers, calls;
static volatile int byte_typed;

static inline void watch(uint64_t address, uint64_t control)
{
    __asm__ volatile("mov %0, %%dr7" : : "r"(0ull));
    __asm__ volatile("mov %0, %%dr0" : : "r"(address));
    __asm__ volatile("mov %0, %%dr7" : : "r"(control) : "memory");
}

__attribute__((interrupt)) static void on_debug(struct frame *frame)
{
    uint64_t dr6;

    (void)frame;
    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    __asm__ volatile("mov %0, %%dr6" : : "r"(0ull));
    debugs += dr6 & 1;
}

__attribute__((interrupt)) static void on_timer(struct frame *frame)
{
    (void)frame;
    timers++;
    end_of_interrupt();
}

__attribute__((interrupt)) static void on_call(struct frame *frame)
{
    (void)frame;
    calls++;
}

__attribute__((interrupt)) static void on_serial(struct frame *frame)
{
    int c;

    (void)frame;
    while ((c = typed()) >= 0)
        byte_typed = c;
    end_of_interrupt();
}

static void verdict(const char *what, int good)
{
    print(what);
    print(good ? ": good\n" : ": BAD\n");
}

static void test_watchpoint(void)
{
    uint64_t before = debugs;

    watch((uint64_t)&watched, WATCH_ON | WATCH_WRITES | WATCH_8_BYTES);
    for (unsigned i = 0; i < 100; i++)
        watched = i;
    watch(0, 0);
    watched = 0;
    verdict("watchpoint", debugs - before == 100);
}

/* The frame of an interrupt is written below RSP rounded down to 16; its first word is watched. */
#define WATCH_STACK                                     \
    "mov %%rsp, %%rax; and $-16, %%rax; sub $8, %%rax;" \
    "mov %%rax, %%dr0; mov %0, %%dr7;"

static void test_watched_stack(void)
{
    const uint64_t on = WATCH_ON | WATCH_WRITES | WATCH_8_BYTES, off = 0;
    uint64_t before = timers, debugs_before = debugs;

    for (unsigned i = 0; i < 100; i++) {
        wrmsr(0x6e0, rdtsc() + 20000);
        __asm__ volatile(WATCH_STACK "sti; hlt; cli; mov %1, %%dr7"
                         :
                         : "r"(on), "r"(off)
                         : "rax", "memory");
        wrmsr(0x6e0, rdtsc() + 20000);
        __asm__ volatile(WATCH_STACK "sti; 1: pause; cmp %2, %3; je 1b; cli; mov %1, %%dr7"
                         :
                         : "r"(on), "r"(off), "r"(timers), "m"(timers)
                         : "rax", "memory");
        __asm__ volatile(WATCH_STACK "int $0x32; mov %1, %%dr7"
                         :
                         : "r"(on), "r"(off)
                         : "rax", "memory");
    }
    /* Each of the 300 frames was written to the watched word. */
    verdict("watched stack",
            timers - before == 200 && calls == 100 && debugs - debugs_before == 300);
}

static void test_halting(void)
{
    uint64_t before = timers;

    for (unsigned i = 0; i < SWEEP; i++)
        halt_until(rdtsc() + i * 16 % 40000);
    verdict("halting", timers - before == SWEEP);
}

static void start_serial(void)
{
    volatile uint32_t *select = (volatile uint32_t *)IOAPIC;
    volatile uint32_t *window = (volatile uint32_t *)(IOAPIC + 0x10);

    *select = 0x10 + 2 * SERIAL_GSI + 1;
    *window = 0; /* to local APIC 0 */
    *select = 0x10 + 2 * SERIAL_GSI;
    *window = SERIAL_VECTOR; /* edge, active high */
    outb(COM1 + 1, 1);       /* received bytes interrupt */
}

static void answer(void)
{
    char text[2] = {0};

    while (byte_typed != '.' && byte_typed != '!') {
        if (byte_typed >= 'a' && byte_typed <= 'z') {
            text[0] = (char)(byte_typed - 'a' + 'A');
            byte_typed = 0;
            print(text);
        }
        /* STI takes effect behind HLT: a byte typed since the look wakes it. */
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
}

/* #DB gets a stack of its own, so that each frame is written to the same place. */
static void endless(void)
{
    static uint64_t stack[64] __attribute__((aligned(16)));
    static uint32_t tss[26];
    static uint64_t gdt[6] = {0, 0, 0x00af9b000000ffffull, 0x00cf93000000ffffull};
    uint64_t top = (uint64_t)(stack + 64), base = (uint64_t)tss;
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) gdtr = {sizeof(gdt) - 1, (uint64_t)gdt};

    tss[9] = (uint32_t)top; /* IST 1 */
    tss[10] = (uint32_t)(top >> 32);
    gdt[4] =
        (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[5] = base >> 32;
    idt.gate[DEBUG_VECTOR].stack = 1;
    __asm__ volatile("lgdt %0; ltr %w1" : : "m"(gdtr), "r"(0x20));
    print("endless\n");
    watch(top - 8, WATCH_ON | WATCH_WRITES | WATCH_8_BYTES);
    ((volatile uint64_t *)top)[-1] = 1;
    print("there was an end: BAD\n");
}

void guest_main(uint8_t *boot_params)
{
    (void)boot_params;
    set_handler(&idt, DEBUG_VECTOR, on_debug);
    set_handler(&idt, CALL_VECTOR, on_call);
    set_handler(&idt, SERIAL_VECTOR, on_serial);
    start_interrupts(&idt, on_timer);
    test_watchpoint();
    test_watched_stack();
    test_halting();
    start_serial();
    print("ready login: \n");
    answer();
    if (byte_typed == '!')
        endless();
    print("DONE\n");
    power_off();
}
