/* SPDX-License-Identifier: GPL-2.0-or-later */
/* flags: POPF PUSHF CLI STI IRET: ring 3 changes neither IF nor IOPL, and sees its own. */
#include "fidelity.h"

#define CF   1ull
#define TF   (1ull << 8)
#define IF   (1ull << 9)
#define IOPL (3ull << 12)
#define RF   (1ull << 16)
#define VM   (1ull << 17)
#define VIF  (1ull << 19)
#define VIP  (1ull << 20)
#define USER 0x244cd5ull /* ID AC NT OF DF SF ZF AF PF CF */
#define ONE  2ull        /* always set */

CODE(pop_and_push, "push %rdi; popfq; pushfq; pop %rax");
CODE(pop_and_push_word, "push %di; popfw; pushfq; pop %rax");
CODE32(pop_and_push_32, "push %edi; popfl; pushfl; pop %eax");
CODE(only_push, "pushfq; pop %rax");
CODE(only_push_word, "pushfw; pop %ax");
CODE(run_cli, "cli; pushfq; pop %rax");
CODE(run_sti, "sti; nop; pushfq; pop %rax");
CODE32(run_cli_32, "cli");
CODE(iret_flags,
     "mov %ss, %eax; push %rax; lea 8(%rsp), %rcx; push %rcx; push %rdi; mov %cs, %eax; "
     "push %rax; push $1f; iretq; 1: pushfq; pop %rax");
CODE(trace, "pushfq; orl $0x100, (%rsp); popfq; .globl traced; traced: nop; nop; nop");
CODE(run_int3, "int3");
CODE(run_into_64, ".byte 0xce");
CODE32(run_into_32, "mov $0x7f, %al; inc %al; into");

extern const char traced[];

static void check_ring3(void)
{
    check_value("pushf shows IF", RING3, only_push, 0, IF | ONE);
    check_value("pushf shows IOPL", RING3_IOPL3, only_push, 0, IF | IOPL | ONE);
    check_value("pushfw", RING3, only_push_word, 0, IF | ONE);
    check_value("popf of 0 leaves IF", RING3, pop_and_push, 0, IF | ONE);
    check_value("popf leaves IOPL", RING3, pop_and_push, IF | IOPL, IF | ONE);
    check_value("popf leaves IF and IOPL", RING3, pop_and_push, IOPL, IF | ONE);
    check_value("popf sets what it may", RING3, pop_and_push, USER, USER | IF | ONE);
    check_value("popf leaves VM VIF VIP, drops RF", RING3, pop_and_push, VM | VIF | VIP | RF,
                IF | ONE);
    check_value("popf leaves reserved bits", RING3, pop_and_push, 0xffffffffffc08028, IF | ONE);
    check_value("popf of 0 leaves IF", COMPAT3, pop_and_push_32, 0, IF | ONE);
    check_value("popf sets what it may", COMPAT3, pop_and_push_32, USER, USER | IF | ONE);
    check_value("popf of 0 clears IF", RING3_IOPL3, pop_and_push, IOPL, IOPL | ONE);
    check_value("popf leaves IOPL", RING3_IOPL3, pop_and_push, IF, IF | IOPL | ONE);
    check_trap("cli", RING3, run_cli, 0, TRAP_GP, 0);
    check_trap("sti", RING3, run_sti, 0, TRAP_GP, 0);
    check_trap("cli", COMPAT3, run_cli_32, 0, TRAP_GP, 0);
    check_value("cli", RING3_IOPL3, run_cli, 0, IOPL | ONE);
    check_value("sti", RING3_IOPL3, run_sti, 0, IF | IOPL | ONE);
    check_value("iret leaves IF", RING3, iret_flags, 0, IF | ONE);
    check_value("iret leaves IOPL", RING3, iret_flags, IF | IOPL, IF | ONE);
    check_value("iret leaves VM", RING3, iret_flags, VM, IF | ONE);
}

static void check_ring0(void)
{
    check_value("pushf", RING0, only_push, 0, ONE);
    check_value("popf changes IF and IOPL", RING0, pop_and_push, IF | IOPL, IF | IOPL | ONE);
    check_value("popf of 0", RING0, pop_and_push, 0, ONE);
    check_value("popf sets what it may", RING0, pop_and_push, USER | IF, USER | IF | ONE);
    check_value("popf leaves VM, clears VIF VIP RF", RING0, pop_and_push, VM | VIF | VIP | RF, ONE);
    check_value("popfw", RING0, pop_and_push_word, IF | CF, IF | CF | ONE);
    check_value("cli", RING0, run_cli, 0, ONE);
    check_value("sti", RING0, run_sti, 0, IF | ONE);
    check_value("iret changes IF and IOPL", RING0, iret_flags, IF | IOPL, IF | IOPL | ONE);
}

static void check_trace(enum mode mode)
{
    const struct trap *t = rings_run(mode, trace, 0);

    verdict("popf of TF traps behind the next instruction", mode,
            (struct outcome){t->vector, t->error, 0}, (struct outcome){TRAP_DB, 0, 0});
    verdict("where it traps", mode, (struct outcome){TRAP_DONE, 0, t->frame.rip},
            (struct outcome){TRAP_DONE, 0, (uint64_t)traced + 1});
    verdict("TF is in the frame", mode, (struct outcome){TRAP_DONE, 0, t->frame.rflags & TF},
            (struct outcome){TRAP_DONE, 0, TF});
}

void check_flags(void)
{
    check_ring3();
    check_ring0();
    check_trace(RING0);
    check_trace(RING3);
    check_trap("int3 through a gate of DPL 0", RING3, run_int3, 0, TRAP_GP, 3 * 8 + 2);
    check_trap("int3", RING0, run_int3, 0, 3, 0);
    check_trap("into", RING3, run_into_64, 0, TRAP_UD, 0);
    check_trap("into through a gate of DPL 0", COMPAT3, run_into_32, 0, TRAP_GP, 4 * 8 + 2);
}
