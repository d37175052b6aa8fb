/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where shared pages come from and what they cost: the memory image of a clone, rows of slots for
 * content that repeats, pools that hide the timing of writes, and how much is hashed.
 */
#include "memshare/pool.h"
#include "tests/unit/test-memshare.h"

/* ---- lineage ---- */

#define IMAGE_OFFSET (16 * PAGE)

/* An image with pages fill_page(number), page 0 being zero; RAM is a private mapping of it. */
static int image_new(struct guest *guest, uint64_t n)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    uint8_t page[PAGE] = {0};

    assert_true(fd > 0);
    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(pwrite(fd, page, PAGE, (off_t)(IMAGE_OFFSET + i * PAGE)), PAGE);
        fill_page(page, i + 1);
    }
    guest_init(guest, n);
    assert_true(mmap(guest->ram, n * PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, IMAGE_OFFSET) == guest->ram);
    return fd;
}

static void start_clone(struct guest *guest, int image, enum ms_pagemap_allow allow)
{
    struct ms_scanner_config config = guest_config(guest);

    config.lineage = (struct ms_lineage){.fd = image, .offset = IMAGE_OFFSET};
    guest_start_with(guest, &config, allow);
}

static void test_clone_goes_back_to_its_image(void **state)
{
    const uint64_t n = 1024;
    struct guest guest;
    int image = image_new(&guest, n);

    for (uint64_t p = 0; p < n; p++)
        (void)*(volatile uint8_t *)(guest.ram + p * PAGE);
    for (uint64_t p = 100; p < 200; p++)
        fill_page(guest.ram + p * PAGE, p % 2 ? p : 5000 + p); /* odd ones as they were */
    start_clone(&guest, image, allowed(state));
    WAIT_FOR(guest_ledger(&guest).private_ == 50 * PAGE);
    assert_int_equal(guest_ledger(&guest).lineage, (n - 50) * PAGE);
    for (uint64_t p = 1; p < n; p++)
        assert_true(
            page_is(guest.ram + p * PAGE, p >= 100 && p < 200 && p % 2 == 0 ? 5000 + p : p));
    /* Written after that, and back again: no mapping is spent on any of it. */
    guest_write(&guest, 500, 1);
    WAIT_FOR(guest_ledger(&guest).private_ == 51 * PAGE);
    guest_write(&guest, 500, 500);
    WAIT_FOR(guest_ledger(&guest).private_ == 50 * PAGE);
    assert_int_equal(guest_ledger(&guest).mappings, 1);
    assert_int_equal(smaps_of(guest.ram, n * PAGE).mappings, 1);
    guest_end(&guest);
    close(image);
}

/* What the guest gave away is zero, not what the image has there; refilled it goes back. */
static void test_clone_gives_pages_away(void **state)
{
    const uint64_t n = 256;
    static const uint8_t zero[PAGE];
    struct guest guest;
    int image = image_new(&guest, n);

    start_clone(&guest, image, allowed(state));
    assert_int_equal(guest_discard(&guest, 10, 20), 0);
    for (uint64_t p = 10; p < 30; p++)
        assert_memory_equal(guest.ram + p * PAGE, zero, PAGE);
    assert_true(page_is(guest.ram + 9 * PAGE, 9));
    assert_true(page_is(guest.ram + 30 * PAGE, 30));
    for (uint64_t p = 10; p < 30; p++)
        guest_write(&guest, p, p);
    WAIT_FOR(guest_ledger(&guest).private_ == 0 && guest_ledger(&guest).lineage >= 22 * PAGE);
    assert_true(page_is(guest.ram + 20 * PAGE, 20));
    guest_end(&guest);
    close(image);
}

/* Two clones: what both wrote alike is in no image, and comes together in the pool. */
static void test_clones_share_what_is_new(void **state)
{
    const uint64_t n = 512;
    struct rig rig;
    struct guest guest[2];
    int image[2];

    rig_start(&rig);
    for (int i = 0; i < 2; i++) {
        image[i] = image_new(&guest[i], n);
        for (uint64_t p = 100; p < 164; p++)
            fill_page(guest[i].ram + p * PAGE, 9000 + p);
        start_clone(&guest[i], image[i], allowed(state));
        guest_connect(&guest[i], &rig, i, 0);
    }
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == 64 * PAGE);
    assert_int_equal(rig_stats(&rig).slots, 64);
    for (int i = 0; i < 2; i++)
        for (uint64_t p = 100; p < 164; p++) {
            assert_true(page_is(guest[i].ram + p * PAGE, 9000 + p));
            guest_write(&guest[i], p, p); /* as the image has it */
        }
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == 0 && guest_ledger(&guest[i]).private_ == 0);
    WAIT_FOR(rig_stats(&rig).slots == 0);
    assert_true(guest_ledger(&guest[0]).lineage >= 64 * PAGE);
    assert_int_equal(guest_ledger(&guest[0]).mappings, 1); /* the image's pages join again */
    for (int i = 0; i < 2; i++) {
        guest_end(&guest[i]);
        close(image[i]);
    }
    rig_end(&rig);
}

