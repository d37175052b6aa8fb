/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting for a job of vmmd, with a progress bar. One that is interrupted is cancelled.
 */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void on_progress(void *opaque, DBusMessage *signal)
{
    struct cli_job *job = opaque;
    DBusMessageIter iter, dict, value;
    const char *key;

    if (!job->path || strcmp(dbus_message_get_path(signal), job->path) ||
        !dbus_message_has_signature(signal, "sa{sv}as"))
        return;
    dbus_message_iter_init(signal, &iter);
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    while (bus_dict_next(&dict, &key, &value)) {
        double fraction;

        if (!strcmp(key, "Progress") && bus_get(&value, DBUS_TYPE_DOUBLE, &fraction))
            cli_progress_show(&job->progress, fraction);
    }
}

static void on_finished(void *opaque, DBusMessage *signal)
{
    struct cli_job *job = opaque;
    const char *state, *error, *result;

    if (job->finished || !job->path || strcmp(dbus_message_get_path(signal), job->path) ||
        !dbus_message_get_args(signal, NULL, DBUS_TYPE_STRING, &state, DBUS_TYPE_STRING, &error,
                               DBUS_TYPE_STRING, &result, DBUS_TYPE_INVALID))
        return;
    job->finished = true;
    job->state = strdup(state);
    job->error = strdup(error);
}

static int subscribe(struct cli *cli, struct cli_job *job)
{
    struct bus_error err;

    if (bus_match(cli->bus, CLI_NAME, CLI_ROOT "/job/", DBUS_INTERFACE_PROPERTIES,
                  "PropertiesChanged", on_progress, job, &err) == 0 &&
        bus_match(cli->bus, CLI_NAME, CLI_ROOT "/job/", CLI_JOB, "Finished", on_finished, job,
                  &err) == 0)
        return 0;
    cli_tell("%s", err.text);
    return -1;
}

int cli_job_prepare(struct cli *cli, struct cli_job *job)
{
    int r = cli_catch_signals(cli); /* before there is something to cancel */

    return r < 0 ? r : subscribe(cli, job);
}

int cli_job_take(struct cli_job *job, DBusMessage *reply)
{
    const char *path;

    if (dbus_message_get_args(reply, NULL, DBUS_TYPE_OBJECT_PATH, &path, DBUS_TYPE_INVALID))
        job->path = strdup(path);
    dbus_message_unref(reply);
    return job->path ? 0 : -1;
}

/* The signal may have been sent before we knew which job is ours; then its properties tell. */
static void look_at_job(struct cli *cli, struct cli_job *job)
{
    struct bus_error err;
    char *state;

    if (bus_get_property(cli->bus, CLI_NAME, job->path, CLI_JOB, "State", DBUS_TYPE_STRING, &state,
                         &err) < 0)
        return;
    if (!strcmp(state, "running")) {
        free(state);
        return;
    }
    job->finished = true;
    job->state = state;
    if (bus_get_property(cli->bus, CLI_NAME, job->path, CLI_JOB, "Error", DBUS_TYPE_STRING,
                         &job->error, &err) < 0)
        job->error = NULL;
}

int cli_job_wait(struct cli *cli, struct cli_job *job)
{
    int r = 0;

    look_at_job(cli, job);
    while (!job->finished && r == 0) {
        r = cli_wait(cli, -1);
        if (r == -EINTR) {
            cli_progress_end(&job->progress);
            cli_tell("interrupted: cancelling the %s", job->what);
            cli_call(cli, NULL, job->path, CLI_JOB, "Cancel", DBUS_TYPE_INVALID);
            return -1;
        }
    }
    cli_progress_end(&job->progress);
    if (r < 0)
        return -1;
    if (job->state && !strcmp(job->state, "done"))
        return 0;
    cli_tell("the %s %s%s%s", job->what, job->state ? job->state : "failed",
             job->error && *job->error ? ": " : "", job->error ? job->error : "");
    return -1;
}

void cli_job_free(struct cli_job *job)
{
    free(job->path);
    free(job->state);
    free(job->error);
}
