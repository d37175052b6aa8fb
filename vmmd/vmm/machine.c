/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * machine: see machine.h. This file knows no device by name; worker.c puts them together.
 */
#include "vmmd/vmm/machine.h"

#include "vmmd/vmm/state.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FROZEN_PATIENCE 8 /* times that devices may keep frozen work off */

/* ---- what the engine asks
 * --------------------------------------------------------------------------- */

static uint64_t host_pio_read(void *opaque, uint16_t port, unsigned size)
{
    struct machine *m = opaque;
    uint64_t value;

    pthread_mutex_lock(&m->lock);
    value = iobus_read(&m->ports, port, size);
    pthread_mutex_unlock(&m->lock);
    return value;
}

static void host_pio_write(void *opaque, uint16_t port, unsigned size, uint64_t value)
{
    struct machine *m = opaque;

    pthread_mutex_lock(&m->lock);
    iobus_write(&m->ports, port, size, (uint32_t)value);
    pthread_mutex_unlock(&m->lock);
}

static uint64_t host_mmio_read(void *opaque, uint64_t gpa, unsigned size)
{
    struct machine *m = opaque;
    uint64_t value;

    pthread_mutex_lock(&m->lock);
    value = pci_mmio_read(&m->pci, gpa, size);
    pthread_mutex_unlock(&m->lock);
    return value;
}

static void host_mmio_write(void *opaque, uint64_t gpa, unsigned size, uint64_t value)
{
    struct machine *m = opaque;

    pthread_mutex_lock(&m->lock);
    pci_mmio_write(&m->pci, gpa, size, value);
    pthread_mutex_unlock(&m->lock);
}

static bool host_poll(void *opaque, unsigned vcpu)
{
    (void)vcpu;
    return gate_pass(&((struct machine *)opaque)->gate);
}

static void host_halt(void *opaque, unsigned vcpu)
{
    struct machine *m = opaque;

    (void)vcpu;
    if (m->events.idle)
        m->events.idle(m->events.opaque);
    gate_leave(&m->gate);
}

static bool host_resume(void *opaque, unsigned vcpu)
{
    (void)vcpu;
    return gate_enter(&((struct machine *)opaque)->gate);
}

/* ---- life
 * --------------------------------------------------------------------------------------------- */

static int map_ram(struct machine *m)
{
    struct memory *mem = &m->memory;
    int r = m->ops->map_ram(m->engine, 0, mem->low_bytes, mem->base);

    if (r == 0 && mem->bytes > mem->low_bytes)
        r = m->ops->map_ram(m->engine, MEMORY_HOLE_END, mem->bytes - mem->low_bytes,
                            mem->base + mem->low_bytes);
    return r;
}

static int create_engine(struct machine *m, const struct machine_config *config, char *error,
                         size_t error_bytes)
{
    struct engine_config ec = {
        .host = {m, host_pio_read, host_pio_write, host_mmio_read, host_mmio_write, host_poll,
                 host_halt, host_resume},
        .vcpus = config->vcpus,
        .kvm_fd = config->kvm_fd,
        .cpu_model = config->cpu_model,
        .error = error,
        .error_bytes = error_bytes,
    };
    int r = m->ops->create(&ec, &m->engine);

    if (r < 0)
        return r;
    m->memory.ops = m->ops;
    m->memory.engine = m->engine;
    r = map_ram(m);
    for (unsigned i = 0; r == 0 && i < config->vcpus; i++) {
        struct machine_vcpu *v = &m->vcpus[i];
        v->machine = m;
        v->index = i;
        r = m->ops->vcpu_create(m->engine, i, &v->vcpu);
        if (r == 0)
            m->n_vcpus++;
    }
    return r;
}

int machine_init(struct machine *m, const struct machine_config *config, char *text,
                 size_t text_size)
{
    char error[MACHINE_TEXT] = "";
    int r;

    memset(m, 0, sizeof(*m));
    pthread_mutex_init(&m->lock, NULL);
    gate_init(&m->gate);
    m->ops = config->ops;
    m->events = config->events;
    r = doorbells_init(&m->doorbells, m);
    if (r < 0) {
        snprintf(text, text_size, "cannot create an eventfd: %s", strerror(-r));
        return r;
    }
    if (config->vcpus == 0 || config->vcpus > ENGINE_MAX_VCPUS) {
        snprintf(text, text_size, "%u vCPUs: 1 to %u are possible", config->vcpus,
                 ENGINE_MAX_VCPUS);
        return -EINVAL;
    }
    r = memory_init(&m->memory, config->memory_bytes);
    if (r < 0) {
        snprintf(text, text_size, "cannot reserve %llu bytes of guest memory: %s",
                 (unsigned long long)config->memory_bytes, strerror(-r));
        return r;
    }
    r = create_engine(m, config, error, sizeof(error));
    if (r < 0) {
        snprintf(text, text_size, "cannot create the %s engine with %u vCPUs: %s", m->ops->name,
                 config->vcpus, error[0] ? error : strerror(-r));
        return r;
    }
    r = pci_bus_init(&m->pci, m);
    if (r < 0)
        snprintf(text, text_size, "cannot create the PCI bus: %s", strerror(-r));
    return r;
}

