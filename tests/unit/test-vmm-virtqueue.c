/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Virtqueues against a friendly and a hostile driver: what a guest may put into rings and
 * descriptors, and that every chain is either good, or bad with a reason, or the ring is broken
 * with a reason; never anything beyond guest memory.
 */
#include "vmmd/vmm/memory.h"
#include "vmmd/vmm/state.h"
#include "vmmd/vmm/virtqueue.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RAM        (1u << 20)
#define QUEUE_SIZE 8u
#define DESC_AT    0x1000u
#define AVAIL_AT   0x2000u
#define USED_AT    0x3000u
#define DATA_AT    0x8000u

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

struct fixture {
    struct memory memory;
    struct virtq q;
    struct virtq_chain chain;
    uint16_t avail_idx;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_int_equal(memory_init(&f->memory, RAM), 0);
    f->q = (struct virtq){.memory = &f->memory, .max_size = QUEUE_SIZE};
    virtq_reset(&f->q);
    f->q.desc = DESC_AT;
    f->q.avail = AVAIL_AT;
    f->q.used = USED_AT;
    f->q.enabled = true;
    f->q.indirect = true;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memory_free(&f->memory);
    free(f);
    return 0;
}

static void put_desc(struct fixture *f, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
                     uint16_t next)
{
    struct desc d = {addr, len, flags, next};

    memory_write(&f->memory, DESC_AT + 16 * i, &d, sizeof(d));
}

static void offer(struct fixture *f, uint16_t head)
{
    memory_write(&f->memory, AVAIL_AT + 4 + 2 * (f->avail_idx % QUEUE_SIZE), &head, 2);
    f->avail_idx++;
    memory_write(&f->memory, AVAIL_AT + 2, &f->avail_idx, 2);
}

static uint16_t used_idx(struct fixture *f)
{
    uint16_t v;

    memory_read(&f->memory, USED_AT + 2, &v, 2);
    return v;
}

static void test_good_chain(void **state)
{
    struct fixture *f = *state;
    char text[16] = {0};
    uint32_t elem[2];

    memory_write(&f->memory, DATA_AT, "hello world", 11);
    put_desc(f, 0, DATA_AT, 5, NEXT, 1);
    put_desc(f, 1, DATA_AT + 5, 6, NEXT, 2);
    put_desc(f, 2, DATA_AT + 0x100, 16, WRITE, 0);
    offer(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_null(f->chain.bad);
    assert_int_equal(f->chain.n_out, 2);
    assert_int_equal(f->chain.n_in, 1);
    assert_int_equal(virtq_chain_read(&f->chain, 0, text, sizeof(text)), 11);
    assert_string_equal(text, "hello world");
    assert_int_equal(virtq_chain_read(&f->chain, 3, text, 4), 4);
    assert_memory_equal(text, "lo w", 4);
    assert_int_equal(virtq_chain_write(&f->q, &f->chain, 14, "abcdef", 6), 2);
    virtq_push(&f->q, &f->chain, 7);
    assert_int_equal(used_idx(f), 1);
    memory_read(&f->memory, USED_AT + 4, elem, sizeof(elem));
    assert_int_equal(elem[0], 0);
    assert_int_equal(elem[1], 7);
    assert_true(virtq_needs_interrupt(&f->q));
    assert_false(virtq_needs_interrupt(&f->q));
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0);
}

static void test_indirect(void **state)
{
    struct fixture *f = *state;
    struct desc table[3] = {{DATA_AT, 16, NEXT, 2}, {0, 0, 0, 0}, {DATA_AT + 64, 1, WRITE, 0}};

    memory_write(&f->memory, 0x6000, table, sizeof(table));
    put_desc(f, 3, 0x6000, sizeof(table), INDIRECT, 0);
    offer(f, 3);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_null(f->chain.bad);
    assert_int_equal(f->chain.out_bytes, 16);
    assert_int_equal(f->chain.in_bytes, 1);
}

