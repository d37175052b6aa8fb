/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-bus: org.vmmd1.Guest on a struct guest.
 */
#include "vmmd/adapter.h"
#include "vmmd/child.h"
#include "vmmd/guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- methods ---- */

static void answer(struct bus_call *call, int r, const struct problem *problem)
{
    adapter_done(call, r < 0 ? problem : NULL);
}

static bool force_argument(struct bus_call *call)
{
    dbus_bool_t force = FALSE;

    dbus_message_get_args(bus_call_message(call), NULL, DBUS_TYPE_BOOLEAN, &force,
                          DBUS_TYPE_INVALID);
    return force;
}

static void start(void *object, struct bus_call *call)
{
    struct problem problem;

    if (guest_start(object, adapter_done, call, &problem) < 0)
        adapter_fail(call, &problem);
}

static void stop(void *object, struct bus_call *call)
{
    struct problem problem;

    if (guest_stop(object, force_argument(call), adapter_done, call, &problem) < 0)
        adapter_fail(call, &problem);
}

static void restart(void *object, struct bus_call *call)
{
    struct problem problem;

    answer(call, guest_restart(object, force_argument(call), &problem), &problem);
}

static void pause_guest(void *object, struct bus_call *call)
{
    struct problem problem;

    if (guest_pause(object, adapter_done, call, &problem) < 0)
        adapter_fail(call, &problem);
}

static void resume(void *object, struct bus_call *call)
{
    struct problem problem;

    if (guest_resume(object, adapter_done, call, &problem) < 0)
        adapter_fail(call, &problem);
}

static void delete (void *object, struct bus_call *call)
{
    struct problem problem;

    answer(call, guest_delete(object, &problem), &problem);
}

static void return_fd(struct bus_call *call, int r, int fd, const struct problem *problem)
{
    if (r < 0) {
        adapter_fail(call, problem);
        return;
    }
    bus_call_return(call, DBUS_TYPE_UNIX_FD, &fd, DBUS_TYPE_INVALID);
    close(fd);
}

static void open_console(void *object, struct bus_call *call)
{
    struct problem problem;
    int fd = -1, r = guest_open_console(object, &fd, &problem);

    return_fd(call, r, fd, &problem);
}

static void open_log(void *object, struct bus_call *call)
{
    struct problem problem;
    int fd = -1, r = guest_open_log(object, &fd, &problem);

    return_fd(call, r, fd, &problem);
}

static void set_balloon(void *object, struct bus_call *call)
{
    struct problem problem;
    dbus_uint64_t target = 0;

    dbus_message_get_args(bus_call_message(call), NULL, DBUS_TYPE_UINT64, &target,
                          DBUS_TYPE_INVALID);
    answer(call, guest_set_balloon(object, target, &problem), &problem);
}

/* What is not given stays as it is. */
static void set_cpu(void *object, struct bus_call *call)
{
    struct guest *guest = object;
    struct cpu_settings settings = guest->config.cpu;
    const struct adapter_option options[] = {
        {"shares", DBUS_TYPE_UINT32, &settings.shares, NULL},
        {"limit", DBUS_TYPE_UINT32, &settings.limit, NULL},
        {"reserve", DBUS_TYPE_UINT32, &settings.reserve, NULL},
        {0},
    };
    DBusMessageIter iter, dict;
    struct problem problem;
    int r;

    dbus_message_iter_init(bus_call_message(call), &iter);
    dbus_message_iter_recurse(&iter, &dict);
    r = adapter_read_options(&dict, options, &problem);
    if (r == 0)
        r = guest_set_cpu(guest, &settings, &problem);
    answer(call, r, &problem);
}

/* ---- GetMemory ---- */

struct memory_call {
    struct guest *guest;
    struct bus_call *call;
};

static bool put_ledger(const struct guest *guest, DBusMessageIter *iter)
{
    const struct proto_memory *m = &guest->memory;
    const struct {
        const char *key;
        uint64_t value;
    } sizes[] = {
        {"Nominal", m->nominal},    {"Resident", m->resident},
        {"Zero", m->zero},          {"Lineage", m->lineage},
        {"Template", m->template_}, {"Pool", m->pool},
        {"Private", m->private_},   {"Saved", guest->saved},
        {"Merges", m->merges},      {"Splits", m->splits},
        {"Mappings", m->mappings},  {"MappingsSkipped", m->mappings_skipped},
        {"Passes", m->passes},      {"Balloon", m->balloon},
        {"Repacked", m->repacked},  {"Freezes", m->freezes},
    };
    double cpu = (double)m->cpu_ns / 1e9, longest = (double)m->longest_freeze_ns / 1e9;
    double process = guest->process ? child_cpu_seconds(guest->process) : 0;
    dbus_bool_t settled = m->settled != 0;
    DBusMessageIter dict;
    bool ok = bus_dict_open(iter, &dict);

    for (size_t i = 0; ok && i < sizeof(sizes) / sizeof(sizes[0]); i++)
        ok = bus_dict_put(&dict, sizes[i].key, DBUS_TYPE_UINT64, &sizes[i].value);
    return ok && bus_dict_put(&dict, "CpuSeconds", DBUS_TYPE_DOUBLE, &cpu) &&
           bus_dict_put(&dict, "ProcessCpuSeconds", DBUS_TYPE_DOUBLE, &process) &&
           bus_dict_put(&dict, "LongestFreezeSeconds", DBUS_TYPE_DOUBLE, &longest) &&
           bus_dict_put(&dict, "Settled", DBUS_TYPE_BOOLEAN, &settled) &&
           bus_dict_close(iter, &dict);
}

