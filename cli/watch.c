/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Following guests by their PropertiesChanged and InterfacesRemoved signals, and waiting until they
 * are where they should be. Never asks again and again.
 *
 * Signals are subscribed to before the state is asked for, so nothing is missed in between. Some
 * that come may be older than the answer; the newer ones follow them, so the end is right.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void set_text(char **place, DBusMessageIter *value)
{
    const char *text;
    char *copy;

    if (!bus_get(value, DBUS_TYPE_STRING, &text))
        return;
    copy = strdup(text);
    if (copy) {
        free(*place);
        *place = copy;
    }
}

static void set_property(struct cli_watched *guest, const char *key, DBusMessageIter *value)
{
    if (!strcmp(key, "State"))
        set_text(&guest->state, value);
    else if (!strcmp(key, "Reason"))
        set_text(&guest->reason, value);
    else if (!strcmp(key, "Login"))
        bus_get(value, DBUS_TYPE_BOOLEAN, &guest->login);
    else if (!strcmp(key, "Settled"))
        bus_get(value, DBUS_TYPE_BOOLEAN, &guest->settled);
    else if (!strcmp(key, "Started"))
        bus_get(value, DBUS_TYPE_UINT64, &guest->started);
}

static struct cli_watched *find(struct cli_watch *watch, const char *path)
{
    for (size_t i = 0; path && i < watch->n; i++)
        if (watch->guest[i].path && !strcmp(watch->guest[i].path, path))
            return &watch->guest[i];
    return NULL;
}

static void on_changed(void *opaque, DBusMessage *signal)
{
    struct cli_watched *guest = find(opaque, dbus_message_get_path(signal));
    DBusMessageIter iter, dict, value;
    const char *interface, *key;

    if (!guest || !dbus_message_has_signature(signal, "sa{sv}as"))
        return;
    dbus_message_iter_init(signal, &iter);
    dbus_message_iter_get_basic(&iter, &interface);
    if (strcmp(interface, CLI_GUEST))
        return;
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    while (bus_dict_next(&dict, &key, &value))
        set_property(guest, key, &value);
}

static void on_removed(void *opaque, DBusMessage *signal)
{
    struct cli_watched *guest;
    DBusMessageIter iter;
    const char *path;

    dbus_message_iter_init(signal, &iter);
    if (!bus_get(&iter, DBUS_TYPE_OBJECT_PATH, &path))
        return;
    guest = find(opaque, path);
    if (guest)
        guest->gone = true;
}

static int subscribe(struct cli *cli, struct cli_watch *watch)
{
    struct bus_error err;

    if (bus_match(cli->bus, CLI_NAME, CLI_ROOT "/guest/", DBUS_INTERFACE_PROPERTIES,
                  "PropertiesChanged", on_changed, watch, &err) == 0 &&
        bus_match(cli->bus, CLI_NAME, CLI_ROOT, "org.freedesktop.DBus.ObjectManager",
                  "InterfacesRemoved", on_removed, watch, &err) == 0)
        return 0;
    cli_tell("%s", err.text);
    return -1;
}

static int fill(struct cli_watched *watched, const struct cli_guest *guest)
{
    watched->path = strdup(guest->path);
    watched->name = strdup(guest->name);
    watched->state = strdup(guest->state);
    watched->reason = strdup(guest->reason);
    watched->login = guest->login;
    watched->settled = guest->settled;
    watched->started = guest->started;
    return watched->path && watched->name && watched->state && watched->reason ? 0 : -1;
}

int cli_watch_start(struct cli *cli, struct cli_watch *watch, char *const *names)
{
    struct cli_objects objects;
    size_t n = 0;
    int r = 0;

    memset(watch, 0, sizeof(*watch));
    watch->cli = cli;
    while (names[n])
        n++;
    watch->guest = calloc(n + 1, sizeof(*watch->guest));
    if (!watch->guest || subscribe(cli, watch) < 0 || cli_objects_get(cli, &objects) < 0) {
        cli_watch_end(watch);
        return -1;
    }
    for (size_t i = 0; i < n && r == 0; i++) {
        const struct cli_guest *guest = cli_find_guest(&objects, names[i]);

        r = guest ? fill(&watch->guest[watch->n++], guest) : -1;
    }
    cli_objects_free(&objects);
    if (r < 0)
        cli_watch_end(watch);
    return r;
}

