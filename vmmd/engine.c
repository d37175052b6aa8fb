/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine: which engines this host can run guests with.
 *
 * Hardware is found by trying it, not by reading CPU flags: a host may offer /dev/kvm and still not
 * be able to run a stock kernel (probe.c). The names of the kernel's modules only say which kind.
 */
#include "vmmd/engine.h"

#include "vmmd/probe.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SOFT_VCPUS_MAX 1u /* the software engine interprets one vCPU */

static const char *const names[] = {"auto", "soft", "kvm"};
static const char *const models[] = {"host", "x86-64-v2", "x86-64-v3"};

static bool has_module(const char *root, const char *name)
{
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/sys/module/%s", root, name);
    return access(path, F_OK) == 0;
}

static const char *kind_of_host(enum probe_result result, const char *root)
{
    if (result == PROBE_NONE || result == PROBE_BROKEN)
        return "none";
    if (has_module(root, "kvm_intel"))
        return "vt-x";
    if (has_module(root, "kvm_amd"))
        return "svm";
    return result == PROBE_EMULATED ? "pvm" : "kvm";
}

void engine_probe(struct engine_info *ret_info, const char *root)
{
    char found[200];
    enum probe_result result = probe_kvm(root, found, sizeof(found));

    ret_info->best = result == PROBE_HARDWARE ? ENGINE_KVM : ENGINE_SOFT;
    ret_info->host = kind_of_host(result, root);
    snprintf(ret_info->reason, sizeof(ret_info->reason), "%s engine: %s",
             result == PROBE_HARDWARE ? "KVM" : "software", found);
}

int engine_resolve(const struct engine_info *info, enum engine_choice choice, uint32_t vcpus,
                   enum engine_choice *ret_engine, struct problem *problem)
{
    enum engine_choice engine = choice == ENGINE_AUTO ? info->best : choice;

    if (engine == ENGINE_KVM && info->best != ENGINE_KVM)
        return problem_set(problem, PROBLEM_NOT_SUPPORTED, "engine kvm is not available: %s",
                           info->reason);
    if (vcpus == 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "a guest needs at least one vCPU");
    if (engine == ENGINE_SOFT && vcpus > SOFT_VCPUS_MAX)
        return problem_set(problem, PROBLEM_NOT_SUPPORTED,
                           "%u vCPUs: the software engine has %u vCPU a guest", vcpus,
                           SOFT_VCPUS_MAX);
    *ret_engine = engine;
    return 0;
}

const char *engine_name(enum engine_choice choice)
{
    return names[choice];
}

int cpu_model_parse(const char *text, enum cpu_model *ret_model)
{
    for (unsigned i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        if (strcmp(text, models[i]) == 0) {
            *ret_model = (enum cpu_model)i;
            return 0;
        }
    }
    return -EINVAL;
}

int engine_parse(const char *text, enum engine_choice *ret_choice)
{
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_choice = (enum engine_choice)i;
            return 0;
        }
    }
    return -EINVAL;
}
