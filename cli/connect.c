/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reaching vmmd: finding its bus, calling it, telling what went wrong, waiting for what it says.
 */
#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

void cli_tell(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("vmctl: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

/* ---- finding vmmd ---- */

static bool has_owner(struct bus *bus)
{
    DBusError error = DBUS_ERROR_INIT;
    bool has = dbus_bus_name_has_owner(bus_connection(bus), CLI_NAME, &error);

    dbus_error_free(&error);
    return has;
}

/* Is vmmd there, or can the bus start it? */
static bool is_served(struct bus *bus)
{
    DBusError error = DBUS_ERROR_INIT;
    dbus_uint32_t result;
    bool started;

    if (has_owner(bus))
        return true;
    started = dbus_bus_start_service_by_name(bus_connection(bus), CLI_NAME, 0, &result, &error);
    dbus_error_free(&error);
    return started;
}

static void on_owner_changed(void *opaque, DBusMessage *signal)
{
    struct cli *cli = opaque;
    const char *name, *from, *to;

    if (dbus_message_get_args(signal, NULL, DBUS_TYPE_STRING, &name, DBUS_TYPE_STRING, &from,
                              DBUS_TYPE_STRING, &to, DBUS_TYPE_INVALID) &&
        !strcmp(name, CLI_NAME) && !*to)
        cli->vmmd_lost = true;
}

/* Waiting would last for ever if vmmd died unnoticed. */
static int notice_loss(struct cli *cli)
{
    struct bus_error err;

    if (bus_match(cli->bus, DBUS_SERVICE_DBUS, DBUS_PATH_DBUS, DBUS_INTERFACE_DBUS,
                  "NameOwnerChanged", on_owner_changed, cli, &err) == 0)
        return 0;
    cli_tell("%s", err.text);
    return -1;
}

static int connect_to(struct cli *cli, const char *address, const char *how)
{
    struct bus_error err;

    if (bus_connect(&cli->bus, NULL, address, &err) < 0) {
        cli_tell("%s", err.text);
        return -1;
    }
    if (is_served(cli->bus))
        return notice_loss(cli);
    cli_tell("cannot reach " CLI_NAME " on %s: start it with \"%s\"", address, how);
    return -1;
}

static int connect_given(struct cli *cli)
{
    char how[512];

    if (!strcmp(cli->bus_address, "system"))
        return connect_to(cli, "system", "systemctl start vmmd");
    if (!strcmp(cli->bus_address, "session"))
        return connect_to(cli, "session", "vmmd --session");
    snprintf(how, sizeof(how), "vmmd --session --bus-address %s", cli->bus_address);
    return connect_to(cli, cli->bus_address, how);
}

static bool try(struct cli *cli, const char *address)
{
    struct bus_error err;

    if (bus_connect(&cli->bus, NULL, address, &err) < 0)
        return false;
    if (is_served(cli->bus))
        return true;
    bus_free(cli->bus);
    cli->bus = NULL;
    return false;
}

int cli_connect(struct cli *cli)
{
    if (!cli->bus_address)
        cli->bus_address = getenv("VMMD_BUS_ADDRESS");
    if (cli->bus_address && *cli->bus_address)
        return connect_given(cli);
    if (try(cli, "system") || try(cli, "session"))
        return notice_loss(cli);
    cli_tell("cannot reach " CLI_NAME " on the system bus or the session bus: start it with "
             "\"systemctl start vmmd\" or \"vmmd --session\"");
    return -1;
}

/* ---- calls ---- */

int cli_send(struct cli *cli, DBusMessage *message, DBusMessage **ret_reply)
{
    struct bus_error err;

    if (bus_send_wait(cli->bus, message, -1, ret_reply, &err) == 0)
        return 0;
    cli_tell("%s", *err.text ? err.text : err.name);
    return -1;
}

int cli_call(struct cli *cli, DBusMessage **ret_reply, const char *path, const char *interface,
             const char *method, int first_type, ...)
{
    DBusMessage *message = bus_method(CLI_NAME, path, interface, method);
    va_list args;

    va_start(args, first_type);
    if (message && !dbus_message_append_args_valist(message, first_type, args)) {
        dbus_message_unref(message);
        message = NULL;
    }
    va_end(args);
    return cli_send(cli, message, ret_reply);
}

int cli_call_for(struct cli *cli, const char *path, const char *interface, const char *method,
                 const char *argument, int type, void *ret_value)
{
    DBusMessage *reply;
    DBusMessageIter iter;
    bool ok;
    int r = cli_call(cli, &reply, path, interface, method,
                     argument ? DBUS_TYPE_STRING : DBUS_TYPE_INVALID, &argument, DBUS_TYPE_INVALID);

    if (r < 0)
        return r;
    ok = dbus_message_iter_init(reply, &iter) && bus_get(&iter, type, ret_value);
    if (ok && (type == DBUS_TYPE_STRING || type == DBUS_TYPE_OBJECT_PATH)) {
        *(char **)ret_value = strdup(*(char **)ret_value);
        ok = *(char **)ret_value != NULL;
    }
    dbus_message_unref(reply);
    if (ok)
        return 0;
    cli_tell("vmmd answered %s in a way that vmctl does not understand", method);
    return -1;
}

char *cli_guest_path(struct cli *cli, const char *name)
{
    char *path;

    return cli_call_for(cli, CLI_ROOT, CLI_MANAGER, "GetGuest", name, DBUS_TYPE_OBJECT_PATH,
                        &path) < 0
               ? NULL
               : path;
}

char *cli_template_path(struct cli *cli, const char *name)
{
    char *path;

    return cli_call_for(cli, CLI_ROOT, CLI_MANAGER, "GetTemplate", name, DBUS_TYPE_OBJECT_PATH,
                        &path) < 0
               ? NULL
               : path;
}

/* ---- waiting ---- */

int64_t cli_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int cli_catch_signals(struct cli *cli)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    if (cli->signal_fd >= 0)
        return 0;
    cli->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (cli->signal_fd < 0 || sigprocmask(SIG_BLOCK, &set, NULL) < 0) {
        cli_tell("cannot handle signals: %m");
        return -1;
    }
    return 0;
}

static bool has_messages(struct cli *cli)
{
    return dbus_connection_get_dispatch_status(bus_connection(cli->bus)) ==
           DBUS_DISPATCH_DATA_REMAINS;
}

/* Until there is something to read. */
static int wait_input(struct cli *cli, int64_t deadline_ms)
{
    struct pollfd fds[3] = {{.fd = -1, .events = POLLIN},
                            {.fd = cli->signal_fd, .events = POLLIN},
                            {.fd = cli->input_fd, .events = POLLIN}};
    int64_t left = deadline_ms < 0 ? -1 : deadline_ms - cli_now_ms();
    int n;

    if (deadline_ms >= 0 && left < 0)
        return -ETIMEDOUT;
    dbus_connection_get_unix_fd(bus_connection(cli->bus), &fds[0].fd);
    n = poll(fds, 3, left > INT32_MAX ? INT32_MAX : (int)left);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ETIMEDOUT;
    if (fds[1].revents)
        return -EINTR;
    return fds[2].revents ? 1 : 0;
}

int cli_wait(struct cli *cli, int64_t deadline_ms)
{
    int r = 0;

    if (!has_messages(cli))
        r = wait_input(cli, deadline_ms);
    if (r != 0)
        return r;
    do {
        r = bus_wait(cli->bus, 0);
    } while (r == 0 && has_messages(cli));
    if (r < 0 || cli->vmmd_lost) {
        cli_tell("vmmd went away (guests run on without it)");
        return -ECONNRESET;
    }
    return 0;
}
