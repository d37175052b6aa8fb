/* SPDX-License-Identifier: GPL-2.0-or-later */
/* far: far JMP, CALL, RET and IRET: which rings and segments they lead to. */
#include "fidelity.h"

static struct {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed)) pointer __attribute__((used));

CODE(far_jump, "ljmpl *pointer");
CODE(far_call, "mov %rsp, %rbx; lcalll *pointer; cmp %rsp, %rbx; je 1f; mov $-1, %rax; 1:");
CODE32(far_jump_32, "ljmp *pointer");
/* Where they lead to. */
CODE(tell_cs, "xor %eax, %eax; mov %cs, %eax");
CODE32(tell_cs_32, "mov %cs, %eax");
CODE(tell_and_return, "mov %cs, %eax; lretl");
/* Into 32-bit code and back, by far jumps. */
CODE(to_32_and_back, "ljmpl *1f; .p2align 3; 1: .long 2f; .word 0x2b; .code32; 2: mov %cs, %ebx; "
                     "ljmp $0x3b, $3f; .code64; 3: mov %cs, %eax; shl $16, %rbx; or %rbx, %rax");
CODE(far_return, "push %rdi; push $1f; lretq; 1: mov %cs, %eax");
CODE(iret_to,
     "mov %ss, %eax; push %rax; lea 8(%rsp), %rcx; push %rcx; pushfq; push %rdi; push $1f; iretq; "
     "1: mov %cs, %eax");
CODE(iret_ss,
     "push %rdi; lea 8(%rsp), %rcx; push %rcx; pushfq; mov %cs, %eax; push %rax; push $1f; iretq; "
     "1: mov %ss, %eax");
CODE(iret_far_away,
     "mov %ss, %eax; push %rax; lea 8(%rsp), %rcx; push %rcx; pushfq; mov %cs, %eax; "
     "push %rax; mov $0x800000000000, %rax; push %rax; iretq");
CODE(iret_nt,
     "mov %ss, %eax; push %rax; lea 8(%rsp), %rcx; push %rcx; pushfq; mov %cs, %eax; push %rax; "
     "push $1f; pushfq; orl $0x4000, (%rsp); popfq; iretq; 1: mov %cs, %eax");
/* From ring 0 to ring 3: what ds and fs hold there. rdi goes into both before. */
CODE(return_to_ring3,
     "mov %edi, %ds; mov %edi, %fs; push $0x33; lea 8(%rsp), %rcx; push %rcx; push $0x3b; "
     "push $1f; lretq; 1: mov %ds, %eax; mov %fs, %ecx; shl $16, %ecx; or %ecx, %eax");
CODE(iret_to_ring3,
     "mov %edi, %ds; mov %edi, %fs; push $0x33; lea 8(%rsp), %rcx; push %rcx; push $2; "
     "push $0x3b; push $1f; iretq; 1: mov %ds, %eax; mov %fs, %ecx; shl $16, %ecx; or %ecx, "
     "%eax");

static void point(const void *to, unsigned selector)
{
    pointer.offset = (uint32_t)(uint64_t)to;
    pointer.selector = (uint16_t)selector;
}

/* Far jumps and calls to segments that none may be made to. */
static const struct refused {
    const char *jump, *call;
    uint32_t selector;
    unsigned vector;
} refused[] = {
    {"far jump to code of DPL 0", "far call of code of DPL 0", SEL_CODE0, TRAP_GP},
    {"far jump to code of DPL 0, RPL 3", "far call of code of DPL 0, RPL 3", SEL_CODE0 | 3,
     TRAP_GP},
    {"far jump to code in the LDT, DPL 0", "far call of code in the LDT, DPL 0", SEL_LDT_CODE0,
     TRAP_GP},
    {"far jump to data", "far call of data", SEL_DATA3, TRAP_GP},
    {"far jump to absent code", "far call of absent code", SEL_CODE_ABSENT | 3, TRAP_NP},
    {"far jump to null", "far call of null", 0, TRAP_GP},
    {"far jump to a TSS", "far call of a TSS", SEL_FREE_TSS, TRAP_GP},
    {"far jump beyond the GDT", "far call beyond the GDT", 0x7f8, TRAP_GP},
};

