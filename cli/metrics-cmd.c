/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl metrics: all figures as OpenMetrics text, for a collector that runs vmctl or reads a file.
 *
 * A family is its TYPE, UNIT and HELP, then all its samples; "# EOF" ends it. The name of a family
 * with a unit ends with that unit; a counter's samples add _total.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void family(const char *name, const char *type, const char *unit, const char *help)
{
    printf("# TYPE %s %s\n", name, type);
    if (unit)
        printf("# UNIT %s %s\n", name, unit);
    printf("# HELP %s %s\n", name, help);
}

/* LABEL="text", with what must be escaped escaped. */
static void label(const char *name, const char *text)
{
    printf("%s=\"", name);
    for (; *text; text++) {
        if (*text == '\\' || *text == '"')
            putchar('\\');
        if (*text == '\n')
            fputs("\\n", stdout);
        else
            putchar(*text);
    }
    putchar('"');
}

static void number(double value)
{
    printf(" %.15g\n", value);
}

/* One family with one sample. */
static void gauge(const char *name, const char *unit, const char *help, double value)
{
    family(name, "gauge", unit, help);
    fputs(name, stdout);
    number(value);
}

/* ---- the host ---- */

static void print_host(const struct cli_manager *manager)
{
    static const char *const levels[] = {"none", "low", "critical"};

    family("vmmd_build", "info", NULL, "The daemon that answered.");
    fputs("vmmd_build_info{", stdout);
    label("version", manager->version);
    putchar(',');
    label("engine", manager->engine);
    puts("} 1");
    gauge("vmmd_host_memory_total_bytes", "bytes",
          "Memory of the host, or the smallest limit of a memory cgroup vmmd is in.",
          (double)manager->total);
    gauge("vmmd_host_memory_available_bytes", "bytes",
          "Memory that vmmd and its guests can still have.", (double)manager->available);
    gauge("vmmd_host_memory_at_risk_bytes", "bytes",
          "Memory that sharing saves and guests may want back at any moment.",
          (double)manager->at_risk);
    gauge("vmmd_host_memory_low_bytes", "bytes",
          "With less available no guest is started and nothing is merged.", (double)manager->low);
    gauge("vmmd_host_memory_critical_bytes", "bytes", "With less available guests are paused.",
          (double)manager->critical);
    family("vmmd_memory_pressure", "stateset", NULL, "How near memory is to its end.");
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        fputs("vmmd_memory_pressure{", stdout);
        label("vmmd_memory_pressure", levels[i]);
        printf("} %d\n", !strcmp(levels[i], manager->pressure));
    }
    gauge("vmmd_scan_budget_ratio", "ratio",
          "Part of one processor core that the search for identical pages may use in each guest.",
          manager->scan_budget / 100.0);
    gauge("vmmd_max_mappings", NULL, "Mappings that the memory of one guest may use.",
          (double)manager->max_mappings);
}

/* ---- guests ---- */

static void print_states(const struct cli_objects *objects)
{
    static const char *const states[] = {"created", "running", "paused", "stopped", "failed"};

    family("vmmd_guest_state", "stateset", NULL, "The state a guest is in.");
    for (size_t i = 0; i < objects->n_guests; i++) {
        for (size_t k = 0; k < sizeof(states) / sizeof(states[0]); k++) {
            fputs("vmmd_guest_state{", stdout);
            label("guest", objects->guest[i].name);
            putchar(',');
            label("vmmd_guest_state", states[k]);
            printf("} %d\n", !strcmp(states[k], objects->guest[i].state));
        }
    }
    family("vmmd_guest_priority", "gauge", NULL,
           "Guests of the lowest priority are paused first when memory is critical.");
    for (size_t i = 0; i < objects->n_guests; i++) {
        fputs("vmmd_guest_priority{", stdout);
        label("guest", objects->guest[i].name);
        printf("} %d\n", (int)objects->guest[i].priority);
    }
}

