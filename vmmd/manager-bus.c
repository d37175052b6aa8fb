/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * manager-bus: org.vmmd1.Manager on the daemon.
 */
#include "vmmd/adapter.h"
#include "vmmd/create.h"
#include "vmmd/guest.h"
#include "vmmd/import.h"
#include "vmmd/pressure.h"
#include "vmmd/template.h"
#include "vmmd/version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- ImportTemplate ---- */

static int read_import(DBusMessage *message, struct import_request *request,
                       struct problem *problem)
{
    struct adapter_fds below = {request->below, 0, COW_IMPORT_MAX_BELOW};
    const struct adapter_option options[] = {
        {"kernel", DBUS_TYPE_UNIX_FD, &request->kernel, NULL},
        {"initrd", DBUS_TYPE_UNIX_FD, &request->initrd, NULL},
        {"cmdline", DBUS_TYPE_STRING, &request->cmdline, NULL},
        {"passphrase", DBUS_TYPE_UNIX_FD, &request->passphrase, NULL},
        {"snapshot", DBUS_TYPE_STRING, &request->snapshot, NULL},
        {"below", DBUS_TYPE_ARRAY, &below, NULL},
        {0},
    };
    DBusMessageIter iter, dict;
    int r;

    dbus_message_iter_init(message, &iter);
    dbus_message_iter_get_basic(&iter, &request->name);
    dbus_message_iter_next(&iter);
    if (!bus_get(&iter, DBUS_TYPE_UNIX_FD, &request->disk))
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the disk fd did not arrive");
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    r = adapter_read_options(&dict, options, problem);
    request->n_below = below.n;
    return r;
}

static void import_template(void *object, struct bus_call *call)
{
    const struct adapter *adapter = object;
    struct import_request request;
    const int *fds[] = {&request.disk, &request.kernel, &request.initrd, &request.passphrase};
    char path[ADAPTER_PATH_MAX], *result = path;
    struct problem problem;
    struct job *job;
    int r;

    import_request_init(&request);
    r = read_import(bus_call_message(call), &request, &problem);
    if (r == 0)
        r = import_start(adapter->daemon, &request, &job, &problem);
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (*fds[i] >= 0)
            close(*fds[i]);
    for (unsigned i = 0; i < request.n_below; i++)
        close(request.below[i]);
    if (r < 0) {
        adapter_fail(call, &problem);
        return;
    }
    adapter_job_path(job->id, path);
    bus_call_return(call, DBUS_TYPE_OBJECT_PATH, &result, DBUS_TYPE_INVALID);
}

/* ---- CreateTemplate ---- */

static int read_create_template(DBusMessage *message, const char **ret_name, const char **ret_guest,
                                dbus_bool_t *ret_keep, struct problem *problem)
{
    const struct adapter_option options[] = {{"keep_identity", DBUS_TYPE_BOOLEAN, ret_keep, NULL},
                                             {0}};
    DBusMessageIter iter, dict;

    dbus_message_iter_init(message, &iter);
    dbus_message_iter_get_basic(&iter, ret_name);
    dbus_message_iter_next(&iter);
    dbus_message_iter_get_basic(&iter, ret_guest);
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    return adapter_read_options(&dict, options, problem);
}

static void create_template(void *object, struct bus_call *call)
{
    const struct adapter *adapter = object;
    const char *name, *guest_name;
    char path[ADAPTER_PATH_MAX], *result = path;
    dbus_bool_t keep = FALSE;
    struct problem problem;
    struct guest *guest;
    struct job *job;
    int r = read_create_template(bus_call_message(call), &name, &guest_name, &keep, &problem);

    if (r == 0) {
        guest = guest_find(adapter->daemon, guest_name);
        r = guest ? import_from_guest(guest, name, keep, &job, &problem)
                  : problem_set(&problem, PROBLEM_NOT_FOUND, "guest \"%.64s\" does not exist",
                                guest_name);
    }
    if (r < 0) {
        adapter_fail(call, &problem);
        return;
    }
    adapter_job_path(job->id, path);
    bus_call_return(call, DBUS_TYPE_OBJECT_PATH, &result, DBUS_TYPE_INVALID);
}

/* ---- CreateGuests ---- */

static int read_create(DBusMessage *message, struct create_request *request,
                       struct problem *problem)
{
    const char *engine = NULL;
    const struct adapter_option options[] = {
        {"count", DBUS_TYPE_UINT32, &request->count, &request->has_count},
        {"memory", DBUS_TYPE_UINT64, &request->memory, &request->has_memory},
        {"vcpus", DBUS_TYPE_UINT32, &request->vcpus, &request->has_vcpus},
        {"engine", DBUS_TYPE_STRING, &engine, &request->has_engine},
        {"share_group", DBUS_TYPE_STRING, &request->share_group, NULL},
        {"priority", DBUS_TYPE_INT32, &request->priority, &request->has_priority},
        {"cpu_shares", DBUS_TYPE_UINT32, &request->cpu.shares, &request->has_cpu_shares},
        {"cpu_limit", DBUS_TYPE_UINT32, &request->cpu.limit, NULL},
        {"cpu_reserve", DBUS_TYPE_UINT32, &request->cpu.reserve, NULL},
        {0},
    };
    DBusMessageIter iter, dict;
    int r;

