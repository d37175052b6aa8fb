/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl start, stop, restart, pause, resume, set, delete and wait: what is done to guests by name.
 *
 * With several names each is tried; what fails is told by name and the rest goes on.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

/* Calls a method without arguments, or with force, on one guest. */
static int call_guest(struct cli *cli, const char *name, const char *method, const bool *force)
{
    dbus_bool_t flag = force && *force;
    char *path = cli_guest_path(cli, name);
    int r = -1;

    if (path)
        r = cli_call(cli, NULL, path, CLI_GUEST, method,
                     force ? DBUS_TYPE_BOOLEAN : DBUS_TYPE_INVALID, &flag, DBUS_TYPE_INVALID);
    free(path);
    return r;
}

static int call_guests(struct cli *cli, const struct cli_args *args, const char *method)
{
    int status = CLI_DONE;

    for (int i = 0; i < args->n_names; i++)
        if (call_guest(cli, args->name[i], method, NULL) < 0)
            status = CLI_FAILED;
    return status;
}

int cli_pause(struct cli *cli, const struct cli_args *args)
{
    return call_guests(cli, args, "Pause");
}

int cli_resume(struct cli *cli, const struct cli_args *args)
{
    return call_guests(cli, args, "Resume");
}

/* ---- set ---- */

static int set_property(struct cli *cli, const char *path, const char *property, int type,
                        const void *value)
{
    const char *interface = CLI_GUEST, signature[2] = {(char)type, '\0'};
    DBusMessageIter iter, variant;
    DBusMessage *message = bus_method(CLI_NAME, path, DBUS_INTERFACE_PROPERTIES, "Set");
    bool made = false;

    if (message) {
        dbus_message_iter_init_append(message, &iter);
        made = bus_put_string(&iter, interface) && bus_put_string(&iter, property) &&
               dbus_message_iter_open_container(&iter, DBUS_TYPE_VARIANT, signature, &variant) &&
               dbus_message_iter_append_basic(&variant, type, value) &&
               dbus_message_iter_close_container(&iter, &variant);
    }
    if (!made && message)
        dbus_message_unref(message);
    return cli_send(cli, made ? message : NULL, NULL);
}

struct settings {
    bool priority, memory, vcpus, cpu; /* given */
    const struct cli_args *args;
    int32_t new_priority;
    uint64_t new_memory, new_vcpus;
    uint32_t shares, limit, reserve;
};

/* The three go together: a limit and a reserve may only be right with each other. */
static int set_cpu(struct cli *cli, const char *path, const struct settings *s)
{
    const char *const *value = s->args->value;
    DBusMessage *message = bus_method(CLI_NAME, path, CLI_GUEST, "SetCpu");
    DBusMessageIter iter, dict;
    bool made = false;

    if (message) {
        dbus_message_iter_init_append(message, &iter);
        made =
            bus_dict_open(&iter, &dict) &&
            (!value[OPT_SHARES] || bus_dict_put(&dict, "shares", DBUS_TYPE_UINT32, &s->shares)) &&
            (!value[OPT_CPU_LIMIT] || bus_dict_put(&dict, "limit", DBUS_TYPE_UINT32, &s->limit)) &&
            (!value[OPT_CPU_RESERVE] ||
             bus_dict_put(&dict, "reserve", DBUS_TYPE_UINT32, &s->reserve)) &&
            bus_dict_close(&iter, &dict);
    }
    if (!made && message)
        dbus_message_unref(message);
    return cli_send(cli, made ? message : NULL, NULL);
}

static int set_guest(struct cli *cli, const char *name, const struct settings *s)
{
    char *path = cli_guest_path(cli, name);
    uint32_t vcpus = (uint32_t)s->new_vcpus;
    int r = 0;

    if (!path)
        return -1;
    if (s->memory)
        r = set_property(cli, path, "Memory", DBUS_TYPE_UINT64, &s->new_memory);
    if (r == 0 && s->vcpus)
        r = set_property(cli, path, "VCPUs", DBUS_TYPE_UINT32, &vcpus);
    if (r == 0 && s->priority)
        r = set_property(cli, path, "Priority", DBUS_TYPE_INT32, &s->new_priority);
    if (r == 0 && s->cpu)
        r = set_cpu(cli, path, s);
    free(path);
    return r;
}

