/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-rng: the host's random numbers for the guest (virtio 1.2, section 5.4). A request is
 * served at once, up to RNG_MAX bytes of it.
 */
#include "vmmd/vmm/devices.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"
#include "vmmd/vmm/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define RNG_MAX 4096u

struct virtio_rng {
    struct virtio v;
    struct virtq_chain chain;
};

static void notify(struct virtio *v, unsigned queue)
{
    struct virtio_rng *rng = (struct virtio_rng *)((char *)v - offsetof(struct virtio_rng, v));
    uint8_t bytes[RNG_MAX];

    do {
        while (virtio_pop(v, queue, &rng->chain) > 0) {
            size_t want = rng->chain.in_bytes < RNG_MAX ? rng->chain.in_bytes : RNG_MAX;
            ssize_t got = getrandom(bytes, want, GRND_NONBLOCK);
            uint64_t n = got > 0 ? (uint64_t)got : 0;
            n = virtq_chain_write(&v->queues[queue], &rng->chain, 0, bytes, n);
            virtq_push(&v->queues[queue], &rng->chain, n);
        }
    } while (virtio_ready(v) && virtq_enable_notify(&v->queues[queue]));
    explicit_bzero(bytes, sizeof(bytes));
    virtio_signal(v, queue);
}

static const struct virtio_ops rng_virtio = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .class_code = 0x00ff00,
    .n_queues = 1,
    .notify = notify,
};

static void rng_reset(void *self)
{
    virtio_reset(&((struct virtio_rng *)self)->v);
}

static void rng_save(void *self, struct state *s)
{
    state_begin(s, "virtio-rng", 1);
    virtio_save(&((struct virtio_rng *)self)->v, s);
    state_end(s);
}

static void rng_load(void *self, struct state *s)
{
    if (state_open(s, "virtio-rng") == 1)
        virtio_load(&((struct virtio_rng *)self)->v, s);
    state_close(s);
}

static const struct device_ops ops = {"virtio-rng", rng_reset, rng_save, rng_load, free};

int virtio_rng_add(struct machine *m)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    int r;

    if (!rng)
        return -ENOMEM;
    r = virtio_init(&rng->v, &rng_virtio, m);
    if (r == 0)
        r = machine_add_device(m, &ops, rng);
    if (r < 0)
        free(rng);
    return r;
}
