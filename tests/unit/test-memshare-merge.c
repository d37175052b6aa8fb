/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Merging, splitting and giving back, with guests as threads of this process. Each test runs with
 * all help from the kernel, without tracking of writes, and without the PAGEMAP_SCAN ioctl.
 */
#include "memshare/pool.h"
#include "tests/unit/test-memshare.h"

static void fill(struct guest *guest, uint64_t page, uint64_t n, uint64_t first)
{
    for (uint64_t i = 0; i < n; i++)
        fill_page(guest->ram + (page + i) * PAGE, first + i);
}

static void check(struct guest *guest, uint64_t page, uint64_t n, uint64_t first)
{
    for (uint64_t i = 0; i < n; i++)
        if (!page_is(guest->ram + (page + i) * PAGE, first + i))
            fail_msg("page %llu has other bytes", (unsigned long long)(page + i));
}

static void test_zero_pages_are_dropped(void **state)
{
    struct guest guest;

    guest_init(&guest, 1024);
    memset(guest.ram, 0, 512 * PAGE);
    fill(&guest, 600, 3, 1);
    guest.ram[100 * PAGE + 4095] = 1; /* zero but for its last byte */
    guest_start(&guest, NULL, 0, allowed(state));
    WAIT_FOR(guest_ledger(&guest).settled);
    assert_int_equal(guest_ledger(&guest).private_, 4 * PAGE);
    assert_int_equal(guest_ledger(&guest).merges, 511);
    assert_int_equal(guest_ledger(&guest).mappings, 1);
    assert_int_equal(guest.ram[100 * PAGE + 4095], 1);
    assert_int_equal(guest.ram[99 * PAGE], 0);
    check(&guest, 600, 3, 1);
    assert_int_equal(smaps_of(guest.ram, guest.n * PAGE).rss, 4 * PAGE);
    guest_end(&guest);
}

static void test_template_pages(void **state)
{
    struct disk disk;
    struct guest guest;

    disk_init(&disk, 512, 1000);
    guest_init(&guest, 1024);
    fill(&guest, 0, 300, 1000);
    fill(&guest, 400, 10, 1500); /* blocks 500.. */
    fill(&guest, 500, 5, 7);     /* not on the disk */
    guest_start(&guest, &disk.tmpl, 0, allowed(state));
    WAIT_FOR(guest_ledger(&guest).settled);
    assert_int_equal(guest_ledger(&guest).template_, 310 * PAGE);
    assert_int_equal(guest_ledger(&guest).private_, 5 * PAGE);
    assert_int_equal(guest_ledger(&guest).mappings, 4);
    assert_int_equal(smaps_of(guest.ram, guest.n * PAGE).mappings, 4);
    assert_near(guest_ledger(&guest).resident, smaps_of(guest.ram, guest.n * PAGE).rss);
    check(&guest, 0, 300, 1000);
    check(&guest, 400, 10, 1500);

    /* The kernel splits what is written to, and the file keeps its bytes. */
    guest_write(&guest, 5, 99);
    WAIT_FOR(guest_ledger(&guest).splits == 1);
    assert_int_equal(guest_ledger(&guest).template_, 309 * PAGE);
    check(&guest, 0, 5, 1000);
    check(&guest, 5, 1, 99);
    uint8_t page[PAGE];
    assert_int_equal(pread(disk.tmpl.fd, page, PAGE, 5 * PAGE), PAGE);
    assert_true(page_is(page, 1005));
    guest_end(&guest);
    disk_end(&disk);
}

static void test_template_hints(void **state)
{
    struct disk disk;
    struct guest guest;

    disk_init(&disk, 512, 1000);
    /* Hashes that find nothing: only the hint can tell. */
    for (uint64_t i = 0; i < 512; i++)
        disk.hash[i] = i + 1;
    guest_init(&guest, 512);
    fill(&guest, 10, 100, 1100);
    fill(&guest, 110, 1, 5); /* the hint is wrong about this one */
    guest_start(&guest, &disk.tmpl, 0, allowed(state));
    ms_scanner_hint_template(guest.scanner, 10, 101, 100);
    ms_scanner_hint_template(guest.scanner, 10, 1000, 100); /* out of range: ignored */
    ms_scanner_hint_template(guest.scanner, 10, 10, 510);
    WAIT_FOR(guest_ledger(&guest).template_ == 100 * PAGE);
    check(&guest, 10, 100, 1100);
    check(&guest, 110, 1, 5);
    guest_end(&guest);
    disk_end(&disk);
}

