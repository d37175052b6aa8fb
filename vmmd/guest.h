/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest: one virtual machine as the daemon sees it: what it was created with, the state it is in,
 * and the guest process that runs it, if any.
 *
 *            start            STATE running
 *   idle ------------> starting ------------> up          public state: created, stopped, failed
 *     ^                   |                    |                        (idle), running or paused
 *     |   process ended   v                    v                        (all others; starting keeps
 *     +----------------- ending <--------------+                        the old one)
 *            STATE stopped, failed, reboot; a broken protocol; a timeout
 *
 *   A restarted daemon begins with `adopting` for guests that ran: up, or ending.
 *
 * The files: guest.c (life and what can be asked of it), guest-store.c (its files), guest-process.c
 * (starting and ending the process), guest-disk*.c (its disks), guest-talk.c (messages),
 * guest-wait.c (who waits for what), guest-cpu.c (its processor time).
 */
#ifndef VMMD_GUEST_H
#define VMMD_GUEST_H

#include "vmmd/cpu.h"
#include "vmmd/daemon.h"
#include "vmmd/name.h"
#include "vmmd/fileio.h"
#include "vmmd/guest-disk.h"
#include "vmmd/proto.h"
#include "vmmd/template.h"

#include <signal.h>

#define GUEST_WAITERS_MAX  32 /* unanswered requests of one guest: more are Busy */
#define GUEST_VCPUS_MAX    64u
#define GUEST_ANSWER_SECS  5  /* for a request that the guest process should answer at once */
#define GUEST_END_SECS     10 /* for a guest process to end by itself */
#define GUEST_REBOOT_PAUSE 1  /* seconds between two starts of a guest that keeps rebooting */
#define SAVED_SECONDS      10
#define GUEST_SHARE_NONE   "none"
#define GUEST_OVERLAY      "overlay.qcow2"
#define GUEST_PRIORITY_MAX 100 /* and -100 the least */

enum guest_state { GUEST_CREATED, GUEST_RUNNING, GUEST_PAUSED, GUEST_STOPPED, GUEST_FAILED };
enum guest_phase { PHASE_IDLE, PHASE_STARTING, PHASE_ADOPTING, PHASE_UP, PHASE_ENDING };

struct guest_config {
    char name[NAME_LENGTH_MAX + 1];
    char tmpl[NAME_LENGTH_MAX + 1];
    char share_group[NAME_LENGTH_MAX + 1];
    uint64_t memory; /* bytes */
    uint32_t vcpus;
    enum engine_choice engine; /* as asked for: may be auto */
    uint8_t uuid[16];
    uint64_t created;
    int32_t priority; /* those of a low one are paused first when memory runs out */
    struct cpu_settings cpu;
    struct guest_disks disks;
};

/* How the guest process is held to its CPU settings. */
struct guest_cpu {
    bool entered, again;     /* it is under control; the kernel wants to be asked again later */
    uint32_t weight;         /* that holds; 0: none */
    char text[CPU_TEXT_MAX]; /* by what, or why not; "" while it does not run */
};

/* What state.json remembers over a restart of the daemon. */
struct guest_record {
    enum guest_state state;
    char reason[PROTO_TEXT_MAX];
    int32_t pid; /* of the guest process, 0: none */
    uint64_t start_ticks;
    uint64_t started;
    char boot_id[64];
    bool held; /* paused for want of memory, and nobody else wants it so */
};

enum guest_wait_kind { WAIT_START, WAIT_STOP, WAIT_PAUSE, WAIT_RESUME, WAIT_MEMORY };

/* The end of a request: NULL: done, else why not. */
typedef void (*guest_done_fn)(void *opaque, const struct problem *problem);
TAILQ_HEAD(guest_waiters, guest_waiter);

struct child;
struct share_member;

struct guest {
    TAILQ_ENTRY(guest) link;
    struct daemon *daemon;
    struct guest_config config;
    bool published;   /* false while CreateGuests is still busy with its batch */
    unsigned readers; /* that use its disks: it stays stopped, and is not deleted */

