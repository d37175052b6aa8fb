/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exits: what a vCPU leaves guest code for. Ports and MMIO go to the machine's buses; the rest is
 * the end of the guest, reported so that a person can tell what it did.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include <stdio.h>
#include <string.h>

#define INSTRUCTION_MAX 15

static void handle_port(struct vcpu *v)
{
    const struct engine_host *host = &v->engine->host;
    struct kvm_run *run = v->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;

    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        uint32_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, run->io.size);
            host->pio_write(host->opaque, run->io.port, run->io.size, value);
        } else {
            value = (uint32_t)host->pio_read(host->opaque, run->io.port, run->io.size);
            memcpy(data, &value, run->io.size);
        }
    }
}

/* What crosses a page can come in pieces of any length: those go byte by byte. */
static void handle_mmio(struct vcpu *v)
{
    const struct engine_host *host = &v->engine->host;
    struct kvm_run *run = v->run;
    uint32_t length = run->mmio.len < 8 ? run->mmio.len : 8;
    uint32_t step = length == 1 || length == 2 || length == 4 || length == 8 ? length : 1;

    for (uint32_t at = 0; at < length; at += step) {
        uint64_t value = 0;
        if (run->mmio.is_write) {
            memcpy(&value, run->mmio.data + at, step);
            host->mmio_write(host->opaque, run->mmio.phys_addr + at, step, value);
        } else {
            value = host->mmio_read(host->opaque, run->mmio.phys_addr + at, step);
            memcpy(run->mmio.data + at, &value, step);
        }
    }
}

static unsigned long long rip_of(struct vcpu *v)
{
    struct kvm_regs regs = {0};

    kvm_ioctl(v->fd, KVM_GET_REGS, &regs);
    return regs.rip;
}

/* "0f 01 c1 ", or "unknown ". */
static void describe_bytes(const struct kvm_run *run, char *text, size_t size)
{
    const unsigned instruction = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    unsigned n = 0;

    snprintf(text, size, "unknown ");
    if (run->emulation_failure.ndata >= 3 && (run->emulation_failure.flags & instruction))
        n = run->emulation_failure.insn_size;
    for (unsigned i = 0; i < n && i < INSTRUCTION_MAX; i++)
        snprintf(text + 3 * i, size - 3 * i, "%02x ", run->emulation_failure.insn_bytes[i]);
}

static void report_internal(struct vcpu *v)
{
    char bytes[3 * INSTRUCTION_MAX + 8];

    if (v->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
        describe_bytes(v->run, bytes, sizeof(bytes));
        kvm_fail(v->engine,
                 "vCPU %u: the host's KVM cannot emulate the instruction at rip %#llx, bytes %s"
                 "(a host without VT-x or SVM underneath? see vmctl host)",
                 v->index, rip_of(v), bytes);
    } else {
        kvm_fail(v->engine, "vCPU %u: KVM internal error %u at rip %#llx", v->index,
                 v->run->internal.suberror, rip_of(v));
    }
}

/* Not an end that the guest chose. */
static enum engine_exit report(struct vcpu *v)
{
    switch (v->run->exit_reason) {
    case KVM_EXIT_INTERNAL_ERROR: report_internal(v); break;
    case KVM_EXIT_FAIL_ENTRY:
        kvm_fail(v->engine, "vCPU %u: the processor refuses to enter the guest at rip %#llx: %#llx",
                 v->index, rip_of(v),
                 (unsigned long long)v->run->fail_entry.hardware_entry_failure_reason);
        break;
    default:
        kvm_fail(v->engine, "vCPU %u: KVM exit %u at rip %#llx is not known here", v->index,
                 v->run->exit_reason, rip_of(v));
    }
    return ENGINE_EXIT_FAILED;
}

bool kvm_handle_exit(struct vcpu *v, enum engine_exit *ret_exit)
{
    switch (v->run->exit_reason) {
    case KVM_EXIT_IO: handle_port(v); return true;
    case KVM_EXIT_MMIO: handle_mmio(v); return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN: return true;
    case KVM_EXIT_SHUTDOWN:
    case KVM_EXIT_SYSTEM_EVENT: *ret_exit = ENGINE_EXIT_RESET; return false;
    default: *ret_exit = report(v); return false;
    }
}
