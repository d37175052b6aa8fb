/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything merges and splits under threads that check every page: not one wrong byte.
 *
 * Once with three guest processes and a pool in this one, once with two guests in this process
 * whose daemon dies and comes back. MS_STRESS_SECONDS sets how long the first runs (default 5); the
 * second takes a third of that.
 */
#include "tests/unit/test-memshare-stress.h"

#include <sys/wait.h>

#define GUESTS 3
#define PAGES  4096

struct report {
    uint64_t wrong, steps, merges, splits, longest_freeze_ns;
    uint64_t pss_busy, pss_idle;
    uint64_t merged; /* it came to that */
};

/* ---- three processes ---- */

/* Pages that changed all the time come back slowly: settled, and most of RAM shared. */
static bool wait_merged(struct guest *guest, uint64_t busy)
{
    for (int i = 0; i < WAIT_SECONDS * 10; i++) {
        struct ms_ledger ledger;
        struct timespec nap = {.tv_nsec = 100000000};

        if (ms_scanner_ledger(guest->scanner, &ledger) < 0)
            return false;
        if (ledger.settled && smaps_of(guest->ram, guest->n * PAGE).pss * 2 < busy)
            return true;
        nanosleep(&nap, NULL);
    }
    return false;
}

static void run_guest(int sock, int pool_fd, const struct ms_template *tmpl, uint64_t seed,
                      unsigned seconds, int report_fd)
{
    struct report report = {0};
    struct timespec run = {.tv_sec = seconds};
    struct ms_ledger ledger = {0};
    struct stress s;

    if (stress_init(&s, PAGES, seed) < 0)
        _exit(2);
    guest_start(&s.guest, tmpl, 2000, (enum ms_pagemap_allow)(seed % 3));
    if (ms_scanner_connect(s.guest.scanner, sock, pool_fd) < 0)
        _exit(2);
    stress_start(&s);
    nanosleep(&run, NULL);
    stress_stop(&s);
    report.wrong = stress_wrong(&s);
    /* Idle now, with content that all guests have. */
    pthread_rwlock_rdlock(&s.guest.lock);
    stress_fill(&s.mutator[0], 0, PAGES, 0);
    stress_note(&s.mutator[0], 0, PAGES);
    pthread_rwlock_unlock(&s.guest.lock);
    report.pss_busy = smaps_of(s.guest.ram, PAGES * PAGE).pss;
    report.merged = wait_merged(&s.guest, report.pss_busy);
    report.pss_idle = smaps_of(s.guest.ram, PAGES * PAGE).pss;
    report.wrong += stress_wrong(&s);
    ms_scanner_ledger(s.guest.scanner, &ledger);
    report.merges = ledger.merges;
    report.splits = ledger.splits;
    report.longest_freeze_ns = atomic_load(&s.guest.scanner->longest_freeze_ns);
    for (int i = 0; i < MUTATORS; i++)
        report.steps += atomic_load(&s.mutator[i].steps);
    if (write(report_fd, &report, sizeof(report)) != sizeof(report))
        _exit(3);
    pause(); /* so that what it maps is shared until all have reported */
    _exit(0);
}

struct process {
    pid_t pid;
    int report_fd;
    struct ms_client *client;
};

