/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object: what is on the bus: registering, finding, removing, signals.
 *
 * libdbus's object tree does the look-up by path and answers for paths that do not exist; the list
 * here exists for ObjectManager and for freeing.
 */
#include "dbus/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static DBusHandlerResult on_message(DBusConnection *connection, DBusMessage *message, void *opaque)
{
    (void)connection;
    return bus_handle_call(opaque, message);
}

static const DBusObjectPathVTable vtable = {.message_function = on_message};

struct bus_object *bus_object_find(struct bus *bus, const char *path)
{
    void *object = NULL;

    if (!dbus_connection_get_object_path_data(bus->connection, path, &object))
        return NULL;
    return object;
}

static void object_free(struct bus_object *object)
{
    struct bus *bus = object->bus;

    for (struct bus_object **p = &bus->dirty; *p; p = &(*p)->next_dirty) {
        if (*p == object) {
            *p = object->next_dirty;
            break;
        }
    }
    if (object->prev)
        object->prev->next = object->next;
    else
        bus->objects = object->next;
    if (object->next)
        object->next->prev = object->prev;
    if (bus->manager == object)
        bus->manager = NULL;
    dbus_connection_unregister_object_path(bus->connection, object->path);
    free(object->path);
    free(object);
}

static size_t count_interfaces(const struct bus_interface *const *interfaces)
{
    size_t n = 0;

    while (interfaces[n])
        n++;
    return n;
}

int bus_add_object(struct bus *bus, const char *path, const struct bus_interface *const *interfaces,
                   void *opaque, bool is_manager)
{
    struct bus_object *object;

    if (count_interfaces(interfaces) > BUS_MAX_INTERFACES)
        return -EINVAL;
    if (bus_object_find(bus, path))
        return -EEXIST;
    object = calloc(1, sizeof(*object));
    if (!object)
        return -ENOMEM;
    *object = (struct bus_object){
        .bus = bus, .interfaces = interfaces, .object = opaque, .is_manager = is_manager};
    object->path = strdup(path);
    if (!object->path ||
        !dbus_connection_try_register_object_path(bus->connection, path, &vtable, object, NULL)) {
        free(object->path);
        free(object);
        return -ENOMEM;
    }
    object->next = bus->objects;
    if (object->next)
        object->next->prev = object;
    bus->objects = object;
    if (is_manager)
        bus->manager = object;
    bus_announce_added(object);
    return 0;
}

void bus_remove_object(struct bus *bus, const char *path)
{
    struct bus_object *object = bus_object_find(bus, path);

    if (!object)
        return;
    bus_flush_changed(bus);
    bus_announce_removed(object);
    object_free(object);
}

void bus_objects_free(struct bus *bus)
{
    while (bus->objects)
        object_free(bus->objects);
}

int bus_emit(struct bus *bus, const char *path, const char *interface, const char *signal,
             int first_type, ...)
{
    DBusMessage *message = dbus_message_new_signal(path, interface, signal);
    va_list args;
    bool ok;

    if (!message)
        return -ENOMEM;
    bus_flush_changed(bus);
    va_start(args, first_type);
    ok = dbus_message_append_args_valist(message, first_type, args);
    va_end(args);
    ok = ok && dbus_connection_send(bus->connection, message, NULL);
    dbus_message_unref(message);
    return ok ? 0 : -ENOMEM;
}
