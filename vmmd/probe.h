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

/* Takes at most a second. `text` gets one line: what was found. */
enum probe_result probe_kvm(char *text, size_t size);

#endif
