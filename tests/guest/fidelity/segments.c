/* SPDX-License-Identifier: GPL-2.0-or-later */
/* segments: MOV, PUSH and POP of segment registers, what loading them checks and what follows. */
#include "fidelity.h"

#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u

CODE(read_cs, "mov $-1, %rax; mov %cs, %eax");
CODE(read_ss, "mov $-1, %rax; mov %ss, %rax");
CODE(read_ds, "mov $-1, %rax; mov %ds, %ax");
CODE(read_ss_memory, "movq $-1, scratch; mov %ss, scratch; mov scratch, %rax");
CODE32(read_cs_32, "mov %cs, %eax");
CODE32(push_ss_32, "push %ss; pop %eax; movzwl %ax, %eax");
CODE32(push_pop_es_32, "push %edi; pop %es; push %es; pop %eax; movzwl %ax, %eax");
CODE(mov_fs, "mov %edi, %fs; mov %fs, %eax");
CODE(mov_ds, "mov %edi, %ds; mov %ds, %eax");
CODE(push_pop_fs, "push %rdi; pop %fs; pushq %fs; pop %rax; movzwl %ax, %eax");
CODE(push_pop_gs, "push %rdi; pop %gs; pushq %gs; pop %rax; movzwl %ax, %eax");
CODE(pop_fs_16, "push %di; popw %fs; mov %fs, %eax");
CODE(mov_ss, "mov %ss, %ecx; mov %edi, %ss; mov %ss, %eax; mov %ecx, %ss");
CODE(mov_cs, ".byte 0x8e, 0xcf");
CODE(push_cs_64, ".byte 0x0e");
CODE32(push_cs_32, "push %cs; pop %eax; movzwl %ax, %eax");
CODE(fs_base, "mov %edi, %fs; mov %fs:0, %rax");
CODE(fs_beyond, "mov %edi, %fs; mov %fs:8, %eax; mov $1, %eax");
CODE32(fs_base_32, "mov %edi, %fs; mov %fs:0, %eax");
CODE32(fs_beyond_32, "mov %edi, %fs; mov %fs:8, %eax; mov $1, %eax");
CODE32(fs_write_32, "mov %edi, %fs; mov %eax, %fs:scratch; mov $1, %eax");
CODE32(fs_null_32, "mov %edi, %fs; mov %fs:scratch, %eax; mov $1, %eax");
CODE32(lfs_32, "mov %edi, scratch+4; lfs scratch, %eax; mov %fs, %eax");
CODE(run_swapgs, "swapgs");
CODE(read_gs_0, "mov %gs:0, %rax");
CODE(read_fs_0, "mov %fs:0, %rax");

static const struct load {
    const char *name;
    uint32_t selector;
    unsigned ring3, ring0; /* the exception, or TRAP_DONE */
} loads[] = {
    {"data, DPL 3", SEL_DATA3, TRAP_DONE, TRAP_DONE},
    {"data, DPL 3, RPL 0", SEL_DATA3 & ~3, TRAP_DONE, TRAP_DONE},
    {"data, DPL 0", SEL_DATA0, TRAP_GP, TRAP_DONE},
    {"data, DPL 0, RPL 3", SEL_DATA0 | 3, TRAP_GP, TRAP_GP},
    {"absent data", SEL_ABSENT, TRAP_NP, TRAP_NP},
    {"code", SEL_CODE3, TRAP_DONE, TRAP_DONE},
    {"conforming code", SEL_CONFORMING | 3, TRAP_DONE, TRAP_DONE},
    {"execute-only code", SEL_EXECUTE_ONLY, TRAP_GP, TRAP_GP},
    {"read-only data", SEL_READ_ONLY, TRAP_DONE, TRAP_DONE},
    {"a TSS", SEL_TSS, TRAP_GP, TRAP_GP},
    {"a call gate", SEL_GATE3, TRAP_GP, TRAP_GP},
    {"data in the LDT", SEL_LDT_DATA, TRAP_DONE, TRAP_DONE},
    {"what lies beyond the LDT", SEL_LDT_END | 4, TRAP_GP, TRAP_GP},
    {"what lies beyond the GDT", 0x7f8, TRAP_GP, TRAP_GP},
    {"null", 0, TRAP_DONE, TRAP_DONE},
    {"null with RPL 3", 3, TRAP_DONE, TRAP_DONE},
};

static const struct load stack_loads[] = {
    {"data, DPL 3", SEL_DATA3, TRAP_DONE, TRAP_GP},
    {"data, DPL 3, RPL 0", SEL_DATA3 & ~3, TRAP_GP, TRAP_GP},
    {"data, DPL 0", SEL_DATA0, TRAP_GP, TRAP_DONE},
    {"read-only data", SEL_READ_ONLY, TRAP_GP, TRAP_GP},
    {"absent data", SEL_ABSENT | 3, TRAP_SS, TRAP_GP},
    {"code", SEL_CODE3, TRAP_GP, TRAP_GP},
    {"data in the LDT", SEL_LDT_DATA, TRAP_DONE, TRAP_GP},
    {"null", 0, TRAP_GP, TRAP_DONE},
};

