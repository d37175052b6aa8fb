/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fidelity: what the groups of checks share. A check runs a piece of code (rings.h) and compares
 * how it ended with what the manuals say (Intel SDM volumes 2 and 3, AMD APM volumes 2 and 3).
 */
#ifndef GUEST_FIDELITY_H
#define GUEST_FIDELITY_H

#include "../rings.h"

struct outcome {
    uint64_t vector; /* TRAP_DONE: `value` counts, otherwise `error` */
    uint64_t error, value;
};

/* Prints and counts one check. */
void verdict(const char *name, enum mode mode, struct outcome got, struct outcome want);

/* rax behind the code (in a 32-bit segment: eax); the exception that ends it. */
void check_value(const char *name, enum mode mode, const void *code, uint64_t argument,
                 uint64_t want);
void check_trap(const char *name, enum mode mode, const void *code, uint64_t argument,
                unsigned vector, uint64_t error);
/* Of something that the guest itself looked at. */
void check_same(const char *name, uint64_t got, uint64_t want);

/* Fills the call gates of the GDT. */
void prepare_gates(void);

/* The groups. */
void check_tables(void);
void check_selectors(void);
void check_flags(void);
void check_segments(void);
void check_far(void);
void check_calls(void);
void check_control(void);
void check_identity(void);

#endif
