/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine-soft: Debian's libunicorn (QEMU's TCG as a library) turned into a full-system x86-64 CPU.
 *
 * The public API alone cannot run a kernel; what is missing is replaced at link time
 * (overrides-*.c, prepare-unicorn.sh). One vCPU, its interrupt controllers in irqchip.c. This file
 * creates the engine, runs the vCPU, and wakes it: a timer signal to its own thread, or another
 * thread's soft_interrupt().
 *
 * It must never take engine.lock in the signal handler, nor call the host with it held.
 */
#include "vmmd/vmm/engine-soft/soft.h"

#include "vmmd/vmm/engine-soft/overrides.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <x86intrin.h>

#define BUFFER_MIB_DEFAULT 128u
#define BUFFER_MIB_MIN     16u
#define MMIO_START         (3ull << 30)
#define MMIO_END           (4ull << 30)
#define TIMER_SIGNAL       SIGALRM
#define TIMER_MIN_NS       1000u /* a guest may ask for less: it gets this */
#define NS                 1000000000ull
#define TRIM_WINDOW_NS     (10 * NS)
#define TRIM_BLOCKS        50000u /* about 20 MiB of code */
#define CALIBRATE_NS       20000000ull

struct engine *soft_self;

/* ---- time
 * --------------------------------------------------------------------------------------------- */

static uint64_t monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

uint64_t soft_now(const struct engine *e)
{
    return monotonic() - e->clock_behind;
}

uint64_t soft_tsc(const struct engine *e)
{
    return __rdtsc() + SOFT_ENV64(e, e->tsc_offset);
}

/* The host's TSC rate in kHz: the guest reads the host's TSC. */
static uint64_t measure_tsc_khz(void)
{
    uint64_t tsc = __rdtsc(), start = monotonic(), now;

    do
        now = monotonic();
    while (now - start < CALIBRATE_NS);
    return (__rdtsc() - tsc) * 1000000ull / (now - start);
}

static struct timespec to_host_time(const struct engine *e, uint64_t guest_ns)
{
    uint64_t host = guest_ns + e->clock_behind;

    return (struct timespec){.tv_sec = (time_t)(host / NS), .tv_nsec = (long)(host % NS)};
}

void soft_rearm(struct engine *e)
{
    uint64_t now, due;
    struct itimerspec spec = {0};

    if (e->halted || !atomic_load(&e->has_thread)) /* a halted vCPU waits with a timeout instead */
        return;
    now = soft_now(e);
    due = irqchip_deadline(&e->irqchip, now, soft_tsc(e));
    if (due == e->timer_due && due > now) /* set already */
        return;
    e->timer_due = due;
    if (due != UINT64_MAX)
        spec.it_value = to_host_time(e, due < now + TIMER_MIN_NS ? now + TIMER_MIN_NS : due);
    timer_settime(e->timer, TIMER_ABSTIME, &spec, NULL);
}

/* ---- waking
 * --------------------------------------------------------------------------------------------- */

/* Generated code looks at the high half of icount_decr at every block head. */
void soft_interrupt(struct engine *e)
{
    atomic_store(&e->attention, true);
    if (e->cpu)
        __atomic_store_n(&e->cpu->icount_decr->u16.high, 0xffff, __ATOMIC_SEQ_CST);
}

static void on_timer(int signal_number)
{
    (void)signal_number;
    if (soft_self)
        soft_interrupt(soft_self);
}

static void wake(struct engine *e)
{
    soft_interrupt(e);
    /* It has not looked at `attention` yet, or it waits: taking the lock tells which. Signalled
     * behind it: whom that wakes must not wait for a thread preempted with the lock. */
    pthread_mutex_lock(&e->lock);
    pthread_mutex_unlock(&e->lock);
    pthread_cond_signal(&e->wake);
}

static void soft_kick(struct vcpu *vcpu)
{
    wake(vcpu->engine);
}

void soft_leave(struct engine *e, enum engine_exit exit)
{
    e->left = true;
    e->exit = exit;
    uc_emu_stop(e->uc);
}

bool soft_pass_gate(struct engine *e)
{
    if (e->left) /* on the way out already, and perhaps outside of the gate */
        return false;
    if (e->host.poll(e->host.opaque, 0))
        return true;
    soft_leave(e, ENGINE_EXIT_STOPPED);
    return false;
}

