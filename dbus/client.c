/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * client: calling others and hearing their signals.
 *
 * The bus filters signals by the match rules of this connection as a whole; which subscription a
 * signal belongs to is found again here. A sender that is a well-known name cannot be compared (the
 * message carries the unique name), so for those the bus's own filtering must do.
 */
#include "dbus/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

DBusMessage *bus_method(const char *destination, const char *path, const char *interface,
                        const char *method)
{
    return dbus_message_new_method_call(destination, path, interface, method);
}

static int error_to_errno(const char *name)
{
    if (strcmp(name, DBUS_ERROR_NO_REPLY) == 0 || strcmp(name, DBUS_ERROR_TIMEOUT) == 0)
        return -ETIMEDOUT;
    if (strcmp(name, DBUS_ERROR_DISCONNECTED) == 0)
        return -ECONNRESET;
    if (strcmp(name, DBUS_ERROR_NO_MEMORY) == 0)
        return -ENOMEM;
    return -EREMOTEIO;
}

static int take_error(struct bus_error *err, DBusError *error)
{
    int r = error_to_errno(error->name);

    bus_error_set(err, error->name, "%s", error->message);
    dbus_error_free(error);
    return r;
}

int bus_send_wait(struct bus *bus, DBusMessage *message, int timeout_ms, DBusMessage **ret_reply,
                  struct bus_error *err)
{
    DBusError error = DBUS_ERROR_INIT;
    DBusMessage *reply;

    if (!message) {
        bus_error_set(err, DBUS_ERROR_NO_MEMORY, "out of memory");
        return -ENOMEM;
    }
    reply = dbus_connection_send_with_reply_and_block(
        bus->connection, message, timeout_ms < 0 ? DBUS_TIMEOUT_INFINITE : timeout_ms, &error);
    dbus_message_unref(message);
    if (!reply)
        return take_error(err, &error);
    if (ret_reply)
        *ret_reply = reply;
    else
        dbus_message_unref(reply);
    return 0;
}

struct pending {
    bus_reply_fn reply;
    void *opaque;
};

static void on_reply(DBusPendingCall *call, void *opaque)
{
    struct pending *pending = opaque;
    DBusMessage *reply = dbus_pending_call_steal_reply(call);
    DBusError error = DBUS_ERROR_INIT;
    struct bus_error err;

    if (reply && dbus_set_error_from_message(&error, reply)) {
        take_error(&err, &error);
        pending->reply(pending->opaque, NULL, &err);
    } else {
        pending->reply(pending->opaque, reply, NULL);
    }
    if (reply)
        dbus_message_unref(reply);
}

int bus_send(struct bus *bus, DBusMessage *message, int timeout_ms, bus_reply_fn reply,
             void *opaque)
{
    DBusPendingCall *call = NULL;
    struct pending *pending;
    bool ok;

    if (!message)
        return -ENOMEM;
    ok = dbus_connection_send_with_reply(bus->connection, message, &call,
                                         timeout_ms < 0 ? DBUS_TIMEOUT_INFINITE : timeout_ms);
    dbus_message_unref(message);
    if (!ok)
        return -ENOMEM;
    if (!call)
        return -ECONNRESET;
    pending = malloc(sizeof(*pending));
    if (!pending)
        goto fail;
    *pending = (struct pending){reply, opaque};
    if (!dbus_pending_call_set_notify(call, on_reply, pending, free))
        goto fail;
    dbus_pending_call_unref(call);
    return 0;
fail:
    free(pending);
    dbus_pending_call_cancel(call);
    dbus_pending_call_unref(call);
    return -ENOMEM;
}

/* ---- signals ---- */

static bool same(const char *wanted, const char *got)
{
    return !wanted || (got && strcmp(wanted, got) == 0);
}

