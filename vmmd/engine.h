/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine: which engines this host can run guests with, as the daemon sees it.
 */
#ifndef VMMD_ENGINE_H
#define VMMD_ENGINE_H

#include "vmmd/problem.h"

#include <stdint.h>

enum engine_choice { ENGINE_AUTO, ENGINE_SOFT, ENGINE_KVM };

/* Which CPU guests of the KVM engine see: that of the host, or what all hosts of a level have. */
enum cpu_model { CPU_MODEL_HOST, CPU_MODEL_V2, CPU_MODEL_V3 };

struct engine_info {
    enum engine_choice best; /* what auto means here: soft or kvm */
    const char *host;        /* "vt-x", "svm", "pvm" (kernel code is emulated), "kvm", "none" */
    char reason[256];        /* one line: what the probe found */
};

/* Looks at the host once, at daemon start, for less than a second; `root` is before /dev and /sys.
 */
void engine_probe(struct engine_info *ret_info, const char *root);

/* The engine a guest that asks for `choice` with so many vCPUs gets. NotSupported with the reason,
 * or InvalidArgument. */
int engine_resolve(const struct engine_info *info, enum engine_choice choice, uint32_t vcpus,
                   enum engine_choice *ret_engine, struct problem *problem);

const char *engine_name(enum engine_choice choice);                 /* "auto", "soft", "kvm" */
int engine_parse(const char *text, enum engine_choice *ret_choice); /* 0 or -EINVAL */
int cpu_model_parse(const char *text, enum cpu_model *ret_model);   /* 0 or -EINVAL */

#endif
