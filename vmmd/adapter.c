/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * adapter: which object is where on the bus, and what of it is announced.
 */
#include "vmmd/adapter.h"
#include "vmmd/guest.h"
#include "vmmd/job.h"
#include "vmmd/template.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct bus_interface *const manager_interfaces[] = {&manager_interface, NULL};
static const struct bus_interface *const guest_interfaces[] = {&guest_interface, NULL};
static const struct bus_interface *const template_interfaces[] = {&template_interface, NULL};
static const struct bus_interface *const job_interfaces[] = {&job_interface, NULL};

/* ---- paths and errors ---- */

/* Appends `name` as a label: every byte outside [A-Za-z0-9] as _xx. */
static void append_label(char *path, size_t size, const char *name)
{
    size_t n = strlen(path);

    for (; *name && n + 4 <= size; name++) {
        bool plain = (*name >= 'A' && *name <= 'Z') || (*name >= 'a' && *name <= 'z') ||
                     (*name >= '0' && *name <= '9');

        n += (size_t)snprintf(path + n, size - n, plain ? "%c" : "_%02x", (unsigned char)*name);
    }
}

void adapter_guest_path(const char *name, char path[ADAPTER_PATH_MAX])
{
    strcpy(path, ADAPTER_ROOT "/guest/");
    append_label(path, ADAPTER_PATH_MAX, name);
}

void adapter_template_path(const char *name, char path[ADAPTER_PATH_MAX])
{
    strcpy(path, ADAPTER_ROOT "/template/");
    append_label(path, ADAPTER_PATH_MAX, name);
}

void adapter_job_path(uint64_t id, char path[ADAPTER_PATH_MAX])
{
    snprintf(path, ADAPTER_PATH_MAX, ADAPTER_ROOT "/job/%" PRIu64, id);
}

void adapter_fail(struct bus_call *call, const struct problem *problem)
{
    char name[64];

    snprintf(name, sizeof(name), ADAPTER_ERROR "%s", problem_kind_name(problem->kind));
    bus_call_fail(call, name, "%s", problem->text);
}

void adapter_error(struct bus_error *err, const struct problem *problem)
{
    snprintf(err->name, sizeof(err->name), ADAPTER_ERROR "%s", problem_kind_name(problem->kind));
    snprintf(err->text, sizeof(err->text), "%s", problem->text);
}

void adapter_done(void *call, const struct problem *problem)
{
    if (problem)
        adapter_fail(call, problem);
    else
        bus_call_return(call, DBUS_TYPE_INVALID);
}

static bool put_sample(DBusMessageIter *array, const struct history_sample *sample)
{
    DBusMessageIter entry;

    if (!dbus_message_iter_open_container(array, DBUS_TYPE_STRUCT, NULL, &entry))
        return false;
    if (bus_put_u64(&entry, sample->time) && bus_put_u64(&entry, sample->resident) &&
        bus_put_u64(&entry, sample->saved) && bus_put_u64(&entry, sample->cpu_ns) &&
        bus_put_u64(&entry, sample->merges) && bus_put_u64(&entry, sample->splits))
        return dbus_message_iter_close_container(array, &entry);
    dbus_message_iter_abandon_container(array, &entry);
    return false;
}

static bool put_history(DBusMessageIter *iter, const struct history *history)
{
    DBusMessageIter array;
    bool ok = true;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, ADAPTER_HISTORY + 1, &array))
        return false;
    for (unsigned i = 0; i < history->n && ok; i++) {
        struct history_sample sample = history_get(history, i);

        ok = put_sample(&array, &sample);
    }
    if (ok)
        return dbus_message_iter_close_container(iter, &array);
    dbus_message_iter_abandon_container(iter, &array);
    return false;
}

void adapter_return_history(struct bus_call *call, const struct history *history)
{
    DBusMessage *reply = bus_call_reply_new(call);
    DBusMessageIter iter;

    if (reply) {
        dbus_message_iter_init_append(reply, &iter);
        if (!put_history(&iter, history)) {
            dbus_message_unref(reply);
            reply = NULL;
        }
    }
    bus_call_return_message(call, reply);
}