    enum guest_state state;
    enum guest_phase phase;
    char reason[PROTO_TEXT_MAX]; /* why it is in this state, or "" */
    bool held;                   /* is being or was paused for want of memory, because: */
    char hold_reason[PROTO_TEXT_MAX];
    bool hold_never; /* not again as long as memory is short: a person resumed it, or it is deaf */
    char *overlay_path;
    enum engine_choice running_engine;
    uint64_t started; /* 0: does not run */
    bool login;
    uint64_t ram_address;
    struct guest_cpu cpu;
    struct proto_memory memory;              /* the last report */
    struct history history;                  /* also of earlier runs */
    struct history_counters counters_before; /* of this one */
    bool memory_dirty;
    char device_error[PROTO_TEXT_MAX];
    uint64_t device_reported;
    unsigned n_damaged;
    /* blocks of its template that its process told of */ /* when that was last logged */
    uint64_t window_start, window_count;                  /* messages in the running second */

    struct child *process;
    int sock; /* connection to the guest process */
    struct event *sock_event;
    struct event *timer; /* the phase's time limit, or the pause before a start */
    struct template_fds fds;
    int console_fd, kvm_fd;            /* held from start to SETUP */
    int disk_fds[1 + GUEST_DISKS_MAX]; /* likewise; the first is the overlay */
    struct share_member *share;
    uint64_t saved;    /* bytes, as last measured: see guest_measure_saved() */
    unsigned its_turn; /* in which second of SAVED_SECONDS that is done by itself */

    bool end_seen; /* a final STATE came: end_state and end_reason hold */
    uint32_t end_state;
    char end_reason[PROTO_TEXT_MAX];
    bool stop_forced, restart_wanted;

    struct guest_waiters waiters;
    unsigned n_waiters;
};

/* ---- guest.c ---- */

const char *guest_state_name(enum guest_state state);
struct guest *guest_find(struct daemon *daemon, const char *name); /* published ones */

/* An object without files; not published. NULL: no memory. */
struct guest *guest_new(struct daemon *daemon, const struct guest_config *config);
void guest_publish(struct guest *guest);
void guest_free(struct guest *guest); /* a running process lives on */

/* All return 0 or -errno with `problem`; those with `done` call it later if they return 0. */
int guest_start(struct guest *guest, guest_done_fn done, void *opaque, struct problem *problem);
int guest_stop(struct guest *guest, bool force, guest_done_fn done, void *opaque,
               struct problem *problem);
int guest_restart(struct guest *guest, bool force, struct problem *problem);
int guest_pause(struct guest *guest, guest_done_fn done, void *opaque, struct problem *problem);
int guest_resume(struct guest *guest, guest_done_fn done, void *opaque, struct problem *problem);
/* Asks for a fresh guest->memory. */
int guest_query_memory(struct guest *guest, guest_done_fn done, void *opaque,
                       struct problem *problem);
/* Pauses it until guest_release(), for this reason; a person who pauses or resumes it has priority.
 */
int guest_hold(struct guest *guest, const char *reason, guest_done_fn done, void *opaque,
               struct problem *problem);
int guest_release(struct guest *guest, struct problem *problem);
/* Changes memory (bytes) and vCPUs of a guest that is stopped, durably; each may stay as it is.
 * WrongState, InvalidArgument, NotSupported. */
int guest_set_size(struct guest *guest, uint64_t memory, uint32_t vcpus, struct problem *problem);
/* Changes the priority, durably. */
int guest_set_priority(struct guest *guest, int32_t priority, struct problem *problem);
int guest_set_balloon(struct guest *guest, uint64_t target, struct problem *problem);
int guest_open_console(struct guest *guest, int *ret_fd, struct problem *problem);
int guest_open_log(struct guest *guest, int *ret_fd, struct problem *problem);
int guest_delete(struct guest *guest, struct problem *problem);

/*
 * Looks how much it saves now, which takes time in proportion to what it shares. What one guest
 * saves changes by what others do, too, so it is done for each every SAVED_SECONDS, for some of
 * them each second.
 */
void guest_measure_saved(struct guest *guest);
void guests_measure_saved(struct daemon *daemon); /* once a second */
void guest_leave_share(struct guest *guest);
uint64_t guest_recent_splits(const struct guest *guest); /* since the last sample of its history */
/* One that does not read keeps its old budget. */
void guest_send_scan_budget(struct guest *guest);
/* WrongState unless it is stopped; Busy while a job reads its disk. */
int guest_check_still(const struct guest *guest, struct problem *problem);
int guest_check_memory(const struct daemon *daemon, uint64_t memory, struct problem *problem);
int guest_check_vcpus(const struct daemon *daemon, enum engine_choice engine, uint32_t vcpus,
                      struct problem *problem);