static void start_two(struct rig *rig, struct guest guest[2], uint64_t n, void **state)
{
    rig_start(rig);
    for (int i = 0; i < 2; i++)
        guest_init(&guest[i], n);
    fill(&guest[0], 0, n / 2, 1);
    fill(&guest[1], n / 4, n / 2, 1); /* the same pages elsewhere */
    fill(&guest[0], n / 2, n / 8, 100000);
    fill(&guest[1], 0, n / 8, 200000);
    for (int i = 0; i < 2; i++) {
        guest_start(&guest[i], NULL, 0, allowed(state));
        guest_connect(&guest[i], rig, i, 0);
    }
}

static void end_two(struct rig *rig, struct guest guest[2])
{
    for (int i = 0; i < 2; i++)
        guest_end(&guest[i]);
    rig_end(rig);
}

static void check_against_smaps(struct rig *rig, struct guest *guest, int i)
{
    struct ms_ledger ledger = guest_ledger(guest);
    struct smaps smaps = smaps_of(guest->ram, guest->n * PAGE);

    assert_near(ledger.resident, smaps.rss);
    assert_near(rig_saved(rig, i), smaps.rss - smaps.pss);
    assert_near(ledger.mappings * PAGE, smaps.mappings * PAGE);
}

static void test_pool_pages(void **state)
{
    const uint64_t n = 2048;
    struct rig rig;
    struct guest guest[2];

    start_two(&rig, guest, n, state);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n / 2 * PAGE && guest_ledger(&guest[i]).settled);
    check(&guest[0], 0, n / 2, 1);
    check(&guest[0], n / 2, n / 8, 100000);
    check(&guest[1], n / 4, n / 2, 1);
    check(&guest[1], 0, n / 8, 200000);
    assert_int_equal(rig_stats(&rig).slots, n / 2);
    assert_int_equal(rig_stats(&rig).mapped_pages, n);
    assert_int_equal(rig_saved(&rig, 0), n / 2 * PAGE / 2);
    for (int i = 0; i < 2; i++)
        check_against_smaps(&rig, &guest[i], i);
    /* Runs stay runs: published in order, mapped in order. How many there are depends on how the
     * two guests took turns; without any order there would be nearly as many as pages. */
    assert_true(guest_ledger(&guest[0]).mappings <= n / 2 / 16);
    assert_true(guest_ledger(&guest[1]).mappings <= n / 2 / 16);
    end_two(&rig, guest);
}

static void test_splits_return_slots(void **state)
{
    const uint64_t n = 1024;
    struct rig rig;
    struct guest guest[2];

    start_two(&rig, guest, n, state);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n / 2 * PAGE);
    assert_int_equal(rig_store_bytes(&rig), n / 2 * PAGE);
    for (uint64_t p = 0; p < 100; p++) {
        guest_write(&guest[0], p, 300000 + p);
        guest_write(&guest[1], n / 4 + p, 400000 + p);
    }
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).splits == 100);
    WAIT_FOR(rig_stats(&rig).slots == n / 2 - 100);
    assert_int_equal(rig_store_bytes(&rig), (n / 2 - 100) * PAGE);
    check(&guest[0], 0, 100, 300000);
    check(&guest[0], 100, n / 2 - 100, 101);
    check(&guest[1], n / 4, 100, 400000);
    check(&guest[1], n / 4 + 100, n / 2 - 100, 101);
    for (int i = 0; i < 2; i++)
        check_against_smaps(&rig, &guest[i], i);

    /* A guest that ends gives everything back; the other one keeps what it maps. */
    guest_end(&guest[0]);
    WAIT_FOR(rig.error[0] == -ECONNRESET);
    rig_detach(&rig, 0);
    assert_int_equal(rig_stats(&rig).mapped_pages, n / 2 - 100);
    assert_int_equal(rig_saved(&rig, 1), 0);
    guest_end(&guest[1]);
    rig_detach(&rig, 1);
    assert_int_equal(rig_stats(&rig).slots, 0);
    assert_int_equal(rig_store_bytes(&rig), 0);
    rig_end(&rig);
}

