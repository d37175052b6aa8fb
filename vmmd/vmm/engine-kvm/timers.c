/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * timers: what counts by itself in the kernel stands still while the machine is paused: the PIT,
 * and the timer of a local APIC in its counting modes. (One in deadline mode compares with the TSC,
 * which state-vcpu.c shifts.)
 *
 * The PIT is stopped when a pause begins, by a mode that its timer does not run in, and loaded
 * anew when it ends; a period begins then from its start, and ticks that the guest did not take yet
 * are forgotten. While it is stopped, `pit` is what the guest has. A single count of channel 0
 * cannot be stopped: the kernel does not tell what is left of it, nor whether it is over, and
 * loading one that is over would fire it again. It goes on in a pause, and may fire early, once.
 *
 * An APIC's timer runs on in the kernel: what it left is noted, and loaded over what it did
 * meanwhile (nothing that a guest has seen). Its registers are read and written as a whole, so no
 * interrupt may come in between: see engine.h, clock_shift.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include <string.h>
#include <time.h>

#define PIT_HZ        1193182ull
#define PIT_STOPPED   5u /* a mode of channel 0 without a timer: triggered by a gate it lacks */
#define PIT_COUNT_MAX 65536u

#define APIC_LVT      0x320u
#define APIC_TMICT    0x380u /* initial count */
#define APIC_TMCCT    0x390u /* current count */
#define APIC_DEADLINE 2u

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- the PIT ---- */

static bool counts_once(const struct kvm_pit_channel_state *c)
{
    return c->mode == 0 || c->mode == 1 || c->mode == 4;
}

/* Ticks until a single count, not of channel 0, is over; 0: it is. */
static uint32_t rest_of(const struct kvm_pit_channel_state *c, uint64_t now)
{
    uint64_t began = c->count_load_time > 0 ? (uint64_t)c->count_load_time : 0;
    uint64_t ticks =
        now > began ? (uint64_t)((unsigned __int128)(now - began) * PIT_HZ / 1000000000u) : 0;
    uint32_t count = c->count && c->count <= PIT_COUNT_MAX ? c->count : PIT_COUNT_MAX;

    return ticks < count ? count - (uint32_t)ticks : 0;
}

static void load_pit(struct engine *e, bool stopped)
{
    struct kvm_pit_state2 pit = e->pit;

    if (stopped)
        pit.channels[0].mode = PIT_STOPPED;
    kvm_ioctl(e->vm_fd, KVM_SET_PIT2, &pit);
}

static void stop_pit(struct engine *e)
{
    uint64_t now = now_ns();

    if (kvm_ioctl(e->vm_fd, KVM_GET_PIT2, &e->pit) < 0 || counts_once(&e->pit.channels[0]))
        return;
    for (unsigned i = 1; i < 3; i++) {
        struct kvm_pit_channel_state *c = &e->pit.channels[i];

        if (counts_once(c))
            c->count = rest_of(c, now) ? rest_of(c, now) : 1; /* over at once */
    }
    e->pit_stopped = true;
    load_pit(e, true);
}

int kvm_timers_get_pit(struct engine *e, struct kvm_pit_state2 *ret)
{
    if (!e->pit_stopped)
        return kvm_ioctl(e->vm_fd, KVM_GET_PIT2, ret);
    *ret = e->pit;
    return 0;
}

int kvm_timers_set_pit(struct engine *e, const struct kvm_pit_state2 *pit)
{
    int r;

    e->pit = *pit;
    r = kvm_ioctl(e->vm_fd, KVM_SET_PIT2, &e->pit); /* also in a pause: it says if it is right */
    e->pit_stopped = r == 0 && e->stopped;
    if (e->pit_stopped)
        load_pit(e, true);
    return r;
}

/* ---- local APICs ---- */

static uint32_t get_reg(const struct kvm_lapic_state *lapic, unsigned at)
{
    uint32_t value;

    memcpy(&value, lapic->regs + at, sizeof(value));
    return value;
}

static void put_reg(struct kvm_lapic_state *lapic, unsigned at, uint32_t value)
{
    memcpy(lapic->regs + at, &value, sizeof(value));
}

/* What is left of its count; 0: it does not count. */
static uint32_t count_of(const struct kvm_lapic_state *lapic)
{
    if ((get_reg(lapic, APIC_LVT) >> 17 & 3) >= APIC_DEADLINE || get_reg(lapic, APIC_TMICT) == 0)
        return 0;
    return get_reg(lapic, APIC_TMCCT);
}

static void stop_lapic(struct vcpu *v)
{
    struct kvm_lapic_state lapic;

    v->lapic_count = kvm_ioctl(v->fd, KVM_GET_LAPIC, &lapic) < 0 ? 0 : count_of(&lapic);
}

static void start_lapic(struct vcpu *v)
{
    struct kvm_lapic_state lapic;

    if (v->lapic_count == 0 || kvm_ioctl(v->fd, KVM_GET_LAPIC, &lapic) < 0)
        return;
    put_reg(&lapic, APIC_TMCCT, v->lapic_count);
    kvm_ioctl(v->fd, KVM_SET_LAPIC, &lapic);
}

void kvm_timers_saved_lapic(const struct vcpu *v, struct kvm_lapic_state *lapic)
{
    if (v->engine->stopped && v->lapic_count)
        put_reg(lapic, APIC_TMCCT, v->lapic_count);
}

void kvm_timers_loaded_lapic(struct vcpu *v, const struct kvm_lapic_state *lapic)
{
    if (v->engine->stopped)
        v->lapic_count = count_of(lapic);
}

/* ---- both ---- */

void kvm_timers_stop(struct engine *e)
{
    for (unsigned i = 0; i < e->n_vcpus; i++)
        if (e->vcpus[i])
            stop_lapic(e->vcpus[i]);
    stop_pit(e);
    e->stopped = true;
}

static bool any_lapic(const struct engine *e)
{
    for (unsigned i = 0; i < e->n_vcpus; i++)
        if (e->vcpus[i] && e->vcpus[i]->lapic_count)
            return true;
    return false;
}

void kvm_timers_start(struct engine *e)
{
    if (!e->stopped)
        return;
    if (any_lapic(e))
        kvm_settle_irqfds(e);
    for (unsigned i = 0; i < e->n_vcpus; i++)
        if (e->vcpus[i])
            start_lapic(e->vcpus[i]);
    if (e->pit_stopped)
        load_pit(e, false);
    e->stopped = e->pit_stopped = false;
}
