/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * introspect: the XML description of an object, generated from its tables.
 *
 * What the bus says of itself cannot differ from what it does, because both come from one table.
 */
#include "dbus/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct bus_method_entry introspectable_methods[] = {
    {.name = "Introspect", .out = BUS_ARGS({"xml", "s"})},
    {0},
};

const struct bus_interface bus_introspectable_interface = {
    .name = DBUS_INTERFACE_INTROSPECTABLE,
    .methods = introspectable_methods,
};

static const struct bus_method_entry peer_methods[] = {
    {.name = "Ping"},
    {.name = "GetMachineId", .out = BUS_ARGS({"machine_uuid", "s"})},
    {0},
};

/* libdbus itself answers these on every path. */
const struct bus_interface bus_peer_interface = {
    .name = DBUS_INTERFACE_PEER,
    .methods = peer_methods,
};

static void print_args(FILE *xml, const struct bus_arg *args, const char *direction)
{
    for (; args && args->name; args++) {
        fprintf(xml, "   <arg name=\"%s\" type=\"%s\"", args->name, args->type);
        if (direction)
            fprintf(xml, " direction=\"%s\"", direction);
        fprintf(xml, "/>\n");
    }
}

static void print_property(FILE *xml, const struct bus_property_entry *property)
{
    fprintf(xml, "  <property name=\"%s\" type=\"%s\" access=\"%s\"", property->name,
            property->type, property->set ? "readwrite" : "read");
    if (property->flags & BUS_CONST)
        fprintf(xml, ">\n   <annotation name=\"org.freedesktop.DBus.Property.EmitsChangedSignal\" "
                     "value=\"const\"/>\n  </property>\n");
    else
        fprintf(xml, "/>\n");
}

static void print_interface(FILE *xml, const struct bus_interface *interface)
{
    fprintf(xml, " <interface name=\"%s\">\n", interface->name);
    for (const struct bus_method_entry *m = interface->methods; m && m->name; m++) {
        fprintf(xml, "  <method name=\"%s\">\n", m->name);
        print_args(xml, m->in, "in");
        print_args(xml, m->out, "out");
        fprintf(xml, "  </method>\n");
    }
    for (const struct bus_signal_entry *s = interface->signals; s && s->name; s++) {
        fprintf(xml, "  <signal name=\"%s\">\n", s->name);
        print_args(xml, s->args, NULL);
        fprintf(xml, "  </signal>\n");
    }
    for (const struct bus_property_entry *p = interface->properties; p && p->name; p++)
        print_property(xml, p);
    fprintf(xml, " </interface>\n");
}

static void print_children(FILE *xml, struct bus_object *object)
{
    char **children = NULL;

    if (!dbus_connection_list_registered(object->bus->connection, object->path, &children))
        return;
    for (char **child = children; *child; child++)
        fprintf(xml, " <node name=\"%s\"/>\n", *child);
    dbus_free_string_array(children);
}

static char *describe(struct bus_object *object)
{
    char *text = NULL;
    size_t size = 0;
    FILE *xml = open_memstream(&text, &size);

    if (!xml)
        return NULL;
    fputs(DBUS_INTROSPECT_1_0_XML_DOCTYPE_DECL_NODE "<node>\n", xml);
    for (int i = 0; object->interfaces[i]; i++)
        print_interface(xml, object->interfaces[i]);
    print_interface(xml, &bus_properties_interface);
    print_interface(xml, &bus_introspectable_interface);
    print_interface(xml, &bus_peer_interface);
    if (object->is_manager)
        print_interface(xml, &bus_manager_interface);
    print_children(xml, object);
    fputs("</node>\n", xml);
    if (fclose(xml) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

DBusMessage *bus_introspect_call(struct bus_object *object, DBusMessage *message, bool *ret_known)
{
    const char *interface = dbus_message_get_interface(message);
    DBusMessage *reply;
    char *xml;

    *ret_known = false;
    if ((interface && strcmp(interface, DBUS_INTERFACE_INTROSPECTABLE) != 0) ||
        strcmp(dbus_message_get_member(message), "Introspect") != 0)
        return NULL;
    *ret_known = true;
    if (!dbus_message_has_signature(message, ""))
        return dbus_message_new_error(message, DBUS_ERROR_INVALID_ARGS,
                                      "Introspect takes no arguments");
    xml = describe(object);
    reply = xml ? dbus_message_new_method_return(message) : NULL;
    if (reply && !dbus_message_append_args(reply, DBUS_TYPE_STRING, &xml, DBUS_TYPE_INVALID)) {
        dbus_message_unref(reply);
        reply = NULL;
    }
    free(xml);
    return reply;
}