static void test_equal_pages_of_one_guest(void **state)
{
    struct rig rig;
    struct guest guest;

    rig_start(&rig);
    guest_init(&guest, 1024);
    for (uint64_t p = 0; p < 500; p++)
        fill_page(guest.ram + p * PAGE, p % 5);
    guest_start(&guest, NULL, 0, allowed(state));
    guest_connect(&guest, &rig, 0, 0);
    WAIT_FOR(guest_ledger(&guest).pool == 500 * PAGE);
    assert_int_equal(rig_stats(&rig).slots, 5);
    for (uint64_t p = 0; p < 500; p++)
        check(&guest, p, 1, p % 5);
    check_against_smaps(&rig, &guest, 0);
    guest_end(&guest);
    rig_end(&rig);
}

static void test_template_counts(void **state)
{
    struct rig rig;
    struct guest guest[2];
    struct disk disk;

    rig_start(&rig);
    disk_init(&disk, 512, 1000);
    for (int i = 0; i < 2; i++) {
        guest_init(&guest[i], 512);
        fill(&guest[i], (uint64_t)i * 50, 400, 1000);
        guest_start(&guest[i], &disk.tmpl, 0, allowed(state));
        guest_connect(&guest[i], &rig, i, 512);
    }
    for (int i = 0; i < 2; i++)
        WAIT_FOR(rig_saved(&rig, i) == 400 * PAGE / 2);
    for (int i = 0; i < 2; i++)
        check_against_smaps(&rig, &guest[i], i);
    assert_int_equal(guest_discard(&guest[0], 0, 100), 0);
    guest_write(&guest[1], 449, 5); /* block 399, which the first one still maps */
    WAIT_FOR(rig_saved(&rig, 0) == 299 * PAGE / 2);
    for (int i = 0; i < 2; i++) {
        WAIT_FOR(rig_saved(&rig, i) == 299 * PAGE / 2);
        check_against_smaps(&rig, &guest[i], i);
    }
    end_two(&rig, guest);
    disk_end(&disk);
}

static void test_discard_shows_nothing(void **state)
{
    const uint64_t n = 1024;
    static const uint8_t zero[PAGE];
    struct rig rig;
    struct guest guest[2];

    start_two(&rig, guest, n, state);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n / 2 * PAGE);
    guest_write(&guest[0], 3, 77); /* split and perhaps not noticed yet */
    assert_int_equal(guest_discard(&guest[0], 0, n), 0);
    for (uint64_t p = 0; p < n; p++)
        assert_memory_equal(guest[0].ram + p * PAGE, zero, PAGE);
    WAIT_FOR(rig_stats(&rig).mapped_pages == n / 2);
    assert_int_equal(guest_ledger(&guest[0]).resident, 0);
    assert_int_equal(guest_ledger(&guest[0]).mappings, 1);
    assert_int_equal(smaps_of(guest[0].ram, n * PAGE).mappings, 1);
    check(&guest[1], n / 4, n / 2, 1);

    /* The pages can be used and merged again. */
    pthread_rwlock_rdlock(&guest[0].lock);
    fill(&guest[0], 0, n / 2, 1);
    pthread_rwlock_unlock(&guest[0].lock);
    WAIT_FOR(guest_ledger(&guest[0]).pool == n / 2 * PAGE);
    check(&guest[0], 0, n / 2, 1);
    assert_int_equal(rig_stats(&rig).slots, n / 2);
    assert_int_equal(ms_scanner_discard(guest[0].scanner, n, 1), -EINVAL);
    assert_int_equal(ms_scanner_discard(guest[0].scanner, 1, UINT64_MAX), -EINVAL);
    end_two(&rig, guest);
}

static void test_mappings_are_a_budget(void **state)
{
    const uint64_t n = 4096, budget = 200;
    struct rig rig;
    struct guest guest[2];

    rig_start(&rig);
    for (int i = 0; i < 2; i++) {
        guest_init(&guest[i], n);
        /* Every second page can be merged: each would need two mappings. And one long run. */
        for (uint64_t p = 0; p < n - 512; p++)
            fill_page(guest[i].ram + p * PAGE, p % 2 ? p : p + (uint64_t)(i + 1) * 1000000);
        fill(&guest[i], n - 512, 512, 500000);
        guest_start(&guest[i], NULL, budget, allowed(state));
        guest_connect(&guest[i], &rig, i, 0);
    }
    /* Pages that one guest skips may turn unique for the other, so only the sum is sure. */
    WAIT_FOR(guest_ledger(&guest[0]).mappings_skipped + guest_ledger(&guest[1]).mappings_skipped >
             0);
    for (int i = 0; i < 2; i++) {
        WAIT_FOR(guest_ledger(&guest[i]).settled && guest_ledger(&guest[i]).pool >= 480 * PAGE);
        assert_true(guest_ledger(&guest[i]).mappings <= budget);
        assert_true(smaps_of(guest[i].ram, n * PAGE).mappings <= budget);
        check(&guest[i], n - 512, 512, 500000);
    }
    end_two(&rig, guest);
}

