/* SPDX-License-Identifier: GPL-2.0-or-later */
/* calls: INT, call gates and SYSCALL: the ways from ring 3 into ring 0. */
#include "fidelity.h"

#define IF        (1ull << 9)
#define TF        (1ull << 8)
#define NT        (1ull << 14)
#define ONE       2ull
#define MSR_EFER  0xc0000080u
#define MSR_STAR  0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define AUTH      0x68747541u /* AuthenticAMD */
#define MSR_FMASK 0xc0000084u
#define EFER_SCE  1ull

extern const char int_return[], gate_return[], syscall_return[];

CODE(int_dpl0, "int $0x81");
CODE(int_absent, "int $0x82");
CODE(int_own, "mov %rsp, scratch+80; int $0x83; .globl int_return; int_return: mov %cs, %eax");
CODE(int_own_trap, "int $0x84; mov %cs, %eax");
CODE(int_null, "int $0x86");
CODE(int_data, "int $0x87");
CODE(int_task, "int $0x88");
CODE(int_beyond, "int $0xf8");
CODE32(int_own_32, "mov %esp, scratch+80; int $0x83; mov %cs, %eax");
CODE32(int_beyond_32, "int $0xf8");

static struct {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed)) gate_pointer __attribute__((used));

CODE(call_gate, "mov %rsp, scratch+80; lcalll *gate_pointer; .globl gate_return; gate_return: "
                "mov %cs, %eax; mov %ss, %ecx; shl $16, %ecx; or %ecx, %eax");
CODE(jump_gate, "ljmpl *gate_pointer");
CODE32(call_gate_32, "lcall *gate_pointer; mov %cs, %eax");
CODE(gate_target,
     "mov %rsp, scratch+72; mov (%rsp), %rax; mov %rax, scratch+8; "
     "mov 8(%rsp), %rax; mov %rax, scratch+16; mov 16(%rsp), %rax; mov %rax, scratch+32; "
     "mov 24(%rsp), %rax; mov %rax, scratch+40; mov %cs, %eax; mov %rax, scratch+48; "
     "mov %ss, %eax; mov %rax, scratch+56; lretq");

CODE(run_syscall,
     "syscall; .globl syscall_return; syscall_return: mov %cs, %eax; mov %ss, %edx; shl $16, %edx; "
     "or %edx, %eax");
CODE(syscall_only, "syscall");
CODE(syscall_target,
     "mov %rcx, scratch+8; mov %r11, scratch+24; mov %cs, %eax; mov %rax, scratch+48; mov %ss, "
     "%eax; mov %rax, scratch+56; pushfq; pop scratch+64; sysretq");
CODE(run_sysret, "sysretq");
CODE32(run_syscall_32, "syscall; mov %cs, %eax; mov %ss, %edx; shl $16, %edx; or %edx, %eax");
CODE(syscall_target_32, "mov %rcx, scratch+8; mov %cs, %eax; mov %rax, scratch+48; sysretl");

static void check_own_frame(void)
{
    uint64_t top = rings_tss.rsp[0];

    for (unsigned i = 0; i < 16; i++)
        scratch[i] = 0;
    check_value("int into ring 0 and back", RING3, int_own, 0, SEL_CODE3);
    check_same("int pushes rip", scratch[1], (uint64_t)int_return);
    check_same("int pushes cs", scratch[2], SEL_CODE3);
    check_same("int pushes flags", scratch[3], IF | ONE);
    check_same("int pushes rsp", scratch[4], scratch[10]);
    check_same("int pushes ss", scratch[5], SEL_DATA3);
    check_same("int loads cs", scratch[6], SEL_CODE0);
    check_same("int loads no ss", scratch[7], 0);
    check_same("int clears IF", scratch[8] & (IF | TF | NT), 0);
    check_same("int takes its stack from the TSS", scratch[9], top - 40);
    check_value("int through a trap gate", RING3, int_own_trap, 0, SEL_CODE3);
    check_same("a trap gate leaves IF", scratch[8] & IF, IF);
    check_value("int into ring 0 and back", COMPAT3, int_own_32, 0, SEL_CODE3_32);
    check_same("int from 32-bit code pushes cs", scratch[2], SEL_CODE3_32);
    check_same("int from 32-bit code pushes rsp", scratch[4], scratch[10] & 0xffffffff);
}

static void check_int(void)
{
    check_own_frame();
    check_trap("int through a gate of DPL 0", RING3, int_dpl0, 0, TRAP_GP, INT_DPL0 * 8 + 2);
    check_trap("int through a gate of DPL 0", RING0, int_dpl0, 0, INT_DPL0, 0);
    check_trap("int through an absent gate", RING3, int_absent, 0, TRAP_NP, INT_ABSENT * 8 + 2);
    check_trap("int to null", RING3, int_null, 0, TRAP_GP, 0);
    check_trap("int to data", RING3, int_data, 0, TRAP_GP, SEL_DATA0);
    check_trap("int through a task gate", RING3, int_task, 0, TRAP_GP, INT_TASK * 8 + 2);
    check_trap("int beyond the IDT", RING3, int_beyond, 0, TRAP_GP, 0xf8 * 8 + 2);
    check_trap("int beyond the IDT", RING0, int_beyond, 0, TRAP_GP, 0xf8 * 8 + 2);
    check_trap("int beyond the IDT", COMPAT3, int_beyond_32, 0, TRAP_GP, 0xf8 * 8 + 2);
}

