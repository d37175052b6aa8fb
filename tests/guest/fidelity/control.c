/* SPDX-License-Identifier: GPL-2.0-or-later */
/* control: MOV to and from control registers, what they switch, and what only ring 0 may do. */
#include "fidelity.h"

#define CR0_PE     1ull
#define CR0_MP     2ull
#define CR0_EM     4ull
#define CR0_TS     8ull
#define CR0_ET     16ull
#define CR0_WP     (1ull << 16)
#define CR0_NW     (1ull << 29)
#define CR0_PG     (1ull << 31)
#define CR4_TSD    4ull
#define CR4_DE     8ull
#define CR4_PAE    32ull
#define CR4_OSFXSR (1ull << 9)
#define EFER       0xc0000080u
#define NO_MSR     0x12345678u
#define EFER_LME   0x100ull
#define EFER_NX    0x800ull
#define PF_WRITE   2u
#define PF_USER    4u
#define PF_FETCH   16u

CODE(get_cr0, "mov %cr0, %rax");
CODE(get_cr2, "mov %cr2, %rax");
CODE(get_cr3, "mov %cr3, %rax");
CODE(get_cr4, "mov %cr4, %rax");
CODE(get_cr8, "mov %cr8, %rax");
CODE(set_cr0, "mov %rdi, %cr0; mov %cr0, %rax");
CODE(set_cr2, "mov %rdi, %cr2; mov %cr2, %rax");
CODE(set_cr3, "mov %rdi, %cr3; mov %cr3, %rax");
CODE(set_cr4, "mov %rdi, %cr4; mov %cr4, %rax");
CODE(set_cr8, "mov %rdi, %cr8; mov %cr8, %rax; xor %ecx, %ecx; mov %rcx, %cr8");
CODE(get_cr1, ".byte 0x0f, 0x20, 0xc8");
CODE(set_cr5, ".byte 0x0f, 0x22, 0xe8");
CODE(get_dr7, "mov %dr7, %rax");
CODE(set_dr7, "mov %rdi, %dr7");
CODE(get_dr4, ".byte 0x0f, 0x21, 0xe0; mov $1, %eax");
CODE(run_hlt, "hlt");
CODE(run_invlpg, "invlpg scratch");
CODE(run_wbinvd, "wbinvd");
CODE(run_invd, "invd");
CODE(run_rdmsr, "mov $0xc0000080, %ecx; rdmsr");
CODE(run_wrmsr, "mov $0xc0000080, %ecx; wrmsr");
CODE(rdmsr_of, "mov %edi, %ecx; rdmsr");
CODE(wrmsr_of, "mov %edi, %ecx; wrmsr");
CODE(set_efer,
     "mov %rdi, %rax; mov %rdi, %rdx; shr $32, %rdx; mov $0xc0000080, %ecx; wrmsr; rdmsr");
CODE(run_rdtsc, "rdtsc; mov $1, %eax");
CODE(run_rdpmc, "xor %ecx, %ecx; rdpmc");
CODE(run_ud2, "ud2");
CODE(run_fpu, "fnop; mov $1, %eax");
CODE(run_sse, "xorps %xmm0, %xmm0; mov $1, %eax");
CODE(in_80, "mov $0x80, %edx; in %dx, %al; mov $1, %eax");
CODE(in_20, "mov $0x20, %edx; in %dx, %al; mov $1, %eax");
CODE(in_word_3f, "mov $0x3f, %edx; in %dx, %ax; mov $1, %eax");
CODE(out_80, "out %al, $0x80; mov $1, %eax");
CODE(ins_80, "mov $0x80, %edx; mov $scratch, %edi; insb; mov $1, %eax");
CODE(outs_80, "mov $0x80, %edx; mov $scratch, %esi; outsb; mov $1, %eax");
CODE(read_at, "mov (%rdi), %al; mov $1, %eax");
CODE(write_at, "mov %al, (%rdi); mov $1, %eax");
CODE(jump_to, "jmp *%rdi");
CODE(divide, "xor %edx, %edx; xor %ecx, %ecx; div %ecx");

