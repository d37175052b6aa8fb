/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench-memshare: options, and which runs are made. Prints markdown, or one JSON object. Nothing is
 * asserted: figures are for people, and for programs that compare them.
 */
#include "tests/bench/memshare/bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EQUAL_SHARE  10 /* percent of one core, for all guests together */
#define KSM_SLEEP_MS 20
#define FLAT_FIRST   8 /* guests */

struct bench {
    struct options options;
    struct image *image;
    unsigned n_files, flat_guests, flat_mib;
    struct oracle oracle;
    json_t *all, *runs;
    struct results results;
};

static const char usage[] =
    "bench-memshare --images FILE... | --flat GUESTS,MIB  [OPTION...]\n"
    "  --images FILE...   raw RAM images, one guest each\n"
    "  --flat N,MIB       generated images of MIB MiB for 8, 16, ... N guests\n"
    "  --guests N         so many guests: images are repeated, or left out\n"
    "  --ksm              the kernel's KSM on the same content, too (root)\n"
    "  --budget PERCENT   of one core for each scanner (100)\n"
    "  --steady SECONDS   also the cost of a steady state\n"
    "  --changes N        pages that change a second in it (10000)\n"
    "  --zero-resident    zero pages are resident, too\n"
    "  --hide             a pool with MS_TIMING_HIDE\n"
    "  --json             one JSON object\n";

static int fail(const char *what, int r)
{
    fprintf(stderr, "bench-memshare: %s: %s\n", what, strerror(-r));
    return r;
}

/* ---- runs on images ---- */

static void add_run(struct bench *b, const struct run *run)
{
    json_t *report = report_run(run);

    if (!b->options.json)
        report_print_run(report);
    json_array_append_new(b->runs, report);
}

static int ours(struct bench *b, unsigned budget, bool steady, struct run *ret_run)
{
    int r = run_ours(&b->options, b->options.n_images, budget, steady, ret_run);

    if (r < 0)
        return fail(ret_run->name, r);
    add_run(b, ret_run);
    return 0;
}

static int ksm(struct ksm *k, unsigned pages, unsigned sleep_ms, bool steady, struct run *ret_run)
{
    int r = ksm_run(k, pages, sleep_ms, steady, ret_run);

    return r < 0 ? fail(ret_run->name, r) : 0;
}

static int ksm_sweep(struct bench *b, struct ksm *k)
{
    static const unsigned sweep[][2] = {
        {1000, 20}, {5000, 20}, {20000, 20}, {100000, 20}, {100000, 0}};
    int r = 0;

    for (size_t i = 0; i < sizeof(sweep) / sizeof(sweep[0]) && r == 0; i++) {
        struct run *run = &b->results.ksm[b->results.n_ksm];

        r = ksm(k, sweep[i][0], sweep[i][1], false, run);
        if (r == 0) {
            add_run(b, run);
            b->results.n_ksm++;
        }
    }
    return r;
}

/* What KSM costs when all is done, at the setting that is about as fast as we are. */
static int ksm_steady(struct bench *b, struct ksm *k)
{
    const struct run *best = NULL;
    struct run *again = &b->results.ksm_steady;
    double least = 0;
    int r;

    for (unsigned i = 0; i < b->results.n_ksm; i++) {
        const struct run *run = &b->results.ksm[i];
        double apart = run->goal.seconds - b->results.ours.goal.seconds;

        apart = apart < 0 ? -apart : apart;
        if (run->goal.reached && (!best || apart < least)) {
            best = run;
            least = apart;
        }
    }
    if (!best)
        return 0;
    r = ksm(k, best->pages_to_scan, best->sleep_ms, true, again);
    if (r == 0) {
        strncat(again->name, ", again", sizeof(again->name) - strlen(again->name) - 1);
        add_run(b, again);
    }
    return r;
}

/* Finds the pages_to_scan with which ksmd takes the share of a core that we took. */
static int ksm_at_share(struct bench *b, struct ksm *k, double want)
{
    struct run *run = &b->results.ksm_limited;
    unsigned pages = 1500;
    int r = 0;

    for (int i = 0; i < 4; i++) {
        double has;

        r = ksm(k, pages, KSM_SLEEP_MS, false, run);
        has = run_share(run);
        if (r < 0 || has <= 0 || (has > want * 0.9 && has < want * 1.1))
            break;
        pages = (unsigned)(pages * (want / (1 - want)) / (has / (1 - has))) + 1;
    }
    if (r == 0)
        add_run(b, run);
    return r;
}

static int against_ksm(struct bench *b)
{
    unsigned budget = EQUAL_SHARE / b->options.n_images;
    struct ksm *k;
    int r = ksm_open(&k, &b->options);

    if (r < 0)
        return fail("KSM", r);
    json_object_set_new(b->all, "ksm_settings_before", ksm_settings(k));
    r = ksm_sweep(b, k);
    if (r == 0 && b->options.steady)
        r = ksm_steady(b, k);
    if (r == 0)
        r = ours(b, budget ? budget : 1, false, &b->results.limited);
    if (r == 0 && b->results.limited.goal.reached)
        r = ksm_at_share(b, k, run_share(&b->results.limited));
    ksm_close(k);
    json_object_set_new(b->all, "ratios", report_ratios(&b->results));
    return r;
}

static int count(struct bench *b)
{
    int r = image_oracle(b->image, b->options.n_images, b->options.zero_resident, &b->oracle);

    b->options.oracle = &b->oracle;
    return r < 0 ? fail("counting pages", r) : 0;
}