/* ---- options: a{sv} into variables ---- */

static const struct adapter_option *find_option(const struct adapter_option *options,
                                                const char *key)
{
    for (; options->key; options++)
        if (strcmp(options->key, key) == 0)
            return options;
    return NULL;
}

static bool get_fds(DBusMessageIter *value, struct adapter_fds *fds)
{
    DBusMessageIter array;

    if (dbus_message_iter_get_arg_type(value) != DBUS_TYPE_ARRAY)
        return false;
    dbus_message_iter_recurse(value, &array);
    while (dbus_message_iter_get_arg_type(&array) != DBUS_TYPE_INVALID) {
        if (fds->n == fds->max || !bus_get(&array, DBUS_TYPE_UNIX_FD, &fds->fd[fds->n]))
            return false;
        fds->n++;
        dbus_message_iter_next(&array);
    }
    return true;
}

int adapter_read_options(DBusMessageIter *dict, const struct adapter_option *options,
                         struct problem *problem)
{
    DBusMessageIter value;
    const char *key;

    while (bus_dict_next(dict, &key, &value)) {
        const struct adapter_option *option = find_option(options, key);

        if (!option)
            return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "unknown option \"%.64s\"", key);
        if (option->type == DBUS_TYPE_UNIX_FD && *(int *)option->value >= 0)
            return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "option %s is given twice", key);
        if (option->type == DBUS_TYPE_ARRAY ? !get_fds(&value, option->value)
                                            : !bus_get(&value, option->type, option->value))
            return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                               "option %s must be of D-Bus type %c", key, option->type);
        if (option->given)
            *option->given = true;
    }
    return 0;
}

/* ---- what the daemon tells ---- */

static void changed(struct adapter *adapter, const char *path, const char *interface,
                    const char *const *properties)
{
    for (; *properties; properties++)
        bus_changed(adapter->bus, path, interface, *properties);
}

static void on_guest_added(void *opaque, struct guest *guest)
{
    struct adapter *adapter = opaque;
    char path[ADAPTER_PATH_MAX];

    adapter_guest_path(guest->config.name, path);
    bus_add_object(adapter->bus, path, guest_interfaces, guest, false);
}

static void on_guest_changed(void *opaque, struct guest *guest, unsigned changes)
{
    static const struct {
        unsigned change;
        const char *properties[10]; /* ends with NULL */
    } table[] = {
        {GUEST_CHANGE_STATE,
         {"State", "Reason", "Engine", "Pid", "Started", "Login", "RamAddress"}},
        {GUEST_CHANGE_MEMORY, {"Resident", "Saved", "Settled"}},
        {GUEST_CHANGE_LOGIN, {"Login"}},
        {GUEST_CHANGE_DEVICE, {"DeviceError"}},
        {GUEST_CHANGE_CONFIG,
         {"Priority", "Memory", "VCPUs", "CpuShares", "CpuLimit", "CpuReserve", "CpuControl",
          "Disks"}},
    };
    char path[ADAPTER_PATH_MAX];

    adapter_guest_path(guest->config.name, path);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (changes & table[i].change)
            changed(opaque, path, guest_interface.name, table[i].properties);
}

static void on_guest_removed(void *opaque, struct guest *guest)
{
    struct adapter *adapter = opaque;
    char path[ADAPTER_PATH_MAX];

    adapter_guest_path(guest->config.name, path);
    bus_remove_object(adapter->bus, path);
}

static void on_template_added(void *opaque, struct template *tmpl)
{
    struct adapter *adapter = opaque;
    char path[ADAPTER_PATH_MAX];

    adapter_template_path(tmpl->name, path);
    bus_add_object(adapter->bus, path, template_interfaces, tmpl, false);
}

static void on_template_guests(void *opaque, struct template *tmpl)
{
    struct adapter *adapter = opaque;
    char path[ADAPTER_PATH_MAX];

    adapter_template_path(tmpl->name, path);
    bus_changed(adapter->bus, path, template_interface.name, "Guests");
}

