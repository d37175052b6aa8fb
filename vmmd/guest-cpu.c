/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-cpu: processor time of guests: their settings, and making them hold for those that run.
 *
 * A guest process is put under control when the guest has begun to run, not before: moving it into
 * a cgroup may take the kernel as long as the whole start. What cannot be done to a guest is told
 * (CpuControl), and it runs on. Weights of one guest depend on the reserves of others, so all are
 * looked at when one comes, goes or changes; those that stay the same are not touched.
 */
#include "vmmd/child.h"
#include "vmmd/guest.h"
#include "vmmd/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct cpu_place place_of(const struct guest *guest)
{
    return (struct cpu_place){
        .name = guest->config.name,
        .uuid = guest->config.uuid,
        .pid = guest->process ? child_pid(guest->process) : 0,
    };
}

static bool is_controlled(const struct guest *guest)
{
    return guest->process && guest->cpu.entered;
}

static void say(struct guest *guest, const char *text)
{
    if (strcmp(guest->cpu.text, text) == 0)
        return;
    snprintf(guest->cpu.text, sizeof(guest->cpu.text), "%s", text);
    guest_changed(guest, GUEST_CHANGE_CONFIG);
}

static int apply(struct guest *guest, uint32_t weight, struct problem *problem)
{
    const struct cpu_place place = place_of(guest);
    char text[CPU_TEXT_MAX];
    int r = cpu_apply(&guest->daemon->cpu, &place, &guest->config.cpu, weight, text, problem);

    guest->cpu.weight = r < 0 ? 0 : weight;
    guest->cpu.again = r == -EAGAIN;
    if (r == 0)
        say(guest, text);
    return r;
}

/* What went wrong is the guest's own affair, and logged once. */
static void apply_or_tell(struct guest *guest, uint32_t weight)
{
    char text[CPU_TEXT_MAX];
    struct problem problem;

    if (apply(guest, weight, &problem) == 0 || guest->cpu.again)
        return;
    snprintf(text, sizeof(text), "not in effect: %.230s", problem.text);
    if (strcmp(text, guest->cpu.text) != 0)
        log_warning("%s", problem.text);
    say(guest, text);
}

/* Weights of all; `guest` (may be NULL) is applied in any case, its result returned. */
static int balance(struct daemon *daemon, struct guest *guest, struct problem *problem)
{
    const struct cpu_settings **settings = calloc(daemon->n_guests + 1, sizeof(*settings));
    uint32_t *weights = calloc(daemon->n_guests + 1, sizeof(*weights));
    struct guest *each;
    size_t n = 0;
    int r = 0;

    if (!settings || !weights) {
        r = problem_errno(problem, -ENOMEM, "cannot divide processor time");
        goto out;
    }
    TAILQ_FOREACH(each, &daemon->guests, link)
    if (is_controlled(each))
        settings[n++] = &each->config.cpu;
    cpu_weights(&daemon->cpu, settings, n, weights);
    n = 0;
    TAILQ_FOREACH(each, &daemon->guests, link)
    {
        if (!is_controlled(each))
            continue;
        if (each == guest)
            r = apply(each, weights[n], problem);
        else if (each->cpu.weight != weights[n] && each->cpu.weight != 0)
            apply_or_tell(each, weights[n]);
        n++;
    }
out:
    free(settings);
    free(weights);
    return r;
}

void guest_cpu_up(struct guest *guest)
{
    const struct cpu_place place = place_of(guest);
    char text[CPU_TEXT_MAX];
    struct problem problem;
    int r = cpu_enter(&guest->daemon->cpu, &place, &problem);

    guest->cpu.entered = r == 0;
    if (r == 0)
        r = balance(guest->daemon, guest, &problem);
    if (r == 0 || guest->cpu.again)
        return;
    log_warning("%s", problem.text);
    snprintf(text, sizeof(text), "not in effect: %.230s", problem.text);
    say(guest, text);
}

void guest_cpu_gone(struct guest *guest)
{
    const struct cpu_place place = place_of(guest);

    cpu_leave(&guest->daemon->cpu, &place);
    guest->cpu.entered = guest->cpu.again = false;
    guest->cpu.weight = 0;
    say(guest, "");
    balance(guest->daemon, NULL, NULL);
}

void guests_cpu_again(struct daemon *daemon)
{
    struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->cpu.again && is_controlled(guest))
        balance(daemon, guest, NULL);
}

int guest_cpu_admit(const struct guest *guest, const struct cpu_settings *settings,
                    struct problem *problem)
{
    uint32_t most = guest->daemon->cpu.n_cpus * CPU_RESERVE_PER_CENT;
    const struct guest *each;
    uint64_t promised = 0;

    TAILQ_FOREACH(each, &guest->daemon->guests, link)
    if (each != guest && each->phase != PHASE_IDLE)
        promised += each->config.cpu.reserve;
    if (settings->reserve == 0 || promised + settings->reserve <= most)
        return 0;
    return problem_set(problem, PROBLEM_LIMIT_EXCEEDED,
                       "guest %s: a CPU reserve of %u %%: %llu %% are promised to running guests, "
                       "and no more than %u %% of this host can be",
                       guest->config.name, settings->reserve, (unsigned long long)promised, most);
}

int guest_set_cpu(struct guest *guest, const struct cpu_settings *settings, struct problem *problem)
{
    struct cpu_settings before = guest->config.cpu;
    int r = cpu_check(&guest->daemon->cpu, settings, guest->config.vcpus, problem);

    if (r == 0 && guest->phase != PHASE_IDLE)
        r = guest_cpu_admit(guest, settings, problem);
    if (r < 0 || memcmp(settings, &before, sizeof(before)) == 0)
        return r;
    guest->config.cpu = *settings;
    if (is_controlled(guest))
        r = balance(guest->daemon, guest, problem);
    if (r == 0)
        r = guest_store_config(guest, problem);
    if (r < 0) {
        guest->config.cpu = before;
        if (is_controlled(guest))
            balance(guest->daemon, guest, NULL);
        return r;
    }
    guest_changed(guest, GUEST_CHANGE_CONFIG);
    return 0;
}
