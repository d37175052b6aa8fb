/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon: what everything hangs on: the loop, the directories, the lists of guests, templates and
 * jobs. Knows no bus: whoever wants to tell the world registers a listener.
 */
#ifndef VMMD_DAEMON_H
#define VMMD_DAEMON_H

#include "vmmd/config.h"
#include "vmmd/cpu.h"
#include "vmmd/engine.h"
#include "vmmd/features.h"
#include "vmmd/history.h"
#include "vmmd/problem.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct batch;
struct event;
struct event_base;
struct guest;
struct import;
struct disk_work;
struct reading;
struct job;
struct pressure;
struct shares;
struct template;

/* What of a guest changed; more than one bit may be set. */
enum guest_change {
    GUEST_CHANGE_STATE = 1u << 0, /* state, reason, engine, pid, started, login, RAM address */
    GUEST_CHANGE_MEMORY = 1u << 1,
    GUEST_CHANGE_LOGIN = 1u << 2,
    GUEST_CHANGE_DEVICE = 1u << 3,
    GUEST_CHANGE_CONFIG = 1u << 4, /* priority, memory, vCPUs, processor time */
};

/* Told of everything that happens; every member must be set. */
struct daemon_listener {
    void (*guest_added)(void *opaque, struct guest *guest);
    void (*guest_changed)(void *opaque, struct guest *guest, unsigned changes);
    void (*guest_removed)(void *opaque, struct guest *guest);
    void (*template_added)(void *opaque, struct template *tmpl);
    void (*template_guests_changed)(void *opaque, struct template *tmpl);
    void (*template_removed)(void *opaque, struct template *tmpl);
    void (*job_added)(void *opaque, struct job *job);
    void (*job_changed)(void *opaque, struct job *job);
    void (*job_finished)(void *opaque, struct job *job);
    void (*job_removed)(void *opaque, struct job *job);
    void (*memory_changed)(void *opaque); /* of the host: level, what is available, ... */
    void (*happened)(void *opaque, const char *kind, const char *name, const char *text);
};

TAILQ_HEAD(guest_list, guest);
TAILQ_HEAD(template_list, template);
TAILQ_HEAD(job_list, job);
LIST_HEAD(batch_list, batch);
LIST_HEAD(import_list, import);
LIST_HEAD(reading_list, reading);
LIST_HEAD(disk_work_list, disk_work);

struct daemon {
    struct event_base *base;
    struct config config;
    struct engine_info engine;
    struct features features;
    struct cpu_control cpu;
    char *state_dir, *runtime_dir; /* absolute */
    int state_lock, runtime_lock;
    int guests_fd, templates_fd; /* directories of the state */
    int sockets_fd;              /* RUNTIME/guests */
    char boot_id[64];
    uint64_t host_memory;  /* bytes */
    uint64_t max_mappings; /* VMAs one guest may use */
    uint32_t drop_uid, drop_gid;

    struct guest_list guests;
    struct template_list templates;
    struct job_list jobs;
    struct batch_list batches; /* guests being created */
    struct import_list imports;
    struct reading_list readings; /* of templates */
    struct disk_work_list disk_works;
    unsigned n_guests;
    uint64_t next_job, next_cookie;
    struct shares *shares;
    struct event *memory_timer; /* see guest_memory_dirty() */
    struct pressure *pressure;
    struct event *saved_timer; /* see guests_measure_saved() */
    unsigned turn;
    struct event *history_timer;
    struct history history; /* of all guests together */

    const struct daemon_listener *listener; /* NULL: nobody listens */
    void *listener_opaque;
};

/*
 * Opens (and makes) the directories, takes their locks, reads what is there. Guests that may still
 * run are being adopted when this returns: daemon_adopting() says if any are left.
 */
int daemon_new(struct daemon **ret_daemon, struct event_base *base, const struct config *config,
               const char *state_dir, const char *runtime_dir, struct problem *problem);

/* Lets go of everything; running guests run on. NULL is fine. */
void daemon_free(struct daemon *daemon);

bool daemon_adopting(const struct daemon *daemon);

/* Reports that something happened to the listener and the log. */
void daemon_happened(struct daemon *daemon, const char *kind, const char *name, const char *format,
                     ...) __attribute__((format(printf, 4, 5)));

/* Changes the scan budget of all guests, running ones included. */
int daemon_set_scan_budget(struct daemon *daemon, uint32_t percent, struct problem *problem);

/* Sends running guests the scan budget of now: none while memory is low. */
void daemon_send_scan_budget(struct daemon *daemon);
uint32_t daemon_scan_budget(const struct daemon *daemon);

uint64_t now_usec(void); /* since the epoch */

#endif
