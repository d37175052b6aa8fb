/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-blk: a disk (virtio 1.2, section 5.2) over a cow_disk. One thread serves the queue, so
 * that a slow disk never holds a vCPU. It takes the machine lock only to pop and push; while it
 * reads into guest RAM it holds a dma bracket, so that no page is merged under it. Blocks read
 * unchanged from the template are reported to the page scanner.
 *
 * A request that fails gets VIRTIO_BLK_S_IOERR, a full disk too: the guest's file system deals with
 * it.
 */
#include "vmmd/vmm/devices.h"

#include "cowdisk/cowdisk.h"
#include "memshare/memshare.h"
#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"
#include "vmmd/vmm/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR       512u
#define PAGE         4096u
#define SERIAL_BYTES 20
#define MAX_RANGE    (1u << 22) /* sectors in one discard or write-zeroes segment: 2 GiB */
#define MAX_SEGMENTS 16u
#define FLAG_UNMAP   1u /* of write-zeroes */

#define F_SEG_MAX      (1ull << 2)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH        (1ull << 9)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

struct blk_config { /* struct virtio_blk_config, little-endian */
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));

struct request {
    uint32_t type, reserved;
    uint64_t sector;
};

struct range {
    uint64_t sector;
    uint32_t n_sectors, flags;
};

struct virtio_blk {
    struct virtio v;
    struct cow_disk *disk;
    char serial[SERIAL_BYTES + 1];
    pthread_t thread;
    bool thread_started;
    pthread_cond_t work, idle; /* with machine.lock */
    bool kicked, stop;
    bool busy, hold;          /* a request is being served; begin no other */
    struct virtq_chain chain; /* the thread's */
    struct iovec iov[VIRTQ_MAX_IOV];
};

static struct virtio_blk *of_virtio(struct virtio *v)
{
    return (struct virtio_blk *)((char *)v - offsetof(struct virtio_blk, v));
}

/* ---- requests, on the disk's thread, inside a dma bracket, without the machine lock
 * ------------------------- */

/* Data buffers: the readable part behind the request header, or the writable part before the status
 * byte. */
static int data_iov(struct virtio_blk *b, bool in)
{
    const struct virtq_chain *c = &b->chain;
    const struct iovec *from = in ? c->iov + c->n_out : c->iov;
    unsigned count = in ? c->n_in : c->n_out, n = 0;
    uint64_t skip = in ? 0 : sizeof(struct request);
    uint64_t left = in ? c->in_bytes - 1 : c->out_bytes - sizeof(struct request);

    for (unsigned i = 0; i < count && left > 0; i++) {
        uint64_t len = from[i].iov_len;
        if (skip >= len) {
            skip -= len;
            continue;
        }
        uint64_t use = len - skip < left ? len - skip : left;
        b->iov[n++] = (struct iovec){(uint8_t *)from[i].iov_base + skip, use};
        left -= use;
        skip = 0;
    }
    return (int)n;
}

/* Tells the scanner which pages of [gpa, gpa+len) now hold which template blocks. */
static void hint_range(struct virtio_blk *b, uint64_t gpa, uint64_t offset, uint64_t len)
{
    struct memory *m = &b->v.machine->memory;

    if (gpa % PAGE != 0 || offset % PAGE != 0)
        return;
    while (len >= PAGE) {
        struct cow_map map;
        uint64_t part;

        if (cow_map_chain(b->disk, offset, len, &map) < 0 || map.length < PAGE)
            return;
        part = map.length & ~(uint64_t)(PAGE - 1);
        if (map.kind == COW_MAP_BACKING && map.offset % PAGE == 0)
            ms_scanner_hint_template(m->scanner, memory_page(m, gpa), part / PAGE,
                                     map.offset / PAGE);
        gpa += part;
        offset += part;
        len -= part;
    }
}

static void after_read(struct virtio_blk *b, uint64_t offset, uint64_t bytes)
{
    struct memory *m = &b->v.machine->memory;
    const struct virtq_chain *c = &b->chain;

    for (unsigned i = c->n_out; i < c->n_out + c->n_in && bytes > 0; i++) {
        uint64_t len = c->iov[i].iov_len < bytes ? c->iov[i].iov_len : bytes;
        memory_written(m, c->gpa[i], len);
        if (m->scanner)
            hint_range(b, c->gpa[i], offset, len);
        offset += len;
        bytes -= len;
    }
}