static void on_memory(void *opaque, const struct problem *problem)
{
    struct memory_call *waiting = opaque;
    struct bus_call *call = waiting->call;
    DBusMessageIter iter;
    DBusMessage *reply;

    if (problem) {
        adapter_fail(call, problem);
        free(waiting);
        return;
    }
    reply = bus_call_reply_new(call);
    if (reply) {
        dbus_message_iter_init_append(reply, &iter);
        guest_measure_saved(waiting->guest); /* others may have changed it since the report */
        if (!put_ledger(waiting->guest, &iter)) {
            dbus_message_unref(reply);
            reply = NULL;
        }
    }
    bus_call_return_message(call, reply);
    free(waiting);
}

static void get_memory(void *object, struct bus_call *call)
{
    struct memory_call *waiting = malloc(sizeof(*waiting));
    struct problem problem;

    if (!waiting) {
        bus_call_fail(call, DBUS_ERROR_NO_MEMORY, "out of memory");
        return;
    }
    *waiting = (struct memory_call){object, call};
    if (guest_query_memory(object, on_memory, waiting, &problem) < 0) {
        adapter_fail(call, &problem);
        free(waiting);
    }
}

/* ---- disks ---- */

static int read_attach(DBusMessage *message, struct attach_request *request,
                       struct problem *problem)
{
    dbus_bool_t readonly = FALSE;
    bool has_size = false;
    const struct adapter_option options[] = {
        {"size", DBUS_TYPE_UINT64, &request->size, &has_size},
        {"file", DBUS_TYPE_UNIX_FD, &request->file, NULL},
        {"readonly", DBUS_TYPE_BOOLEAN, &readonly, NULL},
        {0},
    };
    DBusMessageIter iter, dict;
    int r;

    dbus_message_iter_init(message, &iter);
    dbus_message_iter_get_basic(&iter, &request->name);
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    r = adapter_read_options(&dict, options, problem);
    request->readonly = readonly;
    if (r == 0 && has_size && request->size == 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "a disk of 0 bytes");
    return r;
}

static void attach_disk(void *object, struct bus_call *call)
{
    struct attach_request request = {.file = -1};
    struct problem problem;
    int r = read_attach(bus_call_message(call), &request, &problem);

    if (r == 0)
        r = guest_disk_attach(object, &request, adapter_done, call, &problem);
    if (request.file >= 0)
        close(request.file);
    if (r < 0)
        adapter_fail(call, &problem);
}

static void detach_disk(void *object, struct bus_call *call)
{
    const char *name = "";
    dbus_bool_t delete_it = FALSE;
    struct problem problem;
    char *kept = NULL;
    const char *text;

    dbus_message_get_args(bus_call_message(call), NULL, DBUS_TYPE_STRING, &name, DBUS_TYPE_BOOLEAN,
                          &delete_it, DBUS_TYPE_INVALID);
    if (guest_disk_detach(object, name, delete_it, &kept, &problem) < 0) {
        adapter_fail(call, &problem);
        return;
    }
    text = kept ? kept : "";
    bus_call_return(call, DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID);
    free(kept);
}

static void resize_disk(void *object, struct bus_call *call)
{
    const char *name = "";
    dbus_uint64_t size = 0;
    dbus_bool_t shrink = FALSE;
    struct problem problem;

    dbus_message_get_args(bus_call_message(call), NULL, DBUS_TYPE_STRING, &name, DBUS_TYPE_UINT64,
                          &size, DBUS_TYPE_BOOLEAN, &shrink, DBUS_TYPE_INVALID);
    if (guest_disk_resize(object, name, size, shrink, adapter_done, call, &problem) < 0)
        adapter_fail(call, &problem);
}

