/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cpu: how processor time is divided among guest processes, while they run.
 *
 *   shares   a relative weight: of two guests that compete for the same processor one with 400
 *            gets four times as much as one with 100
 *   limit    percent of one core that everything the guest process does may take (its vCPUs, its
 *            devices, the scanner), also when the host is idle
 *   reserve  percent of one core that it gets at least when it wants that much: its weight is
 *            raised until it has this part of the host among vmmd's guests. What other programs of
 *            the host take is not vmmd's to divide (the weight of vmmd.service against them is)
 *
 * The means, the best first: a cgroup (version 2 or 1) for each guest below that of vmmd, if vmmd
 * may write there; else scheduler priority (nice), which knows shares only, and these roughly.
 */
#ifndef VMMD_CPU_H
#define VMMD_CPU_H

#include "vmmd/problem.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CPU_SHARES_DEFAULT   100u
#define CPU_SHARES_MAX       10000u
#define CPU_CORE             100u /* percent */
#define CPU_VCPUS_MAX        64u
#define CPU_RESERVE_PER_CENT 90u /* of the host that all reserves together may promise */
#define CPU_TEXT_MAX         256

struct cpu_settings {
    uint32_t shares;  /* 1..10000 */
    uint32_t limit;   /* percent of one core; 0: none */
    uint32_t reserve; /* percent of one core; 0: none */
};

enum cpu_means { CPU_NICE, CPU_CGROUP1, CPU_CGROUP2 };

/* How it is done on this host; made once, then read only. */
struct cpu_control {
    enum cpu_means means;
    char root[256];           /* before /proc and /sys */
    char directory[PATH_MAX]; /* the cgroup of vmmd, without root; "" for CPU_NICE */
    bool autogroup; /* each guest is scheduled as a session of its own: nice is the session's */
    char why[CPU_TEXT_MAX]; /* no cgroup is used; "" */
    unsigned n_cpus;
};

/* Finds out; enables the controller for cgroups below ours if that is all that is missing. */
void cpu_control_find(struct cpu_control *ret, const char *root);
const char *cpu_means_name(enum cpu_means means); /* "cgroup v2", ... */

/* Whether these settings make sense for a guest with so many vCPUs, and can be done here. */
int cpu_check(const struct cpu_control *control, const struct cpu_settings *settings,
              uint32_t vcpus, struct problem *problem);

/* What a stored configuration may hold. */
bool cpu_settings_sane(const struct cpu_settings *settings);

/*
 * Shares and reserves of all guests that run, as weights from 1 to 10000: a guest without a reserve
 * has its shares (all are scaled down if a weight would be too large), one with a reserve at least
 * so much that its part of the sum is its reserve's part of the host. The reserves must fit.
 */
void cpu_weights(const struct cpu_control *control, const struct cpu_settings *const *settings,
                 size_t n, uint32_t *ret_weights);

/* A guest process, as cgroups name it. */
struct cpu_place {
    const char *name;
    const uint8_t *uuid; /* 16 */
    pid_t pid;
};

/* Puts the process under control, once, before cpu_apply(). */
int cpu_enter(const struct cpu_control *control, const struct cpu_place *place,
              struct problem *problem);

/*
 * Makes weight and limit hold. `ret_text`: by what, for a person. -EAGAIN: the kernel does so few
 * such changes a second; -EACCES, -EPERM: a priority can be raised only with CAP_SYS_NICE.
 */
int cpu_apply(const struct cpu_control *control, const struct cpu_place *place,
              const struct cpu_settings *settings, uint32_t weight, char ret_text[CPU_TEXT_MAX],
              struct problem *problem);

/* The process is gone; removes what cpu_enter() made, if it is there. */
void cpu_leave(const struct cpu_control *control, const struct cpu_place *place);

#endif
