/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker: the main thread of a guest process. It talks to vmmd (proto.h), serves the console, and
 * owns the machine: builds it from a SETUP message, locks the process in, runs it, and reports its
 * end.
 */
#ifndef VMM_WORKER_H
#define VMM_WORKER_H

#include "cowdisk/cowdisk.h"
#include "memshare/memshare.h"
#include "vmmd/proto.h"
#include "vmmd/vmm/console.h"
#include "vmmd/vmm/devices.h"
#include "vmmd/vmm/machine.h"

#include <pthread.h>
#include <stdbool.h>

/* The fds of a SETUP message, by name; -1 where absent. */
struct setup_fds {
    int kernel, log, initrd, template_disk, hashes, kvm;
    int disk[PROTO_DISKS_MAX];
};

struct worker {
    int listen_fd, conn; /* conn: vmmd, or -1 */
    int event_fd;        /* other threads have something to say */
    int report_fd;       /* timerfd: time for a memory report */
    enum proto_guest_state state;
    char name[PROTO_NAME_MAX];

    struct machine machine;
    bool have_machine, have_console;
    struct console console;
    struct serial *serial;
    struct acpi_pm *pm;
    struct virtio_console *vconsole;
    bool console_on_virtio;
    struct virtio_balloon *balloon;

    struct cow_hashes hashes;
    int template_fd;
    struct ms_scanner *scanner;
    pthread_t scanner_thread;
    bool scanner_started;
    struct proto_memory last_report;

    pthread_mutex_t news_lock; /* guards what follows; a leaf */
    bool ended;
    char device_error[PROTO_TEXT_MAX];
    uint64_t damaged[PROTO_DAMAGED_MAX]; /* byte offsets of blocks of the template */
    unsigned n_damaged, n_damaged_sent;
};

/* build.c: from a SETUP message to a machine whose vCPUs wait at the closed gate. On failure `text`
 * says why. The fds are taken or closed. */
int worker_build(struct worker *w, const struct proto_setup *setup, struct setup_fds *fds,
                 char *text, size_t text_size);
void worker_demolish(
    struct worker *w); /* ends and frees all of it; the overlay is flushed and closed */

/* worker.c: runs until the guest has ended. The exit status of the process. */
int worker_run(struct worker *w);

/* A block of the template does not match its hash (cowdisk.h); any thread. */
void worker_on_damaged(void *opaque, uint64_t offset);

/* Machine events (machine.h); any thread. */
void worker_on_ended(void *opaque);
void worker_on_device_failed(void *opaque, const char *text);
void worker_on_idle(void *opaque);

#endif
