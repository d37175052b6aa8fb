/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state-vcpu: a vCPU's whole state to and from a section.
 *
 * What is loaded may come from anywhere: every count is bounded, CPU features must be possible
 * here, an MSR must be one that this host's list has, and the kernel checks the values. All is read
 * before anything is set. The order of setting matters: CPUID before what it allows, control
 * registers before the local APIC, that before its deadline.
 *
 * The TSCs of all vCPUs are saved as of one moment (engine.tsc_at, taken with vCPU 0) and loaded as
 * of one moment, so that they stay as far from each other as they were.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include "vmmd/vmm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#define VERSION          1
#define SECTION          "vcpu-kvm"
#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define XSAVE_MIN        4096u
#define MP_STATE_MAX     KVM_MP_STATE_AP_RESET_HOLD

struct vcpu_state {
    uint32_t index, sregs2, xsave_bytes, n_msrs, tsc_khz;
    uint64_t tsc, deadline;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debug;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp;
    struct kvm_msr_entry msrs[KVM_MAX_MSRS];
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[KVM_MAX_CPUID];
    } cpuid;
    uint8_t xsave[KVM_MAX_XSAVE];
};

/* ---- what there is ---- */

static bool own_way(uint32_t msr)
{
    return msr == MSR_TSC || msr == MSR_TSC_DEADLINE;
}

static int list_msrs(struct engine *e, int kvm_fd)
{
    struct kvm_msr_list *list = calloc(1, sizeof(*list) + KVM_MAX_MSRS * sizeof(list->indices[0]));
    int r;

    e->msrs = calloc(KVM_MAX_MSRS, sizeof(e->msrs[0]));
    if (!list || !e->msrs) {
        free(list);
        return -ENOMEM;
    }
    list->nmsrs = KVM_MAX_MSRS;
    r = kvm_ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list);
    for (uint32_t i = 0; r == 0 && i < list->nmsrs; i++)
        if (!own_way(list->indices[i]))
            e->msrs[e->n_msrs++] = list->indices[i];
    free(list);
    return r;
}

int kvm_state_init(struct engine *e, int kvm_fd)
{
    int bytes = kvm_extension(e->vm_fd, KVM_CAP_XSAVE2);

    e->xsave_bytes = bytes > (int)XSAVE_MIN ? (size_t)bytes : XSAVE_MIN;
    if (e->xsave_bytes > KVM_MAX_XSAVE)
        return -E2BIG;
    e->sregs2 = kvm_extension(e->vm_fd, KVM_CAP_SREGS2);
    e->tsc_offsets = kvm_extension(kvm_fd, KVM_CAP_VCPU_ATTRIBUTES);
    return list_msrs(e, kvm_fd);
}

/* ---- one MSR; the TSC ---- */

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
};

static int get_msr(struct vcpu *v, uint32_t index, uint64_t *ret_value)
{
    struct one_msr m = {.head.nmsrs = 1, .entry.index = index};
    int r = kvm_ioctl(v->fd, KVM_GET_MSRS, &m);

    if (r < 1)
        return r < 0 ? r : -ENXIO;
    *ret_value = m.entry.data;
    return 0;
}

static int set_msr(struct vcpu *v, uint32_t index, uint64_t value)
{
    struct one_msr m = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};
    int r = kvm_ioctl(v->fd, KVM_SET_MSRS, &m);

    return r < 1 ? r < 0 ? r : -EINVAL : 0;
}

static int tsc_offset(struct vcpu *v, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL,
                                   .attr = KVM_VCPU_TSC_OFFSET,
                                   .addr = (uint64_t)(uintptr_t)offset};

    return v->engine->tsc_offsets ? kvm_ioctl(v->fd, request, &attr) : -ENOTSUP;
}

static int get_tsc(struct vcpu *v, uint64_t *ret_tsc)
{
    uint64_t offset;

    if (tsc_offset(v, KVM_GET_DEVICE_ATTR, &offset) < 0)
        return get_msr(v, MSR_TSC, ret_tsc);
    *ret_tsc = v->engine->tsc_at + offset;
    return 0;
}

static int set_tsc(struct vcpu *v, uint64_t tsc)
{
    uint64_t offset = tsc - v->engine->tsc_at;

    return tsc_offset(v, KVM_SET_DEVICE_ATTR, &offset) < 0 ? set_msr(v, MSR_TSC, tsc) : 0;
}

