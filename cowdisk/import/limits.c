/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much vmmd-import may take, step by step.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <sys/resource.h>
#include <time.h>

#include "cowdisk/sandbox/sandbox.h"

#define BASE_MEMORY     (512ull << 20) /* address space while parsing */
#define BYTES_PER_BLOCK 16ull          /* of a hash file and of sorting it */
#define MAX_CPU_SECONDS (4u * 3600u)
#define MAX_FILES       64u

static uint64_t hash_memory(uint64_t disk_bytes)
{
    return (disk_bytes / COW_BLOCK_SIZE + 1) * BYTES_PER_BLOCK;
}

static uint64_t max_memory(void)
{
    return BASE_MEMORY + 2 * hash_memory(IMPORT_MAX_DISK);
}

int import_enter_sandbox(struct import *import)
{
    const struct sandbox_limits limits = {
        .first_closed_fd = FD_BELOW + import->n_below + import->below_hashes,
        .max_files = MAX_FILES,
        .memory = BASE_MEMORY,
        .max_memory = max_memory(),
        .file_bytes = import->disk ? 0 : IMPORT_MAX_DISK, /* a disk may get any size */
        .cpu_seconds = MAX_CPU_SECONDS,
    };

    return sandbox_enter(&limits, &import->error);
}

int import_limit_cpu(unsigned seconds)
{
    struct timespec used;

    if (seconds == 0)
        return sandbox_set_limit(RLIMIT_CPU, MAX_CPU_SECONDS, MAX_CPU_SECONDS + 60);
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) < 0)
        return -errno;
    return sandbox_set_limit(RLIMIT_CPU, (uint64_t)used.tv_sec + seconds, MAX_CPU_SECONDS + 60);
}

int import_allow_hashes(uint64_t disk_bytes)
{
    return sandbox_set_memory(BASE_MEMORY + hash_memory(disk_bytes), max_memory());
}