static int read_cpu(const struct cli_args *args, struct settings *s)
{
    s->args = args;
    s->cpu = args->value[OPT_SHARES] || args->value[OPT_CPU_LIMIT] || args->value[OPT_CPU_RESERVE];
    if (cli_cpu_number(args, OPT_SHARES, &s->shares) < 0 ||
        cli_cpu_number(args, OPT_CPU_LIMIT, &s->limit) < 0 ||
        cli_cpu_number(args, OPT_CPU_RESERVE, &s->reserve) < 0)
        return -1;
    return 0;
}

int cli_set(struct cli *cli, const struct cli_args *args)
{
    struct settings s = {
        .priority = args->value[OPT_PRIORITY],
        .memory = args->value[OPT_MEMORY],
        .vcpus = args->value[OPT_VCPUS],
    };
    int status = CLI_DONE;

    if (read_cpu(args, &s) < 0)
        return CLI_USAGE;
    if (!s.priority && !s.memory && !s.vcpus && !s.cpu) {
        cli_tell("set what? --memory, --vcpus, --priority, --shares, --cpu-limit or --cpu-reserve");
        return CLI_USAGE;
    }
    if (s.memory && !cli_size_parse(args->value[OPT_MEMORY], &s.new_memory)) {
        cli_tell("--memory wants a size like 256M, 1G or 268435456, not \"%s\"",
                 args->value[OPT_MEMORY]);
        return CLI_USAGE;
    }
    if (cli_integer(args, OPT_PRIORITY, 100, 0, &s.new_priority) < 0 ||
        cli_number(args, OPT_VCPUS, UINT32_MAX, 0, &s.new_vcpus) < 0)
        return CLI_USAGE;
    for (int i = 0; i < args->n_names; i++)
        if (set_guest(cli, args->name[i], &s) < 0)
            status = CLI_FAILED;
    return status;
}

/* ---- start ---- */

/* A list of those names whose place in `keep` is true; ends with NULL, names are borrowed. */
static char **select_names(char *const *names, size_t n, const bool *keep)
{
    char **selected = calloc(n + 1, sizeof(*selected));
    size_t k = 0;

    for (size_t i = 0; selected && i < n; i++)
        if (keep[i])
            selected[k++] = names[i];
    return selected;
}

static int start_each(struct cli *cli, char *const *names, bool *started)
{
    struct cli_progress progress;
    size_t n = 0;
    int r = 0;

    while (names[n])
        n++;
    cli_progress_start(&progress, "starting %zu guest%s", n, n == 1 ? "" : "s");
    for (size_t i = 0; i < n; i++) {
        started[i] = call_guest(cli, names[i], "Start", NULL) == 0;
        if (!started[i])
            r = -1;
        cli_progress_show(&progress, (double)(i + 1) / (double)n);
    }
    cli_progress_end(&progress);
    return r;
}

static int wait_login(struct cli *cli, char *const *names, uint64_t timeout_s)
{
    struct cli_watch watch;
    int r;

    if (!*names)
        return 0;
    r = cli_watch_start(cli, &watch, names);
    if (r < 0)
        return r;
    r = cli_watch_wait(&watch, cli_is_at_login, NULL, "shown a login prompt", timeout_s,
                       ": see \"vmctl logs NAME\"");
    cli_watch_end(&watch);
    return r;
}

int cli_start_guests(struct cli *cli, char *const *names, bool wait, uint64_t timeout_s)
{
    char **waiting = NULL;
    bool *started;
    size_t n = 0;
    int r;

    while (names[n])
        n++;
    started = calloc(n + 1, sizeof(*started));
    if (!started)
        return -1;
    r = start_each(cli, names, started);
    if (wait) {
        waiting = select_names(names, n, started);
        if (!waiting || wait_login(cli, waiting, timeout_s) < 0)
            r = -1;
    }
    free(waiting);
    free(started);
    return r;
}

