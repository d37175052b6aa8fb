/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gate: a counting barrier for vCPU threads, with work done in it. See gate.h. A closer raises
 * `closed` first and kicks then, so that a vCPU which enters in between sees it; a vCPU inside
 * looks only after a kick.
 */
#include "vmmd/vmm/gate.h"

#include <errno.h>
#include <time.h>

#define NS          1000000000ull
#define HALTS_OFTEN 20000000u /* ns: a guest that halted within this time will soon again ... */
#define PATIENCE    3000000u  /* ... and is kicked only if it did not after this one */

struct gate_work {
    void (*run)(void *arg);
    void *arg;
    uint64_t kicked_at; /* 0: not kicked; else it is one of `closed` */
    bool running, done;
};

static uint64_t read_clock(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static uint64_t now_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

void gate_init(struct gate *g)
{
    pthread_condattr_t attr;

    *g = (struct gate){0};
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attr);
    pthread_condattr_destroy(&attr);
}

void gate_destroy(struct gate *g)
{
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}

/* ---- with the lock held ---- */

static bool works(const struct gate *g)
{
    return g->work && g->work->running;
}

static void close_it(struct gate *g)
{
    g->closed++;
    atomic_store(&g->closing, true);
}

static void open_it(struct gate *g)
{
    if (--g->closed == 0 && !g->stop)
        atomic_store(&g->closing, false);
    pthread_cond_broadcast(&g->changed);
}

/* Nobody is inside, and nobody comes in before it is done. `by` counts. */
static void do_work(struct gate *g, uint64_t *by)
{
    struct gate_work *w = g->work;
    uint64_t cpu;

    w->running = true;
    if (w->kicked_at)
        histogram_add(&g->times.came, now_ns() - w->kicked_at);
    pthread_mutex_unlock(&g->lock);
    cpu = read_clock(CLOCK_THREAD_CPUTIME_ID);
    w->run(w->arg);
    cpu = read_clock(CLOCK_THREAD_CPUTIME_ID) - cpu;
    pthread_mutex_lock(&g->lock);
    histogram_add(&g->times.cpu, cpu);
    ++*by;
    g->work = NULL;
    w->done = true;
    if (w->kicked_at)
        open_it(g);
    else
        pthread_cond_broadcast(&g->changed);
}

static void leave(struct gate *g, uint64_t *by)
{
    if (--g->inside > 0)
        return;
    if (g->work)
        do_work(g, by);
    else
        pthread_cond_broadcast(&g->changed);
}

/* Why a vCPU stands at the gate. */
struct stay {
    uint64_t since; /* 0: it does not */
    bool work, pause;
};

static void look(const struct gate *g, struct stay *s)
{
    unsigned for_work = g->work && g->work->kicked_at;

    if (!s->since)
        s->since = now_ns();
    s->work = s->work || g->work;
    s->pause = s->pause || g->closed > for_work;
}

static bool enter(struct gate *g, struct stay *s)
{
    while ((g->closed > 0 || works(g)) && !g->stop) {
        look(g, s);
        pthread_cond_wait(&g->changed, &g->lock);
    }
    if (g->stop)
        return false;
    g->inside++;
    if (s->work && !s->pause)
        histogram_add(&g->times.held, now_ns() - s->since);
    return true;
}

/* ---- vCPU threads ---- */

bool gate_enter(struct gate *g)
{
    struct stay stay = {0};
    bool go;

    pthread_mutex_lock(&g->lock);
    go = enter(g, &stay);
    pthread_mutex_unlock(&g->lock);
    return go;
}

void gate_leave(struct gate *g)
{
    uint64_t now = now_ns();
    bool works_now;

    pthread_mutex_lock(&g->lock);
    works_now = g->inside == 1 && g->work;
    if (g->inside == 1)
        g->left_at = now;
    leave(g, &g->times.by_halting);
    if (works_now)
        histogram_add(&g->times.held, now_ns() - now);
    pthread_mutex_unlock(&g->lock);
}

bool gate_pass(struct gate *g)
{
    struct stay stay = {0};
    bool go;

    if (!atomic_load(&g->closing))
        return true;
    pthread_mutex_lock(&g->lock);
    look(g, &stay);
    leave(g, &g->times.by_kicked);
    go = enter(g, &stay);
    pthread_mutex_unlock(&g->lock);
    return go;
}

/* ---- other threads ---- */

void gate_close(struct gate *g, void (*kick)(void *opaque), void *opaque)
{
    bool runs;

    pthread_mutex_lock(&g->lock);
    close_it(g);
    runs = g->inside > 0;
    pthread_mutex_unlock(&g->lock);
    if (runs)
        kick(opaque);
    pthread_mutex_lock(&g->lock);
    while (g->inside > 0 || works(g))
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    open_it(g);
    pthread_mutex_unlock(&g->lock);
}

/* Until the guest halted by itself and the work began, or for as long as that is worth. */
static void wait_for_halt(struct gate *g, const struct gate_work *w)
{
    uint64_t now = now_ns(), end = now + PATIENCE;
    struct timespec until = {.tv_sec = (time_t)(end / NS), .tv_nsec = (long)(end % NS)};
    int r = 0;

    if (now - g->left_at > HALTS_OFTEN)
        return;
    while (!w->running && !w->done && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&g->changed, &g->lock, &until);
}

void gate_work(struct gate *g, void (*run)(void *arg), void *arg, void (*kick)(void *opaque),
               void *opaque)
{
    struct gate_work w = {.run = run, .arg = arg};

    pthread_mutex_lock(&g->lock);
    while (g->work) /* another's */
        pthread_cond_wait(&g->changed, &g->lock);
    g->work = &w;
    if (g->inside == 0)
        do_work(g, &g->times.by_bringer);
    else
        wait_for_halt(g, &w);
    if (!w.running && !w.done) {
        w.kicked_at = now_ns();
        close_it(g);
        pthread_mutex_unlock(&g->lock);
        kick(opaque);
        pthread_mutex_lock(&g->lock);
    }
    while (!w.done)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void gate_stop(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    atomic_store(&g->closing, true);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

bool gate_stopping(struct gate *g)
{
    bool stop;

    pthread_mutex_lock(&g->lock);
    stop = g->stop;
    pthread_mutex_unlock(&g->lock);
    return stop;
}
