/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl host: what vmmd found out about its host.
 */
#include "cli/cli.h"

#include <stdio.h>

/* One (ssbs). */
static json_t *read_feature(DBusMessageIter *array)
{
    DBusMessageIter item;
    const char *name, *value, *cost;
    dbus_bool_t good;

    dbus_message_iter_recurse(array, &item);
    if (!bus_get(&item, DBUS_TYPE_STRING, &name) || !dbus_message_iter_next(&item) ||
        !bus_get(&item, DBUS_TYPE_STRING, &value) || !dbus_message_iter_next(&item) ||
        !bus_get(&item, DBUS_TYPE_BOOLEAN, &good) || !dbus_message_iter_next(&item) ||
        !bus_get(&item, DBUS_TYPE_STRING, &cost))
        return NULL;
    return json_pack("{s:s, s:s, s:b, s:s}", "feature", name, "value", value, "good", (int)good,
                     "cost", cost);
}

static json_t *read_features(DBusMessage *reply)
{
    json_t *rows = json_array(), *row;
    DBusMessageIter iter, value, array;

    if (!dbus_message_has_signature(reply, "v") || !dbus_message_iter_init(reply, &iter))
        return rows;
    dbus_message_iter_recurse(&iter, &value);
    if (dbus_message_iter_get_arg_type(&value) != DBUS_TYPE_ARRAY)
        return rows;
    dbus_message_iter_recurse(&value, &array);
    while (dbus_message_iter_get_arg_type(&array) == DBUS_TYPE_STRUCT) {
        row = read_feature(&array);
        if (row)
            json_array_append_new(rows, row);
        dbus_message_iter_next(&array);
    }
    return rows;
}

static int get_features(struct cli *cli, json_t **ret_rows)
{
    const char *interface = CLI_MANAGER, *property = "HostFeatures";
    DBusMessage *reply;
    int r = cli_call(cli, &reply, CLI_ROOT, DBUS_INTERFACE_PROPERTIES, "Get", DBUS_TYPE_STRING,
                     &interface, DBUS_TYPE_STRING, &property, DBUS_TYPE_INVALID);

    if (r < 0)
        return r;
    *ret_rows = read_features(reply);
    dbus_message_unref(reply);
    return 0;
}

int cli_host(struct cli *cli, const struct cli_args *args)
{
    static const struct cli_column columns[] = {
        {"feature", "FEATURE", KIND_TEXT},
        {"value", "VALUE", KIND_TEXT},
        {"good", NULL, KIND_TEXT},
        {"cost", "WHAT IT COSTS", KIND_TEXT},
        {0},
    };
    struct cli_manager manager;
    json_t *rows, *all;

    (void)args;
    if (cli_manager_get(cli, &manager) < 0)
        return CLI_FAILED;
    if (get_features(cli, &rows) < 0) {
        cli_manager_free(&manager);
        return CLI_FAILED;
    }
    if (cli->format == FORMAT_JSON) {
        all = json_pack("{s:s, s:s, s:s, s:s, s:O}", "version", manager.version, "engine",
                        manager.engine, "reason", manager.engine_reason, "host", manager.host,
                        "features", rows);
        cli_print_json(all, JSON_INDENT(2));
        json_decref(all);
    } else {
        if (cli->format == FORMAT_TABLE)
            printf("Engine  %s\nReason  %s\nHost    %s\n\n", manager.engine, manager.engine_reason,
                   manager.host);
        cli_print_rows(cli, rows, columns);
    }
    json_decref(rows);
    cli_manager_free(&manager);
    return CLI_DONE;
}
