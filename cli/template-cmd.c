/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl template import, create, verify, export, list, info, delete.
 *
 * Files are opened here and passed as descriptors: vmmd reads what the caller may read.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_NEEDED 8 /* files of an image beside itself: what vmmd takes */

/* ---- import ---- */

static int open_input(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;

    if (fd < 0) {
        cli_tell("cannot open %s: %m", path);
        return -1;
    }
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        cli_tell("cannot use %s: it is a directory", path);
        close(fd);
        return -1;
    }
    return fd;
}

/* Opens the file an option names and puts its descriptor into the options. */
static int put_file(DBusMessageIter *dict, const struct cli_args *args, enum cli_option option,
                    const char *key)
{
    int fd = -1;
    bool ok;

    if (!args->value[option])
        return 0;
    fd = open_input(args->value[option]);
    if (fd < 0)
        return -1;
    ok = bus_dict_put(dict, key, DBUS_TYPE_UNIX_FD, &fd);
    close(fd); /* the message has its own */
    return ok ? 0 : -1;
}

static bool is_qcow2(int fd)
{
    char head[8]; /* magic and version, of which 1 is another format */

    return pread(fd, head, sizeof(head), 0) == sizeof(head) && memcmp(head, "QFI\xfb", 4) == 0 &&
           memcmp(head + 4, "\0\0\0\1", 4) != 0;
}

static int open_files(char *const *paths, int *fds)
{
    int n = 0;

    for (; paths[n]; n++) {
        fds[n] = n < MAX_NEEDED ? open_input(paths[n]) : -1;
        if (fds[n] >= 0)
            continue;
        if (n == MAX_NEEDED)
            cli_tell("an image of more than %d files cannot be imported: make it one file first "
                     "(vmctl image convert)",
                     MAX_NEEDED + 1);
        while (n-- > 0)
            close(fds[n]);
        return -1;
    }
    return n;
}

static bool put_fds(DBusMessageIter *dict, const int *fds, int n)
{
    DBusMessageIter entry, variant, array;
    const char *key = "below";
    bool ok = dbus_message_iter_open_container(dict, DBUS_TYPE_DICT_ENTRY, NULL, &entry) &&
              dbus_message_iter_append_basic(&entry, DBUS_TYPE_STRING, &key) &&
              dbus_message_iter_open_container(&entry, DBUS_TYPE_VARIANT, "ah", &variant) &&
              dbus_message_iter_open_container(&variant, DBUS_TYPE_ARRAY, "h", &array);

    for (int i = 0; i < n && ok; i++)
        ok = dbus_message_iter_append_basic(&array, DBUS_TYPE_UNIX_FD, &fds[i]);
    return ok && dbus_message_iter_close_container(&variant, &array) &&
           dbus_message_iter_close_container(&entry, &variant) &&
           dbus_message_iter_close_container(dict, &entry);
}

/* What else the disk image is made of. */
static int put_needed(DBusMessageIter *dict, const char *path, bool qcow2)
{
    char **paths = qcow2 ? cli_image_needs(path) : NULL;
    int fds[MAX_NEEDED + 1], n = paths ? open_files(paths, fds) : -1;
    bool ok = n >= 0;

    cli_names_free(paths);
    if (!qcow2)
        return 0;
    if (n > 0)
        ok = put_fds(dict, fds, n);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    return ok ? 0 : -1;
}

static int fill_request(DBusMessage *message, const struct cli_args *args)
{
    const char *cmdline = args->value[OPT_CMDLINE], *snapshot = args->value[OPT_SNAPSHOT];
    DBusMessageIter iter, dict;
    int disk = open_input(args->value[OPT_DISK]);
    bool ok, qcow2;

    if (disk < 0)
        return -1;
    dbus_message_iter_init_append(message, &iter);
    ok = dbus_message_iter_append_basic(&iter, DBUS_TYPE_STRING, &args->name[0]) &&
         dbus_message_iter_append_basic(&iter, DBUS_TYPE_UNIX_FD, &disk) &&
         bus_dict_open(&iter, &dict);
    qcow2 = is_qcow2(disk);
    close(disk);
    if (!ok)
        return -1;
    if (put_needed(&dict, args->value[OPT_DISK], qcow2) < 0 ||
        put_file(&dict, args, OPT_KERNEL, "kernel") < 0 ||
        put_file(&dict, args, OPT_INITRD, "initrd") < 0 ||
        put_file(&dict, args, OPT_PASSPHRASE, "passphrase") < 0 ||
        (cmdline && !bus_dict_put(&dict, "cmdline", DBUS_TYPE_STRING, &cmdline)) ||
        (snapshot && !bus_dict_put(&dict, "snapshot", DBUS_TYPE_STRING, &snapshot))) {
        dbus_message_iter_abandon_container(&iter, &dict);
        return -1;
    }
    return bus_dict_close(&iter, &dict) ? 0 : -1;
}

