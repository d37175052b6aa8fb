/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon: the guest gives memory back (virtio 1.2, section 5.5), when asked (inflate) and
 * by itself (free page reporting). Pages given away become untouched memory that reads as zero,
 * whatever was merged there (memory_discard). Deflating needs nothing from us: a page that the
 * guest takes back is there when it is touched.
 */
#include "vmmd/vmm/devices.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"
#include "vmmd/vmm/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_REPORTING      (1ull << 5)
#define PFN_SHIFT        12
#define PFNS_MAX         1024u /* page numbers in one chain; drivers send 256 or 1024 */

enum { Q_INFLATE, Q_DEFLATE, Q_REPORTING, N_QUEUES };

struct balloon_config {
    uint32_t num_pages, actual;
} __attribute__((packed));

struct virtio_balloon {
    struct virtio v;
    uint32_t num_pages; /* ours; the driver may write `actual` only */
    struct virtq_chain chain;
};

static struct virtio_balloon *of_virtio(struct virtio *v)
{
    return (struct virtio_balloon *)((char *)v - offsetof(struct virtio_balloon, v));
}

/* Discards runs of neighbours in one go; the driver hands pages out in rising or falling order. */
static void discard_pages(struct virtio_balloon *b, const uint32_t *pfns, size_t n)
{
    struct memory *m = &b->v.machine->memory;

    for (size_t i = 0; i < n;) {
        uint64_t first = pfns[i], last = pfns[i];
        size_t j = i + 1;
        for (; j < n; j++) {
            if (pfns[j] == last + 1)
                last++;
            else if (first > 0 && pfns[j] == first - 1)
                first--;
            else
                break;
        }
        memory_discard(m, first << PFN_SHIFT,
                       (last - first + 1) << PFN_SHIFT); /* outside of RAM: ignored */
        i = j;
    }
}

static void serve_inflate(struct virtio_balloon *b)
{
    uint32_t pfns[PFNS_MAX];

    while (virtio_pop(&b->v, Q_INFLATE, &b->chain) > 0) {
        bool fits = b->chain.out_bytes <= sizeof(pfns);
        uint64_t n = fits ? virtq_chain_read(&b->chain, 0, pfns, sizeof(pfns)) : 0;
        discard_pages(b, pfns, n / sizeof(pfns[0]));
        virtq_push(&b->v.queues[Q_INFLATE], &b->chain, 0);
        if (fits)
            continue;
        virtio_signal(&b->v, Q_INFLATE);
        /* A gigabyte of them would hold the machine lock for minutes. */
        virtio_fail(&b->v, "too many page numbers in one request");
    }
}

static void serve_deflate(struct virtio_balloon *b)
{
    while (virtio_pop(&b->v, Q_DEFLATE, &b->chain) > 0)
        virtq_push(&b->v.queues[Q_DEFLATE], &b->chain, 0);
}

/* The buffers themselves are the free pages; the guest waits for them to come back before it reuses
 * any. */
static void serve_reporting(struct virtio_balloon *b)
{
    while (virtio_pop(&b->v, Q_REPORTING, &b->chain) > 0) {
        const struct virtq_chain *c = &b->chain;
        for (unsigned i = c->n_out; i < c->n_out + c->n_in; i++)
            memory_discard(&b->v.machine->memory, c->gpa[i], c->iov[i].iov_len);
        virtq_push(&b->v.queues[Q_REPORTING], c, 0);
    }
}

static void notify(struct virtio *v, unsigned queue)
{
    struct virtio_balloon *b = of_virtio(v);

    do {
        switch (queue) {
        case Q_INFLATE: serve_inflate(b); break;
        case Q_DEFLATE: serve_deflate(b); break;
        case Q_REPORTING: serve_reporting(b); break;
        }
    } while (virtio_ready(v) && virtq_enable_notify(&v->queues[queue]));
    virtio_signal(v, queue);
}

static void config_get(const struct virtio_balloon *b, struct balloon_config *ret)
{
    memcpy(ret, b->v.config, sizeof(*ret));
}

/* The driver writes `actual`; num_pages is ours. */
static void config_written(struct virtio *v, unsigned offset, unsigned size)
{
    struct virtio_balloon *b = of_virtio(v);

    (void)offset, (void)size;
    memcpy(v->config + offsetof(struct balloon_config, num_pages), &b->num_pages,
           sizeof(b->num_pages));
}

void virtio_balloon_target(struct virtio_balloon *b, uint64_t bytes)
{
    uint64_t all = b->v.machine->memory.bytes;
    struct balloon_config c;

    config_get(b, &c);
    c.num_pages = bytes < all ? (uint32_t)((all - bytes) >> PFN_SHIFT) : 0;
    b->num_pages = c.num_pages;
    memcpy(b->v.config, &c, sizeof(c));
    virtio_config_changed(&b->v);
}

uint64_t virtio_balloon_bytes(const struct virtio_balloon *b)
{
    struct balloon_config c;
    uint64_t bytes;

    config_get(b, &c);
    bytes = (uint64_t)c.actual << PFN_SHIFT;
    return bytes < b->v.machine->memory.bytes ? bytes : b->v.machine->memory.bytes;
}

static const struct virtio_ops balloon_virtio = {
    .name = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .class_code = 0x00ff00,
    .n_queues = N_QUEUES,
    .features = F_DEFLATE_ON_OOM | F_REPORTING,
    .config_bytes = sizeof(struct balloon_config),
    .notify = notify,
    .config_written = config_written,
};

static void balloon_reset(void *self)
{
    virtio_reset(&((struct virtio_balloon *)self)->v);
}

static void balloon_save(void *self, struct state *s)
{
    state_begin(s, "virtio-balloon", 1);
    virtio_save(&((struct virtio_balloon *)self)->v, s);
    state_end(s);
}

static void balloon_load(void *self, struct state *s)
{
    struct virtio_balloon *b = self;
    struct balloon_config c;

    if (state_open(s, "virtio-balloon") == 1)
        virtio_load(&b->v, s);
    state_close(s);
    config_get(b, &c);
    b->num_pages = c.num_pages;
}

static const struct device_ops ops = {"virtio-balloon", balloon_reset, balloon_save, balloon_load,
                                      free};

int virtio_balloon_add(struct machine *m, struct virtio_balloon **ret_balloon)
{
    struct virtio_balloon *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return -ENOMEM;
    r = virtio_init(&b->v, &balloon_virtio, m);
    if (r == 0)
        r = machine_add_device(m, &ops, b);
    if (r < 0)
        free(b);
    else
        *ret_balloon = b;
    return r;
}
