/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtqueue: split virtqueues, device side (virtio 1.2, section 2.7).
 *
 * Rings and descriptors are the guest's and hostile. A chain is copied out of guest memory once,
 * checked, and turned into host iovecs; nothing is read twice. Every popped chain has to be pushed
 * back, also a bad one. With the machine lock held, inside a dma bracket or on a vCPU thread
 * (memory.h).
 */
#ifndef VMM_VIRTQUEUE_H
#define VMM_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct memory;
struct state;

#define VIRTQ_MAX_SIZE 256u
#define VIRTQ_MAX_IOV  (VIRTQ_MAX_SIZE + 2u) /* buffers in a chain; more: the chain is bad */
#define VIRTQ_MAX_BYTES \
    (1u << 30) /* in a chain, each direction: free page reporting sends 128 MiB */

#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)
#define VIRTIO_F_VERSION_1     (1ull << 32)

struct virtq {
    struct memory *memory;
    uint16_t max_size, size;
    bool enabled, event_idx, indirect;
    uint16_t vector;
    uint64_t desc, avail, used; /* GPA */
    uint16_t last_avail, used_idx, signalled;
    bool signalled_valid;
    const char *broken; /* why the queue cannot go on, or NULL */
};

struct virtq_chain {
    uint16_t head;
    const char *bad; /* what is wrong with it, or NULL; push it with 0 bytes */
    unsigned n_out, n_in;
    uint64_t out_bytes, in_bytes;
    struct iovec iov[VIRTQ_MAX_IOV]; /* device-readable first, then device-writable */
    uint64_t gpa[VIRTQ_MAX_IOV];
};

void virtq_reset(struct virtq *q);

/* 1: a chain (perhaps a bad one); 0: none; -EPROTO: the ring itself makes no sense (q->broken
 * says). */
int virtq_pop(struct virtq *q, struct virtq_chain *ret_chain);

/* Gives the chain back; `written` bytes were stored into its device-writable part. */
void virtq_push(struct virtq *q, const struct virtq_chain *chain, uint64_t written);

/* Whether the guest wants an interrupt for what was pushed since the last call. */
bool virtq_needs_interrupt(struct virtq *q);

/* Tells the guest that it need not kick until there is something beyond what we have seen; true:
 * there is already. */
bool virtq_enable_notify(struct virtq *q);

/* Copies from the device-readable or to the device-writable part at `offset`; the number of bytes
 * copied. */
uint64_t virtq_chain_read(const struct virtq_chain *chain, uint64_t offset, void *data,
                          uint64_t bytes);
uint64_t virtq_chain_write(struct virtq *q, const struct virtq_chain *chain, uint64_t offset,
                           const void *data, uint64_t bytes);

void virtq_save(const struct virtq *q, struct state *s);
void virtq_load(struct virtq *q, struct state *s);

#endif
