/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vm: a virtual machine of KVM and its memory slots; the table of the engine's functions.
 *
 * What the engine may ask the kernel for behind the system call filter is listed here: whoever adds
 * a call that happens then adds it to `ioctls`.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Three pages for Intel hosts that need them, below the end of the hole where nothing else is. */
#define TSS_GPA      0xfffbd000ull
#define IDENTITY_GPA 0xfffbc000ull
#define PAGE         4096ull

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    int r;

    do
        r = ioctl(fd, request, arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

int kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    return kvm_ioctl(fd, request, (void *)value); /* the kernel takes it as a number */
}

int kvm_extension(int fd, int capability)
{
    int r = kvm_ioctl_value(fd, KVM_CHECK_EXTENSION, (unsigned long)capability);

    return r < 0 ? 0 : r;
}

void kvm_fail(struct engine *e, const char *format, ...)
{
    va_list args;

    pthread_mutex_lock(&e->lock);
    if (!e->error[0]) {
        va_start(args, format);
        vsnprintf(e->error, sizeof(e->error), format, args);
        va_end(args);
    }
    pthread_mutex_unlock(&e->lock);
}

/* ---- creation ---- */

static int create_chips(struct engine *e)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    uint64_t identity = IDENTITY_GPA;
    int r;

    kvm_ioctl_value(e->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA); /* not every kind of host has them */
    kvm_ioctl(e->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    r = kvm_ioctl_value(e->vm_fd, KVM_CREATE_IRQCHIP, 0);
    if (r == 0)
        r = kvm_ioctl(e->vm_fd, KVM_CREATE_PIT2, &pit);
    return r < 0 ? r : kvm_set_routes(e);
}

static void enable_extensions(struct engine *e)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = {1}};

    /* Without it, the guest would get #UD where the host cannot emulate. */
    if (kvm_extension(e->vm_fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE))
        kvm_ioctl(e->vm_fd, KVM_ENABLE_CAP, &cap);
}

static int init_cpuid(struct engine *e, const struct engine_config *config)
{
    int r = kvm_cpuid_init(e, config->kvm_fd, config->cpu_model);
    char flags[160];

    if (r == -ENOTSUP && config->error) {
        kvm_cpuid_missing(e->supported, config->cpu_model, flags, sizeof(flags));
        snprintf(config->error, config->error_bytes,
                 "this host lacks features of the CPU model that vmmd.conf names: %s", flags);
    }
    return r;
}

