/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl memory: where the memory of guests is, and what sharing it saves.
 *
 * resident is Rss of guest RAM, saved is Rss - Pss of it; the table also shows their difference,
 * which is what a guest costs.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_MAX 60

/* ---- asking ---- */

/* Names of all guests that run, or those asked for; an array that ends with NULL. */
static char **choose(struct cli *cli, const struct cli_args *args)
{
    struct cli_objects objects;
    char **names;
    size_t n = 0;

    if (cli_objects_get(cli, &objects) < 0)
        return NULL;
    names = calloc(objects.n_guests + (size_t)args->n_names + 1, sizeof(*names));
    for (int i = 0; names && i < args->n_names; i++)
        names[n++] = strdup(args->name[i]);
    for (size_t i = 0; names && !args->n_names && i < objects.n_guests; i++)
        if (cli_guest_is_up(&objects.guest[i]))
            names[n++] = strdup(objects.guest[i].name);
    cli_objects_free(&objects);
    return names;
}

/* The ledgers of these guests; those that cannot be had are told and left out. */
static struct cli_ledger *get_ledgers(struct cli *cli, char *const *names, size_t *ret_n, int *r)
{
    struct cli_ledger *ledgers;
    size_t n = 0;

    while (names[n])
        n++;
    ledgers = calloc(n + 1, sizeof(*ledgers));
    *ret_n = 0;
    for (size_t i = 0; ledgers && i < n; i++) {
        struct cli_ledger *ledger = &ledgers[*ret_n];

        memset(ledger, 0, sizeof(*ledger));
        ledger->path = cli_guest_path(cli, names[i]);
        ledger->name = strdup(names[i]);
        if (ledger->path && ledger->name && cli_ledger_get(cli, ledger, false) == 0) {
            (*ret_n)++;
            continue;
        }
        free(ledger->path);
        free(ledger->name);
        *r = -1;
    }
    return ledgers;
}

/* ---- settling ---- */

static int is_settled(const struct cli_watched *guest, void *opaque)
{
    (void)opaque;
    if (guest->settled)
        return 1;
    if (!cli_is_stopped(guest, NULL))
        return 0;
    cli_tell("%s does not run", guest->name);
    return -1;
}

/* A guest that settles may unsettle others by what it shares: all must be settled at once, by what
 * they say now and not by a property that may be a second old. */
static int settle(struct cli *cli, char *const *names, uint64_t timeout_s)
{
    int64_t deadline = cli_now_ms() + (int64_t)timeout_s * 1000;
    struct cli_watch watch;
    int r = cli_watch_start(cli, &watch, names);
    bool all = false;

    while (r == 0 && !all) {
        int64_t left_s = (deadline - cli_now_ms() + 999) / 1000;
        struct cli_ledger *ledgers;
        size_t n;

        if (timeout_s && left_s <= 0) {
            cli_tell("not all guests have settled after %llu s", (unsigned long long)timeout_s);
            r = -1;
            break;
        }
        r = cli_watch_wait(&watch, is_settled, NULL, "settled", timeout_s ? (uint64_t)left_s : 0,
                           "");
        if (r < 0)
            break;
        ledgers = get_ledgers(cli, names, &n, &r);
        all = true;
        for (size_t i = 0; ledgers && i < n; i++)
            all = all && ledgers[i].settled;
        cli_ledgers_free(ledgers, n);
        if (!all && r == 0 && cli_wait(cli, cli_now_ms() + 1000) == -ECONNRESET)
            r = -1;
    }
    cli_watch_end(&watch);
    return r;
}

/* ---- showing ---- */

