/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One run of memshare: load, let the scanners run until nothing is left to do, ask the kernel what
 * is resident now, and then what an idle and a busy steady state cost.
 */
#include "tests/bench/memshare/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ASK_NS       100000000ull
#define CALM_SECONDS 0.5 /* all settled and no progress for so long: done */
#define GIVE_UP      30  /* seconds without progress */
#define LONGEST      400 /* seconds */

struct ours {
    const struct options *options;
    struct ms_pool *pool;
    struct guests guests;
    struct daemon daemon;
    uint64_t daemon_pss_before;
    struct guest_reply reply[MAX_GUESTS];
    struct run run;
};

struct when when_reached(const struct point *point, unsigned n, double pages)
{
    for (unsigned i = 0; i < n; i++)
        if ((double)point[i].captured >= pages)
            return (struct when){
                .reached = true, .seconds = point[i].seconds, .cpu_seconds = point[i].cpu_seconds};
    return (struct when){.reached = false};
}

static uint64_t pool_bytes(const struct ours *o)
{
    struct stat st = {0};
    int fd = ms_pool_guest_fd(o->pool);

    if (fd < 0)
        return 0;
    (void)fstat(fd, &st);
    close(fd);
    return (uint64_t)st.st_blocks * 512;
}

/* Guest RAM as the kernel counts it, and pages of the store that nobody maps. */
static int resident_now(struct ours *o, uint64_t *ret_bytes)
{
    uint64_t pss = 0, mapped = 0, other = 0, mappings = 0, store = pool_bytes(o);

    for (unsigned i = 0; i < o->guests.n; i++) {
        const struct guest *guest = &o->guests.guest[i];
        struct memory memory;
        int r = proc_memory(guest->pid, guest->ram, guest->ram_bytes, &memory);

        if (r < 0)
            return r;
        pss += memory.pss;
        mapped += memory.shmem_pss;
        mappings += memory.mappings;
        other += memory.other_pss > guest->other_pss_before
                     ? memory.other_pss - guest->other_pss_before
                     : 0;
    }
    o->run.mappings = mappings;
    o->run.scanner_bytes = other;
    *ret_bytes = pss + (store > mapped ? store - mapped : 0);
    return 0;
}

/* ---- until nothing is left to do ---- */

struct progress {
    uint64_t captured;
    double at, calm_since;
    bool settled;
};

static double elapsed(const struct ours *o)
{
    return (double)(now_ns(CLOCK_MONOTONIC) - o->daemon.start_ns) / 1e9;
}

static double cpu_now(struct ours *o)
{
    uint64_t ns;

    pthread_mutex_lock(&o->daemon.lock);
    ns = daemon_cpu_ns(&o->daemon);
    pthread_mutex_unlock(&o->daemon.lock);
    return (double)(ns + guests_cpu_ns(&o->guests)) / 1e9;
}

static int look(struct ours *o, struct progress *progress)
{
    struct ms_pool_stats stats;
    uint64_t captured;
    int r = guests_ask(&o->guests, &(struct guest_request){.command = GUEST_COUNTERS}, o->reply);

    if (r < 0)
        return r;
    pthread_mutex_lock(&o->daemon.lock);
    ms_pool_get_stats(o->pool, &stats);
    if (o->daemon.error[0]) {
        fprintf(stderr, "bench-memshare: %s\n", o->daemon.error);
        r = -EPROTO;
    }
    pthread_mutex_unlock(&o->daemon.lock);
    captured = stats.mapped_pages - stats.slots;
    if (captured > progress->captured + o->daemon.step / 4) {
        progress->captured = captured;
        progress->at = elapsed(o);
    }
    progress->settled = true;
    for (unsigned i = 0; i < o->guests.n; i++)
        progress->settled &= o->reply[i].ledger.settled && o->reply[i].ledger.passes >= 2;
    return r;
}

static int until_done(struct ours *o)
{
    struct progress progress = {0};
    double now;
    int r;

    do {
        r = nap_ns(ASK_NS);
        if (r == 0)
            r = look(o, &progress);
        now = elapsed(o);
        if (progress.settled && !o->run.settled) {
            o->run.seconds = now;
            o->run.cpu_seconds = cpu_now(o);
        }
        o->run.settled = progress.settled;
        if (progress.settled && now - progress.at > CALM_SECONDS)
            return r;
    } while (r == 0 && now - progress.at < GIVE_UP && now < LONGEST);
    if (r == 0) {
        o->run.seconds = now;
        o->run.cpu_seconds = cpu_now(o);
    }
    return r;
}

/* ---- what came of it ---- */

static void sum_ledgers(struct ours *o)
{
    struct run *run = &o->run;

    for (unsigned i = 0; i < o->guests.n; i++) {
        const struct ms_ledger *ledger = &o->reply[i].ledger;

        run->resident_claimed += ledger->resident - ms_client_saved(o->daemon.client[i]);
        run->ledger_cpu_ns += ledger->cpu_ns;
        run->freezes += ledger->freezes;
        run->merges += ledger->merges;
        if (ledger->longest_freeze_ns > run->longest_freeze_ns)
            run->longest_freeze_ns = ledger->longest_freeze_ns;
    }
}

