/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sandbox of the programs that read images: vmmd-import and vmmd-image. Not in the library: a
 * process decides about itself.
 */
#ifndef COWDISK_SANDBOX_H
#define COWDISK_SANDBOX_H

#include "cowdisk/cowdisk.h"

struct sandbox_limits {
    unsigned first_closed_fd; /* this one and all behind it are closed; 0: none */
    unsigned max_files;
    uint64_t memory, max_memory; /* address space now, and at most after sandbox_set_memory() */
    uint64_t file_bytes;         /* a file may become as long; 0: no limit */
    unsigned cpu_seconds;        /* 0: no limit */
};

/* From here on: only the fds there are, no privilege, no other system calls, memory as told. Before
 * the first byte of a table is read. It cannot be undone; if it fails the process must end. */
int sandbox_enter(const struct sandbox_limits *limits, struct cow_error *err);
/* Lowers or raises a limit of this process, within its hard limit. */
int sandbox_set_limit(int resource, uint64_t soft, uint64_t hard);
/* Address space, not under the address sanitizer. */
int sandbox_set_memory(uint64_t soft, uint64_t hard);

#endif