static const struct cli_column columns[] = {
    {"name", "NAME", KIND_TEXT},
    {"nominal", "NOMINAL", KIND_SIZE},
    {"resident", "RESIDENT", KIND_SIZE},
    {"zero", NULL, KIND_SIZE},
    {"lineage", NULL, KIND_SIZE},
    {"template", "TEMPLATE", KIND_SIZE},
    {"pool", "POOL", KIND_SIZE},
    {"private", "PRIVATE", KIND_SIZE},
    {"saved", "SAVED", KIND_SIZE},
    {"cost", "COST", KIND_SIZE},
    {"merges", "MERGES", KIND_NUMBER},
    {"splits", "SPLITS", KIND_NUMBER},
    {"cpu_seconds", "CPU", KIND_SECONDS},
    {"mappings", "MAPPINGS", KIND_NUMBER},
    {"mappings_skipped", NULL, KIND_NUMBER},
    {"repacked", NULL, KIND_NUMBER},
    {"passes", NULL, KIND_NUMBER},
    {"freezes", NULL, KIND_NUMBER},
    {"longest_freeze_seconds", NULL, KIND_SECONDS},
    {"process_cpu_seconds", NULL, KIND_SECONDS},
    {"balloon", NULL, KIND_SIZE},
    {0},
};

static void add_cost(json_t *row)
{
    json_int_t resident = json_integer_value(json_object_get(row, "resident"));
    json_int_t saved = json_integer_value(json_object_get(row, "saved"));

    json_object_set_new(row, "cost", json_integer(resident > saved ? resident - saved : 0));
}

/* What of each guest is private, shared and zero, for people who look at a terminal. */
static void show_bars(const struct cli_ledger *ledgers, size_t n)
{
    bool utf8 = cli_is_utf8();
    int columns_there, lines, width, longest = 0;

    for (size_t i = 0; i < n; i++)
        if ((int)strlen(ledgers[i].name) > longest)
            longest = (int)strlen(ledgers[i].name);
    cli_terminal_size(&columns_there, &lines);
    width = columns_there - longest - 2;
    width = width > BAR_MAX ? BAR_MAX : width < 10 ? 10 : width;
    putchar('\n');
    for (size_t i = 0; i < n; i++) {
        char *bar = cli_bar(&ledgers[i], width, utf8);

        printf("%-*s  %s\n", longest, ledgers[i].name, bar ? bar : "");
        free(bar);
    }
    printf("%*s  ", longest, "");
    cli_print_legend(utf8);
}

static void show(const struct cli *cli, const struct cli_ledger *ledgers, size_t n)
{
    struct cli_ledger total = cli_ledger_total(ledgers, n);
    json_t *rows = json_array(), *row, *all;
    size_t i;

    for (i = 0; i < n; i++)
        json_array_append_new(rows, cli_ledger_row(&ledgers[i], true));
    if (cli->format == FORMAT_JSON) {
        all = json_pack("{s:O, s:o}", "guests", rows, "total", cli_ledger_row(&total, false));
        cli_print_json(all, JSON_INDENT(2));
        json_decref(all);
    } else {
        json_array_append_new(rows, cli_ledger_row(&total, true));
        json_array_foreach(rows, i, row)
        {
            add_cost(row);
        }
        cli_print_rows(cli, rows, columns);
        if (cli->format == FORMAT_TABLE && n && isatty(STDOUT_FILENO))
            show_bars(ledgers, n);
    }
    json_decref(rows);
}

int cli_memory(struct cli *cli, const struct cli_args *args)
{
    struct cli_ledger *ledgers;
    uint64_t timeout;
    char **names;
    size_t n = 0;
    int r = 0;

    if (cli_number(args, OPT_TIMEOUT, 1u << 30, 0, &timeout) < 0)
        return CLI_USAGE;
    if (args->value[OPT_HISTORY]) {
        if (!args->value[OPT_SETTLE])
            return cli_history(cli, args);
        cli_tell("--history does not go with --settle");
        return CLI_USAGE;
    }
    names = choose(cli, args);
    if (!names)
        return CLI_FAILED;
    if (args->value[OPT_SETTLE])
        r = settle(cli, names, timeout);
    ledgers = get_ledgers(cli, names, &n, &r);
    if (ledgers && (n || !args->n_names))
        show(cli, ledgers, n);
    cli_ledgers_free(ledgers, n);
    cli_names_free(names);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}
