/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine: which engines this host can run guests with.
 *
 * Hardware is found by trying it, not by reading CPU flags: a host may offer /dev/kvm and still not
 * be able to run a stock kernel. As long as the guest process has no hardware engine there is
 * nothing to try, and the reason says so.
 */
#include "vmmd/engine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SOFT_VCPUS_MAX 1u /* the software engine interprets one vCPU */

static const char *const names[] = {"auto", "soft", "kvm"};

void engine_probe(struct engine_info *ret_info)
{
    ret_info->best = ENGINE_SOFT;
    snprintf(ret_info->reason, sizeof(ret_info->reason),
             access("/dev/kvm", F_OK) == 0 ? "software engine: this build has no hardware engine "
                                             "(/dev/kvm exists)"
                                           : "software engine: no /dev/kvm");
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