static bool put_disk(DBusMessageIter *array, const char *name, const char *path, const char *kind,
                     const char *format, uint64_t size, bool readonly)
{
    DBusMessageIter item;

    return dbus_message_iter_open_container(array, DBUS_TYPE_STRUCT, NULL, &item) &&
           bus_put_string(&item, name) && bus_put_string(&item, kind) &&
           bus_put_string(&item, format) && bus_put_u64(&item, size) &&
           bus_put_bool(&item, readonly) && bus_put_string(&item, path) &&
           dbus_message_iter_close_container(array, &item);
}

static bool get_disks(void *object, DBusMessageIter *iter)
{
    const struct guest *guest = object;
    const struct guest_disks *disks = &guest->config.disks;
    DBusMessageIter array;
    bool ok;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "(ssstbs)", &array))
        return false;
    ok = put_disk(&array, GUEST_ROOT_DISK, guest->overlay_path, "root", "qcow2",
                  guest_root_size(guest), false);
    for (unsigned i = 0; i < disks->n && ok; i++) {
        const struct guest_disk *disk = &disks->disk[i];
        char *path = guest_disk_path(guest, disk);

        ok = path && put_disk(&array, disk->name, path, disk->own ? "own" : "file",
                              disk->raw ? "raw" : "qcow2", disk->size, disk->readonly);
        free(path);
    }
    if (ok)
        return dbus_message_iter_close_container(iter, &array);
    dbus_message_iter_abandon_container(iter, &array);
    return false;
}

static void get_memory_history(void *object, struct bus_call *call)
{
    adapter_return_history(call, &((struct guest *)object)->history);
}

/* ---- properties ---- */

static bool get_name(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct guest *)object)->config.name);
}

static bool get_state(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, guest_state_name(((struct guest *)object)->state));
}

static bool get_reason(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct guest *)object)->reason);
}

static bool get_engine(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, engine_name(((struct guest *)object)->running_engine));
}

static bool get_pid(void *object, DBusMessageIter *iter)
{
    const struct guest *guest = object;

    return bus_put_u32(iter, guest->process ? (uint32_t)child_pid(guest->process) : 0);
}

static bool get_template(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct guest *)object)->config.tmpl);
}

static bool get_memory_size(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct guest *)object)->config.memory);
}

static bool get_vcpus(void *object, DBusMessageIter *iter)
{
    return bus_put_u32(iter, ((struct guest *)object)->config.vcpus);
}

static bool get_share_group(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct guest *)object)->config.share_group);
}

static bool get_uuid(void *object, DBusMessageIter *iter)
{
    const uint8_t *u = ((struct guest *)object)->config.uuid;
    char text[37];

    snprintf(text, sizeof(text),
             "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
             u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
             u[15]);
    return bus_put_string(iter, text);
}

static bool get_overlay(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct guest *)object)->overlay_path);
}

static bool get_created(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct guest *)object)->config.created);
}

static bool get_started(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct guest *)object)->started);
}

static bool get_login(void *object, DBusMessageIter *iter)
{
    return bus_put_bool(iter, ((struct guest *)object)->login);
}

static bool get_ram_address(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct guest *)object)->ram_address);
}

static bool get_resident(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct guest *)object)->memory.resident);
}

static bool get_saved(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct guest *)object)->saved);
}

static bool get_settled(void *object, DBusMessageIter *iter)
{
    return bus_put_bool(iter, ((struct guest *)object)->memory.settled != 0);
}

static bool get_share_timing(void *object, DBusMessageIter *iter)
{
    const struct guest *guest = object;
    const char *group = guest->config.share_group;

    if (strcmp(group, GUEST_SHARE_NONE) == 0)
        return bus_put_string(iter, "");
    return bus_put_string(
        iter, config_timing(&guest->daemon->config, group) == MS_TIMING_HIDE ? "hide" : "plain");
}

static bool get_priority(void *object, DBusMessageIter *iter)
{
    return bus_put_i32(iter, ((struct guest *)object)->config.priority);
}

static int set_priority(void *object, DBusMessageIter *value, struct bus_error *err)
{
    struct problem problem;
    dbus_int32_t priority = 0;
    int r;

    dbus_message_iter_get_basic(value, &priority);
    r = guest_set_priority(object, priority, &problem);
    if (r < 0)
        adapter_error(err, &problem);
    return r;
}

static bool get_cpu_shares(void *object, DBusMessageIter *iter)
{
    return bus_put_u32(iter, ((struct guest *)object)->config.cpu.shares);
}

static bool get_cpu_limit(void *object, DBusMessageIter *iter)
{
    return bus_put_u32(iter, ((struct guest *)object)->config.cpu.limit);
}

static bool get_cpu_reserve(void *object, DBusMessageIter *iter)
{
    return bus_put_u32(iter, ((struct guest *)object)->config.cpu.reserve);
}

static bool get_cpu_control(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct guest *)object)->cpu.text);
}

