/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-talk: the conversation with a guest process.
 *
 * The guest process is not trusted: a message that does not fit the phase, a name or pid that is
 * not its own, or a flood ends it and nothing else. Nothing here waits: a guest process that does
 * not read gets its request refused as Busy.
 */
#include "vmmd/child.h"
#include "vmmd/guest.h"
#include "vmmd/log.h"
#include "vmmd/share.h"
#include "vmmd/text.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MESSAGES_PER_TURN   16   /* of one guest, then others get their turn */
#define MESSAGES_PER_SECOND 2000 /* of one guest process: more is a flood */
#define DEVICE_REPORT_USEC  1000000
#define BLOCK_BYTES         4096u
#define ROOT_SERIAL         "vmmd-disk-0"

static int breach(struct guest *guest, const char *what)
{
    guest_process_kill(guest, "guest process broke the protocol: %s", what);
    return -EPROTO;
}

/* ---- memory sharing ---- */

static void on_share_lost(void *opaque, int error, const char *text)
{
    struct guest *guest = opaque;
    char reason[256];

    text_copy(reason, sizeof(reason), text);
    guest_leave_share(guest);
    guest_memory_dirty(guest);
    if (error == -ECONNRESET)
        return; /* it ends, and its pidfd will say so; or it goes on without a pool */
    daemon_happened(guest->daemon, "pool-error", guest->config.name, "%s",
                    reason[0] ? reason : strerror(-error));
    if (error == -EPROTO)
        guest_process_kill(guest, "guest process lied to the memory pool: %s", reason);
}

static int join_pool(struct guest *guest, struct proto_msg *msg)
{
    struct template *tmpl = template_find(guest->daemon, guest->config.tmpl);
    const char *group = guest->config.share_group;
    const struct share_request request = {
        .group = group,
        .timing = config_timing(&guest->daemon->config, group),
        .ram_bytes = guest->config.memory,
        .template_key = tmpl ? tmpl->name : "",
        .template_blocks = tmpl ? (tmpl->info.size + BLOCK_BYTES - 1) / BLOCK_BYTES : 0,
        .lost = on_share_lost,
        .opaque = guest,
    };
    int r = share_join(guest->daemon->shares, &request, &guest->share, &msg->fds[0], &msg->fds[1]);

    if (r < 0) {
        daemon_happened(guest->daemon, "pool-error", guest->config.name,
                        "cannot join share group %s: %s", group, strerror(-r));
        return r;
    }
    msg->n_fds = 2;
    msg->share.has_pool = 1;
    return 0;
}

/* A guest without its pool still runs: failures are reported and no more. */
static void send_share(struct guest *guest)
{
    struct proto_msg msg;
    struct problem problem;

    guest_leave_share(guest);
    proto_init(&msg, PROTO_SHARE);
    if (strcmp(guest->config.share_group, GUEST_SHARE_NONE) != 0)
        join_pool(guest, &msg);
    if (guest_talk_send(guest, &msg, &problem) < 0) {
        guest_leave_share(guest);
        daemon_happened(guest->daemon, "pool-error", guest->config.name, "%s", problem.text);
    }
    proto_close_fds(&msg);
}

/* ---- messages from the guest process ---- */

static enum proto_cpu_model proto_cpu_model(enum cpu_model model)
{
    switch (model) {
    case CPU_MODEL_V2: return PROTO_CPU_V2;
    case CPU_MODEL_V3: return PROTO_CPU_V3;
    default: return PROTO_CPU_HOST;
    }
}

static void add_disks(const struct guest *guest, struct proto_msg *msg)
{
    const struct guest_disks *disks = &guest->config.disks;
    struct proto_disk *root = &msg->setup.disks[0];

    snprintf(root->serial, sizeof(root->serial), ROOT_SERIAL);
    root->format = PROTO_DISK_QCOW2;
    for (unsigned i = 0; i < disks->n; i++) {
        struct proto_disk *disk = &msg->setup.disks[1 + i];

        snprintf(disk->serial, sizeof(disk->serial), "%s", disks->disk[i].name);
        disk->format = disks->disk[i].raw ? PROTO_DISK_RAW : PROTO_DISK_QCOW2;
        disk->flags = disks->disk[i].readonly ? PROTO_DISK_READONLY : 0;
    }
    msg->setup.n_disks = 1 + disks->n;
    for (unsigned i = 0; i < msg->setup.n_disks; i++)
        msg->fds[msg->n_fds++] = guest->disk_fds[i];
}

