/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * create: making guests from a template, all or none.
 */
#ifndef VMMD_CREATE_H
#define VMMD_CREATE_H

#include "vmmd/guest.h"

struct create_request {
    const char *tmpl, *name;
    bool has_count, has_memory, has_vcpus, has_engine, has_priority;
    uint32_t count; /* NAME-1..NAME-count; without it one guest NAME */
    uint64_t memory;
    uint32_t vcpus;
    enum engine_choice engine;
    const char *share_group; /* NULL: the template's name */
    int32_t priority;
    bool has_cpu_shares;
    struct cpu_settings cpu; /* shares only if has_cpu_shares; otherwise 0 is the default */
};

/* problem NULL: the `n` guests exist and are published. Otherwise none of them does. */
typedef void (*create_done_fn)(void *opaque, struct guest *const *guests, unsigned n,
                               const struct problem *problem);

/* Checks everything at once, makes the files in later turns of the loop, one guest a turn. `done`
 * is called if this returns 0, except if the daemon ends first (then with Busy). */
int create_guests(struct daemon *daemon, const struct create_request *request, create_done_fn done,
                  void *opaque, struct problem *problem);

/* Gives up what is being made; the daemon ends. */
void create_abort_all(struct daemon *daemon);

#endif