int guest_check_priority(int32_t priority, struct problem *problem);

/* Sets state and reason, remembers them, tells the listener. */
void guest_set_state(struct guest *guest, enum guest_state state, const char *reason);
void guest_changed(struct guest *guest, unsigned changes);
/* The listener hears of memory at most once a second. */
void guest_memory_dirty(struct guest *guest);
void guest_memory_flush(struct daemon *daemon);

/* ---- guest-cpu.c ---- */

/* Changes the division of processor time, at once if it runs, durably. InvalidArgument,
 * NotSupported (this host has no means), LimitExceeded (too much is reserved), Busy. */
int guest_set_cpu(struct guest *guest, const struct cpu_settings *settings,
                  struct problem *problem);
/* Whether its reserve fits with those of the guests that run. LimitExceeded. */
int guest_cpu_admit(const struct guest *guest, const struct cpu_settings *settings,
                    struct problem *problem);
void guest_cpu_up(struct guest *guest);       /* it begins to run, or was found again */
void guest_cpu_gone(struct guest *guest);     /* its process is gone */
void guests_cpu_again(struct daemon *daemon); /* once a second */

/* ---- guest-store.c ---- */

/* Makes all files of a new guest under a temporary name in STATE/guests. `ret_temp` is that name.
 */
int guest_store_create(struct daemon *daemon, const struct guest_config *config,
                       const struct template *tmpl, char *ret_temp, struct problem *problem);
int guest_store_remove(struct daemon *daemon, const char *name, struct problem *problem);
/* Opens the files of its template, to start it or to read what lies under its overlay. NotFound: it
 * is gone. *ret_tmpl (may be NULL) stays the daemon's. */
int guest_store_open_template(const struct guest *guest, const struct template **ret_tmpl,
                              struct template_fds *ret_fds, struct problem *problem);
/* Opens one of its files; an fd, or -errno with `problem`. */
int guest_store_open(const struct guest *guest, const char *file, int flags,
                     struct problem *problem);
/* Writes guest.json again, durably. */
int guest_store_config(const struct guest *guest, struct problem *problem);
int guest_store_record(const struct guest *guest); /* writes state.json; logs if it cannot */
/* Reads all guests of the state directory, each with its record. */
void guests_load(struct daemon *daemon,
                 void (*each)(struct guest *guest, const struct guest_record *record));

/* For tests: what the files hold. */
json_t *guest_config_to_json(const struct guest_config *config);
int guest_config_from_json(const json_t *json, struct guest_config *ret_config);

/* ---- guest-process.c ---- */

int guest_process_start(struct guest *guest, struct problem *problem);
void guest_close_disks(struct guest *guest); /* its process has them */
void guest_process_adopt(struct guest *guest, const struct guest_record *record);
/* The guest process shall end now; it is killed after GUEST_END_SECS. */
void guest_process_ending(struct guest *guest);
/* Kills it at once; the guest will be failed with this reason. */
void guest_process_kill(struct guest *guest, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Lets go of process, socket, timers and fds without touching the process. */
void guest_process_forget(struct guest *guest);
/* The time limit of its phase is over. */
void guest_process_timeout(struct guest *guest);
void guest_sockets_clean(struct daemon *daemon); /* those of no guest */

/* ---- guest-talk.c ---- */

int guest_talk_connect(struct guest *guest); /* 0 or -errno */
void guest_talk_drain(struct guest *guest);  /* handles what has arrived */
void guest_talk_close(struct guest *guest);
/* Sends a message; Busy if the guest process does not read. */
int guest_talk_send(struct guest *guest, const struct proto_msg *msg, struct problem *problem);
int guest_talk_simple(struct guest *guest, enum proto_type type, struct problem *problem);

/* ---- guest-wait.c ---- */

/* Keeps `done` until guest_wait_finish(); after `seconds` (0: no limit) it fails with Busy. */
int guest_wait(struct guest *guest, enum guest_wait_kind kind, uint64_t cookie, unsigned seconds,
               guest_done_fn done, void *opaque, struct problem *problem);
/* Ends all of a kind (and, for WAIT_MEMORY, of a cookie). problem NULL: they succeeded. */
void guest_wait_finish(struct guest *guest, enum guest_wait_kind kind, uint64_t cookie,
                       const struct problem *problem);
void guest_wait_fail_all(struct guest *guest, const struct problem *problem);

#endif
