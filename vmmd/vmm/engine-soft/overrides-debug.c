/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overrides-debug: the debug registers.
 *
 * Execution breakpoints: the library flushes all code at once, under the feet of the code that
 * wrote DR7 - any guest user could crash the process with ptrace. The flush waits for the next
 * block head. Data watchpoints are empty stubs in the library; done here QEMU's way: at a hit go
 * back to the instruction, run it alone, then raise #DB.
 */
#include "vmmd/vmm/engine-soft/overrides.h"
#include "vmmd/vmm/engine-soft/soft.h"

#include <stdlib.h>

#define BP_MEM_READ     1
#define BP_MEM_WRITE    2
#define BP_HIT_READ     0x40
#define BP_HIT_WRITE    0x80
#define EXC_DB          1
#define CFLAGS_ONE_INSN 1u
#define MAX_WATCHPOINTS 4 /* as many as there are debug registers */

_Static_assert(sizeof(struct soft_watchpoint) <= WATCHPOINT_BYTES, "watchpoint layout");

int cpu_breakpoint_insert_x86_64(void *cpu, uint64_t pc, int flags, void **breakpoint)
{
    soft_self->defer_flush = true;
    int r = real_cpu_breakpoint_insert_x86_64(cpu, pc, flags, breakpoint);
    soft_self->defer_flush = false;
    return r;
}

void cpu_breakpoint_remove_by_ref_x86_64(void *cpu, void *breakpoint)
{
    soft_self->defer_flush = true;
    real_cpu_breakpoint_remove_by_ref_x86_64(cpu, breakpoint);
    soft_self->defer_flush = false;
}

static bool overlaps(const struct soft_watchpoint *w, uint64_t address, uint64_t length)
{
    return w->vaddr <= address + length - 1 && address <= w->vaddr + w->length - 1;
}

int cpu_watchpoint_insert_x86_64(void *cpu, uint64_t address, uint64_t length, int flags,
                                 void **ret_watchpoint)
{
    struct engine *e = soft_self;
    struct soft_watchpoint *w = calloc(1, WATCHPOINT_BYTES);
    unsigned n = 0;

    for (const struct soft_watchpoint *o = e->watchpoints; o; o = o->next)
        n++;
    if (!w || n >= MAX_WATCHPOINTS) {
        free(w);
        return -1;
    }
    w->vaddr = address;
    w->length = length;
    w->flags = flags;
    w->next = e->watchpoints;
    e->watchpoints = w;
    tlb_flush_page_x86_64(cpu, address);
    if (ret_watchpoint)
        *ret_watchpoint = w;
    return 0;
}

void cpu_watchpoint_remove_by_ref_x86_64(void *cpu, void *watchpoint)
{
    for (struct soft_watchpoint **at = &soft_self->watchpoints; *at; at = &(*at)->next) {
        struct soft_watchpoint *w = *at;
        if (w != watchpoint)
            continue;
        *at = w->next;
        tlb_flush_page_x86_64(cpu, w->vaddr);
        free(w);
        return;
    }
}

int cpu_watchpoint_address_matches_x86_64(void *cpu, uint64_t address, uint64_t length)
{
    int flags = 0;

    (void)cpu;
    for (const struct soft_watchpoint *w = soft_self->watchpoints; w; w = w->next)
        if (overlaps(w, address, length))
            flags |= w->flags;
    return flags;
}

void cpu_check_watchpoint_x86_64(void *cpu, uint64_t address, uint64_t length, uint32_t attrs,
                                 int flags, uintptr_t return_address)
{
    struct engine *e = soft_self;

    (void)attrs;
    if (e->watch_hit) { /* the instruction runs alone now: let it, and trap behind it */
        e->watch_trap = true;
        soft_interrupt(e);
        return;
    }
    for (struct soft_watchpoint *w = e->watchpoints; w; w = w->next) {
        if ((w->flags & flags & (BP_MEM_READ | BP_MEM_WRITE)) && overlaps(w, address, length)) {
            w->flags |= flags & BP_MEM_WRITE ? BP_HIT_WRITE : BP_HIT_READ;
            e->watch_hit = true;
        }
    }
    if (e->watch_hit && e->delivering) {
        e->watch_trap = true;
        soft_interrupt(e);
    } else if (e->watch_hit) {
        e->watch_waited = false;
        cpu_restore_state_x86_64(cpu, return_address, true);
        e->cpu->cflags_next_tb = CFLAGS_ONE_INSN;
        cpu_loop_exit_noexc_x86_64(cpu);
    }
}

void soft_watch_raise(struct engine *e)
{
    const uint64_t *dr = &SOFT_ENV64(e, e->debug_registers);
    uint64_t dr7 = dr[7], dr6 = dr[6] & ~0xfull;

    for (struct soft_watchpoint *w = e->watchpoints; w; w = w->next) {
        if (!(w->flags & (BP_HIT_READ | BP_HIT_WRITE)))
            continue;
        w->flags &= ~(BP_HIT_READ | BP_HIT_WRITE);
        for (unsigned i = 0; i < 4; i++)
            if ((dr7 >> (16 + 4 * i) & 1) && dr[i] == w->vaddr && (dr7 >> (2 * i) & 3))
                dr6 |= 1u << i;
    }
    e->watch_hit = e->watch_trap = false;
    SOFT_ENV64(e, e->debug_registers + 48) = dr6;
    raise_exception_x86_64(e->env, EXC_DB);
}

void soft_watch_forget(struct engine *e)
{
    for (struct soft_watchpoint *w = e->watchpoints; w; w = w->next)
        w->flags &= ~(BP_HIT_READ | BP_HIT_WRITE);
    e->watch_hit = e->watch_trap = false;
}

void soft_watch_free(struct engine *e)
{
    while (e->watchpoints) {
        struct soft_watchpoint *w = e->watchpoints;
        e->watchpoints = w->next;
        free(w);
    }
}
