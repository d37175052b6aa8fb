/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * worker: the event loop of a guest process. One poll over vmmd's connection, the listening socket,
 * the console, and an eventfd by which vCPU and disk threads report. It never blocks on vmmd: a
 * guest runs on without it, and a restarted vmmd connects again.
 */
#include "vmmd/vmm/worker.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define REPORT_BUSY_S    1 /* between memory reports while something changes */
#define REPORT_SETTLED_S 15

/* ---- what other threads report
 * -------------------------------------------------------------------------- */

static void post(struct worker *w)
{
    uint64_t one = 1;

    if (write(w->event_fd, &one, sizeof(one)) < 0) {
        /* EAGAIN: it is awake already */
    }
}

void worker_on_ended(void *opaque)
{
    struct worker *w = opaque;

    pthread_mutex_lock(&w->news_lock);
    w->ended = true;
    pthread_mutex_unlock(&w->news_lock);
    post(w);
}

void worker_on_device_failed(void *opaque, const char *text)
{
    struct worker *w = opaque;

    pthread_mutex_lock(&w->news_lock);
    snprintf(w->device_error, sizeof(w->device_error), "%s", text);
    pthread_mutex_unlock(&w->news_lock);
    post(w);
}

/* Each block is told once, however often it is read. */
void worker_on_damaged(void *opaque, uint64_t offset)
{
    struct worker *w = opaque;
    unsigned i = 0;

    pthread_mutex_lock(&w->news_lock);
    while (i < w->n_damaged && w->damaged[i] != offset)
        i++;
    if (i == w->n_damaged && i < PROTO_DAMAGED_MAX)
        w->damaged[w->n_damaged++] = offset;
    pthread_mutex_unlock(&w->news_lock);
    post(w);
}

void worker_on_idle(void *opaque)
{
    console_wake(&((struct worker *)opaque)->console);
}

/* ---- to vmmd
 * ------------------------------------------------------------------------------------------------
 */

static void disconnect(struct worker *w)
{
    if (w->conn >= 0)
        close(w->conn);
    w->conn = -1;
}

static void send_msg(struct worker *w, const struct proto_msg *msg)
{
    if (w->conn >= 0 && proto_send(w->conn, msg) < 0)
        disconnect(w);
}

static uint64_t ram_address(const struct worker *w)
{
    return w->have_machine ? (uint64_t)(uintptr_t)w->machine.memory.base : 0;
}

static void send_hello(struct worker *w)
{
    struct proto_msg msg;

    proto_init(&msg, PROTO_HELLO);
    msg.hello.version = PROTO_VERSION;
    msg.hello.state = w->state;
    msg.hello.pid = getpid();
    msg.hello.login = w->console.login;
    msg.hello.ram_address = ram_address(w);
    snprintf(msg.hello.name, sizeof(msg.hello.name), "%s", w->name);
    send_msg(w, &msg);
}

/* What vmmd has not heard of yet: it may have been away. */
static void send_damaged(struct worker *w)
{
    struct proto_msg msg;

    pthread_mutex_lock(&w->news_lock);
    while (w->conn >= 0 && w->n_damaged_sent < w->n_damaged) {
        proto_init(&msg, PROTO_DAMAGED);
        msg.damaged.offset = w->damaged[w->n_damaged_sent];
        send_msg(w, &msg); /* does not wait */
        if (w->conn >= 0)
            w->n_damaged_sent++;
    }
    pthread_mutex_unlock(&w->news_lock);
}

static void send_state(struct worker *w, enum proto_guest_state state, const char *reason)
{
    struct proto_msg msg;

    w->state = state;
    proto_init(&msg, PROTO_STATE);
    msg.state.state = state;
    msg.state.ram_address = ram_address(w);
    snprintf(msg.state.reason, sizeof(msg.state.reason), "%s", reason);
    send_msg(w, &msg);
}

static bool fill_report(struct worker *w, struct proto_memory *p)
{
    struct ms_ledger l;

    if (!w->scanner || ms_scanner_ledger(w->scanner, &l) < 0)
        return false;
    *p = (struct proto_memory){
        .nominal = l.nominal,
        .resident = l.resident,
        .zero = l.zero,
        .lineage = l.lineage,
        .template_ = l.template_,
        .pool = l.pool,
        .private_ = l.private_,
        .merges = l.merges,
        .splits = l.splits,
        .cpu_ns = l.cpu_ns,
        .mappings = l.mappings,
        .mappings_skipped = l.mappings_skipped,
        .passes = l.passes,
        .repacked = l.repacked,
        .freezes = l.freezes,
        .longest_freeze_ns = l.longest_freeze_ns,
        .balloon = virtio_balloon_bytes(w->balloon),
        .settled = l.settled,
    };
    return true;
}

