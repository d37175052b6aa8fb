/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overrides-lookup: a direct-mapped cache before the library's hash table of translated blocks.
 *
 * A guest's context switch empties the library's small jump cache (it is keyed by virtual address),
 * and each block is then looked up in the hash table again: a fifth of a boot. This cache is keyed
 * by physical address and survives. A block that crosses a page is left out: its second page may be
 * mapped elsewhere by now. Dropped blocks carry a flag; freed ones (a flush) are forgotten with the
 * whole cache.
 */
#include "vmmd/vmm/engine-soft/overrides.h"
#include "vmmd/vmm/engine-soft/soft.h"

#include <string.h>

#define KEY_FLAGS 0xff0effffu /* CF_HASH_MASK and CF_INVALID: what the library compares */
#define NO_PAGE   UINT64_MAX

void *tb_htable_lookup_x86_64(void *cpu, uint64_t pc, uint64_t cs_base, uint32_t flags,
                              uint32_t cflags)
{
    struct engine *e = soft_self;
    uint64_t physical = get_page_addr_code_x86_64(e->env, pc);
    struct soft_lookup *slot = &e->lookups[(physical ^ physical >> 13) % SOFT_LOOKUPS];
    struct uc_block *block = slot->block;

    if (physical == NO_PAGE)
        return NULL;
    if (block && slot->physical == physical && block->pc == pc && block->cs_base == cs_base &&
        block->flags == flags && (block->cflags & KEY_FLAGS) == cflags)
        return block;
    block = real_tb_htable_lookup_x86_64(cpu, pc, cs_base, flags, cflags);
    if (!block)
        e->n_translated++; /* the caller translates it now */
    if (block && block->page_addr[1] == NO_PAGE)
        *slot = (struct soft_lookup){physical, block};
    return block;
}

void soft_forget_lookups(struct engine *e)
{
    e->n_translated = 0;
    memset(e->lookups, 0, SOFT_LOOKUPS * sizeof(e->lookups[0]));
}
