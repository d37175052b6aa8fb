/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of dbus/ share with each other and nobody else.
 */
#ifndef BUS_INTERNAL_H
#define BUS_INTERNAL_H

#include "dbus/bus.h"

#include <event2/event.h>
#include <stddef.h>

#define BUS_MAX_SIGNATURE  DBUS_MAXIMUM_SIGNATURE_LENGTH
#define BUS_MAX_INTERFACES 4 /* of one object */

struct bus_object {
    struct bus *bus;
    char *path;
    const struct bus_interface *const *interfaces;
    void *object;
    bool is_manager;
    uint64_t changed[BUS_MAX_INTERFACES]; /* bit n: property n, not sent yet */
    bool dirty;                           /* on the bus's dirty list */
    struct bus_object *next_dirty;
    struct bus_object *prev, *next; /* all objects */
};

struct bus_subscription {
    char *rule;
    char *sender; /* unique name or NULL: see subscription_wants() */
    char *path, *interface, *member;
    bool below; /* path stands for everything below it, too */
    bus_signal_fn fn;
    void *opaque;
    struct bus_subscription *next;
};

struct bus {
    DBusConnection *connection;
    struct event_base *base;      /* NULL: no loop */
    struct event *dispatch_event; /* libdbus has messages to dispatch */
    struct event *changed_event;  /* properties changed and nobody was told yet */
    struct bus_object *objects;   /* newest first */
    struct bus_object *dirty;     /* objects with changed properties */
    struct bus_object *manager;   /* the one with is_manager */
    struct bus_subscription *subscriptions;
    void (*closed)(void *opaque);
    void *closed_opaque;
    bool is_closed;
};

struct bus_call {
    struct bus *bus;
    DBusMessage *message;
};

/* loop.c */
int bus_loop_attach(struct bus *bus);
void bus_loop_detach(struct bus *bus);
void bus_run_soon(struct event *event); /* in the next turn of the loop */

/* object.c */
struct bus_object *bus_object_find(struct bus *bus, const char *path);
void bus_objects_free(struct bus *bus);

/* call.c */
DBusHandlerResult bus_handle_call(struct bus_object *object, DBusMessage *message);
/* `size` bytes at `signature` receive the types of `args` in a row. False: they do not fit. */
bool bus_args_signature(const struct bus_arg *args, char *signature, size_t size);
void bus_error_set(struct bus_error *err, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* properties.c, introspect.c, manager.c: the standard interfaces. NULL: no memory, else a reply or
 * an error message; NULL with *ret_known false: not a method of theirs. */
DBusMessage *bus_properties_call(struct bus_object *object, DBusMessage *message, bool *ret_known);
DBusMessage *bus_introspect_call(struct bus_object *object, DBusMessage *message, bool *ret_known);
DBusMessage *bus_manager_call(struct bus_object *object, DBusMessage *message, bool *ret_known);

/* Appends a{sv} of all readable properties of one interface. */
bool bus_put_properties(struct bus_object *object, const struct bus_interface *interface,
                        DBusMessageIter *iter);
/* Sends PropertiesChanged for everything noted so far. */
void bus_flush_changed(struct bus *bus);

void bus_announce_added(struct bus_object *object);
void bus_announce_removed(struct bus_object *object);

/* The interfaces every object has, for introspection and InterfacesAdded. */
extern const struct bus_interface bus_properties_interface;
extern const struct bus_interface bus_introspectable_interface;
extern const struct bus_interface bus_peer_interface;
extern const struct bus_interface bus_manager_interface;

/* client.c */
DBusHandlerResult bus_handle_signal(struct bus *bus, DBusMessage *message);
void bus_subscriptions_free(struct bus *bus);

#endif