static const struct {
    const char *property; /* of the ledger */
    const char *name, *type, *unit, *help;
} families[] = {
    {"Nominal", "nominal_bytes", "gauge", "bytes", "What the guest was given."},
    {"Resident", "resident_bytes", "gauge", "bytes", "Guest memory that is present."},
    {"Zero", "zero_bytes", "gauge", "bytes", "Guest memory not backed by memory."},
    {"Lineage", "lineage_bytes", "gauge", "bytes", "Mapped from the memory image of its parent."},
    {"Template", "template_bytes", "gauge", "bytes", "Mapped from the page cache of the template."},
    {"Pool", "pool_bytes", "gauge", "bytes", "Mapped from the pool of shared pages."},
    {"Private", "private_bytes", "gauge", "bytes", "The guest's own."},
    {"Saved", "saved_bytes", "gauge", "bytes", "What sharing saves: Rss less Pss of guest memory."},
    {"Balloon", "balloon_bytes", "gauge", "bytes", "Given back through the balloon."},
    {"Merges", "merged_pages", "counter", "pages", "Pages merged since the guest started."},
    {"Splits", "split_pages", "counter", "pages", "Merged pages that became private again."},
    {"Repacked", "repacked_pages", "counter", "pages", "Pages moved to longer runs."},
    {"Passes", "scanner_passes", "counter", NULL, "Complete passes over guest memory."},
    {"CpuSeconds", "scanner_cpu_seconds", "counter", "seconds", "CPU time of the scanner."},
    {"ProcessCpuSeconds", "cpu_seconds", "counter", "seconds", "CPU time of the guest process."},
    {"Freezes", "freezes", "counter", NULL, "Times the guest was held up to merge."},
    {"LongestFreezeSeconds", "longest_freeze_seconds", "gauge", "seconds", "The longest of them."},
    {"Mappings", "mappings", "gauge", NULL, "Mappings of guest memory."},
    {"MappingsSkipped", "mappings_skipped", "gauge", NULL,
     "Runs of pages not merged for want of mappings."},
    {"Settled", "settled", "gauge", NULL, "1 if nothing new to merge is found."},
};

static const struct cli_ledger_field *find_field(const char *property)
{
    const struct cli_ledger_field *field = cli_ledger_fields;

    while (field->property && strcmp(field->property, property))
        field++;
    return field->property ? field : NULL;
}

static void print_ledgers(const struct cli_ledger *ledgers, size_t n)
{
    for (size_t f = 0; f < sizeof(families) / sizeof(families[0]); f++) {
        const struct cli_ledger_field *field = find_field(families[f].property);
        bool counter = !strcmp(families[f].type, "counter");
        char name[64];

        if (!field)
            continue;
        snprintf(name, sizeof(name), "vmmd_guest_%s", families[f].name);
        family(name, families[f].type, families[f].unit, families[f].help);
        for (size_t i = 0; i < n; i++) {
            printf("%s%s{", name, counter ? "_total" : "");
            label("guest", ledgers[i].name);
            putchar('}');
            number(cli_ledger_number(&ledgers[i], field));
        }
    }
}

int cli_metrics(struct cli *cli, const struct cli_args *args)
{
    struct cli_manager manager;
    struct cli_objects objects;
    struct cli_ledger *ledgers;
    size_t n = 0;

    if (args->value[OPT_FORMAT]) {
        cli_tell("metrics are OpenMetrics text: --format does not go with them");
        return CLI_USAGE;
    }
    if (cli_manager_get(cli, &manager) < 0)
        return CLI_FAILED;
    if (cli_objects_get(cli, &objects) < 0) {
        cli_manager_free(&manager);
        return CLI_FAILED;
    }
    ledgers = cli_ledgers_of(cli, &objects, &n);
    print_host(&manager);
    print_states(&objects);
    print_ledgers(ledgers, n);
    puts("# EOF");
    cli_ledgers_free(ledgers, n);
    cli_objects_free(&objects);
    cli_manager_free(&manager);
    return CLI_DONE;
}
