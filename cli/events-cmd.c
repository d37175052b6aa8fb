/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl events: what happens, one line each, until interrupted.
 *
 * JSON is one object a line, so that a program can read it as it comes.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>

static const struct cli_column columns[] = {
    {"time", "TIME", KIND_TIME},
    {"kind", "KIND", KIND_TEXT},
    {"name", "NAME", KIND_TEXT},
    {"text", "TEXT", KIND_TEXT},
    {0},
};

static void on_event(void *opaque, DBusMessage *signal)
{
    struct cli *cli = opaque;
    const char *kind, *name, *text;
    char time[CLI_TEXT_MAX];
    uint64_t when;
    json_t *row;

    if (!dbus_message_get_args(signal, NULL, DBUS_TYPE_UINT64, &when, DBUS_TYPE_STRING, &kind,
                               DBUS_TYPE_STRING, &name, DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID))
        return;
    row = json_pack("{s:I, s:s, s:s, s:s}", "time", (json_int_t)when, "kind", kind, "name", name,
                    "text", text);
    switch (cli->format) {
    case FORMAT_JSON: cli_print_json(row, JSON_COMPACT); break;
    case FORMAT_CSV: cli_print_csv_row(row, columns); break;
    case FORMAT_TABLE:
        printf("%s  %-16s  %-16s  %s\n", cli_time_text(when, time), kind, name, text);
        break;
    }
    json_decref(row);
    fflush(stdout);
}

int cli_events(struct cli *cli, const struct cli_args *args)
{
    struct bus_error err;
    int r;

    (void)args;
    if (bus_match(cli->bus, CLI_NAME, CLI_ROOT, CLI_MANAGER, "Event", on_event, cli, &err) < 0) {
        cli_tell("%s", err.text);
        return CLI_FAILED;
    }
    if (cli_catch_signals(cli) < 0)
        return CLI_FAILED;
    if (cli->format == FORMAT_CSV)
        cli_print_csv_titles(columns);
    fflush(stdout);
    do {
        r = cli_wait(cli, -1);
    } while (r == 0 && !ferror(stdout));
    return r == -EINTR ? CLI_DONE : CLI_FAILED;
}
