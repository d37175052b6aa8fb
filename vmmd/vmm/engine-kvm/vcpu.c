/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vcpu: a vCPU, its run loop, and waking it.
 *
 * HLT is the kernel's: a vCPU that halts sleeps inside KVM_RUN and stays inside of the gate.
 * Whoever closes the gate kicks it like one that computes; the kernel remembers that it halted, and
 * when the gate opens it sleeps again without a guest instruction in between. That costs a halted
 * guest one signal and one system call for each piece of frozen work, and needs no knowledge of who
 * halts.
 *
 * A kick cannot be lost. It sets run->immediate_exit first and sends the signal then: a thread that
 * is on its way into KVM_RUN comes back at once because of the first, one that is in it because of
 * the second. Only the thread itself takes the flag away, before it looks at the gate; the gate was
 * closed before the kick, so either it sees that, or the flag is set again and the next KVM_RUN
 * fails. Coming back with EINTR also means that the last port or MMIO access is completed: KVM_RUN
 * does that first. So registers are whole whenever a vCPU stands at the gate.
 *
 * The signal's handler does nothing. A signal that comes late interrupts KVM_RUN once more for
 * nothing.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAPIC_LINT0  0x350
#define LAPIC_LINT1  0x360
#define MODE_EXTINT  0x700u
#define MODE_NMI     0x400u
#define CR0_ENTRY    0x80050033u /* PE MP ET NE WP AM PG */
#define CR4_PAE      0x20u
#define EFER_LME_LMA 0x500u

static void on_kick(int number)
{
    (void)number;
}

void kvm_prepare_kicks(void)
{
    /* SA_RESTART is for other system calls of the thread; KVM_RUN comes back all the same. */
    struct sigaction action = {.sa_handler = on_kick, .sa_flags = SA_RESTART};

    sigemptyset(&action.sa_mask);
    sigaction(KVM_KICK_SIGNAL, &action, NULL);
}

void kvm_vcpu_kick(struct vcpu *v)
{
    int tid;

    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    tid = atomic_load(&v->tid);
    if (tid != 0) /* else it sees the flag when it begins */
        syscall(SYS_tgkill, getpid(), tid, KVM_KICK_SIGNAL);
}

static void accept_kicks(struct vcpu *v)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    atomic_store(&v->tid, gettid());
}

/* KVM_RUN failed. true: the vCPU goes on. */
static bool after_failure(struct vcpu *v, int error, enum engine_exit *ret_exit)
{
    struct engine *e = v->engine;

    if (error == EAGAIN) /* an application processor was started */
        return true;
    if (error == EINTR) {
        __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        *ret_exit = ENGINE_EXIT_STOPPED;
        return e->host.poll(e->host.opaque, v->index);
    }
    kvm_fail(e, "vCPU %u cannot run: %s", v->index, strerror(error));
    *ret_exit = ENGINE_EXIT_FAILED;
    return false;
}

enum engine_exit kvm_vcpu_run(struct vcpu *v)
{
    struct engine *e = v->engine;
    enum engine_exit exit = ENGINE_EXIT_STOPPED;
    bool goes_on;

    accept_kicks(v);
    if (!e->host.resume(e->host.opaque, v->index)) {
        atomic_store(&v->tid, 0);
        return ENGINE_EXIT_STOPPED;
    }
    do {
        if (ioctl(v->fd, KVM_RUN, NULL) < 0)
            goes_on = after_failure(v, errno, &exit);
        else
            goes_on = kvm_handle_exit(v, &exit);
    } while (goes_on);
    atomic_store(&v->tid, 0);
    if (exit != ENGINE_EXIT_STOPPED) /* poll left for us when it said stop */
        e->host.halt(e->host.opaque, v->index);
    return exit;
}

/* ---- creation ---- */

int kvm_vcpu_create(struct engine *e, unsigned index, struct vcpu **ret_vcpu)
{
    struct vcpu *v;
    void *run;
    int r;

    if (index >= e->n_vcpus || e->vcpus[index])
        return -EINVAL;
    v = calloc(1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    v->engine = e;
    v->index = index;
    v->fd = r = kvm_ioctl_value(e->vm_fd, KVM_CREATE_VCPU, index);
    if (r < 0) {
        free(v);
        return r;
    }
    run = mmap(NULL, e->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    v->run = run == MAP_FAILED ? NULL : run;
    r = v->run ? kvm_cpuid_give(v) : -errno;
    if (r < 0) {
        kvm_vcpu_destroy(v);
        return r;
    }
    *ret_vcpu = e->vcpus[index] = v;
    return 0;
}

void kvm_vcpu_destroy(struct vcpu *v)
{
    if (!v)
        return;
    if (v->run)
        munmap(v->run, v->engine->run_bytes);
    close(v->fd);
    free(v);
}

/* ---- the first instruction ---- */

static struct kvm_segment flat_segment(uint16_t selector, bool code)
{
    return (struct kvm_segment){
        .limit = 0xffffffff,
        .selector = selector,
        .type = code ? 11 : 3,
        .present = 1,
        .db = !code,
        .s = 1,
        .l = code,
        .g = 1,
    };
}

/* The 8259 interrupts through LINT0, and LINT1 is NMI, as the MADT says. */
static int wire_local_interrupts(struct vcpu *v)
{
    const uint32_t lint0 = MODE_EXTINT, lint1 = MODE_NMI;
    struct kvm_lapic_state lapic;
    int r = kvm_ioctl(v->fd, KVM_GET_LAPIC, &lapic);

    if (r < 0)
        return r;
    memcpy(lapic.regs + LAPIC_LINT0, &lint0, sizeof(lint0));
    memcpy(lapic.regs + LAPIC_LINT1, &lint1, sizeof(lint1));
    return kvm_ioctl(v->fd, KVM_SET_LAPIC, &lapic);
}

int kvm_vcpu_enter_at(struct vcpu *v, const struct engine_entry *entry)
{
    struct kvm_regs regs = {.rip = entry->rip, .rsi = entry->rsi, .rsp = entry->rsp, .rflags = 2};
    struct kvm_sregs s;
    int r = kvm_ioctl(v->fd, KVM_GET_SREGS, &s);

    if (r < 0)
        return r;
    s.cs = flat_segment(0x10, true);
    s.ds = s.es = s.fs = s.gs = s.ss = flat_segment(0x18, false);
    s.tr = (struct kvm_segment){.limit = 0x67, .type = 11, .present = 1};
    s.gdt.base = entry->gdt_base;
    s.gdt.limit = entry->gdt_limit;
    s.idt.limit = 0;
    s.cr0 = CR0_ENTRY;
    s.cr3 = entry->cr3;
    s.cr4 = CR4_PAE;
    s.efer = EFER_LME_LMA;
    r = kvm_ioctl(v->fd, KVM_SET_SREGS, &s);
    if (r == 0)
        r = kvm_ioctl(v->fd, KVM_SET_REGS, &regs);
    return r < 0 ? r : wire_local_interrupts(v);
}