static void test_pool_of_a_new_daemon(void **state)
{
    const uint64_t n = 1024;
    struct rig rig, next;
    struct guest guest[2];

    start_two(&rig, guest, n, state);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n / 2 * PAGE);
    rig_die(&rig);
    check(&guest[0], 0, n / 2, 1);
    guest_write(&guest[0], 1, 50);
    check(&guest[0], 1, 1, 50);
    guest_write(&guest[0], 1, 2);

    rig_start(&next);
    for (int i = 0; i < 2; i++)
        guest_connect(&guest[i], &next, i, 0);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(rig_saved(&next, i) == n / 2 * PAGE / 2);
    assert_int_equal(rig_stats(&next).slots, n / 2);
    for (int i = 0; i < 2; i++) {
        WAIT_FOR(guest_ledger(&guest[i]).settled);
        check_against_smaps(&next, &guest[i], i);
    }
    check(&guest[0], 0, n / 2, 1);
    check(&guest[1], n / 4, n / 2, 1);
    end_two(&next, guest);
}

/* Nothing of an old pool stays mapped, or its memory would never return: neither what nobody else
 * has any more, nor what was written to since. */
static void test_pages_leave_an_old_pool(void **state)
{
    const uint64_t n = 1024;
    struct rig rig, next;
    struct guest guest[2];

    start_two(&rig, guest, n, state);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n / 2 * PAGE);
    rig_die(&rig);
    guest_write(&guest[0], 7, 900000);
    guest_end(&guest[1]);

    rig_start(&next);
    guest_connect(&guest[0], &next, 0, 0);
    WAIT_FOR(rig_greeted(&next, 0));
    WAIT_FOR(guest[0].scanner->pages.n_old == 0 && guest_ledger(&guest[0]).settled);
    assert_int_equal(rig_stats(&next).slots, 0);
    assert_int_equal(smaps_of(guest[0].ram, n * PAGE).files, 0);
    check_against_smaps(&next, &guest[0], 0);
    check(&guest[0], 0, 7, 1);
    check(&guest[0], 7, 1, 900000);
    check(&guest[0], 8, n / 2 - 8, 9);
    guest_end(&guest[0]);
    rig_end(&next);
}

static void test_old_pool_keeps_what_is_mapped(void **state)
{
    const uint64_t n = 1024;
    struct rig rig, other;
    struct guest guest[2];

    start_two(&rig, guest, n, state);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n / 2 * PAGE);
    /* Both move to another pool although the first one lives on. */
    rig_start(&other);
    assert_int_equal(ms_scanner_connect(guest[0].scanner, -1, -1), 0);
    WAIT_FOR(!atomic_load(&guest[0].scanner->connect_wanted));
    assert_int_equal(rig_stats(&rig).slots, n / 2);
    check(&guest[0], 0, n / 2, 1);
    for (int i = 0; i < 2; i++)
        guest_connect(&guest[i], &other, i, 0);
    for (int i = 0; i < 2; i++) {
        WAIT_FOR(rig_saved(&other, i) == n / 2 * PAGE / 2);
        /* Only now is the first pool told that it may forget. */
        WAIT_FOR(rig.error[i] == -ECONNRESET);
    }
    check(&guest[0], 0, n / 2, 1);
    check(&guest[1], n / 4, n / 2, 1);
    rig_end(&rig);
    end_two(&other, guest);
}

