/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest: the life of a guest and what can be asked of it.
 *
 * Every request checks the phase first and is refused with the reason if it does not fit; what the
 * guest process must do is a message plus a waiter, never a wait.
 */
#include "vmmd/guest.h"
#include "vmmd/log.h"
#include "vmmd/pressure.h"
#include "vmmd/share.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEMORY_INTERVAL_USEC 900000

const char *guest_state_name(enum guest_state state)
{
    static const char *const names[] = {"created", "running", "paused", "stopped", "failed"};

    return names[state];
}

struct guest *guest_find(struct daemon *daemon, const char *name)
{
    struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->published && strcmp(guest->config.name, name) == 0)
        return guest;
    return NULL;
}

static void on_timer(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    guest_process_timeout(opaque);
}

struct guest *guest_new(struct daemon *daemon, const struct guest_config *config)
{
    struct guest *guest = calloc(1, sizeof(*guest));

    if (!guest)
        return NULL;
    guest->daemon = daemon;
    guest->config = *config;
    guest->sock = guest->console_fd = guest->kvm_fd = -1;
    for (int i = 0; i < 1 + GUEST_DISKS_MAX; i++)
        guest->disk_fds[i] = -1;
    guest->fds = (struct template_fds){-1, -1, -1, -1};
    TAILQ_INIT(&guest->waiters);
    guest->timer = event_new(daemon->base, -1, 0, on_timer, guest);
    if (!guest->timer || asprintf(&guest->overlay_path, "%s/guests/%s/" GUEST_OVERLAY,
                                  daemon->state_dir, config->name) < 0) {
        if (guest->timer)
            event_free(guest->timer);
        free(guest);
        return NULL;
    }
    if (engine_resolve(&daemon->engine, config->engine, config->vcpus, &guest->running_engine,
                       NULL) < 0)
        guest->running_engine = config->engine; /* not available here any more: start will say so */
    TAILQ_INSERT_TAIL(&daemon->guests, guest, link);
    guest->its_turn = daemon->n_guests++ % SAVED_SECONDS;
    return guest;
}

static void template_changed(struct daemon *daemon, const char *name)
{
    struct template *tmpl = template_find(daemon, name);

    if (tmpl && daemon->listener)
        daemon->listener->template_guests_changed(daemon->listener_opaque, tmpl);
}

void guest_publish(struct guest *guest)
{
    struct daemon *daemon = guest->daemon;

    guest->published = true;
    if (daemon->listener)
        daemon->listener->guest_added(daemon->listener_opaque, guest);
    template_changed(daemon, guest->config.tmpl);
    daemon_happened(daemon, "guest-created", guest->config.name, "from template %s",
                    guest->config.tmpl);
}

void guest_free(struct guest *guest)
{
    struct daemon *daemon = guest->daemon;
    struct problem problem;

    problem_set(&problem, PROBLEM_BUSY, "vmmd is ending");
    guest_wait_fail_all(guest, &problem);
    guest_process_forget(guest);
    TAILQ_REMOVE(&daemon->guests, guest, link);
    daemon->n_guests--;
    if (guest->published && daemon->listener)
        daemon->listener->guest_removed(daemon->listener_opaque, guest);
    event_free(guest->timer);
    history_free(&guest->history);
    free(guest->overlay_path);
    free(guest);
}

/* ---- changes ---- */

void guest_changed(struct guest *guest, unsigned changes)
{
    struct daemon *daemon = guest->daemon;

    if (guest->published && daemon->listener)
        daemon->listener->guest_changed(daemon->listener_opaque, guest, changes);
}

void guest_set_state(struct guest *guest, enum guest_state state, const char *reason)
{
    bool same = guest->state == state && strcmp(guest->reason, reason) == 0;

    guest->state = state;
    if (reason != guest->reason)
        snprintf(guest->reason, sizeof(guest->reason), "%s", reason);
    guest_store_record(guest);
    guest_changed(guest, GUEST_CHANGE_STATE);
    guest_memory_dirty(guest);
    if (!same)
        daemon_happened(guest->daemon, "guest-state", guest->config.name, "%s%s%s",
                        guest_state_name(state), reason[0] ? ": " : "", reason);
}

void guest_memory_dirty(struct guest *guest)
{
    struct event *timer = guest->daemon->memory_timer;

    guest->memory_dirty = true;
    if (!evtimer_pending(timer, NULL))
        event_add(timer, &(struct timeval){.tv_usec = MEMORY_INTERVAL_USEC});
}

