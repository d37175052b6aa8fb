/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate that holds vCPUs, with threads that play vCPUs: whoever is inside alone may read what
 * work writes, unlocked, so that the thread sanitizer sees every way past the gate
 * (make BUILD=... SAN=-fsanitize=thread). Frozen work of a machine, and the histogram of holds.
 */
#include "vmmd/vmm/gate.h"
#include "vmmd/vmm/histogram.h"
#include "vmmd/vmm/machine.h"

#include <errno.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define VCPUS  3
#define ROUNDS 300

struct fixture {
    struct gate gate;
    pthread_t threads[VCPUS];
    atomic_uint started, turns, next;
    atomic_bool stop_when_kicked;
    unsigned done; /* works done: written by work, read by vCPUs inside, no lock but the gate */
    pthread_t doer;
};

static void kick(void *opaque)
{
    struct fixture *f = opaque;

    if (atomic_load(&f->stop_when_kicked))
        gate_stop(&f->gate);
}

/* What a vCPU does with its time. */
enum life { RUNS, HALTS, MIXES };

static void *live(struct fixture *f, enum life life)
{
    unsigned i = atomic_fetch_add(&f->next, 1), seen = 0, turn = 0;
    bool go = gate_enter(&f->gate);

    atomic_fetch_add(&f->started, 1);
    while (go) {
        assert_true(f->done >= seen);
        seen = f->done;
        atomic_fetch_add(&f->turns, 1);
        if (life == RUNS || (life == MIXES && (++turn + i) % 3)) {
            go = gate_pass(&f->gate);
            continue;
        }
        gate_leave(&f->gate);
        sched_yield();
        go = gate_enter(&f->gate);
    }
    return NULL;
}

static void *run(void *opaque)
{
    return live(opaque, RUNS);
}

static void *halt_often(void *opaque)
{
    return live(opaque, HALTS);
}

static void *mix(void *opaque)
{
    return live(opaque, MIXES);
}

static void start(struct fixture *f, void *(*vcpu)(void *))
{
    memset(f, 0, sizeof(*f));
    gate_init(&f->gate);
    for (int i = 0; i < VCPUS; i++)
        assert_int_equal(pthread_create(&f->threads[i], NULL, vcpu, f), 0);
    while (atomic_load(&f->started) < VCPUS)
        sched_yield();
}

static void end(struct fixture *f)
{
    gate_stop(&f->gate);
    for (int i = 0; i < VCPUS; i++)
        pthread_join(f->threads[i], NULL);
    assert_true(gate_stopping(&f->gate));
    assert_int_equal(f->gate.inside, 0);
    gate_destroy(&f->gate);
}

static void work(void *opaque)
{
    struct fixture *f = opaque;

    f->doer = pthread_self();
    f->done++;
}

/* While the gate is closed, by one or two closers, nobody turns; a stop gets through a closed gate.
 */
static void test_closers(void **state)
{
    struct fixture f;
    unsigned before;

    (void)state;
    start(&f, run);
    for (int round = 0; round < ROUNDS; round++) {
        gate_close(&f.gate, kick, &f);
        gate_close(&f.gate, kick, &f);
        before = atomic_load(&f.turns);
        sched_yield();
        gate_open(&f.gate);
        sched_yield();
        assert_int_equal(atomic_load(&f.turns), before);
        gate_open(&f.gate);
        sched_yield();
    }
    gate_close(&f.gate, kick, &f);
    end(&f);
}

static void wait_until_inside(struct fixture *f, unsigned n)
{
    unsigned inside;

    do {
        sched_yield();
        pthread_mutex_lock(&f->gate.lock);
        inside = f->gate.inside;
        pthread_mutex_unlock(&f->gate.lock);
    } while (inside != n);
}

/* vCPUs that never halt: the last one at the gate does the work, and opens it. */
static void test_work_of_running_vcpus(void **state)
{
    struct fixture f;

    (void)state;
    start(&f, run);
    for (unsigned round = 0; round < ROUNDS; round++) {
        wait_until_inside(&f, VCPUS);
        gate_work(&f.gate, work, &f, kick, &f);
        gate_close(&f.gate, kick, &f); /* to look at what is the gate's */
        assert_int_equal(f.done, round + 1);
        assert_false(pthread_equal(f.doer, pthread_self()));
        gate_open(&f.gate);
    }
    end(&f);
    assert_int_equal(f.gate.times.by_kicked, ROUNDS);
    assert_int_equal(f.gate.times.came.count, ROUNDS);
    assert_true(f.gate.times.held.count <= VCPUS * ROUNDS);
    assert_true(f.gate.times.held.max > 0);
}