    dbus_message_iter_init(message, &iter);
    dbus_message_iter_get_basic(&iter, &request->tmpl);
    dbus_message_iter_next(&iter);
    dbus_message_iter_get_basic(&iter, &request->name);
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    r = adapter_read_options(&dict, options, problem);
    if (r == 0 && engine && engine_parse(engine, &request->engine) < 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "engine \"%.32s\": must be auto, soft or kvm", engine);
    return r;
}

static bool put_paths(DBusMessageIter *iter, struct guest *const *guests, unsigned n)
{
    char path[ADAPTER_PATH_MAX];
    DBusMessageIter array;
    bool ok = true;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "o", &array))
        return false;
    for (unsigned i = 0; i < n && ok; i++) {
        adapter_guest_path(guests[i]->config.name, path);
        ok = bus_put_path(&array, path);
    }
    return dbus_message_iter_close_container(iter, &array) && ok;
}

static void on_created(void *opaque, struct guest *const *guests, unsigned n,
                       const struct problem *problem)
{
    struct bus_call *call = opaque;
    DBusMessageIter iter;
    DBusMessage *reply;

    if (problem) {
        adapter_fail(call, problem);
        return;
    }
    reply = bus_call_reply_new(call);
    if (reply) {
        dbus_message_iter_init_append(reply, &iter);
        if (!put_paths(&iter, guests, n)) {
            dbus_message_unref(reply);
            reply = NULL;
        }
    }
    bus_call_return_message(call, reply);
}

static void call_create_guests(void *object, struct bus_call *call)
{
    const struct adapter *adapter = object;
    struct create_request request = {0};
    struct problem problem;
    int r = read_create(bus_call_message(call), &request, &problem);

    if (r == 0)
        r = create_guests(adapter->daemon, &request, on_created, call, &problem);
    if (r < 0)
        adapter_fail(call, &problem);
}

/* ---- GetGuest, GetTemplate ---- */

static const char *name_argument(struct bus_call *call)
{
    const char *name = "";

    dbus_message_get_args(bus_call_message(call), NULL, DBUS_TYPE_STRING, &name, DBUS_TYPE_INVALID);
    return name;
}

static void return_path(struct bus_call *call, const char *what, const char *name, bool exists,
                        void (*make_path)(const char *name, char path[ADAPTER_PATH_MAX]))
{
    char path[ADAPTER_PATH_MAX], *result = path;
    struct problem problem;

    if (!exists) {
        problem_set(&problem, PROBLEM_NOT_FOUND, "%s \"%.64s\" does not exist", what, name);
        adapter_fail(call, &problem);
        return;
    }
    make_path(name, path);
    bus_call_return(call, DBUS_TYPE_OBJECT_PATH, &result, DBUS_TYPE_INVALID);
}

static void get_guest(void *object, struct bus_call *call)
{
    const struct adapter *adapter = object;
    const char *name = name_argument(call);

    return_path(call, "guest", name, guest_find(adapter->daemon, name), adapter_guest_path);
}

static void get_template(void *object, struct bus_call *call)
{
    const struct adapter *adapter = object;
    const char *name = name_argument(call);

    return_path(call, "template", name, template_find(adapter->daemon, name),
                adapter_template_path);
}

static void get_memory_history(void *object, struct bus_call *call)
{
    adapter_return_history(call, &((struct adapter *)object)->daemon->history);
}

/* ---- properties ---- */

static bool get_version(void *object, DBusMessageIter *iter)
{
    (void)object;
    return bus_put_string(iter, VMMD_VERSION);
}

static bool get_engine(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, engine_name(((struct adapter *)object)->daemon->engine.best));
}

static bool get_engine_reason(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct adapter *)object)->daemon->engine.reason);
}

static bool get_host_kind(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct adapter *)object)->daemon->engine.host);
}

static bool put_feature(DBusMessageIter *array, const struct feature *feature)
{
    DBusMessageIter item;

    return dbus_message_iter_open_container(array, DBUS_TYPE_STRUCT, NULL, &item) &&
           bus_put_string(&item, feature->name) && bus_put_string(&item, feature->value) &&
           bus_put_bool(&item, feature->good) && bus_put_string(&item, feature->cost) &&
           dbus_message_iter_close_container(array, &item);
}

static bool get_host_features(void *object, DBusMessageIter *iter)
{
    const struct features *features = &((struct adapter *)object)->daemon->features;
    DBusMessageIter array;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "(ssbs)", &array))
        return false;
    for (unsigned i = 0; i < features->n; i++)
        if (!put_feature(&array, &features->item[i]))
            return false;
    return dbus_message_iter_close_container(iter, &array);
}