static void spawn_guest(struct ms_pool *pool, struct process *process, struct disk *disk,
                        uint64_t seed, unsigned seconds)
{
    int pair[2], report[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(pipe(report), 0);
    fflush(NULL);
    process->pid = fork();
    assert_true(process->pid >= 0);
    if (process->pid == 0) {
        close(pair[0]);
        run_guest(pair[1], ms_pool_guest_fd(pool), &disk->tmpl, seed, seconds, report[1]);
    }
    close(pair[1]);
    close(report[1]);
    process->report_fd = report[0];
    assert_int_equal(ms_pool_attach(pool, pair[0], "disk", STRESS_DISK, &process->client), 0);
}

/* Serves until every guest has reported. */
static void serve_guests(struct process *process, struct report *report)
{
    int left = GUESTS;

    while (left) {
        struct pollfd fds[2 * GUESTS];

        for (int i = 0; i < GUESTS; i++) {
            fds[i] = (struct pollfd){.fd = ms_client_fd(process[i].client), .events = POLLIN};
            fds[GUESTS + i] = (struct pollfd){.fd = process[i].report_fd, .events = POLLIN};
        }
        assert_true(poll(fds, 2 * GUESTS, -1) > 0);
        for (int i = 0; i < GUESTS; i++) {
            if (fds[i].revents && ms_client_serve(process[i].client) < 0)
                fail_msg("guest %d was cut off: %s", i, ms_client_error(process[i].client));
            if (!fds[GUESTS + i].revents)
                continue;
            assert_int_equal(read(process[i].report_fd, &report[i], sizeof(report[i])),
                             sizeof(report[i]));
            close(process[i].report_fd);
            process[i].report_fd = -1;
            left--;
        }
    }
}

static void test_three_processes(void **state)
{
    struct process process[GUESTS];
    struct report report[GUESTS], sum = {0};
    struct ms_pool_stats stats;
    struct ms_pool *pool;
    struct disk disk;
    uint64_t first_pss = 0;

    (void)state;
    disk_init(&disk, STRESS_DISK, 5000);
    assert_int_equal(ms_pool_new(&pool, "stress", 0, MS_TIMING_PLAIN), 0);
    for (int i = 0; i < GUESTS; i++)
        spawn_guest(pool, &process[i], &disk, (uint64_t)i + 1, stress_seconds());
    serve_guests(process, report);
    for (int i = 0; i < GUESTS; i++) {
        sum.wrong += report[i].wrong;
        sum.merged += report[i].merged;
        sum.steps += report[i].steps;
        sum.merges += report[i].merges;
        sum.splits += report[i].splits;
        sum.pss_busy += report[i].pss_busy;
        sum.pss_idle += report[i].pss_idle;
        if (report[i].longest_freeze_ns > sum.longest_freeze_ns)
            sum.longest_freeze_ns = report[i].longest_freeze_ns;
        first_pss = PAGES * PAGE;
    }
    ms_pool_get_stats(pool, &stats);
    print_message(
        "steps %llu merges %llu splits %llu longest freeze %llu us; Pss %llu -> %llu KiB, "
        "one guest alone %llu KiB; %llu slots\n",
        (unsigned long long)sum.steps, (unsigned long long)sum.merges,
        (unsigned long long)sum.splits, (unsigned long long)sum.longest_freeze_ns / 1000,
        (unsigned long long)sum.pss_busy / 1024, (unsigned long long)sum.pss_idle / 1024,
        (unsigned long long)first_pss / 1024, (unsigned long long)stats.slots);
    assert_int_equal(sum.wrong, 0);
    assert_int_equal(sum.merged, GUESTS);
    assert_true(sum.merges > 0 && sum.splits > 0);
    for (int i = 0; i < GUESTS; i++) {
        kill(process[i].pid, SIGKILL);
        assert_int_equal(waitpid(process[i].pid, NULL, 0), process[i].pid);
        ms_client_detach(process[i].client);
    }
    ms_pool_get_stats(pool, &stats);
    assert_int_equal(stats.slots, 0);
    assert_int_equal(stats.mapped_pages, 0);
    ms_pool_free(pool);
    disk_end(&disk);
}

/* ---- daemons that come and go ---- */

static void test_daemon_comes_and_goes(void **state)
{
    static struct stress s[2];
    struct rig rig;
    struct disk disk;
    time_t end = time(NULL) + stress_seconds() / 3 + 1;

    (void)state;
    disk_init(&disk, STRESS_DISK, 5000);
    rig_start(&rig);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(stress_init(&s[i], PAGES, (uint64_t)i + 10), 0);
        guest_start(&s[i].guest, &disk.tmpl, 2000, MS_ALLOW_ALL);
        guest_connect(&s[i].guest, &rig, i, STRESS_DISK);
        stress_start(&s[i]);
    }
    /* A scanner keeps up to eight earlier stores that it still maps; how fast it leaves them
     * depends on the machine. */
    for (int round = 0; round < 7 && time(NULL) < end; round++) {
        WAIT_FOR(rig_stats(&rig).slots > 20 || time(NULL) >= end);
        rig_die(&rig);
        rig_start(&rig);
        for (int i = 0; i < 2; i++)
            guest_connect(&s[i].guest, &rig, i, STRESS_DISK);
    }
    WAIT_FOR(time(NULL) >= end);
    for (int i = 0; i < 2; i++) {
        stress_stop(&s[i]);
        assert_int_equal(stress_wrong(&s[i]), 0);
        assert_int_equal(rig.error[i], 0);
    }
    for (int i = 0; i < 2; i++)
        stress_end(&s[i]);
    rig_end(&rig);
    disk_end(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_processes),
        cmocka_unit_test(test_daemon_comes_and_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
