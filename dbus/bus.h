/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bus: D-Bus for a libevent program, in two halves.
 *
 * Server half: an object is a path, a pointer and a list of interface tables; from the tables come
 * dispatch, argument checks, Properties with PropertiesChanged, Introspectable and ObjectManager.
 * Client half: calls (blocking or not), signals, properties. Messages are libdbus's DBusMessage and
 * DBusMessageIter; nothing hides them.
 *
 * It neither logs nor exits (libdbus itself prints when it is misused: texts that are not UTF-8
 * must go through bus_put_string()). A struct bus and all that hangs on it belongs to one thread.
 * Functions return 0 or -errno; the value helpers return false for lack of memory or a wrong type.
 */
#ifndef BUS_H
#define BUS_H

#include <dbus/dbus.h>
#include <stdbool.h>
#include <stdint.h>

struct bus;
struct event_base;

/* A D-Bus error: its name ("org.vmmd1.Error.NotFound") and one line of text. */
struct bus_error {
    char name[128];
    char text[640];
};

/* ---- connection (both halves) ---- */

/*
 * Connects to `address`: "system", "session" or a D-Bus address ("unix:path=..."). With `base` the
 * connection lives on that loop: handlers run from there. Without (NULL) use blocking calls and
 * bus_wait(). -ECONNREFUSED with `err` filled, or -ENOMEM.
 */
int bus_connect(struct bus **ret_bus, struct event_base *base, const char *address,
                struct bus_error *err);

/* Sends what is queued, closes, frees. All kept calls must have been answered. NULL is fine. */
void bus_free(struct bus *bus);

/* Called once, from the loop, when the bus went away. */
void bus_on_closed(struct bus *bus, void (*closed)(void *opaque), void *opaque);

/* Takes a well-known name. -EEXIST: somebody else has it; other failures -EACCES; `err` says. */
int bus_request_name(struct bus *bus, const char *name, struct bus_error *err);

/* Writes out what is queued, noted property changes included (blocks until it is written). */
void bus_flush(struct bus *bus);

/* The libdbus connection; stays the bus's. */
DBusConnection *bus_connection(struct bus *bus);

/* ---- client half ---- */

/* A method call to be filled with dbus_message_append_args() and sent below; NULL: no memory. */
DBusMessage *bus_method(const char *destination, const char *path, const char *interface,
                        const char *method);

/*
 * Sends `message` (consumed, may be NULL: -ENOMEM) and waits for the reply, at most timeout_ms
 * (-1: as long as it takes). On 0 the reply is the caller's (dbus_message_unref); ret_reply may be
 * NULL. -EREMOTEIO: an error came back, name and text in `err`; -ETIMEDOUT and -ECONNRESET
 * likewise with `err`. Signals that arrive meanwhile are kept and dispatched later.
 */
int bus_send_wait(struct bus *bus, DBusMessage *message, int timeout_ms, DBusMessage **ret_reply,
                  struct bus_error *err);

/* The reply of bus_send(): exactly one of reply (borrowed) and err is not NULL. */
typedef void (*bus_reply_fn)(void *opaque, DBusMessage *reply, const struct bus_error *err);

/* Sends `message` (consumed); `reply` is called from the loop, or never if bus_free() came first.*/
int bus_send(struct bus *bus, DBusMessage *message, int timeout_ms, bus_reply_fn reply,
             void *opaque);

/* A signal that matches; the message is borrowed. */
typedef void (*bus_signal_fn)(void *opaque, DBusMessage *signal);

/*
 * Subscribes: each of sender, path, interface, member may be NULL for any. A path that ends with a
 * slash ("/org/vmmd1/") stands for itself and everything below.
 * A struct bus with a base calls `fn` from the loop, one without from bus_wait(). -EREMOTEIO with
 * `err`. Lives until bus_free().
 */
int bus_match(struct bus *bus, const char *sender, const char *path, const char *interface,
              const char *member, bus_signal_fn fn, void *opaque, struct bus_error *err);

/* For a bus without a loop: waits for input (at most timeout_ms, -1: forever) and dispatches it.
 * 0, or -ECONNRESET when the bus went away. */
int bus_wait(struct bus *bus, int timeout_ms);

/*
 * Reads one property (blocking). `type` is a basic DBUS_TYPE_*; ret_value as for
 * dbus_message_iter_get_basic(), but a string is malloc'ed and the caller's. -EREMOTEIO, or -EPROTO
 * for another type, with `err`.
 */
int bus_get_property(struct bus *bus, const char *destination, const char *path,
                     const char *interface, const char *name, int type, void *ret_value,
                     struct bus_error *err);

/* ---- values (both halves) ---- */

