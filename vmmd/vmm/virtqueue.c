/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtqueue: see virtqueue.h. Ring indices are read with acquire and written with release
 * semantics: the guest's vCPU runs on another thread.
 */
#include "vmmd/vmm/virtqueue.h"

#include "vmmd/vmm/memory.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <string.h>

#define DESC_NEXT          1u
#define DESC_WRITE         2u
#define DESC_INDIRECT      4u
#define AVAIL_NO_INTERRUPT 1u

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct used_elem {
    uint32_t id, len;
};

void virtq_reset(struct virtq *q)
{
    *q = (struct virtq){
        .memory = q->memory, .max_size = q->max_size, .size = q->max_size, .vector = 0xffff};
}

/* ---- ring fields; NULL when the ring is not in RAM
 * ------------------------------------------------------ */

static uint16_t *avail_field(const struct virtq *q, unsigned index)
{
    return memory_at(q->memory, q->avail + 2ull * index, 2);
}

static uint16_t *used_field(const struct virtq *q, uint64_t offset)
{
    return memory_at(q->memory, q->used + offset, 2);
}

static uint64_t used_event_offset(const struct virtq *q)
{
    return 4 + 8ull * q->size; /* avail_event, behind the used ring */
}

static bool load(const uint16_t *field, uint16_t *ret_value)
{
    if (!field)
        return false;
    *ret_value = __atomic_load_n(field, __ATOMIC_ACQUIRE);
    return true;
}

static bool rings_aligned(const struct virtq *q)
{
    return q->desc % 16 == 0 && q->avail % 2 == 0 && q->used % 4 == 0;
}

/* ---- chains
 * ------------------------------------------------------------------------------------------------
 */

static const char *add_buffer(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
    unsigned n = c->n_out + c->n_in;
    bool in = d->flags & DESC_WRITE;
    uint64_t *total = in ? &c->in_bytes : &c->out_bytes;
    void *hva;

    if (n == VIRTQ_MAX_IOV)
        return "descriptor chain too long";
    if (!in && c->n_in > 0)
        return "device-readable buffer behind a device-writable one";
    if (d->len == 0)
        return "empty buffer";
    hva = memory_at(q->memory, d->addr, d->len);
    if (!hva)
        return "buffer outside of guest memory";
    if (d->len > VIRTQ_MAX_BYTES - *total)
        return "descriptor chain too large";
    c->iov[n] = (struct iovec){hva, d->len};
    c->gpa[n] = d->addr;
    *total += d->len;
    if (in)
        c->n_in++;
    else
        c->n_out++;
    return NULL;
}

/* Follows a table of `count` descriptors at `table` from `index`. At most `count` steps: a loop is
 * too long. */
static const char *walk(struct virtq *q, struct virtq_chain *c, uint64_t table, uint32_t count,
                        uint32_t index, bool indirect_allowed)
{
    for (uint32_t steps = 0; steps < count; steps++) {
        struct desc d;
        const char *bad;

        if (index >= count || memory_read(q->memory, table + 16ull * index, &d, sizeof(d)) < 0)
            return "descriptor outside of its table";
        if (d.flags & DESC_INDIRECT) {
            if (!indirect_allowed || (d.flags & DESC_NEXT))
                return "indirect descriptor where none may be";
            if (d.len == 0 || d.len % sizeof(d) != 0 || d.len / sizeof(d) > VIRTQ_MAX_IOV)
                return "indirect table of a bad length";
            return walk(q, c, d.addr, d.len / sizeof(d), 0, false);
        }
        bad = add_buffer(q, c, &d);
        if (bad)
            return bad;
        if (!(d.flags & DESC_NEXT))
            return NULL;
        index = d.next;
    }
    return "descriptor chain with a loop";
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    uint16_t avail_idx, head;

    if (!q->enabled || q->broken)
        return 0;
    if (!rings_aligned(q) || !load(avail_field(q, 1), &avail_idx)) {
        q->broken = "available ring outside of guest memory";
        return -EPROTO;
    }
    if (avail_idx == q->last_avail)
        return 0;
    if ((uint16_t)(avail_idx - q->last_avail) > q->size) {
        q->broken = "available index runs ahead of the ring";
        return -EPROTO;
    }
    if (!load(avail_field(q, 2u + q->last_avail % q->size), &head)) {
        q->broken = "available ring outside of guest memory";
        return -EPROTO;
    }
    if (head >= q->size) {
        q->broken = "available ring names a descriptor that does not exist";
        return -EPROTO;
    }
    q->last_avail++;
    c->head = head;
    c->n_out = c->n_in = 0;
    c->out_bytes = c->in_bytes = 0;
    c->bad = walk(q, c, q->desc, q->size, head, q->indirect);
    return 1;
}