static void on_template_removed(void *opaque, struct template *tmpl)
{
    struct adapter *adapter = opaque;
    char path[ADAPTER_PATH_MAX];

    adapter_template_path(tmpl->name, path);
    bus_remove_object(adapter->bus, path);
}

static void on_job_added(void *opaque, struct job *job)
{
    struct adapter *adapter = opaque;
    char path[ADAPTER_PATH_MAX];

    adapter_job_path(job->id, path);
    bus_add_object(adapter->bus, path, job_interfaces, job, false);
}

static void on_job_changed(void *opaque, struct job *job)
{
    static const char *const properties[] = {"State", "Progress", "Error", "Result", NULL};
    char path[ADAPTER_PATH_MAX];

    adapter_job_path(job->id, path);
    changed(opaque, path, job_interface.name, properties);
}

static void on_job_finished(void *opaque, struct job *job)
{
    struct adapter *adapter = opaque;
    const char *state = job_state_name(job->state), *error = job->error, *result;
    char path[ADAPTER_PATH_MAX], made[ADAPTER_PATH_MAX] = "";

    adapter_job_path(job->id, path);
    if (job->result[0])
        adapter_template_path(job->result, made);
    result = made;
    bus_emit(adapter->bus, path, job_interface.name, "Finished", DBUS_TYPE_STRING, &state,
             DBUS_TYPE_STRING, &error, DBUS_TYPE_STRING, &result, DBUS_TYPE_INVALID);
}

static void on_job_removed(void *opaque, struct job *job)
{
    struct adapter *adapter = opaque;
    char path[ADAPTER_PATH_MAX];

    adapter_job_path(job->id, path);
    bus_remove_object(adapter->bus, path);
}

static void on_memory_changed(void *opaque)
{
    static const char *const properties[] = {"MemoryPressure",  "MemoryPressureReason",
                                             "MemoryAvailable", "MemoryTotal",
                                             "MemoryAtRisk",    "MemoryLow",
                                             "MemoryCritical",  NULL};

    changed(opaque, ADAPTER_ROOT, manager_interface.name, properties);
}

static void on_happened(void *opaque, const char *kind, const char *name, const char *text)
{
    struct adapter *adapter = opaque;
    uint64_t now = now_usec();

    bus_emit(adapter->bus, ADAPTER_ROOT, manager_interface.name, "Event", DBUS_TYPE_UINT64, &now,
             DBUS_TYPE_STRING, &kind, DBUS_TYPE_STRING, &name, DBUS_TYPE_STRING, &text,
             DBUS_TYPE_INVALID);
}

static const struct daemon_listener listener = {
    .guest_added = on_guest_added,
    .guest_changed = on_guest_changed,
    .guest_removed = on_guest_removed,
    .template_added = on_template_added,
    .template_guests_changed = on_template_guests,
    .template_removed = on_template_removed,
    .job_added = on_job_added,
    .job_changed = on_job_changed,
    .job_finished = on_job_finished,
    .job_removed = on_job_removed,
    .memory_changed = on_memory_changed,
    .happened = on_happened,
};

/* ---- life ---- */

int adapter_new(struct adapter **ret_adapter, struct daemon *daemon, struct bus *bus)
{
    struct adapter *adapter = calloc(1, sizeof(*adapter));
    struct template *tmpl;
    struct guest *guest;
    int r;

    if (!adapter)
        return -ENOMEM;
    *adapter = (struct adapter){.bus = bus, .daemon = daemon};
    r = bus_add_object(bus, ADAPTER_ROOT, manager_interfaces, adapter, true);
    if (r < 0) {
        free(adapter);
        return r;
    }
    TAILQ_FOREACH(tmpl, &daemon->templates, link)
    on_template_added(adapter, tmpl);
    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->published)
        on_guest_added(adapter, guest);
    daemon->listener = &listener;
    daemon->listener_opaque = adapter;
    *ret_adapter = adapter;
    return 0;
}

void adapter_free(struct adapter *adapter)
{
    if (!adapter)
        return;
    bus_flush(adapter->bus); /* reads properties of objects that are about to be freed */
    adapter->daemon->listener = NULL;
    free(adapter);
}
