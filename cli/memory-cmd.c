/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl memory: where the memory of guests is, and what sharing it saves.
 *
 * resident is Rss of guest RAM, saved is Rss - Pss of it; the table also shows their difference,
 * which is what a guest costs.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct ledger {
    char *name, *path;
    uint64_t nominal, resident, zero, lineage, tmpl, pool, private, saved;
    uint64_t merges, splits, mappings, mappings_skipped;
    double cpu_seconds;
    dbus_bool_t settled;
};

static const struct {
    const char *property, *key;
    int type;
    size_t offset;
} fields[] = {
    {"Nominal", "nominal", DBUS_TYPE_UINT64, offsetof(struct ledger, nominal)},
    {"Resident", "resident", DBUS_TYPE_UINT64, offsetof(struct ledger, resident)},
    {"Zero", "zero", DBUS_TYPE_UINT64, offsetof(struct ledger, zero)},
    {"Lineage", "lineage", DBUS_TYPE_UINT64, offsetof(struct ledger, lineage)},
    {"Template", "template", DBUS_TYPE_UINT64, offsetof(struct ledger, tmpl)},
    {"Pool", "pool", DBUS_TYPE_UINT64, offsetof(struct ledger, pool)},
    {"Private", "private", DBUS_TYPE_UINT64, offsetof(struct ledger, private)},
    {"Saved", "saved", DBUS_TYPE_UINT64, offsetof(struct ledger, saved)},
    {"Merges", "merges", DBUS_TYPE_UINT64, offsetof(struct ledger, merges)},
    {"Splits", "splits", DBUS_TYPE_UINT64, offsetof(struct ledger, splits)},
    {"CpuSeconds", "cpu_seconds", DBUS_TYPE_DOUBLE, offsetof(struct ledger, cpu_seconds)},
    {"Mappings", "mappings", DBUS_TYPE_UINT64, offsetof(struct ledger, mappings)},
    {"MappingsSkipped", "mappings_skipped", DBUS_TYPE_UINT64,
     offsetof(struct ledger, mappings_skipped)},
    {"Settled", NULL, DBUS_TYPE_BOOLEAN, offsetof(struct ledger, settled)},
};

#define N_FIELDS (sizeof(fields) / sizeof(fields[0]))

static void *place_of(struct ledger *ledger, size_t field)
{
    return (char *)ledger + fields[field].offset;
}

/* ---- asking ---- */

static int get_ledger(struct cli *cli, struct ledger *ledger)
{
    DBusMessageIter iter, dict, value;
    DBusMessage *reply;
    const char *key;
    int r = cli_call(cli, &reply, ledger->path, CLI_GUEST, "GetMemory", DBUS_TYPE_INVALID);

    if (r < 0)
        return r;
    if (!dbus_message_has_signature(reply, "a{sv}")) {
        cli_tell("vmmd answered GetMemory in a way that vmctl does not understand");
        dbus_message_unref(reply);
        return -1;
    }
    dbus_message_iter_init(reply, &iter);
    dbus_message_iter_recurse(&iter, &dict);
    while (bus_dict_next(&dict, &key, &value))
        for (size_t i = 0; i < N_FIELDS; i++)
            if (!strcmp(fields[i].property, key))
                bus_get(&value, fields[i].type, place_of(ledger, i));
    dbus_message_unref(reply);
    return 0;
}

static void free_ledgers(struct ledger *ledger, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(ledger[i].name);
        free(ledger[i].path);
    }
    free(ledger);
}

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
static struct ledger *get_ledgers(struct cli *cli, char *const *names, size_t *ret_n, int *r)
{
    struct ledger *ledgers;
    size_t n = 0;

    while (names[n])
        n++;
    ledgers = calloc(n + 1, sizeof(*ledgers));
    *ret_n = 0;
    for (size_t i = 0; ledgers && i < n; i++) {
        struct ledger *ledger = &ledgers[*ret_n];

        memset(ledger, 0, sizeof(*ledger));
        ledger->path = cli_guest_path(cli, names[i]);
        ledger->name = strdup(names[i]);
        if (ledger->path && ledger->name && get_ledger(cli, ledger) == 0) {
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
        struct ledger *ledgers;
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
        free_ledgers(ledgers, n);
        if (!all && r == 0 && cli_wait(cli, cli_now_ms() + 1000) == -ECONNRESET)
            r = -1;
    }
    cli_watch_end(&watch);
    return r;
}

/* ---- showing ---- */

static json_t *ledger_row(const struct ledger *ledger, bool named)
{
    json_t *row = json_object();

    if (named)
        json_object_set_new(row, "name", json_string(ledger->name));
    for (size_t i = 0; i < N_FIELDS; i++) {
        void *place = place_of((struct ledger *)ledger, i);

        if (!fields[i].key)
            continue;
        json_object_set_new(row, fields[i].key,
                            fields[i].type == DBUS_TYPE_DOUBLE
                                ? json_real(*(double *)place)
                                : json_integer((json_int_t) * (uint64_t *)place));
    }
    return row;
}

static struct ledger sum_up(const struct ledger *ledgers, size_t n)
{
    struct ledger total = {.name = (char *)"total"};

    for (size_t i = 0; i < n; i++) {
        for (size_t f = 0; f < N_FIELDS; f++) {
            void *to = place_of(&total, f);
            const void *from = place_of((struct ledger *)&ledgers[i], f);

            if (fields[f].type == DBUS_TYPE_UINT64)
                *(uint64_t *)to += *(const uint64_t *)from;
            else if (fields[f].type == DBUS_TYPE_DOUBLE)
                *(double *)to += *(const double *)from;
        }
    }
    return total;
}

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
    {0},
};

static void add_cost(json_t *row)
{
    json_int_t resident = json_integer_value(json_object_get(row, "resident"));
    json_int_t saved = json_integer_value(json_object_get(row, "saved"));

    json_object_set_new(row, "cost", json_integer(resident > saved ? resident - saved : 0));
}

static void show(const struct cli *cli, const struct ledger *ledgers, size_t n)
{
    struct ledger total = sum_up(ledgers, n);
    json_t *rows = json_array(), *row, *all;
    size_t i;

    for (i = 0; i < n; i++)
        json_array_append_new(rows, ledger_row(&ledgers[i], true));
    if (cli->format == FORMAT_JSON) {
        all = json_pack("{s:O, s:o}", "guests", rows, "total", ledger_row(&total, false));
        cli_print_json(all, JSON_INDENT(2));
        json_decref(all);
    } else {
        json_array_append_new(rows, ledger_row(&total, true));
        json_array_foreach(rows, i, row)
        {
            add_cost(row);
        }
        cli_print_rows(cli, rows, columns);
    }
    json_decref(rows);
}

int cli_memory(struct cli *cli, const struct cli_args *args)
{
    struct ledger *ledgers;
    uint64_t timeout;
    char **names;
    size_t n = 0;
    int r = 0;

    if (cli_number(args, OPT_TIMEOUT, 1u << 30, 0, &timeout) < 0)
        return CLI_USAGE;
    names = choose(cli, args);
    if (!names)
        return CLI_FAILED;
    if (args->value[OPT_SETTLE])
        r = settle(cli, names, timeout);
    ledgers = get_ledgers(cli, names, &n, &r);
    if (ledgers && (n || !args->n_names))
        show(cli, ledgers, n);
    free_ledgers(ledgers, n);
    cli_names_free(names);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}