void guest_memory_flush(struct daemon *daemon)
{
    struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    {
        if (!guest->memory_dirty)
            continue;
        guest->memory_dirty = false;
        guest_changed(guest, GUEST_CHANGE_MEMORY);
    }
}

void guest_measure_saved(struct guest *guest)
{
    uint64_t saved = share_saved(guest->share);

    if (saved == guest->saved)
        return;
    guest->saved = saved;
    guest_memory_dirty(guest);
}

void guests_measure_saved(struct daemon *daemon)
{
    struct guest *guest;

    daemon->turn = (daemon->turn + 1) % SAVED_SECONDS;
    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->its_turn == daemon->turn)
        guest_measure_saved(guest);
}

void guest_leave_share(struct guest *guest)
{
    share_leave(guest->share);
    guest->share = NULL;
    guest_measure_saved(guest);
}

uint64_t guest_recent_splits(const struct guest *guest)
{
    uint64_t now = guest->memory.splits;

    return now > guest->counters_before.splits ? now - guest->counters_before.splits : 0;
}

void guest_send_scan_budget(struct guest *guest)
{
    struct proto_msg msg;

    proto_init(&msg, PROTO_BUDGET);
    msg.budget.percent = daemon_scan_budget(guest->daemon);
    guest_talk_send(guest, &msg, NULL);
}

/* ---- requests ---- */

static int not_running(const struct guest *guest, struct problem *problem)
{
    if (guest->phase == PHASE_IDLE)
        return problem_set(problem, PROBLEM_WRONG_STATE, "guest %s is not running: it is %s",
                           guest->config.name, guest_state_name(guest->state));
    return problem_set(problem, PROBLEM_BUSY, "guest %s is being %s", guest->config.name,
                       guest->phase == PHASE_ENDING     ? "stopped"
                       : guest->phase == PHASE_ADOPTING ? "found again"
                                                        : "started");
}

static int check_unread(const struct guest *guest, struct problem *problem)
{
    return guest->readers == 0
               ? 0
               : problem_set(problem, PROBLEM_BUSY,
                             "the disks of guest %s are being worked on: wait for that",
                             guest->config.name);
}

int guest_check_still(const struct guest *guest, struct problem *problem)
{
    if (guest->process || guest->phase != PHASE_IDLE)
        return problem_set(problem, PROBLEM_WRONG_STATE, "guest %s is %s: stop it first",
                           guest->config.name,
                           guest->phase == PHASE_UP ? guest_state_name(guest->state) : "busy");
    return check_unread(guest, problem);
}

int guest_start(struct guest *guest, guest_done_fn done, void *opaque, struct problem *problem)
{
    int r;

    if (guest->phase == PHASE_UP)
        return problem_set(problem, PROBLEM_WRONG_STATE, "guest %s is %s already",
                           guest->config.name, guest_state_name(guest->state));
    if (guest->phase != PHASE_IDLE)
        return not_running(guest, problem);
    r = check_unread(guest, problem);
    if (r == 0)
        r = pressure_admit(guest->daemon->pressure, guest, problem);
    if (r == 0)
        r = guest_cpu_admit(guest, &guest->config.cpu, problem);
    if (r == 0)
        r = guest_process_start(guest, problem);
    if (r < 0)
        return r;
    guest_changed(guest, GUEST_CHANGE_STATE);
    /* If there is no memory for a waiter the guest still starts; only nobody is told. */
    return guest_wait(guest, WAIT_START, 0, 0, done, opaque, problem);
}

/* Ends it at once: asks first, so that the overlay is flushed, and kills it if it does not end. */
static int stop_by_force(struct guest *guest, guest_done_fn done, void *opaque,
                         struct problem *problem)
{
    int r = guest_wait(guest, WAIT_STOP, 0, 0, done, opaque, problem);

    if (r < 0)
        return r;
    guest->stop_forced = true;
    if (!guest->process) { /* between two starts */
        guest_process_forget(guest);
        guest_set_state(guest, GUEST_STOPPED, "ended by force");
        guest_wait_finish(guest, WAIT_STOP, 0, NULL);
    } else if (guest->phase == PHASE_UP && guest_talk_simple(guest, PROTO_QUIT, NULL) == 0) {
        guest_process_ending(guest);
    } else if (guest->phase != PHASE_ENDING) {
        guest_process_kill(guest, "ended by force");
    }
    return 0;
}

int guest_stop(struct guest *guest, bool force, guest_done_fn done, void *opaque,
               struct problem *problem)
{
    int r;

