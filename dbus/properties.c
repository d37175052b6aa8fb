/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * properties: org.freedesktop.DBus.Properties from the tables, and PropertiesChanged.
 *
 * Changes are only noted as bits; one signal per object and interface carries the values of the
 * moment it is sent, so a burst of changes costs one message.
 */
#include "dbus/internal.h"

#include <errno.h>
#include <string.h>

static const struct bus_method_entry methods[] = {
    {.name = "Get",
     .in = BUS_ARGS({"interface", "s"}, {"name", "s"}),
     .out = BUS_ARGS({"value", "v"})},
    {.name = "GetAll",
     .in = BUS_ARGS({"interface", "s"}),
     .out = BUS_ARGS({"properties", "a{sv}"})},
    {.name = "Set", .in = BUS_ARGS({"interface", "s"}, {"name", "s"}, {"value", "v"})},
    {0},
};

static const struct bus_signal_entry signals[] = {
    {.name = "PropertiesChanged",
     .args = BUS_ARGS({"interface", "s"}, {"changed", "a{sv}"}, {"invalidated", "as"})},
    {0},
};

const struct bus_interface bus_properties_interface = {
    .name = DBUS_INTERFACE_PROPERTIES,
    .methods = methods,
    .signals = signals,
};

/* The index of an interface of this object; -1: it has none of that name. */
static int find_interface(struct bus_object *object, const char *name)
{
    for (int i = 0; object->interfaces[i]; i++)
        if (strcmp(object->interfaces[i]->name, name) == 0)
            return i;
    return -1;
}

static const struct bus_property_entry *find_property(const struct bus_interface *interface,
                                                      const char *name)
{
    for (const struct bus_property_entry *p = interface->properties; p && p->name; p++)
        if (strcmp(p->name, name) == 0)
            return p;
    return NULL;
}

static bool put_variant(struct bus_object *object, const struct bus_property_entry *property,
                        DBusMessageIter *iter)
{
    DBusMessageIter variant;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_VARIANT, property->type, &variant))
        return false;
    if (property->get(object->object, &variant))
        return dbus_message_iter_close_container(iter, &variant);
    dbus_message_iter_abandon_container(iter, &variant);
    return false;
}

static bool put_entry(struct bus_object *object, const struct bus_property_entry *property,
                      DBusMessageIter *dict)
{
    DBusMessageIter entry;

    if (!dbus_message_iter_open_container(dict, DBUS_TYPE_DICT_ENTRY, NULL, &entry))
        return false;
    if (dbus_message_iter_append_basic(&entry, DBUS_TYPE_STRING, &property->name) &&
        put_variant(object, property, &entry))
        return dbus_message_iter_close_container(dict, &entry);
    dbus_message_iter_abandon_container(dict, &entry);
    return false;
}

/* Appends a{sv} of the properties whose bits are in `which`. */
static bool put_some(struct bus_object *object, const struct bus_interface *interface,
                     uint64_t which, DBusMessageIter *iter)
{
    const struct bus_property_entry *properties = interface->properties;
    DBusMessageIter dict;

    if (!bus_dict_open(iter, &dict))
        return false;
    for (unsigned i = 0; properties && properties[i].name && i < BUS_MAX_PROPERTIES; i++) {
        if (!(which & (UINT64_C(1) << i)))
            continue;
        if (!put_entry(object, &properties[i], &dict)) {
            dbus_message_iter_abandon_container(iter, &dict);
            return false;
        }
    }
    return bus_dict_close(iter, &dict);
}

bool bus_put_properties(struct bus_object *object, const struct bus_interface *interface,
                        DBusMessageIter *iter)
{
    return put_some(object, interface, UINT64_MAX, iter);
}

static DBusMessage *fail(DBusMessage *message, const char *error, const char *what,
                         const char *name)
{
    return dbus_message_new_error_printf(message, error, "%s: %s", what, name);
}

static DBusMessage *finish(DBusMessage *reply, bool ok)
{
    if (ok || !reply)
        return reply;
    dbus_message_unref(reply);
    return NULL;
}

static DBusMessage *get(struct bus_object *object, DBusMessage *message)
{
    const char *interface, *name;
    const struct bus_property_entry *property;
    DBusMessageIter iter;
    DBusMessage *reply;

    dbus_message_get_args(message, NULL, DBUS_TYPE_STRING, &interface, DBUS_TYPE_STRING, &name,
                          DBUS_TYPE_INVALID);
    int i = find_interface(object, interface);
    if (i < 0)
        return fail(message, DBUS_ERROR_UNKNOWN_INTERFACE, "no such interface here", interface);
    property = find_property(object->interfaces[i], name);
    if (!property)
        return fail(message, DBUS_ERROR_UNKNOWN_PROPERTY, "no such property", name);
    reply = dbus_message_new_method_return(message);
    if (!reply)
        return NULL;
    dbus_message_iter_init_append(reply, &iter);
    return finish(reply, put_variant(object, property, &iter));
}

