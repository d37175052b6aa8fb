/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl disk attach, detach, list, resize.
 *
 * An image that is attached is opened here and passed as a descriptor: so vmmd knows that the
 * caller may use it.
 */
#include "cli/cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROOT "root"

/* ---- attach ---- */

struct wish {
    uint64_t size; /* 0: none */
    int file;      /* or -1 */
    dbus_bool_t readonly;
};

static int read_size(const struct cli_args *args, uint64_t *ret_size)
{
    const char *size = args->value[OPT_SIZE];

    if (size && (!cli_size_parse(size, ret_size) || *ret_size == 0)) {
        cli_tell("--size wants a size like 10G, 512M or bytes, not \"%s\"", size);
        return -1;
    }
    return 0;
}

static enum cli_exit read_wish(const struct cli_args *args, struct wish *wish)
{
    const char *file = args->value[OPT_FILE];

    *wish = (struct wish){.file = -1, .readonly = args->value[OPT_READONLY] != NULL};
    if (read_size(args, &wish->size) < 0)
        return CLI_USAGE;
    if (file && args->value[OPT_SIZE]) {
        cli_tell("--size makes a new disk, --file takes one that exists: not both");
        return CLI_USAGE;
    }
    if (wish->readonly && !file) {
        cli_tell("--readonly goes with --file");
        return CLI_USAGE;
    }
    if (file) {
        wish->file =
            open(file, (wish->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (wish->file < 0) {
            cli_tell("cannot open %s: %m", file);
            return CLI_FAILED;
        }
    }
    return CLI_DONE;
}

static bool put_wish(DBusMessageIter *iter, const struct wish *wish)
{
    DBusMessageIter dict;

    return bus_dict_open(iter, &dict) &&
           (!wish->size || bus_dict_put(&dict, "size", DBUS_TYPE_UINT64, &wish->size)) &&
           (wish->file < 0 || bus_dict_put(&dict, "file", DBUS_TYPE_UNIX_FD, &wish->file)) &&
           (!wish->readonly ||
            bus_dict_put(&dict, "readonly", DBUS_TYPE_BOOLEAN, &wish->readonly)) &&
           bus_dict_close(iter, &dict);
}

static int attach(struct cli *cli, const char *path, const char *name, const struct wish *wish)
{
    DBusMessage *message = bus_method(CLI_NAME, path, CLI_GUEST, "AttachDisk");
    DBusMessageIter iter;

    if (message) {
        dbus_message_iter_init_append(message, &iter);
        if (!dbus_message_iter_append_basic(&iter, DBUS_TYPE_STRING, &name) ||
            !put_wish(&iter, wish)) {
            cli_tell("out of memory");
            dbus_message_unref(message);
            return -1;
        }
    }
    return cli_send(cli, message, NULL);
}

int cli_disk_attach(struct cli *cli, const struct cli_args *args)
{
    struct wish wish;
    enum cli_exit status = read_wish(args, &wish);
    char *path;

    if (status != CLI_DONE)
        return status;
    path = cli_guest_path(cli, args->name[0]);
    if (!path || attach(cli, path, args->name[1], &wish) < 0)
        status = CLI_FAILED;
    free(path);
    if (wish.file >= 0)
        close(wish.file);
    return status;
}

/* ---- detach ---- */

static int detach(struct cli *cli, const char *path, const struct cli_args *args)
{
    dbus_bool_t delete_it = args->value[OPT_DELETE] != NULL;
    const char *kept = "";
    DBusMessage *reply;

    if (cli_call(cli, &reply, path, CLI_GUEST, "DetachDisk", DBUS_TYPE_STRING, &args->name[1],
                 DBUS_TYPE_BOOLEAN, &delete_it, DBUS_TYPE_INVALID) < 0)
        return -1;
    if (dbus_message_get_args(reply, NULL, DBUS_TYPE_STRING, &kept, DBUS_TYPE_INVALID) && *kept)
        printf(
            "kept until guest %s is deleted: %s; \"vmctl disk attach %s %s\" attaches it again\n",
            args->name[0], kept, args->name[0], args->name[1]);
    dbus_message_unref(reply);
    return 0;
}

int cli_disk_detach(struct cli *cli, const struct cli_args *args)
{
    char *path = cli_guest_path(cli, args->name[0]);
    int r = path ? detach(cli, path, args) : -1;

    free(path);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}

/* ---- resize ---- */

int cli_disk_resize(struct cli *cli, const struct cli_args *args)
{
    const char *name = args->n_names > 1 ? args->name[1] : ROOT;
    dbus_bool_t shrink = args->value[OPT_SHRINK] != NULL;
    uint64_t size = 0;
    char *path;
    int r = -1;

    if (read_size(args, &size) < 0)
        return CLI_USAGE;
    path = cli_guest_path(cli, args->name[0]);
    if (path)
        r = cli_call(cli, NULL, path, CLI_GUEST, "ResizeDisk", DBUS_TYPE_STRING, &name,
                     DBUS_TYPE_UINT64, &size, DBUS_TYPE_BOOLEAN, &shrink, DBUS_TYPE_INVALID);
    free(path);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}

/* ---- list ---- */

static json_t *disk_row(DBusMessageIter *item)
{
    const char *name, *kind, *format, *path;
    dbus_bool_t readonly;
    uint64_t size;
    struct {
        int type;
        void *value;
    } fields[] = {
        {DBUS_TYPE_STRING, &name}, {DBUS_TYPE_STRING, &kind},      {DBUS_TYPE_STRING, &format},
        {DBUS_TYPE_UINT64, &size}, {DBUS_TYPE_BOOLEAN, &readonly}, {DBUS_TYPE_STRING, &path},
    };

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (!bus_get(item, fields[i].type, fields[i].value))
            return NULL;
        dbus_message_iter_next(item);
    }
    return json_pack("{s:s, s:s, s:s, s:I, s:b, s:s}", "name", name, "kind", kind, "format", format,
                     "size", (json_int_t)size, "readonly", (int)readonly, "path", path);
}

static json_t *disk_rows(DBusMessage *reply)
{
    json_t *rows = json_array();
    DBusMessageIter iter, variant, array, item;

    if (dbus_message_iter_init(reply, &iter) &&
        dbus_message_iter_get_arg_type(&iter) == DBUS_TYPE_VARIANT) {
        dbus_message_iter_recurse(&iter, &variant);
        if (dbus_message_iter_get_arg_type(&variant) == DBUS_TYPE_ARRAY) {
            dbus_message_iter_recurse(&variant, &array);
            for (; dbus_message_iter_get_arg_type(&array) == DBUS_TYPE_STRUCT;
                 dbus_message_iter_next(&array)) {
                dbus_message_iter_recurse(&array, &item);
                json_array_append_new(rows, disk_row(&item));
            }
        }
    }
    return rows;
}

int cli_disk_list(struct cli *cli, const struct cli_args *args)
{
    static const struct cli_column columns[] = {
        {"name", "NAME", KIND_TEXT},
        {"kind", "KIND", KIND_TEXT},
        {"format", "FORMAT", KIND_TEXT},
        {"size", "SIZE", KIND_SIZE},
        {"readonly", "READ-ONLY", KIND_TEXT},
        {"path", "FILE", KIND_TEXT},
        {0},
    };
    const char *interface = CLI_GUEST, *property = "Disks";
    char *path = cli_guest_path(cli, args->name[0]);
    DBusMessage *reply;
    json_t *rows;
    int r = -1;

    if (path)
        r = cli_call(cli, &reply, path, DBUS_INTERFACE_PROPERTIES, "Get", DBUS_TYPE_STRING,
                     &interface, DBUS_TYPE_STRING, &property, DBUS_TYPE_INVALID);
    free(path);
    if (r < 0)
        return CLI_FAILED;
    rows = disk_rows(reply);
    dbus_message_unref(reply);
    cli_print_rows(cli, rows, columns);
    json_decref(rows);
    return CLI_DONE;
}