    if (guest->phase == PHASE_IDLE)
        return not_running(guest, problem);
    guest->restart_wanted = false;
    if (force)
        return stop_by_force(guest, done, opaque, problem);
    if (guest->phase != PHASE_UP)
        return not_running(guest, problem);
    if (guest->state == GUEST_PAUSED)
        return problem_set(problem, PROBLEM_WRONG_STATE,
                           "guest %s is paused and cannot see its power button: resume it, or stop "
                           "it by force",
                           guest->config.name);
    r = guest_talk_simple(guest, PROTO_POWER_BUTTON, problem);
    if (r == 0 && done)
        done(opaque, NULL);
    return r;
}

int guest_restart(struct guest *guest, bool force, struct problem *problem)
{
    int r;

    if (guest->phase != PHASE_UP)
        return not_running(guest, problem);
    r = guest_stop(guest, force, NULL, NULL, problem);
    if (r == 0)
        guest->restart_wanted = true;
    return r;
}

static int send_and_wait(struct guest *guest, enum proto_type type, enum guest_wait_kind kind,
                         guest_done_fn done, void *opaque, struct problem *problem)
{
    int r = guest_talk_simple(guest, type, problem);

    if (r < 0)
        return r;
    return guest_wait(guest, kind, 0, GUEST_ANSWER_SECS, done, opaque, problem);
}

int guest_pause(struct guest *guest, guest_done_fn done, void *opaque, struct problem *problem)
{
    if (guest->phase != PHASE_UP)
        return not_running(guest, problem);
    if (guest->state == GUEST_PAUSED && guest->held) {
        guest->held = false; /* from now on it is the caller who wants it paused */
        guest_set_state(guest, GUEST_PAUSED, "");
        if (done)
            done(opaque, NULL);
        return 0;
    }
    guest->held = false;
    if (guest->state == GUEST_PAUSED)
        return problem_set(problem, PROBLEM_WRONG_STATE, "guest %s is paused already",
                           guest->config.name);
    return send_and_wait(guest, PROTO_PAUSE, WAIT_PAUSE, done, opaque, problem);
}

int guest_resume(struct guest *guest, guest_done_fn done, void *opaque, struct problem *problem)
{
    if (guest->phase != PHASE_UP)
        return not_running(guest, problem);
    if (guest->state != GUEST_PAUSED)
        return problem_set(problem, PROBLEM_WRONG_STATE, "guest %s is not paused",
                           guest->config.name);
    guest->hold_never = guest->held;
    return send_and_wait(guest, PROTO_RESUME, WAIT_RESUME, done, opaque, problem);
}

int guest_hold(struct guest *guest, const char *reason, guest_done_fn done, void *opaque,
               struct problem *problem)
{
    int r = guest_talk_simple(guest, PROTO_PAUSE, problem);

    if (r < 0)
        return r;
    guest->held = true;
    snprintf(guest->hold_reason, sizeof(guest->hold_reason), "paused by vmmd: %.400s", reason);
    /* If there is no room for a waiter it is held all the same; only nobody is told if it is deaf.
     */
    guest_wait(guest, WAIT_PAUSE, 0, GUEST_ANSWER_SECS, done, opaque, NULL);
    return 0;
}

int guest_release(struct guest *guest, struct problem *problem)
{
    return guest_talk_simple(guest, PROTO_RESUME, problem);
}

int guest_check_memory(const struct daemon *daemon, uint64_t memory, struct problem *problem)
{
    if (memory == 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "a guest needs memory, at least %llu MiB",
                           (unsigned long long)(GUEST_MEMORY_MIN / MIB));
    if (memory < GUEST_MEMORY_MIN || memory % MIB)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "memory of %llu bytes: must be whole MiB, at least %llu MiB",
                           (unsigned long long)memory,
                           (unsigned long long)(GUEST_MEMORY_MIN / MIB));
    if (memory > daemon->host_memory)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "memory of %llu MiB is more than this host has (%llu MiB)",
                           (unsigned long long)(memory / MIB),
                           (unsigned long long)(daemon->host_memory / MIB));
    return 0;
}

int guest_check_vcpus(const struct daemon *daemon, enum engine_choice engine, uint32_t vcpus,
                      struct problem *problem)
{
    enum engine_choice unused;

    if (vcpus > GUEST_VCPUS_MAX)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "%u vCPUs: at most %u", vcpus,
                           GUEST_VCPUS_MAX);
    return engine_resolve(&daemon->engine, engine, vcpus, &unused, problem);
}

