/* SPDX-License-Identifier: GPL-2.0-or-later */
/* identity: CPUID and the registers that tell who is asked: they tell of the guest. */
#include "fidelity.h"

#define MSR_TSC_AUX 0xc0000103u
#define CR4_OSXSAVE (1ull << 18)
#define HYPERVISOR  (1u << 31)

CODE(cpuid_a, "mov %edi, %eax; xor %ecx, %ecx; cpuid");
CODE(cpuid_b, "mov %edi, %eax; xor %ecx, %ecx; cpuid; mov %ebx, %eax");
CODE(cpuid_c, "mov %edi, %eax; xor %ecx, %ecx; cpuid; mov %ecx, %eax");
CODE(cpuid_d, "mov %edi, %eax; xor %ecx, %ecx; cpuid; mov %edx, %eax");
CODE(run_rdtscp, "rdtscp; mov %ecx, %eax");
CODE(run_xgetbv, "xor %ecx, %ecx; xgetbv");

static void check_same_in_rings(uint32_t leaf)
{
    struct cpuid c = cpuid(leaf, 0);

    check_value("cpuid, eax as in ring 0", RING3, cpuid_a, leaf, c.a);
    check_value("cpuid, ebx as in ring 0", RING3, cpuid_b, leaf, c.b);
    check_value("cpuid, ecx as in ring 0", RING3, cpuid_c, leaf, c.c);
    check_value("cpuid, edx as in ring 0", RING3, cpuid_d, leaf, c.d);
}

void check_identity(void)
{
    struct cpuid basic = cpuid(1, 0), extended = cpuid(0x80000001, 0);
    uint64_t cr4 = read_cr4();

    check_same("cpuid says that this is a guest", basic.c & HYPERVISOR, HYPERVISOR);
    check_same("the APIC ID is the guest's", basic.b >> 24, 0);
    check_same("one CPU and no more", basic.d >> 28 & 1 ? basic.b >> 16 & 0xff : 1, 1);
    check_same("no virtualization in the guest", (basic.c >> 5 & 1) | (extended.c >> 2 & 1), 0);
    check_same_in_rings(0);
    check_same_in_rings(1);
    check_same_in_rings(0x40000000);
    check_same_in_rings(0x80000001);
    check_same("OSXSAVE follows cr4", basic.c >> 27 & 1, cr4 >> 18 & 1);
    if (basic.c >> 26 & 1) {
        write_cr4(cr4 | CR4_OSXSAVE);
        check_same("OSXSAVE follows cr4 when it is set", cpuid(1, 0).c >> 27 & 1, 1);
        write_cr4(cr4);
    }
    if (extended.d >> 27 & 1) {
        wrmsr(MSR_TSC_AUX, 0x1234567);
        check_value("rdtscp tells what the guest has set", RING3, run_rdtscp, 0, 0x1234567);
    }
    if (!(cr4 & CR4_OSXSAVE))
        check_trap("xgetbv without OSXSAVE", RING3, run_xgetbv, 0, TRAP_UD, 0);
}
