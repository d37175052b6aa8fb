/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The last hour: a ring that keeps what was put in, in order, and the samples of guests.
 */
#include "tests/unit/test-daemon-util.h"
#include "vmmd/history.h"

#define SECOND UINT64_C(1000000)

static void test_ring(void **state)
{
    struct history history = {0};

    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        history_add(&history, &(struct history_sample){.time = i * SECOND,
                                                       .resident = i * 4096,
                                                       .saved = i * 8192,
                                                       .cpu_ns = i * 1000,
                                                       .merges = i,
                                                       .splits = 2 * i});
        assert_int_equal(history.n, i < HISTORY_SAMPLES ? i + 1 : HISTORY_SAMPLES);
        for (unsigned k = 0; k < history.n; k++) {
            uint64_t wanted = i + 1 - history.n + k;
            struct history_sample sample = history_get(&history, k);

            assert_int_equal(sample.time, wanted * SECOND);
            assert_int_equal(sample.resident, wanted * 4096);
            assert_int_equal(sample.saved, wanted * 8192);
            assert_int_equal(sample.cpu_ns, wanted * 1000);
            assert_int_equal(sample.merges, wanted);
            assert_int_equal(sample.splits, 2 * wanted);
        }
    }
    history_add(&history, &(struct history_sample){.time = UINT64_MAX,
                                                   .resident = UINT64_MAX,
                                                   .cpu_ns = UINT64_MAX,
                                                   .merges = UINT64_MAX});
    assert_int_equal(history_get(&history, history.n - 1).merges, UINT32_MAX);
    history_free(&history);
    assert_int_equal(history.n, 0);
}

static bool has_login(void *opaque)
{
    return ((struct guest *)opaque)->login;
}

static bool is_idle(void *opaque)
{
    return ((struct guest *)opaque)->phase == PHASE_IDLE;
}

static bool has_memory(void *opaque)
{
    return ((struct guest *)opaque)->memory.nominal > 0;
}

static void start_reporting(struct world *world, struct guest *guest)
{
    start_guest(world, guest);
    run_while_not(world, has_login, guest);
    run_while_not(world, has_memory, guest);
}

static void expect_sample(const struct history *history, unsigned i, uint64_t seconds,
                          uint64_t resident, uint64_t cpu_ns, uint64_t splits)
{
    struct history_sample sample = history_get(history, i);

    assert_true(i < history->n);
    assert_int_equal(sample.time, seconds * SECOND);
    assert_int_equal(sample.resident, resident);
    assert_int_equal(sample.cpu_ns, cpu_ns);
    assert_int_equal(sample.splits, splits);
}

static void test_samples(void **state)
{
    struct world *world = *state;
    struct daemon *daemon = world->daemon;
    struct guest *a, *b, *idle;

    import_template(world, "deb");
    a = create_guest(world, "deb", "a");
    b = create_guest(world, "deb", "b");
    idle = create_guest(world, "deb", "idle");
    history_tick(daemon, 10 * SECOND);
    assert_int_equal(a->history.n, 0);
    expect_sample(&daemon->history, 0, 10, 0, 0, 0);
    start_reporting(world, a); /* a fake: 48 of 64 MiB resident, 1.5 s of CPU time */
    a->memory.splits = 7;
    history_tick(daemon, 20 * SECOND + 5);
    expect_sample(&a->history, 0, 20, 48 * MIB, 1500000000, 7);
    assert_int_equal(guest_recent_splits(a), 0);
    start_reporting(world, b);
    a->memory.splits = 10;
    assert_int_equal(guest_recent_splits(a), 3);
    history_tick(daemon, 30 * SECOND);
    expect_sample(&a->history, 1, 30, 48 * MIB, 0, 3);
    expect_sample(&b->history, 0, 30, 48 * MIB, 1500000000, 10);
    expect_sample(&daemon->history, 2, 30, 96 * MIB, 1500000000, 13);
    child_kill(a->process);
    run_while_not(world, is_idle, a);
    history_tick(daemon, 40 * SECOND);
    assert_int_equal(a->history.n, 2); /* kept, not continued */
    start_reporting(world, a);         /* its counters begin anew */
    a->memory.splits = 4;
    history_tick(daemon, 50 * SECOND);
    expect_sample(&a->history, 2, 50, 48 * MIB, 1500000000, 4);
    assert_int_equal(idle->history.n, 0);
    assert_int_equal(daemon->history.n, 5);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring),
        cmocka_unit_test_setup_teardown(test_samples, world_setup, world_teardown),
    };

    be_a_fake_if_asked(argc, argv);
    alarm(10 * TEST_LIMIT_SECS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
