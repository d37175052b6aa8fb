/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-process: starting the process of a guest, finding it again, and what its end means.
 *
 * The order of a start: open everything, listen on the guest's socket, fork (the child waits at its
 * gate), write pid and start time to state.json, open the gate, connect. So at no moment is there a
 * guest process that a restarted daemon would not know of.
 *
 * The public state changes to stopped or failed when the process is gone, not when it says that it
 * will go: only then are its files free.
 */
#include "vmmd/child.h"
#include "vmmd/guest.h"
#include "vmmd/log.h"
#include "vmmd/share.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PROGRAM        "vmmd-guest"
#define PROGRAM_KVM    "vmmd-guest-kvm" /* the same without the software engine: smaller */
#define BACKLOG        4
#define SHORT_RUN_USEC 2000000 /* a guest that reboots sooner than this is slowed down */

static void finish(struct guest *guest, const siginfo_t *info);

/* ---- starting ---- */

static void remove_socket(const struct guest *guest)
{
    char name[NAME_LENGTH_MAX + sizeof(".sock")];

    snprintf(name, sizeof(name), "%s.sock", guest->config.name);
    unlinkat(guest->daemon->sockets_fd, name, 0);
}

/* Listens on RUNTIME/guests/NAME.sock, by way of /proc, because the path may be longer than a
 * socket address. */
static int listen_on_socket(const struct guest *guest, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, r = 0;

    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s.sock",
             guest->daemon->sockets_fd, guest->config.name);
    remove_socket(guest);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0)
        r = -errno;
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int open_kvm(struct guest *guest, struct problem *problem)
{
    char path[HOST_ROOT_MAX + sizeof("/dev/kvm")];

    snprintf(path, sizeof(path), "%s/dev/kvm", guest->daemon->config.host_root);
    guest->kvm_fd = open(path, O_RDWR | O_CLOEXEC);
    return guest->kvm_fd < 0 ? problem_errno(problem, -errno, "guest %s: cannot open /dev/kvm",
                                             guest->config.name)
                             : 0;
}

static int open_files(struct guest *guest, int *ret_log, struct problem *problem)
{
    int r = guest_store_open_template(guest, NULL, &guest->fds, problem);

    if (r < 0)
        return r;
    r = guest->disk_fds[0] = guest_store_open(guest, GUEST_OVERLAY, O_RDWR, problem);
    if (r >= 0)
        r = guest_disks_open(guest, guest->disk_fds + 1, problem);
    if (r >= 0)
        r = guest->console_fd =
            guest_store_open(guest, "console.log", O_WRONLY | O_APPEND | O_CREAT, problem);
    if (r >= 0 && guest->running_engine == ENGINE_KVM)
        r = open_kvm(guest, problem);
    if (r >= 0)
        r = *ret_log = guest_store_open(guest, "vmm.log", O_WRONLY | O_APPEND | O_CREAT, problem);
    return r < 0 ? r : 0;
}

void guest_close_disks(struct guest *guest)
{
    for (int i = 0; i < 1 + GUEST_DISKS_MAX; i++) {
        if (guest->disk_fds[i] >= 0)
            close(guest->disk_fds[i]);
        guest->disk_fds[i] = -1;
    }
}

static void close_files(struct guest *guest)
{
    template_close(&guest->fds);
    guest_close_disks(guest);
    if (guest->console_fd >= 0)
        close(guest->console_fd);
    if (guest->kvm_fd >= 0)
        close(guest->kvm_fd);
    guest->console_fd = guest->kvm_fd = -1;
}

static void on_exited(void *opaque, const siginfo_t *info)
{
    struct guest *guest = opaque;

    guest_talk_drain(guest); /* its last words */
    finish(guest, info);
}

static int spawn(struct guest *guest, int log_fd, int listen_fd, struct problem *problem)
{
    char path[PATH_MAX];
    char *argv[] = {path, NULL};
    struct child_spec spec = {.argv = argv, .n_fds = 4, .detached = true};
    int null_fd, r;

    r = child_find_program(guest->running_engine == ENGINE_KVM ? PROGRAM_KVM : PROGRAM, path,
                           sizeof(path), problem);
    if (r < 0)
        return r;
    null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd < 0)
        return problem_errno(problem, -errno, "cannot open /dev/null");
    spec.fds[0] = null_fd;
    spec.fds[1] = spec.fds[2] = log_fd;
    spec.fds[3] = listen_fd;
    r = child_spawn(&guest->process, guest->daemon->base, &spec, on_exited, guest, problem);
    close(null_fd);
    return r;
}

static void arm(struct guest *guest, unsigned seconds)
{
    event_add(guest->timer, &(struct timeval){.tv_sec = seconds});
}