static bool path_matches(const struct bus_subscription *s, const char *path)
{
    size_t n;

    if (!s->below || !path)
        return same(s->path, path);
    n = strlen(s->path);
    return strncmp(s->path, path, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool subscription_wants(const struct bus_subscription *s, DBusMessage *message)
{
    return same(s->sender, dbus_message_get_sender(message)) &&
           path_matches(s, dbus_message_get_path(message)) &&
           same(s->interface, dbus_message_get_interface(message)) &&
           same(s->member, dbus_message_get_member(message));
}

DBusHandlerResult bus_handle_signal(struct bus *bus, DBusMessage *message)
{
    struct bus_subscription *next;

    for (struct bus_subscription *s = bus->subscriptions; s; s = next) {
        next = s->next;
        if (subscription_wants(s, message))
            s->fn(s->opaque, message);
    }
    return DBUS_HANDLER_RESULT_NOT_YET_HANDLED;
}

static void add_condition(FILE *rule, const char *key, const char *value)
{
    if (value)
        fprintf(rule, ",%s='%s'", key, value);
}

static char *make_rule(const struct bus_subscription *s, const char *sender)
{
    char *text = NULL;
    size_t size;
    FILE *rule = open_memstream(&text, &size);

    if (!rule)
        return NULL;
    fputs("type='signal'", rule);
    add_condition(rule, "sender", sender);
    add_condition(rule, s->below ? "path_namespace" : "path", s->path);
    add_condition(rule, "interface", s->interface);
    add_condition(rule, "member", s->member);
    if (fclose(rule) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

static void subscription_free(struct bus_subscription *s)
{
    free(s->rule);
    free(s->sender);
    free(s->path);
    free(s->interface);
    free(s->member);
    free(s);
}

void bus_subscriptions_free(struct bus *bus)
{
    while (bus->subscriptions) {
        struct bus_subscription *s = bus->subscriptions;

        bus->subscriptions = s->next;
        subscription_free(s);
    }
}

static bool copy(char **ret_copy, const char *text)
{
    *ret_copy = text ? strdup(text) : NULL;
    return !text || *ret_copy;
}

static bool fill(struct bus_subscription *s, const char *sender, const char *path,
                 const char *interface, const char *member)
{
    size_t n = path ? strlen(path) : 0;

    if (!copy(&s->sender, sender && sender[0] == ':' ? sender : NULL) || !copy(&s->path, path) ||
        !copy(&s->interface, interface) || !copy(&s->member, member))
        return false;
    if (n > 1 && path[n - 1] == '/') {
        s->path[n - 1] = '\0';
        s->below = true;
    }
    s->rule = make_rule(s, sender);
    return s->rule != NULL;
}

int bus_match(struct bus *bus, const char *sender, const char *path, const char *interface,
              const char *member, bus_signal_fn fn, void *opaque, struct bus_error *err)
{
    DBusError error = DBUS_ERROR_INIT;
    struct bus_subscription *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    if (!fill(s, sender, path, interface, member)) {
        subscription_free(s);
        return -ENOMEM;
    }
    s->fn = fn;
    s->opaque = opaque;
    dbus_bus_add_match(bus->connection, s->rule, &error);
    if (dbus_error_is_set(&error)) {
        subscription_free(s);
        return take_error(err, &error);
    }
    s->next = bus->subscriptions;
    bus->subscriptions = s;
    return 0;
}

int bus_wait(struct bus *bus, int timeout_ms)
{
    while (dbus_connection_get_dispatch_status(bus->connection) == DBUS_DISPATCH_DATA_REMAINS) {
        dbus_connection_dispatch(bus->connection);
        timeout_ms = 0;
    }
    if (!dbus_connection_read_write_dispatch(bus->connection, timeout_ms) || bus->is_closed)
        return -ECONNRESET;
    return 0;
}

int bus_get_property(struct bus *bus, const char *destination, const char *path,
                     const char *interface, const char *name, int type, void *ret_value,
                     struct bus_error *err)
{
    DBusMessage *message = bus_method(destination, path, DBUS_INTERFACE_PROPERTIES, "Get");
    DBusMessageIter iter, value;
    DBusMessage *reply;
    int r;

    if (message)
        dbus_message_append_args(message, DBUS_TYPE_STRING, &interface, DBUS_TYPE_STRING, &name,
                                 DBUS_TYPE_INVALID);
    r = bus_send_wait(bus, message, -1, &reply, err);
    if (r < 0)
        return r;
    r = -EPROTO;
    if (dbus_message_has_signature(reply, "v")) {
        dbus_message_iter_init(reply, &iter);
        dbus_message_iter_recurse(&iter, &value);
        if (bus_get(&value, type, ret_value))
            r = 0;
    }
    if (r == 0 && type == DBUS_TYPE_STRING) {
        *(char **)ret_value = strdup(*(char **)ret_value);
        r = *(char **)ret_value ? 0 : -ENOMEM;
    }
    if (r < 0)
        bus_error_set(err, DBUS_ERROR_INVALID_SIGNATURE, "property %s has an unexpected type",
                      name);
    dbus_message_unref(reply);
    return r;
}
