/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The CPU budget: see budget.h.
 */
#include "memshare/budget.h"

#include <time.h>

#define BURST_NS     20000000 /* CPU time that may be saved up */
#define MAX_SLEEP_NS 200000000
#define SLICE_NS     2000000 /* less debt is carried on: short slices run on cold caches */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t ms_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t ms_thread_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void ms_budget_add(struct ms_budget *budget, uint64_t ns)
{
    atomic_fetch_add(&budget->added_ns, ns);
}

void ms_budget_init(struct ms_budget *budget, unsigned percent)
{
    atomic_init(&budget->percent, percent);
    atomic_init(&budget->spent_ns, 0);
    atomic_init(&budget->added_ns, 0);
    budget->credit_ns = 0;
}

void ms_budget_start(struct ms_budget *budget)
{
    budget->credit_ns = 0;
    budget->wall_ns = ms_now_ns();
    budget->cpu_ns = ms_thread_cpu_ns();
}

uint64_t ms_budget_charge(struct ms_budget *budget)
{
    unsigned percent = atomic_load(&budget->percent);
    uint64_t wall = ms_now_ns();
    uint64_t cpu = ms_thread_cpu_ns();
    uint64_t spent = cpu - budget->cpu_ns + atomic_exchange(&budget->added_ns, 0);
    uint64_t debt_ns;

    budget->credit_ns += (int64_t)((wall - budget->wall_ns) * percent / 100);
    budget->credit_ns -= (int64_t)spent;
    if (budget->credit_ns > BURST_NS)
        budget->credit_ns = BURST_NS;
    atomic_fetch_add(&budget->spent_ns, spent);
    budget->wall_ns = wall;
    budget->cpu_ns = cpu;
    if (percent >= 100 || budget->credit_ns >= 0)
        return 0;
    if (percent && budget->credit_ns > -SLICE_NS)
        return 0;
    debt_ns = percent ? (uint64_t)-budget->credit_ns * 100 / percent : MAX_SLEEP_NS;
    return debt_ns < MAX_SLEEP_NS ? debt_ns : MAX_SLEEP_NS;
}