/* vCPUs that look at the gate only when they halt do it then, or find it done. */
static void test_work_of_halting_vcpus(void **state)
{
    struct fixture f;

    (void)state;
    start(&f, halt_often);
    for (unsigned round = 0; round < ROUNDS; round++)
        gate_work(&f.gate, work, &f, kick, &f);
    end(&f);
    assert_int_equal(f.done, ROUNDS);
    assert_int_equal(f.gate.times.by_kicked, 0);
    assert_int_equal(f.gate.times.by_halting + f.gate.times.by_bringer, ROUNDS);
}

/* Nobody is inside, because all halt or the guest is paused: who brings the work does it. */
static void test_work_with_nobody_inside(void **state)
{
    struct fixture f;

    (void)state;
    start(&f, run);
    gate_close(&f.gate, kick, &f);
    unsigned before = atomic_load(&f.turns);
    gate_work(&f.gate, work, &f, kick, &f);
    assert_int_equal(f.done, 1);
    assert_true(pthread_equal(f.doer, pthread_self()));
    sched_yield();
    assert_int_equal(atomic_load(&f.turns), before); /* the pause goes on */
    gate_open(&f.gate);
    end(&f);
    assert_int_equal(f.gate.times.by_bringer, 1);
    assert_int_equal(f.gate.times.held.count, 0); /* a pause is not a hold */
}

/* The machine ends between the kick and the vCPUs' coming: the work is done all the same. */
static void test_stop_while_work_waits(void **state)
{
    struct fixture f;

    (void)state;
    for (int round = 0; round < 20; round++) {
        start(&f, round % 2 ? run : mix);
        atomic_store(&f.stop_when_kicked, true);
        for (unsigned i = 0; i < 5; i++)
            gate_work(&f.gate, work, &f, kick, &f);
        end(&f);
        assert_int_equal(f.done, 5);
    }
}

struct slow {
    struct fixture *f;
    pthread_t closer;
    bool finished;
};

static void *close_and_look(void *opaque)
{
    struct slow *s = opaque;

    gate_close(&s->f->gate, kick, s->f);
    assert_true(s->finished);
    gate_open(&s->f->gate);
    return NULL;
}

static void work_while_one_closes(void *opaque)
{
    struct slow *s = opaque;
    struct gate *g = &s->f->gate;
    unsigned before, now;

    pthread_mutex_lock(&g->lock);
    before = now = g->closed;
    pthread_mutex_unlock(&g->lock);
    assert_int_equal(pthread_create(&s->closer, NULL, close_and_look, s), 0);
    while (now == before) {
        sched_yield();
        pthread_mutex_lock(&g->lock);
        now = g->closed;
        pthread_mutex_unlock(&g->lock);
    }
    s->finished = true;
}

/* Who closes the gate while work is done in it waits for its end. */
static void test_closing_waits_for_work(void **state)
{
    struct fixture f;

    (void)state;
    for (int round = 0; round < 20; round++) {
        struct slow s = {.f = &f};
        start(&f, round % 2 ? run : halt_often);
        gate_work(&f.gate, work_while_one_closes, &s, kick, &f);
        pthread_join(s.closer, NULL);
        end(&f);
    }
}

static void *bring_work(void *opaque)
{
    struct fixture *f = opaque;

    for (int i = 0; i < ROUNDS; i++)
        gate_work(&f->gate, work, f, kick, f);
    return NULL;
}

static void *pause_often(void *opaque)
{
    struct fixture *f = opaque;

    for (int i = 0; i < ROUNDS; i++) {
        gate_close(&f->gate, kick, f);
        sched_yield();
        gate_open(&f->gate);
        sched_yield();
    }
    return NULL;
}

/* Everything at once; two that bring work wait for each other. */
static void test_all_together(void **state)
{
    struct fixture f;
    pthread_t others[3];

    (void)state;
    start(&f, mix);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&others[i], NULL, i ? bring_work : pause_often, &f), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(others[i], NULL);
    end(&f);
    assert_int_equal(f.done, 2 * ROUNDS);
    const struct gate_times *t = &f.gate.times;
    assert_int_equal(t->by_halting + t->by_kicked + t->by_bringer, 2 * ROUNDS);
    assert_int_equal(t->cpu.count, 2 * ROUNDS);
}

