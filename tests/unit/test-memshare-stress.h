/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that keep writing to a guest's RAM and know what every page must hold: a checksum per
 * page, compared before each write and at the end. Used with real hashes and with weak ones.
 */
#ifndef TEST_MEMSHARE_STRESS_H
#define TEST_MEMSHARE_STRESS_H

#include "tests/unit/test-memshare.h"

#define MUTATORS    2
#define STRESS_DISK 1024 /* template blocks; block b holds fill_page(5000 + b) */
#define SHARED      500  /* contents that all guests write again and again */

struct mutator {
    struct guest *guest;
    uint64_t first, n; /* its part of RAM: nobody else writes there */
    uint64_t seed;
    uint64_t *sum; /* [guest->n] shared table, each its own part */
    atomic_bool *stop;
    atomic_uint_fast64_t wrong, steps, discard_errors;
    pthread_t thread;
};

struct stress {
    struct guest guest;
    struct mutator mutator[MUTATORS];
    uint64_t *sum;
    atomic_bool stop;
};

static uint64_t stress_random(struct mutator *m)
{
    m->seed ^= m->seed << 13;
    m->seed ^= m->seed >> 7;
    m->seed ^= m->seed << 17;
    return m->seed;
}

static uint8_t *stress_page(struct mutator *m, uint64_t page)
{
    return m->guest->ram + page * PAGE;
}

static void stress_check(struct mutator *m, uint64_t page)
{
    if (XXH3_64bits(stress_page(m, page), PAGE) != m->sum[page])
        atomic_fetch_add(&m->wrong, 1);
}

static void stress_note(struct mutator *m, uint64_t page, uint64_t n)
{
    for (uint64_t p = page; p < page + n; p++)
        m->sum[p] = XXH3_64bits(stress_page(m, p), PAGE);
}

/* A run of up to 32 pages of the mutator's own part. */
static uint64_t stress_run(struct mutator *m, uint64_t *ret_n)
{
    uint64_t page = stress_random(m) % m->n;
    uint64_t n = 1 + stress_random(m) % 32;

    *ret_n = n < m->n - page ? n : m->n - page;
    return m->first + page;
}

static void stress_fill(struct mutator *m, uint64_t page, uint64_t n, uint64_t number)
{
    for (uint64_t i = 0; i < n; i++)
        fill_page(stress_page(m, page + i), number + i);
}

static void stress_step(struct mutator *m)
{
    uint64_t n, page = stress_run(m, &n), r = stress_random(m) % 100;

    for (uint64_t p = page; p < page + n; p++)
        stress_check(m, p);
    if (r < 40) {
        stress_page(m, page)[stress_random(m) % PAGE]++;
        n = 1;
    } else if (r < 60) {
        stress_fill(m, page, n, stress_random(m) % SHARED);
    } else if (r < 70) {
        memset(stress_page(m, page), 0, n * PAGE);
    } else if (r < 85) {
        uint64_t block = stress_random(m) % (STRESS_DISK - 32);

        stress_fill(m, page, n, 5000 + block);
        ms_scanner_hint_template(m->guest->scanner, page, n, block);
    } else if (r < 90) {
        if (ms_scanner_discard(m->guest->scanner, page, n) < 0)
            atomic_fetch_add(&m->discard_errors, 1);
    }
    stress_note(m, page, n);
}

static void *stress_mutate(void *opaque)
{
    struct mutator *m = opaque;

    while (!atomic_load(m->stop)) {
        pthread_rwlock_rdlock(&m->guest->lock);
        stress_step(m);
        pthread_rwlock_unlock(&m->guest->lock);
        if (atomic_fetch_add(&m->steps, 1) % 16 == 0) {
            struct timespec nap = {.tv_nsec = 1000000}; /* so that pages get to stand still */

            nanosleep(&nap, NULL);
        }
    }
    return NULL;
}

static inline int stress_init(struct stress *s, uint64_t n, uint64_t seed)
{
    memset(s, 0, sizeof(*s));
    guest_init(&s->guest, n);
    s->sum = calloc(n, sizeof(*s->sum));
    if (!s->sum)
        return -ENOMEM;
    for (unsigned i = 0; i < MUTATORS; i++) {
        struct mutator *m = &s->mutator[i];

        m->guest = &s->guest;
        m->first = n / MUTATORS * i;
        m->n = n / MUTATORS;
        m->seed = seed * 7919 + i + 1;
        m->sum = s->sum;
        m->stop = &s->stop;
        stress_note(m, m->first, m->n);
    }
    return 0;
}

static inline void stress_start(struct stress *s)
{
    for (unsigned i = 0; i < MUTATORS; i++)
        if (pthread_create(&s->mutator[i].thread, NULL, stress_mutate, &s->mutator[i]))
            abort();
}

static inline void stress_stop(struct stress *s)
{
    atomic_store(&s->stop, true);
    for (unsigned i = 0; i < MUTATORS; i++)
        pthread_join(s->mutator[i].thread, NULL);
}

static inline uint64_t stress_wrong(struct stress *s)
{
    uint64_t wrong = 0;

    for (unsigned i = 0; i < MUTATORS; i++) {
        struct mutator *m = &s->mutator[i];

        for (uint64_t p = m->first; p < m->first + m->n; p++)
            stress_check(m, p);
        wrong += atomic_load(&m->wrong) + atomic_load(&m->discard_errors);
    }
    return wrong;
}

static inline void stress_end(struct stress *s)
{
    guest_end(&s->guest);
    free(s->sum);
}

static inline unsigned stress_seconds(void)
{
    const char *text = getenv("MS_STRESS_SECONDS");
    int seconds = text ? atoi(text) : 5;

    return seconds > 0 ? (unsigned)seconds : 1;
}

#endif
