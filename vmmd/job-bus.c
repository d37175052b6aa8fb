/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * job-bus: org.vmmd1.Job on a struct job.
 */
#include "vmmd/adapter.h"
#include "vmmd/job.h"

static void cancel(void *object, struct bus_call *call)
{
    struct problem problem;

    if (job_cancel(object, &problem) < 0)
        adapter_fail(call, &problem);
    else
        bus_call_return(call, DBUS_TYPE_INVALID);
}

static bool get_kind(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct job *)object)->kind);
}

static bool get_name(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct job *)object)->name);
}

static bool get_state(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, job_state_name(((struct job *)object)->state));
}

static bool get_progress(void *object, DBusMessageIter *iter)
{
    return bus_put_double(iter, ((struct job *)object)->progress);
}

static bool get_error(void *object, DBusMessageIter *iter)
{
    return bus_put_string(iter, ((struct job *)object)->error);
}

static bool get_result(void *object, DBusMessageIter *iter)
{
    const struct job *job = object;
    char path[ADAPTER_PATH_MAX] = "";

    if (job->result[0])
        adapter_template_path(job->result, path);
    return bus_put_string(iter, path);
}

static const struct bus_method_entry methods[] = {{.name = "Cancel", .call = cancel}, {0}};

static const struct bus_property_entry properties[] = {
    {.name = "Kind", .type = "s", .get = get_kind, .flags = BUS_CONST},
    {.name = "Name", .type = "s", .get = get_name, .flags = BUS_CONST},
    {.name = "State", .type = "s", .get = get_state},
    {.name = "Progress", .type = "d", .get = get_progress},
    {.name = "Error", .type = "s", .get = get_error},
    {.name = "Result", .type = "s", .get = get_result},
    {0},
};

static const struct bus_signal_entry signals[] = {
    {.name = "Finished", .args = BUS_ARGS({"state", "s"}, {"error", "s"}, {"result", "s"})},
    {0},
};

const struct bus_interface job_interface = {
    .name = "org.vmmd1.Job",
    .methods = methods,
    .properties = properties,
    .signals = signals,
};
