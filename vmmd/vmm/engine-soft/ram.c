/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ram: guest RAM as the library sees it, page walks, and which pages hold translated code.
 *
 * The library's own tracking of written code is stubbed out (every store takes its slow path); the
 * bitmap here replaces it. Devices write RAM behind the library's back: written code is queued and
 * dropped by the vCPU thread before it begins another block, so the guest never runs stale code
 * after it saw the completion.
 */
#include "vmmd/vmm/engine-soft/soft.h"

#include <errno.h>
#include <stdlib.h>

#define PAGE      (1ull << SOFT_PAGE_BITS)
#define PAGE_MASK (~(PAGE - 1))

int soft_ram_add(struct engine *e, uint64_t gpa, uint64_t bytes, void *hva)
{
    struct soft_ram *r = &e->ram[e->n_ram];
    uint64_t start = 0, words;
    uint64_t *bits;

    if (e->n_ram == SOFT_MAX_RAM || bytes == 0 || bytes % PAGE != 0)
        return -EINVAL;
    for (unsigned i = 0; i < e->n_ram; i++)
        start += e->ram[i].bytes;
    words = ((start + bytes) / PAGE + 63) / 64;
    bits = realloc(e->code_pages, words * sizeof(*bits));
    if (!bits)
        return -ENOMEM;
    for (uint64_t i = e->code_words; i < words; i++)
        bits[i] = 0;
    e->code_pages = bits;
    e->code_words = words;
    if (uc_mem_map_ptr(e->uc, gpa, bytes, UC_PROT_ALL, hva) != UC_ERR_OK)
        return -ENOMEM;
    *r = (struct soft_ram){.gpa = gpa, .bytes = bytes, .ram_address = start, .hva = hva};
    e->n_ram++;
    return 0;
}

void soft_ram_remove(struct engine *e, uint64_t gpa)
{
    for (unsigned i = 0; i < e->n_ram; i++) {
        if (e->ram[i].gpa != gpa)
            continue;
        uc_mem_unmap(e->uc, gpa, e->ram[i].bytes);
        e->ram[i].bytes = 0; /* keeps its place: ram addresses of others do not move */
    }
}

static const struct soft_ram *ram_of(const struct engine *e, uint64_t gpa, uint64_t bytes)
{
    for (unsigned i = 0; i < e->n_ram; i++) {
        const struct soft_ram *r = &e->ram[i];
        if (gpa >= r->gpa && gpa - r->gpa < r->bytes && bytes <= r->bytes - (gpa - r->gpa))
            return r;
    }
    return NULL;
}

uint8_t *soft_hva(const struct engine *e, uint64_t gpa, uint64_t bytes)
{
    const struct soft_ram *r = ram_of(e, gpa, bytes);

    return r ? r->hva + (gpa - r->gpa) : NULL;
}

bool soft_ram_address(const struct engine *e, uint64_t gpa, uint64_t *ret_ram_address)
{
    const struct soft_ram *r = ram_of(e, gpa, 1);

    if (r)
        *ret_ram_address = r->ram_address + (gpa - r->gpa);
    return r != NULL;
}

bool soft_walk(const struct engine *e, uint64_t vaddr, uint64_t *ret_gpa)
{
    uint64_t entry = e->env->cr[3];

    for (int level = (e->env->cr[4] & CR4_LA57) ? 4 : 3; level >= 0; level--) {
        unsigned shift = 12 + 9 * (unsigned)level;
        const uint8_t *at = soft_hva(e, (entry & PTE_ADDRESS) + (vaddr >> shift & 511) * 8, 8);
        if (!at)
            return false;
        entry = *(const uint64_t *)at;
        if (!(entry & PTE_PRESENT))
            return false;
        if (level == 0 || (level <= 2 && (entry & PTE_LARGE))) {
            uint64_t mask = (1ull << shift) - 1;
            *ret_gpa = (entry & PTE_ADDRESS & ~mask) | (vaddr & mask);
            return true;
        }
    }
    return false;
}

bool soft_is_code(const struct engine *e, uint64_t ram_address)
{
    uint64_t page = ram_address >> SOFT_PAGE_BITS;

    return page / 64 < e->code_words && (e->code_pages[page / 64] >> (page % 64) & 1);
}

void soft_mark_code(struct engine *e, uint64_t ram_address, bool code)
{
    uint64_t page = ram_address >> SOFT_PAGE_BITS;

    if (page / 64 >= e->code_words)
        return;
    if (code)
        e->code_pages[page / 64] |= 1ull << (page % 64);
    else
        e->code_pages[page / 64] &= ~(1ull << (page % 64));
}

void soft_forget_code(struct engine *e)
{
    for (uint64_t i = 0; i < e->code_words; i++)
        e->code_pages[i] = 0;
}

static void queue_range(struct engine *e, uint64_t start, uint64_t end)
{
    struct soft_range *last = e->n_written ? &e->written[e->n_written - 1] : NULL;

    if (last && last->end == start)
        last->end = end;
    else if (e->n_written < SOFT_MAX_WRITTEN)
        e->written[e->n_written++] = (struct soft_range){start, end};
    else
        e->written_overflow = true;
}

void soft_ram_written(struct engine *e, uint64_t gpa, uint64_t bytes)
{
    const struct soft_ram *r = ram_of(e, gpa, bytes);
    uint64_t start, end;
    bool queued = false;

    if (!r || bytes == 0)
        return;
    start = r->ram_address + (gpa - r->gpa);
    end = start + bytes;
    for (uint64_t page = start & PAGE_MASK; page < end; page += PAGE) {
        if (!soft_is_code(e, page))
            continue;
        pthread_mutex_lock(&e->lock);
        queue_range(e, page < start ? start : page, page + PAGE < end ? page + PAGE : end);
        pthread_mutex_unlock(&e->lock);
        queued = true;
    }
    if (queued)
        soft_interrupt(e);
}

/* Page by page: the library looks only at the first and the last page of a range. */
static void drop_range(struct engine *e, const struct soft_range *range)
{
    for (uint64_t page = range->start & PAGE_MASK; page < range->end; page += PAGE)
        if (soft_is_code(e, page))
            tb_invalidate_phys_range_x86_64(e->uc, page < range->start ? range->start : page,
                                            page + PAGE < range->end ? page + PAGE : range->end);
}

bool soft_drop_written(struct engine *e)
{
    struct soft_range ranges[SOFT_MAX_WRITTEN];
    unsigned n;
    bool all;

    pthread_mutex_lock(&e->lock);
    n = e->n_written;
    all = e->written_overflow;
    for (unsigned i = 0; i < n; i++)
        ranges[i] = e->written[i];
    e->n_written = 0;
    e->written_overflow = false;
    pthread_mutex_unlock(&e->lock);

    if (all)
        e->flush_pending = true;
    else
        for (unsigned i = 0; i < n; i++)
            drop_range(e, &ranges[i]);
    return n > 0;
}