bool soft_attend(struct engine *e)
{
    int vector = -1;
    bool dropped;

    atomic_store(&e->attention, false);
    if (!soft_pass_gate(e))
        return false;
    dropped = soft_drop_written(e);
    if (e->flush_pending) { /* too much was written: the next head flushes everything */
        soft_interrupt(e);
        return false;
    }
    pthread_mutex_lock(&e->lock);
    irqchip_run_timers(&e->irqchip, soft_now(e), soft_tsc(e));
    soft_rearm(e);
    if ((e->env->eflags & EFLAGS_IF) && !(e->env->hflags & HFLAG_INHIBIT) &&
        irqchip_pending(&e->irqchip))
        vector = irqchip_acknowledge(&e->irqchip);
    if (irqchip_pending(&e->irqchip)) /* not allowed now: look again at each head */
        atomic_store(&e->attention, true);
    pthread_mutex_unlock(&e->lock);
    if (vector >= 0) {
        e->delivering = true; /* a fault in it leaves by longjmp: see exec_interrupt */
        do_interrupt_x86_hardirq_x86_64(e->env, vector, 1);
        e->delivering = false;
    }
    return vector >= 0 || dropped;
}

/* ---- the vCPU
 * ------------------------------------------------------------------------------------------- */

static int start_timer(struct engine *e)
{
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = TIMER_SIGNAL};
    sigset_t set;

    event._sigev_un._tid = gettid();
    sigemptyset(&action.sa_mask);
    sigaction(TIMER_SIGNAL, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, TIMER_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    if (timer_create(CLOCK_MONOTONIC, &event, &e->timer) < 0)
        return -errno;
    atomic_store(&e->has_thread, true);
    return 0;
}

/*
 * Booting fills the buffer with code that an idle guest never runs again. When it halted through
 * most of a window, all translated code is dropped and its memory goes back to the host; what is
 * still needed is translated again.
 */
static void trim_when_idle(struct engine *e)
{
    uint64_t now = monotonic(), window = now - e->window_start;

    if (window < TRIM_WINDOW_NS)
        return;
    if (e->window_halted > window / 10 * 9 && e->n_translated > TRIM_BLOCKS) {
        /* The library's name for dropping all blocks; allowed between two runs only. */
        uc_ctl_flush_tlb(e->uc);
        malloc_trim(0); /* what described them */
    }
    e->window_start = now;
    e->window_halted = 0;
}

/* Waits in HLT until an interrupt can be taken. false: leave vcpu_run. */
static bool wait_halted(struct engine *e)
{
    uint64_t began;
    bool stop = false;

    trim_when_idle(e);
    began = monotonic();
    e->host.halt(e->host.opaque, 0);
    pthread_mutex_lock(&e->lock);
    e->halted = true;
    for (;;) {
        uint64_t now, due;
        /* A kick: paused, or told to end? Looked at before each wait: its signal may have come when
         * nobody waited yet. */
        if (atomic_exchange(&e->attention, false)) {
            pthread_mutex_unlock(&e->lock);
            stop = !e->host.resume(e->host.opaque, 0);
            if (!stop)
                e->host.halt(e->host.opaque, 0);
            pthread_mutex_lock(&e->lock);
            if (stop)
                break;
        }
        now = soft_now(e);
        irqchip_run_timers(&e->irqchip, now, soft_tsc(e));
        if (irqchip_pending(&e->irqchip))
            break;
        due = irqchip_deadline(&e->irqchip, now, soft_tsc(e));
        if (due == UINT64_MAX) {
            pthread_cond_wait(&e->wake, &e->lock);
        } else {
            struct timespec until = to_host_time(e, due);
            pthread_cond_timedwait(&e->wake, &e->lock, &until);
        }
    }
    e->halted = false;
    pthread_mutex_unlock(&e->lock);
    e->window_halted += monotonic() - began;
    if (stop)
        return false;
    if (!e->host.resume(e->host.opaque, 0))
        return false;
    pthread_mutex_lock(&e->lock);
    soft_rearm(e);
    pthread_mutex_unlock(&e->lock);
    soft_interrupt(e);
    return true;
}

static enum engine_exit failed(struct engine *e, uc_err error)
{
    snprintf(e->error, sizeof(e->error), "software engine: %s at rip %#llx, cr2 %#llx",
             uc_strerror(error), (unsigned long long)e->env->eip,
             (unsigned long long)e->env->cr[2]);
    return ENGINE_EXIT_FAILED;
}

static enum engine_exit soft_vcpu_run(struct vcpu *vcpu)
{
    struct engine *e = vcpu->engine;