static int create_vm(struct engine *e, const struct engine_config *config)
{
    int fd = config->kvm_fd, r;

    if (kvm_ioctl_value(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return -ENODEV;
    if ((int)config->vcpus > kvm_extension(fd, KVM_CAP_MAX_VCPUS))
        return -ERANGE;
    r = kvm_ioctl_value(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (r < (int)sizeof(struct kvm_run))
        return r < 0 ? r : -ENODEV;
    e->run_bytes = (size_t)r;
    e->vm_fd = r = kvm_ioctl_value(fd, KVM_CREATE_VM, 0);
    if (r < 0)
        return r;
    enable_extensions(e);
    r = create_chips(e);
    if (r == 0)
        r = init_cpuid(e, config);
    return r < 0 ? r : kvm_state_init(e, fd);
}

static void kvm_destroy(struct engine *e)
{
    if (!e)
        return;
    for (unsigned i = 0; i < ENGINE_MAX_VCPUS; i++)
        kvm_vcpu_destroy(e->vcpus[i]);
    if (e->vm_fd >= 0)
        close(e->vm_fd);
    pthread_mutex_destroy(&e->lock);
    free(e->cpuid);
    free(e->supported);
    free(e->msrs);
    free(e);
}

static int kvm_create(const struct engine_config *config, struct engine **ret_engine)
{
    struct engine *e;
    int r;

    /* A huge page for the stack of a thread, as kernels before 6.7 take one, would be more than all
     * else that the process needs; and guest RAM, which is merged page by page, wants none. */
    (void)prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);

    if (config->vcpus == 0 || config->vcpus > ENGINE_MAX_VCPUS || config->kvm_fd < 0)
        return -EINVAL;
    e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->host = config->host;
    e->n_vcpus = config->vcpus;
    e->vm_fd = -1;
    pthread_mutex_init(&e->lock, NULL);
    for (unsigned i = 0; i < KVM_MAX_ROUTES; i++)
        e->routes[i].fd = -1;
    kvm_prepare_kicks();
    r = create_vm(e, config);
    if (r < 0) {
        kvm_destroy(e);
        return r;
    }
    *ret_engine = e;
    return 0;
}

/* ---- memory ---- */

static int set_slot(struct engine *e, unsigned i, uint64_t bytes)
{
    struct kvm_userspace_memory_region region = {
        .slot = i,
        .flags = e->slots[i].logged ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = e->slots[i].gpa,
        .memory_size = bytes,
        .userspace_addr = (uint64_t)(uintptr_t)e->slots[i].hva,
    };

    return kvm_ioctl(e->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* The slot that is exactly this range, or -ENOENT. */
static int find_slot(const struct engine *e, uint64_t gpa, uint64_t bytes)
{
    for (unsigned i = 0; i < KVM_MAX_SLOTS; i++)
        if (e->slots[i].used && e->slots[i].gpa == gpa && e->slots[i].bytes == bytes)
            return (int)i;
    return -ENOENT;
}

static int kvm_map_ram(struct engine *e, uint64_t gpa, uint64_t bytes, void *hva)
{
    unsigned i = 0;
    int r;

    if (bytes == 0 || (gpa | bytes | (uintptr_t)hva) % PAGE != 0)
        return -EINVAL;
    pthread_mutex_lock(&e->lock);
    while (i < KVM_MAX_SLOTS && e->slots[i].used)
        i++;
    r = i == KVM_MAX_SLOTS ? -ENOSPC : 0;
    if (r == 0) {
        e->slots[i] = (struct kvm_slot){.gpa = gpa, .bytes = bytes, .hva = hva};
        r = set_slot(e, i, bytes);
        e->slots[i].used = r == 0;
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}

static int kvm_unmap_ram(struct engine *e, uint64_t gpa, uint64_t bytes)
{
    int i, r;

    pthread_mutex_lock(&e->lock);
    r = i = find_slot(e, gpa, bytes);
    if (r >= 0)
        r = set_slot(e, (unsigned)i, 0);
    if (r == 0)
        e->slots[i].used = false;
    pthread_mutex_unlock(&e->lock);
    return r;
}

static int start_log(struct engine *e, unsigned i, uint64_t *ret_bitmap)
{
    uint64_t pages = e->slots[i].bytes / PAGE;
    int r;

    e->slots[i].logged = true;
    r = set_slot(e, i, e->slots[i].bytes);
    if (r < 0) {
        e->slots[i].logged = false;
        return r;
    }
    memset(ret_bitmap, 0xff, pages / 64 * 8);
    if (pages % 64)
        ret_bitmap[pages / 64] = (1ull << pages % 64) - 1;
    return 0;
}

static int stop_log(struct engine *e, unsigned i)
{
    if (!e->slots[i].logged)
        return 0;
    e->slots[i].logged = false;
    return set_slot(e, i, e->slots[i].bytes);
}

static int kvm_dirty_log(struct engine *e, uint64_t gpa, uint64_t bytes, uint64_t *ret_bitmap)
{
    int i, r;

    pthread_mutex_lock(&e->lock);
    r = i = find_slot(e, gpa, bytes);
    if (i >= 0 && !ret_bitmap) {
        r = stop_log(e, (unsigned)i);
    } else if (i >= 0 && !e->slots[i].logged) {
        r = start_log(e, (unsigned)i, ret_bitmap);
    } else if (i >= 0) {
        struct kvm_dirty_log log = {.slot = (uint32_t)i, .dirty_bitmap = ret_bitmap};
        r = kvm_ioctl(e->vm_fd, KVM_GET_DIRTY_LOG, &log);
    }
    pthread_mutex_unlock(&e->lock);
    return r;
}

/* ---- the table ---- */

static const char *kvm_error(struct engine *e)
{
    return e->error;
}

static const unsigned long ioctls[] = {
    KVM_RUN,
    KVM_IRQ_LINE,
    KVM_SIGNAL_MSI,
    KVM_IRQFD,
    KVM_IOEVENTFD,
    KVM_SET_GSI_ROUTING,
    KVM_GET_DIRTY_LOG,
    KVM_SET_USER_MEMORY_REGION,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_GET_SREGS2,
    KVM_SET_SREGS2,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_GET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_SET_XSAVE,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_SET_CPUID2,
    KVM_GET_IRQCHIP,
    KVM_SET_IRQCHIP,
    KVM_GET_PIT2,
    KVM_SET_PIT2,
    KVM_GET_CLOCK,
    KVM_SET_CLOCK,
    KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,
    KVM_GET_DEVICE_ATTR,
    KVM_SET_DEVICE_ATTR,
    KVM_KVMCLOCK_CTRL,
    0,
};

const struct engine_ops *engine_kvm(void)
{
    static const struct engine_ops ops = {
        .name = "kvm",
        .in_kernel_irqchip = true,
        .ioctls = ioctls,
        .create = kvm_create,
        .destroy = kvm_destroy,
        .map_ram = kvm_map_ram,
        .unmap_ram = kvm_unmap_ram,
        .vcpu_create = kvm_vcpu_create,
        .vcpu_enter_at = kvm_vcpu_enter_at,
        .vcpu_run = kvm_vcpu_run,
        .vcpu_kick = kvm_vcpu_kick,
        .vcpu_get_state = kvm_vcpu_get_state,
        .vcpu_set_state = kvm_vcpu_set_state,
        .irq_line = kvm_irq_line,
        .msi = kvm_msi,
        .get_irqchip = kvm_get_irqchip,
        .set_irqchip = kvm_set_irqchip,
        .clock_stop = kvm_timers_stop,
        .clock_shift = kvm_clock_shift,
        .tsc_khz = kvm_tsc_khz,
        .irqfd = kvm_irqfd,
        .ioeventfd = kvm_ioeventfd,
        .dirty_log = kvm_dirty_log,
        .error = kvm_error,
    };
    return &ops;
}
