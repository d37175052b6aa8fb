/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * adapter: the daemon's objects on the bus. Thin: every *-bus.c turns a message into a call of an
 * object that knows no bus, and back; the rules are all in the objects.
 */
#ifndef VMMD_ADAPTER_H
#define VMMD_ADAPTER_H

#include "dbus/bus.h"
#include "vmmd/daemon.h"
#include "vmmd/name.h"

#define ADAPTER_BUS_NAME "org.vmmd1"
#define ADAPTER_ROOT     "/org/vmmd1"
#define ADAPTER_ERROR    "org.vmmd1.Error."
/* "/org/vmmd1/template/" and a label, in which every byte may take three */
#define ADAPTER_PATH_MAX (32 + 3 * NAME_LENGTH_MAX)

struct adapter {
    struct bus *bus;
    struct daemon *daemon;
};

/* Puts everything the daemon has on the bus and listens to it. -ENOMEM. */
int adapter_new(struct adapter **ret_adapter, struct daemon *daemon, struct bus *bus);
/* Stops listening, before the daemon is freed and the bus after it: an end is no news of guests.
 * NULL is fine. */
void adapter_free(struct adapter *adapter);

/* Answers with org.vmmd1.Error.KIND. */
void adapter_fail(struct bus_call *call, const struct problem *problem);

#define ADAPTER_HISTORY "a(tttttt)" /* time, resident, saved, cpu_ns, merges, splits */
/* Answers with a history. */
void adapter_return_history(struct bus_call *call, const struct history *history);

/* Descriptors that were passed: the caller's to close, also after an error. */
struct adapter_fds {
    int *fd;
    unsigned n, max;
};

/* One key of a{sv} that a method understands; tables end with key NULL. */
struct adapter_option {
    const char *key;
    int type;    /* DBUS_TYPE_*; _ARRAY: of fds, into a struct adapter_fds */
    void *value; /* where it goes */
    bool *given; /* NULL: `value` itself tells */
};

/* Reads a{sv}; `dict` stands in the array. Unknown keys are refused: an option that is silently
 * ignored is a wish silently not fulfilled. An fd that came before an error is the caller's to
 * close. */
int adapter_read_options(DBusMessageIter *dict, const struct adapter_option *options,
                         struct problem *problem);

/* For the setter of a property. */
void adapter_error(struct bus_error *err, const struct problem *problem);

/* A guest_done_fn: answers the call without values, or with the problem. */
void adapter_done(void *call, const struct problem *problem);

void adapter_guest_path(const char *name, char path[ADAPTER_PATH_MAX]);
void adapter_template_path(const char *name, char path[ADAPTER_PATH_MAX]);
void adapter_job_path(uint64_t id, char path[ADAPTER_PATH_MAX]);

extern const struct bus_interface manager_interface;  /* object: struct adapter */
extern const struct bus_interface guest_interface;    /* object: struct guest */
extern const struct bus_interface template_interface; /* object: struct template */
extern const struct bus_interface job_interface;      /* object: struct job */

#endif