/* Writes down who it is. A guest process that a restarted daemon would not find must not begin. */
static int record(struct guest *guest, struct problem *problem)
{
    int r;

    guest->started = now_usec();
    r = guest_store_record(guest);
    if (r == 0)
        return 0;
    guest->started = 0;
    child_abort(guest->process);
    guest->process = NULL;
    return problem_errno(problem, r, "guest %s: cannot write in %s/guests/%s", guest->config.name,
                         guest->daemon->state_dir, guest->config.name);
}

/* Lets the new process run and connects to it. */
static void let_go(struct guest *guest)
{
    int r;

    guest->phase = PHASE_STARTING;
    guest->end_seen = guest->stop_forced = guest->restart_wanted = false;
    guest->login = false;
    guest->device_error[0] = '\0';
    memset(&guest->memory, 0, sizeof(guest->memory));
    child_release(guest->process);
    arm(guest, guest->daemon->config.start_timeout);
    r = guest_talk_connect(guest);
    if (r < 0)
        guest_process_kill(guest, "cannot connect to the guest process: %s", strerror(-r));
}

int guest_process_start(struct guest *guest, struct problem *problem)
{
    int log_fd = -1, listen_fd = -1, r;

    r = engine_resolve(&guest->daemon->engine, guest->config.engine, guest->config.vcpus,
                       &guest->running_engine, problem);
    if (r == 0)
        r = open_files(guest, &log_fd, problem);
    if (r == 0) {
        r = listen_on_socket(guest, &listen_fd);
        if (r < 0)
            problem_errno(problem, r, "guest %s: cannot listen on %s/guests/%s.sock",
                          guest->config.name, guest->daemon->runtime_dir, guest->config.name);
    }
    if (r == 0)
        r = spawn(guest, log_fd, listen_fd, problem);
    if (r == 0)
        r = record(guest, problem);
    if (log_fd >= 0)
        close(log_fd);
    if (listen_fd >= 0)
        close(listen_fd);
    if (r < 0) {
        if (listen_fd >= 0)
            remove_socket(guest);
        close_files(guest);
        return r;
    }
    let_go(guest);
    return 0;
}

/* ---- finding it again ---- */

static void mark_gone(struct guest *guest, const struct guest_record *record)
{
    if (record->pid == 0) {
        guest->state = record->state;
        snprintf(guest->reason, sizeof(guest->reason), "%s", record->reason);
    } else if (strcmp(record->boot_id, guest->daemon->boot_id) != 0) {
        guest->state = GUEST_STOPPED;
        snprintf(guest->reason, sizeof(guest->reason), "the host was restarted");
    } else {
        guest->state = GUEST_FAILED;
        snprintf(guest->reason, sizeof(guest->reason),
                 "guest process ended while vmmd was not running");
    }
    if (guest->state == GUEST_RUNNING || guest->state == GUEST_PAUSED)
        guest->state = GUEST_STOPPED; /* a record without a process cannot say that it runs */
    guest->started = 0;
    if (record->pid != 0) {
        guest_cpu_gone(guest);
        log_info("guest %s is %s: %s", guest->config.name, guest_state_name(guest->state),
                 guest->reason);
        guest_store_record(guest);
    }
}

void guest_process_adopt(struct guest *guest, const struct guest_record *record)
{
    int r;

    if (record->pid == 0 || strcmp(record->boot_id, guest->daemon->boot_id) != 0 ||
        child_adopt(&guest->process, guest->daemon->base, record->pid, record->start_ticks,
                    on_exited, guest) < 0) {
        mark_gone(guest, record);
        return;
    }
    guest->phase = PHASE_ADOPTING;
    guest->state = record->state == GUEST_PAUSED ? GUEST_PAUSED : GUEST_RUNNING;
    guest->started = record->started;
    guest->held = guest->state == GUEST_PAUSED && record->held;
    snprintf(guest->hold_reason, sizeof(guest->hold_reason), "%s", record->reason);
    engine_resolve(&guest->daemon->engine, guest->config.engine, guest->config.vcpus,
                   &guest->running_engine, NULL);
    arm(guest, guest->daemon->config.start_timeout);
    r = guest_talk_connect(guest);
    if (r < 0)
        guest_process_kill(guest, "cannot connect to the guest process again: %s", strerror(-r));
}

/* ---- ending ---- */

void guest_process_ending(struct guest *guest)
{
    if (guest->phase == PHASE_ENDING || !guest->process)
        return;
    guest->phase = PHASE_ENDING;
    arm(guest, GUEST_END_SECS);
}

void guest_process_kill(struct guest *guest, const char *format, ...)
{
    va_list args;

    if (!guest->end_seen) { /* else what it said first is the better reason */
        guest->end_seen = true;
        guest->end_state = PROTO_GUEST_FAILED;
        va_start(args, format);
        vsnprintf(guest->end_reason, sizeof(guest->end_reason), format, args);
        va_end(args);
    }
    guest_talk_close(guest);
    guest->phase = PHASE_ENDING;
    event_del(guest->timer);
    if (guest->process)
        child_kill(guest->process);
}

