/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench-cowdisk inside: main.c has the rounds and what is done one request at a time, queue.c what
 * is done side by side. Every function ends the program when something fails that should not.
 */
#ifndef BENCH_COWDISK_H
#define BENCH_COWDISK_H

#include "cowdisk/internal.h"

#define SIZE    (1ull << 30)
#define BLOCK   4096u
#define N_READS 100000u

/* Who is measured; a bench returns an error for whom it does not measure. */
enum { OURS, RAW, QEMU, N_SIDES };

double now(void); /* seconds */
uint64_t next_random(uint64_t *state);
void check(int r);

struct place {
    int fd;
    uint64_t offset;
};

/* An overlay of which every other cluster is its own; and where each of its blocks is. Made once.
 */
struct cow_disk *half_written(const struct place **ret_place);

/* `qemu-img bench` with the same size and step, one request at a time if `options` do not say
 * otherwise. */
int run_qemu(const char *options, unsigned n, double *ret_seconds);

int bench_queue(int side, double *ret_seconds);

#endif
