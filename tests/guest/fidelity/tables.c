/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tables: SGDT SIDT SLDT STR SMSW, and what loads those registers. */
#include "fidelity.h"

#define CR0_TS   8ull
#define CR4_UMIP (1ull << 11)

CODE(sgdt_base, "sgdt scratch; mov scratch+2, %rax");
CODE(sgdt_limit, "sgdt scratch; movzwl scratch, %eax");
CODE(sidt_base, "sidt scratch; mov scratch+2, %rax");
CODE(sidt_limit, "sidt scratch; movzwl scratch, %eax");
CODE32(sgdt_base_32, "movl $-1, scratch+6; sgdt scratch; mov scratch+2, %eax");
CODE32(sidt_base_32, "sidt scratch; mov scratch+2, %eax");
CODE32(sgdt_behind_32, "movl $-1, scratch+6; sgdt scratch; mov scratch+6, %eax");
CODE(sldt_register, "mov $-1, %rax; sldt %rax");
CODE(sldt_memory, "movq $-1, scratch; sldt scratch; mov scratch, %rax");
CODE(str_register, "mov $-1, %rax; str %rax");
CODE(str_memory, "movq $-1, scratch; str scratch; mov scratch, %rax");
CODE32(sldt_32, "sldt %eax");
CODE32(str_32, "str %eax");
CODE(smsw_word, "mov $-1, %rax; smsw %ax");
CODE(smsw_all, "smsw %rax; mov %eax, %eax");
CODE(smsw_memory, "movq $-1, scratch; smsw scratch; mov scratch, %rax");
CODE32(smsw_32, "smsw %eax; movzwl %ax, %eax");
CODE(run_lgdt, "lgdt scratch");
CODE(run_lidt, "lidt scratch");
CODE(run_lldt, "lldt %di; sldt %eax");
CODE(run_ltr, "ltr %di; str %eax");
CODE(run_lmsw, "lmsw %di; mov %cr0, %rax; clts");
CODE(run_lmsw_only, "lmsw %di");
CODE(run_clts, "clts");
CODE(lldt_then_use,
     "xor %eax, %eax; lldt %ax; lsl %edi, %eax; setz %al; movzbl %al, %eax; mov $0x50, %ecx; "
     "lldt %cx");

static void check_stores(enum mode mode)
{
    uint64_t high = ~0xffffull, cr0 = read_cr0();

    check_value("sgdt base", mode, sgdt_base, 0, (uint64_t)rings_gdt);
    check_value("sgdt limit", mode, sgdt_limit, 0, sizeof(rings_gdt) - 1);
    check_value("sidt base", mode, sidt_base, 0, (uint64_t)&rings_idt);
    check_value("sidt limit", mode, sidt_limit, 0, IDT_GATES * 16 - 1);
    check_value("sldt", mode, sldt_register, 0, SEL_LDT);
    check_value("sldt to memory", mode, sldt_memory, 0, high | SEL_LDT);
    check_value("str", mode, str_register, 0, SEL_TSS);
    check_value("str to memory", mode, str_memory, 0, high | SEL_TSS);
    check_value("smsw", mode, smsw_word, 0, high | (cr0 & 0xffff));
    check_value("smsw, all of it", mode, smsw_all, 0, cr0);
    check_value("smsw to memory", mode, smsw_memory, 0, high | (cr0 & 0xffff));
}

/* Other tables in other places: what is shown is what was loaded. */
static void check_moved(void)
{
    static uint64_t gdt[512];
    static uint8_t idt[4096];

    for (unsigned i = 0; i < SEL_END / 8; i++)
        gdt[i] = rings_gdt[i];
    for (unsigned i = 0; i < IDT_GATES * 16; i++)
        idt[i] = ((const uint8_t *)&rings_idt)[i];
    rings_load_gdt(gdt, sizeof(gdt) - 1);
    rings_load_idt(idt, sizeof(idt) - 1);
    check_value("sgdt of another table", RING3, sgdt_base, 0, (uint64_t)gdt);
    check_value("sgdt limit of another table", RING3, sgdt_limit, 0, sizeof(gdt) - 1);
    check_value("sidt of another table", RING3, sidt_base, 0, (uint64_t)idt);
    check_value("sidt limit of another table", RING3, sidt_limit, 0, sizeof(idt) - 1);
    rings_load_gdt(rings_gdt, sizeof(rings_gdt) - 1);
    rings_load_idt(&rings_idt, IDT_GATES * 16 - 1);
    write_cr0(read_cr0() | CR0_TS);
    check_value("smsw with TS", RING0, smsw_word, 0, ~0xffffull | (read_cr0() & 0xffff));
    check_value("smsw with TS", RING3, smsw_word, 0, ~0xffffull | (read_cr0() & 0xffff));
    write_cr0(read_cr0() & ~CR0_TS);
}

