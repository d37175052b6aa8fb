/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pressure: from figures to a level, and from a level to what is done.
 *
 * The figures are read by a timer, often when it is close, and at once when the kernel reports that
 * somebody waited for memory (PSI) or a guest is to be started. The judgement itself is two pure
 * functions. It must never end a guest: to hold one costs it time, to end it costs what it knows.
 */
#include "vmmd/pressure.h"
#include "vmmd/guest.h"
#include "vmmd/log.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SOON_MS       200   /* between two looks when it is critical */
#define NEAR_MS       1000  /* between two looks when memory is low or nearly so */
#define FAR_MS        5000  /* otherwise */
#define RATE_MS       100   /* memory that goes is measured over no less */
#define STALL_MS      10000 /* so long a stall counts */
#define STALL_PERCENT 10.0  /* without triggers: from here on it is a stall */

/* A percentage of a small or a huge total would come too late or too early. */
#define LOW_MIN      (64 * MIB)
#define LOW_MAX      (16384 * MIB)
#define CRITICAL_MIN (32 * MIB)
#define CRITICAL_MAX (8192 * MIB)

struct pressure {
    struct daemon *daemon;
    struct event *timer, *stall_event;
    int stall_fd, stall_trigger; /* -1: the kernel reports no stalls to us */

    enum pressure_level level;
    char reason[PRESSURE_REASON_MAX];
    struct pressure_view view;
    struct pressure_limits limits;
    uint64_t announced;    /* what was available when the listener was last told */
    uint64_t stalls_until; /* ms */
    uint64_t next_pause;   /* ms */
    uint64_t base;         /* what was available at base_at, from where its fall is measured */
    uint64_t base_at;      /* ms */
    bool blind;            /* the figures cannot be read, which was told */
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- the judgement ---- */

static uint64_t clamp(uint64_t value, uint64_t min, uint64_t max)
{
    return value < min ? min : value > max ? max : value;
}

/* `floor` gives way where it would be most of a small total. */
static uint64_t limit_of(const struct pressure_limit *limit, uint64_t total, uint64_t floor,
                         uint64_t ceiling, uint64_t small)
{
    if (limit->bytes)
        return limit->bytes;
    return clamp(total / 100 * limit->percent, floor < small ? floor : small, ceiling);
}

struct pressure_limits pressure_limits(const struct pressure_config *config,
                                       const struct pressure_view *view)
{
    uint64_t total = view->memory.total, storm;
    struct pressure_limits limits = {
        .low = limit_of(&config->low, total, LOW_MIN, LOW_MAX, total / 4),
        .critical = limit_of(&config->critical, total, CRITICAL_MIN, CRITICAL_MAX, total / 8),
    };

    /* Part of what sharing saves is kept, too, but never so much that saving would be in vain. */
    storm = view->at_risk / 100 * config->storm_reserve;
    if (storm > limits.low)
        storm = limits.low;
    limits.low += storm;
    limits.critical += storm / 2;
    if (view->stalls) {
        limits.low *= 2;
        limits.critical *= 2;
    }
    if (limits.critical > limits.low)
        limits.critical = limits.low;
    return limits;
}

enum pressure_level pressure_judge(enum pressure_level before, uint64_t available,
                                   const struct pressure_limits *limits)
{
    uint64_t low = limits->low, critical = limits->critical;

    if (before >= PRESSURE_LOW)
        low += low / 4;
    if (before == PRESSURE_CRITICAL)
        critical += critical / 4;
    if (available < critical)
        return PRESSURE_CRITICAL;
    return available < low ? PRESSURE_LOW : PRESSURE_NONE;
}

bool pressure_falling(uint64_t available, uint64_t fallen, uint64_t elapsed, uint64_t wait)
{
    if (elapsed < RATE_MS)
        elapsed = RATE_MS;
    return (double)fallen * (double)wait / (double)elapsed >= (double)available / 2;
}

const char *pressure_level_name(enum pressure_level level)
{
    static const char *const names[] = {"none", "low", "critical"};

    return names[level];
}

/* ---- guests held and let go ---- */

/* A guest that cannot be held is not asked again while this lasts. */
static void on_held(void *opaque, const struct problem *problem)
{
    struct guest *guest = opaque;

    if (!problem || !guest->held)
        return;
    guest->held = false;
    guest->hold_never = true;
    log_warning("cannot pause a guest for want of memory: %s", problem->text);
}

static bool may_be_held(const struct guest *guest)
{
    return guest->phase == PHASE_UP && guest->state == GUEST_RUNNING && !guest->held &&
           !guest->hold_never;
}

/* Whether `a` is to be held before `b`. */
static bool goes_first(const struct guest *a, const struct guest *b)
{
    uint64_t splits_a = guest_recent_splits(a), splits_b = guest_recent_splits(b);

    if (a->config.priority != b->config.priority)
        return a->config.priority < b->config.priority;
    if (splits_a != splits_b)
        return splits_a > splits_b;
    return a->started > b->started;
}

/* From here on its fall is measured: not with what a guest took that is held now. */
static void set_base(struct pressure *pressure)
{
    pressure->base = pressure->view.memory.available;
    pressure->base_at = now_ms();
}

/* There is time between two of them, to see what the last one was good for, unless it runs out. */
static bool must_hold(const struct pressure *pressure)
{
    uint64_t now = now_ms(), available = pressure->view.memory.available;

    if (now >= pressure->next_pause)
        return true;
    return available < pressure->base &&
           pressure_falling(available, pressure->base - available, now - pressure->base_at,
                            pressure->next_pause - now);
}

static void hold_one(struct pressure *pressure)
{
    struct guest *guest, *first = NULL;
    struct problem problem;

    TAILQ_FOREACH(guest, &pressure->daemon->guests, link)
    if (may_be_held(guest) && (!first || goes_first(guest, first)))
        first = guest;
    if (!first)
        return;
    pressure->next_pause = now_ms() + pressure->daemon->config.pressure.pause_interval;
    set_base(pressure);
    if (guest_hold(first, pressure->reason, on_held, first, &problem) < 0) {
        first->hold_never = true;
        log_warning("cannot pause a guest for want of memory: %s", problem.text);
    }
}

/* One at a look, so that those who wake up do not all want memory at once. */
static bool release_one(struct pressure *pressure)
{
    struct guest *guest, *last = NULL;
    struct problem problem;
    bool more = false;

    TAILQ_FOREACH(guest, &pressure->daemon->guests, link)
    {
        guest->hold_never = false;
        if (guest->phase != PHASE_UP || !guest->held || guest->state != GUEST_PAUSED)
            continue;
        more = more || last;
        if (!last || goes_first(last, guest))
            last = guest;
    }
    if (last && guest_release(last, &problem) < 0)
        log_warning("cannot let a guest go on: %s", problem.text);
    return more;
}

/* ---- the level ---- */

static void tell(struct pressure *pressure)
{
    struct daemon *daemon = pressure->daemon;

    pressure->announced = pressure->view.memory.available;
    if (daemon->listener)
        daemon->listener->memory_changed(daemon->listener_opaque);
}

static void set_level(struct pressure *pressure, enum pressure_level level)
{
    const struct hostmem *memory = &pressure->view.memory;
    enum pressure_level before = pressure->level;
    char figures[PRESSURE_REASON_MAX];

    snprintf(figures, sizeof(figures), "%llu of %llu MiB are available (%s)",
             (unsigned long long)(memory->available / MIB),
             (unsigned long long)(memory->total / MIB), memory->where);
    pressure->level = level;
    pressure->reason[0] = '\0';
    if (level != PRESSURE_NONE)
        snprintf(pressure->reason, sizeof(pressure->reason), "memory is %s: %.280s",
                 pressure_level_name(level), figures);
    daemon_happened(pressure->daemon, "memory-pressure", pressure_level_name(level), "%s", figures);
    if ((before == PRESSURE_NONE) != (level == PRESSURE_NONE))
        daemon_send_scan_budget(pressure->daemon);
}

static uint64_t at_risk(const struct daemon *daemon)
{
    const struct guest *guest;
    uint64_t sum = 0;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    sum += guest->saved;
    return sum;
}

/* Stalls are reported; where they are not, they are looked for. */
static bool has_stalls(struct pressure *pressure)
{
    uint64_t now = now_ms();

    if (pressure->stall_fd < 0 &&
        hostmem_stall(pressure->daemon->config.host_root) >= STALL_PERCENT)
        pressure->stalls_until = now + STALL_MS;
    return now < pressure->stalls_until;
}

static bool look(struct pressure *pressure)
{
    int r = hostmem_read(pressure->daemon->config.host_root, &pressure->view.memory);

    if (r < 0) {
        if (!pressure->blind)
            log_warning("cannot tell how much memory is available: %s/proc/meminfo: %s",
                        pressure->daemon->config.host_root, strerror(-r));
        pressure->blind = true;
        return false;
    }
    pressure->blind = false;
    pressure->view.at_risk = at_risk(pressure->daemon);
    pressure->view.stalls = has_stalls(pressure);
    pressure->limits = pressure_limits(&pressure->daemon->config.pressure, &pressure->view);
    return true;
}

static uint64_t difference(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* When to look again: ms. */
static unsigned act(struct pressure *pressure)
{
    const struct hostmem *memory = &pressure->view.memory;
    enum pressure_level level =
        pressure_judge(pressure->level, memory->available, &pressure->limits);

    if (level != pressure->level) {
        set_level(pressure, level);
        tell(pressure);
    } else if (difference(memory->available, pressure->announced) >= memory->total / 128) {
        tell(pressure);
    }
    if (level == PRESSURE_CRITICAL && pressure->daemon->config.pressure.pause_guests &&
        must_hold(pressure))
        hold_one(pressure);
    if (now_ms() - pressure->base_at >= RATE_MS)
        set_base(pressure);
    if (level == PRESSURE_NONE && release_one(pressure))
        return NEAR_MS;
    if (level == PRESSURE_CRITICAL)
        return SOON_MS;
    return level == PRESSURE_LOW || memory->available / 2 < pressure->limits.low ? NEAR_MS : FAR_MS;
}

void pressure_check(struct pressure *pressure)
{
    unsigned ms = look(pressure) ? act(pressure) : FAR_MS;

    event_add(pressure->timer,
              &(struct timeval){.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000});
}

static void on_timer(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    pressure_check(opaque);
}

/* ---- stalls ---- */

static void unwatch_stalls(struct pressure *pressure)
{
    if (pressure->stall_event)
        event_free(pressure->stall_event);
    pressure->stall_event = NULL;
    if (pressure->stall_fd >= 0)
        close(pressure->stall_fd);
    if (pressure->stall_trigger >= 0)
        close(pressure->stall_trigger);
    pressure->stall_fd = pressure->stall_trigger = -1;
}

static void on_stall(evutil_socket_t fd, short what, void *opaque)
{
    struct pressure *pressure = opaque;

    (void)what;
    if (hostmem_stall_clear((int)fd) < 0)
        unwatch_stalls(pressure);
    pressure->stalls_until = now_ms() + STALL_MS;
    pressure_check(pressure);
}

static void watch_stalls(struct pressure *pressure)
{
    const char *root = pressure->daemon->config.host_root;
    int fd = hostmem_stall_watch(root, &pressure->stall_trigger);

    if (fd >= 0) {
        pressure->stall_fd = fd;
        pressure->stall_event =
            event_new(pressure->daemon->base, fd, EV_READ | EV_PERSIST, on_stall, pressure);
        if (pressure->stall_event && event_add(pressure->stall_event, NULL) == 0)
            return;
        fd = -ENOMEM;
        unwatch_stalls(pressure);
    }
    log_debug("the kernel reports no memory stalls to vmmd (%s): they are looked for instead",
              strerror(-fd));
}

/* ---- life ---- */

struct pressure *pressure_new(struct daemon *daemon)
{
    struct pressure *pressure = calloc(1, sizeof(*pressure));

    if (!pressure)
        return NULL;
    *pressure = (struct pressure){.daemon = daemon, .stall_fd = -1, .stall_trigger = -1};
    pressure->timer = event_new(daemon->base, -1, 0, on_timer, pressure);
    if (!pressure->timer) {
        free(pressure);
        return NULL;
    }
    watch_stalls(pressure);
    pressure_check(pressure);
    return pressure;
}

void pressure_free(struct pressure *pressure)
{
    if (!pressure)
        return;
    unwatch_stalls(pressure);
    event_free(pressure->timer);
    free(pressure);
}

/* ---- questions ---- */

int pressure_admit(struct pressure *pressure, const struct guest *guest, struct problem *problem)
{
    uint64_t enough;

    pressure_check(pressure);
    if (pressure->level == PRESSURE_NONE)
        return 0;
    enough = pressure->limits.low + pressure->limits.low / 4 + MIB - 1;
    return problem_set(problem, PROBLEM_NO_MEMORY,
                       "guest %s is not started: %s; guests start again from %llu MiB: stop some, "
                       "or give vmmd more memory",
                       guest->config.name, pressure->reason, (unsigned long long)(enough / MIB));
}

enum pressure_level pressure_level(const struct pressure *pressure)
{
    return pressure->level;
}

const char *pressure_reason(const struct pressure *pressure)
{
    return pressure->reason;
}

const struct pressure_view *pressure_view(const struct pressure *pressure)
{
    return &pressure->view;
}

const struct pressure_limits *pressure_limits_now(const struct pressure *pressure)
{
    return &pressure->limits;
}
