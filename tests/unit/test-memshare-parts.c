/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts memshare is made of, each against a plain model: index, counters, store, page table.
 */
#include "memshare/pool.h"
#include "tests/unit/test-memshare.h"

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void test_index_finds_what_is_there(void **state)
{
    static uint32_t model[4096]; /* slot + 1 by number; hashes are alike on purpose */
    struct ms_index index;
    uint64_t seed = 42;

    (void)state;
    memset(model, 0, sizeof(model));
    assert_int_equal(ms_index_init(&index), 0);
    for (int step = 0; step < 200000; step++) {
        uint32_t i = (uint32_t)(next_random(&seed) % 4096);
        uint64_t hash = (i % 7) | (uint64_t)i << 40 | (uint64_t)(i / 64) << 3;

        if (next_random(&seed) % 3) {
            uint32_t slot = (uint32_t)(next_random(&seed) % 1000);

            assert_int_equal(ms_index_set_slot(&index, hash, slot), 0);
            model[i] = slot + 1;
        } else if (model[i]) {
            ms_index_remove_slot(&index, hash, model[i]); /* another slot: nothing happens */
            ms_index_remove_slot(&index, hash, model[i] - 1);
            model[i] = 0;
        }
    }
    for (uint32_t i = 0; i < 4096; i++) {
        uint64_t hash = (i % 7) | (uint64_t)i << 40 | (uint64_t)(i / 64) << 3;
        struct ms_entry *entry = ms_index_find(&index, hash);

        assert_int_equal(!entry, !model[i]);
        if (entry)
            assert_int_equal(entry->value + 1, model[i]);
    }
    ms_index_free(&index);
}

static void test_index_forgets(void **state)
{
    struct ms_index index;
    uint64_t seed = 7;

    (void)state;
    assert_int_equal(ms_index_init(&index), 0);
    assert_int_equal(ms_index_set_slot(&index, 1, 5), 0);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(ms_index_add_unique(&index, next_random(&seed) | 2, i % 3, (uint32_t)i),
                         0);
    assert_true(index.used > 1000);
    for (uint16_t client = 0; client < 3; client++)
        ms_index_forget_client(&index, client);
    assert_int_equal(index.used, 1);
    assert_non_null(ms_index_find(&index, 1));
    ms_index_free(&index);
}

static void test_offers_are_taken_back(void **state)
{
    struct ms_index index;
    uint64_t seed = 7;

    (void)state;
    assert_int_equal(ms_index_init(&index), 0);
    assert_int_equal(ms_index_set_slot(&index, 98, 1), 0);
    /* What is taken back leaves no trace: the table stays small. */
    for (uint32_t i = 0; i < 200000; i++) {
        uint64_t hash = next_random(&seed);

        assert_int_equal(ms_index_add_unique(&index, hash, 1, i), 0);
        assert_false(ms_index_withdraw(&index, hash, 2, i));
        assert_false(ms_index_withdraw(&index, hash, 1, i + 1));
        if (i >= 100)
            assert_true(ms_index_withdraw(&index, hash, 1, i));
    }
    assert_int_equal(index.used, 101);
    assert_int_equal(index.size, 1024);
    assert_false(ms_index_withdraw(&index, 98, 0, 1)); /* a slot is no offer */
    /* A flood ends at the size the owner allows; slots are never forgotten. */
    index.max_size = 16384;
    for (int i = 0; i < 200000; i++)
        if (ms_index_add_unique(&index, next_random(&seed), 1, 1) < 0)
            assert_true(index.used >= 12288);
    assert_non_null(ms_index_find(&index, 98));
    assert_int_equal(index.size, 16384);
    ms_index_free(&index);
}

static void test_counters(void **state)
{
    static uint32_t model[5000];
    struct ms_refs refs = {0};
    uint64_t seed = 3, total = 0;

    (void)state;
    memset(model, 0, sizeof(model));
    for (int step = 0; step < 100000; step++) {
        uint32_t i = (uint32_t)(next_random(&seed) % 5000);

        if (next_random(&seed) % 2) {
            assert_int_equal(ms_refs_add(&refs, i), 0);
            model[i]++;
            total++;
        } else {
            assert_int_equal(ms_refs_sub(&refs, i), model[i] ? 0 : -ENOENT);
            total -= model[i] > 0;
            model[i] -= model[i] > 0;
        }
    }
    assert_int_equal(refs.total, total);
    for (uint32_t i = 0; i < 5000; i++) {
        assert_int_equal(ms_refs_get(&refs, i), model[i]);
        while (model[i]--)
            assert_int_equal(ms_refs_sub(&refs, i), 0);
    }
    assert_int_equal(refs.total, 0);
    assert_true(refs.bytes < 1000); /* no chunk is left */
    ms_refs_free(&refs);
}