    if (!atomic_load(&e->has_thread) && start_timer(e) < 0) {
        snprintf(e->error, sizeof(e->error), "software engine: no timer: %s", strerror(errno));
        return ENGINE_EXIT_FAILED;
    }
    e->left = false;
    if (!e->host.resume(e->host.opaque, 0))
        return ENGINE_EXIT_STOPPED;
    soft_interrupt(e);
    for (;;) {
        e->cpu->interrupt_request |= INTERRUPT_HARD; /* never cleared: see x86_cpu_exec_interrupt */
        uc_err error = uc_emu_start(e->uc, e->env->eip, 0, 0, 0);
        if (e->left)
            break;
        if (error != UC_ERR_OK) {
            e->exit = failed(e, error);
            break;
        }
        if (!e->was_hlt)
            continue;
        e->was_hlt = false;
        if (!(e->env->eflags & EFLAGS_IF)) { /* cli; hlt: nothing can wake it */
            snprintf(e->error, sizeof(e->error), "guest halted with interrupts off at rip %#llx",
                     (unsigned long long)e->env->eip);
            e->exit = ENGINE_EXIT_FAILED;
            break;
        }
        if (!wait_halted(e))
            return ENGINE_EXIT_STOPPED; /* already outside */
    }
    if (e->exit != ENGINE_EXIT_STOPPED) /* poll left for us when it said stop */
        e->host.halt(e->host.opaque, 0);
    return e->exit;
}

static int soft_vcpu_create(struct engine *e, unsigned index, struct vcpu **ret_vcpu)
{
    if (index != 0)
        return -ENOTSUP;
    e->vcpu.engine = e;
    *ret_vcpu = &e->vcpu;
    return 0;
}

static int soft_vcpu_enter_at(struct vcpu *vcpu, const struct engine_entry *entry)
{
    struct engine *e = vcpu->engine;
    uint64_t cr3 = entry->cr3, cr0 = 0x80050033, flags = 2; /* PE MP ET NE WP AM PG */

    if (uc_reg_write(e->uc, UC_X86_REG_CR3, &cr3) != UC_ERR_OK)
        return -EINVAL;
    e->any_mapping = real_memory_mapping(e->uc, 0);
    if (uc_reg_write(e->uc, UC_X86_REG_CR0, &cr0) != UC_ERR_OK)
        return -EINVAL;
    e->env->gdt.base = entry->gdt_base;
    e->env->gdt.limit = entry->gdt_limit;
    for (int i = 0; i < SEG_COUNT; i++)
        e->env->segs[i] = (struct uc_segment){.selector = i == SEG_CS ? 0x10 : 0x18,
                                              .limit = 0xffffffff,
                                              .flags = i == SEG_CS ? 0x00af9b00 : 0x00cf9300};
    e->env->hflags |= HFLAG_CS32 | HFLAG_SS32 | HFLAG_PE | HFLAG_LMA | HFLAG_CS64;
    e->env->hflags &= ~(HFLAG_ADDSEG | HFLAG_CPL_MASK);
    e->env->regs[GPR_RSI] = entry->rsi;
    e->env->regs[GPR_RSP] = entry->rsp;
    uc_reg_write(e->uc, UC_X86_REG_RFLAGS, &flags);
    e->env->eip = entry->rip;
    return 0;
}

/* ---- state
 * ------------------------------------------------------------------------------------------------
 */

#define VCPU_VERSION   1
#define CONTEXT_HEADER 16 /* struct uc_context before its data: size, mode, arch */

static int soft_vcpu_get_state(struct vcpu *vcpu, struct state *s)
{
    struct engine *e = vcpu->engine;
    uc_context *context = NULL;
    uint64_t tsc = soft_tsc(e);

    if (uc_context_alloc(e->uc, &context) != UC_ERR_OK)
        return -ENOMEM;
    if (uc_context_save(e->uc, context) != UC_ERR_OK) {
        uc_context_free(context);
        return -EIO;
    }
    state_begin(s, "vcpu-soft", VCPU_VERSION);
    state_put_field(s, tsc);
    state_put(s, context, uc_context_size(e->uc));
    state_end(s);
    uc_context_free(context);
    return s->error;
}

/* A context begins with its size, which the library believes when it restores: it must be ours. */
static void get_context(struct engine *e, struct state *s, uc_context *context)
{
    uint8_t ours[CONTEXT_HEADER];

    memcpy(ours, context, sizeof(ours));
    state_get(s, context, uc_context_size(e->uc));
    if (!s->error && memcmp(ours, context, sizeof(ours)) != 0)
        s->error = -EPROTO;
}

