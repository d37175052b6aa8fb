/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl create and run.
 *
 * Creating is all or none (vmmd sees to that). What run has created but cannot start it deletes
 * again, so that a mistake leaves nothing behind.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

struct wish {
    uint64_t count, memory, vcpus;
    const char *engine, *share_group;
    int32_t priority;
    uint32_t cpu_shares, cpu_limit, cpu_reserve;
};

static int read_wish(const struct cli_args *args, struct wish *wish)
{
    const char *memory = args->value[OPT_MEMORY];

    memset(wish, 0, sizeof(*wish));
    wish->engine = args->value[OPT_ENGINE];
    wish->share_group = args->value[OPT_SHARE_GROUP];
    if (cli_number(args, OPT_COUNT, 10000, 0, &wish->count) < 0 ||
        cli_number(args, OPT_VCPUS, 1024, 0, &wish->vcpus) < 0 ||
        cli_integer(args, OPT_PRIORITY, 100, 0, &wish->priority) < 0 ||
        cli_cpu_number(args, OPT_SHARES, &wish->cpu_shares) < 0 ||
        cli_cpu_number(args, OPT_CPU_LIMIT, &wish->cpu_limit) < 0 ||
        cli_cpu_number(args, OPT_CPU_RESERVE, &wish->cpu_reserve) < 0)
        return -1;
    if (memory && !cli_size_parse(memory, &wish->memory)) {
        cli_tell("--memory wants a size like 256M, 1G or 268435456, not \"%s\"", memory);
        return -1;
    }
    if (wish->engine && strcmp(wish->engine, "auto") && strcmp(wish->engine, "soft") &&
        strcmp(wish->engine, "kvm")) {
        cli_tell("--engine is auto, soft or kvm, not \"%s\"", wish->engine);
        return -1;
    }
    return 0;
}

static bool put_cpu(DBusMessageIter *dict, const struct cli_args *args, const struct wish *wish)
{
    return (!args->value[OPT_SHARES] ||
            bus_dict_put(dict, "cpu_shares", DBUS_TYPE_UINT32, &wish->cpu_shares)) &&
           (!args->value[OPT_CPU_LIMIT] ||
            bus_dict_put(dict, "cpu_limit", DBUS_TYPE_UINT32, &wish->cpu_limit)) &&
           (!args->value[OPT_CPU_RESERVE] ||
            bus_dict_put(dict, "cpu_reserve", DBUS_TYPE_UINT32, &wish->cpu_reserve));
}

/* Only what was asked for is sent: vmmd knows the defaults, and what is wrong with a wish. */
static bool put_wish(DBusMessageIter *dict, const struct cli_args *args, const struct wish *wish)
{
    uint32_t count = (uint32_t)wish->count, vcpus = (uint32_t)wish->vcpus;

    return put_cpu(dict, args, wish) &&
           (!args->value[OPT_COUNT] || bus_dict_put(dict, "count", DBUS_TYPE_UINT32, &count)) &&
           (!args->value[OPT_VCPUS] || bus_dict_put(dict, "vcpus", DBUS_TYPE_UINT32, &vcpus)) &&
           (!args->value[OPT_MEMORY] ||
            bus_dict_put(dict, "memory", DBUS_TYPE_UINT64, &wish->memory)) &&
           (!args->value[OPT_PRIORITY] ||
            bus_dict_put(dict, "priority", DBUS_TYPE_INT32, &wish->priority)) &&
           (!wish->engine || bus_dict_put(dict, "engine", DBUS_TYPE_STRING, &wish->engine)) &&
           (!wish->share_group ||
            bus_dict_put(dict, "share_group", DBUS_TYPE_STRING, &wish->share_group));
}

static int create(struct cli *cli, const struct cli_args *args, const struct wish *wish)
{
    DBusMessage *message = bus_method(CLI_NAME, CLI_ROOT, CLI_MANAGER, "CreateGuests");
    DBusMessageIter iter, dict;

    if (message) {
        dbus_message_iter_init_append(message, &iter);
        if (!dbus_message_iter_append_basic(&iter, DBUS_TYPE_STRING, &args->name[0]) ||
            !dbus_message_iter_append_basic(&iter, DBUS_TYPE_STRING, &args->value[OPT_NAME]) ||
            !bus_dict_open(&iter, &dict) || !put_wish(&dict, args, wish) ||
            !bus_dict_close(&iter, &dict)) {
            cli_tell("out of memory");
            dbus_message_unref(message);
            return -1;
        }
    }
    return cli_send(cli, message, NULL);
}

int cli_create(struct cli *cli, const struct cli_args *args)
{
    struct wish wish;

    if (read_wish(args, &wish) < 0)
        return CLI_USAGE;
    return create(cli, args, &wish) < 0 ? CLI_FAILED : CLI_DONE;
}

/* Deletes those of the guests that were never started. */
static void delete_unstarted(struct cli *cli, char *const *names)
{
    struct cli_objects objects;

    if (cli_objects_get(cli, &objects) < 0)
        return;
    for (size_t i = 0; i < objects.n_guests; i++) {
        const struct cli_guest *guest = &objects.guest[i];

        for (char *const *name = names; *name; name++)
            if (!strcmp(*name, guest->name) && !guest->started && !cli_guest_is_up(guest))
                cli_call(cli, NULL, guest->path, CLI_GUEST, "Delete", DBUS_TYPE_INVALID);
    }
    cli_objects_free(&objects);
}

int cli_run(struct cli *cli, const struct cli_args *args)
{
    struct wish wish;
    uint64_t timeout;
    char **names;
    int r;

    if (read_wish(args, &wish) < 0 || cli_number(args, OPT_TIMEOUT, 1u << 30, 0, &timeout) < 0)
        return CLI_USAGE;
    names = cli_counted_names(args, args->value[OPT_NAME]);
    if (!names)
        return CLI_USAGE;
    r = create(cli, args, &wish);
    if (r == 0) {
        r = cli_start_guests(cli, names, args->value[OPT_WAIT], timeout);
        if (r < 0)
            delete_unstarted(cli, names);
    }
    cli_names_free(names);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}