static void check_reads_and_writes(void)
{
    static const char *const get[] = {get_cr0, get_cr2, get_cr3, get_cr4, get_cr8};
    static const char *const set[] = {set_cr0, set_cr2, set_cr3, set_cr4, set_cr8};
    static const char *const from[] = {"mov from cr0", "mov from cr2", "mov from cr3",
                                       "mov from cr4", "mov from cr8"};
    static const char *const to[] = {"mov to cr0", "mov to cr2", "mov to cr3", "mov to cr4",
                                     "mov to cr8"};
    uint64_t values[] = {read_cr0(), 0x123456789abcdef0, read_cr3(), read_cr4(), 5};

    for (unsigned i = 0; i < 5; i++) {
        check_trap(from[i], RING3, get[i], 0, TRAP_GP, 0);
        check_trap(to[i], RING3, set[i], values[i], TRAP_GP, 0);
        check_value(to[i], RING0, set[i], values[i], values[i]);
    }
    check_same("paging is on, in protected mode", read_cr0() & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
    check_trap("mov from cr1", RING0, get_cr1, 0, TRAP_UD, 0);
    check_trap("mov to cr5", RING0, set_cr5, 0, TRAP_UD, 0);
}

static void check_reserved(void)
{
    uint64_t cr0 = read_cr0(), cr3 = read_cr3(), cr4 = read_cr4(), efer = rdmsr(EFER);

    check_trap("cr0 with an upper bit", RING0, set_cr0, cr0 | 1ull << 40, TRAP_GP, 0);
    check_trap("cr0 with PG and no PE", RING0, set_cr0, cr0 & ~CR0_PE, TRAP_GP, 0);
    check_trap("cr0 with NW and no CD", RING0, set_cr0, cr0 | CR0_NW, TRAP_GP, 0);
    check_trap("cr0 with no PG in 64-bit code", RING0, set_cr0, cr0 & ~CR0_PG, TRAP_GP, 0);
    check_value("cr0.ET stays", RING0, set_cr0, cr0 & ~CR0_ET, cr0 | CR0_ET);
    check_trap("cr3 with a reserved bit", RING0, set_cr3, cr3 | 1ull << 62, TRAP_GP, 0);
    check_trap("cr4 with no PAE in long mode", RING0, set_cr4, cr4 & ~CR4_PAE, TRAP_GP, 0);
    check_trap("cr4 with bit 15", RING0, set_cr4, cr4 | 1ull << 15, TRAP_GP, 0);
    check_trap("cr4 with bit 31", RING0, set_cr4, cr4 | 1ull << 31, TRAP_GP, 0);
    check_trap("cr4 with an upper bit", RING0, set_cr4, cr4 | 1ull << 40, TRAP_GP, 0);
    check_trap("cr4.LA57 in long mode", RING0, set_cr4, cr4 | 1ull << 12, TRAP_GP, 0);
    check_trap("cr8 above 15", RING0, set_cr8, 16, TRAP_GP, 0);
    check_trap("efer with a reserved bit", RING0, set_efer, efer | 1ull << 9, TRAP_GP, 0);
    check_trap("efer without LME while paging", RING0, set_efer, efer & ~EFER_LME, TRAP_GP, 0);
    check_trap("rdmsr of an MSR that no CPU has", RING0, rdmsr_of, NO_MSR, TRAP_GP, 0);
    check_trap("wrmsr of an MSR that no CPU has", RING0, wrmsr_of, NO_MSR, TRAP_GP, 0);
    write_cr0(cr0);
    write_cr3(cr3);
    write_cr4(cr4);
}

/* Bits of CR4 that CPUID announces can be set, others not. */
static void check_announced(void)
{
    struct cpuid basic = cpuid(1, 0), more = cpuid(0, 0).a >= 7 ? cpuid(7, 0) : (struct cpuid){0};
    const struct {
        const char *name;
        unsigned bit;
        bool there;
    } bits[] = {
        {"cr4.UMIP as CPUID says", 11, more.c >> 2 & 1},
        {"cr4.FSGSBASE as CPUID says", 16, more.b & 1},
        {"cr4.PCIDE as CPUID says", 17, basic.c >> 17 & 1},
        {"cr4.OSXSAVE as CPUID says", 18, basic.c >> 26 & 1},
        {"cr4.SMEP as CPUID says", 20, more.b >> 7 & 1},
        {"cr4.SMAP as CPUID says", 21, more.b >> 20 & 1},
        {"cr4.PKE as CPUID says", 22, more.c >> 3 & 1},
    };
    uint64_t cr4 = read_cr4();

    for (unsigned i = 0; i < sizeof(bits) / sizeof(bits[0]); i++) {
        /* SMEP would not let ring 0 run where ring 3 may. */
        if (bits[i].there && (bits[i].bit == 20 || bits[i].bit == 21))
            continue;
        if (bits[i].there)
            check_value(bits[i].name, RING0, set_cr4, cr4 | 1ull << bits[i].bit,
                        cr4 | 1ull << bits[i].bit);
        else
            check_trap(bits[i].name, RING0, set_cr4, cr4 | 1ull << bits[i].bit, TRAP_GP, 0);
        write_cr4(cr4);
    }
}

static void check_switches(void)
{
    uint64_t cr0 = read_cr0(), cr4 = read_cr4();

    write_cr4(cr4 | CR4_OSFXSR);
    write_cr0(cr0 | CR0_TS);
    check_trap("x87 with TS", RING3, run_fpu, 0, TRAP_NM, 0);
    check_trap("SSE with TS", RING3, run_sse, 0, TRAP_NM, 0);
    write_cr0((cr0 | CR0_EM) & ~CR0_TS);
    check_trap("x87 with EM", RING3, run_fpu, 0, TRAP_NM, 0);
    check_trap("SSE with EM", RING3, run_sse, 0, TRAP_UD, 0);
    write_cr0(cr0);
    check_value("x87", RING3, run_fpu, 0, 1);
    write_cr4(cr4 & ~CR4_OSFXSR);
    check_trap("SSE without OSFXSR", RING3, run_sse, 0, TRAP_UD, 0);
    write_cr4(cr4 | CR4_OSFXSR);
    check_value("SSE", RING3, run_sse, 0, 1);
    write_cr4(cr4 | CR4_TSD);
    check_trap("rdtsc with TSD", RING3, run_rdtsc, 0, TRAP_GP, 0);
    check_value("rdtsc with TSD", RING0, run_rdtsc, 0, 1);
    write_cr4(cr4 | CR4_DE);
    check_trap("mov from dr4 with DE", RING0, get_dr4, 0, TRAP_UD, 0);
    write_cr4(cr4 & ~CR4_DE);
    check_value("mov from dr4 without DE", RING0, get_dr4, 0, 1);
    write_cr4(cr4);
    check_value("rdtsc", RING3, run_rdtsc, 0, 1);
}

static void check_page(const char *name, enum mode mode, const void *code, unsigned error)
{
    check_trap(name, mode, code, (uint64_t)rings_page + 8, TRAP_PF, error);
    check_same("cr2 of the fault", read_cr2(), (uint64_t)rings_page + 8);
}

static void set_page(uint64_t pte)
{
    *rings_pte = pte;
    invlpg(rings_page);
}

static void check_paging(void)
{
    uint64_t pte = *rings_pte, efer = rdmsr(EFER), cr0 = read_cr0();

    set_page(pte & ~1ull);
    check_page("read of an absent page", RING3, read_at, PF_USER);
    check_page("write of an absent page", RING0, write_at, PF_WRITE);
    set_page(pte & ~4ull);
    check_page("read of a page of ring 0", RING3, read_at, PF_USER | 1);
    check_value("read of a page of ring 0", RING0, read_at, (uint64_t)rings_page, 1);
    set_page(pte & ~2ull);
    check_page("write of a read-only page", RING3, write_at, PF_USER | PF_WRITE | 1);
    write_cr0(cr0 | CR0_WP);
    check_page("write of a read-only page with WP", RING0, write_at, PF_WRITE | 1);
    write_cr0(cr0 & ~CR0_WP);
    check_value("write of a read-only page without WP", RING0, write_at, (uint64_t)rings_page, 1);
    write_cr0(cr0);
    wrmsr(EFER, efer | EFER_NX);
    set_page(pte | 1ull << 63);
    check_page("fetch from a page with NX", RING3, jump_to, PF_USER | PF_FETCH | 1);
    set_page(pte & ~0x60ull);
    check_value("read of a page", RING3, read_at, (uint64_t)rings_page, 1);
    check_same("it is accessed, not dirty", *rings_pte & 0x60, 0x20);
    check_value("write of a page", RING3, write_at, (uint64_t)rings_page, 1);
    check_same("it is dirty", *rings_pte & 0x60, 0x60);
    set_page(pte | 1ull << 51);
    check_page("a page table entry with a reserved bit", RING3, read_at, PF_USER | 8 | 1);
    set_page(pte);
    check_trap("read of a non-canonical address", RING3, read_at, 0x800000000000, TRAP_GP, 0);
}

static void check_ports(void)
{
    check_trap("in", RING3, in_80, 0, TRAP_GP, 0);
    check_trap("out", RING3, out_80, 0, TRAP_GP, 0);
    check_trap("ins", RING3, ins_80, 0, TRAP_GP, 0);
    check_trap("outs", RING3, outs_80, 0, TRAP_GP, 0);
    check_value("in", RING3_IOPL3, in_80, 0, 1);
    check_value("outs", RING3_IOPL3, outs_80, 0, 1);
    rings_tss.io_base = offsetof(struct tss, io);
    for (unsigned i = 0; i < sizeof(rings_tss.io); i++)
        rings_tss.io[i] = 0xff;
    rings_tss.io[4] = 0xfe; /* 0x20 */
    rings_tss.io[7] = 0x7f; /* 0x3f */
    check_value("in of a port that the TSS allows", RING3, in_20, 0, 1);
    check_trap("in of a word of which the TSS allows a half", RING3, in_word_3f, 0, TRAP_GP, 0);
    check_trap("in of a port beyond the TSS", RING3, in_80, 0, TRAP_GP, 0);
    rings_tss.io_base = sizeof(rings_tss);
    check_trap("in without a bitmap", RING3, in_20, 0, TRAP_GP, 0);
}

static void check_privileged(void)
{
    static const struct {
        const char *name, *code;
    } privileged[] = {{"hlt", run_hlt},          {"invlpg", run_invlpg},  {"wbinvd", run_wbinvd},
                      {"invd", run_invd},        {"rdmsr", run_rdmsr},    {"wrmsr", run_wrmsr},
                      {"mov from dr7", get_dr7}, {"mov to dr7", set_dr7}, {"rdpmc", run_rdpmc}};

    for (unsigned i = 0; i < sizeof(privileged) / sizeof(privileged[0]); i++)
        check_trap(privileged[i].name, RING3, privileged[i].code, 0, TRAP_GP, 0);
    check_trap("ud2", RING3, run_ud2, 0, TRAP_UD, 0);
    check_trap("div by 0", RING3, divide, 0, TRAP_DE, 0);
    check_trap("div by 0", RING0, divide, 0, TRAP_DE, 0);
}

void check_control(void)
{
    check_reads_and_writes();
    check_reserved();
    check_announced();
    check_switches();
    check_paging();
    check_ports();
    check_privileged();
}
