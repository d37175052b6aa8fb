/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One JSON object holds everything that was measured; the tables (markdown) are printed from it.
 */
#include "tests/bench/memshare/bench.h"

#include <stdio.h>
#include <string.h>

#define MIB (1024.0 * 1024.0)

/* ---- to JSON ---- */

json_t *report_oracle(const struct oracle *oracle, unsigned guests)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "guests", (json_int_t)guests, "pages",
                     (json_int_t)oracle->pages, "zero", (json_int_t)oracle->zero, "non_zero",
                     (json_int_t)oracle->non_zero, "distinct", (json_int_t)oracle->distinct,
                     "possible", (json_int_t)oracle->possible);
}

static json_t *when(const struct when *when)
{
    if (!when->reached)
        return json_null();
    return json_pack("{s:f, s:f}", "seconds", when->seconds, "cpu_seconds", when->cpu_seconds);
}

static json_t *steady(const struct run *run)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < run->n_steady; i++)
        json_array_append_new(all,
                              json_pack("{s:f, s:f}", "changes_per_second", run->steady[i].changes,
                                        "cpu_percent", run->steady[i].cpu_percent));
    return all;
}

json_t *report_run(const struct run *run)
{
    json_t *all = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:o, s:o, s:f, s:f, s:b, s:I, s:o}", "name", run->name,
        "resident_before", (json_int_t)run->resident_before, "resident_after",
        (json_int_t)run->resident_after, "resident_claimed", (json_int_t)run->resident_claimed,
        "possible_pages", (json_int_t)run->possible, "captured_pages_counted",
        (json_int_t)run->captured_counted, "captured", run->captured, "to_goal", when(&run->goal),
        "to_end", when(&run->end), "seconds", run->seconds, "cpu_seconds", run->cpu_seconds,
        "settled", (int)run->settled, "mappings", (json_int_t)run->mappings, "steady", steady(run));

    if (run->pages_to_scan) {
        json_object_set_new(all, "pages_to_scan", json_integer(run->pages_to_scan));
        json_object_set_new(all, "sleep_millisecs", json_integer(run->sleep_ms));
        return all;
    }
    json_object_set_new(all, "index_bytes", json_integer((json_int_t)run->index_bytes));
    json_object_set_new(all, "daemon_bytes", json_integer((json_int_t)run->daemon_bytes));
    json_object_set_new(all, "scanner_bytes", json_integer((json_int_t)run->scanner_bytes));
    json_object_set_new(all, "ledger_cpu_seconds", json_real((double)run->ledger_cpu_ns / 1e9));
    json_object_set_new(all, "freezes", json_integer((json_int_t)run->freezes));
    json_object_set_new(all, "longest_freeze_us", json_real((double)run->longest_freeze_ns / 1e3));
    json_object_set_new(all, "merges", json_integer((json_int_t)run->merges));
    return all;
}

static double cpu_per_page(const struct run *run)
{
    return run->captured > 0 ? run->end.cpu_seconds / (run->captured * (double)run->possible) : 0;
}

static void add_limited(json_t *ratios, const struct run *ours, const struct run *ksm)
{
    if (!ours->goal.reached || !ksm->goal.reached)
        return;
    json_object_set_new(ratios, "seconds_to_goal_at_equal_cpu",
                        json_real(ours->goal.seconds / ksm->goal.seconds));
    json_object_set_new(ratios, "share_ours", json_real(run_share(ours) * 100));
    json_object_set_new(ratios, "share_ksm", json_real(run_share(ksm) * 100));
}

/* Ours against the best of KSM's settings, for each question the one that is best at it. */
json_t *report_ratios(const struct results *results)
{
    const struct run *ours = &results->ours, *again = &results->ksm_steady;
    const struct run *cheapest = NULL, *fastest = NULL;
    json_t *ratios;

    for (unsigned i = 0; i < results->n_ksm; i++) {
        const struct run *ksm = &results->ksm[i];

        if (!ksm->goal.reached)
            continue;
        if (!cheapest || cpu_per_page(ksm) < cpu_per_page(cheapest))
            cheapest = ksm;
        if (!fastest || ksm->goal.seconds < fastest->goal.seconds)
            fastest = ksm;
    }
    if (!cheapest || !ours->goal.reached)
        return json_null();
    ratios = json_pack("{s:f, s:s, s:f, s:s}", "cpu_per_captured_page",
                       cpu_per_page(ours) / cpu_per_page(cheapest), "cheapest_ksm", cheapest->name,
                       "seconds_to_goal", ours->goal.seconds / fastest->goal.seconds, "fastest_ksm",
                       fastest->name);
    add_limited(ratios, &results->limited, &results->ksm_limited);
    if (ours->n_steady && again->n_steady && again->steady[0].cpu_percent > 0) {
        json_object_set_new(ratios, "steady",
                            json_real(ours->steady[0].cpu_percent / again->steady[0].cpu_percent));
        json_object_set_new(ratios, "steady_ksm", json_string(again->name));
    }
    return ratios;
}

/* ---- to tables ---- */

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));

    return value ? value : "";
}

