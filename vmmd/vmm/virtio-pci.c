/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-pci: the modern PCI transport (virtio 1.2, section 4.1). Layout of BAR 0 (16 KiB): common
 * configuration at 0, ISR at 0x1000, device configuration at 0x2000, notification at 0x3000 (4
 * bytes a queue).
 */
#include "vmmd/vmm/virtio.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <string.h>

#define BAR_BYTES   0x4000u
#define AT_ISR      0x1000u
#define AT_CONFIG   0x2000u
#define AT_NOTIFY   0x3000u
#define NOTIFY_STEP 4u
#define NO_VECTOR   0xffffu
#define ISR_QUEUE   1u
#define ISR_CONFIG  2u

#define STATUS_DRIVER_OK   4u
#define STATUS_FEATURES_OK 8u
#define STATUS_NEEDS_RESET 0x40u

#define VENDOR_VIRTIO 0x1af4
#define CAP_VENDOR    9
#define CFG_COMMON    1
#define CFG_NOTIFY    2
#define CFG_ISR       3
#define CFG_DEVICE    4

static struct virtio *of_pci(struct pci_device *dev)
{
    return (struct virtio *)((char *)dev - offsetof(struct virtio, pci));
}

static uint64_t offered(const struct virtio *v)
{
    return v->ops->features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
}

bool virtio_ready(const struct virtio *v)
{
    return (v->status & STATUS_DRIVER_OK) && !(v->status & STATUS_NEEDS_RESET);
}

/* ---- interrupts
 * ------------------------------------------------------------------------------------------- */

static void interrupt(struct virtio *v, uint16_t vector, uint8_t cause)
{
    if (pci_msix_enabled(&v->pci)) {
        pci_msix_fire(&v->pci, vector);
        return;
    }
    v->isr |= cause;
    pci_intx(&v->pci, true);
}

void virtio_signal(struct virtio *v, unsigned queue)
{
    struct virtq *q = &v->queues[queue];

    if (q->broken)
        virtio_fail(v, q->broken);
    if (virtio_ready(v) && virtq_needs_interrupt(q))
        interrupt(v, q->vector, ISR_QUEUE);
}

void virtio_config_changed(struct virtio *v)
{
    v->generation++;
    if (v->status & STATUS_DRIVER_OK)
        interrupt(v, v->config_vector, ISR_CONFIG);
}

void virtio_fail(struct virtio *v, const char *reason)
{
    if (v->status & STATUS_NEEDS_RESET)
        return;
    machine_device_failed(v->machine, v->ops->name, reason);
    v->status |= STATUS_NEEDS_RESET;
    virtio_config_changed(v);
}

int virtio_pop(struct virtio *v, unsigned queue, struct virtq_chain *chain)
{
    struct virtq *q = &v->queues[queue];

    while (virtio_ready(v)) {
        int r = virtq_pop(q, chain);
        if (r < 0)
            virtio_fail(v, q->broken);
        if (r <= 0)
            return 0;
        if (!chain->bad)
            return 1;
        /* Complete it, so that the guest gets its buffers back, and stop: no driver does this. */
        virtq_push(q, chain, 0);
        virtio_signal(v, queue);
        virtio_fail(v, chain->bad);
    }
    return 0;
}

/* ---- common configuration
 * ------------------------------------------------------------------------------------ */