static void send_memory(struct worker *w, uint64_t cookie)
{
    struct proto_msg msg;

    proto_init(&msg, PROTO_MEMORY);
    if (!fill_report(w, &msg.memory))
        return;
    w->last_report = msg.memory;
    msg.memory.cookie = cookie;
    send_msg(w, &msg);
}

static void arm_report(struct worker *w)
{
    struct itimerspec next = {.it_value.tv_sec =
                                  w->last_report.settled ? REPORT_SETTLED_S : REPORT_BUSY_S};

    timerfd_settime(w->report_fd, 0, &next, NULL);
}

static void on_report_time(struct worker *w)
{
    uint64_t ignored;
    struct proto_memory now;

    if (read(w->report_fd, &ignored, sizeof(ignored)) < 0)
        return;
    if (w->conn >= 0 && fill_report(w, &now) &&
        (now.resident != w->last_report.resident || now.pool != w->last_report.pool ||
         now.template_ != w->last_report.template_ || now.settled != w->last_report.settled))
        send_memory(w, 0);
    arm_report(w);
}

/* ---- from vmmd
 * ---------------------------------------------------------------------------------------------------
 */

/* fds come in a fixed order, each iff its flag is set (proto.h). -EPROTO when their number does not
 * fit. */
static int take_setup_fds(struct proto_msg *msg, struct setup_fds *f)
{
    uint32_t flags = msg->setup.flags;
    int want = 2 + !!(flags & PROTO_SETUP_INITRD) + 2 * !!(flags & PROTO_SETUP_TEMPLATE) +
               !!(flags & PROTO_SETUP_KVM) + (int)msg->setup.n_disks;
    int i = 0;

    *f = (struct setup_fds){.initrd = -1, .template_disk = -1, .hashes = -1, .kvm = -1};
    if (msg->n_fds != want)
        return -EPROTO;
    f->kernel = proto_take_fd(msg, i++);
    f->log = proto_take_fd(msg, i++);
    if (flags & PROTO_SETUP_INITRD)
        f->initrd = proto_take_fd(msg, i++);
    if (flags & PROTO_SETUP_TEMPLATE) {
        f->template_disk = proto_take_fd(msg, i++);
        f->hashes = proto_take_fd(msg, i++);
    }
    if (flags & PROTO_SETUP_KVM)
        f->kvm = proto_take_fd(msg, i++);
    for (uint32_t d = 0; d < PROTO_DISKS_MAX; d++)
        f->disk[d] = d < msg->setup.n_disks ? proto_take_fd(msg, i++) : -1;
    return 0;
}

static int on_setup(struct worker *w, struct proto_msg *msg)
{
    char text[PROTO_TEXT_MAX] = "";
    struct setup_fds fds;

    if (w->state != PROTO_GUEST_EMPTY || take_setup_fds(msg, &fds) < 0)
        return -EPROTO;
    snprintf(w->name, sizeof(w->name), "%s", msg->setup.name);
    if (worker_build(w, &msg->setup, &fds, text, sizeof(text)) < 0) {
        fprintf(stderr, "vmmd-guest %s: %s\n", w->name, text);
        worker_demolish(w);
        send_state(w, PROTO_GUEST_FAILED, text);
        return 0;
    }
    send_state(w, PROTO_GUEST_RUNNING, "");
    arm_report(w);
    return 0;
}

static int on_share(struct worker *w, struct proto_msg *msg)
{
    int want = msg->share.has_pool ? 2 : 0, sock, pool, r;

    if (!w->scanner || msg->n_fds != want)
        return -EPROTO;
    sock = proto_take_fd(msg, 0);
    pool = proto_take_fd(msg, 1);
    r = ms_scanner_connect(w->scanner, sock, pool);
    if (r < 0) { /* they are still ours */
        close(sock);
        close(pool);
    }
    if (r ==
        -EBUSY) { /* after many restarts of vmmd: zero and template pages are merged all the same */
        fprintf(stderr, "vmmd-guest %s: too many earlier pools are still mapped for another\n",
                w->name);
        r = 0;
    }
    return r;
}

static void on_pause(struct worker *w, bool pause)
{
    if (pause)
        machine_pause(&w->machine);
    else
        machine_resume(&w->machine);
    send_state(w, pause ? PROTO_GUEST_PAUSED : PROTO_GUEST_RUNNING, "");
}

static void on_power_button(struct worker *w)
{
    pthread_mutex_lock(&w->machine.lock);
    acpi_pm_power_button(w->pm);
    pthread_mutex_unlock(&w->machine.lock);
}