static void check_refused(void)
{
    for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        const struct refused *r = &refused[i];
        point(tell_cs, r->selector);
        check_trap(r->jump, RING3, far_jump, 0, r->vector, r->selector & ~3u);
        check_trap(r->call, RING3, far_call, 0, r->vector, r->selector & ~3u);
    }
    point(tell_cs, SEL_CODE3);
    check_trap("far jump to code of DPL 3", RING0, far_jump, 0, TRAP_GP, SEL_CODE3 & ~3);
    point(tell_cs_32, SEL_CODE0_32);
    check_trap("far jump to code of DPL 0", COMPAT3, far_jump_32, 0, TRAP_GP, SEL_CODE0_32);
}

static void check_jumps(void)
{
    point(tell_cs, SEL_CODE3);
    check_value("far jump", RING3, far_jump, 0, SEL_CODE3);
    point(tell_cs, SEL_CODE3 & ~3);
    check_value("far jump with RPL 0 stays in ring 3", RING3, far_jump, 0, SEL_CODE3);
    point(tell_cs, SEL_CODE0);
    check_value("far jump", RING0, far_jump, 0, SEL_CODE0);
    point(tell_cs, SEL_CONFORMING);
    check_value("far jump to conforming code stays in ring 3", RING3, far_jump, 0,
                SEL_CONFORMING | 3);
    point(tell_cs_32, SEL_CODE3_32);
    check_value("far jump into 32-bit code", RING3, far_jump, 0, SEL_CODE3_32);
    check_value("into 32-bit code and back", RING3, to_32_and_back, 0,
                (uint64_t)SEL_CODE3_32 << 16 | SEL_CODE3);
    point(tell_and_return, SEL_CODE3);
    check_value("far call and return", RING3, far_call, 0, SEL_CODE3);
    point(tell_and_return, SEL_CODE0);
    check_value("far call and return", RING0, far_call, 0, SEL_CODE0);
    point(tell_and_return, SEL_CONFORMING);
    check_value("far call of conforming code and return", RING3, far_call, 0, SEL_CONFORMING | 3);
}

static void check_returns(void)
{
    check_value("far return", RING3, far_return, SEL_CODE3, SEL_CODE3);
    check_value("far return", RING0, far_return, SEL_CODE0, SEL_CODE0);
    check_trap("far return to ring 0", RING3, far_return, SEL_CODE0, TRAP_GP, SEL_CODE0);
    check_trap("far return to code of DPL 0, RPL 3", RING3, far_return, SEL_CODE0 | 3, TRAP_GP,
               SEL_CODE0);
    check_trap("far return to data", RING3, far_return, SEL_DATA3, TRAP_GP, SEL_DATA3 & ~3);
    check_trap("far return to null", RING3, far_return, 0, TRAP_GP, 0);
    check_trap("far return to absent code", RING3, far_return, SEL_CODE_ABSENT | 3, TRAP_NP,
               SEL_CODE_ABSENT);
    check_value("iret", RING3, iret_to, SEL_CODE3, SEL_CODE3);
    check_trap("iret to ring 0", RING3, iret_to, SEL_CODE0, TRAP_GP, SEL_CODE0);
    check_trap("iret to data", RING3, iret_to, SEL_DATA3, TRAP_GP, SEL_DATA3 & ~3);
    check_trap("iret to null", RING3, iret_to, 0, TRAP_GP, 0);
    check_trap("iret to a stack of DPL 0", RING3, iret_ss, SEL_DATA0 | 3, TRAP_GP, SEL_DATA0);
    check_trap("iret to no stack", RING3, iret_ss, 0, TRAP_GP, 0);
    check_trap("iret to an absent stack", RING3, iret_ss, SEL_ABSENT | 3, TRAP_SS, SEL_ABSENT);
    check_trap("iret with NT", RING3, iret_nt, 0, TRAP_GP, 0);
    check_trap("iret with NT", RING0, iret_nt, 0, TRAP_GP, 0);
    check_trap("iret to a non-canonical address", RING3, iret_far_away, 0, TRAP_GP, 0);
    check_value("far return to ring 3 takes data of DPL 0 away", RING0, return_to_ring3, SEL_DATA0,
                0);
    check_value("far return to ring 3 leaves data of DPL 3", RING0, return_to_ring3, SEL_DATA3,
                (uint64_t)SEL_DATA3 << 16 | SEL_DATA3);
    check_value("iret to ring 3 takes data of DPL 0 away", RING0, iret_to_ring3, SEL_DATA0, 0);
}

void check_far(void)
{
    check_jumps();
    check_refused();
    check_returns();
}
