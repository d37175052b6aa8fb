/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overrides-mmu: address translation and self-modifying code.
 *
 * libunicorn 2.0.1 walks the guest's page tables correctly and then uses the virtual address as the
 * physical one; it asks "is this mapped" with the virtual address too; and it has its dirty
 * tracking stubbed, so that every store takes the slow path. All three are put right here.
 */
#include "vmmd/vmm/engine-soft/overrides.h"
#include "vmmd/vmm/engine-soft/soft.h"

#define CR0_PG      (1ull << 31)
#define PROT_WRITE_ 2 /* PAGE_WRITE */

/* Puts the physical address back that the library's own walk had found and dropped. */
void tlb_set_page_with_attrs_x86_64(void *cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs,
                                    int prot, int mmu_index, uint64_t size)
{
    struct engine *e = soft_self;
    uint64_t gpa = paddr, ram_address;

    if ((e->env->cr[0] & CR0_PG) && soft_walk(e, vaddr, &gpa))
        gpa &= ~0xfffull;
    real_tlb_set_page_with_attrs_x86_64(cpu, vaddr, gpa, attrs, prot, mmu_index, size);
    /* Stores to pages without translated code may go straight to memory. */
    if ((prot & PROT_WRITE_) && soft_ram_address(e, gpa, &ram_address) &&
        !soft_is_code(e, ram_address))
        tlb_set_dirty_x86_64(cpu, vaddr);
}

void tlb_protect_code_x86_64(void *uc, uint64_t ram_address)
{
    struct engine *e = soft_self;

    (void)uc;
    soft_mark_code(e, ram_address, true);
    for (unsigned i = 0; i < e->n_ram; i++) {
        const struct soft_ram *r = &e->ram[i];
        if (ram_address >= r->ram_address && ram_address - r->ram_address < r->bytes) {
            uint64_t host =
                (uint64_t)(uintptr_t)r->hva + ((ram_address - r->ram_address) & ~0xfffull);
            tlb_reset_dirty_x86_64(e->cpu, host, 1u << SOFT_PAGE_BITS);
        }
    }
}

void tlb_unprotect_code_x86_64(void *uc, uint64_t ram_address)
{
    (void)uc;
    soft_mark_code(soft_self, ram_address, false);
}

void tb_flush_x86_64(void *cpu)
{
    struct engine *e = soft_self;

    if (e->defer_flush) { /* the code that called us would return into freed code */
        e->flush_pending = true;
        soft_interrupt(e);
        return;
    }
    soft_forget_code(e);
    soft_forget_lookups(e);
    real_tb_flush_x86_64(cpu);
}

/* The pair brackets invalidation after a store; skip it where there is no code. */
static char no_pages;

void *page_collection_lock_x86_64(void *uc, uint64_t start, uint64_t end)
{
    if (!soft_is_code(soft_self, start) && !soft_is_code(soft_self, end))
        return &no_pages;
    return real_page_collection_lock_x86_64(uc, start, end);
}

void page_collection_unlock_x86_64(void *set)
{
    if (set != &no_pages)
        real_page_collection_unlock_x86_64(set);
}

void tb_invalidate_phys_page_fast_x86_64(void *uc, void *pages, uint64_t start, int length,
                                         uintptr_t return_address)
{
    if (pages != &no_pages)
        real_tb_invalidate_phys_page_fast_x86_64(uc, pages, start, length, return_address);
}

/* "Is there a region at this address" is asked with the virtual address: always yes. */
void *memory_mapping(void *uc, uint64_t address)
{
    struct engine *e = soft_self;

    return e && e->any_mapping ? e->any_mapping : real_memory_mapping(uc, address);
}

/* Called at creation already: the only way to learn the CPU's address. */
void tlb_flush_x86_64(void *cpu)
{
    if (soft_self)
        soft_self->cpu = cpu;
    real_tlb_flush_x86_64(cpu);
}
