/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine: what runs guest code. A table of functions; everything above it is shared by all engines.
 *
 * Two shapes have to fit. Software (libunicorn): its own interrupt controllers and timers in user
 * space, one vCPU, guest code leaves to the host for every port and MMIO access. KVM: in-kernel
 * irqchip, MSI by irqfd or ioctl, queue kicks by ioeventfd, SMP, a dirty log. An optional function
 * that an engine lacks is NULL and its caller has another way.
 *
 * Threads: create, destroy, map_ram and vcpu_create by the thread that sets the machine up.
 * vcpu_run by the vCPU's own thread. vcpu_kick, irq_line, msi, irqfd, ram_written by any thread;
 * irq_line, msi and irqfd with the machine lock held (machine.h), never from a signal handler.
 * vcpu_get_state, vcpu_set_state, get_irqchip, set_irqchip, clock_stop and clock_shift while no
 * vCPU runs (gate.h), the last two with the machine lock held: no interrupt comes meanwhile.
 *
 * Addresses are GPA (guest physical) and HVA (host virtual), in bytes. Times are ns of
 * CLOCK_MONOTONIC. Functions return 0 or -errno.
 */
#ifndef VMM_ENGINE_H
#define VMM_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct vcpu;
struct state;

#define ENGINE_MAX_VCPUS 64u

/* Why vcpu_run() came back. */
enum engine_exit {
    ENGINE_EXIT_STOPPED, /* engine_host.poll() said so */
    ENGINE_EXIT_RESET,   /* triple fault or the like: the guest asked for a reset, or crashed */
    ENGINE_EXIT_FAILED,  /* the engine cannot go on: text in engine_ops.error() */
};

/* What the engine calls in the machine. All from the vCPU's thread, no engine lock held. */
struct engine_host {
    void *opaque;
    /* Port and MMIO accesses of 1, 2, 4 (and for MMIO 8) bytes. Unclaimed reads are all ones. */
    uint64_t (*pio_read)(void *opaque, uint16_t port, unsigned size);
    void (*pio_write)(void *opaque, uint16_t port, unsigned size, uint64_t value);
    uint64_t (*mmio_read)(void *opaque, uint64_t gpa, unsigned size);
    void (*mmio_write)(void *opaque, uint64_t gpa, unsigned size, uint64_t value);
    /* Called after a kick, between two guest instructions: blocks while the machine is paused, and
     * may do frozen work (gate.h), which replaces mappings of RAM. false: leave vcpu_run() with
     * ENGINE_EXIT_STOPPED. */
    bool (*poll)(void *opaque, unsigned vcpu);
    /* The vCPU begins to run guest code (resume) or ends (halt), and so around HLT where the
     * engine sees it: while a vCPU halts it counts as not running guest code. Where the kernel
     * halts it, it is kicked like one that runs. Both may do work like poll; resume blocks and
     * returns like it. */
    void (*halt)(void *opaque, unsigned vcpu);
    bool (*resume)(void *opaque, unsigned vcpu);
};

/* Which CPU a guest sees, where the engine has a choice. A named one has what every host of that
 * level has, so that a saved guest can go on on another host. */
enum engine_cpu_model { ENGINE_CPU_HOST, ENGINE_CPU_V2, ENGINE_CPU_V3 };

struct engine_config {
    struct engine_host host;
    uint32_t vcpus;
    int kvm_fd;          /* /dev/kvm for the KVM engine, else -1; used in create() only */
    uint32_t buffer_mib; /* software: translation buffer in MiB; 0: default */
    enum engine_cpu_model cpu_model;
    char *error; /* create() says here why it failed if errno does not tell; NULL: nobody asks */
    size_t error_bytes;
};

/* Where guest code begins: 64-bit mode with paging on, as the Linux 64-bit boot protocol wants it
 * (Documentation/arch/x86/boot.rst): flat segments 0x10 and 0x18, interrupts off. */
struct engine_entry {
    uint64_t rip, rsi, rsp, cr3, gdt_base;
    uint16_t gdt_limit;
};

struct engine_ops {
    const char *name;
    bool in_kernel_irqchip;
    /* The ioctls that it makes behind the system call filter (sandbox.h), ended by 0; NULL: none.
     */
    const unsigned long *ioctls;

    int (*create)(const struct engine_config *config, struct engine **ret_engine);
    void (*destroy)(struct engine *engine);

    /* Makes [gpa, gpa+bytes) RAM at hva. The mapping at hva may be replaced page by page under a
     * running guest as long as the content is the same and nobody writes during the change. */
    int (*map_ram)(struct engine *engine, uint64_t gpa, uint64_t bytes, void *hva);
    int (*unmap_ram)(struct engine *engine, uint64_t gpa, uint64_t bytes);
    /* A device wrote guest RAM: forget what was translated from it. NULL where hardware sees to it.
     */
    void (*ram_written)(struct engine *engine, uint64_t gpa, uint64_t bytes);

    int (*vcpu_create)(struct engine *engine, unsigned index, struct vcpu **ret_vcpu);
    int (*vcpu_enter_at)(struct vcpu *vcpu, const struct engine_entry *entry);
    enum engine_exit (*vcpu_run)(struct vcpu *vcpu);
    void (*vcpu_kick)(struct vcpu *vcpu);
    int (*vcpu_get_state)(struct vcpu *vcpu, struct state *state);
    int (*vcpu_set_state)(struct vcpu *vcpu, struct state *state);

    /* Level of a GSI (0..23); a message signalled interrupt. */
    int (*irq_line)(struct engine *engine, unsigned gsi, bool level);
    int (*msi)(struct engine *engine, uint64_t address, uint32_t data);
    int (*get_irqchip)(struct engine *engine, struct state *state);
    int (*set_irqchip)(struct engine *engine, struct state *state);

    /* A pause begins: timers stand still until clock_shift(), and are saved and loaded as they
     * stand. Optional. */
    void (*clock_stop)(struct engine *engine);
    /* Guest time stands still for `ns`: it was paused that long, and goes on now. */
    void (*clock_shift)(struct engine *engine, uint64_t ns);
    uint64_t (*tsc_khz)(struct engine *engine);

    /* Optional. An eventfd that fires an MSI (again: another MSI; address 0: no longer), which is
     * what msi.h does for devices; takes long compared with an interrupt. -ENOSPC: no more of them,
     * -EINVAL: not such an MSI. An eventfd written when the guest writes `size` bytes (0: any) at
     * gpa. */
    int (*irqfd)(struct engine *engine, int fd, uint64_t address, uint32_t data);
    int (*ioeventfd)(struct engine *engine, uint64_t gpa, unsigned size, int fd, bool add);
    /* Optional. One bit per page of [gpa, gpa+bytes), which is what map_ram() was given: written
     * by the guest since the last call. The first call starts the log and says all. NULL ends it.
     */
    int (*dirty_log)(struct engine *engine, uint64_t gpa, uint64_t bytes, uint64_t *ret_bitmap);

    /* One line about the last failure, or "". */
    const char *(*error)(struct engine *engine);
};

/* NULL when the build lacks it. */
const struct engine_ops *engine_soft(void);
const struct engine_ops *engine_kvm(void);

#endif
