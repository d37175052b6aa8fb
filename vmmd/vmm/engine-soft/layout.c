/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * layout: finds the fields of the library's CPU state that lie at no fixed place, by writing
 * markers through the public API and looking for them; and sets the CPU model the guest sees.
 */
#include "vmmd/vmm/engine-soft/soft.h"

#include <errno.h>
#include <stdio.h>

#define MSR_STAR  0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u

/* tsc_offset lies behind dr[6], dr[7], four breakpoint pointers and two words in CPUX86State. */
#define DR6_TO_TSC_OFFSET (8 * 2 + 32 + 8 + 8)

static bool find_marker(const struct engine *e, uint64_t marker, uint32_t *ret_offset)
{
    for (uint32_t i = 0; i < UC_ENV_SEARCH; i += 8) {
        if (SOFT_ENV64(e, i) == marker) {
            *ret_offset = i;
            return true;
        }
    }
    return false;
}

static bool find_msr(struct engine *e, uint32_t index, uint32_t *ret_offset)
{
    uc_x86_msr msr = {.rid = index, .value = 0x5a5a1234deadbe00ull | index % 251};
    bool found;

    uc_reg_write(e->uc, UC_X86_REG_MSR, &msr);
    found = find_marker(e, msr.value, ret_offset);
    msr.value = 0;
    uc_reg_write(e->uc, UC_X86_REG_MSR, &msr);
    return found && SOFT_ENV64(e, *ret_offset) == 0;
}

static bool check_leading_fields(struct engine *e)
{
    uint64_t cr4 = 0x620, marker = 0x123456789abcull, zero = 0; /* PAE, OSFXSR, OSXMMEXCPT */

    uc_reg_write(e->uc, UC_X86_REG_CR4, &cr4); /* flushes the TLB: tlb_flush tells us the CPU */
    if (!e->cpu || !e->cpu->env)
        return false;
    e->env = e->cpu->env;
    uc_reg_write(e->uc, UC_X86_REG_R15, &marker);
    bool ok = e->env->regs[15] == marker && e->env->cr[4] == cr4 && (e->env->efer & 0x500) == 0x500;
    uc_reg_write(e->uc, UC_X86_REG_R15, &zero);
    return ok;
}

static bool find_debug_registers(struct engine *e)
{
    uint64_t marker = 0x1122334400000400ull, at_reset = 0xffff0ff0;
    uint32_t offset;
    bool found;

    uc_reg_write(e->uc, UC_X86_REG_DR6, &marker);
    found = find_marker(e, marker, &offset);
    uc_reg_write(e->uc, UC_X86_REG_DR6, &at_reset);
    if (!found || offset < 48)
        return false;
    e->debug_registers = offset - 48;
    e->tsc_offset = offset + DR6_TO_TSC_OFFSET;
    return true;
}

/* The feature words are found by the values the library's default CPU has in CPUID 1 EDX and ECX.
 */
static bool find_features(struct engine *e)
{
    const uint64_t edx = 1 << 8 | 1 << 15 | 1 << 26 | 1 << 24 | 1 << 25 | 1 << 19;
    const uint64_t ecx = 1 << 9 | 1 << 19 | 1 << 20 | 1 << 25 | 1 << 13;

    for (uint32_t i = 0; i + 64 < UC_ENV_SEARCH; i += 8) {
        if (SOFT_ENV64(e, i) == edx && SOFT_ENV64(e, i + 8) == ecx) {
            e->features = &SOFT_ENV64(e, i);
            return true;
        }
    }
    return false;
}

int soft_find_layout(struct engine *e)
{
    if (check_leading_fields(e) && find_msr(e, MSR_STAR, &e->star) &&
        find_msr(e, MSR_LSTAR, &e->lstar) && find_msr(e, MSR_CSTAR, &e->cstar) &&
        find_msr(e, MSR_FMASK, &e->fmask) && find_debug_registers(e) && find_features(e))
        return 0;
    snprintf(e->error, sizeof(e->error), "this libunicorn is not the one the engine was built for");
    return -ENOTSUP;
}

#define BIT(n) (1u << (n))

void soft_set_features(struct engine *e)
{
    uint64_t *f = e->features;

    /* FPU VME- DE PSE TSC MSR PAE CX8 APIC SEP PGE CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2; no MCE,
     * MTRR, MCA */
    f[FEAT_1_EDX] = BIT(0) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(9) | BIT(11) |
                    BIT(13) | BIT(15) | BIT(16) | BIT(17) | BIT(19) | BIT(23) | BIT(24) | BIT(25) |
                    BIT(26);
    /* SSE3 PCLMUL SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT TSC-deadline AES hypervisor; no XSAVE, AVX,
     * x2APIC */
    f[FEAT_1_ECX] = BIT(0) | BIT(1) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |
                    BIT(24) | BIT(25) | BIT(31);
    /* The library advertises BMI1, BMI2 and ADX but raises #UD on some of them: hidden. */
    f[FEAT_7_EBX] = f[FEAT_7_ECX] = f[FEAT_7_EDX] = f[FEAT_D_1_EAX] = 0;
    f[FEAT_80000001_EDX] = (f[FEAT_1_EDX] & 0x0183f3ff) | BIT(11) | BIT(20) | BIT(26) | BIT(27) |
                           BIT(29);         /* SYSCALL NX 1G-pages RDTSCP LM */
    f[FEAT_80000001_ECX] = BIT(0) | BIT(5); /* LAHF ABM */
}
