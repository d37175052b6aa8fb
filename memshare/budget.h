/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The CPU budget of the scanner thread: a percentage of one core, kept by sleeping.
 *
 * Credit grows with wall time and shrinks with the thread's own CPU time. A little may be saved up
 * while idle, so that a short burst of work after a quiet time is not stretched.
 */
#ifndef MS_BUDGET_H
#define MS_BUDGET_H

#include <stdatomic.h>
#include <stdint.h>

struct ms_budget {
    _Atomic unsigned percent;  /* set by any thread; 0: no scanning */
    _Atomic uint64_t spent_ns; /* CPU time of the scanner thread, for the ledger */
    _Atomic uint64_t added_ns; /* by other threads, not charged yet */
    int64_t credit_ns;
    uint64_t wall_ns, cpu_ns; /* at the last charge */
};

uint64_t ms_now_ns(void); /* CLOCK_MONOTONIC */

void ms_budget_init(struct ms_budget *budget, unsigned percent);
uint64_t ms_thread_cpu_ns(void); /* CPU time of the calling thread */
/* CPU time that another thread spent for the scanner. Any thread. */
void ms_budget_add(struct ms_budget *budget, uint64_t ns);
/* By the scanner thread when it begins. */
void ms_budget_start(struct ms_budget *budget);
/* Charges what was spent since the last call; returns how long to sleep now (0: go on). */
uint64_t ms_budget_charge(struct ms_budget *budget);

#endif