/* A guest process that exits without a last word: how it exited is the reason. */
static void guess_end(struct guest *guest, const siginfo_t *info)
{
    char how[128];

    child_describe_end(info, how, sizeof(how));
    guest->end_state = PROTO_GUEST_FAILED;
    snprintf(guest->end_reason, sizeof(guest->end_reason), "guest process %s", how);
}

static void start_again(struct guest *guest)
{
    struct problem problem;

    guest->phase = PHASE_IDLE;
    if (guest_process_start(guest, &problem) == 0)
        return;
    guest_set_state(guest, GUEST_FAILED, problem.text);
    guest_wait_fail_all(guest, &problem);
}

static void finish_waiters(struct guest *guest)
{
    struct problem problem;

    guest_wait_finish(guest, WAIT_STOP, 0, NULL);
    if (guest->n_waiters == 0)
        return;
    if (guest->state == GUEST_FAILED)
        problem_set(&problem, PROBLEM_FAILED, "guest %s failed: %s", guest->config.name,
                    guest->reason);
    else
        problem_set(&problem, PROBLEM_WRONG_STATE, "guest %s stopped", guest->config.name);
    guest_wait_fail_all(guest, &problem);
}

/* The process is gone. */
static void finish(struct guest *guest, const siginfo_t *info)
{
    uint64_t ran = now_usec() - guest->started;
    bool again, forced = guest->stop_forced;

    if (!guest->end_seen)
        guess_end(guest, info);
    again = !forced && guest->end_state == PROTO_GUEST_REBOOT;
    again = again || (guest->restart_wanted && (forced || guest->end_state != PROTO_GUEST_FAILED));
    guest_process_forget(guest);
    guest_cpu_gone(guest);
    remove_socket(guest);
    guest->ram_address = 0;
    memset(&guest->memory, 0, sizeof(guest->memory));
    if (again)
        guest_wait_finish(guest, WAIT_STOP, 0, NULL);
    if (again && ran < SHORT_RUN_USEC) {
        guest->phase = PHASE_STARTING; /* without a process: the timer starts it */
        guest_changed(guest, GUEST_CHANGE_STATE);
        arm(guest, GUEST_REBOOT_PAUSE);
        return;
    }
    if (again) {
        daemon_happened(guest->daemon, "guest-state", guest->config.name, "restarting");
        start_again(guest);
        guest_changed(guest, GUEST_CHANGE_STATE);
        return;
    }
    guest->started = 0;
    guest->login = false;
    if (forced)
        guest_set_state(guest, GUEST_STOPPED, "ended by force");
    else
        guest_set_state(guest,
                        guest->end_state == PROTO_GUEST_FAILED ? GUEST_FAILED : GUEST_STOPPED,
                        guest->end_reason);
    finish_waiters(guest);
}

void guest_process_forget(struct guest *guest)
{
    event_del(guest->timer);
    guest_talk_close(guest);
    close_files(guest);
    guest_leave_share(guest);
    guest->held = guest->hold_never = false;
    guest->counters_before = (struct history_counters){0};
    child_free(guest->process);
    guest->process = NULL;
    guest->phase = PHASE_IDLE;
}

/* The phase lasted too long, or the pause before a start is over. */
void guest_process_timeout(struct guest *guest)
{
    if (guest->phase == PHASE_STARTING && !guest->process)
        start_again(guest);
    else if (guest->phase == PHASE_STARTING)
        guest_process_kill(guest, "guest process did not start within %u s",
                           guest->daemon->config.start_timeout);
    else if (guest->phase == PHASE_ADOPTING)
        guest_process_kill(guest, "guest process did not answer a restarted vmmd within %u s",
                           guest->daemon->config.start_timeout);
    else
        guest_process_kill(guest, "guest process did not end within %d s", GUEST_END_SECS);
}

/* ---- sockets of nobody ---- */

static void clean_one(void *opaque, const char *name)
{
    struct daemon *daemon = opaque;
    char guest_name[NAME_LENGTH_MAX + 1];
    const struct guest *guest;
    size_t n = strlen(name);

    if (n <= 5 || n - 5 > NAME_LENGTH_MAX || strcmp(name + n - 5, ".sock") != 0)
        return;
    memcpy(guest_name, name, n - 5);
    guest_name[n - 5] = '\0';
    guest = guest_find(daemon, guest_name);
    if (!guest || guest->phase == PHASE_IDLE)
        unlinkat(daemon->sockets_fd, name, 0);
}

void guest_sockets_clean(struct daemon *daemon)
{
    dir_each(daemon->sockets_fd, clean_one, daemon);
}
