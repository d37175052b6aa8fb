/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memory: guest RAM, and the only way to reach it.
 *
 * RAM is one private anonymous mapping of the host (so that pages of it can be replaced by merged
 * ones), seen by the guest as [0, low) and, beyond 3 GiB, from 4 GiB on: the hole below 4 GiB is
 * for PCI. "page N" counts in host order (memshare.h).
 *
 * Devices write guest RAM only through memory_write() or an iovec from memory_iov() bracketed by
 * memory_dma_begin() and memory_dma_end(): between those no page is remapped under the device, and
 * the engine learns afterwards what was written. A vCPU thread is held off by the gate and needs no
 * bracket.
 */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct engine;
struct engine_ops;
struct ms_scanner;

#define MEMORY_HOLE_START (3ull << 30) /* PCI BARs, IOAPIC, LAPIC live in 3..4 GiB */
#define MEMORY_HOLE_END   (4ull << 30)
#define MEMORY_MAX        (1ull << 40)

struct memory {
    uint8_t *base;
    uint64_t bytes, low_bytes; /* all RAM; the part below the hole */
    pthread_rwlock_t dma;      /* read: device writes in flight; write: frozen work */
    _Atomic bool dma_wanted;   /* for frozen work, which has waited for long */
    const struct engine_ops *ops;
    struct engine *engine;      /* told of writes; NULL before it is there */
    struct ms_scanner *scanner; /* told of discards; NULL: discard by ourselves */
};

int memory_init(struct memory *m, uint64_t bytes); /* -EINVAL, -ENOMEM */
void memory_free(struct memory *m);

/* HVA of [gpa, gpa+bytes) if all of it is RAM in one piece, else NULL. For reading, or for writing
 * with memory_written() afterwards. */
void *memory_at(const struct memory *m, uint64_t gpa, uint64_t bytes);

int memory_read(const struct memory *m, uint64_t gpa, void *data, size_t bytes);  /* -EFAULT */
int memory_write(struct memory *m, uint64_t gpa, const void *data, size_t bytes); /* -EFAULT */
void memory_written(struct memory *m, uint64_t gpa, uint64_t bytes);

/* Page number of a GPA that is RAM. */
uint64_t memory_page(const struct memory *m, uint64_t gpa);

void memory_dma_begin(struct memory *m);
void memory_dma_end(struct memory *m);
/* Somebody has waited for long for all brackets to end: a device that always has something under
 * way begins nothing new until it has ended its own. Any thread. */
bool memory_dma_is_wanted(struct memory *m);
/* Waits until no bracket is open and keeps new ones waiting until memory_dma_unblock(). Not by a
 * thread that others wait for, as a vCPU at the gate. */
void memory_dma_block(struct memory *m);
void memory_dma_unblock(struct memory *m);

/* The guest gave [gpa, gpa+bytes) away: it reads as zero until written. Whole pages inside the
 * range only. -EFAULT when it is not RAM. Caller: a vCPU thread, or inside a dma bracket. */
int memory_discard(struct memory *m, uint64_t gpa, uint64_t bytes);

#endif