/* The subscription lives until the connection ends, so the struct must too. */
void cli_watch_end(struct cli_watch *watch)
{
    for (size_t i = 0; i < watch->n; i++) {
        free(watch->guest[i].path);
        free(watch->guest[i].name);
        free(watch->guest[i].state);
        free(watch->guest[i].reason);
    }
    free(watch->guest);
    watch->guest = NULL;
    watch->n = 0;
}

/* ---- conditions ---- */

static bool is_state(const struct cli_watched *guest, const char *state)
{
    return !strcmp(guest->state, state);
}

int cli_is_stopped(const struct cli_watched *guest, void *opaque)
{
    (void)opaque;
    return guest->gone || is_state(guest, "stopped") || is_state(guest, "failed") ||
           is_state(guest, "created");
}

int cli_is_at_login(const struct cli_watched *guest, void *opaque)
{
    (void)opaque;
    if (guest->login)
        return 1;
    if (guest->gone) {
        cli_tell("%s was deleted before it showed a login prompt", guest->name);
        return -1;
    }
    if (!cli_is_stopped(guest, NULL))
        return 0;
    if (is_state(guest, "created"))
        cli_tell("%s is not running: it will show no login prompt", guest->name);
    else
        cli_tell("%s has %s before it showed a login prompt%s%s", guest->name, guest->state,
                 *guest->reason ? ": " : "", guest->reason);
    return -1;
}

/* ---- waiting ---- */

enum verdict { PENDING, ARRIVED, HOPELESS };

static size_t count_pending(struct cli_watch *watch, cli_condition condition, void *opaque,
                            uint8_t *verdict)
{
    size_t pending = 0;

    for (size_t i = 0; i < watch->n; i++) {
        int r = verdict[i] == PENDING ? condition(&watch->guest[i], opaque) : 0;

        if (r != 0)
            verdict[i] = r > 0 ? ARRIVED : HOPELESS;
        pending += verdict[i] == PENDING;
    }
    return pending;
}

static void tell_late(const struct cli_watch *watch, const uint8_t *verdict, const char *what,
                      uint64_t timeout_s, const char *hint)
{
    for (size_t i = 0; i < watch->n; i++)
        if (verdict[i] == PENDING)
            cli_tell("%s has not %s after %llu s%s", watch->guest[i].name, what,
                     (unsigned long long)timeout_s, hint);
}

static int wait_all(struct cli_watch *watch, cli_condition condition, void *opaque,
                    const char *what, uint64_t timeout_s, const char *hint, uint8_t *verdict)
{
    int64_t deadline = timeout_s ? cli_now_ms() + (int64_t)timeout_s * 1000 : -1;
    struct cli_progress progress;
    size_t pending;
    int r = 0;

    cli_progress_start(&progress, "waiting until %zu guest%s %s %s", watch->n,
                       watch->n == 1 ? "" : "s", watch->n == 1 ? "has" : "have", what);
    while ((pending = count_pending(watch, condition, opaque, verdict)) > 0 && r == 0) {
        cli_progress_show(&progress, 1 - (double)pending / (double)watch->n);
        r = cli_wait(watch->cli, deadline);
    }
    cli_progress_end(&progress);
    if (r == -ETIMEDOUT)
        tell_late(watch, verdict, what, timeout_s, hint);
    return r;
}

int cli_watch_wait(struct cli_watch *watch, cli_condition condition, void *opaque, const char *what,
                   uint64_t timeout_s, const char *hint)
{
    uint8_t *verdict = calloc(watch->n + 1, 1);
    int r;

    if (!verdict)
        return -1;
    r = wait_all(watch, condition, opaque, what, timeout_s, hint, verdict);
    for (size_t i = 0; i < watch->n && r == 0; i++)
        if (verdict[i] == HOPELESS)
            r = -1;
    free(verdict);
    return r < 0 ? -1 : 0;
}
