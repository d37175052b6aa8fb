/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * probe: can this host run a stock kernel in hardware? Found by running a guest against the clock.
 */
#ifndef VMMD_PROBE_H
#define VMMD_PROBE_H

#include <stddef.h>
#include <stdint.h>

enum probe_result {
    PROBE_HARDWARE, /* kernel code runs natively */
    PROBE_EMULATED, /* it runs, but instruction by instruction: no VT-x or SVM underneath */
    PROBE_NONE,     /* no /dev/kvm, or no access */
    PROBE_BROKEN,   /* there is one that does not run the guest, or not in time */
};

/* Takes less than a second, whatever the device does. `text` gets one line: what was found. `root`
 * stands before /dev/kvm: "", or a directory of a test. */
enum probe_result probe_kvm(const char *root, char *text, size_t size);

struct probe_answer {
    int error;        /* errno, or 0 */
    char step[24];    /* what failed; "" */
    uint64_t took_ns; /* of the guest, the fastest run */
};

/* The same with another way to examine it, for tests: called in a process of its own, which may
 * hang, crash or leave processes behind. */
enum probe_result probe_with(void (*examine)(const char *root, struct probe_answer *ret),
                             const char *root, char *text, size_t size);

#endif