static struct virtq *selected(struct virtio *v)
{
    return v->queue_select < v->ops->n_queues ? &v->queues[v->queue_select] : NULL;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static uint32_t read_queue(const struct virtq *q, unsigned queue, uint64_t offset)
{
    switch (offset) {
    case 24: return q->size;
    case 26: return q->vector;
    case 28: return q->enabled;
    case 30: return queue; /* notify_off */
    case 32: return (uint32_t)q->desc;
    case 36: return (uint32_t)(q->desc >> 32);
    case 40: return (uint32_t)q->avail;
    case 44: return (uint32_t)(q->avail >> 32);
    case 48: return (uint32_t)q->used;
    case 52: return (uint32_t)(q->used >> 32);
    default: return 0;
    }
}

static uint32_t read_common(struct virtio *v, uint64_t offset)
{
    const struct virtq *q = selected(v);

    switch (offset) {
    case 0: return v->device_feature_select;
    case 4: return feature_word(offered(v), v->device_feature_select);
    case 8: return v->driver_feature_select;
    case 12: return feature_word(v->features, v->driver_feature_select);
    case 16: return v->config_vector;
    case 18: return v->ops->n_queues;
    case 20: return v->status;
    case 21: return v->generation;
    case 22: return v->queue_select;
    default: return q ? read_queue(q, v->queue_select, offset) : 0;
    }
}

static uint16_t valid_vector(const struct virtio *v, uint32_t value)
{
    return (uint16_t)(value < v->pci.n_vectors ? value : NO_VECTOR);
}

static void accept_feature_word(struct virtio *v, uint32_t value)
{
    unsigned shift = 32 * v->driver_feature_select;

    if (v->driver_feature_select > 1 || (v->status & STATUS_FEATURES_OK))
        return;
    v->features = (v->features & ~(0xffffffffull << shift)) | ((uint64_t)value << shift);
}

static void write_status(struct virtio *v, uint8_t value)
{
    uint8_t before = v->status;

    if (value == 0) {
        virtio_reset(v);
        return;
    }
    value |= before & STATUS_NEEDS_RESET;
    if ((value & STATUS_FEATURES_OK) && !(before & STATUS_FEATURES_OK) &&
        ((v->features & ~offered(v)) || !(v->features & VIRTIO_F_VERSION_1)))
        value &= (uint8_t)~STATUS_FEATURES_OK; /* the driver reads it back and gives up */
    if (!(value & STATUS_FEATURES_OK))
        value &= (uint8_t)~STATUS_DRIVER_OK;
    v->status = value;
    if ((value & STATUS_DRIVER_OK) && !(before & STATUS_DRIVER_OK)) {
        for (unsigned i = 0; i < v->ops->n_queues; i++) {
            v->queues[i].event_idx = v->features & VIRTIO_F_EVENT_IDX;
            v->queues[i].indirect = v->features & VIRTIO_F_INDIRECT_DESC;
        }
        if (v->ops->ready)
            v->ops->ready(v);
    }
}

static void set_low(uint64_t *address, uint32_t value)
{
    *address = (*address & ~0xffffffffull) | value;
}

static void set_high(uint64_t *address, uint32_t value)
{
    *address = (*address & 0xffffffffull) | (uint64_t)value << 32;
}

static void write_queue(struct virtio *v, struct virtq *q, uint64_t offset, uint32_t value)
{
    if (offset ==
        26) { /* the vector may change at any time, the rest only before the queue is enabled */
        q->vector = valid_vector(v, value);
        return;
    }
    if (q->enabled)
        return;
    switch (offset) {
    case 24:
        if (value && value <= q->max_size && !(value & (value - 1)))
            q->size = (uint16_t)value;
        break;
    case 28: q->enabled = value & 1; break;
    case 32: set_low(&q->desc, value); break;
    case 36: set_high(&q->desc, value); break;
    case 40: set_low(&q->avail, value); break;
    case 44: set_high(&q->avail, value); break;
    case 48: set_low(&q->used, value); break;
    case 52: set_high(&q->used, value); break;
    }
}

static void write_common(struct virtio *v, uint64_t offset, uint32_t value)
{
    struct virtq *q = selected(v);

    switch (offset) {
    case 0: v->device_feature_select = value; break;
    case 8: v->driver_feature_select = value; break;
    case 12: accept_feature_word(v, value); break;
    case 16: v->config_vector = valid_vector(v, value); break;
    case 20: write_status(v, (uint8_t)value); break;
    case 22: v->queue_select = (uint16_t)value; break;
    default:
        if (q)
            write_queue(v, q, offset, value);
    }
}

/* ---- BAR 0
 * -----------------------------------------------------------------------------------------------------
 */

static uint64_t read_config(struct virtio *v, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    if (offset + size <= v->ops->config_bytes)
        memcpy(&value, v->config + offset, size);
    return value;
}

static void write_config(struct virtio *v, uint64_t offset, unsigned size, uint64_t value)
{
    if (!v->ops->config_written || offset + size > v->ops->config_bytes)
        return;
    memcpy(v->config + offset, &value, size);
    v->ops->config_written(v, (unsigned)offset, size);
}

static void kicked(void *opaque, unsigned queue)
{
    struct virtio *v = opaque;

    if (queue < v->ops->n_queues && virtio_ready(v) && v->queues[queue].enabled)
        v->ops->notify(v, queue);
}

static uint64_t bar_read(struct pci_device *dev, uint64_t offset, unsigned size)
{
    struct virtio *v = of_pci(dev);

    if (offset < AT_ISR) {
        uint64_t value = read_common(v, offset);
        if (size == 8)
            value |= (uint64_t)read_common(v, offset + 4) << 32;
        return value;
    }
    if (offset < AT_CONFIG) {
        uint8_t isr = v->isr;
        v->isr = 0;
        pci_intx(dev, false);
        return isr;
    }
    return offset < AT_NOTIFY ? read_config(v, offset - AT_CONFIG, size) : 0;
}

static void bar_write(struct pci_device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio *v = of_pci(dev);

    if (offset < AT_ISR) {
        write_common(v, offset, (uint32_t)value);
        if (size == 8)
            write_common(v, offset + 4, (uint32_t)(value >> 32));
    } else if (offset >= AT_NOTIFY) {
        kicked(v, (unsigned)((offset - AT_NOTIFY) / NOTIFY_STEP));
    } else if (offset >= AT_CONFIG) {
        write_config(v, offset - AT_CONFIG, size, value);
    }
}

static const struct pci_bar_ops bar_ops = {bar_read, bar_write};

/* ---- setting up
 * -------------------------------------------------------------------------------------------------
 */

struct virtio_cap { /* struct virtio_pci_cap behind id and next */
    uint8_t length, type, bar, id, pad[2];
    uint32_t offset, bytes;
    uint32_t multiplier; /* of CFG_NOTIFY only */
} __attribute__((packed));

static int add_cap(struct virtio *v, uint8_t type, uint32_t offset)
{
    struct virtio_cap cap = {
        .length = type == CFG_NOTIFY ? 20 : 16,
        .type = type,
        .offset = offset,
        .bytes = 0x1000,
        .multiplier = NOTIFY_STEP,
    };

    return pci_add_capability(&v->pci, CAP_VENDOR, &cap, cap.length) ? 0 : -ENOSPC;
}

/* The notification addresses follow BAR 0. */
static void place_bells(struct pci_device *dev)
{
    struct virtio *v = of_pci(dev);
    uint64_t base = pci_bar_address(dev, 0);

    for (unsigned i = 0; v->has_bells && i < v->ops->n_queues; i++)
        doorbell_move(&v->machine->doorbells, v->bells[i],
                      base ? base + AT_NOTIFY + i * NOTIFY_STEP : 0);
}

/* Queue kicks past the vCPU thread, where the engine can. */
static int add_bells(struct virtio *v)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < v->ops->n_queues; i++)
        r = doorbell_add(&v->machine->doorbells, 2, kicked, v, i, &v->bells[i]);
    if (r < 0)
        return r == -ENOTSUP ? 0 : r;
    v->has_bells = true;
    v->pci.moved = place_bells;
    place_bells(&v->pci);
    return 0;
}

