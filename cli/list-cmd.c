/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl list and info.
 */
#include "cli/cli.h"

int cli_list(struct cli *cli, const struct cli_args *args)
{
    static const struct cli_column columns[] = {
        {"name", "NAME", KIND_TEXT},         {"state", "STATE", KIND_TEXT},
        {"engine", "ENGINE", KIND_TEXT},     {"pid", "PID", KIND_PID},
        {"memory", "MEMORY", KIND_SIZE},     {"vcpus", "VCPUS", KIND_NUMBER},
        {"template", "TEMPLATE", KIND_TEXT}, {0},
    };
    struct cli_objects objects;
    json_t *rows;

    (void)args;
    if (cli_objects_get(cli, &objects) < 0)
        return CLI_FAILED;
    rows = json_array();
    for (size_t i = 0; i < objects.n_guests; i++) {
        const struct cli_guest *guest = &objects.guest[i];

        json_array_append_new(
            rows, json_pack("{s:s, s:s, s:s, s:I, s:s, s:I, s:I}", "name", guest->name, "state",
                            guest->state, "engine", guest->engine, "pid", (json_int_t)guest->pid,
                            "template", guest->tmpl, "memory", (json_int_t)guest->memory, "vcpus",
                            (json_int_t)guest->vcpus));
    }
    cli_print_rows(cli, rows, columns);
    json_decref(rows);
    cli_objects_free(&objects);
    return CLI_DONE;
}

static const struct cli_column info_columns[] = {
    {"name", "Name", KIND_TEXT},
    {"state", "State", KIND_TEXT},
    {"reason", "Reason", KIND_TEXT},
    {"engine", "Engine", KIND_TEXT},
    {"pid", "Process", KIND_PID},
    {"template", "Template", KIND_TEXT},
    {"memory", "Memory", KIND_SIZE},
    {"vcpus", "Processors", KIND_NUMBER},
    {"share_group", "Share group", KIND_TEXT},
    {"share_timing", "Share timing", KIND_TEXT},
    {"priority", "Priority", KIND_NUMBER},
    {"cpu_shares", "CPU shares", KIND_NUMBER},
    {"cpu_limit", "CPU limit", KIND_CPU},
    {"cpu_reserve", "CPU reserve", KIND_CPU},
    {"cpu_control", "CPU control", KIND_TEXT},
    {"resident", "Resident", KIND_SIZE},
    {"saved", "Saved", KIND_SIZE},
    {"settled", "Settled", KIND_TEXT},
    {"login", "Login prompt", KIND_TEXT},
    {"device_error", "Device error", KIND_TEXT},
    {"uuid", "UUID", KIND_TEXT},
    {"overlay", "Overlay", KIND_TEXT},
    {"created", "Created", KIND_TIME},
    {"started", "Started", KIND_TIME},
    {"ram_address", NULL, KIND_NUMBER},
    {0},
};

static json_t *info_row(const struct cli_guest *guest)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:I, s:s, s:I, s:I, s:b, s:b, s:s, s:s, "
                     "s:s, s:I, s:I, s:I, s:s, s:i, s:I, s:I, s:I, s:s}",
                     "name", guest->name, "state", guest->state, "reason", guest->reason, "engine",
                     guest->engine, "pid", (json_int_t)guest->pid, "template", guest->tmpl,
                     "memory", (json_int_t)guest->memory, "vcpus", (json_int_t)guest->vcpus,
                     "share_group", guest->share_group, "resident", (json_int_t)guest->resident,
                     "saved", (json_int_t)guest->saved, "settled", (int)guest->settled, "login",
                     (int)guest->login, "device_error", guest->device_error, "uuid", guest->uuid,
                     "overlay", guest->overlay, "created", (json_int_t)guest->created, "started",
                     (json_int_t)guest->started, "ram_address", (json_int_t)guest->ram_address,
                     "share_timing", guest->share_timing, "priority", (int)guest->priority,
                     "cpu_shares", (json_int_t)guest->cpu_shares, "cpu_limit",
                     (json_int_t)guest->cpu_limit, "cpu_reserve", (json_int_t)guest->cpu_reserve,
                     "cpu_control", guest->cpu_control);
}

static json_t *info_row_of(const struct cli_objects *objects, const char *name)
{
    const struct cli_guest *guest = cli_find_guest(objects, name);

    return guest ? info_row(guest) : NULL;
}

int cli_info(struct cli *cli, const struct cli_args *args)
{
    return cli_print_named(cli, args, info_columns, info_row_of);
}
