/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nano: what single operations cost in a guest: "nano: NAME NANOSECONDS" for each. For
 * tests/bench/bench-engines.py; what each does stands there, too.
 *
 *   syscall  SYSCALL and SYSRET      in       a port that no device has
 *   cr3wr    MOV to CR3              callret  CALL and RET
 *   pgfault  a page is absent, the handler makes it present
 *   divzero  DIV by 0, the handler skips it
 *   ptemod   a page table entry changes, INVLPG, a read through it
 */
#include "rings.h"

#define MSR_EFER   0xc0000080u
#define MSR_STAR   0xc0000081u
#define MSR_LSTAR  0xc0000082u
#define MSR_FMASK  0xc0000084u
#define EFER_SCE   1ull
#define IF         (1ull << 9)
#define PAGE       4096u
#define WINDOW     (2ull << 20)
#define FIRST_PAGE 100u /* of the window: behind this program */
#define PAGES      400u
#define MS         20u /* a measurement takes at least */

/* rdi turns of `body`; the TSC's way in rax. */
#define LOOP(name, before, body)                                                              \
    CODE(name,                                                                                \
         before "\nrdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx\n.p2align 4\n1: " body \
                "\ndec %rdi; jnz 1b\n9: rdtsc; shl $32, %rdx; or %rdx, %rax; sub %rbx, %rax")

LOOP(loop_syscall, "", "syscall");
LOOP(loop_in, "", "in $0x80, %al");
LOOP(loop_cr3wr, "mov %cr3, %rcx", "mov %rcx, %cr3");
LOOP(loop_callret, "jmp 3f; 2: ret; 3:", "call 2b");
LOOP(loop_divzero, "xor %ecx, %ecx", "div %ecx");
LOOP(loop_pgfault, "mov nano_pages, %rsi", "mov (%rsi), %cl; add $4096, %rsi");
LOOP(loop_ptemod, "mov nano_pages, %rsi; mov nano_ptes, %rcx; add $800, %rcx",
     "xorq $2, (%rcx); invlpg (%rsi); mov (%rsi), %al");

CODE(on_syscall, "sysretq");
CODE(on_divide, "addq $2, (%rsp); iretq");
CODE(on_fault,
     "push %rax; push %rcx; mov %cr2, %rax; shr $12, %rax; and $511, %eax; mov nano_ptes, %rcx; "
     "orq $1, (%rcx, %rax, 8); pop %rcx; pop %rax; add $8, %rsp; iretq");

uint64_t nano_pages;          /* the first page that faults */
volatile uint64_t *nano_ptes; /* of the window */

static void prepare(void)
{
    uint64_t window = (uint64_t)rings_page & ~(WINDOW - 1);

    nano_ptes = rings_pte - ((uint64_t)rings_page - window) / PAGE;
    nano_pages = window + FIRST_PAGE * PAGE;
    set_handler(&rings_idt, TRAP_DE, (void *)on_divide);
    set_handler(&rings_idt, TRAP_PF, (void *)on_fault);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(SEL_CODE3_32 & ~3) << 48 | (uint64_t)SEL_CODE0 << 32);
    wrmsr(MSR_LSTAR, (uint64_t)on_syscall);
    wrmsr(MSR_FMASK, IF);
}

/* Cycles of n times PAGES faults. */
static uint64_t run_pgfault(enum mode mode, const void *code, uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n / PAGES; i++) {
        for (unsigned page = 0; page < PAGES; page++)
            nano_ptes[FIRST_PAGE + page] &= ~1ull;
        write_cr3(read_cr3());
        sum += rings_run(mode, code, PAGES)->rax;
    }
    return sum;
}

static uint64_t run_loop(enum mode mode, const void *code, uint64_t n)
{
    return rings_run(mode, code, n)->rax;
}

static void measure(const char *name, enum mode mode, const void *code, uint64_t khz,
                    uint64_t (*run)(enum mode mode, const void *code, uint64_t n))
{
    uint64_t n = PAGES, cycles, tenths;

    run(mode, code, n); /* the first time the host gives the memory */
    while ((cycles = run(mode, code, n)) < khz * MS)
        n *= 2;
    tenths = cycles * 10000 / khz * 1000 / n;
    print("nano: ");
    print(name);
    print(" ");
    print_number(tenths / 10);
    print(".");
    print_number(tenths % 10);
    print("\n");
}

void guest_main(uint8_t *boot_params)
{
    uint64_t khz = tsc_khz(boot_params);

    rings_start();
    prepare();
    if (khz == 0) {
        print("nano: the rate of the TSC is not known\n");
        power_off();
    }
    measure("syscall", RING3, loop_syscall, khz, run_loop);
    measure("in", RING0, loop_in, khz, run_loop);
    measure("cr3wr", RING0, loop_cr3wr, khz, run_loop);
    measure("callret", RING3, loop_callret, khz, run_loop);
    measure("pgfault", RING3, loop_pgfault, khz, run_pgfault);
    measure("divzero", RING3, loop_divzero, khz, run_loop);
    measure("ptemod", RING0, loop_ptemod, khz, run_loop);
    print("nano: done\n");
    power_off();
}