int virtio_init(struct virtio *v, const struct virtio_ops *ops, struct machine *m)
{
    const struct pci_id id = {
        .vendor = VENDOR_VIRTIO,
        .device = (uint16_t)(0x1040 + ops->id),
        .subsystem_vendor = VENDOR_VIRTIO,
        .subsystem = 0x40,
        .class_code = ops->class_code,
        .revision = 1,
    };
    const struct pci_bar bar = {&bar_ops, BAR_BYTES};
    int r;

    v->ops = ops;
    v->machine = m;
    v->pci.name = ops->name;
    for (unsigned i = 0; i < ops->n_queues; i++) {
        v->queues[i] = (struct virtq){.memory = &m->memory, .max_size = VIRTQ_MAX_SIZE};
        virtq_reset(&v->queues[i]);
    }
    v->config_vector = NO_VECTOR;
    r = pci_add(&m->pci, &v->pci, &id, &bar, ops->n_queues + 1);
    if (r == 0)
        r = add_cap(v, CFG_COMMON, 0);
    if (r == 0)
        r = add_cap(v, CFG_NOTIFY, AT_NOTIFY);
    if (r == 0)
        r = add_cap(v, CFG_ISR, AT_ISR);
    if (r == 0)
        r = add_cap(v, CFG_DEVICE, AT_CONFIG);
    return r < 0 ? r : add_bells(v);
}

void virtio_reset(struct virtio *v)
{
    v->status = 0; /* first: a thread that serves a queue pops nothing more */
    if (v->ops->reset)
        v->ops->reset(v);
    for (unsigned i = 0; i < v->ops->n_queues; i++)
        virtq_reset(&v->queues[i]);
    v->features = 0;
    v->isr = 0;
    v->config_vector = NO_VECTOR;
    v->device_feature_select = v->driver_feature_select = 0;
    v->queue_select = 0;
    pci_reset(&v->pci);
}

void virtio_save(const struct virtio *v, struct state *s)
{
    pci_save(&v->pci, s);
    state_put_field(s, v->features);
    state_put_field(s, v->device_feature_select);
    state_put_field(s, v->driver_feature_select);
    state_put_field(s, v->config_vector);
    state_put_field(s, v->queue_select);
    state_put_field(s, v->status);
    state_put_field(s, v->isr);
    state_put_field(s, v->generation);
    state_put(s, v->config, v->ops->config_bytes);
    for (unsigned i = 0; i < v->ops->n_queues; i++)
        virtq_save(&v->queues[i], s);
}

void virtio_load(struct virtio *v, struct state *s)
{
    pci_load(&v->pci, s);
    state_get_field(s, v->features);
    state_get_field(s, v->device_feature_select);
    state_get_field(s, v->driver_feature_select);
    state_get_field(s, v->config_vector);
    state_get_field(s, v->queue_select);
    state_get_field(s, v->status);
    state_get_field(s, v->isr);
    state_get_field(s, v->generation);
    state_get(s, v->config, v->ops->config_bytes);
    v->features &= offered(v);
    for (unsigned i = 0; i < v->ops->n_queues; i++) {
        virtq_load(&v->queues[i], s);
        v->queues[i].event_idx = v->features & VIRTIO_F_EVENT_IDX;
        v->queues[i].indirect = v->features & VIRTIO_F_INDIRECT_DESC;
    }
}