/* What a job is to do: sends the request; `opaque` is its own. */
typedef int (*request_fn)(struct cli *cli, const struct cli_args *args, void *opaque,
                          DBusMessage **ret_reply);

/* Asks for a job and waits for its end. `noun` names it, `doing` it to a template is shown. */
static int run_job(struct cli *cli, const struct cli_args *args, const char *noun,
                   const char *doing, request_fn request, void *opaque)
{
    struct cli_job job = {.what = noun};
    DBusMessage *reply;
    int r = cli_job_prepare(cli, &job);

    if (r == 0)
        r = request(cli, args, opaque, &reply);
    if (r == 0)
        r = cli_job_take(&job, reply);
    if (r == 0) {
        cli_progress_start(&job.progress, "%s %s", doing, args->name[0]);
        r = cli_job_wait(cli, &job);
    }
    cli_job_free(&job);
    return r;
}

static int request_import(struct cli *cli, const struct cli_args *args, void *opaque,
                          DBusMessage **ret_reply)
{
    DBusMessage *message = bus_method(CLI_NAME, CLI_ROOT, CLI_MANAGER, "ImportTemplate");

    (void)opaque;
    if (message && fill_request(message, args) < 0) {
        dbus_message_unref(message);
        return -1;
    }
    return cli_send(cli, message, ret_reply);
}

int cli_template_import(struct cli *cli, const struct cli_args *args)
{
    return run_job(cli, args, "import", "importing", request_import, NULL) < 0 ? CLI_FAILED
                                                                               : CLI_DONE;
}

/* ---- create ---- */

static int request_create(struct cli *cli, const struct cli_args *args, void *opaque,
                          DBusMessage **ret_reply)
{
    DBusMessage *message = bus_method(CLI_NAME, CLI_ROOT, CLI_MANAGER, "CreateTemplate");
    dbus_bool_t keep = args->value[OPT_KEEP_IDENTITY] != NULL;
    DBusMessageIter iter, dict;

    (void)opaque;
    if (message) {
        dbus_message_iter_init_append(message, &iter);
        if (!dbus_message_iter_append_basic(&iter, DBUS_TYPE_STRING, &args->name[0]) ||
            !dbus_message_iter_append_basic(&iter, DBUS_TYPE_STRING, &args->value[OPT_FROM]) ||
            !bus_dict_open(&iter, &dict) ||
            !bus_dict_put(&dict, "keep_identity", DBUS_TYPE_BOOLEAN, &keep) ||
            !bus_dict_close(&iter, &dict)) {
            cli_tell("out of memory");
            dbus_message_unref(message);
            return -1;
        }
    }
    return cli_send(cli, message, ret_reply);
}

int cli_template_create(struct cli *cli, const struct cli_args *args)
{
    return run_job(cli, args, "creation", "creating", request_create, NULL) < 0 ? CLI_FAILED
                                                                                : CLI_DONE;
}

/* ---- verify ---- */

static int request_verify(struct cli *cli, const struct cli_args *args, void *opaque,
                          DBusMessage **ret_reply)
{
    char *path = cli_template_path(cli, args->name[0]);
    int r = path ? cli_call(cli, ret_reply, path, CLI_TEMPLATE, "Verify", DBUS_TYPE_INVALID) : -1;

    (void)opaque;
    free(path);
    return r;
}

int cli_template_verify(struct cli *cli, const struct cli_args *args)
{
    return run_job(cli, args, "verification", "verifying", request_verify, NULL) < 0 ? CLI_FAILED
                                                                                     : CLI_DONE;
}

/* ---- export ---- */

struct export
{
    const char *path; /* of the template's object */
    struct cli_new_file file;
};

static int request_export(struct cli *cli, const struct cli_args *args, void *opaque,
                          DBusMessage **ret_reply)
{
    const struct export *export = opaque;
    DBusMessage *message = bus_method(CLI_NAME, export->path, CLI_TEMPLATE, "Export");
    const char *format = args->value[OPT_TO];
    dbus_bool_t compress = args->value[OPT_COMPRESS] != NULL;
    DBusMessageIter iter, dict;

    if (message) {
        dbus_message_iter_init_append(message, &iter);
        if (!dbus_message_iter_append_basic(&iter, DBUS_TYPE_UNIX_FD, &export->file.fd) ||
            !bus_dict_open(&iter, &dict) ||
            (format && !bus_dict_put(&dict, "format", DBUS_TYPE_STRING, &format)) ||
            !bus_dict_put(&dict, "compress", DBUS_TYPE_BOOLEAN, &compress) ||
            !bus_dict_close(&iter, &dict)) {
            cli_tell("out of memory");
            dbus_message_unref(message);
            return -1;
        }
    }
    return cli_send(cli, message, ret_reply);
}