static void test_store_runs_and_holes(void **state)
{
    struct ms_store store;
    uint8_t page[PAGE];
    uint32_t slot;
    struct stat st;

    (void)state;
    memset(page, 1, sizeof(page));
    assert_int_equal(ms_store_init(&store, "runs", 64 * PAGE, false), 0);
    for (uint32_t i = 0; i < 64; i++) {
        ms_store_seek_run(&store, 1);
        assert_int_equal(ms_store_put(&store, page, i, &slot), 0);
        assert_int_equal(slot, i);
    }
    assert_int_equal(ms_store_put(&store, page, 0, &slot), -ENOSPC);
    /* Gaps of 1 and of 8: a run of 8 goes where it fits. */
    for (uint32_t i = 10; i < 11; i++)
        ms_store_unref(&store, i);
    for (uint32_t i = 20; i < 28; i++)
        ms_store_unref(&store, i);
    ms_store_punch(&store);
    assert_int_equal(fstat(store.fd, &st), 0);
    assert_int_equal(st.st_blocks * 512, (64 - 9) * PAGE);
    store.cursor = 0;
    ms_store_seek_run(&store, 8);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(ms_store_put(&store, page, i, &slot), 0);
        assert_int_equal(slot, 20 + i);
    }
    assert_int_equal(ms_store_put(&store, page, 0, &slot), 0);
    assert_int_equal(slot, 10);
    for (uint32_t i = 0; i < 64; i++)
        ms_store_unref(&store, i);
    ms_store_punch(&store);
    assert_int_equal(store.n_slots, 0);
    assert_int_equal(fstat(store.fd, &st), 0);
    assert_int_equal(st.st_blocks, 0);
    ms_store_free(&store);
}

static void test_store_at_random(void **state)
{
    static bool used[500];
    struct ms_store store;
    uint64_t seed = 9;
    uint32_t n_used = 0, slot;

    (void)state;
    memset(used, 0, sizeof(used));
    assert_int_equal(ms_store_init(&store, "random", 500 * PAGE, false), 0);
    for (int step = 0; step < 20000; step++) {
        uint8_t page[PAGE];

        if (next_random(&seed) % 100 < 52) {
            uint64_t number = next_random(&seed);
            int r;

            fill_page(page, number);
            ms_store_seek_run(&store, 1 + (uint32_t)(number % 16));
            r = ms_store_put(&store, page, number, &slot);
            assert_int_equal(r, n_used == 500 ? -ENOSPC : 0);
            if (r < 0)
                continue;
            assert_false(used[slot]);
            used[slot] = true;
            n_used++;
        } else {
            slot = (uint32_t)(next_random(&seed) % 500);
            if (!used[slot])
                continue;
            assert_int_equal(pread(store.fd, page, PAGE, (off_t)slot * PAGE), PAGE);
            assert_true(page_is(page, store.hash[slot]));
            assert_int_equal(ms_store_unref(&store, slot), 0);
            used[slot] = false;
            n_used--;
        }
        assert_int_equal(store.used, n_used);
    }
    ms_store_free(&store);
}

static uint64_t count_mappings(const struct ms_pages *pages)
{
    uint64_t n = 1;

    for (uint64_t p = 1; p < pages->n; p++) {
        uint32_t left = ms_where(pages, p - 1) & ~MS_SPLIT, right = ms_where(pages, p) & ~MS_SPLIT;

        n += ms_kind_of(left) == MS_ANON ? ms_kind_of(right) != MS_ANON : right != left + 1;
    }
    return n;
}