int cli_start(struct cli *cli, const struct cli_args *args)
{
    bool wait = args->value[OPT_WAIT];
    uint64_t timeout;
    char **names;
    int r;

    if (cli_number(args, OPT_TIMEOUT, 1u << 30, 0, &timeout) < 0)
        return CLI_USAGE;
    if (!args->value[OPT_COUNT]) {
        r = cli_start_guests(cli, (char **)args->name, wait, timeout);
        return r < 0 ? CLI_FAILED : CLI_DONE;
    }
    if (args->n_names != 1) {
        cli_tell("--count goes with one name");
        return CLI_USAGE;
    }
    names = cli_counted_names(args, args->name[0]);
    if (!names)
        return CLI_USAGE;
    r = cli_start_guests(cli, names, wait, timeout);
    cli_names_free(names);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}

/* ---- stop, restart, delete ---- */

/* Asks each guest and leaves those out that refuse. A list that ends with NULL, or NULL. */
static char **ask_each(struct cli *cli, const struct cli_args *args, const char *method, int *r)
{
    bool force = args->value[OPT_FORCE];
    bool *asked = calloc((size_t)args->n_names + 1, sizeof(*asked));
    char **names;

    if (!asked)
        return NULL;
    for (int i = 0; i < args->n_names; i++) {
        asked[i] = call_guest(cli, args->name[i], method, &force) == 0;
        if (!asked[i])
            *r = -1;
    }
    names = select_names((char **)args->name, (size_t)args->n_names, asked);
    free(asked);
    return names;
}

/* The guests by these names from now on; those that are not there are told and left out. */
static int watch_present(struct cli *cli, struct cli_watch *watch, const struct cli_args *args)
{
    bool *present = calloc((size_t)args->n_names + 1, sizeof(*present));
    struct cli_objects objects;
    char **names = NULL;
    int r = -1;

    if (present && cli_objects_get(cli, &objects) == 0) {
        for (int i = 0; i < args->n_names; i++)
            for (size_t k = 0; k < objects.n_guests; k++)
                present[i] |= !strcmp(objects.guest[k].name, args->name[i]);
        cli_objects_free(&objects);
        names = select_names((char **)args->name, (size_t)args->n_names, present);
        r = names ? cli_watch_start(cli, watch, names) : -1;
    }
    free(names);
    free(present);
    return r;
}

/* Of a watch, keeps only the guests in `names`. */
static void keep_only(struct cli_watch *watch, char *const *names)
{
    size_t kept = 0;

    for (size_t i = 0; i < watch->n; i++) {
        struct cli_watched guest = watch->guest[i];
        char *const *name = names;

        while (*name && strcmp(*name, guest.name))
            name++;
        if (!*name)
            continue;
        watch->guest[i] = watch->guest[kept];
        watch->guest[kept++] = guest;
    }
    for (size_t i = kept; i < watch->n; i++) {
        free(watch->guest[i].path);
        free(watch->guest[i].name);
        free(watch->guest[i].state);
        free(watch->guest[i].reason);
    }
    watch->n = kept;
}

static const char late_stop[] = ": it may ignore its power button; \"vmctl stop -f NAME\" ends it "
                                "at once";

int cli_stop(struct cli *cli, const struct cli_args *args)
{
    struct cli_watch watch;
    uint64_t timeout;
    char **names;
    int r = 0;

    if (cli_number(args, OPT_TIMEOUT, 1u << 30, CLI_STOP_SECONDS, &timeout) < 0)
        return CLI_USAGE;
    if (watch_present(cli, &watch, args) < 0)
        return CLI_FAILED;
    names = ask_each(cli, args, "Stop", &r);
    if (names) {
        keep_only(&watch, names);
        if (cli_watch_wait(&watch, cli_is_stopped, NULL, "stopped", timeout, late_stop) < 0)
            r = -1;
    }
    free(names);
    cli_watch_end(&watch);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}

