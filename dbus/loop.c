/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * loop: libdbus's watches and timeouts as libevent events.
 *
 * libdbus asks for file descriptors to be polled and timers to run; it parses what it read only
 * when told to dispatch, and it must not be told so from inside its own callbacks. So the dispatch
 * status only activates an event, and that event dispatches, a bounded number of messages a turn,
 * so that one talkative peer cannot keep the loop from everything else.
 */
#include "dbus/internal.h"

#include <errno.h>
#include <stdlib.h>

#define DISPATCH_PER_TURN 32
#define OOM_RETRY_USEC    100000

void bus_run_soon(struct event *event)
{
    /* Not event_active(): that would run it in this very turn, before any other fd is looked at. */
    event_add(event, &(struct timeval){0});
}

static void on_watch(evutil_socket_t fd, short what, void *opaque)
{
    DBusWatch *watch = opaque;
    unsigned flags = 0;

    (void)fd;
    if (what & EV_READ)
        flags |= DBUS_WATCH_READABLE;
    if (what & EV_WRITE)
        flags |= DBUS_WATCH_WRITABLE;
    dbus_watch_handle(watch, flags);
}

static void free_event(void *opaque)
{
    struct event *event = opaque;

    if (event)
        event_free(event);
}

static dbus_bool_t add_watch(DBusWatch *watch, void *opaque)
{
    struct bus *bus = opaque;
    unsigned flags = dbus_watch_get_flags(watch);
    short what = EV_PERSIST;
    struct event *event;

    if (flags & DBUS_WATCH_READABLE)
        what |= EV_READ;
    if (flags & DBUS_WATCH_WRITABLE)
        what |= EV_WRITE;
    event = event_new(bus->base, dbus_watch_get_unix_fd(watch), what, on_watch, watch);
    if (!event)
        return FALSE;
    if (dbus_watch_get_enabled(watch) && event_add(event, NULL) < 0) {
        event_free(event);
        return FALSE;
    }
    dbus_watch_set_data(watch, event, free_event);
    return TRUE;
}

static void remove_watch(DBusWatch *watch, void *opaque)
{
    (void)opaque;
    dbus_watch_set_data(watch, NULL, NULL); /* frees the event */
}

static void toggle_watch(DBusWatch *watch, void *opaque)
{
    struct event *event = dbus_watch_get_data(watch);

    (void)opaque;
    if (!event)
        return;
    if (dbus_watch_get_enabled(watch))
        event_add(event, NULL);
    else
        event_del(event);
}

static void on_timeout(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    dbus_timeout_handle(opaque);
}

static void arm_timeout(DBusTimeout *timeout, struct event *event)
{
    int ms = dbus_timeout_get_interval(timeout);
    struct timeval interval = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};

    if (dbus_timeout_get_enabled(timeout))
        event_add(event, &interval);
    else
        event_del(event);
}

static dbus_bool_t add_timeout(DBusTimeout *timeout, void *opaque)
{
    struct bus *bus = opaque;
    struct event *event = event_new(bus->base, -1, EV_PERSIST, on_timeout, timeout);

    if (!event)
        return FALSE;
    arm_timeout(timeout, event);
    dbus_timeout_set_data(timeout, event, free_event);
    return TRUE;
}

static void remove_timeout(DBusTimeout *timeout, void *opaque)
{
    (void)opaque;
    dbus_timeout_set_data(timeout, NULL, NULL);
}

static void toggle_timeout(DBusTimeout *timeout, void *opaque)
{
    struct event *event = dbus_timeout_get_data(timeout);

    (void)opaque;
    if (event)
        arm_timeout(timeout, event);
}

static void on_dispatch(evutil_socket_t fd, short what, void *opaque)
{
    struct bus *bus = opaque;
    DBusConnection *connection = dbus_connection_ref(bus->connection);
    DBusDispatchStatus status = DBUS_DISPATCH_DATA_REMAINS;

    (void)fd;
    (void)what;
    for (int i = 0; i < DISPATCH_PER_TURN && status == DBUS_DISPATCH_DATA_REMAINS; i++)
        status = dbus_connection_dispatch(connection);
    if (status == DBUS_DISPATCH_DATA_REMAINS)
        bus_run_soon(bus->dispatch_event);
    if (status == DBUS_DISPATCH_NEED_MEMORY)
        event_add(bus->dispatch_event, &(struct timeval){.tv_usec = OOM_RETRY_USEC});
    dbus_connection_unref(connection);
}

static void on_status(DBusConnection *connection, DBusDispatchStatus status, void *opaque)
{
    struct bus *bus = opaque;

    (void)connection;
    if (status == DBUS_DISPATCH_DATA_REMAINS)
        bus_run_soon(bus->dispatch_event);
}

static void on_changed(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    bus_flush_changed(opaque);
}

int bus_loop_attach(struct bus *bus)
{
    bus->dispatch_event = event_new(bus->base, -1, 0, on_dispatch, bus);
    bus->changed_event = event_new(bus->base, -1, 0, on_changed, bus);
    if (!bus->dispatch_event || !bus->changed_event)
        return -ENOMEM;
    if (!dbus_connection_set_watch_functions(bus->connection, add_watch, remove_watch, toggle_watch,
                                             bus, NULL) ||
        !dbus_connection_set_timeout_functions(bus->connection, add_timeout, remove_timeout,
                                               toggle_timeout, bus, NULL))
        return -ENOMEM;
    dbus_connection_set_dispatch_status_function(bus->connection, on_status, bus, NULL);
    if (dbus_connection_get_dispatch_status(bus->connection) == DBUS_DISPATCH_DATA_REMAINS)
        bus_run_soon(bus->dispatch_event);
    return 0;
}

void bus_loop_detach(struct bus *bus)
{
    dbus_connection_set_dispatch_status_function(bus->connection, NULL, NULL, NULL);
    dbus_connection_set_watch_functions(bus->connection, NULL, NULL, NULL, NULL, NULL);
    dbus_connection_set_timeout_functions(bus->connection, NULL, NULL, NULL, NULL, NULL);
    if (bus->dispatch_event)
        event_free(bus->dispatch_event);
    if (bus->changed_event)
        event_free(bus->changed_event);
    bus->dispatch_event = NULL;
    bus->changed_event = NULL;
}