static int on_images(struct bench *b)
{
    double ratio, speed;
    int r = count(b);

    if (r < 0)
        return r;
    json_object_set_new(b->all, "content", report_oracle(&b->oracle, b->options.n_images));
    if (!b->options.json)
        report_begin(b->all);
    r = ours(b, b->options.budget, b->options.steady > 0, &b->results.ours);
    if (r == 0 && b->options.ksm)
        r = against_ksm(b);
    if (r < 0)
        return r;
    r = run_hash(&b->options, &ratio, &speed);
    if (r < 0)
        return fail("hashing", r);
    json_object_set_new(b->all, "hash",
                        json_pack("{s:f, s:f}", "bytes_per_second", speed, "ratio", ratio));
    if (!b->options.json)
        report_end(b->all);
    return 0;
}

/* ---- runs on generated images ---- */

static int on_flat(struct bench *b)
{
    json_t *rows = json_array();
    unsigned n = b->flat_guests < FLAT_FIRST ? b->flat_guests : FLAT_FIRST;
    int r = 0;

    json_object_set_new(b->all, "flat", rows);
    for (unsigned i = 0; i < b->flat_guests; i++)
        image_flat(&b->image[i], (uint64_t)b->flat_mib << 20 >> 12, i);
    if (!b->options.json) {
        if (!b->n_files)
            report_begin(b->all);
        report_begin_flat();
    }
    while (r == 0 && n <= b->flat_guests) {
        struct run run;
        json_t *row;

        b->options.n_images = n;
        r = count(b);
        if (r == 0)
            r = run_ours(&b->options, n, b->options.budget, b->options.steady > 0, &run);
        if (r < 0)
            return fail("generated images", r);
        row = json_pack("{s:I, s:o, s:o}", "guests", (json_int_t)n, "content",
                        report_oracle(&b->oracle, n), "run", report_run(&run));
        if (!b->options.json)
            report_print_flat(row);
        json_array_append_new(rows, row);
        n *= 2;
    }
    return r;
}

/* ---- options ---- */

static int unsigned_option(const char *text, unsigned most, unsigned *ret)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (!*text || *end || value > most)
        return -EINVAL;
    *ret = (unsigned)value;
    return 0;
}

static int open_images(struct bench *b, char **path, unsigned n)
{
    unsigned guests = b->options.limit ? b->options.limit : n;

    for (unsigned i = 0; i < guests; i++) {
        int r = i < n ? image_open(&b->image[i], path[i]) : 0;

        if (r < 0)
            return fail(path[i], r);
        if (i >= n)
            b->image[i] = b->image[i % n];
    }
    b->options.n_images = guests;
    return 0;
}

static int one_option(struct bench *b, int option, const char *value)
{
    switch (option) {
    case 'i': return 0;
    case 'f':
        if (sscanf(value, "%u,%u", &b->flat_guests, &b->flat_mib) != 2 || !b->flat_guests ||
            b->flat_guests > MAX_GUESTS || !b->flat_mib || b->flat_mib > 4096)
            return -EINVAL;
        return 0;
    case 'g': return unsigned_option(value, MAX_GUESTS, &b->options.limit);
    case 'b': return unsigned_option(value, 100, &b->options.budget);
    case 's': return unsigned_option(value, 3600, &b->options.steady);
    case 'c': return unsigned_option(value, 1000000, &b->options.changes);
    case 'k': b->options.ksm = true; return 0;
    case 'z': b->options.zero_resident = true; return 0;
    case 'h': b->options.hide = true; return 0;
    case 'j': b->options.json = true; return 0;
    default: return -EINVAL;
    }
}

static int parse(struct bench *b, int argc, char **argv)
{
    static const struct option options[] = {{"images", no_argument, NULL, 'i'},
                                            {"flat", required_argument, NULL, 'f'},
                                            {"guests", required_argument, NULL, 'g'},
                                            {"ksm", no_argument, NULL, 'k'},
                                            {"budget", required_argument, NULL, 'b'},
                                            {"steady", required_argument, NULL, 's'},
                                            {"changes", required_argument, NULL, 'c'},
                                            {"zero-resident", no_argument, NULL, 'z'},
                                            {"hide", no_argument, NULL, 'h'},
                                            {"json", no_argument, NULL, 'j'},
                                            {NULL, 0, NULL, 0}};
    int option;

    b->options = (struct options){.budget = 100, .changes = 10000, .image = b->image};
    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0)
        if (one_option(b, option, optarg) < 0)
            return -EINVAL;
    b->n_files = (unsigned)(argc - optind);
    if ((!b->n_files && !b->flat_guests) || b->n_files > MAX_GUESTS)
        return -EINVAL;
    return 0;
}

static int run_all(struct bench *b, char **path)
{
    int r = b->n_files ? open_images(b, path, b->n_files) : 0;

    if (r == 0 && b->n_files)
        r = on_images(b);
    if (r == 0 && b->flat_guests)
        r = on_flat(b);
    if (r < 0)
        return r;
    if (b->options.json) {
        json_dumpf(b->all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
        putchar('\n');
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof(*b));
    int r;

    if (!b || !(b->image = calloc(MAX_GUESTS, sizeof(*b->image))))
        return 1;
    if (parse(b, argc, argv) < 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (b->options.ksm && geteuid() != 0) {
        fprintf(stderr, "bench-memshare: only root can drive KSM; without --ksm anybody can run "
                        "the rest\n");
        return 1;
    }
    b->runs = json_array();
    b->all = json_pack("{s:o, s:f, s:I, s:O}", "machine", proc_machine(), "goal", GOAL,
                       "steady_seconds", (json_int_t)b->options.steady, "runs", b->runs);
    r = proc_block_signals();
    if (r == 0)
        r = run_all(b, argv + optind);
    json_decref(b->runs);
    json_decref(b->all);
    free(b->image);
    free(b);
    return r < 0;
}