static bool in_disk(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
    uint64_t size = cow_size(b->disk);

    return sector <= size / SECTOR && bytes <= size - sector * SECTOR;
}

static uint8_t do_io(struct virtio_blk *b, const struct request *rq, bool in, uint64_t *ret_written)
{
    uint64_t bytes = in ? b->chain.in_bytes - 1 : b->chain.out_bytes - sizeof(*rq);
    uint64_t offset = rq->sector * SECTOR;
    int n, r;

    if (bytes % SECTOR != 0 || !in_disk(b, rq->sector, bytes))
        return S_IOERR;
    n = data_iov(b, in);
    if (in)
        r = cow_preadv(b->disk, b->iov, n, offset);
    else
        r = cow_pwritev(b->disk, b->iov, n, offset);
    if (in) {
        after_read(b, offset, bytes); /* also after an error: part of it may have been written */
        *ret_written = bytes;
    }
    return r < 0 ? S_IOERR : S_OK;
}

static uint8_t do_ranges(struct virtio_blk *b, bool discard)
{
    struct range ranges[MAX_SEGMENTS];
    uint64_t bytes = b->chain.out_bytes - sizeof(struct request);
    size_t n = bytes / sizeof(ranges[0]);

    if (n == 0 || n > MAX_SEGMENTS || bytes % sizeof(ranges[0]) != 0)
        return S_IOERR;
    virtq_chain_read(&b->chain, sizeof(struct request), ranges, bytes);
    for (size_t i = 0; i < n; i++) {
        uint64_t len = (uint64_t)ranges[i].n_sectors * SECTOR, offset = ranges[i].sector * SECTOR;
        if (ranges[i].n_sectors > MAX_RANGE || !in_disk(b, ranges[i].sector, len))
            return S_IOERR;
        if (ranges[i].flags & ~(discard ? 0u : FLAG_UNMAP))
            return S_UNSUPP;
        if ((discard ? cow_discard(b->disk, offset, len) : cow_write_zeroes(b->disk, offset, len)) <
            0)
            return S_IOERR;
    }
    return S_OK;
}

static uint8_t do_get_id(struct virtio_blk *b, uint64_t *ret_written)
{
    uint64_t bytes = b->chain.in_bytes - 1 < SERIAL_BYTES ? b->chain.in_bytes - 1 : SERIAL_BYTES;

    *ret_written = virtq_chain_write(&b->v.queues[0], &b->chain, 0, b->serial, bytes);
    return S_OK;
}

/* The number of bytes written into the chain, the status byte included. */
static uint64_t serve_request(struct virtio_blk *b)
{
    const struct virtq_chain *c = &b->chain;
    struct request rq;
    uint64_t written = 0;
    uint8_t status;

    if (c->in_bytes < 1)
        return 0; /* nowhere to put a status: nothing can be said */
    if (virtq_chain_read(c, 0, &rq, sizeof(rq)) < sizeof(rq)) {
        status = S_IOERR;
    } else {
        switch (rq.type) {
        case T_IN: status = do_io(b, &rq, true, &written); break;
        case T_OUT: status = do_io(b, &rq, false, &written); break;
        case T_FLUSH: status = cow_flush(b->disk) < 0 ? S_IOERR : S_OK; break;
        case T_GET_ID: status = do_get_id(b, &written); break;
        case T_DISCARD: status = do_ranges(b, true); break;
        case T_WRITE_ZEROES: status = do_ranges(b, false); break;
        default: status = S_UNSUPP;
        }
    }
    virtq_chain_write(&b->v.queues[0], c, c->in_bytes - 1, &status, 1);
    return written + 1;
}

/* ---- the thread
 * --------------------------------------------------------------------------------------------------
 */

/* One request, or false when the queue is empty and the guest will kick again. */
static bool serve_one(struct virtio_blk *b)
{
    struct machine *m = b->v.machine;
    bool popped, more = false;
    uint64_t written;

    memory_dma_begin(&m->memory);
    pthread_mutex_lock(&m->lock);
    popped = !b->stop && !b->hold && virtio_pop(&b->v, 0, &b->chain) > 0;
    b->busy = popped;
    if (!popped && !b->stop && !b->hold && virtio_ready(&b->v))
        more = virtq_enable_notify(&b->v.queues[0]);
    pthread_mutex_unlock(&m->lock);
    if (popped) {
        written = serve_request(b);
        pthread_mutex_lock(&m->lock);
        virtq_push(&b->v.queues[0], &b->chain, written);
        virtio_signal(&b->v, 0);
        b->busy = false;
        pthread_cond_broadcast(&b->idle);
        pthread_mutex_unlock(&m->lock);
    }
    memory_dma_end(&m->memory);
    return popped || more;
}