/* Breakpoints and watchpoints in the loaded state are pointers of the process that saved it: they
 * are made anew from DR7. */
static void rearm_debug_registers(struct engine *e)
{
    uint64_t *dr = &SOFT_ENV64(e, e->debug_registers), *pointers = dr + 8;
    uint32_t dr7 = (uint32_t)dr[7];

    for (unsigned i = 0; i < 4; i++)
        pointers[i] = 0;
    dr[7] = dr7 & ~0xffull; /* all off: nothing is taken away when they are set again */
    cpu_x86_update_dr7_x86_64(e->env, dr7);
}

static int soft_vcpu_set_state(struct vcpu *vcpu, struct state *s)
{
    struct engine *e = vcpu->engine;
    uc_context *context = NULL;
    uint64_t tsc = 0;

    if (uc_context_alloc(e->uc, &context) != UC_ERR_OK)
        return -ENOMEM;
    if (state_open(s, "vcpu-soft") == VCPU_VERSION) {
        state_get_field(s, tsc);
        get_context(e, s, context);
    }
    state_close(s);
    if (!s->error) {
        e->any_mapping = real_memory_mapping(e->uc, 0);
        cpu_x86_update_dr7_x86_64(e->env, 0); /* takes away what is set here */
        uc_context_restore(e->uc, context);
        rearm_debug_registers(e);
        SOFT_ENV64(e, e->tsc_offset) = tsc - __rdtsc();
    }
    uc_context_free(context);
    return s->error;
}

static int soft_get_irqchip(struct engine *e, struct state *s)
{
    pthread_mutex_lock(&e->lock);
    uint64_t now = soft_now(e);
    irqchip_save(&e->irqchip, s);
    pthread_mutex_unlock(&e->lock);
    state_begin(s, "clock-soft", 1);
    state_put_field(s, now);
    state_end(s);
    return s->error;
}

static int soft_set_irqchip(struct engine *e, struct state *s)
{
    uint64_t now = 0;

    pthread_mutex_lock(&e->lock);
    irqchip_load(&e->irqchip, s);
    if (state_open(s, "clock-soft") == 1)
        state_get_field(s, now);
    state_close(s);
    if (!s->error) {
        e->clock_behind = monotonic() - now;
        e->timer_due = 0;
        e->irqchip.tsc_khz = e->tsc_khz;
    }
    pthread_mutex_unlock(&e->lock);
    return s->error;
}

static void soft_clock_shift(struct engine *e, uint64_t ns)
{
    pthread_mutex_lock(&e->lock);
    e->clock_behind += ns;
    e->timer_due = 0;
    SOFT_ENV64(e, e->tsc_offset) -= (uint64_t)((unsigned __int128)ns * e->tsc_khz / 1000000);
    pthread_mutex_unlock(&e->lock);
}

/* ---- creation
 * -----------------------------------------------------------------------------------------------
 */

static void deliver_exception(struct engine *e)
{
    e->delivering = true;
    x86_cpu_do_interrupt_x86_64(e->cpu);
    e->delivering = false;
}

static void on_exception(uc_engine *uc, uint32_t number, void *opaque)
{
    (void)uc, (void)number;
    deliver_exception(opaque);
}

static bool on_invalid_instruction(uc_engine *uc, void *opaque)
{
    (void)uc;
    deliver_exception(opaque);
    return true;
}

static uint64_t on_mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *opaque)
{
    struct engine *e = opaque;
    uint64_t gpa = MMIO_START + offset;
    uint32_t value;
    bool ours;

    (void)uc;
    pthread_mutex_lock(&e->lock);
    ours = irqchip_mmio_read(&e->irqchip, gpa, soft_now(e), &value);
    pthread_mutex_unlock(&e->lock);
    return ours ? value : e->host.mmio_read(e->host.opaque, gpa, size);
}

static void on_mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value,
                          void *opaque)
{
    struct engine *e = opaque;
    uint64_t gpa = MMIO_START + offset;
    bool ours;

    (void)uc;
    pthread_mutex_lock(&e->lock);
    ours = irqchip_mmio_write(&e->irqchip, gpa, soft_now(e), (uint32_t)value);
    if (ours)
        soft_rearm(e);
    pthread_mutex_unlock(&e->lock);
    if (ours)
        soft_interrupt(e);
    else
        e->host.mmio_write(e->host.opaque, gpa, size, value);
}