/* Appends one value. A string may hold any bytes: those that are not UTF-8 or are control
 * characters other than tab become '?'; NULL becomes "". */
bool bus_put_string(DBusMessageIter *iter, const char *text);
bool bus_put_i32(DBusMessageIter *iter, int32_t value);
bool bus_put_u32(DBusMessageIter *iter, uint32_t value);
bool bus_put_u64(DBusMessageIter *iter, uint64_t value);
bool bus_put_double(DBusMessageIter *iter, double value);
bool bus_put_bool(DBusMessageIter *iter, bool value);
bool bus_put_path(DBusMessageIter *iter, const char *path);

/* a{sv}: open, any number of entries, close. `type` is a basic DBUS_TYPE_*, `value` points to it.*/
bool bus_dict_open(DBusMessageIter *iter, DBusMessageIter *ret_dict);
bool bus_dict_put(DBusMessageIter *dict, const char *key, int type, const void *value);
bool bus_dict_close(DBusMessageIter *iter, DBusMessageIter *dict);

/*
 * Walks a{sv}: `dict` stands in the array (after dbus_message_iter_recurse). True while there is an
 * entry: its key and the iterator inside its variant; moves on to the next.
 */
bool bus_dict_next(DBusMessageIter *dict, const char **ret_key, DBusMessageIter *ret_value);

/* Reads a basic value if it has this type (for fds: a new fd, the caller's; strings: borrowed). */
bool bus_get(DBusMessageIter *iter, int type, void *ret_value);

/* ---- server half ---- */

struct bus_call; /* a method call that waits for its answer */

struct bus_arg {
    const char *name, *type;
};
#define BUS_ARGS(...)        \
    (const struct bus_arg[]) \
    {                        \
        __VA_ARGS__,         \
        {                    \
            0                \
        }                    \
    }

/* Arrays of these end with an entry whose name is NULL; `in`, `out`, `args` may be NULL (none). */
struct bus_method_entry {
    const char *name;
    const struct bus_arg *in, *out;
    /* Arguments have the types of `in`. Must answer `call` exactly once, now or later. */
    void (*call)(void *object, struct bus_call *call);
};

enum bus_property_flags { BUS_CONST = 1 }; /* never changes while the object lives */

struct bus_property_entry {
    const char *name, *type;
    bool (*get)(void *object, DBusMessageIter *iter); /* appends one value of `type` */
    /* NULL: read-only. `value` has the right type. 0 or -errno with `err` filled. */
    int (*set)(void *object, DBusMessageIter *value, struct bus_error *err);
    unsigned flags;
};

struct bus_signal_entry {
    const char *name;
    const struct bus_arg *args;
};

struct bus_interface {
    const char *name;
    const struct bus_method_entry *methods;
    const struct bus_property_entry *properties; /* at most BUS_MAX_PROPERTIES */
    const struct bus_signal_entry *signals;
};
#define BUS_MAX_PROPERTIES 64 /* per interface: change flags are one word */

/*
 * Puts an object on the bus; `interfaces` (ends with NULL) and the tables outlive it. An
 * object below an object manager is announced by InterfacesAdded. -EEXIST, -ENOMEM.
 * With `is_manager` the object also has ObjectManager for all paths below its own.
 */
int bus_add_object(struct bus *bus, const char *path, const struct bus_interface *const *interfaces,
                   void *object, bool is_manager);

/* Takes it off (announced by InterfacesRemoved). Unknown paths are ignored. */
void bus_remove_object(struct bus *bus, const char *path);

/*
 * Notes that a property changed. PropertiesChanged is sent once for all that was noted, before the
 * next signal or answer and at the latest in the next turn of the loop. Unknown paths, unknown and
 * constant properties are ignored.
 */
void bus_changed(struct bus *bus, const char *path, const char *interface, const char *property);

/* Emits a signal; varargs as for dbus_message_append_args(), ending with DBUS_TYPE_INVALID. */
int bus_emit(struct bus *bus, const char *path, const char *interface, const char *signal,
             int first_type, ...);

/* The call's message: arguments in, borrowed. */
DBusMessage *bus_call_message(struct bus_call *call);

/* Answers with values (varargs as for dbus_message_append_args()); the call is gone afterwards. */
void bus_call_return(struct bus_call *call, int first_type, ...);

/* An empty reply to fill by iterator, and its sending (consumes both; NULL reply: NoMemory). */
DBusMessage *bus_call_reply_new(struct bus_call *call);
void bus_call_return_message(struct bus_call *call, DBusMessage *reply);

/* Answers with an error; the call is gone afterwards. */
void bus_call_fail(struct bus_call *call, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
