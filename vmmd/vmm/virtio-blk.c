/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-blk: a disk (virtio 1.2, section 5.2) over a cow_disk. One thread serves the queue, so
 * that a slow disk never holds a vCPU, and has up to COW_QUEUE_DEPTH requests under way at a time.
 * It takes the machine lock only to pop and push; while anything is under way it holds a dma
 * bracket, so that no page is merged under it, and begins nothing new when merging has waited for
 * long. Blocks read unchanged from the template are reported to the page scanner.
 *
 * The thread waits on one eventfd: the guest kicked, a request is done, or it is to stop.
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
#include <sys/eventfd.h>
#include <unistd.h>

#define SECTOR       512u
#define PAGE         4096u
#define SERIAL_BYTES 20
#define MAX_RANGE    (1u << 22) /* sectors in one discard or write-zeroes segment: 2 GiB */
#define MAX_SEGMENTS 16u
#define FLAG_UNMAP   1u /* of write-zeroes */

#define F_SEG_MAX      (1ull << 2)
#define F_RO           (1ull << 5)
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

/* A request under way, or an idle one. */
struct job {
    struct cow_request request;
    struct virtio_blk *blk;
    struct job *next;
    struct request head;
    uint64_t written; /* bytes stored into the chain */
    struct range range[MAX_SEGMENTS];
    unsigned n_ranges, ranges_done;
    struct virtq_chain chain;
    struct iovec iov[VIRTQ_MAX_IOV];
};

struct virtio_blk {
    struct virtio v;
    struct cow_disk *disk;
    struct cow_queue *queue; /* the thread's, once it runs; so are the lists */
    unsigned n_jobs;         /* made so far, at most COW_QUEUE_DEPTH */
    struct job *idle, *finished, *popped, **popped_end;
    char serial[SERIAL_BYTES + 1];
    pthread_t thread;
    bool thread_started;
    bool in_dma; /* the thread holds a dma bracket */
    int event_fd;
    pthread_cond_t calm; /* with machine.lock: nothing is under way */
    unsigned n_busy;     /* under way; changed with machine.lock held */
    bool stop, hold;     /* begin no other; with machine.lock */
};

static struct job *take(struct job **list)
{
    struct job *job = *list;

    if (job)
        *list = job->next;
    return job;
}

static void put(struct job **list, struct job *job)
{
    job->next = *list;
    *list = job;
}

static struct virtio_blk *of_virtio(struct virtio *v)
{
    return (struct virtio_blk *)((char *)v - offsetof(struct virtio_blk, v));
}

/* ---- requests, on the disk's thread, inside a dma bracket, without the machine lock
 * ------------------------- */

/* Data buffers: the readable part behind the request header, or the writable part before the status
 * byte. */