static void check_load(const char *how, enum mode mode, const void *code, const struct load *l)
{
    unsigned vector = mode == RING0 ? l->ring0 : l->ring3;
    char name[96];
    unsigned n = 0;

    for (const char *at = how; *at; at++)
        name[n++] = *at;
    for (const char *at = l->name; *at; at++)
        name[n++] = *at;
    name[n] = '\0';
    if (vector == TRAP_DONE)
        check_value(name, mode, code, l->selector, l->selector);
    else /* the null selector has no error code but 0 */
        check_trap(name, mode, code, l->selector, vector, l->selector & ~3u);
}

static void check_reads(void)
{
    check_value("mov from cs", RING0, read_cs, 0, SEL_CODE0);
    check_value("mov from cs", RING3, read_cs, 0, SEL_CODE3);
    check_value("mov from ss", RING0, read_ss, 0, SEL_DATA0);
    check_value("mov from ss", RING3, read_ss, 0, SEL_DATA3);
    check_value("mov from ds, 16 bits", RING3, read_ds, 0, ~0xffffull | SEL_DATA3);
    check_value("mov from ss to memory", RING3, read_ss_memory, 0, ~0xffffull | SEL_DATA3);
    check_value("mov from cs", COMPAT3, read_cs_32, 0, SEL_CODE3_32);
    check_value("mov from cs", COMPAT0, read_cs_32, 0, SEL_CODE0_32);
    check_value("push ss", COMPAT3, push_ss_32, 0, SEL_DATA3);
    check_value("push cs", COMPAT3, push_cs_32, 0, SEL_CODE3_32);
    check_trap("push cs", RING3, push_cs_64, 0, TRAP_UD, 0);
    check_trap("mov to cs", RING3, mov_cs, SEL_CODE3, TRAP_UD, 0);
    check_trap("mov to cs", RING0, mov_cs, SEL_CODE0, TRAP_UD, 0);
}

static void check_bases(void)
{
    uint64_t gs = 0x1122334455667788;

    scratch[0] = 0xfeedfacecafef00d;
    scratch[1] = 0;
    check_value("a base out of the LDT", RING3, fs_base, SEL_LDT_DATA, scratch[0]);
    check_value("a base out of the GDT", RING3, fs_base, SEL_SMALL, scratch[0]);
    check_value("a base out of the LDT", COMPAT3, fs_base_32, SEL_LDT_DATA, scratch[0]);
    check_value("no limit in 64-bit code", RING3, fs_beyond, SEL_SMALL, 1);
    check_trap("a limit in 32-bit code", COMPAT3, fs_beyond_32, SEL_SMALL, TRAP_GP, 0);
    check_trap("read-only data in 32-bit code", COMPAT3, fs_write_32, SEL_READ_ONLY, TRAP_GP, 0);
    check_trap("a null selector in 32-bit code", COMPAT3, fs_null_32, 0, TRAP_GP, 0);
    check_value("lfs", COMPAT3, lfs_32, SEL_LDT_DATA, SEL_LDT_DATA);
    check_trap("lfs of data of DPL 0", COMPAT3, lfs_32, SEL_DATA0, TRAP_GP, SEL_DATA0);
    wrmsr(MSR_FS_BASE, (uint64_t)scratch);
    check_same("a base by MSR reads back", rdmsr(MSR_FS_BASE), (uint64_t)scratch);
    check_value("a base by MSR", RING3, read_fs_0, 0, scratch[0]);
    wrmsr(MSR_GS_BASE, (uint64_t)&gs);
    check_value("a base by MSR", RING0, read_gs_0, 0, gs);
    check_trap("swapgs", RING3, run_swapgs, 0, TRAP_GP, 0);
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
}

void check_segments(void)
{
    check_reads();
    for (unsigned i = 0; i < sizeof(loads) / sizeof(loads[0]); i++) {
        check_load("mov to fs: ", RING3, mov_fs, &loads[i]);
        check_load("mov to fs: ", RING0, mov_fs, &loads[i]);
        check_load("mov to ds: ", RING3, mov_ds, &loads[i]);
        check_load("pop fs: ", RING3, push_pop_fs, &loads[i]);
        check_load("pop gs: ", RING0, push_pop_gs, &loads[i]);
        check_load("pop es: ", COMPAT3, push_pop_es_32, &loads[i]);
    }
    for (unsigned i = 0; i < sizeof(stack_loads) / sizeof(stack_loads[0]); i++) {
        check_load("mov to ss: ", RING3, mov_ss, &stack_loads[i]);
        check_load("mov to ss: ", RING0, mov_ss, &stack_loads[i]);
    }
    check_value("pop fs, 16 bits", RING3, pop_fs_16, SEL_LDT_DATA, SEL_LDT_DATA);
    check_same("not accessed before it is loaded", rings_gdt[SEL_FRESH / 8] >> 40 & 1, 0);
    check_value("mov to fs: data not accessed yet", RING3, mov_fs, SEL_FRESH | 3, SEL_FRESH | 3);
    check_same("accessed when it was loaded", rings_gdt[SEL_FRESH / 8] >> 40 & 1, 1);
    check_bases();
}