static void check_loads(void)
{
    static const struct {
        const char *name, *code;
    } privileged[] = {{"lgdt", run_lgdt}, {"lidt", run_lidt},      {"lldt", run_lldt},
                      {"ltr", run_ltr},   {"lmsw", run_lmsw_only}, {"clts", run_clts}};

    for (unsigned i = 0; i < sizeof(privileged) / sizeof(privileged[0]); i++)
        check_trap(privileged[i].name, RING3, privileged[i].code, SEL_LDT, TRAP_GP, 0);
    check_value("lldt", RING0, run_lldt, SEL_LDT, SEL_LDT);
    check_trap("lldt of no LDT", RING0, run_lldt, SEL_DATA0, TRAP_GP, SEL_DATA0);
    check_trap("lldt beyond the GDT", RING0, run_lldt, 0x7f8, TRAP_GP, 0x7f8);
    check_trap("lldt out of the LDT", RING0, run_lldt, SEL_LDT | 4, TRAP_GP, SEL_LDT | 4);
    check_value("no LDT, no selectors in it", RING0, lldt_then_use, SEL_LDT_DATA, 0);
    check_trap("ltr of a busy TSS", RING0, run_ltr, SEL_TSS, TRAP_GP, SEL_TSS);
    check_trap("ltr of nothing", RING0, run_ltr, 0, TRAP_GP, 0);
    check_trap("ltr of no TSS", RING0, run_ltr, SEL_LDT, TRAP_GP, SEL_LDT);
    check_same("ltr makes the TSS busy", rings_gdt[SEL_TSS / 8] >> 40 & 0xff, 0x8b);
    check_value("lmsw sets TS, leaves PE", RING0, run_lmsw, CR0_TS,
                (read_cr0() & ~0xeull) | CR0_TS);
    write_cr0(read_cr0() | 2);
}

static void check_umip(void)
{
    static const char *const code[] = {sgdt_base, sidt_base, sldt_register, str_register,
                                       smsw_word};
    static const char *const name[] = {"sgdt with UMIP", "sidt with UMIP", "sldt with UMIP",
                                       "str with UMIP", "smsw with UMIP"};

    if (!(cpuid(7, 0).c & 4))
        return;
    write_cr4(read_cr4() | CR4_UMIP);
    for (unsigned i = 0; i < 5; i++)
        check_trap(name[i], RING3, code[i], 0, TRAP_GP, 0);
    check_value("sgdt with UMIP", RING0, sgdt_base, 0, (uint64_t)rings_gdt);
    check_value("str with UMIP", RING0, str_register, 0, SEL_TSS);
    write_cr4(read_cr4() & ~CR4_UMIP);
}

void check_tables(void)
{
    check_stores(RING0);
    check_stores(RING3);
    check_value("sgdt base", COMPAT3, sgdt_base_32, 0, (uint64_t)rings_gdt);
    check_value("sgdt stores 6 bytes", COMPAT3, sgdt_behind_32, 0, ~0ull);
    check_value("sidt base", COMPAT3, sidt_base_32, 0, (uint64_t)&rings_idt);
    check_value("sldt", COMPAT3, sldt_32, 0, SEL_LDT);
    check_value("str", COMPAT3, str_32, 0, SEL_TSS);
    check_value("smsw", COMPAT3, smsw_32, 0, read_cr0() & 0xffff);
    check_moved();
    check_loads();
    check_umip();
}
