/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * template-bus: org.vmmd1.Template on a struct template.
 */
#include "vmmd/adapter.h"
#include "vmmd/guest.h"
#include "vmmd/template.h"
#include "vmmd/template-read.h"

#include <string.h>
#include <unistd.h>

static void delete (void *object, struct bus_call *call)
{
    struct problem problem;

    if (template_delete(object, &problem) < 0)
        adapter_fail(call, &problem);
    else
        bus_call_return(call, DBUS_TYPE_INVALID);
}

static void verify(void *object, struct bus_call *call)
{
    char path[ADAPTER_PATH_MAX], *result = path;
    struct problem problem;
    struct job *job;

    if (template_verify(object, &job, &problem) < 0) {
        adapter_fail(call, &problem);
        return;
    }
    adapter_job_path(job->id, path);
    bus_call_return(call, DBUS_TYPE_OBJECT_PATH, &result, DBUS_TYPE_INVALID);
}

static int read_export(DBusMessage *message, struct export_request *request,
                       struct problem *problem)
{
    dbus_bool_t compress = FALSE;
    const struct adapter_option options[] = {
        {"format", DBUS_TYPE_STRING, &request->format, NULL},
        {"compress", DBUS_TYPE_BOOLEAN, &compress, NULL},
        {0},
    };
    DBusMessageIter iter, dict;
    int r;

    dbus_message_iter_init(message, &iter);
    if (!bus_get(&iter, DBUS_TYPE_UNIX_FD, &request->output))
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the output fd did not arrive");
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    r = adapter_read_options(&dict, options, problem);
    request->compress = compress;
    return r;
}

static void export(void *object, struct bus_call *call)
{
    struct export_request request = {.output = -1};
    char path[ADAPTER_PATH_MAX], *result = path;
    struct problem problem;
    struct job *job;
    int r = read_export(bus_call_message(call), &request, &problem);

    if (r == 0)
        r = template_export(object, &request, &job, &problem);
    if (request.output >= 0)
        close(request.output);
    if (r < 0) {
        adapter_fail(call, &problem);
        return;
    }
    adapter_job_path(job->id, path);
    bus_call_return(call, DBUS_TYPE_OBJECT_PATH, &result, DBUS_TYPE_INVALID);
}

static bool get_name(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct template *)object)->name);
}

static bool get_size(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct template *)object)->info.size);
}

static bool get_disk_usage(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, template_disk_usage(object));
}

static bool get_os_name(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct template *)object)->info.os_name);
}

static bool get_kernel_name(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct template *)object)->info.kernel_name);
}

static bool get_cmdline(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct template *)object)->info.cmdline);
}

static bool get_has_initrd(void *object, DBusMessageIter *iter)
{
    return bus_put_bool(iter, ((struct template *)object)->info.has_initrd);
}

static bool get_created(void *object, DBusMessageIter *iter)
{
    return bus_put_u64(iter, ((struct template *)object)->info.created);
}

static bool get_path(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct template *)object)->path);
}

static bool get_guests(void *object, DBusMessageIter *iter)
{
    const struct template *tmpl = object;
    const struct guest *guest;
    DBusMessageIter array;
    bool ok = true;

    if (!dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "s", &array))
        return false;
    TAILQ_FOREACH(guest, &tmpl->daemon->guests, link)
    if (ok && guest->published && strcmp(guest->config.tmpl, tmpl->name) == 0)
        ok = bus_put_string(&array, guest->config.name);
    if (ok)
        return dbus_message_iter_close_container(iter, &array);
    dbus_message_iter_abandon_container(iter, &array);
    return false;
}

static const struct bus_method_entry methods[] = {
    {.name = "Delete", .call = delete},
    {.name = "Verify", .out = BUS_ARGS({"job", "o"}), .call = verify},
    {.name = "Export",
     .in = BUS_ARGS({"output", "h"}, {"options", "a{sv}"}),
     .out = BUS_ARGS({"job", "o"}),
     .call = export},
    {0},
};

static const struct bus_property_entry properties[] = {
    {.name = "Name", .type = "s", .get = get_name, .flags = BUS_CONST},
    {.name = "Size", .type = "t", .get = get_size, .flags = BUS_CONST},
    {.name = "DiskUsage", .type = "t", .get = get_disk_usage, .flags = BUS_CONST},
    {.name = "OsName", .type = "s", .get = get_os_name, .flags = BUS_CONST},
    {.name = "KernelName", .type = "s", .get = get_kernel_name, .flags = BUS_CONST},
    {.name = "Cmdline", .type = "s", .get = get_cmdline, .flags = BUS_CONST},
    {.name = "HasInitrd", .type = "b", .get = get_has_initrd, .flags = BUS_CONST},
    {.name = "Created", .type = "t", .get = get_created, .flags = BUS_CONST},
    {.name = "Path", .type = "s", .get = get_path, .flags = BUS_CONST},
    {.name = "Guests", .type = "as", .get = get_guests},
    {0},
};

const struct bus_interface template_interface = {
    .name = "org.vmmd1.Template",
    .methods = methods,
    .properties = properties,
};