/* Detached while it lives: it loses nothing, and what it held is freed when it ends. */
static void test_detached_while_alive(void **state)
{
    const uint64_t n = 1024;
    struct rig rig;
    struct guest guest[2];

    start_two(&rig, guest, n, state);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n / 2 * PAGE);
    rig_detach(&rig, 0);
    assert_int_equal(rig_stats(&rig).clients, 1);
    assert_int_equal(rig_stats(&rig).mapped_pages, n);
    check(&guest[0], 0, n / 2, 1);
    guest_end(&guest[1]);
    WAIT_FOR(rig.error[1] == -ECONNRESET);
    rig_detach(&rig, 1);
    assert_int_equal(rig_stats(&rig).mapped_pages, n / 2);
    assert_int_equal(rig_stats(&rig).slots, n / 2);
    check(&guest[0], 0, n / 2, 1);
    guest_end(&guest[0]);
    ms_pool_reap(rig.pool);
    assert_int_equal(rig_stats(&rig).slots, 0);
    assert_int_equal(rig_store_bytes(&rig), 0);
    rig_end(&rig);
}

static void test_busy_devices_only_delay(void **state)
{
    struct guest guest;

    guest_init(&guest, 64);
    memset(guest.ram, 0, 64 * PAGE);
    atomic_store(&guest.busy, true);
    guest_start(&guest, NULL, 0, allowed(state));
    WAIT_FOR(atomic_load(&guest.freezes) > 20);
    assert_int_equal(guest_ledger(&guest).merges, 0);
    atomic_store(&guest.busy, false);
    WAIT_FOR(guest_ledger(&guest).merges == 64);
    guest_end(&guest);
}

static void test_budget_zero_stands_still(void **state)
{
    struct guest guest;
    struct ms_scanner_config config = {.ops = &guest_ops, .opaque = &guest, .tmpl = {.fd = -1}};

    guest_init(&guest, 64);
    memset(guest.ram, 0, 64 * PAGE);
    config.ram = guest.ram;
    config.ram_bytes = 64 * PAGE;
    assert_int_equal(ms_scanner_new_with(&guest.scanner, &config, allowed(state)), 0);
    assert_int_equal(pthread_create(&guest.thread, NULL, guest_scan, &guest), 0);
    assert_int_equal(guest_ledger(&guest).private_, 64 * PAGE);
    ms_scanner_set_budget(guest.scanner, 50);
    WAIT_FOR(guest_ledger(&guest).merges == 64);
    guest_end(&guest);
}

static void test_wrong_configuration(void **state)
{
    struct ms_scanner *scanner = NULL;
    uint8_t *ram = guest_ram(4);
    struct ms_scanner_config config = {
        .ram = ram, .ram_bytes = 4 * PAGE, .ops = &guest_ops, .tmpl = {.fd = -1}};
    struct ms_scanner_config bad;

    (void)state;
    bad = config;
    bad.ram = ram + 1;
    assert_int_equal(ms_scanner_new(&scanner, &bad), -EINVAL);
    bad = config;
    bad.ram_bytes = PAGE + 1;
    assert_int_equal(ms_scanner_new(&scanner, &bad), -EINVAL);
    bad = config;
    bad.ops = NULL;
    assert_int_equal(ms_scanner_new(&scanner, &bad), -EINVAL);
    bad = config;
    bad.budget_percent = 101;
    assert_int_equal(ms_scanner_new(&scanner, &bad), -EINVAL);
    bad = config;
    bad.tmpl.fd = 0;
    bad.tmpl.n_blocks = 1;
    assert_int_equal(ms_scanner_new(&scanner, &bad), -EINVAL);
    assert_null(scanner);
    assert_int_equal(ms_scanner_new(&scanner, &config), 0);
    ms_scanner_free(scanner); /* never ran */
    ms_scanner_free(NULL);
    ms_pool_free(NULL);
    munmap(ram - PAGE, 6 * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(test_zero_pages_are_dropped),   EACH(test_template_pages),
        EACH(test_template_hints),           EACH(test_pool_pages),
        EACH(test_splits_return_slots),      EACH(test_equal_pages_of_one_guest),
        EACH(test_template_counts),          EACH(test_discard_shows_nothing),
        EACH(test_mappings_are_a_budget),    EACH(test_pool_of_a_new_daemon),
        EACH(test_pages_leave_an_old_pool),  EACH(test_old_pool_keeps_what_is_mapped),
        EACH(test_detached_while_alive),     EACH(test_busy_devices_only_delay),
        EACH(test_budget_zero_stands_still), cmocka_unit_test(test_wrong_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