static void print_when(const json_t *when_)
{
    if (json_is_object(when_))
        printf(" %.2f s | %.2f s |", number(when_, "seconds"), number(when_, "cpu_seconds"));
    else
        printf(" - | - |");
}

void report_print_run(const json_t *run)
{
    printf("| %s | %.1f MiB | %.1f MiB | %.1f MiB | %.1f %% |", text(run, "name"),
           number(run, "resident_before") / MIB, number(run, "resident_after") / MIB,
           number(run, "resident_claimed") / MIB, number(run, "captured") * 100);
    print_when(json_object_get(run, "to_goal"));
    print_when(json_object_get(run, "to_end"));
    printf(" %.0f | %.1f MiB |\n", number(run, "mappings"), number(run, "index_bytes") / MIB);
    fflush(stdout);
}

static void begin_runs(void)
{
    printf("\n| | resident | after | as claimed | of possible | to %.2f | CPU | to the end | CPU | "
           "mappings | index |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
           GOAL);
    fflush(stdout);
}

static void print_steady(const json_t *all)
{
    const json_t *run, *one;
    bool head = false;
    size_t i, k;

    json_array_foreach(json_object_get(all, "runs"), i, run)
    {
        json_array_foreach(json_object_get(run, "steady"), k, one)
        {
            if (!head)
                printf("\n| steady, %.0f s each | pages changed | CPU of one core |\n"
                       "|---|---|---|\n",
                       number(all, "steady_seconds"));
            head = true;
            printf("| %s | %.0f/s | %.3f %% |\n", text(run, "name"),
                   number(one, "changes_per_second"), number(one, "cpu_percent"));
        }
    }
}

static void print_ratios(const json_t *all)
{
    const json_t *ratios = json_object_get(all, "ratios");
    const json_t *hash = json_object_get(all, "hash");

    printf("\n");
    if (json_is_object(ratios)) {
        printf("- CPU per captured page, memshare / %s: %.2f\n", text(ratios, "cheapest_ksm"),
               number(ratios, "cpu_per_captured_page"));
        printf("- time to %.2f of what is possible, memshare / %s: %.2f\n", GOAL,
               text(ratios, "fastest_ksm"), number(ratios, "seconds_to_goal"));
        if (json_object_get(ratios, "seconds_to_goal_at_equal_cpu"))
            printf("- the same at an equal share of a core (%.1f %% against ksmd's %.1f %%): "
                   "%.2f\n",
                   number(ratios, "share_ours"), number(ratios, "share_ksm"),
                   number(ratios, "seconds_to_goal_at_equal_cpu"));
        if (json_object_get(ratios, "steady"))
            printf("- CPU of an idle steady state, memshare / %s: %.3f\n",
                   text(ratios, "steady_ksm"), number(ratios, "steady"));
    }
    if (json_is_object(hash))
        printf("- hashing resident pages: %.2f GB/s, %.2f of plain XXH3_64bits\n",
               number(hash, "bytes_per_second") / 1e9, number(hash, "ratio"));
}

void report_begin_flat(void)
{
    printf("\n| guests | resident | after | of possible | pool tables | scanner tables | "
           "CPU a guest | to the end | mappings a guest | idle | changing |\n"
           "|---|---|---|---|---|---|---|---|---|---|---|\n");
}

void report_print_flat(const json_t *row)
{
    const json_t *run = json_object_get(row, "run");
    const json_t *steady_ = json_object_get(run, "steady");
    const json_t *last = json_array_get(steady_, json_array_size(steady_) - 1);
    double n = number(row, "guests"), before = number(run, "resident_before");

    printf("| %.0f | %.0f MiB | %.0f MiB | %.1f %% | %.2f %% | %.2f %% | %.3f s | %.2f s | "
           "%.0f | %.3f %% | %.3f %% at %.0f/s |\n",
           n, before / MIB, number(run, "resident_after") / MIB, number(run, "captured") * 100,
           number(run, "index_bytes") / before * 100, number(run, "scanner_bytes") / before * 100,
           number(run, "cpu_seconds") / n, number(json_object_get(run, "to_end"), "seconds"),
           number(run, "mappings") / n, number(json_array_get(steady_, 0), "cpu_percent"),
           number(last, "cpu_percent"), number(last, "changes_per_second"));
    fflush(stdout);
}

void report_begin(const json_t *all)
{
    const json_t *machine = json_object_get(all, "machine");
    const json_t *content = json_object_get(all, "content");

    printf("# memshare: what page sharing gains and costs\n\n%s, %.0f cores, Linux %s, %s, load "
           "%.1f before.\n",
           text(machine, "cpu"), number(machine, "cores"), text(machine, "kernel"),
           text(machine, "date"), number(machine, "load"));
    if (!json_is_object(content))
        return;
    printf("\n%.0f guests, %.0f pages: %.0f zero, %.0f others, %.0f of those distinct: "
           "sharing can free %.0f pages, %.1f MiB.\n",
           number(content, "guests"), number(content, "pages"), number(content, "zero"),
           number(content, "non_zero"), number(content, "distinct"), number(content, "possible"),
           number(content, "possible") * MS_PAGE_SIZE / MIB);
    begin_runs();
}

void report_end(const json_t *all)
{
    print_steady(all);
    print_ratios(all);
}
