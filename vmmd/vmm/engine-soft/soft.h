/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * soft: the state of the software engine, shared by its files.
 *
 * The library calls our overrides without a context of ours, so there is one file-scope pointer,
 * soft_self: one engine in a process, set by create and cleared by destroy.
 *
 * Threads: the vCPU's thread runs the library and owns everything not said otherwise. `lock` guards
 * irqchip, halted and the queue of written ranges. `attention` asks the vCPU thread to look at all
 * of it at its next block of code: anyone may set it, then soft_interrupt() makes generated code
 * come out.
 */
#ifndef ENGINE_SOFT_H
#define ENGINE_SOFT_H

#include "vmmd/vmm/engine-soft/irqchip.h"
#include "vmmd/vmm/engine-soft/layout.h"
#include "vmmd/vmm/engine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unicorn/unicorn.h>

#define SOFT_MAX_RAM     2  /* pieces: below and above the PCI hole */
#define SOFT_MAX_WRITTEN 64 /* ranges of written code; more: forget everything */
#define SOFT_PAGE_BITS   12
#define SOFT_LOOKUPS     16384 /* blocks remembered by physical address; a power of two */

struct soft_ram {
    uint64_t gpa, bytes;
    uint64_t ram_address; /* as the library counts: pieces one after the other */
    uint8_t *hva;
};

struct soft_watchpoint {
    uint64_t vaddr, length,
        hit_address; /* begins as the library's CPUWatchpoint: its DR code reads it */
    uint32_t hit_attrs;
    int flags;
    struct soft_watchpoint *next;
};

struct soft_range {
    uint64_t start, end; /* ram addresses */
};

struct soft_lookup {
    uint64_t physical; /* of the block's first byte */
    struct uc_block *block;
};

struct vcpu {
    struct engine *engine;
};

struct engine {
    struct engine_host host;
    uc_engine *uc;
    struct uc_cpu *cpu;
    struct uc_env *env;
    struct vcpu vcpu;
    uint32_t buffer_mib;
    char error[160];

    /* Offsets in CPUX86State found at start (layout.c). */
    uint32_t star, lstar, cstar, fmask, debug_registers, tsc_offset;
    uint64_t *features;

    struct soft_ram ram[SOFT_MAX_RAM];
    unsigned n_ram;
    uint64_t *code_pages; /* a bit per RAM page that holds translated code */
    uint64_t code_words;
    void *any_mapping; /* answer to "is anything mapped there" */

    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct irqchip irqchip;
    bool halted;
    struct soft_range written[SOFT_MAX_WRITTEN];
    unsigned n_written;
    bool written_overflow;

    atomic_bool attention;
    atomic_bool has_thread; /* vcpu_run was entered: `timer` exists */
    timer_t timer;
    uint64_t timer_due;    /* what `timer` is set to, ns of guest time; UINT64_MAX: not set */
    uint64_t clock_behind; /* ns that guest time lacks: pauses */
    uint64_t tsc_khz;

    struct soft_lookup *lookups;          /* [SOFT_LOOKUPS] */
    uint32_t n_translated;                /* blocks since the last flush */
    uint64_t window_start, window_halted; /* ns: see trim_when_idle() */
    bool was_hlt, defer_flush, flush_pending, in_region_reset;
    bool left; /* vcpu_run shall return exit */
    enum engine_exit exit;

    struct soft_watchpoint *watchpoints;
    bool watch_hit, watch_trap; /* a watched access began; was made: #DB is due */
    bool watch_waited;          /* its instruction had its chance to run again */
    bool delivering; /* an interrupt or exception: what it took is gone, it cannot begin again */
};

extern struct engine *soft_self;

#define SOFT_ENV64(e, offset) (*(uint64_t *)((uint8_t *)(e)->env + (offset)))

/* engine.c */
void soft_interrupt(struct engine *e); /* any thread, signal handlers too */
bool soft_attend(
    struct engine *e); /* vCPU thread, between blocks: true if an interrupt was begun */
bool soft_pass_gate(struct engine *e); /* vCPU thread; false: it is on its way out */
void soft_leave(struct engine *e, enum engine_exit exit);
uint64_t soft_now(const struct engine *e);
uint64_t soft_tsc(const struct engine *e);
void soft_rearm(struct engine *e); /* lock held */

/* layout.c: the feature words */
enum {
    FEAT_1_EDX,
    FEAT_1_ECX,
    FEAT_7_EBX,
    FEAT_7_ECX,
    FEAT_7_EDX,
    FEAT_D_1_EAX,
    FEAT_80000001_EDX,
    FEAT_80000001_ECX
};

int soft_find_layout(struct engine *e);
void soft_set_features(struct engine *e);

/* ram.c */
int soft_ram_add(struct engine *e, uint64_t gpa, uint64_t bytes, void *hva);
void soft_ram_remove(struct engine *e, uint64_t gpa);
uint8_t *soft_hva(const struct engine *e, uint64_t gpa, uint64_t bytes); /* or NULL */
bool soft_walk(const struct engine *e, uint64_t vaddr, uint64_t *ret_gpa);
bool soft_ram_address(const struct engine *e, uint64_t gpa, uint64_t *ret_ram_address);
bool soft_is_code(const struct engine *e, uint64_t ram_address);
void soft_mark_code(struct engine *e, uint64_t ram_address, bool code);
void soft_forget_code(struct engine *e);
void soft_ram_written(struct engine *e, uint64_t gpa, uint64_t bytes);
bool soft_drop_written(struct engine *e); /* vCPU thread; true: code was dropped */

/* overrides-lookup.c */
void soft_forget_lookups(struct engine *e);

/* overrides-checks.c */
bool soft_efer_is_good(const struct engine *e, uint64_t value);

/* overrides-debug.c */
void soft_watch_raise(struct engine *e);
void soft_watch_forget(struct engine *e); /* the hits not raised yet */
void soft_watch_free(struct engine *e);

#endif
