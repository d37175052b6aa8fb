/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * overrides: prototypes of the library functions that this engine replaces (the linker takes ours,
 * the library's are weak) so that the compiler checks them. What each is for stands at its
 * definition.
 */
#ifndef ENGINE_SOFT_OVERRIDES_H
#define ENGINE_SOFT_OVERRIDES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* overrides-mmu.c */
void tlb_set_page_with_attrs_x86_64(void *cpu, uint64_t vaddr, uint64_t paddr, uint32_t attrs,
                                    int prot, int mmu_index, uint64_t size);
void tlb_protect_code_x86_64(void *uc, uint64_t ram_address);
void tlb_unprotect_code_x86_64(void *uc, uint64_t ram_address);
void tb_flush_x86_64(void *cpu);
void *page_collection_lock_x86_64(void *uc, uint64_t start, uint64_t end);
void page_collection_unlock_x86_64(void *set);
void tb_invalidate_phys_page_fast_x86_64(void *uc, void *pages, uint64_t start, int length,
                                         uintptr_t return_address);
void *memory_mapping(void *uc, uint64_t address);
void tlb_flush_x86_64(void *cpu);

/* overrides-cpu.c */
void check_exit_request_x86_64(void *tcg);
void helper_syscall_x86_64(void *env, int next_eip_addend);
bool x86_cpu_exec_interrupt_x86_64(void *cpu, int interrupt_request);
uint64_t helper_inb_x86_64(void *env, uint32_t port);
uint64_t helper_inw_x86_64(void *env, uint32_t port);
uint64_t helper_inl_x86_64(void *env, uint32_t port);
void helper_outb_x86_64(void *env, uint32_t port, uint32_t value);
void helper_outw_x86_64(void *env, uint32_t port, uint32_t value);
void helper_outl_x86_64(void *env, uint32_t port, uint32_t value);
void qemu_system_reset_request(void *uc);
void helper_hlt_x86_64(void *env, int next_eip_addend);
void helper_rdmsr_x86_64(void *env);
void helper_wrmsr_x86_64(void *env);
uint64_t helper_read_crN_x86_64(void *env, int reg);
void cpu_x86_cpuid_x86_64(void *env, uint32_t index, uint32_t count, uint32_t *eax, uint32_t *ebx,
                          uint32_t *ecx, uint32_t *edx);

/* overrides-checks.c */
void helper_ltr_x86_64(void *env, int selector);
void helper_rdpmc_x86_64(void *env);
void raise_exception_err_x86_64(void *env, int vector, int error);
void helper_write_crN_x86_64(void *env, int reg, uint64_t value);

/* overrides-lookup.c */
void *tb_htable_lookup_x86_64(void *cpu, uint64_t pc, uint64_t cs_base, uint32_t flags,
                              uint32_t cflags);

/* overrides-buffer.c */
void tcg_exec_init_x86_64(void *uc, unsigned long buffer_bytes);
void tcg_region_reset_all_x86_64(void *tcg);
void *vmmd_tcg_memset(void *data, int byte, size_t bytes);

/* overrides-debug.c */
int cpu_breakpoint_insert_x86_64(void *cpu, uint64_t pc, int flags, void **breakpoint);
void cpu_breakpoint_remove_by_ref_x86_64(void *cpu, void *breakpoint);
int cpu_watchpoint_insert_x86_64(void *cpu, uint64_t address, uint64_t length, int flags,
                                 void **ret_watchpoint);
void cpu_watchpoint_remove_by_ref_x86_64(void *cpu, void *watchpoint);
int cpu_watchpoint_address_matches_x86_64(void *cpu, uint64_t address, uint64_t length);
void cpu_check_watchpoint_x86_64(void *cpu, uint64_t address, uint64_t length, uint32_t attrs,
                                 int flags, uintptr_t return_address);

#endif