/* ---- one content, many slots ---- */

static void test_stretches_need_few_mappings(void **state)
{
    const uint64_t n = 4096;
    struct rig rig;
    struct guest guest[2];
    struct smaps smaps;

    rig_start(&rig);
    for (int i = 0; i < 2; i++) {
        guest_init(&guest[i], n);
        for (uint64_t p = 64; p < n - 64; p++)
            fill_page(guest[i].ram + p * PAGE, 7);
        guest_start(&guest[i], NULL, 0, allowed(state));
        guest_connect(&guest[i], &rig, i, 0);
    }
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == (n - 128) * PAGE);
    /* 64 copies at most at the end; with one slot there were a mapping for every page. */
    for (int i = 0; i < 2; i++)
        assert_in_range(guest_ledger(&guest[i]).mappings, 1, n / 8);
    assert_in_range(rig_stats(&rig).slots, 8, 64 + 8 + 1);
    assert_int_equal(rig_store_bytes(&rig), rig_stats(&rig).slots * PAGE);
    for (int i = 0; i < 2; i++) {
        for (uint64_t p = 64; p < n - 64; p++)
            assert_true(page_is(guest[i].ram + p * PAGE, 7));
        smaps = smaps_of(guest[i].ram, n * PAGE);
        assert_near(rig_saved(&rig, i), smaps.rss - smaps.pss);
        assert_int_equal(guest_ledger(&guest[i]).mappings, smaps.mappings);
    }
    /* Copies nobody maps any more go, and the content itself with the last one. */
    for (int i = 0; i < 2; i++)
        assert_int_equal(guest_discard(&guest[i], 64 + 3, n - 128 - 3), 0);
    WAIT_FOR(rig_stats(&rig).mapped_pages == 6);
    assert_in_range(rig_stats(&rig).slots, 1, 6);
    assert_int_equal(rig_store_bytes(&rig), rig_stats(&rig).slots * PAGE);
    for (int i = 0; i < 2; i++)
        assert_int_equal(guest_discard(&guest[i], 0, n), 0);
    WAIT_FOR(rig_stats(&rig).slots == 0);
    assert_int_equal(rig_store_bytes(&rig), 0);
    /* And it can come again. */
    for (int i = 0; i < 2; i++)
        for (uint64_t p = 0; p < 300; p++)
            guest_write(&guest[i], p, 7);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == 300 * PAGE);
    for (int i = 0; i < 2; i++)
        guest_end(&guest[i]);
    rig_end(&rig);
}

/* ---- longer runs for old pages ---- */

static void start_backwards(struct guest *guest, struct rig *rig, int i, bool backwards,
                            uint64_t max_mappings)
{
    const uint64_t n = 1024;

    guest_init(guest, n);
    for (uint64_t p = 0; p < n; p++)
        fill_page(guest->ram + p * PAGE, backwards ? n - p : p + 1);
    guest_start(guest, NULL, max_mappings, MS_ALLOW_ALL);
    guest_connect(guest, rig, i, 0);
}

/* One guest has its pages in the order of the store, the other backwards: each page a mapping. When
 * the first one is gone, the pages of the other are put in its order. */
static void test_short_runs_are_repacked(void **state)
{
    const uint64_t n = 1024;
    struct rig rig;
    struct guest guest[2];

    (void)state;
    rig_start(&rig);
    start_backwards(&guest[0], &rig, 0, false, 0);
    start_backwards(&guest[1], &rig, 1, true, 2040);
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n * PAGE);
    assert_int_equal(rig_stats(&rig).slots, n);
    assert_true(guest_ledger(&guest[0]).mappings + guest_ledger(&guest[1]).mappings > n);
    assert_int_equal(guest_ledger(&guest[1]).repacked, 0); /* the other one shares them all */
    guest_end(&guest[0]);
    WAIT_FOR(rig.error[0] == -ECONNRESET);
    rig_detach(&rig, 0);
    if (guest_ledger(&guest[1]).mappings <= 1020) { /* the store happened to be in its order */
        guest_end(&guest[1]);
        rig_end(&rig);
        return;
    }
    WAIT_FOR(guest_ledger(&guest[1]).mappings <= 1020);
    WAIT_FOR(rig_stats(&rig).slots == n && rig_stats(&rig).mapped_pages == n);
    assert_in_range(guest_ledger(&guest[1]).repacked, 1, n);
    for (uint64_t p = 0; p < n; p++)
        assert_true(page_is(guest[1].ram + p * PAGE, n - p));
    assert_int_equal(smaps_of(guest[1].ram, n * PAGE).mappings, guest_ledger(&guest[1]).mappings);
    /* The moved content is found again. */
    start_backwards(&guest[0], &rig, 0, true, 0);
    WAIT_FOR(guest_ledger(&guest[0]).pool == n * PAGE);
    assert_int_equal(rig_stats(&rig).slots, n);
    for (int i = 0; i < 2; i++)
        guest_end(&guest[i]);
    rig_end(&rig);
}

