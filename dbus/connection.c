/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * connection: connecting to a bus and leaving it.
 *
 * Connections are private (never libdbus's shared ones), so that closing one closes nobody else's,
 * and libdbus's habit of ending the process when the bus goes away is switched off: the caller
 * decides (bus_on_closed).
 */
#include "dbus/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void bus_error_set(struct bus_error *err, const char *name, const char *format, ...)
{
    va_list args;

    if (!err)
        return;
    snprintf(err->name, sizeof(err->name), "%s", name);
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
}

static DBusHandlerResult filter(DBusConnection *connection, DBusMessage *message, void *opaque)
{
    struct bus *bus = opaque;

    (void)connection;
    if (dbus_message_is_signal(message, DBUS_INTERFACE_LOCAL, "Disconnected")) {
        if (!bus->is_closed && bus->closed)
            bus->closed(bus->closed_opaque);
        bus->is_closed = true;
        return DBUS_HANDLER_RESULT_HANDLED;
    }
    if (dbus_message_get_type(message) == DBUS_MESSAGE_TYPE_SIGNAL)
        return bus_handle_signal(bus, message);
    return DBUS_HANDLER_RESULT_NOT_YET_HANDLED;
}

static DBusConnection *open_connection(const char *address, DBusError *error)
{
    DBusConnection *connection;

    if (strcmp(address, "system") == 0)
        return dbus_bus_get_private(DBUS_BUS_SYSTEM, error);
    if (strcmp(address, "session") == 0)
        return dbus_bus_get_private(DBUS_BUS_SESSION, error);
    connection = dbus_connection_open_private(address, error);
    if (!connection)
        return NULL;
    if (!dbus_bus_register(connection, error)) {
        dbus_connection_close(connection);
        dbus_connection_unref(connection);
        return NULL;
    }
    return connection;
}

int bus_connect(struct bus **ret_bus, struct event_base *base, const char *address,
                struct bus_error *err)
{
    DBusError error = DBUS_ERROR_INIT;
    struct bus *bus = calloc(1, sizeof(*bus));
    int r = -ENOMEM;

    if (!bus)
        return -ENOMEM;
    bus->base = base;
    bus->connection = open_connection(address, &error);
    if (!bus->connection) {
        bus_error_set(err, error.name, "cannot connect to the bus at %s: %s", address,
                      error.message);
        dbus_error_free(&error);
        r = -ECONNREFUSED;
        goto fail;
    }
    dbus_connection_set_exit_on_disconnect(bus->connection, FALSE);
    if (!dbus_connection_add_filter(bus->connection, filter, bus, NULL))
        goto fail_memory;
    if (base && bus_loop_attach(bus) < 0) {
        dbus_connection_remove_filter(bus->connection, filter, bus);
        goto fail_memory;
    }
    *ret_bus = bus;
    return 0;

fail_memory:
    bus_error_set(err, DBUS_ERROR_NO_MEMORY, "out of memory");
    bus_loop_detach(bus);
    dbus_connection_close(bus->connection);
    dbus_connection_unref(bus->connection);
fail:
    free(bus);
    return r;
}

void bus_free(struct bus *bus)
{
    if (!bus)
        return;
    bus_objects_free(bus);
    if (!bus->is_closed)
        dbus_connection_flush(bus->connection);
    bus_loop_detach(bus);
    dbus_connection_remove_filter(bus->connection, filter, bus);
    bus_subscriptions_free(bus);
    dbus_connection_close(bus->connection);
    dbus_connection_unref(bus->connection);
    free(bus);
}

void bus_on_closed(struct bus *bus, void (*closed)(void *opaque), void *opaque)
{
    bus->closed = closed;
    bus->closed_opaque = opaque;
}

int bus_request_name(struct bus *bus, const char *name, struct bus_error *err)
{
    DBusError error = DBUS_ERROR_INIT;
    int r = dbus_bus_request_name(bus->connection, name, DBUS_NAME_FLAG_DO_NOT_QUEUE, &error);

    if (r == DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER || r == DBUS_REQUEST_NAME_REPLY_ALREADY_OWNER)
        return 0;
    if (r == -1) {
        bus_error_set(err, error.name, "cannot take the name %s: %s", name, error.message);
        dbus_error_free(&error);
        return -EACCES;
    }
    bus_error_set(err, DBUS_ERROR_FAILED, "the name %s is taken on this bus", name);
    return -EEXIST;
}

void bus_flush(struct bus *bus)
{
    bus_flush_changed(bus);
    dbus_connection_flush(bus->connection);
}

DBusConnection *bus_connection(struct bus *bus)
{
    return bus->connection;
}
