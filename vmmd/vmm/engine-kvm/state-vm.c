/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state-vm: what belongs to the whole machine: the two 8259s, the IOAPIC, the PIT and kvmclock; and
 * guest time, which stands still while the guest is paused.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include "vmmd/vmm/state.h"

#include <errno.h>

#define VERSION 1
#define SECTION "irqchip-kvm"
#define CHIPS   3

int kvm_get_irqchip(struct engine *e, struct state *s)
{
    struct kvm_irqchip chips[CHIPS] = {
        {.chip_id = KVM_IRQCHIP_PIC_MASTER},
        {.chip_id = KVM_IRQCHIP_PIC_SLAVE},
        {.chip_id = KVM_IRQCHIP_IOAPIC},
    };
    struct kvm_pit_state2 pit = {0};
    struct kvm_clock_data clock = {0};
    int r = 0;

    for (unsigned i = 0; r == 0 && i < CHIPS; i++)
        r = kvm_ioctl(e->vm_fd, KVM_GET_IRQCHIP, &chips[i]);
    if (r == 0)
        r = kvm_timers_get_pit(e, &pit);
    if (r == 0)
        r = kvm_ioctl(e->vm_fd, KVM_GET_CLOCK, &clock);
    if (r < 0)
        return r;
    state_begin(s, SECTION, VERSION);
    state_put_field(s, chips);
    state_put_field(s, pit);
    state_put_field(s, clock.clock);
    state_end(s);
    return s->error;
}

int kvm_set_irqchip(struct engine *e, struct state *s)
{
    static const uint32_t ids[CHIPS] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
                                        KVM_IRQCHIP_IOAPIC};
    struct kvm_irqchip chips[CHIPS];
    struct kvm_pit_state2 pit;
    struct kvm_clock_data clock = {0};
    int r = 0;

    if (state_open(s, SECTION) != VERSION)
        return s->error ? s->error : -EPROTO;
    state_get_field(s, chips);
    state_get_field(s, pit);
    state_get_field(s, clock.clock);
    state_close(s);
    for (unsigned i = 0; i < CHIPS; i++)
        if (chips[i].chip_id != ids[i])
            r = -EPROTO;
    if (s->error || r < 0)
        return s->error ? s->error : r;
    for (unsigned i = 0; r == 0 && i < CHIPS; i++)
        r = kvm_ioctl(e->vm_fd, KVM_SET_IRQCHIP, &chips[i]);
    if (r == 0)
        r = kvm_timers_set_pit(e, &pit);
    return r < 0 ? r : kvm_ioctl(e->vm_fd, KVM_SET_CLOCK, &clock);
}

void kvm_clock_shift(struct engine *e, uint64_t ns)
{
    struct kvm_clock_data now = {0}, then = {0};
    uint64_t ticks = (uint64_t)((unsigned __int128)ns * kvm_tsc_khz(e) / 1000000);

    kvm_timers_start(e);
    for (unsigned i = 0; i < e->n_vcpus; i++)
        if (e->vcpus[i])
            kvm_shift_tsc(e->vcpus[i], ticks);
    if (kvm_ioctl(e->vm_fd, KVM_GET_CLOCK, &now) < 0)
        return;
    then.clock = now.clock > ns ? now.clock - ns : 0;
    kvm_ioctl(e->vm_fd, KVM_SET_CLOCK, &then);
}

uint64_t kvm_tsc_khz(struct engine *e)
{
    int khz = e->vcpus[0] ? kvm_ioctl_value(e->vcpus[0]->fd, KVM_GET_TSC_KHZ, 0) : 0;

    return khz > 0 ? (uint64_t)khz : 0;
}