static bool get_state_directory(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct adapter *)object)->daemon->state_dir);
}

static bool get_scan_budget(void *object, DBusMessageIter *iter)
{
    return bus_put_u32(iter, ((struct adapter *)object)->daemon->config.scan_budget);
}

static int set_scan_budget(void *object, DBusMessageIter *value, struct bus_error *err)
{
    const struct adapter *adapter = object;
    struct problem problem;
    dbus_uint32_t percent = 0;
    int r;

    dbus_message_iter_get_basic(value, &percent);
    r = daemon_set_scan_budget(adapter->daemon, percent, &problem);
    if (r < 0) {
        adapter_error(err, &problem);
        return r;
    }
    bus_changed(adapter->bus, ADAPTER_ROOT, manager_interface.name, "ScanBudget");
    return 0;
}

static const struct pressure *pressure_of(void *object)
{
    return ((struct adapter *)object)->daemon->pressure;
}

static bool get_memory_pressure(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, pressure_level_name(pressure_level(pressure_of(object))));
}

static bool get_memory_pressure_reason(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, pressure_reason(pressure_of(object)));
}

static bool get_memory_available(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, pressure_view(pressure_of(object))->memory.available);
}

static bool get_memory_total(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, pressure_view(pressure_of(object))->memory.total);
}

static bool get_memory_at_risk(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, pressure_view(pressure_of(object))->at_risk);
}

static bool get_memory_low(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, pressure_limits_now(pressure_of(object))->low);
}

static bool get_memory_critical(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, pressure_limits_now(pressure_of(object))->critical);
}

static bool get_max_mappings(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct adapter *)object)->daemon->max_mappings);
}

/* ---- tables ---- */

static const struct bus_method_entry methods[] = {
    {.name = "ImportTemplate",
     .in = BUS_ARGS({"name", "s"}, {"disk", "h"}, {"options", "a{sv}"}),
     .out = BUS_ARGS({"job", "o"}),
     .call = import_template},
    {.name = "CreateTemplate",
     .in = BUS_ARGS({"name", "s"}, {"guest", "s"}, {"options", "a{sv}"}),
     .out = BUS_ARGS({"job", "o"}),
     .call = create_template},
    {.name = "CreateGuests",
     .in = BUS_ARGS({"template", "s"}, {"name", "s"}, {"options", "a{sv}"}),
     .out = BUS_ARGS({"guests", "ao"}),
     .call = call_create_guests},
    {.name = "GetGuest",
     .in = BUS_ARGS({"name", "s"}),
     .out = BUS_ARGS({"guest", "o"}),
     .call = get_guest},
    {.name = "GetTemplate",
     .in = BUS_ARGS({"name", "s"}),
     .out = BUS_ARGS({"template", "o"}),
     .call = get_template},
    {.name = "GetMemoryHistory",
     .out = BUS_ARGS({"samples", ADAPTER_HISTORY}),
     .call = get_memory_history},
    {0},
};

static const struct bus_property_entry properties[] = {
    {.name = "Version", .type = "s", .get = get_version, .flags = BUS_CONST},
    {.name = "Engine", .type = "s", .get = get_engine, .flags = BUS_CONST},
    {.name = "EngineReason", .type = "s", .get = get_engine_reason, .flags = BUS_CONST},
    {.name = "HostKind", .type = "s", .get = get_host_kind, .flags = BUS_CONST},
    {.name = "HostFeatures", .type = "a(ssbs)", .get = get_host_features, .flags = BUS_CONST},
    {.name = "StateDirectory", .type = "s", .get = get_state_directory, .flags = BUS_CONST},
    {.name = "ScanBudget", .type = "u", .get = get_scan_budget, .set = set_scan_budget},
    {.name = "MaxMappings", .type = "t", .get = get_max_mappings, .flags = BUS_CONST},
    {.name = "MemoryPressure", .type = "s", .get = get_memory_pressure},
    {.name = "MemoryPressureReason", .type = "s", .get = get_memory_pressure_reason},
    {.name = "MemoryAvailable", .type = "t", .get = get_memory_available},
    {.name = "MemoryTotal", .type = "t", .get = get_memory_total},
    {.name = "MemoryAtRisk", .type = "t", .get = get_memory_at_risk},
    {.name = "MemoryLow", .type = "t", .get = get_memory_low},
    {.name = "MemoryCritical", .type = "t", .get = get_memory_critical},
    {0},
};

static const struct bus_signal_entry signals[] = {
    {.name = "Event", .args = BUS_ARGS({"time", "t"}, {"kind", "s"}, {"name", "s"}, {"text", "s"})},
    {0},
};

const struct bus_interface manager_interface = {
    .name = "org.vmmd1.Manager",
    .methods = methods,
    .properties = properties,
    .signals = signals,
};
