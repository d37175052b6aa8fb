/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * layout: the private structures of libunicorn 2.0.1.post1 on x86-64 that the engine reads and
 * writes, and the library's functions it calls behind the public API.
 *
 * Only the leading fields that are used are declared. layout.c checks them at start by writing
 * through the public API and reading back here; a build against another version is refused
 * (prepare-unicorn.sh). Names in the library carry the suffix _x86_64; `real_` is an alias of the
 * library's own definition, made by prepare-unicorn.sh, where the name itself is overridden in
 * overrides-*.c.
 */
#ifndef ENGINE_SOFT_LAYOUT_H
#define ENGINE_SOFT_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

/* SegmentCache */
struct uc_segment {
    uint32_t selector, pad;
    uint64_t base;
    uint32_t limit, flags;
};

enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };
enum { GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI };

/* CPUX86State, its beginning. Model specific registers, features and debug registers lie further
 * on, at offsets found at start (struct engine). */
struct uc_env {
    uint64_t regs[16], eip, eflags, cc_dst, cc_src, cc_src2;
    uint32_t cc_op;
    int32_t df;
    uint32_t hflags, hflags2;
    struct uc_segment segs[SEG_COUNT], ldt, tr, gdt, idt;
    uint64_t cr[5];
    int32_t a20;
    uint32_t pad;
    uint64_t bnd[8], bndcs[2], bndcfgs, efer;
};

/* CPUState, its beginning. */
struct uc_cpu {
    int nr_cores, nr_threads;
    void *thread;
    uint8_t flags[8];
    uint32_t cflags_next_tb, interrupt_request;
    int singlestep, pad;
    int64_t icount_budget, icount_extra;
    uint64_t random_seed;
    uint8_t jmp_env[200];
    void *cpu_ases;
    int num_ases, pad2;
    void *as, *memory;
    struct uc_env *env;
    union {
        uint32_t u32;
        struct {
            uint16_t low, high;
        } u16;
    } * icount_decr;
};

#define HFLAG_CPL_MASK 3u
#define HFLAG_INHIBIT  (1u << 3) /* the instruction after STI or MOV SS */
#define HFLAG_CS32     (1u << 4)
#define HFLAG_SS32     (1u << 5)
#define HFLAG_ADDSEG   (1u << 6)
#define HFLAG_PE       (1u << 7)
#define HFLAG_LMA      (1u << 14)
#define HFLAG_CS64     (1u << 15)
#define EFLAGS_IF      (1u << 9)
#define EFLAGS_RF      (1u << 16)
#define EFLAGS_IOPL(e) (((e) >> 12) & 3u)
#define INTERRUPT_HARD 2u /* CPU_INTERRUPT_HARD */
#define CR4_LA57       (1u << 12)
#define PTE_PRESENT    1ull
#define PTE_LARGE      (1ull << 7)
#define PTE_ADDRESS    0xffffffffff000ull
#define UC_ENV_SEARCH  16384 /* bytes of CPUX86State searched for a marker */

/* TranslationBlock, its beginning. */
struct uc_block {
    uint64_t pc, cs_base;
    uint32_t flags;
    uint16_t size, icount;
    uint32_t cflags, trace_state;
    uint64_t unused[5];
    uint64_t page_addr[2]; /* physical; the second is all ones for a block inside one page */
};

/* CPUWatchpoint: the library allocates none itself, but its DR code reads vaddr and len. */
#define WATCHPOINT_BYTES 64

/* ---- the library's functions, used as they are */
void tlb_set_dirty_x86_64(void *cpu, uint64_t vaddr);
void tlb_reset_dirty_x86_64(void *cpu, uint64_t host_start, uint64_t length);
void tlb_flush_page_x86_64(void *cpu, uint64_t vaddr);
void do_interrupt_x86_hardirq_x86_64(void *env, int vector, int is_hardware);
void x86_cpu_do_interrupt_x86_64(void *cpu);
void tb_invalidate_phys_range_x86_64(void *uc, uint64_t start, uint64_t end);
void raise_exception_x86_64(void *env, int vector);
void raise_exception_err_ra_x86_64(void *env, int vector, int error, uintptr_t return_address);
void cpu_loop_exit_noexc_x86_64(void *cpu);
void cpu_x86_update_dr7_x86_64(void *env, uint32_t dr7);
uint64_t get_page_addr_code_x86_64(void *env, uint64_t vaddr);
bool cpu_restore_state_x86_64(void *cpu, uintptr_t host_pc, bool will_exit);

/* ---- the library's own definitions behind our overrides */
void real_tlb_set_page_with_attrs_x86_64(void *cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs,
                                         int prot, int mmu_index, uint64_t size);
void real_tb_flush_x86_64(void *cpu);
void *real_page_collection_lock_x86_64(void *uc, uint64_t start, uint64_t end);
void real_page_collection_unlock_x86_64(void *set);
void real_tb_invalidate_phys_page_fast_x86_64(void *uc, void *pages, uint64_t start, int length,
                                              uintptr_t return_address);
void *real_tb_htable_lookup_x86_64(void *cpu, uint64_t pc, uint64_t cs_base, uint32_t flags,
                                   uint32_t cflags);
void *real_memory_mapping(void *uc, uint64_t address);
void real_tcg_exec_init_x86_64(void *uc, unsigned long buffer_bytes);
void real_tcg_region_reset_all_x86_64(void *tcg);
void real_tlb_flush_x86_64(void *cpu);
void real_helper_hlt_x86_64(void *env, int next_eip_addend);
void real_helper_ltr_x86_64(void *env, int selector);
void real_raise_exception_err_x86_64(void *env, int vector, int error);
void real_helper_rdmsr_x86_64(void *env);
void real_helper_wrmsr_x86_64(void *env);
uint64_t real_helper_read_crN_x86_64(void *env, int reg);
void real_helper_write_crN_x86_64(void *env, int reg, uint64_t value);
void real_cpu_x86_cpuid_x86_64(void *env, uint32_t index, uint32_t count, uint32_t *eax,
                               uint32_t *ebx, uint32_t *ecx, uint32_t *edx);
int real_cpu_breakpoint_insert_x86_64(void *cpu, uint64_t pc, int flags, void **breakpoint);
void real_cpu_breakpoint_remove_by_ref_x86_64(void *cpu, void *breakpoint);

#endif