static void on_balloon(struct worker *w, uint64_t target)
{
    pthread_mutex_lock(&w->machine.lock);
    virtio_balloon_target(w->balloon, target);
    pthread_mutex_unlock(&w->machine.lock);
}

static int on_console(struct worker *w, struct proto_msg *msg)
{
    if (msg->n_fds != 1)
        return -EPROTO;
    console_attach(&w->console,
                   proto_take_fd(msg, 0)); /* too many: closed, which the client sees */
    return 0;
}

static int dispatch(struct worker *w, struct proto_msg *msg)
{
    if (msg->header.type == PROTO_SETUP)
        return on_setup(w, msg);
    if (msg->header.type == PROTO_QUIT) {
        if (w->have_machine)
            machine_finish(&w->machine, MACHINE_QUIT, "ended by vmmd");
        else
            w->state = PROTO_GUEST_STOPPED;
        return 0;
    }
    if (!w->have_machine)
        return -EPROTO;
    switch (msg->header.type) {
    case PROTO_SHARE: return on_share(w, msg);
    case PROTO_PAUSE: on_pause(w, true); return 0;
    case PROTO_RESUME: on_pause(w, false); return 0;
    case PROTO_POWER_BUTTON: on_power_button(w); return 0;
    case PROTO_CONSOLE: return on_console(w, msg);
    case PROTO_QUERY_MEMORY: send_memory(w, msg->query.cookie); return 0;
    case PROTO_BALLOON: on_balloon(w, msg->balloon.target_bytes); return 0;
    case PROTO_BUDGET: ms_scanner_set_budget(w->scanner, msg->budget.percent); return 0;
    default: return -EPROTO;
    }
}

static void serve_conn(struct worker *w)
{
    struct proto_msg msg;
    int r = proto_recv(w->conn, &msg);

    if (r == -EAGAIN)
        return;
    if (r == 0) {
        r = dispatch(w, &msg);
        proto_close_fds(&msg);
    }
    if (r == -EPROTO)
        fprintf(stderr, "vmmd-guest %s: vmmd sent a message that makes no sense\n", w->name);
    if (r < 0)
        disconnect(w);
}

static bool peer_may_command(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof(peer);

    /* The socket's directory is vmmd's alone; this holds off a mistake in its mode. */
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
           (peer.uid == 0 || peer.uid == getuid());
}

static void accept_vmmd(struct worker *w)
{
    int fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (w->conn >= 0 || !peer_may_command(fd)) {
        close(fd);
        return;
    }
    w->conn = fd;
    send_hello(w);
    send_damaged(w);
}

/* ---- the loop
 * --------------------------------------------------------------------------------------------------------
 */

static void feed_input(struct worker *w)
{
    struct console *c = &w->console;
    struct machine *m = &w->machine;
    size_t taken;

    if (c->input_bytes == 0)
        return;
    memory_dma_begin(&m->memory);
    pthread_mutex_lock(&m->lock);
    if (w->console_on_virtio)
        taken = virtio_console_input(w->vconsole, c->input, c->input_bytes);
    else
        taken = serial_input(w->serial, c->input, c->input_bytes);
    pthread_mutex_unlock(&m->lock);
    memory_dma_end(&m->memory);
    console_taken(c, taken);
}

static void on_news(struct worker *w)
{
    struct proto_msg msg;
    uint64_t ignored;

    if (read(w->event_fd, &ignored, sizeof(ignored)) < 0)
        return;
    proto_init(&msg, PROTO_DEVICE);
    pthread_mutex_lock(&w->news_lock);
    memcpy(msg.text.text, w->device_error, sizeof(msg.text.text));
    w->device_error[0] = '\0';
    pthread_mutex_unlock(&w->news_lock);
    if (msg.text.text[0]) {
        fprintf(stderr, "vmmd-guest %s: %s\n", w->name, msg.text.text);
        send_msg(w, &msg);
    }
    send_damaged(w);
}

static void serve_console(struct worker *w, const struct pollfd *fds, unsigned n)
{
    struct proto_msg msg;

    if (console_serve(&w->console, fds, n)) {
        proto_init(&msg, PROTO_LOGIN);
        send_msg(w, &msg);
    }
    feed_input(w);
}

enum { FD_LISTEN, FD_CONN, FD_EVENT, FD_REPORT, FD_CONSOLE };