static int data_iov(struct job *job, bool in)
{
    const struct virtq_chain *c = &job->chain;
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
        job->iov[n++] = (struct iovec){(uint8_t *)from[i].iov_base + skip, use};
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

static void after_read(struct job *job)
{
    struct virtio_blk *b = job->blk;
    struct memory *m = &b->v.machine->memory;
    const struct virtq_chain *c = &job->chain;
    uint64_t offset = job->request.offset, bytes = job->request.length;

    for (unsigned i = c->n_out; i < c->n_out + c->n_in && bytes > 0; i++) {
        uint64_t len = c->iov[i].iov_len < bytes ? c->iov[i].iov_len : bytes;
        memory_written(m, c->gpa[i], len);
        if (m->scanner)
            hint_range(b, c->gpa[i], offset, len);
        offset += len;
        bytes -= len;
    }
}

/* What was asked for is done: the status byte, and the chain can go back. */
static void finish(struct job *job, uint8_t status)
{
    struct virtio_blk *b = job->blk;
    const struct virtq_chain *c = &job->chain;

    if (c->in_bytes >= 1) {
        virtq_chain_write(&b->v.queues[0], c, c->in_bytes - 1, &status, 1);
        job->written++;
    }
    put(&b->finished, job);
}

static bool in_disk(const struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
    uint64_t size = cow_size(b->disk);

    return sector <= size / SECTOR && bytes <= size - sector * SECTOR;
}

/* ---- reads, writes, flushes ---- */

static void io_done(struct cow_request *request)
{
    struct job *job = request->opaque;

    if (request->kind == COW_READ) {
        after_read(job); /* also after an error: part of it may have been written */
        job->written = request->length;
    }
    finish(job, request->result < 0 ? S_IOERR : S_OK);
}

static void submit(struct job *job, enum cow_request_kind kind, uint64_t offset, uint64_t length,
                   void (*done)(struct cow_request *request))
{
    job->request.kind = kind;
    job->request.offset = offset;
    job->request.length = length;
    job->request.iov = job->iov;
    job->request.done = done;
    job->request.opaque = job;
    cow_queue_submit(job->blk->queue, &job->request);
}

static void start_io(struct job *job, bool in)
{
    const struct virtq_chain *c = &job->chain;
    uint64_t bytes = in ? c->in_bytes - 1 : c->out_bytes - sizeof(struct request);

    if (bytes % SECTOR != 0 || !in_disk(job->blk, job->head.sector, bytes)) {
        finish(job, S_IOERR);
        return;
    }
    job->request.iovcnt = data_iov(job, in);
    submit(job, in ? COW_READ : COW_WRITE, job->head.sector * SECTOR, bytes, io_done);
}

/* ---- discards and write-zeroes: one range after the other ---- */

static void next_range(struct job *job);

static void range_done(struct cow_request *request)
{
    struct job *job = request->opaque;

    job->ranges_done++;
    if (request->result < 0)
        finish(job, S_IOERR);
    else
        next_range(job);
}

static void next_range(struct job *job)
{
    const struct range *range = &job->range[job->ranges_done];
    bool discard = job->head.type == T_DISCARD;

    if (job->ranges_done == job->n_ranges) {
        finish(job, S_OK);
        return;
    }
    submit(job, discard ? COW_DISCARD : COW_WRITE_ZEROES, range->sector * SECTOR,
           (uint64_t)range->n_sectors * SECTOR, range_done);
}

static uint8_t check_range(const struct virtio_blk *b, const struct range *range, bool discard)
{
    if (range->n_sectors > MAX_RANGE ||
        !in_disk(b, range->sector, (uint64_t)range->n_sectors * SECTOR))
        return S_IOERR;
    return range->flags & ~(discard ? 0u : FLAG_UNMAP) ? S_UNSUPP : S_OK;
}

static void start_ranges(struct job *job)
{
    uint64_t bytes = job->chain.out_bytes - sizeof(struct request);
    size_t n = bytes / sizeof(job->range[0]);

    if (n == 0 || n > MAX_SEGMENTS || bytes % sizeof(job->range[0]) != 0) {
        finish(job, S_IOERR);
        return;
    }
    virtq_chain_read(&job->chain, sizeof(struct request), job->range, bytes);
    for (size_t i = 0; i < n; i++) {
        uint8_t status = check_range(job->blk, &job->range[i], job->head.type == T_DISCARD);
        if (status != S_OK) {
            finish(job, status);
            return;
        }
    }
    job->n_ranges = (unsigned)n;
    job->ranges_done = 0;
    next_range(job);
}

static void get_id(struct job *job)
{
    struct virtio_blk *b = job->blk;
    uint64_t room = job->chain.in_bytes - 1, bytes = room < SERIAL_BYTES ? room : SERIAL_BYTES;

    job->written = virtq_chain_write(&b->v.queues[0], &job->chain, 0, b->serial, bytes);
    finish(job, S_OK);
}

static void start(struct job *job)
{
    const struct virtq_chain *c = &job->chain;

    job->written = 0;
    if (c->in_bytes < 1 || virtq_chain_read(c, 0, &job->head, sizeof(job->head)) <
                               sizeof(job->head)) { /* perhaps nowhere to put a status either */
        finish(job, S_IOERR);
        return;
    }
    switch (job->head.type) {
    case T_IN: start_io(job, true); break;
    case T_OUT: start_io(job, false); break;
    case T_FLUSH:
        job->request.iovcnt = 0;
        submit(job, COW_FLUSH, 0, 0, io_done);
        break;
    case T_GET_ID: get_id(job); break;
    case T_DISCARD:
    case T_WRITE_ZEROES: start_ranges(job); break;
    default: finish(job, S_UNSUPP);
    }
}

/* ---- the thread
 * --------------------------------------------------------------------------------------------------
 */

/* Made when they are first needed: few guests ever have many requests under way. */
static struct job *idle_job(struct virtio_blk *b)
{
    if (!b->idle && b->n_jobs < COW_QUEUE_DEPTH) {
        b->idle = calloc(1, sizeof(*b->idle));
        if (b->idle) {
            b->idle->blk = b;
            b->n_jobs++;
        }
    }
    return b->idle;
}

/* Takes what the guest has for us, as far as there is room; true: there may be more already.
 * Machine lock held. */
static bool pop_all(struct virtio_blk *b)
{
    struct machine *m = b->v.machine;

    struct job *job;

    if (b->stop || b->hold)
        return false;
    if (memory_dma_is_wanted(&m->memory))
        return b->n_busy == 0; /* next turn, when this bracket has ended */
    while ((job = idle_job(b))) {
        if (virtio_pop(&b->v, 0, &job->chain) <= 0)
            return virtio_ready(&b->v) && virtq_enable_notify(&b->v.queues[0]);
        b->idle = job->next;
        job->next = NULL;
        *b->popped_end = job;
        b->popped_end = &job->next;
        b->n_busy++;
    }
    return false;
}

static void push_finished(struct virtio_blk *b)
{
    struct job *job;
    bool any = b->finished;

    while ((job = take(&b->finished))) {
        virtq_push(&b->v.queues[0], &job->chain, job->written);
        b->n_busy--;
        put(&b->idle, job);
    }
    if (any)
        virtio_signal(&b->v, 0);
    if (b->n_busy == 0)
        pthread_cond_broadcast(&b->calm);
}

/* One turn; false: nothing to do until the eventfd says so. */
static bool serve(struct virtio_blk *b)
{
    struct machine *m = b->v.machine;
    struct job *job;
    bool more;

    if (!b->in_dma)
        memory_dma_begin(&m->memory);
    b->in_dma = true;
    pthread_mutex_lock(&m->lock);
    more = pop_all(b) || b->popped;
    pthread_mutex_unlock(&m->lock);
    while ((job = take(&b->popped)))
        start(job);
    b->popped_end = &b->popped;
    cow_queue_reap(b->queue);
    more = more || b->finished;
    pthread_mutex_lock(&m->lock);
    push_finished(b);
    b->in_dma = b->n_busy > 0;
    pthread_mutex_unlock(&m->lock);
    if (!b->in_dma)
        memory_dma_end(&m->memory);
    return more;
}

static void *blk_thread(void *opaque)
{
    struct virtio_blk *b = opaque;
    struct machine *m = b->v.machine;
    uint64_t count;
    bool stop;

    pthread_setname_np(pthread_self(), "disk");
    do {
        while (serve(b))
            ;
        (void)!read(b->event_fd, &count, sizeof(count));
        pthread_mutex_lock(&m->lock);
        stop = b->stop && b->n_busy == 0;
        pthread_mutex_unlock(&m->lock);
    } while (!stop);
    return NULL;
}

static void notify(struct virtio *v, unsigned queue)
{
    const uint64_t one = 1;

    (void)queue;
    (void)!write(of_virtio(v)->event_fd, &one, sizeof(one));
}

/* Waits for the requests under way only: a guest can make its ring never run dry. The kick at the
 * end is for what was left in the ring meanwhile. */
static void wait_idle(struct virtio *v)
{
    struct virtio_blk *b = of_virtio(v);

    b->hold = true;
    while (b->n_busy > 0)
        pthread_cond_wait(&b->calm, &v->machine->lock);
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

/* One that cannot be written: its writes would fail in any case, but so a guest knows. */
static const struct virtio_ops blk_virtio_readonly = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .class_code = 0x018000,
    .n_queues = 1,
    .features = F_SEG_MAX | F_RO | F_BLK_SIZE | F_FLUSH,
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
    struct job *job;

    if (b->thread_started) {
        pthread_mutex_lock(&m->lock);
        b->stop = true;
        notify(&b->v, 0);
        pthread_mutex_unlock(&m->lock);
        pthread_join(b->thread, NULL);
    }
    cow_queue_free(b->queue);
    cow_close(b->disk);
    if (b->event_fd >= 0)
        close(b->event_fd);
    pthread_cond_destroy(&b->calm);
    while ((job = take(&b->idle)))
        free(job);
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

static int set_up_queue(struct virtio_blk *b)
{
    b->event_fd = eventfd(0, EFD_CLOEXEC);
    if (b->event_fd < 0)
        return -errno;
    if (!idle_job(b)) /* one must do in any case */
        return -ENOMEM;
    return cow_queue_new(&b->queue, b->disk, COW_QUEUE_ANY, b->event_fd);
}

int virtio_blk_add(struct machine *m, struct cow_disk *disk, const char *serial, bool readonly)
{
    struct virtio_blk *b = calloc(1, sizeof(*b));
    int r;

    if (!b) {
        cow_close(disk);
        return -ENOMEM;
    }
    b->disk = disk;
    b->event_fd = -1;
    b->popped_end = &b->popped;
    snprintf(b->serial, sizeof(b->serial), "%s", serial);
    pthread_cond_init(&b->calm, NULL);
    fill_config(b);
    r = virtio_init(&b->v, readonly ? &blk_virtio_readonly : &blk_virtio, m);
    if (r == 0)
        r = set_up_queue(b);
    if (r == 0)
        r = -pthread_create(&b->thread, NULL, blk_thread, b);
    b->thread_started = r == 0;
    if (r == 0)
        r = machine_add_device(m, &ops, b);
    if (r < 0)
        blk_destroy(b);
    return r;
}
