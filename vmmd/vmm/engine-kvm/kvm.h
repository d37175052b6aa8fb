/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvm: what the files of the KVM engine share. vm.c creates the machine and its memory slots,
 * vcpu.c runs and wakes vCPUs, exits.c handles what they leave for, routes.c brings interrupts in
 * and queue kicks out, cpuid.c says what CPU the guest sees, state-vcpu.c and state-vm.c save and
 * load, timers.c keeps what counts still in a pause.
 *
 * /dev/kvm is used while the engine is created and not kept. `lock` guards slots, routes and the
 * error text; it is a leaf and never held across KVM_RUN or a call of the host.
 *
 * Source: Documentation/virt/kvm/api.rst of Linux.
 */
#ifndef VMM_KVM_H
#define VMM_KVM_H

#include "vmmd/vmm/engine.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#define KVM_KICK_SIGNAL   SIGUSR1
#define KVM_ERROR_BYTES   224
#define KVM_MAX_SLOTS     8
#define KVM_MAX_ROUTES    64u    /* MSI routes of irqfds */
#define KVM_MAX_CPUID     256u   /* entries */
#define KVM_MAX_MSRS      1024u  /* of the host's list, and of a loaded state */
#define KVM_MAX_XSAVE     65536u /* bytes */
#define KVM_LEGACY_ROUTES (24 + 16)

struct kvm_slot {
    uint64_t gpa, bytes;
    void *hva;
    bool used, logged;
};

struct kvm_route { /* of GSI 24 + its index */
    int fd;        /* -1: free */
    uint64_t address;
    uint32_t data;
};

struct vcpu {
    struct engine *engine;
    unsigned index;
    int fd;
    struct kvm_run *run;
    atomic_int tid;       /* of the thread in vcpu_run; 0: none */
    uint32_t lapic_count; /* what its APIC's timer has left to count while stopped; 0: nothing */
};

struct engine {
    struct engine_host host;
    int vm_fd;
    unsigned n_vcpus;
    struct vcpu *vcpus[ENGINE_MAX_VCPUS];
    size_t run_bytes, xsave_bytes;
    struct kvm_cpuid2 *cpuid;     /* what guests see; of KVM_MAX_CPUID entries */
    struct kvm_cpuid2 *supported; /* what this host could show; the same size */
    uint32_t *msrs;               /* what a state holds, in the host's order */
    unsigned n_msrs;
    bool tsc_offsets; /* KVM_VCPU_TSC_OFFSET is there */
    bool sregs2;
    bool stopped, pit_stopped; /* timers.c */
    struct kvm_pit_state2 pit; /* while pit_stopped: what the guest has */
    uint64_t tsc_at; /* host's TSC at which all vCPUs' are saved or loaded: see state-vcpu.c */
    pthread_mutex_t lock;
    struct kvm_slot slots[KVM_MAX_SLOTS];
    struct kvm_route routes[KVM_MAX_ROUTES];
    char error[KVM_ERROR_BYTES];
};

/* ioctl() that goes on after a signal; the result or -errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
int kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
/* What KVM_CHECK_EXTENSION says; 0: not there. */
int kvm_extension(int fd, int capability);

/* The first failure stays. */
void kvm_fail(struct engine *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* vcpu.c */
int kvm_vcpu_create(struct engine *e, unsigned index, struct vcpu **ret_vcpu);
void kvm_vcpu_destroy(struct vcpu *v);
int kvm_vcpu_enter_at(struct vcpu *v, const struct engine_entry *entry);
enum engine_exit kvm_vcpu_run(struct vcpu *v);
void kvm_vcpu_kick(struct vcpu *v);
void kvm_prepare_kicks(void); /* the signal's handler */

/* exits.c: true: the vCPU goes on; else *ret_exit says why not. */
bool kvm_handle_exit(struct vcpu *v, enum engine_exit *ret_exit);

/* routes.c */
int kvm_set_routes(struct engine *e); /* with the lock held, or before anybody else knows it */
int kvm_irq_line(struct engine *e, unsigned gsi, bool level);
int kvm_msi(struct engine *e, uint64_t address, uint32_t data);
int kvm_irqfd(struct engine *e, int fd, uint64_t address, uint32_t data);
/* What was fired is in the local APICs when this returns: the kernel may have put it off. */
int kvm_settle_irqfds(struct engine *e);
int kvm_ioeventfd(struct engine *e, uint64_t gpa, unsigned size, int fd, bool add);

/* cpuid.c: fills e->cpuid and e->supported. -ENOTSUP: the host lacks what the model has. */
int kvm_cpuid_init(struct engine *e, int kvm_fd, enum engine_cpu_model model);
/* What the model leaves of it; tables of KVM_MAX_CPUID entries. */
int kvm_cpuid_filter(const struct kvm_cpuid2 *supported, enum engine_cpu_model model,
                     struct kvm_cpuid2 *ret);
/* What of the model's level a host lacks: names as in /proc/cpuinfo, with blanks between; "". */
void kvm_cpuid_missing(const struct kvm_cpuid2 *supported, enum engine_cpu_model model, char *text,
                       size_t size);
int kvm_cpuid_give(struct vcpu *v); /* to a new vCPU, with its number in it */
/* Whether a vCPU of this host may show these entries (of a loaded state). */
bool kvm_cpuid_possible(const struct engine *e, const struct kvm_cpuid2 *c);

/* state-vcpu.c */
int kvm_state_init(struct engine *e, int kvm_fd); /* asks what there is to save */
int kvm_vcpu_get_state(struct vcpu *v, struct state *s);
int kvm_vcpu_set_state(struct vcpu *v, struct state *s);
void kvm_shift_tsc(struct vcpu *v, uint64_t ticks); /* it was stopped so long */

/* timers.c: see there */
void kvm_timers_stop(struct engine *e);
void kvm_timers_start(struct engine *e);
int kvm_timers_get_pit(struct engine *e, struct kvm_pit_state2 *ret);
int kvm_timers_set_pit(struct engine *e, const struct kvm_pit_state2 *pit);
/* To a state that is saved in a pause; of one that is loaded in one. */
void kvm_timers_saved_lapic(const struct vcpu *v, struct kvm_lapic_state *lapic);
void kvm_timers_loaded_lapic(struct vcpu *v, const struct kvm_lapic_state *lapic);

/* state-vm.c */
int kvm_get_irqchip(struct engine *e, struct state *s);
int kvm_set_irqchip(struct engine *e, struct state *s);
void kvm_clock_shift(struct engine *e, uint64_t ns);
uint64_t kvm_tsc_khz(struct engine *e);

#endif