struct restarting {
    const struct cli_watch *watch;
    uint64_t *before; /* when each was started before */
};

static int has_restarted(const struct cli_watched *guest, void *opaque)
{
    const struct restarting *restarting = opaque;
    size_t i = (size_t)(guest - restarting->watch->guest);

    if (guest->started && guest->started != restarting->before[i] &&
        !strcmp(guest->state, "running"))
        return 1;
    if (!guest->gone && strcmp(guest->state, "failed"))
        return 0;
    cli_tell("%s %s%s%s", guest->name, guest->gone ? "was deleted" : "has failed",
             *guest->reason ? ": " : "", guest->reason);
    return -1;
}

int cli_restart(struct cli *cli, const struct cli_args *args)
{
    struct restarting restarting = {0};
    struct cli_watch watch;
    uint64_t timeout;
    char **names;
    int r = 0;

    if (cli_number(args, OPT_TIMEOUT, 1u << 30, CLI_STOP_SECONDS, &timeout) < 0)
        return CLI_USAGE;
    if (watch_present(cli, &watch, args) < 0)
        return CLI_FAILED;
    names = ask_each(cli, args, "Restart", &r);
    restarting.watch = &watch;
    restarting.before = calloc(watch.n + 1, sizeof(*restarting.before));
    if (names && restarting.before) {
        keep_only(&watch, names);
        for (size_t i = 0; i < watch.n; i++)
            restarting.before[i] = watch.guest[i].started;
        if (cli_watch_wait(&watch, has_restarted, &restarting, "restarted", timeout, late_stop) <
                0 ||
            (args->value[OPT_WAIT] &&
             cli_watch_wait(&watch, cli_is_at_login, NULL, "shown a login prompt", timeout,
                            ": see \"vmctl logs NAME\"") < 0))
            r = -1;
    }
    free(restarting.before);
    free(names);
    cli_watch_end(&watch);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}

/* Ends those that run, so that they can be deleted. */
static int end_running(struct cli *cli, struct cli_watch *watch)
{
    dbus_bool_t force = TRUE;

    for (size_t i = 0; i < watch->n; i++)
        if (!cli_is_stopped(&watch->guest[i], NULL))
            cli_call(cli, NULL, watch->guest[i].path, CLI_GUEST, "Stop", DBUS_TYPE_BOOLEAN, &force,
                     DBUS_TYPE_INVALID);
    return cli_watch_wait(watch, cli_is_stopped, NULL, "stopped", CLI_STOP_SECONDS, "");
}

int cli_delete(struct cli *cli, const struct cli_args *args)
{
    struct cli_watch watch;
    int status;

    if (args->value[OPT_FORCE]) {
        if (watch_present(cli, &watch, args) < 0)
            return CLI_FAILED;
        end_running(cli, &watch);
    }
    status = call_guests(cli, args, "Delete");
    if (args->value[OPT_FORCE])
        cli_watch_end(&watch);
    return status;
}

/* ---- wait ---- */

int cli_wait_cmd(struct cli *cli, const struct cli_args *args)
{
    const char *what = args->value[OPT_FOR];
    bool login = !strcmp(what, "login");
    struct cli_watch watch;
    uint64_t timeout;
    int r;

    if (!login && strcmp(what, "stopped")) {
        cli_tell("--for is login or stopped, not \"%s\"", what);
        return CLI_USAGE;
    }
    if (cli_number(args, OPT_TIMEOUT, 1u << 30, 0, &timeout) < 0)
        return CLI_USAGE;
    if (cli_watch_start(cli, &watch, (char **)args->name) < 0)
        return CLI_FAILED;
    r = cli_watch_wait(&watch, login ? cli_is_at_login : cli_is_stopped, NULL,
                       login ? "shown a login prompt" : "stopped", timeout, "");
    cli_watch_end(&watch);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}