/* Rows hold no memory until they are written, but they never keep others out. */
static void test_store_rows_leave_room(void **state)
{
    struct ms_store store;
    uint8_t page[PAGE] = {1};
    uint32_t first[9], slot, n = 0;

    (void)state;
    assert_int_equal(ms_store_init(&store, "rows", 1000 * PAGE, false), 0);
    while (n < 9 && ms_store_reserve(&store, 64, &first[n]) == 0)
        n++;
    assert_int_equal(n, 500 / 64);
    assert_int_equal(store.used, 0);
    for (uint32_t i = 0; i < 1000 - 64 * n; i++)
        assert_int_equal(ms_store_put(&store, page, i, &slot), 0);
    assert_int_equal(ms_store_put(&store, page, 0, &slot), -ENOSPC);
    ms_store_unreserve(&store, first[0], 64);
    assert_int_equal(store.reserved, 64 * (n - 1));
    assert_int_equal(ms_store_put(&store, page, 0, &slot), 0);
    assert_in_range(slot, first[0], first[0] + 63);
    ms_store_free(&store);
}

static void test_mappings_are_counted(void **state)
{
    struct ms_pages pages;
    uint64_t seed = 5;

    (void)state;
    assert_int_equal(ms_pages_init(&pages, 200), 0);
    for (int step = 0; step < 20000; step++) {
        uint64_t page = next_random(&seed) % 200, n = 1 + next_random(&seed) % 20;
        enum ms_kind kind = (enum ms_kind)(next_random(&seed) % 5);
        int64_t delta;

        if (n > 200 - page)
            n = 200 - page;
        delta = (int64_t)pages.mappings;
        delta += ms_pages_delta(&pages, page, n, kind, (uint32_t)page + 7);
        ms_pages_set(&pages, page, n, kind, (uint32_t)page + 7);
        assert_int_equal(pages.mappings, delta);
        assert_int_equal(pages.mappings, count_mappings(&pages));
        if (kind != MS_ANON)
            ms_pages_set_split(&pages, page);
        assert_int_equal(pages.mappings, count_mappings(&pages));
    }
    ms_pages_set(&pages, 0, 200, MS_ANON, 0);
    assert_int_equal(pages.mappings, 1);
    assert_int_equal(pages.n_shared, 0);
    assert_int_equal(pages.n_old, 0);
    ms_pages_free(&pages);
}

static void test_classes(void **state)
{
    struct ms_pagemap pagemap;
    uint8_t *ram = guest_ram(16);
    uint8_t class[16];
    FILE *file = tmpfile();

    (void)state;
    assert_non_null(file);
    assert_int_equal(ftruncate(fileno(file), 4 * PAGE), 0);
    assert_true(mmap(ram + 8 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                     fileno(file), 0) == ram + 8 * PAGE);
    ram[0] = 1;
    assert_int_equal(*(volatile uint8_t *)(ram + 2 * PAGE), 0); /* the kernel's zero page */
    assert_int_equal(*(volatile uint8_t *)(ram + 8 * PAGE), 0); /* of the file */
    assert_int_equal(*(volatile uint8_t *)(ram + 9 * PAGE), 0);
    ram[9 * PAGE] = 1; /* split */
    for (enum ms_pagemap_allow allow = MS_ALLOW_ENTRIES; allow <= MS_ALLOW_ALL; allow++) {
        assert_int_equal(ms_pagemap_open(&pagemap, ram, 16 * PAGE, allow), 0);
        if (allow < MS_ALLOW_SCAN)
            assert_false(pagemap.has_scan);
        if (allow < MS_ALLOW_ALL)
            assert_int_equal(pagemap.uffd, -1);
        assert_int_equal(ms_pagemap_classify(&pagemap, ram, 16, true, class), 0);
        for (int i = 0; i < 16; i++)
            class[i] &= MS_CLASS_MASK;
        assert_int_equal(class[0], MS_OWN);
        assert_int_equal(class[1], MS_ABSENT);
        assert_int_equal(class[2], MS_ABSENT);
        assert_int_equal(class[8], MS_FILE);
        assert_int_equal(class[9], MS_OWN);
        assert_int_equal(class[15], MS_ABSENT);
        ms_pagemap_close(&pagemap);
    }
    fclose(file);
    munmap(ram - PAGE, 18 * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index_finds_what_is_there),
        cmocka_unit_test(test_index_forgets),
        cmocka_unit_test(test_offers_are_taken_back),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_store_runs_and_holes),
        cmocka_unit_test(test_store_at_random),
        cmocka_unit_test(test_store_rows_leave_room),
        cmocka_unit_test(test_mappings_are_counted),
        cmocka_unit_test(test_classes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
