/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl memory --history: the last hour of guests, or of all together.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIGNATURE "a(tttttt)"

static const struct cli_column columns[] = {
    {"name", "NAME", KIND_TEXT},
    {"time", "TIME", KIND_TIME},
    {"resident", "RESIDENT", KIND_SIZE},
    {"saved", "SAVED", KIND_SIZE},
    {"cost", "COST", KIND_SIZE},
    {"cpu_seconds", "CPU", KIND_SECONDS},
    {"merges", "MERGES", KIND_NUMBER},
    {"splits", "SPLITS", KIND_NUMBER},
    {0},
};

struct sample {
    uint64_t time, resident, saved, cpu_ns, merges, splits;
};

static json_t *sample_row(const char *name, const struct sample *sample)
{
    uint64_t cost = sample->resident > sample->saved ? sample->resident - sample->saved : 0;

    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:I, s:I}", "name", name, "time",
                     (json_int_t)sample->time, "resident", (json_int_t)sample->resident, "saved",
                     (json_int_t)sample->saved, "cost", (json_int_t)cost, "cpu_seconds",
                     (double)sample->cpu_ns / 1e9, "merges", (json_int_t)sample->merges, "splits",
                     (json_int_t)sample->splits);
}

static void read_sample(DBusMessageIter *entry, struct sample *sample)
{
    uint64_t *const fields[] = {&sample->time,   &sample->resident, &sample->saved,
                                &sample->cpu_ns, &sample->merges,   &sample->splits};
    DBusMessageIter iter;

    dbus_message_iter_recurse(entry, &iter);
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        bus_get(&iter, DBUS_TYPE_UINT64, fields[i]);
        dbus_message_iter_next(&iter);
    }
}

/* Adds the rows of one object. */
static int get_rows(struct cli *cli, const char *name, const char *path, const char *interface,
                    json_t *rows)
{
    DBusMessageIter iter, array;
    DBusMessage *reply;

    if (cli_call(cli, &reply, path, interface, "GetMemoryHistory", DBUS_TYPE_INVALID) < 0)
        return -1;
    if (!dbus_message_has_signature(reply, SIGNATURE)) {
        cli_tell("vmmd answered GetMemoryHistory in a way that vmctl does not understand");
        dbus_message_unref(reply);
        return -1;
    }
    dbus_message_iter_init(reply, &iter);
    for (dbus_message_iter_recurse(&iter, &array);
         dbus_message_iter_get_arg_type(&array) == DBUS_TYPE_STRUCT;
         dbus_message_iter_next(&array)) {
        struct sample sample = {0};

        read_sample(&array, &sample);
        json_array_append_new(rows, sample_row(name, &sample));
    }
    dbus_message_unref(reply);
    return 0;
}

/* One line for the rows from `first` on: they are of one name. */
static void print_sparkline(const json_t *rows, size_t first, size_t n, const char *key,
                            const char *title)
{
    double *values = calloc(n, sizeof(*values)), top = 0;
    int width, lines;
    char text[CLI_TEXT_MAX], *line = NULL;

    cli_terminal_size(&width, &lines);
    width = width > 40 ? width - 30 : 10;
    for (size_t i = 0; values && i < n; i++) {
        values[i] = json_number_value(json_object_get(json_array_get(rows, first + i), key));
        top = values[i] > top ? values[i] : top;
    }
    if (values)
        line = cli_sparkline(values, n, width, cli_is_utf8());
    if (line)
        printf("%-9s %s  up to %s\n", title, line, cli_size_text((uint64_t)top, text));
    free(line);
    free(values);
}

static void print_sparklines(const json_t *rows)
{
    size_t n = json_array_size(rows), first = 0;

    for (size_t i = 1; i <= n; i++) {
        const json_t *name = json_object_get(json_array_get(rows, first), "name");

        if (i < n && json_equal(name, json_object_get(json_array_get(rows, i), "name")))
            continue;
        printf("\n%s\n", json_string_value(name));
        print_sparkline(rows, first, i - first, "resident", "resident");
        print_sparkline(rows, first, i - first, "saved", "saved");
        print_sparkline(rows, first, i - first, "cost", "cost");
        first = i;
    }
}

int cli_history(struct cli *cli, const struct cli_args *args)
{
    json_t *rows = json_array();
    int status = CLI_DONE;

    if (!args->n_names && get_rows(cli, "total", CLI_ROOT, CLI_MANAGER, rows) < 0)
        status = CLI_FAILED;
    for (int i = 0; i < args->n_names; i++) {
        char *path = cli_guest_path(cli, args->name[i]);

        if (!path || get_rows(cli, args->name[i], path, CLI_GUEST, rows) < 0)
            status = CLI_FAILED;
        free(path);
    }
    if (status == CLI_DONE || json_array_size(rows))
        cli_print_rows(cli, rows, columns);
    if (cli->format == FORMAT_TABLE && isatty(STDOUT_FILENO))
        print_sparklines(rows);
    json_decref(rows);
    return status;
}