/* ---- hidden timing ---- */

static void test_hidden_pages_are_all_in_the_pool(void **state)
{
    const uint64_t n = 1024;
    struct rig rig;
    struct guest guest[2];

    rig_start_with(&rig, MS_TIMING_HIDE);
    for (int i = 0; i < 2; i++) {
        guest_init(&guest[i], n);
        for (uint64_t p = 0; p < n; p++)
            fill_page(guest[i].ram + p * PAGE, p % 2 ? p : p + 10000 * (uint64_t)(i + 1));
        guest_start(&guest[i], NULL, 0, allowed(state));
        guest_connect(&guest[i], &rig, i, 0);
    }
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n * PAGE);
    /* A guest may hold references that it did not need for a moment longer. */
    WAIT_FOR(rig_stats(&rig).mapped_pages == 2 * n);
    assert_int_equal(rig_stats(&rig).slots, n / 2 + n);
    assert_int_equal(rig_saved(&rig, 0), n / 2 * PAGE / 2);
    for (int i = 0; i < 2; i++)
        for (uint64_t p = 0; p < n; p++)
            assert_true(
                page_is(guest[i].ram + p * PAGE, p % 2 ? p : p + 10000 * (uint64_t)(i + 1)));
    /* What a guest writes to is its own, and then in the pool again. */
    for (uint64_t p = 0; p < 64; p++)
        guest_write(&guest[0], p, 50000 + p);
    WAIT_FOR(guest_ledger(&guest[0]).splits >= 64 && guest_ledger(&guest[0]).pool == n * PAGE);
    WAIT_FOR(rig_stats(&rig).slots == n / 2 + n + 32); /* 32 only the other has; 64 new, 32 gone */
    for (int i = 0; i < 2; i++)
        guest_end(&guest[i]);
    rig_end(&rig);
}

/* ---- what is hashed ---- */

static uint64_t hashed(struct guest *guest)
{
    return atomic_load(&guest->scanner->hashed);
}

static void test_only_what_changed_is_hashed(void **state)
{
    const uint64_t n = 4096;
    struct rig rig;
    struct guest guest;
    uint64_t before, passes;

    (void)state;
    rig_start(&rig);
    guest_init(&guest, n);
    for (uint64_t p = 0; p < n; p++)
        fill_page(guest.ram + p * PAGE, p);
    guest_start(&guest, NULL, 0, MS_ALLOW_ALL);
    guest_connect(&guest, &rig, 0, 0);
    if (guest.scanner->pagemap.uffd < 0) {
        print_message("skipped: the kernel cannot track writes (UFFD_FEATURE_WP_ASYNC)\n");
        guest_end(&guest);
        rig_end(&rig);
        skip();
    }
    WAIT_FOR(guest_ledger(&guest).settled && hashed(&guest) >= n);
    before = hashed(&guest);
    assert_in_range(before, n, n + n / 8);
    for (uint64_t p = 0; p < 40; p++)
        guest_write(&guest, p * 100, 90000 + p);
    WAIT_FOR(hashed(&guest) >= before + 40);
    passes = guest_ledger(&guest).passes;
    WAIT_FOR(guest_ledger(&guest).passes >= passes + 2);
    assert_int_equal(hashed(&guest), before + 40);
    guest_end(&guest);
    rig_end(&rig);
}

/* Pages that change in every pass are hashed less and less often; when they stand still, they are
 * found again. */
static void test_hot_pages_are_left_alone(void **state)
{
    const uint64_t n = 256;
    struct guest guest;
    struct ms_scanner_config config;
    uint64_t number = 1000;

    guest_init(&guest, n);
    config = guest_config(&guest);
    assert_int_equal(ms_scanner_new_with(&guest.scanner, &config, allowed(state)), 0);
    guest.scanner->thread = pthread_self();
    ms_budget_start(&guest.scanner->budget);
    for (int pass = 0; pass < 128; pass++) {
        for (uint64_t p = 0; p < n; p++)
            fill_page(guest.ram + p * PAGE, number++);
        ms_scan_pass(guest.scanner);
        atomic_fetch_add(&guest.scanner->passes, 1);
    }
    assert_in_range(hashed(&guest), 0, n * 12);
    memset(guest.ram, 0, n * PAGE);
    for (int pass = 0; pass < 129; pass++) {
        ms_scan_pass(guest.scanner);
        atomic_fetch_add(&guest.scanner->passes, 1);
    }
    assert_int_equal(atomic_load(&guest.scanner->merges), n);
    ms_scanner_free(guest.scanner);
    guest.scanner = NULL;
    guest_end(&guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(test_clone_goes_back_to_its_image),
        EACH(test_clone_gives_pages_away),
        EACH(test_clones_share_what_is_new),
        EACH(test_stretches_need_few_mappings),
        cmocka_unit_test(test_short_runs_are_repacked),
        EACH(test_hidden_pages_are_all_in_the_pool),
        cmocka_unit_test(test_only_what_changed_is_hashed),
        EACH(test_hot_pages_are_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