static void send_setup(struct guest *guest)
{
    const struct template *tmpl = template_find(guest->daemon, guest->config.tmpl);
    bool private = strcmp(guest->config.share_group, GUEST_SHARE_NONE) == 0;
    struct proto_msg msg;
    struct problem problem;

    guest->n_damaged = 0;
    proto_init(&msg, PROTO_SETUP);
    snprintf(msg.setup.name, sizeof(msg.setup.name), "%s", guest->config.name);
    snprintf(msg.setup.cmdline, sizeof(msg.setup.cmdline), "%s", tmpl ? tmpl->info.cmdline : "");
    msg.setup.memory_bytes = guest->config.memory;
    msg.setup.vcpus = guest->config.vcpus;
    msg.setup.engine = guest->running_engine == ENGINE_KVM ? PROTO_ENGINE_KVM : PROTO_ENGINE_SOFT;
    msg.setup.cpu_model = proto_cpu_model(guest->daemon->config.cpu_model);
    msg.setup.scan_budget = guest->daemon->config.scan_budget;
    msg.setup.max_mappings = guest->daemon->max_mappings;
    msg.setup.drop_uid = guest->daemon->drop_uid;
    msg.setup.drop_gid = guest->daemon->drop_gid;
    memcpy(msg.setup.uuid, guest->config.uuid, sizeof(msg.setup.uuid));
    msg.setup.flags = PROTO_SETUP_TEMPLATE | (guest->fds.initrd >= 0 ? PROTO_SETUP_INITRD : 0) |
                      (private ? PROTO_SETUP_PRIVATE : 0) |
                      (guest->kvm_fd >= 0 ? PROTO_SETUP_KVM : 0);
    const int fds[] = {guest->fds.kernel, guest->console_fd, guest->fds.initrd,
                       guest->fds.disk,   guest->fds.hashes, guest->kvm_fd};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            msg.fds[msg.n_fds++] = fds[i];
    add_disks(guest, &msg);
    if (guest_talk_send(guest, &msg, &problem) < 0)
        guest_process_kill(guest, "%s", problem.text);
}

static void set_running_state(struct guest *guest, uint32_t state)
{
    if (state == PROTO_GUEST_PAUSED) {
        guest_set_state(guest, GUEST_PAUSED, guest->held ? guest->hold_reason : "");
    } else {
        guest->held = false;
        guest_set_state(guest, GUEST_RUNNING, "");
    }
}

static void guest_is_up(struct guest *guest, uint32_t state, uint64_t ram_address)
{
    event_del(guest->timer);
    guest->phase = PHASE_UP;
    guest->ram_address = ram_address;
    send_share(guest);
    guest_send_scan_budget(guest); /* it may have changed since its setup, or under another vmmd */
    guest_cpu_up(guest);
    set_running_state(guest, state);
    guest_wait_finish(guest, WAIT_START, 0, NULL);
}

static void guest_ends(struct guest *guest, uint32_t state, const char *reason)
{
    guest->end_seen = true;
    guest->end_state = state;
    text_copy(guest->end_reason, sizeof(guest->end_reason), reason);
    guest_process_ending(guest);
}

static int on_hello(struct guest *guest, const struct proto_hello *hello)
{
    if (hello->version != PROTO_VERSION)
        return breach(guest, "it was built for another version of vmmd");
    if (hello->pid != child_pid(guest->process))
        return breach(guest, "it gave a pid that is not its own");
    if (guest->phase == PHASE_STARTING && guest->disk_fds[0] >= 0) {
        if (hello->state != PROTO_GUEST_EMPTY)
            return breach(guest, "it runs something before its setup");
        send_setup(guest);
        template_close(&guest->fds);
        guest_close_disks(guest);
        close(guest->console_fd);
        guest->console_fd = -1;
        return 0;
    }
    if (guest->phase != PHASE_ADOPTING)
        return breach(guest, "a second greeting");
    if (hello->state == PROTO_GUEST_EMPTY) {
        guest_process_kill(guest, "vmmd ended while this guest was being started");
        return -EPROTO;
    }
    if (strcmp(hello->name, guest->config.name) != 0)
        return breach(guest, "it gave the name of another guest");
    guest->login = hello->login;
    if (hello->state == PROTO_GUEST_RUNNING || hello->state == PROTO_GUEST_PAUSED)
        guest_is_up(guest, hello->state, hello->ram_address);
    else
        guest_process_ending(guest); /* its last STATE follows, or its exit status says it */
    return 0;
}

static int on_state(struct guest *guest, const struct proto_state *state)
{
    bool runs = state->state == PROTO_GUEST_RUNNING || state->state == PROTO_GUEST_PAUSED;

    if (state->state < PROTO_GUEST_RUNNING || state->state > PROTO_GUEST_REBOOT)
        return breach(guest, "an unknown state");
    if (!runs) {
        guest_ends(guest, state->state, state->reason);
        return 0;
    }
    if (guest->phase == PHASE_STARTING && guest->disk_fds[0] < 0) {
        guest_is_up(guest, state->state, state->ram_address);
        return 0;
    }
    if (guest->phase == PHASE_ENDING)
        return 0; /* crossed with our request to end */
    if (guest->phase != PHASE_UP)
        return breach(guest, "a state before its greeting");
    set_running_state(guest, state->state);
    guest_wait_finish(guest, guest->state == GUEST_PAUSED ? WAIT_PAUSE : WAIT_RESUME, 0, NULL);
    return 0;
}

static int on_memory(struct guest *guest, const struct proto_memory *memory)
{
    guest->memory = *memory;
    guest_measure_saved(guest);
    guest_memory_dirty(guest);
    if (memory->cookie != 0)
        guest_wait_finish(guest, WAIT_MEMORY, memory->cookie, NULL);
    return 0;
}