int guest_check_priority(int32_t priority, struct problem *problem)
{
    if (priority >= -GUEST_PRIORITY_MAX && priority <= GUEST_PRIORITY_MAX)
        return 0;
    return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "a priority is %d to %d, not %d",
                       -GUEST_PRIORITY_MAX, GUEST_PRIORITY_MAX, priority);
}

int guest_set_size(struct guest *guest, uint64_t memory, uint32_t vcpus, struct problem *problem)
{
    const struct guest_config before = guest->config;
    int r = 0;

    if (memory == before.memory && vcpus == before.vcpus)
        return 0;
    if (guest->process || guest->phase != PHASE_IDLE)
        return problem_set(problem, PROBLEM_WRONG_STATE,
                           "guest %s is %s: memory and vCPUs can be changed when it is stopped",
                           before.name, guest_state_name(guest->state));
    if (memory != before.memory)
        r = guest_check_memory(guest->daemon, memory, problem);
    if (r == 0 && vcpus != before.vcpus)
        r = guest_check_vcpus(guest->daemon, before.engine, vcpus, problem);
    if (r < 0)
        return r;
    guest->config.memory = memory;
    guest->config.vcpus = vcpus;
    r = guest_store_config(guest, problem);
    if (r < 0)
        guest->config = before;
    else
        guest_changed(guest, GUEST_CHANGE_CONFIG);
    return r;
}

int guest_set_priority(struct guest *guest, int32_t priority, struct problem *problem)
{
    int32_t before = guest->config.priority;
    int r = guest_check_priority(priority, problem);

    if (r < 0 || priority == before)
        return r;
    guest->config.priority = priority;
    r = guest_store_config(guest, problem);
    if (r < 0)
        guest->config.priority = before;
    else
        guest_changed(guest, GUEST_CHANGE_CONFIG);
    return r;
}

int guest_query_memory(struct guest *guest, guest_done_fn done, void *opaque,
                       struct problem *problem)
{
    struct proto_msg msg;
    int r;

    if (guest->phase != PHASE_UP)
        return not_running(guest, problem);
    proto_init(&msg, PROTO_QUERY_MEMORY);
    msg.query.cookie = ++guest->daemon->next_cookie;
    r = guest_talk_send(guest, &msg, problem);
    if (r < 0)
        return r;
    return guest_wait(guest, WAIT_MEMORY, msg.query.cookie, GUEST_ANSWER_SECS, done, opaque,
                      problem);
}

int guest_set_balloon(struct guest *guest, uint64_t target, struct problem *problem)
{
    struct proto_msg msg;

    if (guest->phase != PHASE_UP)
        return not_running(guest, problem);
    if (target == 0 || target > guest->config.memory)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "guest %s: a balloon target lies between 1 and the guest's %llu bytes",
                           guest->config.name, (unsigned long long)guest->config.memory);
    proto_init(&msg, PROTO_BALLOON);
    msg.balloon.target_bytes = target;
    return guest_talk_send(guest, &msg, problem);
}

int guest_open_console(struct guest *guest, int *ret_fd, struct problem *problem)
{
    struct proto_msg msg;
    int socks[2], r;

    if (guest->phase != PHASE_UP)
        return not_running(guest, problem);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks) < 0)
        return problem_errno(problem, -errno, "guest %s: cannot make a console socket",
                             guest->config.name);
    proto_init(&msg, PROTO_CONSOLE);
    msg.fds[0] = socks[0];
    msg.n_fds = 1;
    r = guest_talk_send(guest, &msg, problem);
    close(socks[0]);
    if (r < 0) {
        close(socks[1]);
        return r;
    }
    *ret_fd = socks[1];
    return 0;
}

int guest_open_log(struct guest *guest, int *ret_fd, struct problem *problem)
{
    int fd = guest_store_open(guest, "console.log", O_RDONLY, problem);

    if (fd < 0)
        return fd;
    *ret_fd = fd;
    return 0;
}

int guest_delete(struct guest *guest, struct problem *problem)
{
    struct daemon *daemon = guest->daemon;
    char name[NAME_LENGTH_MAX + 1], tmpl[NAME_LENGTH_MAX + 1];
    int r = guest_check_still(guest, problem);

    if (r < 0)
        return r;
    r = guest_store_remove(daemon, guest->config.name, problem);
    if (r < 0)
        return r;
    memcpy(name, guest->config.name, sizeof(name));
    memcpy(tmpl, guest->config.tmpl, sizeof(tmpl));
    guest_free(guest);
    template_changed(daemon, tmpl);
    daemon_happened(daemon, "guest-deleted", name, "%s", "");
    return 0;
}
