/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine: the virtual machine of one guest process: RAM, engine, buses, devices, vCPU threads.
 *
 * Threads: one per vCPU, one per disk, one for queue kicks (doorbell.h), the page scanner, and the
 * main thread (worker.c), which builds and ends the machine. `lock` guards all device state and the
 * buses; a device's functions are called with it held unless said otherwise. Lock order: the
 * doorbells' before memory_dma_begin() before machine.lock before the gate's before the engine's
 * own lock; gate_close() with none of them held.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include "vmmd/vmm/doorbell.h"
#include "vmmd/vmm/engine.h"
#include "vmmd/vmm/gate.h"
#include "vmmd/vmm/iobus.h"
#include "vmmd/vmm/memory.h"
#include "vmmd/vmm/msi.h"
#include "vmmd/vmm/pci.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define MACHINE_MAX_DEVICES 24
#define MACHINE_TEXT        256
#define MACHINE_MAX_FAILURES \
    64 /* device failures reported in a guest's life: it could make any number */

struct state;
struct machine;

/* What every device can do. Each device is one file; `self` is its own struct. */
struct device_ops {
    const char *name;
    void (*reset)(void *self);
    void (*save)(void *self, struct state *s);
    void (*load)(void *self, struct state *s);
    void (*destroy)(void *self); /* without the lock: may join its threads */
};

struct device {
    const struct device_ops *ops;
    void *self;
};

enum machine_end {
    MACHINE_RUNS,
    MACHINE_POWERED_OFF,
    MACHINE_RESET,
    MACHINE_FAILED,
    MACHINE_QUIT, /* we ended it */
};

/* What the machine tells its owner; from any thread, the machine lock may be held: note it and
 * return. */
struct machine_events {
    void *opaque;
    void (*ended)(void *opaque);                           /* see machine.end, machine.end_text */
    void (*device_failed)(void *opaque, const char *text); /* one line: device and reason */
    void (*idle)(void *opaque);                            /* all vCPUs halt now */
};

struct machine_vcpu {
    struct machine *machine;
    unsigned index;
    struct vcpu *vcpu;
    pthread_t thread;
    bool started;
};

struct machine {
    pthread_mutex_t lock;
    struct memory memory;
    struct gate gate;
    struct iobus ports;
    struct pci_bus pci;
    struct doorbells doorbells;
    struct msi msi;
    const struct engine_ops *ops;
    struct engine *engine;
    struct machine_vcpu vcpus[ENGINE_MAX_VCPUS];
    unsigned n_vcpus;
    struct device devices[MACHINE_MAX_DEVICES];
    unsigned n_devices;
    struct machine_events events;
    unsigned n_failures;
    unsigned n_frozen_busy; /* in a row: frozen work that devices kept from being done */
    bool paused;
    uint64_t paused_at, clock_behind; /* ns: when the pause began; what all pauses sum up to */
    enum machine_end end;
    char end_text[MACHINE_TEXT];
};

struct machine_config {
    uint64_t memory_bytes;
    unsigned vcpus;
    const struct engine_ops *ops;
    int kvm_fd;
    enum engine_cpu_model cpu_model;
    struct machine_events events;
};

/* Creates RAM, engine, vCPUs and the buses; no device yet. On failure `text` says why. */
int machine_init(struct machine *m, const struct machine_config *config, char *text,
                 size_t text_size);

/* The device belongs to the machine now. -ENOSPC. */
int machine_add_device(struct machine *m, const struct device_ops *ops, void *self);

int machine_start(struct machine *m); /* starts the vCPU threads */

/* Any thread that is not a vCPU, with no lock held. Both may be called twice. */
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);

/* ns of guest time: CLOCK_MONOTONIC without the pauses. */
uint64_t machine_time(const struct machine *m);

/* Any thread: the machine comes to its end (once; the first reason stays). */
void machine_finish(struct machine *m, enum machine_end end, const char *text);

/* Ends the vCPU threads and destroys all. By the thread that called machine_init. */
void machine_destroy(struct machine *m);

/* Calls work(arg) once, in whatever thread, while no vCPU runs and no device writes RAM; or returns
 * -EBUSY: a device write is in flight. Not by a vCPU thread; no lock held. */
int machine_frozen(struct machine *m, void (*work)(void *arg), void *arg);

void machine_irq(struct machine *m, unsigned gsi, bool level);
void machine_msi(struct machine *m, uint64_t address, uint32_t data);
void machine_device_failed(struct machine *m, const char *device, const char *reason);

/* Guest time, all devices and vCPUs, in order of addition; the machine is paused, and RAM loaded
 * before: a disk goes on with its queue at once. 0 or -errno. */
int machine_save(struct machine *m, struct state *s);
int machine_load(struct machine *m, struct state *s);

#endif
