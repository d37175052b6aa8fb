/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ledger of a guest, as GetMemory tells it: fields by a table, so that what is shown, summed up
 * and exported is the same everywhere. A field an older vmmd does not know is 0.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define FIELD(property, key, type, member)                       \
    {                                                            \
        property, key, type, offsetof(struct cli_ledger, member) \
    }

const struct cli_ledger_field cli_ledger_fields[] = {
    FIELD("Nominal", "nominal", DBUS_TYPE_UINT64, nominal),
    FIELD("Resident", "resident", DBUS_TYPE_UINT64, resident),
    FIELD("Zero", "zero", DBUS_TYPE_UINT64, zero),
    FIELD("Lineage", "lineage", DBUS_TYPE_UINT64, lineage),
    FIELD("Template", "template", DBUS_TYPE_UINT64, tmpl),
    FIELD("Pool", "pool", DBUS_TYPE_UINT64, pool),
    FIELD("Private", "private", DBUS_TYPE_UINT64, private),
    FIELD("Saved", "saved", DBUS_TYPE_UINT64, saved),
    FIELD("Balloon", "balloon", DBUS_TYPE_UINT64, balloon),
    FIELD("Merges", "merges", DBUS_TYPE_UINT64, merges),
    FIELD("Splits", "splits", DBUS_TYPE_UINT64, splits),
    FIELD("Repacked", "repacked", DBUS_TYPE_UINT64, repacked),
    FIELD("Passes", "passes", DBUS_TYPE_UINT64, passes),
    FIELD("CpuSeconds", "cpu_seconds", DBUS_TYPE_DOUBLE, cpu_seconds),
    FIELD("ProcessCpuSeconds", "process_cpu_seconds", DBUS_TYPE_DOUBLE, process_cpu_seconds),
    FIELD("Freezes", "freezes", DBUS_TYPE_UINT64, freezes),
    FIELD("LongestFreezeSeconds", "longest_freeze_seconds", DBUS_TYPE_DOUBLE,
          longest_freeze_seconds),
    FIELD("Mappings", "mappings", DBUS_TYPE_UINT64, mappings),
    FIELD("MappingsSkipped", "mappings_skipped", DBUS_TYPE_UINT64, mappings_skipped),
    FIELD("Settled", NULL, DBUS_TYPE_BOOLEAN, settled),
    {0},
};

static void *place_of(const struct cli_ledger *ledger, const struct cli_ledger_field *field)
{
    return (char *)ledger + field->offset;
}

int cli_ledger_get(struct cli *cli, struct cli_ledger *ledger, bool quiet)
{
    DBusMessageIter iter, dict, value;
    struct bus_error err;
    DBusMessage *reply;
    const char *key;

    if (bus_send_wait(cli->bus, bus_method(CLI_NAME, ledger->path, CLI_GUEST, "GetMemory"), -1,
                      &reply, &err) < 0) {
        if (!quiet)
            cli_tell("%s", *err.text ? err.text : err.name);
        return -1;
    }
    if (!dbus_message_has_signature(reply, "a{sv}")) {
        cli_tell("vmmd answered GetMemory in a way that vmctl does not understand");
        dbus_message_unref(reply);
        return -1;
    }
    dbus_message_iter_init(reply, &iter);
    dbus_message_iter_recurse(&iter, &dict);
    while (bus_dict_next(&dict, &key, &value))
        for (const struct cli_ledger_field *field = cli_ledger_fields; field->property; field++)
            if (!strcmp(field->property, key))
                bus_get(&value, field->type, place_of(ledger, field));
    dbus_message_unref(reply);
    return 0;
}

void cli_ledgers_free(struct cli_ledger *ledgers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(ledgers[i].name);
        free(ledgers[i].path);
    }
    free(ledgers);
}

struct cli_ledger *cli_ledgers_of(struct cli *cli, const struct cli_objects *objects, size_t *ret_n)
{
    struct cli_ledger *ledgers = calloc(objects->n_guests + 1, sizeof(*ledgers));
    size_t n = 0;

    for (size_t i = 0; ledgers && i < objects->n_guests; i++) {
        struct cli_ledger *ledger = &ledgers[n];

        if (!cli_guest_is_up(&objects->guest[i]))
            continue;
        memset(ledger, 0, sizeof(*ledger));
        ledger->path = strdup(objects->guest[i].path);
        ledger->name = strdup(objects->guest[i].name);
        if (ledger->path && ledger->name && cli_ledger_get(cli, ledger, true) == 0) {
            n++;
            continue;
        }
        free(ledger->path); /* it ended meanwhile, or does not answer */
        free(ledger->name);
    }
    *ret_n = n;
    return ledgers;
}

double cli_ledger_number(const struct cli_ledger *ledger, const struct cli_ledger_field *field)
{
    const void *place = place_of(ledger, field);

    switch (field->type) {
    case DBUS_TYPE_UINT64: return (double)*(const uint64_t *)place;
    case DBUS_TYPE_DOUBLE: return *(const double *)place;
    default: return *(const dbus_bool_t *)place ? 1 : 0;
    }
}

json_t *cli_ledger_row(const struct cli_ledger *ledger, bool named)
{
    json_t *row = json_object();

    if (named)
        json_object_set_new(row, "name", json_string(ledger->name));
    for (const struct cli_ledger_field *field = cli_ledger_fields; field->property; field++) {
        const void *place = place_of(ledger, field);

        if (!field->key)
            continue;
        json_object_set_new(row, field->key,
                            field->type == DBUS_TYPE_DOUBLE
                                ? json_real(*(const double *)place)
                                : json_integer((json_int_t) * (const uint64_t *)place));
    }
    return row;
}

struct cli_ledger cli_ledger_total(const struct cli_ledger *ledgers, size_t n)
{
    struct cli_ledger total = {.name = (char *)"total"};
    double longest = 0;

    for (size_t i = 0; i < n; i++) {
        for (const struct cli_ledger_field *field = cli_ledger_fields; field->property; field++) {
            const void *from = place_of(&ledgers[i], field);
            void *to = place_of(&total, field);

            if (field->type == DBUS_TYPE_UINT64)
                *(uint64_t *)to += *(const uint64_t *)from;
            else if (field->type == DBUS_TYPE_DOUBLE)
                *(double *)to += *(const double *)from;
        }
        if (ledgers[i].longest_freeze_seconds > longest)
            longest = ledgers[i].longest_freeze_seconds;
    }
    total.longest_freeze_seconds = longest; /* of all of them, not the sum */
    return total;
}