int machine_add_device(struct machine *m, const struct device_ops *ops, void *self)
{
    if (m->n_devices == MACHINE_MAX_DEVICES)
        return -ENOSPC;
    m->devices[m->n_devices++] = (struct device){ops, self};
    return 0;
}

void machine_finish(struct machine *m, enum machine_end end, const char *text)
{
    enum machine_end expected = MACHINE_RUNS;

    /* Others read end_text only after the ended event. */
    if (!__atomic_compare_exchange_n(&m->end, &expected, end, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST))
        return;
    snprintf(m->end_text, sizeof(m->end_text), "%s", text);
    gate_stop(&m->gate);
    for (unsigned i = 0; i < m->n_vcpus; i++)
        m->ops->vcpu_kick(m->vcpus[i].vcpu);
    if (m->events.ended)
        m->events.ended(m->events.opaque);
}

static void *vcpu_thread(void *opaque)
{
    struct machine_vcpu *v = opaque;
    struct machine *m = v->machine;

    pthread_setname_np(pthread_self(), "vcpu");
    switch (m->ops->vcpu_run(v->vcpu)) {
    case ENGINE_EXIT_STOPPED: break;
    case ENGINE_EXIT_RESET: machine_finish(m, MACHINE_RESET, "triple fault"); break;
    case ENGINE_EXIT_FAILED: machine_finish(m, MACHINE_FAILED, m->ops->error(m->engine)); break;
    }
    return NULL;
}

int machine_start(struct machine *m)
{
    int bells = doorbells_start(&m->doorbells);

    if (bells < 0)
        return bells;
    for (unsigned i = 0; i < m->n_vcpus; i++) {
        int r = pthread_create(&m->vcpus[i].thread, NULL, vcpu_thread, &m->vcpus[i]);
        if (r != 0)
            return -r;
        m->vcpus[i].started = true;
    }
    return 0;
}

static void kick_all(void *opaque)
{
    struct machine *m = opaque;

    for (unsigned i = 0; i < m->n_vcpus; i++)
        m->ops->vcpu_kick(m->vcpus[i].vcpu);
}

static uint64_t monotonic_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

uint64_t machine_time(const struct machine *m)
{
    return monotonic_ns() - m->clock_behind;
}

void machine_pause(struct machine *m)
{
    if (m->paused)
        return;
    gate_close(&m->gate, kick_all, m);
    doorbells_hold(&m->doorbells);
    m->paused = true;
    pthread_mutex_lock(&m->lock);
    m->paused_at = monotonic_ns();
    if (m->ops->clock_stop)
        m->ops->clock_stop(m->engine);
    pthread_mutex_unlock(&m->lock);
}

void machine_resume(struct machine *m)
{
    if (!m->paused)
        return;
    pthread_mutex_lock(&m->lock);
    uint64_t pause = monotonic_ns() - m->paused_at;
    m->paused = false;
    m->clock_behind += pause;
    m->ops->clock_shift(m->engine, pause);
    pthread_mutex_unlock(&m->lock);
    doorbells_release(&m->doorbells);
    gate_open(&m->gate);
    kick_all(m); /* a halted vCPU looks at its timers again */
}

struct frozen {
    struct machine *machine;
    void (*work)(void *arg);
    void *arg;
    bool blocked; /* devices are held off already */
    int r;
};

/* Runs at the gate, perhaps in a vCPU thread: it must not wait for a device. */
static void run_frozen(void *opaque)
{
    struct frozen *f = opaque;
    pthread_rwlock_t *dma = &f->machine->memory.dma;

    f->r = f->blocked ? 0 : -pthread_rwlock_trywrlock(dma);
    if (f->r < 0)
        return;
    f->work(f->arg);
    if (!f->blocked)
        pthread_rwlock_unlock(dma);
}