static void turn(struct worker *w)
{
    struct pollfd fds[FD_CONSOLE + CONSOLE_POLLFDS];
    unsigned n = FD_CONSOLE;

    fds[FD_LISTEN] = (struct pollfd){.fd = w->listen_fd, .events = POLLIN};
    fds[FD_CONN] = (struct pollfd){.fd = w->conn, .events = POLLIN};
    fds[FD_EVENT] = (struct pollfd){.fd = w->event_fd, .events = POLLIN};
    fds[FD_REPORT] = (struct pollfd){.fd = w->report_fd, .events = POLLIN};
    if (w->have_machine)
        n += console_pollfds(&w->console, fds + FD_CONSOLE);
    if (poll(fds, n, -1) < 0)
        return;
    if (n > FD_CONSOLE)
        serve_console(w, fds + FD_CONSOLE, n - FD_CONSOLE);
    if (fds[FD_EVENT].revents)
        on_news(w);
    if (fds[FD_REPORT].revents)
        on_report_time(w);
    if (fds[FD_CONN].revents && w->conn == fds[FD_CONN].fd)
        serve_conn(w);
    if (fds[FD_LISTEN].revents)
        accept_vmmd(w);
}

static bool machine_ended(struct worker *w)
{
    bool ended;

    pthread_mutex_lock(&w->news_lock);
    ended = w->ended;
    pthread_mutex_unlock(&w->news_lock);
    return ended;
}

/* vmmd may be away: what is left of this process waits until it is back and hears how the guest
 * ended. */
static void tell_end(struct worker *w, enum proto_guest_state state, const char *text)
{
    struct pollfd fd = {.fd = w->listen_fd, .events = POLLIN};

    w->state = state; /* for HELLO */
    do {
        while (w->conn < 0)
            if (poll(&fd, 1, -1) > 0)
                accept_vmmd(w);
        send_state(w, state, text);
    } while (w->conn < 0);
}

static void log_times(const struct worker *w, const char *what, const struct histogram *h)
{
    fprintf(stderr, "vmmd-guest %s: %s: %llu times, us: p50 %llu p99 %llu max %llu\n", w->name,
            what, (unsigned long long)h->count,
            (unsigned long long)histogram_quantile(h, 50, 100) / 1000,
            (unsigned long long)histogram_quantile(h, 99, 100) / 1000,
            (unsigned long long)h->max / 1000);
}

/* What page merging cost the guest in time. */
static void log_holds(const struct worker *w)
{
    const struct gate_times *t = &w->machine.gate.times;

    if (t->cpu.count == 0)
        return;
    fprintf(stderr,
            "vmmd-guest %s: merging held the guest as it halted %llu times, while it did %llu, "
            "between two instructions %llu (p99 %llu us after the kick)\n",
            w->name, (unsigned long long)t->by_halting, (unsigned long long)t->by_bringer,
            (unsigned long long)t->by_kicked,
            (unsigned long long)histogram_quantile(&t->came, 99, 100) / 1000);
    log_times(w, "merging, wall time", &t->held);
    log_times(w, "merging, CPU time", &t->cpu);
}

/* What the guest printed last is often the reason: it is written out before the end is told. */
static void report_end(struct worker *w)
{
    static const enum proto_guest_state states[] = {
        [MACHINE_RUNS] = PROTO_GUEST_FAILED,  [MACHINE_POWERED_OFF] = PROTO_GUEST_STOPPED,
        [MACHINE_RESET] = PROTO_GUEST_REBOOT, [MACHINE_FAILED] = PROTO_GUEST_FAILED,
        [MACHINE_QUIT] = PROTO_GUEST_STOPPED,
    };
    enum proto_guest_state state = states[w->machine.end];
    struct pollfd now[2] = {{.revents = POLLIN}, {.revents = POLLIN}};
    char text[MACHINE_TEXT];

    snprintf(text, sizeof(text), "%s", w->machine.end_text);
    worker_demolish(w);
    console_serve(&w->console, now, 2);
    log_holds(w);
    fprintf(stderr, "vmmd-guest %s: ended: %s\n", w->name, text);
    tell_end(w, state, text);
}

int worker_run(struct worker *w)
{
    w->conn = w->template_fd = -1;
    w->state = PROTO_GUEST_EMPTY;
    pthread_mutex_init(&w->news_lock, NULL);
    w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->report_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (w->event_fd < 0 || w->report_fd < 0)
        return 1;
    bool connected = false;
    while (w->state != PROTO_GUEST_STOPPED && w->state != PROTO_GUEST_FAILED) {
        turn(w);
        connected = connected || w->conn >= 0;
        if (connected && w->conn < 0 && w->state == PROTO_GUEST_EMPTY)
            return 1;                              /* vmmd went away before it said what to run */
        if (w->have_machine && machine_ended(w)) { /* a failed SETUP has told its reason */
            report_end(w);
            break;
        }
    }
    if (w->have_console)
        console_destroy(&w->console);
    disconnect(w);
    return w->state == PROTO_GUEST_FAILED;
}