int cli_template_export(struct cli *cli, const struct cli_args *args)
{
    char *path = cli_template_path(cli, args->name[0]);
    struct export export = {.path = path};
    int r = path
                ? cli_new_file_open(&export.file, args->value[OPT_OUTPUT], args->value[OPT_REPLACE])
                : -1;

    if (r == 0) {
        r = run_job(cli, args, "export", "exporting", request_export, &export);
        if (r == 0)
            r = cli_new_file_publish(&export.file);
        cli_new_file_free(&export.file);
    }
    free(path);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}

/* ---- list and info ---- */

static json_t *template_row(const struct cli_template *tmpl)
{
    json_t *guests = json_array();

    for (size_t i = 0; i < tmpl->n_guests; i++)
        json_array_append_new(guests, json_string(tmpl->guests[i]));
    return json_pack("{s:s, s:I, s:I, s:s, s:s, s:s, s:b, s:I, s:s, s:i, s:o}", "name", tmpl->name,
                     "size", (json_int_t)tmpl->size, "disk_usage", (json_int_t)tmpl->disk_usage,
                     "os", tmpl->os_name, "kernel", tmpl->kernel_name, "cmdline", tmpl->cmdline,
                     "initrd", (int)tmpl->has_initrd, "created", (json_int_t)tmpl->created, "path",
                     tmpl->directory, "guest_count", (int)tmpl->n_guests, "guests", guests);
}

int cli_template_list(struct cli *cli, const struct cli_args *args)
{
    static const struct cli_column columns[] = {
        {"name", "NAME", KIND_TEXT},          {"size", "SIZE", KIND_SIZE},
        {"disk_usage", "ON DISK", KIND_SIZE}, {"guest_count", "GUESTS", KIND_NUMBER},
        {"kernel", "KERNEL", KIND_TEXT},      {"os", "SYSTEM", KIND_TEXT},
        {"created", NULL, KIND_TIME},         {0},
    };
    struct cli_objects objects;
    json_t *rows;

    (void)args;
    if (cli_objects_get(cli, &objects) < 0)
        return CLI_FAILED;
    rows = json_array();
    for (size_t i = 0; i < objects.n_templates; i++)
        json_array_append_new(rows, template_row(&objects.tmpl[i]));
    cli_print_rows(cli, rows, columns);
    json_decref(rows);
    cli_objects_free(&objects);
    return CLI_DONE;
}

static const struct cli_template *find_template(const struct cli_objects *objects, const char *name)
{
    for (size_t i = 0; i < objects->n_templates; i++)
        if (!strcmp(objects->tmpl[i].name, name))
            return &objects->tmpl[i];
    cli_tell("there is no template %s", name);
    return NULL;
}

static const struct cli_column info_columns[] = {
    {"name", "Name", KIND_TEXT},
    {"os", "System", KIND_TEXT},
    {"kernel", "Kernel", KIND_TEXT},
    {"initrd", "Initial RAM disk", KIND_TEXT},
    {"cmdline", "Command line", KIND_TEXT},
    {"size", "Size", KIND_SIZE},
    {"disk_usage", "On disk", KIND_SIZE},
    {"path", "Directory", KIND_TEXT},
    {"created", "Created", KIND_TIME},
    {"guests", "Guests", KIND_TEXT},
    {0},
};

static json_t *row_of(const struct cli_objects *objects, const char *name)
{
    const struct cli_template *tmpl = find_template(objects, name);

    return tmpl ? template_row(tmpl) : NULL;
}

int cli_template_info(struct cli *cli, const struct cli_args *args)
{
    return cli_print_named(cli, args, info_columns, row_of);
}

int cli_template_delete(struct cli *cli, const struct cli_args *args)
{
    int status = CLI_DONE;

    for (int i = 0; i < args->n_names; i++) {
        char *path = cli_template_path(cli, args->name[i]);

        if (!path || cli_call(cli, NULL, path, CLI_TEMPLATE, "Delete", DBUS_TYPE_INVALID) < 0)
            status = CLI_FAILED;
        free(path);
    }
    return status;
}
