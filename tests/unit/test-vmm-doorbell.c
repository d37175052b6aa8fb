/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Doorbells on an engine that only notes what it was told: where bells are placed, that each ring
 * arrives with the machine lock held, and that none comes or gets lost while the machine pauses.
 */
#include "vmmd/vmm/doorbell.h"

#include "vmmd/vmm/machine.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define PATIENCE 30 /* seconds until a hang is called one */
#define PLACES   8

struct engine {
    struct {
        uint64_t gpa;
        int fd;
    } place[PLACES];
    bool refuses;
};

struct fixture {
    struct machine m;
    struct engine engine;
    atomic_uint rung[2];
};

static int note(struct engine *e, uint64_t gpa, unsigned size, int fd, bool add)
{
    assert_int_equal(size, 2);
    if (e->refuses && add)
        return -EEXIST;
    for (unsigned i = 0; i < PLACES; i++) {
        if (add ? e->place[i].gpa == 0 : e->place[i].gpa == gpa && e->place[i].fd == fd) {
            e->place[i].gpa = add ? gpa : 0;
            e->place[i].fd = fd;
            return 0;
        }
    }
    return -ENOENT;
}

/* The fd that a guest's write to gpa rings, or -1. */
static int fd_at(const struct fixture *f, uint64_t gpa)
{
    for (unsigned i = 0; i < PLACES; i++)
        if (f->engine.place[i].gpa == gpa)
            return f->engine.place[i].fd;
    return -1;
}

static void ring(void *opaque, unsigned index)
{
    struct fixture *f = opaque;

    assert_int_equal(pthread_mutex_trylock(&f->m.lock), EBUSY);
    assert_int_equal(pthread_rwlock_trywrlock(&f->m.memory.dma), EBUSY);
    f->rung[index]++;
}

static const struct engine_ops with = {.name = "fake", .ioeventfd = note};
static const struct engine_ops without = {.name = "fake"};

static void create(struct fixture *f, const struct engine_ops *ops)
{
    memset(f, 0, sizeof(*f));
    pthread_mutex_init(&f->m.lock, NULL);
    assert_int_equal(memory_init(&f->m.memory, 1u << 20), 0);
    f->m.ops = ops;
    f->m.engine = &f->engine;
    assert_int_equal(doorbells_init(&f->m.doorbells, &f->m), 0);
}

static void destroy(struct fixture *f)
{
    doorbells_destroy(&f->m.doorbells);
    memory_free(&f->m.memory);
    pthread_mutex_destroy(&f->m.lock);
}

static void press(int fd)
{
    uint64_t one = 1;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void wait_for(atomic_uint *value, unsigned count)
{
    time_t end = time(NULL) + PATIENCE;

    while (*value < count) {
        assert_true(time(NULL) < end);
        sched_yield();
    }
    assert_int_equal(*value, count);
}

static void test_places(void **state)
{
    struct fixture f;
    unsigned a, b;

    (void)state;
    create(&f, &with);
    assert_int_equal(doorbell_add(&f.m.doorbells, 2, ring, &f, 0, &a), 0);
    assert_int_equal(doorbell_add(&f.m.doorbells, 2, ring, &f, 1, &b), 0);
    doorbell_move(&f.m.doorbells, a, 0x1000);
    doorbell_move(&f.m.doorbells, b, 0x1004);
    doorbell_move(&f.m.doorbells, a, 0x2000);
    assert_int_equal(fd_at(&f, 0x1000), -1);
    assert_true(fd_at(&f, 0x2000) >= 0);
    assert_int_equal(doorbells_start(&f.m.doorbells), 0);
    assert_int_equal(doorbell_add(&f.m.doorbells, 2, ring, &f, 0, &a), -ENOSPC);
    for (unsigned i = 1; i <= 1000; i++) {
        press(fd_at(&f, 0x1004));
        wait_for(&f.rung[1], i);
    }
    press(fd_at(&f, 0x2000));
    wait_for(&f.rung[0], 1);
    f.engine.refuses = true; /* the old place is gone, writes to the new one come as MMIO */
    doorbell_move(&f.m.doorbells, a, 0x3000);
    f.engine.refuses = false;
    doorbell_move(&f.m.doorbells, a, 0);
    destroy(&f);
    for (unsigned i = 0; i < PLACES; i++)
        assert_int_equal(f.engine.place[i].gpa, 0); /* nothing is left behind */
}

static void test_pause(void **state)
{
    struct fixture f;
    unsigned a;

    (void)state;
    create(&f, &with);
    assert_int_equal(doorbell_add(&f.m.doorbells, 2, ring, &f, 0, &a), 0);
    doorbell_move(&f.m.doorbells, a, 0x1000);
    assert_int_equal(doorbells_start(&f.m.doorbells), 0);
    for (unsigned i = 1; i <= 500; i++) {
        unsigned before = 2 * (i - 1);
        press(fd_at(&f, 0x1000));
        doorbells_hold(&f.m.doorbells);
        assert_int_equal(f.rung[0], before + 1); /* what rang before is done */
        press(fd_at(&f, 0x1000));
        sched_yield();
        assert_int_equal(f.rung[0], before + 1); /* what rings meanwhile waits */
        doorbells_release(&f.m.doorbells);
        wait_for(&f.rung[0], before + 2);
    }
    destroy(&f);
}

static void test_engine_without(void **state)
{
    struct fixture f;
    unsigned a;

    (void)state;
    create(&f, &without);
    assert_int_equal(doorbell_add(&f.m.doorbells, 2, ring, &f, 0, &a), -ENOTSUP);
    assert_int_equal(doorbells_start(&f.m.doorbells), 0);
    doorbells_hold(&f.m.doorbells);
    doorbells_release(&f.m.doorbells);
    destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_engine_without),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