void kvm_shift_tsc(struct vcpu *v, uint64_t ticks)
{
    uint64_t tsc, deadline = 0;

    get_msr(v, MSR_TSC_DEADLINE, &deadline);
    v->engine->tsc_at = __rdtsc();
    if (get_tsc(v, &tsc) == 0)
        set_tsc(v, tsc - ticks);
    if (deadline) /* armed again, by the shifted TSC */
        set_msr(v, MSR_TSC_DEADLINE, deadline);
    kvm_ioctl(v->fd, KVM_KVMCLOCK_CTRL,
              NULL); /* its watchdogs shall not bark; fails without a kvmclock */
}

/* ---- reading the vCPU ---- */

static int get_sregs(struct vcpu *v, struct vcpu_state *st)
{
    struct kvm_sregs old;
    int r;

    st->sregs2 = v->engine->sregs2;
    if (st->sregs2)
        return kvm_ioctl(v->fd, KVM_GET_SREGS2, &st->sregs);
    r = kvm_ioctl(v->fd, KVM_GET_SREGS, &old);
    if (r == 0) { /* the new struct begins like the old one up to the APIC base */
        memcpy(&st->sregs, &old, offsetof(struct kvm_sregs2, flags));
    }
    return r;
}

static void get_msrs(struct vcpu *v, struct vcpu_state *st)
{
    const struct engine *e = v->engine;

    /* Some of the list cannot be read where the guest does not have the feature. */
    for (unsigned i = 0; i < e->n_msrs; i++) {
        uint64_t value;
        if (get_msr(v, e->msrs[i], &value) == 0)
            st->msrs[st->n_msrs++] = (struct kvm_msr_entry){.index = e->msrs[i], .data = value};
    }
}

static int get_all(struct vcpu *v, struct vcpu_state *st)
{
    struct engine *e = v->engine;
    int r, khz = kvm_ioctl_value(v->fd, KVM_GET_TSC_KHZ, 0);

    st->index = v->index;
    st->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    st->xsave_bytes = (uint32_t)e->xsave_bytes;
    if (v->index == 0)
        e->tsc_at = __rdtsc();
    get_msr(v, MSR_TSC_DEADLINE, &st->deadline);
    r = get_tsc(v, &st->tsc);
    if (r == 0)
        r = get_sregs(v, st);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_GET_REGS, &st->regs);
    if (r == 0)
        r = kvm_ioctl(v->fd, e->xsave_bytes > XSAVE_MIN ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
                      st->xsave);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_GET_XCRS, &st->xcrs);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &st->debug);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_GET_MP_STATE, &st->mp); /* first: it takes pending INITs in */
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_GET_LAPIC, &st->lapic);
    kvm_timers_saved_lapic(v, &st->lapic);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &st->events);
    if (r == 0)
        get_msrs(v, st);
    return r;
}

/* ---- the section ---- */

static void put_all(struct vcpu *v, const struct vcpu_state *st, struct state *s)
{
    const struct kvm_cpuid2 *c = v->engine->cpuid;

    state_begin(s, SECTION, VERSION);
    state_put_field(s, st->index);
    state_put_field(s, st->sregs2);
    state_put_field(s, st->xsave_bytes);
    state_put_field(s, st->n_msrs);
    state_put_field(s, c->nent);
    state_put_field(s, st->tsc_khz);
    state_put_field(s, st->tsc);
    state_put_field(s, st->deadline);
    state_put_field(s, st->regs);
    state_put_field(s, st->sregs);
    state_put_field(s, st->xcrs);
    state_put_field(s, st->debug);
    state_put_field(s, st->lapic);
    state_put_field(s, st->events);
    state_put_field(s, st->mp);
    state_put(s, st->msrs, st->n_msrs * sizeof(st->msrs[0]));
    state_put(s, c->entries, c->nent * sizeof(c->entries[0]));
    state_put(s, st->xsave, st->xsave_bytes);
    state_end(s);
}

/* Reads all of it; the counts are good then. */
static int take_all(struct state *s, struct vcpu_state *st)
{
    if (state_open(s, SECTION) != VERSION)
        return s->error ? s->error : -EPROTO;
    state_get_field(s, st->index);
    state_get_field(s, st->sregs2);
    state_get_field(s, st->xsave_bytes);
    state_get_field(s, st->n_msrs);
    state_get_field(s, st->cpuid.head.nent);
    state_get_field(s, st->tsc_khz);
    state_get_field(s, st->tsc);
    state_get_field(s, st->deadline);
    state_get_field(s, st->regs);
    state_get_field(s, st->sregs);
    state_get_field(s, st->xcrs);
    state_get_field(s, st->debug);
    state_get_field(s, st->lapic);
    state_get_field(s, st->events);
    state_get_field(s, st->mp);
    if (st->n_msrs > KVM_MAX_MSRS || st->cpuid.head.nent > KVM_MAX_CPUID ||
        st->xsave_bytes > KVM_MAX_XSAVE)
        return s->error = -EPROTO;
    state_get(s, st->msrs, st->n_msrs * sizeof(st->msrs[0]));
    state_get(s, st->cpuid.entries, st->cpuid.head.nent * sizeof(st->cpuid.entries[0]));
    state_get(s, st->xsave, st->xsave_bytes);
    state_close(s);
    return s->error;
}

