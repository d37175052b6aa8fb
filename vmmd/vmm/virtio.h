/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio: a modern virtio device behind virtio-pci (virtio 1.2, sections 2 and 4.1).
 *
 * A device (virtio-blk.c, ...) embeds a struct virtio and gives it a table of functions, all called
 * with the machine lock held. BAR 0 holds common configuration, ISR, device configuration and
 * notification; MSI-X has one vector for configuration and one per queue.
 */
#ifndef VMM_VIRTIO_H
#define VMM_VIRTIO_H

#include "vmmd/vmm/pci.h"
#include "vmmd/vmm/virtqueue.h"

#define VIRTIO_MAX_QUEUES 8
#define VIRTIO_MAX_CONFIG 256

enum { VIRTIO_ID_BLOCK = 2, VIRTIO_ID_CONSOLE = 3, VIRTIO_ID_RNG = 4, VIRTIO_ID_BALLOON = 5 };

struct virtio;

struct virtio_ops {
    const char *name;
    uint16_t id;         /* virtio device type */
    uint32_t class_code; /* PCI */
    unsigned n_queues;
    uint64_t features; /* beyond VERSION_1, INDIRECT_DESC, EVENT_IDX */
    unsigned config_bytes;
    /* The guest kicked a queue. By a vCPU thread, or inside a dma bracket. */
    void (*notify)(struct virtio *v, unsigned queue);
    /* The guest resets the device: forget requests; may wait for running ones (pthread_cond_wait on
     * the lock). */
    void (*reset)(struct virtio *v);
    /* The driver is ready (DRIVER_OK). Optional. */
    void (*ready)(struct virtio *v);
    /* Device configuration was written. Optional. */
    void (*config_written)(struct virtio *v, unsigned offset, unsigned size);
};

struct virtio {
    const struct virtio_ops *ops;
    struct machine *machine;
    struct pci_device pci;
    struct virtq queues[VIRTIO_MAX_QUEUES];
    uint64_t features; /* accepted by the driver */
    uint32_t device_feature_select, driver_feature_select;
    uint16_t config_vector, queue_select;
    uint8_t status, isr, generation;
    bool has_bells; /* of its queues: doorbell.h */
    unsigned bells[VIRTIO_MAX_QUEUES];
    uint8_t config[VIRTIO_MAX_CONFIG]; /* little-endian, as the guest sees it */
};

/* Puts the device on the bus. `v->config` is filled by the caller before or after. */
int virtio_init(struct virtio *v, const struct virtio_ops *ops, struct machine *m);

bool virtio_ready(const struct virtio *v);

/* Interrupts the guest for a queue if it wants that (a ring found broken fails the device); for a
 * change of configuration. */
void virtio_signal(struct virtio *v, unsigned queue);
void virtio_config_changed(struct virtio *v);

/* The guest's rings or requests make no sense: the device stops until reset, the machine is told.
 */
void virtio_fail(struct virtio *v, const char *reason);

/* Pops; 1, or 0 for nothing to do. A broken ring fails the device; a bad chain is pushed back empty
 * and the device goes on (the machine is told once until reset). */
int virtio_pop(struct virtio *v, unsigned queue, struct virtq_chain *ret_chain);

/* Called by machine_ops of the device: state common to all. */
void virtio_reset(struct virtio *v);
void virtio_save(const struct virtio *v, struct state *s);
void virtio_load(struct virtio *v, struct state *s);

#endif