void virtq_push(struct virtq *q, const struct virtq_chain *c, uint64_t written)
{
    struct used_elem elem = {c->head, (uint32_t)written};
    uint64_t at = 4 + 8ull * (q->used_idx % q->size);
    uint16_t *idx = used_field(q, 2);

    if (!idx || memory_write(q->memory, q->used + at, &elem, sizeof(elem)) < 0) {
        q->broken = "used ring outside of guest memory";
        return;
    }
    q->used_idx++;
    __atomic_store_n(idx, q->used_idx, __ATOMIC_RELEASE);
    memory_written(q->memory, q->used + 2, 2);
}

bool virtq_needs_interrupt(struct virtq *q)
{
    uint16_t flags, event, old = q->signalled, now = q->used_idx;
    bool first = !q->signalled_valid;

    if (first ? now == 0 : now == old)
        return false;
    q->signalled = now;
    q->signalled_valid = true;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* used index before the guest's wish is read */
    if (!q->event_idx)
        return load(avail_field(q, 0), &flags) && !(flags & AVAIL_NO_INTERRUPT);
    if (!load(avail_field(q, 2u + q->size), &event))
        return false;
    return first || (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

bool virtq_enable_notify(struct virtq *q)
{
    uint16_t avail_idx;

    if (q->event_idx && q->enabled && !q->broken) {
        uint16_t *event = used_field(q, used_event_offset(q));
        if (!event)
            return false;
        __atomic_store_n(event, q->last_avail, __ATOMIC_RELEASE);
        memory_written(q->memory, q->used + used_event_offset(q), 2);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    return q->enabled && !q->broken && load(avail_field(q, 1), &avail_idx) &&
           avail_idx != q->last_avail;
}

/* ---- copying
 * ---------------------------------------------------------------------------------------------------
 */

uint64_t virtq_chain_read(const struct virtq_chain *c, uint64_t offset, void *data, uint64_t bytes)
{
    uint64_t done = 0;

    for (unsigned i = 0; i < c->n_out && done < bytes; i++) {
        uint64_t len = c->iov[i].iov_len, n;
        if (offset >= len) {
            offset -= len;
            continue;
        }
        n = len - offset < bytes - done ? len - offset : bytes - done;
        memcpy((uint8_t *)data + done, (uint8_t *)c->iov[i].iov_base + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

uint64_t virtq_chain_write(struct virtq *q, const struct virtq_chain *c, uint64_t offset,
                           const void *data, uint64_t bytes)
{
    uint64_t done = 0;

    for (unsigned i = c->n_out; i < c->n_out + c->n_in && done < bytes; i++) {
        uint64_t len = c->iov[i].iov_len, n;
        if (offset >= len) {
            offset -= len;
            continue;
        }
        n = len - offset < bytes - done ? len - offset : bytes - done;
        memcpy((uint8_t *)c->iov[i].iov_base + offset, (const uint8_t *)data + done, n);
        memory_written(q->memory, c->gpa[i] + offset, n);
        done += n;
        offset = 0;
    }
    return done;
}

/* ---- state
 * -------------------------------------------------------------------------------------------------------
 */

void virtq_save(const struct virtq *q, struct state *s)
{
    uint8_t enabled = q->enabled, valid = q->signalled_valid;

    state_put_field(s, q->size);
    state_put_field(s, enabled);
    state_put_field(s, q->vector);
    state_put_field(s, q->desc);
    state_put_field(s, q->avail);
    state_put_field(s, q->used);
    state_put_field(s, q->last_avail);
    state_put_field(s, q->used_idx);
    state_put_field(s, q->signalled);
    state_put_field(s, valid);
}

void virtq_load(struct virtq *q, struct state *s)
{
    uint8_t enabled, valid;

    state_get_field(s, q->size);
    state_get_field(s, enabled);
    state_get_field(s, q->vector);
    state_get_field(s, q->desc);
    state_get_field(s, q->avail);
    state_get_field(s, q->used);
    state_get_field(s, q->last_avail);
    state_get_field(s, q->used_idx);
    state_get_field(s, q->signalled);
    state_get_field(s, valid);
    q->enabled = enabled;
    q->signalled_valid = valid;
    q->broken = NULL;
    if (q->size == 0 || q->size > q->max_size || (q->size & (q->size - 1))) {
        q->size = q->max_size;
        q->enabled = false;
        s->error = s->error ? s->error : -EPROTO;
    }
}
