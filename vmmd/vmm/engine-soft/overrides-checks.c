/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overrides-checks: faults that the CPU raises and the library does not: values that system
 * registers refuse (Intel SDM volume 2, MOV to control registers, LTR, WRMSR, SYSCALL; volume 3,
 * 2.5). What is right goes on to the library.
 */
#include "vmmd/vmm/engine-soft/overrides.h"
#include "vmmd/vmm/engine-soft/soft.h"

#define EXC_NP       11
#define EXC_GP       13
#define CR0_PE       1ull
#define CR0_NW       (1ull << 29)
#define CR0_CD       (1ull << 30)
#define CR0_PG       (1ull << 31)
#define CR3_BITS     52 /* more than CPUID says, no more than the library can tell apart */
#define CR4_PAE      (1ull << 5)
#define CR4_ALWAYS   0x7ffull /* VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT */
#define EFER_LME     (1ull << 8)
#define EFER_ALLOWED 0xd01ull /* SCE LME LMA NXE */

#define RETURN_ADDRESS() ((uintptr_t)__builtin_return_address(0))

/* The library would take it, and abort at the next interrupt. */
void helper_ltr_x86_64(void *env, int selector)
{
    if ((selector & 0xfffc) == 0)
        raise_exception_err_ra_x86_64(env, EXC_GP, 0, RETURN_ADDRESS());
    real_helper_ltr_x86_64(env, selector);
}

/* There are no counters (CPUID 0xa): whichever is asked for, nobody may read it. */
void helper_rdpmc_x86_64(void *env)
{
    raise_exception_err_ra_x86_64(env, EXC_GP, 0, RETURN_ADDRESS());
}

/* In long mode the library makes the error code of a gate as if gates had 8 bytes less: the index
 * times 16. No other error code has bit 1. */
void raise_exception_err_x86_64(void *opaque, int vector, int error)
{
    struct uc_env *env = opaque;

    if ((env->hflags & HFLAG_LMA) && (vector == EXC_GP || vector == EXC_NP) && (error & 7) == 2)
        error = (error >> 4 << 3) | 2;
    real_raise_exception_err_x86_64(env, vector, error);
}

/* Bits that CPUID must announce; the others of CR4 every CPU with long mode has. */
static uint64_t cr4_allowed(const struct engine *e)
{
    static const struct {
        uint8_t word, feature, bit;
    } announced[] = {{FEAT_7_ECX, 2, 11},  {FEAT_7_EBX, 0, 16}, {FEAT_1_ECX, 17, 17},
                     {FEAT_1_ECX, 26, 18}, {FEAT_7_EBX, 7, 20}, {FEAT_7_EBX, 20, 21},
                     {FEAT_7_ECX, 3, 22}};
    uint64_t allowed = CR4_ALWAYS;

    for (unsigned i = 0; i < sizeof(announced) / sizeof(announced[0]); i++)
        allowed |= (e->features[announced[i].word] >> announced[i].feature & 1) << announced[i].bit;
    return allowed;
}

static bool cr0_is_good(const struct uc_env *env, uint64_t v)
{
    bool in_64_bit_code = env->hflags & HFLAG_CS64;

    return v >> 32 == 0 && (!(v & CR0_PG) || (v & CR0_PE)) && (!(v & CR0_NW) || (v & CR0_CD)) &&
           ((v & CR0_PG) || !in_64_bit_code);
}

static bool cr4_is_good(const struct engine *e, uint64_t v)
{
    return !(v & ~cr4_allowed(e)) && ((v & CR4_PAE) || !(e->env->hflags & HFLAG_LMA));
}

static bool value_is_good(const struct engine *e, int reg, uint64_t v)
{
    switch (reg) {
    case 0: return cr0_is_good(e->env, v);
    case 3: return v >> CR3_BITS == 0 || !(e->env->hflags & HFLAG_LMA);
    case 4: return cr4_is_good(e, v);
    case 8: return v >> 4 == 0;
    default: return true;
    }
}

/* CR8 is the task priority of the local APIC; the library keeps it apart. */
void helper_write_crN_x86_64(void *env, int reg, uint64_t value)
{
    struct engine *e = soft_self;

    if (!value_is_good(e, reg, value))
        raise_exception_err_ra_x86_64(env, EXC_GP, 0, RETURN_ADDRESS());
    if (reg != 8) {
        real_helper_write_crN_x86_64(env, reg, value);
        return;
    }
    pthread_mutex_lock(&e->lock);
    irqchip_set_tpr(&e->irqchip, (uint32_t)value << 4);
    pthread_mutex_unlock(&e->lock);
    soft_interrupt(e);
}

bool soft_efer_is_good(const struct engine *e, uint64_t v)
{
    return !(v & ~EFER_ALLOWED) && (!(e->env->cr[0] & CR0_PG) || !((v ^ e->env->efer) & EFER_LME));
}
