/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything collides: memshare built with a hash of four bits. A hash is only a hint, so pages may
 * be missed, but no byte may go wrong.
 */
#define MS_WEAK_HASH
#include "memshare/blocks.c"
#include "memshare/budget.c"
#include "memshare/fan.c"
#include "memshare/hints.c"
#include "memshare/index.c"
#include "memshare/ledger.c"
#include "memshare/link.c"
#include "memshare/merge.c"
#include "memshare/offers.c"
#include "memshare/pagemap.c"
#include "memshare/pages.c"
#include "memshare/pool.c"
#include "memshare/refs.c"
#include "memshare/repack.c"
#include "memshare/scan.c"
#include "memshare/scanner.c"
#include "memshare/serve.c"
#include "memshare/store.c"

#include "tests/unit/test-memshare-stress.h"

static void test_nothing_goes_wrong(void **state)
{
    const uint64_t n = 2048;
    static struct stress s[2];
    struct rig rig;
    struct disk disk;
    struct timespec run = {.tv_sec = stress_seconds() < 3 ? 1 : stress_seconds() / 3};
    uint64_t merges = 0;

    (void)state;
    disk_init(&disk, STRESS_DISK, 5000);
    assert_true(disk.hash[0] < 16);
    rig_start(&rig);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(stress_init(&s[i], n, (uint64_t)i + 20), 0);
        guest_start(&s[i].guest, &disk.tmpl, 0, true);
        guest_connect(&s[i].guest, &rig, i, STRESS_DISK);
        stress_start(&s[i]);
    }
    nanosleep(&run, NULL);
    for (int i = 0; i < 2; i++) {
        stress_stop(&s[i]);
        WAIT_FOR(guest_ledger(&s[i].guest).settled);
        assert_int_equal(stress_wrong(&s[i]), 0);
        assert_int_equal(rig.error[i], 0);
        merges += guest_ledger(&s[i].guest).merges;
    }
    assert_true(merges > 0);
    assert_true(rig_stats(&rig).slots <= 16);
    for (int i = 0; i < 2; i++)
        stress_end(&s[i]);
    rig_end(&rig);
    disk_end(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing_goes_wrong)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
