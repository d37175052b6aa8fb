/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * manager: org.freedesktop.DBus.ObjectManager: all objects below one path in one call, and signals
 * when they come and go.
 */
#include "dbus/internal.h"

#include <string.h>

#define OBJECT_MANAGER "org.freedesktop.DBus.ObjectManager"

static const struct bus_method_entry methods[] = {
    {.name = "GetManagedObjects", .out = BUS_ARGS({"objects", "a{oa{sa{sv}}}"})},
    {0},
};

static const struct bus_signal_entry signals[] = {
    {.name = "InterfacesAdded", .args = BUS_ARGS({"object", "o"}, {"interfaces", "a{sa{sv}}"})},
    {.name = "InterfacesRemoved", .args = BUS_ARGS({"object", "o"}, {"interfaces", "as"})},
    {0},
};

const struct bus_interface bus_manager_interface = {
    .name = OBJECT_MANAGER,
    .methods = methods,
    .signals = signals,
};

static const struct bus_interface *const standard[] = {
    &bus_properties_interface, &bus_introspectable_interface, &bus_peer_interface};
#define N_STANDARD (sizeof(standard) / sizeof(standard[0]))

static bool put_interface(struct bus_object *object, const struct bus_interface *interface,
                          bool own, DBusMessageIter *dict)
{
    static const struct bus_interface none = {.name = ""};
    DBusMessageIter entry;

    if (!dbus_message_iter_open_container(dict, DBUS_TYPE_DICT_ENTRY, NULL, &entry))
        return false;
    if (dbus_message_iter_append_basic(&entry, DBUS_TYPE_STRING, &interface->name) &&
        bus_put_properties(object, own ? interface : &none, &entry))
        return dbus_message_iter_close_container(dict, &entry);
    dbus_message_iter_abandon_container(dict, &entry);
    return false;
}

/* Appends a{sa{sv}}: every interface with its properties. */
static bool put_interfaces(struct bus_object *object, DBusMessageIter *iter)
{
    DBusMessageIter dict;
    bool ok = true;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "{sa{sv}}", &dict))
        return false;
    for (int i = 0; ok && object->interfaces[i]; i++)
        ok = put_interface(object, object->interfaces[i], true, &dict);
    for (size_t i = 0; ok && i < N_STANDARD; i++)
        ok = put_interface(object, standard[i], false, &dict);
    if (ok)
        return dbus_message_iter_close_container(iter, &dict);
    dbus_message_iter_abandon_container(iter, &dict);
    return false;
}

static bool put_object(struct bus_object *object, DBusMessageIter *dict)
{
    DBusMessageIter entry;

    if (!dbus_message_iter_open_container(dict, DBUS_TYPE_DICT_ENTRY, NULL, &entry))
        return false;
    if (bus_put_path(&entry, object->path) && put_interfaces(object, &entry))
        return dbus_message_iter_close_container(dict, &entry);
    dbus_message_iter_abandon_container(dict, &entry);
    return false;
}

static bool is_below(const struct bus_object *object, const struct bus_object *manager)
{
    size_t n = strlen(manager->path);

    return strncmp(object->path, manager->path, n) == 0 && object->path[n] == '/';
}

static bool put_all(struct bus_object *manager, DBusMessageIter *iter)
{
    DBusMessageIter dict;
    bool ok = true;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "{oa{sa{sv}}}", &dict))
        return false;
    for (struct bus_object *o = manager->bus->objects; ok && o; o = o->next)
        if (is_below(o, manager))
            ok = put_object(o, &dict);
    if (ok)
        return dbus_message_iter_close_container(iter, &dict);
    dbus_message_iter_abandon_container(iter, &dict);
    return false;
}

DBusMessage *bus_manager_call(struct bus_object *object, DBusMessage *message, bool *ret_known)
{
    const char *interface = dbus_message_get_interface(message);
    DBusMessageIter iter;
    DBusMessage *reply;

    *ret_known = false;
    if ((interface && strcmp(interface, OBJECT_MANAGER) != 0) ||
        strcmp(dbus_message_get_member(message), "GetManagedObjects") != 0)
        return NULL;
    *ret_known = true;
    if (!dbus_message_has_signature(message, ""))
        return dbus_message_new_error(message, DBUS_ERROR_INVALID_ARGS,
                                      "GetManagedObjects takes no arguments");
    reply = dbus_message_new_method_return(message);
    if (!reply)
        return NULL;
    dbus_message_iter_init_append(reply, &iter);
    if (!put_all(object, &iter)) {
        dbus_message_unref(reply);
        return NULL;
    }
    return reply;
}

static bool put_names(struct bus_object *object, DBusMessageIter *iter)
{
    DBusMessageIter array;
    bool ok = true;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "s", &array))
        return false;
    for (int i = 0; ok && object->interfaces[i]; i++)
        ok = bus_put_string(&array, object->interfaces[i]->name);
    for (size_t i = 0; ok && i < N_STANDARD; i++)
        ok = bus_put_string(&array, standard[i]->name);
    return dbus_message_iter_close_container(iter, &array) && ok;
}

static void announce(struct bus_object *object, const char *name,
                     bool (*put)(struct bus_object *object, DBusMessageIter *iter))
{
    struct bus_object *manager = object->bus->manager;
    DBusMessageIter iter;
    DBusMessage *signal;

    if (!manager || !is_below(object, manager))
        return;
    signal = dbus_message_new_signal(manager->path, OBJECT_MANAGER, name);
    if (!signal)
        return;
    dbus_message_iter_init_append(signal, &iter);
    if (bus_put_path(&iter, object->path) && put(object, &iter))
        dbus_connection_send(object->bus->connection, signal, NULL);
    dbus_message_unref(signal);
}

void bus_announce_added(struct bus_object *object)
{
    announce(object, "InterfacesAdded", put_interfaces);
}

void bus_announce_removed(struct bus_object *object)
{
    announce(object, "InterfacesRemoved", put_names);
}
