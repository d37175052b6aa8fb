/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * call: from a method call message to the handler in a table, and back.
 *
 * The argument types are compared with the table before a handler runs, so handlers need not. An
 * answer may come long after the handler returned; a struct bus_call holds all it needs for that.
 */
#include "dbus/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool bus_args_signature(const struct bus_arg *args, char *signature, size_t size)
{
    size_t used = 0;

    signature[0] = '\0';
    for (; args && args->name; args++) {
        size_t n = strlen(args->type);

        if (used + n >= size)
            return false;
        memcpy(signature + used, args->type, n + 1);
        used += n;
    }
    return true;
}

static const struct bus_method_entry *find_method(struct bus_object *object, const char *interface,
                                                  const char *name)
{
    for (size_t i = 0; object->interfaces[i]; i++) {
        if (interface && strcmp(interface, object->interfaces[i]->name) != 0)
            continue;
        for (const struct bus_method_entry *m = object->interfaces[i]->methods; m && m->name; m++)
            if (strcmp(m->name, name) == 0)
                return m;
    }
    return NULL;
}

static void send_reply(struct bus *bus, DBusMessage *call, DBusMessage *reply)
{
    bus_flush_changed(bus);
    if (!dbus_message_get_no_reply(call))
        dbus_connection_send(bus->connection, reply, NULL);
}

static DBusMessage *standard_call(struct bus_object *object, DBusMessage *message, bool *ret_known)
{
    DBusMessage *reply = bus_properties_call(object, message, ret_known);

    if (!*ret_known)
        reply = bus_introspect_call(object, message, ret_known);
    if (!*ret_known && object->is_manager)
        reply = bus_manager_call(object, message, ret_known);
    return reply;
}

static DBusHandlerResult start_call(struct bus_object *object,
                                    const struct bus_method_entry *method, DBusMessage *message)
{
    char wanted[BUS_MAX_SIGNATURE + 1];
    struct bus_call *call = calloc(1, sizeof(*call));

    if (!call)
        return DBUS_HANDLER_RESULT_NEED_MEMORY;
    call->bus = object->bus;
    call->message = dbus_message_ref(message);
    if (!bus_args_signature(method->in, wanted, sizeof(wanted)) ||
        strcmp(wanted, dbus_message_get_signature(message)) != 0)
        bus_call_fail(call, DBUS_ERROR_INVALID_ARGS, "%s takes arguments of type (%s), got (%s)",
                      method->name, wanted, dbus_message_get_signature(message));
    else
        method->call(object->object, call);
    return DBUS_HANDLER_RESULT_HANDLED;
}

DBusHandlerResult bus_handle_call(struct bus_object *object, DBusMessage *message)
{
    struct bus *bus = object->bus;
    const struct bus_method_entry *method;
    DBusMessage *reply;
    bool known = false;

    if (dbus_message_get_type(message) != DBUS_MESSAGE_TYPE_METHOD_CALL)
        return DBUS_HANDLER_RESULT_NOT_YET_HANDLED;
    reply = standard_call(object, message, &known);
    if (known && !reply)
        return DBUS_HANDLER_RESULT_NEED_MEMORY;
    if (known) {
        send_reply(bus, message, reply);
        dbus_message_unref(reply);
        return DBUS_HANDLER_RESULT_HANDLED;
    }
    method =
        find_method(object, dbus_message_get_interface(message), dbus_message_get_member(message));
    if (!method)
        return DBUS_HANDLER_RESULT_NOT_YET_HANDLED; /* libdbus answers UnknownMethod */
    return start_call(object, method, message);
}

DBusMessage *bus_call_message(struct bus_call *call)
{
    return call->message;
}

static void call_free(struct bus_call *call)
{
    dbus_message_unref(call->message);
    free(call);
}

DBusMessage *bus_call_reply_new(struct bus_call *call)
{
    return dbus_message_new_method_return(call->message);
}

void bus_call_return_message(struct bus_call *call, DBusMessage *reply)
{
    if (!reply) {
        bus_call_fail(call, DBUS_ERROR_NO_MEMORY, "out of memory");
        return;
    }
    send_reply(call->bus, call->message, reply);
    dbus_message_unref(reply);
    call_free(call);
}

void bus_call_return(struct bus_call *call, int first_type, ...)
{
    DBusMessage *reply = bus_call_reply_new(call);
    va_list args;

    va_start(args, first_type);
    if (reply && !dbus_message_append_args_valist(reply, first_type, args)) {
        dbus_message_unref(reply);
        reply = NULL;
    }
    va_end(args);
    bus_call_return_message(call, reply);
}

void bus_call_fail(struct bus_call *call, const char *name, const char *format, ...)
{
    char text[sizeof(((struct bus_error *)0)->text)];
    DBusMessageIter iter;
    DBusMessage *reply;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    reply = dbus_message_new_error(call->message, name, NULL);
    if (reply) {
        dbus_message_iter_init_append(reply, &iter);
        bus_put_string(&iter, text);
        send_reply(call->bus, call->message, reply);
        dbus_message_unref(reply);
    }
    call_free(call);
}