/* A device that is never idle would keep all frozen work off for good: once in a while it waits. */
static void run_blocking(struct machine *m, struct frozen *f)
{
    f->blocked = true;
    memory_dma_block(&m->memory);
    gate_work(&m->gate, run_frozen, f, kick_all, m);
    memory_dma_unblock(&m->memory);
}

int machine_frozen(struct machine *m, void (*work)(void *arg), void *arg)
{
    struct frozen f = {m, work, arg, false, -EBUSY};

    if (m->n_frozen_busy >= FROZEN_PATIENCE) {
        run_blocking(m, &f);
    } else if (pthread_rwlock_trywrlock(&m->memory.dma) == 0) { /* else why hold the guest up */
        pthread_rwlock_unlock(&m->memory.dma);
        gate_work(&m->gate, run_frozen, &f, kick_all, m);
    }
    m->n_frozen_busy = f.r < 0 ? m->n_frozen_busy + 1 : 0;
    return f.r;
}

void machine_destroy(struct machine *m)
{
    machine_finish(m, MACHINE_QUIT, "");
    for (unsigned i = 0; i < m->n_vcpus; i++)
        if (m->vcpus[i].started)
            pthread_join(m->vcpus[i].thread, NULL);
    if (m->paused)
        doorbells_release(&m->doorbells);
    doorbells_destroy(&m->doorbells);
    while (m->n_devices > 0) {
        struct device *d = &m->devices[--m->n_devices];
        d->ops->destroy(d->self);
    }
    if (m->engine)
        m->ops->destroy(m->engine);
    msi_destroy(m);
    m->memory.engine = NULL;
    memory_free(&m->memory);
    gate_destroy(&m->gate);
    pthread_mutex_destroy(&m->lock);
}

void machine_irq(struct machine *m, unsigned gsi, bool level)
{
    m->ops->irq_line(m->engine, gsi, level);
}

void machine_msi(struct machine *m, uint64_t address, uint32_t data)
{
    m->ops->msi(m->engine, address, data);
}

void machine_device_failed(struct machine *m, const char *device, const char *reason)
{
    char text[MACHINE_TEXT];

    if (m->n_failures >= MACHINE_MAX_FAILURES)
        return;
    m->n_failures++;
    snprintf(text, sizeof(text), "%s: %s", device, reason);
    if (m->events.device_failed)
        m->events.device_failed(m->events.opaque, text);
}

/* ---- state
 * -------------------------------------------------------------------------------------------- */

static void save_clock(const struct machine *m, struct state *s)
{
    uint64_t now = machine_time(m);

    state_begin(s, "machine", 1);
    state_put_field(s, now);
    state_end(s);
}

/* Guest time goes on where it was saved, from now or from the end of a pause. */
static void load_clock(struct machine *m, struct state *s)
{
    uint64_t then = 0, now = monotonic_ns();

    if (state_open(s, "machine") == 1)
        state_get_field(s, then);
    state_close(s);
    m->clock_behind = now - then;
    m->paused_at = now; /* what was before is in the loaded clocks, the engine's too */
}

int machine_save(struct machine *m, struct state *s)
{
    int r = 0;

    pthread_mutex_lock(&m->lock);
    save_clock(m, s);
    pci_bus_save(&m->pci, s);
    for (unsigned i = 0; i < m->n_devices; i++)
        m->devices[i].ops->save(m->devices[i].self, s);
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; r == 0 && i < m->n_vcpus; i++)
        r = m->ops->vcpu_get_state(m->vcpus[i].vcpu, s);
    if (r == 0)
        r = m->ops->get_irqchip(m->engine, s);
    return r < 0 ? r : s->error;
}

int machine_load(struct machine *m, struct state *s)
{
    int r = 0;

    /* Locked to the end: a loaded disk goes on at once, and its interrupt must find the interrupt
     * controller loaded. */
    pthread_mutex_lock(&m->lock);
    load_clock(m, s);
    pci_bus_load(&m->pci, s);
    for (unsigned i = 0; i < m->n_devices; i++)
        m->devices[i].ops->load(m->devices[i].self, s);
    for (unsigned i = 0; r == 0 && i < m->n_vcpus; i++)
        r = m->ops->vcpu_set_state(m->vcpus[i].vcpu, s);
    if (r == 0)
        r = m->ops->set_irqchip(m->engine, s);
    pthread_mutex_unlock(&m->lock);
    return r < 0 ? r : s->error;
}
