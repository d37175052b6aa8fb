/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overrides-cpu: instructions that the library leaves to its user or does wrongly: SYSCALL, HLT,
 * port I/O (with the I/O permission check that it lacks), interrupts, MSRs, CR8, CPUID.
 */
#include "vmmd/vmm/engine-soft/overrides.h"
#include "vmmd/vmm/engine-soft/soft.h"

#define EXC_UD        6
#define EXC_GP        13
#define MSR_EFER      0xc0000080u
#define EFER_SCE      1u
#define TSS_IO_BASE   0x66u
#define TSS_MIN_LIMIT 103u
#define CPUID_THERMAL 6u
#define CPUID_6_ARAT  4u

#define RETURN_ADDRESS() ((uintptr_t)__builtin_return_address(0))

/* The library tests for exit after each memory access inside a block, rewinds PC and runs the block
 * again: a store would happen twice. The check at block heads is enough. */
void check_exit_request_x86_64(void *tcg)
{
    (void)tcg;
}

static void load_flat_segment(struct uc_segment *seg, uint32_t selector, uint32_t flags)
{
    *seg = (struct uc_segment){.selector = selector, .limit = 0xffffffff, .flags = flags};
}

/* SYSCALL in long mode, AMD APM vol. 3: from 32-bit code it goes to CSTAR. In the library it is
 * only a hook. */
void helper_syscall_x86_64(void *opaque, int next_eip_addend)
{
    struct engine *e = soft_self;
    struct uc_env *env = opaque;
    uint64_t flags = 0, masked;
    uint32_t selector = SOFT_ENV64(e, e->star) >> 32 & 0xffff;
    uint64_t to = SOFT_ENV64(e, env->hflags & HFLAG_CS64 ? e->lstar : e->cstar);

    if (!(env->efer & EFER_SCE))
        raise_exception_err_ra_x86_64(env, EXC_UD, 0, RETURN_ADDRESS());
    uc_reg_read(e->uc, UC_X86_REG_RFLAGS, &flags);
    flags &= 0xffffffff;
    env->regs[GPR_RCX] = env->eip + (uint64_t)(int64_t)next_eip_addend;
    env->regs[11] = flags & ~(uint64_t)EFLAGS_RF;
    masked = flags & ~(SOFT_ENV64(e, e->fmask) | EFLAGS_RF);
    load_flat_segment(&env->segs[SEG_CS], selector & 0xfffc, 0x00a09b00);
    load_flat_segment(&env->segs[SEG_SS], (selector + 8) & 0xfffc, 0x00c09300);
    env->hflags |= HFLAG_CS32 | HFLAG_SS32 | HFLAG_CS64;
    env->hflags &= ~(HFLAG_ADDSEG | HFLAG_CPL_MASK);
    uc_reg_write(e->uc, UC_X86_REG_RFLAGS, &masked);
    env->eip = to;
}

/* The library would inject vector 0. The interrupt request stays set for ever, so this runs
 * whenever the library comes out of generated code. true: the caller forgets which block it ran
 * last. */
bool x86_cpu_exec_interrupt_x86_64(void *cpu, int interrupt_request)
{
    struct engine *e = soft_self;

    (void)interrupt_request;
    e->delivering = false;
    if (e->watch_hit) { /* nothing may come between the watched access and its #DB */
        /* But the gate: when the frame of a #DB is what is watched, there is no end to them. */
        if (e->watch_trap && soft_pass_gate(e))
            soft_watch_raise(e);
        if (!e->watch_waited) {
            e->watch_waited = true;
            return false;
        }
        /* It ran, and did not make the access again: the access was one of delivering an interrupt,
         * say. Waiting on would keep off interrupts, the gate and the end for ever. */
        soft_watch_forget(e);
    }
    if (e->flush_pending) {
        e->flush_pending = false;
        tb_flush_x86_64(cpu);
        return true;
    }
    return atomic_load(&e->attention) && soft_attend(e);
}

static unsigned guest_byte(const struct engine *e, uint64_t vaddr)
{
    uint64_t gpa;
    const uint8_t *at = soft_walk(e, vaddr, &gpa) ? soft_hva(e, gpa, 1) : NULL;

    return at ? *at : 0xff;
}

static bool bitmap_allows(const struct engine *e, uint32_t port, unsigned size)
{
    const struct uc_segment *tr = &e->env->tr;
    uint32_t at;

    if (!(tr->flags & 0x8000) || tr->limit < TSS_MIN_LIMIT)
        return false;
    at = (guest_byte(e, tr->base + TSS_IO_BASE) | guest_byte(e, tr->base + TSS_IO_BASE + 1) << 8) +
         (port >> 3);
    if (at + 1 > tr->limit)
        return false;
    unsigned bits = guest_byte(e, tr->base + at) | guest_byte(e, tr->base + at + 1) << 8;
    return !(bits >> (port & 7) & ((1u << size) - 1));
}

/* The library lets ring 3 do port I/O: check IOPL and the TSS bitmap, #GP otherwise. */
static void check_io(uint32_t port, unsigned size, uintptr_t return_address)
{
    struct engine *e = soft_self;
    struct uc_env *env = e->env;

    if ((env->hflags & HFLAG_CPL_MASK) > EFLAGS_IOPL(env->eflags) && !bitmap_allows(e, port, size))
        raise_exception_err_ra_x86_64(env, EXC_GP, 0, return_address);
}