static int set_size(struct guest *guest, uint64_t memory, uint32_t vcpus, struct bus_error *err)
{
    struct problem problem;
    int r = guest_set_size(guest, memory, vcpus, &problem);

    if (r < 0)
        adapter_error(err, &problem);
    return r;
}

static int set_memory_size(void *object, DBusMessageIter *value, struct bus_error *err)
{
    dbus_uint64_t memory = 0;

    dbus_message_iter_get_basic(value, &memory);
    return set_size(object, memory, ((struct guest *)object)->config.vcpus, err);
}

static int set_vcpus(void *object, DBusMessageIter *value, struct bus_error *err)
{
    dbus_uint32_t vcpus = 0;

    dbus_message_iter_get_basic(value, &vcpus);
    return set_size(object, ((struct guest *)object)->config.memory, vcpus, err);
}

static bool get_device_error(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct guest *)object)->device_error);
}

/* ---- tables ---- */

static const struct bus_method_entry methods[] = {
    {.name = "Start", .call = start},
    {.name = "Stop", .in = BUS_ARGS({"force", "b"}), .call = stop},
    {.name = "Restart", .in = BUS_ARGS({"force", "b"}), .call = restart},
    {.name = "Pause", .call = pause_guest},
    {.name = "Resume", .call = resume},
    {.name = "Delete", .call = delete},
    {.name = "OpenConsole", .out = BUS_ARGS({"console", "h"}), .call = open_console},
    {.name = "OpenLog", .out = BUS_ARGS({"log", "h"}), .call = open_log},
    {.name = "GetMemory", .out = BUS_ARGS({"memory", "a{sv}"}), .call = get_memory},
    {.name = "GetMemoryHistory",
     .out = BUS_ARGS({"samples", ADAPTER_HISTORY}),
     .call = get_memory_history},
    {.name = "SetCpu", .in = BUS_ARGS({"settings", "a{sv}"}), .call = set_cpu},
    {.name = "AttachDisk",
     .in = BUS_ARGS({"name", "s"}, {"options", "a{sv}"}),
     .call = attach_disk},
    {.name = "DetachDisk",
     .in = BUS_ARGS({"name", "s"}, {"delete", "b"}),
     .out = BUS_ARGS({"kept", "s"}),
     .call = detach_disk},
    {.name = "ResizeDisk",
     .in = BUS_ARGS({"name", "s"}, {"size", "t"}, {"shrink", "b"}),
     .call = resize_disk},
    {.name = "SetBalloon", .in = BUS_ARGS({"target", "t"}), .call = set_balloon},
    {0},
};

static const struct bus_property_entry properties[] = {
    {.name = "Name", .type = "s", .get = get_name, .flags = BUS_CONST},
    {.name = "State", .type = "s", .get = get_state},
    {.name = "Reason", .type = "s", .get = get_reason},
    {.name = "Engine", .type = "s", .get = get_engine},
    {.name = "Pid", .type = "u", .get = get_pid},
    {.name = "Template", .type = "s", .get = get_template, .flags = BUS_CONST},
    {.name = "Memory", .type = "t", .get = get_memory_size, .set = set_memory_size},
    {.name = "VCPUs", .type = "u", .get = get_vcpus, .set = set_vcpus},
    {.name = "ShareGroup", .type = "s", .get = get_share_group},
    {.name = "ShareTiming", .type = "s", .get = get_share_timing, .flags = BUS_CONST},
    {.name = "Priority", .type = "i", .get = get_priority, .set = set_priority},
    {.name = "CpuShares", .type = "u", .get = get_cpu_shares},
    {.name = "CpuLimit", .type = "u", .get = get_cpu_limit},
    {.name = "CpuReserve", .type = "u", .get = get_cpu_reserve},
    {.name = "CpuControl", .type = "s", .get = get_cpu_control},
    {.name = "Disks", .type = "a(ssstbs)", .get = get_disks},
    {.name = "Uuid", .type = "s", .get = get_uuid, .flags = BUS_CONST},
    {.name = "Overlay", .type = "s", .get = get_overlay, .flags = BUS_CONST},
    {.name = "Created", .type = "t", .get = get_created, .flags = BUS_CONST},
    {.name = "Started", .type = "t", .get = get_started},
    {.name = "Login", .type = "b", .get = get_login},
    {.name = "RamAddress", .type = "t", .get = get_ram_address},
    {.name = "Resident", .type = "t", .get = get_resident},
    {.name = "Saved", .type = "t", .get = get_saved},
    {.name = "Settled", .type = "b", .get = get_settled},
    {.name = "DeviceError", .type = "s", .get = get_device_error},
    {0},
};

const struct bus_interface guest_interface = {
    .name = "org.vmmd1.Guest",
    .methods = methods,
    .properties = properties,
};
