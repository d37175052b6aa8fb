/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages to the daemon. Progress is sent at most some hundred times and never waits: a daemon
 * that does not read must not slow the copy, and one that is gone ends it.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <sys/socket.h>

#define REPORTS 200u

int import_send(const struct cow_import_msg *msg, bool wait)
{
    ssize_t n;

    do {
        n = send(FD_STATUS, msg, sizeof(*msg), MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
    } while (n < 0 && errno == EINTR);
    if (n < 0 && !wait && (errno == EAGAIN || errno == ENOBUFS))
        return 0;
    return n < 0 ? -errno : 0;
}

int import_progress(struct import *import, uint64_t done)
{
    struct cow_import_msg msg = {.type = COW_IMPORT_PROGRESS, .done = done, .total = import->total};

    import->done = done;
    if (done < import->total && done - import->reported < import->total / REPORTS)
        return 0;
    import->reported = done;
    return import_send(&msg, false);
}