static uint64_t pio_read(uint32_t port, unsigned size)
{
    struct engine *e = soft_self;
    uint8_t value;
    bool ours = false;

    if (size == 1) {
        pthread_mutex_lock(&e->lock);
        ours = irqchip_pio_read(&e->irqchip, (uint16_t)port, soft_now(e), &value);
        pthread_mutex_unlock(&e->lock);
    }
    return ours ? value : e->host.pio_read(e->host.opaque, (uint16_t)port, size);
}

static void pio_write(uint32_t port, unsigned size, uint32_t value)
{
    struct engine *e = soft_self;
    bool ours = false;

    if (size == 1) {
        pthread_mutex_lock(&e->lock);
        ours = irqchip_pio_write(&e->irqchip, (uint16_t)port, soft_now(e), (uint8_t)value);
        if (ours)
            soft_rearm(e);
        pthread_mutex_unlock(&e->lock);
    }
    if (ours)
        soft_interrupt(e);
    else
        e->host.pio_write(e->host.opaque, (uint16_t)port, size, value);
}

uint64_t helper_inb_x86_64(void *env, uint32_t port)
{
    (void)env;
    check_io(port, 1, RETURN_ADDRESS());
    return pio_read(port, 1) & 0xff;
}

uint64_t helper_inw_x86_64(void *env, uint32_t port)
{
    (void)env;
    check_io(port, 2, RETURN_ADDRESS());
    return pio_read(port, 2) & 0xffff;
}

uint64_t helper_inl_x86_64(void *env, uint32_t port)
{
    (void)env;
    check_io(port, 4, RETURN_ADDRESS());
    return pio_read(port, 4) & 0xffffffff;
}

void helper_outb_x86_64(void *env, uint32_t port, uint32_t value)
{
    (void)env;
    check_io(port, 1, RETURN_ADDRESS());
    pio_write(port, 1, value & 0xff);
}

void helper_outw_x86_64(void *env, uint32_t port, uint32_t value)
{
    (void)env;
    check_io(port, 2, RETURN_ADDRESS());
    pio_write(port, 2, value & 0xffff);
}

void helper_outl_x86_64(void *env, uint32_t port, uint32_t value)
{
    (void)env;
    check_io(port, 4, RETURN_ADDRESS());
    pio_write(port, 4, value);
}

void qemu_system_reset_request(void *uc) /* triple fault */
{
    (void)uc;
    soft_leave(soft_self, ENGINE_EXIT_RESET);
}

void helper_hlt_x86_64(void *env, int next_eip_addend)
{
    soft_self->was_hlt = true;
    real_helper_hlt_x86_64(env, next_eip_addend);
}

/* Only reached at CPL 0: the translator checks. The library drops APIC_BASE and TSC_DEADLINE. */
void helper_rdmsr_x86_64(void *opaque)
{
    struct engine *e = soft_self;
    struct uc_env *env = opaque;
    uint64_t value;
    bool ours;

    pthread_mutex_lock(&e->lock);
    ours = irqchip_msr_read(&e->irqchip, (uint32_t)env->regs[GPR_RCX], &value);
    pthread_mutex_unlock(&e->lock);
    if (!ours) {
        real_helper_rdmsr_x86_64(env);
        return;
    }
    env->regs[GPR_RAX] = (uint32_t)value;
    env->regs[GPR_RDX] = value >> 32;
}

void helper_wrmsr_x86_64(void *opaque)
{
    struct engine *e = soft_self;
    struct uc_env *env = opaque;
    uint64_t value = (uint32_t)env->regs[GPR_RAX] | env->regs[GPR_RDX] << 32;
    bool ours;

    if ((uint32_t)env->regs[GPR_RCX] == MSR_EFER && !soft_efer_is_good(e, value))
        raise_exception_err_ra_x86_64(env, EXC_GP, 0, RETURN_ADDRESS());
    pthread_mutex_lock(&e->lock);
    ours = irqchip_msr_write(&e->irqchip, (uint32_t)env->regs[GPR_RCX], value);
    if (ours)
        soft_rearm(e);
    pthread_mutex_unlock(&e->lock);
    if (!ours)
        real_helper_wrmsr_x86_64(env);
}

/* CR8 is the task priority of the local APIC; the library keeps it apart. */
uint64_t helper_read_crN_x86_64(void *env, int reg)
{
    return reg == 8 ? irqchip_get_tpr(&soft_self->irqchip) >> 4
                    : real_helper_read_crN_x86_64(env, reg);
}

/* Leaf 6 says that the APIC timer always runs: with TSC deadline mode Linux then needs no PIT. */
void cpu_x86_cpuid_x86_64(void *env, uint32_t index, uint32_t count, uint32_t *eax, uint32_t *ebx,
                          uint32_t *ecx, uint32_t *edx)
{
    real_cpu_x86_cpuid_x86_64(env, index, count, eax, ebx, ecx, edx);
    if (index == CPUID_THERMAL) {
        *eax = CPUID_6_ARAT;
        *ebx = *ecx = *edx = 0;
    }
}