/* ---- checks ---- */

static bool is_known_msr(const struct engine *e, uint32_t index)
{
    for (unsigned i = 0; i < e->n_msrs; i++)
        if (e->msrs[i] == index)
            return true;
    return false;
}

/* -EPROTO: makes no sense; -ENOTSUP: this host cannot go on with it. */
static int check(const struct vcpu *v, const struct vcpu_state *st)
{
    const struct engine *e = v->engine;

    if (st->index != v->index || st->sregs2 > 1 || st->mp.mp_state > MP_STATE_MAX ||
        st->xsave_bytes < XSAVE_MIN || st->xcrs.nr_xcrs > KVM_MAX_XCRS)
        return -EPROTO;
    if (st->xsave_bytes > e->xsave_bytes || (st->sregs2 && !e->sregs2) ||
        !kvm_cpuid_possible(e, &st->cpuid.head))
        return -ENOTSUP;
    for (uint32_t i = 0; i < st->n_msrs; i++)
        if (!is_known_msr(e, st->msrs[i].index) && st->msrs[i].data != 0)
            return -ENOTSUP;
    return 0;
}

/* ---- writing the vCPU ---- */

static int set_sregs(struct vcpu *v, const struct vcpu_state *st)
{
    struct kvm_sregs old = {0};

    if (st->sregs2)
        return kvm_ioctl(v->fd, KVM_SET_SREGS2, (void *)&st->sregs);
    memcpy(&old, &st->sregs, offsetof(struct kvm_sregs2, flags));
    return kvm_ioctl(v->fd, KVM_SET_SREGS, &old);
}

/* What cannot be set is an error, unless it has the value already. */
static int set_msrs(struct vcpu *v, const struct vcpu_state *st)
{
    for (uint32_t i = 0; i < st->n_msrs; i++) {
        const struct kvm_msr_entry *m = &st->msrs[i];
        uint64_t now = 0;
        if (set_msr(v, m->index, m->data) < 0 &&
            (get_msr(v, m->index, &now) < 0 ? m->data != 0 : now != m->data))
            return -EINVAL;
    }
    return 0;
}

/* A TSC of another rate is asked for; 250 ppm are what clocks differ by anyway. */
static int set_rate(struct vcpu *v, uint32_t khz)
{
    int here = kvm_ioctl_value(v->fd, KVM_GET_TSC_KHZ, 0);

    if (khz == 0 || here <= 0 || labs((long)khz - here) <= here / 4000)
        return 0;
    return kvm_ioctl_value(v->fd, KVM_SET_TSC_KHZ, khz) < 0 ? -ENOTSUP : 0;
}

static int set_all(struct vcpu *v, struct vcpu_state *st)
{
    int r = kvm_ioctl(v->fd, KVM_SET_CPUID2, &st->cpuid);

    if (v->index == 0)
        v->engine->tsc_at = __rdtsc();
    if (r == 0)
        r = set_rate(v, st->tsc_khz);
    if (r == 0)
        r = set_sregs(v, st);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_REGS, &st->regs);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_XCRS, &st->xcrs);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_XSAVE, st->xsave);
    if (r == 0)
        r = set_tsc(v, st->tsc);
    if (r == 0)
        r = set_msrs(v, st);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_MP_STATE, &st->mp);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_LAPIC, &st->lapic);
    kvm_timers_loaded_lapic(v, &st->lapic);
    if (r == 0 && st->deadline)
        r = set_msr(v, MSR_TSC_DEADLINE, st->deadline);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &st->debug);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &st->events);
    return r;
}

int kvm_vcpu_get_state(struct vcpu *v, struct state *s)
{
    struct vcpu_state *st = calloc(1, sizeof(*st));
    int r = 0;

    if (!st)
        return -ENOMEM;
    if (v->index == 0) /* the first that is saved */
        r = kvm_settle_irqfds(v->engine);
    if (r == 0)
        r = get_all(v, st);
    if (r == 0)
        put_all(v, st, s);
    free(st);
    return r < 0 ? r : s->error;
}

int kvm_vcpu_set_state(struct vcpu *v, struct state *s)
{
    struct vcpu_state *st = calloc(1, sizeof(*st));
    int r;

    if (!st)
        return -ENOMEM;
    r = take_all(s, st);
    if (r == 0)
        r = check(v, st);
    if (r == 0)
        r = set_all(v, st);
    free(st);
    return r;
}