static void *blk_thread(void *opaque)
{
    struct virtio_blk *b = opaque;
    struct machine *m = b->v.machine;

    pthread_setname_np(pthread_self(), "disk");
    pthread_mutex_lock(&m->lock);
    while (!b->stop) {
        if (!b->kicked) {
            pthread_cond_wait(&b->work, &m->lock);
            continue;
        }
        b->kicked = false;
        pthread_mutex_unlock(&m->lock);
        while (serve_one(b))
            ;
        pthread_mutex_lock(&m->lock);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

static void notify(struct virtio *v, unsigned queue)
{
    struct virtio_blk *b = of_virtio(v);

    (void)queue;
    b->kicked = true;
    pthread_cond_signal(&b->work);
}

/* Waits for the request in flight only: a guest can make its ring never run dry. The kick at the
 * end is for what was left in the ring meanwhile. */
static void wait_idle(struct virtio *v)
{
    struct virtio_blk *b = of_virtio(v);

    b->hold = true;
    while (b->busy)
        pthread_cond_wait(&b->idle, &v->machine->lock);
    b->hold = false;
    notify(v, 0);
}

/* ---- device
 * -----------------------------------------------------------------------------------------------------------
 */

static const struct virtio_ops blk_virtio = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x018000,
    .n_queues = 1,
    .features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_DISCARD | F_WRITE_ZEROES,
    .config_bytes = sizeof(struct blk_config),
    .notify = notify,
    .reset = wait_idle,
};

static void blk_reset(void *self)
{
    virtio_reset(&((struct virtio_blk *)self)->v);
}

/* Requests in flight are finished first: a state never contains half a request. */
static void blk_save(void *self, struct state *s)
{
    struct virtio_blk *b = self;

    wait_idle(&b->v);
    state_begin(s, "virtio-blk", 1);
    virtio_save(&b->v, s);
    state_end(s);
}

static void blk_load(void *self, struct state *s)
{
    struct virtio_blk *b = self;

    if (state_open(s, "virtio-blk") == 1)
        virtio_load(&b->v, s);
    state_close(s);
    notify(&b->v, 0);
}

static void blk_destroy(void *self)
{
    struct virtio_blk *b = self;
    struct machine *m = b->v.machine;

    if (b->thread_started) {
        pthread_mutex_lock(&m->lock);
        b->stop = true;
        pthread_cond_signal(&b->work);
        pthread_mutex_unlock(&m->lock);
        pthread_join(b->thread, NULL);
    }
    cow_close(b->disk);
    pthread_cond_destroy(&b->work);
    pthread_cond_destroy(&b->idle);
    free(b);
}

static const struct device_ops ops = {"virtio-blk", blk_reset, blk_save, blk_load, blk_destroy};

static void fill_config(struct virtio_blk *b)
{
    struct blk_config c = {
        .capacity = cow_size(b->disk) / SECTOR,
        .seg_max = VIRTQ_MAX_SIZE - 2,
        .blk_size = SECTOR,
        .num_queues = 1,
        .max_discard_sectors = MAX_RANGE,
        .max_discard_seg = MAX_SEGMENTS,
        .discard_sector_alignment = (1u << COW_CLUSTER_BITS) / SECTOR,
        .max_write_zeroes_sectors = MAX_RANGE,
        .max_write_zeroes_seg = MAX_SEGMENTS,
        .write_zeroes_may_unmap = 1,
    };

    memcpy(b->v.config, &c, sizeof(c));
}

int virtio_blk_add(struct machine *m, struct cow_disk *disk, const char *serial)
{
    struct virtio_blk *b = calloc(1, sizeof(*b));
    int r;

    if (!b) {
        cow_close(disk);
        return -ENOMEM;
    }
    b->disk = disk;
    snprintf(b->serial, sizeof(b->serial), "%s", serial);
    pthread_cond_init(&b->work, NULL);
    pthread_cond_init(&b->idle, NULL);
    fill_config(b);
    r = virtio_init(&b->v, &blk_virtio, m);
    if (r == 0)
        r = -pthread_create(&b->thread, NULL, blk_thread, b);
    b->thread_started = r == 0;
    if (r == 0)
        r = machine_add_device(m, &ops, b);
    if (r < 0)
        blk_destroy(b);
    return r;
}