/* Each case writes descriptors and says what the chain must be called. */
static void bad_chain(struct fixture *f, const char *why)
{
    offer(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    assert_non_null(f->chain.bad);
    assert_string_equal(f->chain.bad, why);
    virtq_push(&f->q, &f->chain, 0);
    assert_int_equal(used_idx(f), f->avail_idx);
}

static void test_bad_chains(void **state)
{
    struct fixture *f = *state;

    put_desc(f, 0, RAM - 8, 16, 0, 0);
    bad_chain(f, "buffer outside of guest memory");
    put_desc(f, 0, UINT64_MAX - 4, 16, 0, 0);
    bad_chain(f, "buffer outside of guest memory");
    put_desc(f, 0, DATA_AT, 0, 0, 0);
    bad_chain(f, "empty buffer");
    put_desc(f, 0, DATA_AT, 1, NEXT, 1);
    put_desc(f, 1, DATA_AT, 1, NEXT, 0);
    bad_chain(f, "descriptor chain with a loop");
    put_desc(f, 0, DATA_AT, 1, NEXT, QUEUE_SIZE);
    bad_chain(f, "descriptor outside of its table");
    put_desc(f, 0, DATA_AT, 1, NEXT | WRITE, 1);
    put_desc(f, 1, DATA_AT, 1, 0, 0);
    bad_chain(f, "device-readable buffer behind a device-writable one");
    put_desc(f, 0, DATA_AT, 15, INDIRECT, 0);
    bad_chain(f, "indirect table of a bad length");
    put_desc(f, 0, DATA_AT, 16, INDIRECT | NEXT, 1);
    bad_chain(f, "indirect descriptor where none may be");
    struct desc nested = {DATA_AT, 16, INDIRECT, 0};
    memory_write(&f->memory, 0x6000, &nested, sizeof(nested));
    put_desc(f, 0, 0x6000, 16, INDIRECT, 0);
    bad_chain(f, "indirect descriptor where none may be");
    put_desc(f, 0, RAM, 16, INDIRECT, 0);
    bad_chain(f, "descriptor outside of its table");
}

static void test_broken_rings(void **state)
{
    struct fixture *f = *state;
    uint16_t idx = QUEUE_SIZE + 1;

    memory_write(&f->memory, AVAIL_AT + 2, &idx, 2);
    assert_int_equal(virtq_pop(&f->q, &f->chain), -EPROTO);
    assert_string_equal(f->q.broken, "available index runs ahead of the ring");
    assert_int_equal(virtq_pop(&f->q, &f->chain), 0); /* stays broken, says it once */

    f->q.broken = NULL;
    f->q.avail = RAM;
    assert_int_equal(virtq_pop(&f->q, &f->chain), -EPROTO);
    f->q.broken = NULL;
    f->q.avail = AVAIL_AT + 1;
    assert_int_equal(virtq_pop(&f->q, &f->chain), -EPROTO);

    f->q.broken = NULL;
    f->q.avail = AVAIL_AT;
    f->avail_idx = 0;
    offer(f, QUEUE_SIZE);
    assert_int_equal(virtq_pop(&f->q, &f->chain), -EPROTO);

    f->q.broken = NULL;
    f->q.used = RAM - 2;
    virtq_push(&f->q, &f->chain, 0);
    assert_string_equal(f->q.broken, "used ring outside of guest memory");
}

static void test_event_idx(void **state)
{
    struct fixture *f = *state;
    uint16_t event = 0;

    f->q.event_idx = true;
    for (unsigned i = 0; i < 3; i++) {
        put_desc(f, i, DATA_AT, 1, WRITE, 0);
        offer(f, (uint16_t)i);
    }
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_push(&f->q, &f->chain, 0);
    assert_true(virtq_needs_interrupt(&f->q)); /* the first is always told */
    event = 2;                                 /* wake me when the third is used */
    memory_write(&f->memory, AVAIL_AT + 4 + 2 * QUEUE_SIZE, &event, 2);
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_push(&f->q, &f->chain, 0);
    assert_false(virtq_needs_interrupt(&f->q));
    assert_int_equal(virtq_pop(&f->q, &f->chain), 1);
    virtq_push(&f->q, &f->chain, 0);
    assert_true(virtq_needs_interrupt(&f->q));
    assert_false(virtq_enable_notify(&f->q));
    put_desc(f, 3, DATA_AT, 1, WRITE, 0);
    offer(f, 3);
    assert_true(virtq_enable_notify(&f->q));
}

/* Random rings: nothing may be reached beyond RAM (ASAN would see an iovec followed), nothing may
 * loop. */
static void test_random_rings(void **state)
{
    struct fixture *f = *state;
    uint8_t junk[512];

    srandom(1);
    for (unsigned round = 0; round < 20000; round++) {
        for (unsigned i = 0; i < sizeof(junk); i++)
            junk[i] = (uint8_t)(random() % 4 ? random() % 3 : random());
        memory_write(&f->memory, DESC_AT, junk, 16 * QUEUE_SIZE);
        memory_write(&f->memory, AVAIL_AT, junk + 200, 64);
        f->q.broken = NULL;
        for (unsigned n = 0; n < 2 * QUEUE_SIZE && virtq_pop(&f->q, &f->chain) == 1; n++) {
            for (unsigned i = 0; i < f->chain.n_out + f->chain.n_in; i++) {
                uint8_t *start = f->chain.iov[i].iov_base;
                assert_true(start >= f->memory.base);
                assert_true(start + f->chain.iov[i].iov_len <= f->memory.base + RAM);
            }
            virtq_push(&f->q, &f->chain, 0);
        }
    }
}

static void test_save_and_load(void **state)
{
    struct fixture *f = *state;
    struct virtq other = {.memory = &f->memory, .max_size = QUEUE_SIZE};
    struct state s;

    put_desc(f, 0, DATA_AT, 1, WRITE, 0);
    offer(f, 0);
    virtq_pop(&f->q, &f->chain);
    virtq_push(&f->q, &f->chain, 1);
    state_init(&s);
    state_begin(&s, "queue", 3);
    virtq_save(&f->q, &s);
    state_end(&s);
    assert_int_equal(s.error, 0);
    assert_int_equal(state_open(&s, "queue"), 3);
    virtq_load(&other, &s);
    state_close(&s);
    assert_int_equal(s.error, 0);
    assert_int_equal(other.last_avail, f->q.last_avail);
    assert_int_equal(other.used_idx, f->q.used_idx);
    assert_int_equal(other.desc, f->q.desc);
    assert_true(other.enabled);

    s.at = 0;
    assert_int_equal(state_open(&s, "other"), 0); /* another section's name */
    assert_int_equal(s.error, -EPROTO);
    state_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good_chain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_indirect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_chains, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_rings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_event_idx, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_rings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_save_and_load, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