static void soft_destroy(struct engine *e)
{
    if (!e)
        return;
    if (atomic_load(&e->has_thread))
        timer_delete(e->timer);
    if (e->uc)
        uc_close(e->uc);
    soft_watch_free(e);
    pthread_cond_destroy(&e->wake);
    pthread_mutex_destroy(&e->lock);
    free(e->code_pages);
    free(e->lookups);
    soft_self = NULL;
    free(e);
}

static int open_library(struct engine *e)
{
    uc_hook hook;
    uint64_t no_exits[1];
    int r;

    if (uc_open(UC_ARCH_X86, UC_MODE_64, &e->uc) != UC_ERR_OK)
        return -ENOMEM;
    if (uc_mmio_map(e->uc, MMIO_START, MMIO_END - MMIO_START, on_mmio_read, e, on_mmio_write, e) !=
        UC_ERR_OK)
        return -ENOMEM;
    r = soft_find_layout(e);
    if (r < 0)
        return r;
    soft_set_features(e);
    if (uc_hook_add(e->uc, &hook, UC_HOOK_INTR, on_exception, e, 1, 0) != UC_ERR_OK ||
        uc_hook_add(e->uc, &hook, UC_HOOK_INSN_INVALID, on_invalid_instruction, e, 1, 0) !=
            UC_ERR_OK ||
        uc_ctl_exits_enable(e->uc) != UC_ERR_OK ||
        uc_ctl_set_exits(e->uc, no_exits, 0) != UC_ERR_OK)
        return -ENOMEM;
    /* 2.0.1 never marks the first region of its buffer as used, and the first overflow would zero
     * live code: flush once while it is empty. */
    return uc_ctl_flush_tlb(e->uc) == UC_ERR_OK ? 0 : -ENOMEM;
}

static int soft_create(const struct engine_config *config, struct engine **ret_engine)
{
    pthread_condattr_t attr;
    struct engine *e;
    int r;

    if (config->vcpus != 1)
        return -ENOTSUP;
    if (soft_self)
        return -EBUSY; /* one in a process */
    e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->host = config->host;
    e->buffer_mib = config->buffer_mib ? config->buffer_mib : BUFFER_MIB_DEFAULT;
    if (e->buffer_mib < BUFFER_MIB_MIN)
        e->buffer_mib = BUFFER_MIB_MIN;
    pthread_mutex_init(&e->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&e->wake, &attr);
    pthread_condattr_destroy(&attr);
    e->tsc_khz = measure_tsc_khz();
    irqchip_reset(&e->irqchip, e->tsc_khz);
    e->lookups = calloc(SOFT_LOOKUPS, sizeof(e->lookups[0]));
    soft_self = e;
    r = e->lookups ? open_library(e) : -ENOMEM;
    if (r < 0) {
        soft_destroy(e);
        return r;
    }
    *ret_engine = e;
    return 0;
}

static int soft_unmap_ram(struct engine *e, uint64_t gpa, uint64_t bytes)
{
    (void)bytes;
    soft_ram_remove(e, gpa);
    return 0;
}

static int soft_irq_line(struct engine *e, unsigned gsi, bool level)
{
    pthread_mutex_lock(&e->lock);
    irqchip_line(&e->irqchip, gsi, level);
    pthread_mutex_unlock(&e->lock);
    if (level)
        wake(e);
    return 0;
}

static int soft_msi(struct engine *e, uint64_t address, uint32_t data)
{
    pthread_mutex_lock(&e->lock);
    irqchip_msi(&e->irqchip, address, data);
    pthread_mutex_unlock(&e->lock);
    wake(e);
    return 0;
}

static uint64_t soft_tsc_khz(struct engine *e)
{
    return e->tsc_khz;
}

static const char *soft_error(struct engine *e)
{
    return e->error;
}

const struct engine_ops *engine_soft(void)
{
    static const struct engine_ops ops = {
        .name = "soft",
        .create = soft_create,
        .destroy = soft_destroy,
        .map_ram = soft_ram_add,
        .unmap_ram = soft_unmap_ram,
        .ram_written = soft_ram_written,
        .vcpu_create = soft_vcpu_create,
        .vcpu_enter_at = soft_vcpu_enter_at,
        .vcpu_run = soft_vcpu_run,
        .vcpu_kick = soft_kick,
        .vcpu_get_state = soft_vcpu_get_state,
        .vcpu_set_state = soft_vcpu_set_state,
        .irq_line = soft_irq_line,
        .msi = soft_msi,
        .get_irqchip = soft_get_irqchip,
        .set_irqchip = soft_set_irqchip,
        .clock_shift = soft_clock_shift,
        .tsc_khz = soft_tsc_khz,
        .error = soft_error,
    };
    return &ops;
}