static int on_device(struct guest *guest, const struct proto_text *text)
{
    uint64_t now = now_usec();

    text_copy(guest->device_error, sizeof(guest->device_error), text->text);
    guest_changed(guest, GUEST_CHANGE_DEVICE);
    /* A guest can break its devices as often as it likes; the log need not hear of each time. */
    if (now - guest->device_reported < DEVICE_REPORT_USEC)
        return 0;
    guest->device_reported = now;
    daemon_happened(guest->daemon, "device-failed", guest->config.name, "%s", guest->device_error);
    return 0;
}

static int on_damaged(struct guest *guest, const struct proto_damaged *damaged)
{
    const struct template *tmpl = template_find(guest->daemon, guest->config.tmpl);

    if (!tmpl)
        return 0;
    if (damaged->offset >= tmpl->info.size || damaged->offset % BLOCK_BYTES != 0 ||
        guest->n_damaged >= PROTO_DAMAGED_MAX)
        return breach(guest, "a damaged block that its template cannot have");
    guest->n_damaged++;
    daemon_happened(guest->daemon, "template-damaged", tmpl->name,
                    "the block at byte %llu of %s/" TEMPLATE_DISK
                    " is not what was imported; guest %s reads it in vain",
                    (unsigned long long)damaged->offset, tmpl->path, guest->config.name);
    return 0;
}

static int on_login(struct guest *guest)
{
    if (guest->login)
        return 0;
    guest->login = true;
    guest_changed(guest, GUEST_CHANGE_LOGIN);
    daemon_happened(guest->daemon, "guest-login", guest->config.name, "%s", "");
    return 0;
}

static int handle(struct guest *guest, const struct proto_msg *msg)
{
    switch (msg->header.type) {
    case PROTO_HELLO: return on_hello(guest, &msg->hello);
    case PROTO_STATE: return on_state(guest, &msg->state);
    case PROTO_LOGIN: return on_login(guest);
    case PROTO_MEMORY: return on_memory(guest, &msg->memory);
    case PROTO_DEVICE: return on_device(guest, &msg->text);
    case PROTO_DAMAGED: return on_damaged(guest, &msg->damaged);
    default: return breach(guest, "a message of the wrong direction");
    }
}

/* ---- the connection ---- */

static bool is_flood(struct guest *guest)
{
    uint64_t now = now_usec();

    if (now - guest->window_start > 1000000) {
        guest->window_start = now;
        guest->window_count = 0;
    }
    return ++guest->window_count > MESSAGES_PER_SECOND;
}

static void receive(struct guest *guest, unsigned limit)
{
    struct proto_msg msg;

    for (unsigned i = 0; i < limit && guest->sock >= 0; i++) {
        int r = proto_recv(guest->sock, &msg);

        if (r == -EAGAIN)
            return;
        if (r == -EPROTO) {
            breach(guest, "a malformed message");
            return;
        }
        if (r < 0) {
            guest_talk_close(guest);
            guest_process_ending(guest);
            return;
        }
        r = is_flood(guest) ? breach(guest, "a flood of messages") : handle(guest, &msg);
        proto_close_fds(&msg);
        if (r < 0)
            return;
    }
}

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    receive(opaque, MESSAGES_PER_TURN);
}

void guest_talk_drain(struct guest *guest)
{
    receive(guest, MESSAGES_PER_SECOND);
}

int guest_talk_connect(struct guest *guest)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;

    if (sock < 0)
        return -errno;
    /* The runtime directory's path may be longer than an address can hold; this one never is. */
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s.sock",
             guest->daemon->sockets_fd, guest->config.name);
    if (connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0) {
        r = -errno;
        close(sock);
        return r;
    }
    guest->sock_event =
        event_new(guest->daemon->base, sock, EV_READ | EV_PERSIST, on_readable, guest);
    if (!guest->sock_event || event_add(guest->sock_event, NULL) < 0) {
        if (guest->sock_event)
            event_free(guest->sock_event);
        guest->sock_event = NULL;
        close(sock);
        return -ENOMEM;
    }
    guest->sock = sock;
    return 0;
}

void guest_talk_close(struct guest *guest)
{
    if (guest->sock_event)
        event_free(guest->sock_event);
    guest->sock_event = NULL;
    if (guest->sock >= 0)
        close(guest->sock);
    guest->sock = -1;
}

int guest_talk_send(struct guest *guest, const struct proto_msg *msg, struct problem *problem)
{
    int r = guest->sock >= 0 ? proto_send(guest->sock, msg) : -EPIPE;

    if (r == -EAGAIN)
        return problem_set(problem, PROBLEM_BUSY, "guest %s: its process does not read messages",
                           guest->config.name);
    if (r < 0)
        return problem_errno(problem, r, "guest %s: cannot reach its process", guest->config.name);
    return 0;
}

int guest_talk_simple(struct guest *guest, enum proto_type type, struct problem *problem)
{
    struct proto_msg msg;

    proto_init(&msg, type);
    return guest_talk_send(guest, &msg, problem);
}