static void set_call_gate(unsigned at, unsigned selector, unsigned access)
{
    uint64_t to = (uint64_t)gate_target;

    rings_gdt[at / 8] = (to & 0xffff) | (uint64_t)selector << 16 | (uint64_t)access << 40 |
                        (to >> 16 & 0xffff) << 48;
    rings_gdt[at / 8 + 1] = to >> 32;
}

static void check_gates(void)
{
    static const struct {
        const char *call, *jump;
        uint32_t selector;
        unsigned vector;
        uint32_t call_error, jump_error;
    } refused[] = {
        {"call of a gate of DPL 0", "jump to a gate of DPL 0", SEL_GATE0, TRAP_GP, SEL_GATE0,
         SEL_GATE0},
        {"call of an absent gate", "jump to an absent gate", SEL_GATE_ABSENT, TRAP_NP,
         SEL_GATE_ABSENT, SEL_GATE_ABSENT},
        {"call of a gate to null", "jump to a gate to null", SEL_GATE_NULL, TRAP_GP, 0, 0},
        {"call of a gate to data", "jump to a gate to data", SEL_GATE_DATA, TRAP_GP, SEL_DATA0,
         SEL_DATA0},
    };

    for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        gate_pointer.selector = (uint16_t)refused[i].selector;
        check_trap(refused[i].call, RING3, call_gate, 0, refused[i].vector, refused[i].call_error);
        check_trap(refused[i].jump, RING3, jump_gate, 0, refused[i].vector, refused[i].jump_error);
    }
    gate_pointer.selector = SEL_GATE3 | 3;
    check_trap("jump through a gate into ring 0", RING3, jump_gate, 0, TRAP_GP, SEL_CODE0);
    for (unsigned i = 0; i < 16; i++)
        scratch[i] = 0;
    check_value("call through a gate and return", RING3, call_gate, 0, SEL_DATA3 << 16 | SEL_CODE3);
    check_same("the gate pushes rip", scratch[1], (uint64_t)gate_return);
    check_same("the gate pushes cs", scratch[2], SEL_CODE3);
    check_same("the gate pushes rsp", scratch[4], scratch[10]);
    check_same("the gate pushes ss", scratch[5], SEL_DATA3);
    check_same("the gate loads cs", scratch[6], SEL_CODE0);
    check_same("the gate loads no ss", scratch[7], 0);
    check_same("the gate takes its stack from the TSS", scratch[9], rings_tss.rsp[0] - 32);
    check_value("call through a gate and return", COMPAT3, call_gate_32, 0, SEL_CODE3_32);
}

static void check_syscall(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SCE);
    check_trap("syscall without SCE", RING3, syscall_only, 0, TRAP_UD, 0);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(SEL_CODE3_32 & ~3) << 48 | (uint64_t)SEL_CODE0 << 32);
    wrmsr(MSR_LSTAR, (uint64_t)syscall_target);
    wrmsr(MSR_FMASK, IF | TF);
    for (unsigned i = 0; i < 16; i++)
        scratch[i] = 0;
    check_value("syscall and sysret", RING3, run_syscall, 0, SEL_DATA3 << 16 | SEL_CODE3);
    check_same("syscall leaves rip in rcx", scratch[1], (uint64_t)syscall_return);
    check_same("syscall leaves flags in r11", scratch[3], IF | ONE);
    check_same("syscall loads cs", scratch[6], SEL_CODE0);
    check_same("syscall loads ss", scratch[7], SEL_DATA0);
    check_same("syscall masks flags", scratch[8], ONE);
    check_trap("sysret", RING3, run_sysret, 0, TRAP_GP, 0);
}

/* From 32-bit code AMD's CPUs go elsewhere, and Intel's do not know it. */
static void check_syscall_32(void)
{
    if (cpuid(0, 0).b != AUTH) {
        check_trap("syscall", COMPAT3, run_syscall_32, 0, TRAP_UD, 0);
        return;
    }
    wrmsr(MSR_CSTAR, (uint64_t)syscall_target_32);
    check_value("syscall and sysret", COMPAT3, run_syscall_32, 0, SEL_DATA3 << 16 | SEL_CODE3_32);
    check_same("syscall from 32-bit code leaves rip in rcx", scratch[1],
               (uint64_t)run_syscall_32 + 2);
    check_same("syscall from 32-bit code loads cs", scratch[6], SEL_CODE0);
}

void prepare_gates(void)
{
    set_call_gate(SEL_GATE3, SEL_CODE0, 0xec);
    set_call_gate(SEL_GATE0, SEL_CODE0, 0x8c);
    set_call_gate(SEL_GATE_ABSENT, SEL_CODE0, 0x6c);
    set_call_gate(SEL_GATE_NULL, 0, 0xec);
    set_call_gate(SEL_GATE_DATA, SEL_DATA0, 0xec);
}

void check_calls(void)
{
    gate_pointer.offset = 0x12345678; /* of no meaning */
    check_int();
    check_gates();
    check_syscall();
    check_syscall_32();
}
