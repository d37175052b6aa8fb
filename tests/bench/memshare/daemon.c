/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon of the benchmark: one thread that serves the pool with epoll, as vmmd's loop does, and
 * notes progress. It looks at its counters after it served somebody and at most every 5 ms: so it
 * never wakes up to measure, but when the last look came too early. What looking costs is not
 * counted.
 */
#include "tests/bench/memshare/bench.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SAMPLE_NS 5000000u
#define STEPS     500 /* points noted between nothing and all that is possible */
#define WAKE      UINT32_MAX

uint64_t daemon_cpu_ns(const struct daemon *daemon)
{
    return now_ns(daemon->clock) - daemon->start_cpu_ns - daemon->sample_cost_ns;
}

static void note_point(struct daemon *daemon, uint64_t now)
{
    uint64_t cpu = guests_cpu_ns(daemon->guests) + daemon_cpu_ns(daemon);

    if (daemon->n_points == MAX_POINTS)
        return;
    daemon->point[daemon->n_points++] = (struct point){
        .seconds = (double)(now - daemon->start_ns) / 1e9,
        .cpu_seconds = (double)cpu / 1e9,
        .captured = daemon->captured,
    };
}

static void sample(struct daemon *daemon)
{
    uint64_t now = now_ns(CLOCK_MONOTONIC), cpu;
    uint64_t last = daemon->n_points ? daemon->point[daemon->n_points - 1].captured : 0;
    struct ms_pool_stats stats;

    daemon->sample_due = now - daemon->last_sample_ns < SAMPLE_NS;
    if (daemon->sample_due)
        return;
    cpu = now_ns(CLOCK_THREAD_CPUTIME_ID);
    daemon->last_sample_ns = now;
    ms_pool_get_stats(daemon->pool, &stats);
    daemon->captured = stats.mapped_pages - stats.slots;
    if (daemon->captured >= last + daemon->step)
        note_point(daemon, now);
    daemon->sample_cost_ns += now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
}

static void serve(struct daemon *daemon, uint32_t i)
{
    struct ms_client *client = daemon->client[i];
    int r = client ? ms_client_serve(client) : 0;

    if (r == 0)
        return;
    if (!daemon->error[0])
        snprintf(daemon->error, sizeof(daemon->error), "guest %u: %s", i + 1,
                 *ms_client_error(client) ? ms_client_error(client) : strerror(-r));
    epoll_ctl(daemon->epoll, EPOLL_CTL_DEL, ms_client_fd(client), NULL);
}

static void *loop(void *opaque)
{
    struct daemon *daemon = opaque;
    struct epoll_event event[16];

    while (!atomic_load(&daemon->stop)) {
        int n = epoll_wait(daemon->epoll, event, 16, daemon->sample_due ? 5 : -1);

        pthread_mutex_lock(&daemon->lock);
        for (int i = 0; i < n; i++)
            if (event[i].data.u32 != WAKE)
                serve(daemon, event[i].data.u32);
        sample(daemon);
        pthread_mutex_unlock(&daemon->lock);
    }
    return NULL;
}

static int watch(struct daemon *daemon, int fd, uint32_t number)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};

    return epoll_ctl(daemon->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int attach(struct daemon *daemon)
{
    for (unsigned i = 0; i < daemon->guests->n; i++) {
        struct guest *guest = &daemon->guests->guest[i];
        int r = ms_pool_attach(daemon->pool, guest->sock, "", 0, &daemon->client[i]);

        if (r < 0)
            return r;
        guest->sock = -1;
        r = watch(daemon, ms_client_fd(daemon->client[i]), i);
        if (r < 0)
            return r;
    }
    return watch(daemon, daemon->wake, WAKE);
}

int daemon_start(struct daemon *daemon, struct ms_pool *pool, struct guests *guests,
                 uint64_t possible)
{
    int r;

    memset(daemon, 0, sizeof(*daemon));
    daemon->pool = pool;
    daemon->guests = guests;
    daemon->step = possible / STEPS + 1;
    daemon->epoll = epoll_create1(EPOLL_CLOEXEC);
    daemon->wake = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&daemon->lock, NULL);
    r = attach(daemon);
    if (r < 0)
        return r;
    daemon->start_ns = now_ns(CLOCK_MONOTONIC);
    pthread_mutex_lock(&daemon->lock); /* it does not sample before its clock is known */
    r = -pthread_create(&daemon->thread, NULL, loop, daemon);
    if (r == 0)
        r = -pthread_getcpuclockid(daemon->thread, &daemon->clock);
    pthread_mutex_unlock(&daemon->lock);
    return r;
}

void daemon_stop(struct daemon *daemon)
{
    uint64_t one = 1;

    atomic_store(&daemon->stop, true);
    (void)!write(daemon->wake, &one, sizeof(one));
    if (daemon->thread)
        pthread_join(daemon->thread, NULL);
    for (unsigned i = 0; i < MAX_GUESTS; i++)
        if (daemon->client[i])
            ms_client_detach(daemon->client[i]);
    close(daemon->epoll);
    close(daemon->wake);
    pthread_mutex_destroy(&daemon->lock);
}
