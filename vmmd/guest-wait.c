/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-wait: who waits for an answer of a guest process.
 *
 * Nobody waits for ever: each waiter has a time limit of its own or ends with the guest process.
 * A waiter is off the list before its `done` is called, because that may ask for something new.
 */
#include "vmmd/guest.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>

struct guest_waiter {
    TAILQ_ENTRY(guest_waiter) link;
    struct guest *guest;
    enum guest_wait_kind kind;
    uint64_t cookie;
    struct event *timer;
    guest_done_fn done;
    void *opaque;
};

static void finish(struct guest_waiter *waiter, const struct problem *problem)
{
    guest_done_fn done = waiter->done;
    void *opaque = waiter->opaque;

    TAILQ_REMOVE(&waiter->guest->waiters, waiter, link);
    waiter->guest->n_waiters--;
    if (waiter->timer)
        event_free(waiter->timer);
    free(waiter);
    if (done)
        done(opaque, problem);
}

static void on_timeout(evutil_socket_t fd, short what, void *opaque)
{
    struct guest_waiter *waiter = opaque;
    struct problem problem;

    (void)fd;
    (void)what;
    problem_set(&problem, PROBLEM_BUSY, "guest %s: its process did not answer in time",
                waiter->guest->config.name);
    finish(waiter, &problem);
}

static int add_timer(struct guest_waiter *waiter, unsigned seconds)
{
    struct timeval limit = {.tv_sec = seconds};

    if (seconds == 0)
        return 0;
    waiter->timer = event_new(waiter->guest->daemon->base, -1, 0, on_timeout, waiter);
    return waiter->timer && event_add(waiter->timer, &limit) == 0 ? 0 : -ENOMEM;
}

int guest_wait(struct guest *guest, enum guest_wait_kind kind, uint64_t cookie, unsigned seconds,
               guest_done_fn done, void *opaque, struct problem *problem)
{
    struct guest_waiter *waiter;

    if (guest->n_waiters >= GUEST_WAITERS_MAX)
        return problem_set(problem, PROBLEM_BUSY, "guest %s: %d requests are waiting already",
                           guest->config.name, GUEST_WAITERS_MAX);
    waiter = calloc(1, sizeof(*waiter));
    if (!waiter)
        return problem_errno(problem, -ENOMEM, "guest %s", guest->config.name);
    *waiter = (struct guest_waiter){
        .guest = guest, .kind = kind, .cookie = cookie, .done = done, .opaque = opaque};
    if (add_timer(waiter, seconds) < 0) {
        if (waiter->timer)
            event_free(waiter->timer);
        free(waiter);
        return problem_errno(problem, -ENOMEM, "guest %s", guest->config.name);
    }
    TAILQ_INSERT_TAIL(&guest->waiters, waiter, link);
    guest->n_waiters++;
    return 0;
}

static struct guest_waiter *find(struct guest *guest, enum guest_wait_kind kind, uint64_t cookie)
{
    struct guest_waiter *waiter;

    TAILQ_FOREACH(waiter, &guest->waiters, link)
    if (waiter->kind == kind && waiter->cookie == cookie)
        return waiter;
    return NULL;
}

void guest_wait_finish(struct guest *guest, enum guest_wait_kind kind, uint64_t cookie,
                       const struct problem *problem)
{
    struct guest_waiter *waiter;

    while ((waiter = find(guest, kind, cookie)))
        finish(waiter, problem);
}

void guest_wait_fail_all(struct guest *guest, const struct problem *problem)
{
    while (!TAILQ_EMPTY(&guest->waiters))
        finish(TAILQ_FIRST(&guest->waiters), problem);
}
