/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * boot: puts a Linux kernel, an initrd and a command line into guest memory by the 64-bit boot
 * protocol (Documentation/arch/x86/boot.rst).
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include "vmmd/vmm/engine.h"

#include <stddef.h>

struct memory;

#define BOOT_CMDLINE_MAX 2048u

struct boot_config {
    int kernel_fd; /* bzImage */
    int initrd_fd; /* or -1 */
    const char *cmdline;
    uint64_t tsc_khz;
    uint64_t rsdp; /* GPA */
};

/* Fills guest memory and says where the first instruction is. On failure (-EINVAL, -ENOMEM, -EIO)
 * `text` says which file and why. The fds stay the caller's. */
int boot_linux(struct memory *m, const struct boot_config *config, struct engine_entry *ret_entry,
               char *text, size_t text_size);

#endif
