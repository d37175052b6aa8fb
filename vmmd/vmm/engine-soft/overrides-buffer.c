/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overrides-buffer: the translation buffer costs what is used of it. The library takes 1 GiB and
 * zeroes all of it at every flush; ours has a size, and a flush gives the pages back (they read as
 * zero and come back when code goes in).
 */
#include "vmmd/vmm/engine-soft/overrides.h"
#include "vmmd/vmm/engine-soft/soft.h"

#include <string.h>
#include <sys/mman.h>

#define PAGE           4096u
#define WORTH_DROPPING (1u << 20)

void tcg_exec_init_x86_64(void *uc, unsigned long buffer_bytes)
{
    (void)buffer_bytes;
    real_tcg_exec_init_x86_64(uc, (unsigned long)soft_self->buffer_mib << 20);
}

void tcg_region_reset_all_x86_64(void *tcg)
{
    soft_self->in_region_reset = true;
    real_tcg_region_reset_all_x86_64(tcg);
    soft_self->in_region_reset = false;
}

/* memset of the one library object that zeroes the buffer (prepare-unicorn.sh). */
void *vmmd_tcg_memset(void *data, int byte, size_t bytes)
{
    uintptr_t start = (uintptr_t)data, first, last;

    if (!soft_self || !soft_self->in_region_reset || bytes < WORTH_DROPPING || byte != 0)
        return memset(data, byte, bytes);
    first = (start + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    last = (start + bytes) & ~(uintptr_t)(PAGE - 1);
    if (madvise((void *)first, last - first, MADV_DONTNEED) < 0)
        return memset(data, 0, bytes);
    memset(data, 0, first - start);
    memset((void *)last, 0, start + bytes - last);
    return data;
}