static DBusMessage *get_all(struct bus_object *object, DBusMessage *message)
{
    const char *interface;
    DBusMessageIter iter;
    DBusMessage *reply;

    dbus_message_get_args(message, NULL, DBUS_TYPE_STRING, &interface, DBUS_TYPE_INVALID);
    int i = find_interface(object, interface);
    if (i < 0)
        return fail(message, DBUS_ERROR_UNKNOWN_INTERFACE, "no such interface here", interface);
    reply = dbus_message_new_method_return(message);
    if (!reply)
        return NULL;
    dbus_message_iter_init_append(reply, &iter);
    return finish(reply, bus_put_properties(object, object->interfaces[i], &iter));
}

static DBusMessage *set(struct bus_object *object, DBusMessage *message)
{
    const struct bus_property_entry *property;
    const char *interface, *name;
    struct bus_error err = {0};
    DBusMessageIter iter, value;
    char *type;
    bool type_ok;

    dbus_message_iter_init(message, &iter);
    dbus_message_iter_get_basic(&iter, &interface);
    dbus_message_iter_next(&iter);
    dbus_message_iter_get_basic(&iter, &name);
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &value);
    int i = find_interface(object, interface);
    if (i < 0)
        return fail(message, DBUS_ERROR_UNKNOWN_INTERFACE, "no such interface here", interface);
    property = find_property(object->interfaces[i], name);
    if (!property)
        return fail(message, DBUS_ERROR_UNKNOWN_PROPERTY, "no such property", name);
    if (!property->set)
        return fail(message, DBUS_ERROR_PROPERTY_READ_ONLY, "read-only property", name);
    type = dbus_message_iter_get_signature(&value);
    type_ok = type && strcmp(type, property->type) == 0;
    dbus_free(type);
    if (!type_ok)
        return fail(message, DBUS_ERROR_INVALID_ARGS, "value of a wrong type for property", name);
    if (property->set(object->object, &value, &err) < 0)
        return dbus_message_new_error(message, err.name[0] ? err.name : DBUS_ERROR_FAILED,
                                      err.text);
    return dbus_message_new_method_return(message);
}

DBusMessage *bus_properties_call(struct bus_object *object, DBusMessage *message, bool *ret_known)
{
    static const struct {
        const char *name, *signature;
        DBusMessage *(*call)(struct bus_object *object, DBusMessage *message);
    } calls[] = {{"Get", "ss", get}, {"GetAll", "s", get_all}, {"Set", "ssv", set}};
    const char *interface = dbus_message_get_interface(message);

    *ret_known = false;
    if (interface && strcmp(interface, DBUS_INTERFACE_PROPERTIES) != 0)
        return NULL;
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        if (strcmp(dbus_message_get_member(message), calls[i].name) != 0)
            continue;
        *ret_known = true;
        if (!dbus_message_has_signature(message, calls[i].signature))
            return fail(message, DBUS_ERROR_INVALID_ARGS, "wrong argument types for",
                        calls[i].name);
        return calls[i].call(object, message);
    }
    return NULL;
}

/* ---- change signals ---- */

void bus_changed(struct bus *bus, const char *path, const char *interface, const char *name)
{
    struct bus_object *object = bus_object_find(bus, path);
    const struct bus_property_entry *properties;
    int i = object ? find_interface(object, interface) : -1;

    if (i < 0)
        return;
    properties = object->interfaces[i]->properties;
    for (unsigned bit = 0; properties && properties[bit].name && bit < BUS_MAX_PROPERTIES; bit++) {
        if (strcmp(properties[bit].name, name) != 0 || (properties[bit].flags & BUS_CONST))
            continue;
        object->changed[i] |= UINT64_C(1) << bit;
        if (!object->dirty) {
            object->dirty = true;
            object->next_dirty = bus->dirty;
            bus->dirty = object;
        }
        if (bus->changed_event)
            bus_run_soon(bus->changed_event);
        return;
    }
}

/* Nobody can be told of a failure for lack of memory here: readers still get the value by Get. */
static void send_changed(struct bus_object *object, const struct bus_interface *interface,
                         uint64_t which)
{
    DBusMessageIter iter, invalidated;
    DBusMessage *signal =
        dbus_message_new_signal(object->path, DBUS_INTERFACE_PROPERTIES, "PropertiesChanged");
    bool ok;

    if (!signal)
        return;
    dbus_message_iter_init_append(signal, &iter);
    ok = bus_put_string(&iter, interface->name) && put_some(object, interface, which, &iter) &&
         dbus_message_iter_open_container(&iter, DBUS_TYPE_ARRAY, "s", &invalidated) &&
         dbus_message_iter_close_container(&iter, &invalidated);
    if (ok)
        dbus_connection_send(object->bus->connection, signal, NULL);
    dbus_message_unref(signal);
}

void bus_flush_changed(struct bus *bus)
{
    while (bus->dirty) {
        struct bus_object *object = bus->dirty;

        bus->dirty = object->next_dirty;
        object->dirty = false;
        object->next_dirty = NULL;
        for (int i = 0; object->interfaces[i]; i++) {
            uint64_t which = object->changed[i];

            object->changed[i] = 0;
            if (which)
                send_changed(object, object->interfaces[i], which);
        }
    }
}