/* ---- a machine's frozen work ---- */

struct busy {
    struct machine m;
    unsigned done;
    sem_t inside, kicked;
    bool device_writes; /* from the kick on */
};

static struct busy *the_busy;

static void busy_kick(struct vcpu *vcpu)
{
    (void)vcpu;
    if (the_busy->device_writes)
        memory_dma_begin(&the_busy->m.memory);
    sem_post(&the_busy->kicked);
}

static void *come_when_kicked(void *opaque)
{
    struct busy *b = opaque;

    assert_true(gate_enter(&b->m.gate));
    sem_post(&b->inside);
    sem_wait(&b->kicked);
    assert_true(gate_pass(&b->m.gate));
    gate_leave(&b->m.gate);
    return NULL;
}

static void count(void *opaque)
{
    ((struct busy *)opaque)->done++;
}

static int frozen_with_a_vcpu(struct busy *b, bool device_writes)
{
    pthread_t vcpu;
    int r;

    b->device_writes = device_writes;
    assert_int_equal(pthread_create(&vcpu, NULL, come_when_kicked, b), 0);
    sem_wait(&b->inside);
    r = machine_frozen(&b->m, count, b);
    pthread_join(vcpu, NULL);
    if (device_writes)
        memory_dma_end(&b->m.memory);
    return r;
}

/* A device that writes, already or from the kick on: -EBUSY, and no work was done. */
static void test_busy_devices(void **state)
{
    static const struct engine_ops ops = {.vcpu_kick = busy_kick};
    struct busy b = {.m.ops = &ops, .m.n_vcpus = 1};

    (void)state;
    the_busy = &b;
    sem_init(&b.inside, 0, 0);
    sem_init(&b.kicked, 0, 0);
    gate_init(&b.m.gate);
    assert_int_equal(memory_init(&b.m.memory, 1u << 20), 0);
    assert_int_equal(machine_frozen(&b.m, count, &b), 0);
    assert_int_equal(b.done, 1);
    assert_int_equal(frozen_with_a_vcpu(&b, false), 0);
    assert_int_equal(b.done, 2);
    memory_dma_begin(&b.m.memory);
    assert_int_equal(machine_frozen(&b.m, count, &b), -EBUSY);
    memory_dma_end(&b.m.memory);
    assert_int_equal(frozen_with_a_vcpu(&b, true), -EBUSY);
    assert_int_equal(b.done, 2);
    assert_int_equal(machine_frozen(&b.m, count, &b), 0); /* nothing is left locked */
    assert_int_equal(b.done, 3);
    memory_free(&b.m.memory);
    gate_destroy(&b.m.gate);
    sem_destroy(&b.inside);
    sem_destroy(&b.kicked);
}

/* ---- histogram ---- */

static void test_histogram(void **state)
{
    struct histogram h = {0};

    (void)state;
    assert_int_equal(histogram_quantile(&h, 1, 2), 0);
    for (uint64_t v = 1; v <= 1000; v++)
        histogram_add(&h, v);
    assert_int_equal(h.count, 1000);
    assert_int_equal(histogram_quantile(&h, 1, 1), 1000);
    assert_in_range(histogram_quantile(&h, 1, 2), 500, 625);
    assert_in_range(histogram_quantile(&h, 99, 100), 990, 1000);
    histogram_add(&h, 0);
    histogram_add(&h, UINT64_MAX);
    assert_int_equal(histogram_quantile(&h, 1, 1), UINT64_MAX);
    assert_int_equal(histogram_quantile(&h, 1, 1002), 0);
    for (unsigned bit = 0; bit < 64; bit++) { /* a bound is never below the value, nor far above */
        struct histogram one = {0};
        uint64_t v = (uint64_t)1 << bit;
        histogram_add(&one, v);
        one.max = UINT64_MAX;
        assert_in_range(histogram_quantile(&one, 1, 1), v, v + v / 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closers),
        cmocka_unit_test(test_work_of_running_vcpus),
        cmocka_unit_test(test_work_of_halting_vcpus),
        cmocka_unit_test(test_work_with_nobody_inside),
        cmocka_unit_test(test_stop_while_work_waits),
        cmocka_unit_test(test_closing_waits_for_work),
        cmocka_unit_test(test_all_together),
        cmocka_unit_test(test_busy_devices),
        cmocka_unit_test(test_histogram),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