/* The pool's counters know nothing of zero pages. */
static double countable(const struct options *options)
{
    const struct oracle *oracle = options->oracle;

    return (double)(oracle->non_zero - oracle->distinct);
}

static int result(struct ours *o)
{
    struct daemon *daemon = &o->daemon;
    struct run *run = &o->run;
    struct ms_pool_stats stats;
    struct memory memory;
    int r = resident_now(o, &run->resident_after);

    if (r == 0)
        r = proc_memory(getpid(), 0, 0, &memory);
    if (r == 0)
        r = guests_ask(&o->guests, &(struct guest_request){.command = GUEST_LEDGER}, o->reply);
    if (r < 0)
        return r;
    run->daemon_bytes =
        memory.other_pss > o->daemon_pss_before ? memory.other_pss - o->daemon_pss_before : 0;
    pthread_mutex_lock(&daemon->lock);
    sum_ledgers(o);
    ms_pool_get_stats(o->pool, &stats);
    run->index_bytes = stats.index_bytes;
    run->captured_counted = stats.mapped_pages - stats.slots;
    run->goal = when_reached(daemon->point, daemon->n_points, GOAL * countable(o->options));
    run->end = when_reached(daemon->point, daemon->n_points,
                            MOST * (double)run->captured_counted - (double)daemon->step);
    pthread_mutex_unlock(&daemon->lock);
    if (run->resident_before > run->resident_after && run->possible)
        run->captured = (double)(run->resident_before - run->resident_after) / MS_PAGE_SIZE /
                        (double)run->possible;
    return 0;
}

static int steady(struct ours *o, unsigned changes)
{
    const struct options *options = o->options;
    struct guest_request request = {.command = changes ? GUEST_CHANGE : GUEST_LEDGER,
                                    .value = changes / o->guests.n,
                                    .seconds = options->steady};
    double start = elapsed(o), cpu = cpu_now(o);
    struct steady *steady = &o->run.steady[o->run.n_steady];
    int r = changes ? 0 : nap_ns((uint64_t)options->steady * 1000000000);

    if (r == 0)
        r = guests_ask(&o->guests, &request, o->reply);
    if (r < 0)
        return r;
    steady->cpu_percent = (cpu_now(o) - cpu) / (elapsed(o) - start) * 100;
    for (unsigned i = 0; changes && i < o->guests.n; i++)
        steady->changes += (double)o->reply[i].changed / options->steady;
    o->run.n_steady++;
    return 0;
}

static int all_steady(struct ours *o)
{
    int r = steady(o, 0);

    if (r == 0 && o->options->changes)
        r = steady(o, o->options->changes / 2);
    if (r == 0 && o->options->changes)
        r = steady(o, o->options->changes);
    return r;
}

/* ---- the run ---- */

static int start(struct ours *o, unsigned n)
{
    const struct options *options = o->options;
    struct memory memory;
    int r = ms_pool_new(&o->pool, "bench", 0, options->hide ? MS_TIMING_HIDE : MS_TIMING_PLAIN);

    if (r == 0)
        r = guests_start(&o->guests, options->image, n, o->pool, options->zero_resident);
    if (r == 0)
        r = resident_now(o, &o->run.resident_before);
    if (r == 0)
        r = proc_memory(getpid(), 0, 0, &memory);
    if (r < 0)
        return r;
    o->daemon_pss_before = memory.other_pss;
    return daemon_start(&o->daemon, o->pool, &o->guests, o->run.possible);
}

int run_ours(const struct options *options, unsigned n, unsigned budget, bool with_steady,
             struct run *ret_run)
{
    struct ours *o = calloc(1, sizeof(*o));
    int r;

    if (!o)
        return -ENOMEM;
    o->options = options;
    o->run.possible = options->oracle->possible;
    snprintf(o->run.name, sizeof(o->run.name), "memshare, budget %u %% a guest", budget);
    r = start(o, n);
    if (r == 0)
        r = guests_ask(&o->guests, &(struct guest_request){.command = GUEST_SCAN, .value = budget},
                       NULL);
    if (r == 0)
        r = until_done(o);
    if (r == 0)
        r = result(o);
    if (r == 0 && with_steady)
        r = all_steady(o);
    daemon_stop(&o->daemon);
    guests_end(&o->guests);
    ms_pool_free(o->pool);
    *ret_run = o->run;
    free(o);
    return r;
}

int run_hash(const struct options *options, double *ret_ratio, double *ret_bytes_per_second)
{
    struct guests *guests = calloc(1, sizeof(*guests));
    struct guest_reply reply;
    int r;

    if (!guests)
        return -ENOMEM;
    r = guests_start(guests, options->image, 1, NULL, false);
    if (r == 0)
        r = guests_ask(guests, &(struct guest_request){.command = GUEST_HASH}, &reply);
    guests_end(guests);
    free(guests);
    if (r < 0 || !reply.ours_ns)
        return r < 0 ? r : -EIO;
    *ret_ratio = (double)reply.plain_ns / (double)reply.ours_ns;
    *ret_bytes_per_second = (double)reply.changed * MS_PAGE_SIZE / (double)reply.ours_ns * 1e9;
    return 0;
}
