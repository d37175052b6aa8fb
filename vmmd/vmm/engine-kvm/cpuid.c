/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cpuid: the CPU that a guest sees: what KVM supports on this host, less what guests do not get
 * (nested virtualization, performance counters, enclaves), and for a named model only what every
 * host of that level has, so that a saved guest may go on elsewhere. Defences against speculation
 * are passed through in every model.
 *
 * Sources: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; the x86-64 psABI for the
 * levels; Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KVM_SIGNATURE 0x40000000u
#define KVM_FEATURES  0x40000001u
#define EXTENDED      0x80000000u
#define BRAND         0x80000002u
#define HYPERVISOR    (1u << 31)  /* 1 ECX */
#define TSC_DEADLINE  (1u << 24)  /* 1 ECX */
#define OSXSAVE       (1u << 27)  /* 1 ECX: follows CR4 */
#define HTT           (1u << 28)  /* 1 EDX: more than one vCPU */
#define CMP_LEGACY    (1u << 1)   /* 0x80000001 ECX: the same on AMD */
#define AMD_EBX       0x68747541u /* "Auth"enticAMD */
#define HYGON_EBX     0x6f677948u /* "Hygo"nGenuine */

enum reg { EAX, EBX, ECX, EDX };

/* A register of feature bits: what each model may show of it, and what it must have. */
struct feature {
    uint32_t function, index;
    enum reg reg;
    uint32_t host, v2, v3;
    uint32_t need_v2, need_v3;
};

#define ALL 0xffffffffu

static const struct feature features[] = {
    /* not MONITOR, VMX, PDCM */
    {1, 0, ECX, ~0x8028u, 0x81b82201, 0xbdf83201, 0x00982201, 0x34d83201},
    {1, 0, EDX, ALL, 0x178bfbff, 0x178bfbff, 0x07008911, 0x07008911},
    {6, 0, EAX, 0x4, 0x4, 0x4, 0, 0},                        /* the APIC timer always runs */
    {7, 0, EBX, ~0x4u, 0, 0x128, 0, 0x128},                  /* not SGX */
    {7, 0, ECX, ~0x40000000u, 0, 0, 0, 0},                   /* not SGX launch control */
    {7, 0, EDX, ~0x03400000u, 0xac000400, 0xac000400, 0, 0}, /* not AMX */
    {7, 1, EAX, ALL, 0, 0, 0, 0},
    {7, 2, EDX, ALL, 0, 0, 0, 0},
    {0xd, 0, EAX, 0xe7, 0, 0x7, 0, 0x7}, /* x87 SSE AVX, AVX-512 */
    {0xd, 0, EDX, 0, 0, 0, 0, 0},
    {0xd, 1, EAX, 0xf, 0, 0x7, 0, 0},
    {0xd, 1, ECX, 0, 0, 0, 0, 0},
    {0xd, 1, EDX, 0, 0, 0, 0, 0},
    {KVM_FEATURES, 0, EAX, 0x010008cb, 0x010008cb, 0x010008cb, 0, 0},
    {0x80000001, 0, ECX, ~0x11800004u, 0x3, 0x23, 0x1, 0x21}, /* not SVM, performance counters */
    {0x80000001, 0, EDX, ALL, 0x2993fbff, 0x2993fbff, 0x20100800, 0x20100800},
    {0x80000007, 0, EDX, 0x100, 0, 0, 0, 0}, /* a TSC of constant rate is a host's own */
    {0x80000008, 0, EBX, ALL, 0x0100d000, 0x0100d000, 0, 0},
    {0x80000021, 0, EAX, ALL, 0, 0, 0, 0},
};

/* Those that a level needs. */
static const struct {
    uint32_t function;
    enum reg reg;
    unsigned bit;
    const char *name;
} flag_names[] = {
    {1, ECX, 0, "pni"},          {1, ECX, 9, "ssse3"},
    {1, ECX, 12, "fma"},         {1, ECX, 13, "cx16"},
    {1, ECX, 19, "sse4_1"},      {1, ECX, 20, "sse4_2"},
    {1, ECX, 22, "movbe"},       {1, ECX, 23, "popcnt"},
    {1, ECX, 26, "xsave"},       {1, ECX, 28, "avx"},
    {1, ECX, 29, "f16c"},        {1, EDX, 0, "fpu"},
    {1, EDX, 4, "tsc"},          {1, EDX, 8, "cx8"},
    {1, EDX, 11, "sep"},         {1, EDX, 15, "cmov"},
    {1, EDX, 24, "fxsr"},        {1, EDX, 25, "sse"},
    {1, EDX, 26, "sse2"},        {7, EBX, 3, "bmi1"},
    {7, EBX, 5, "avx2"},         {7, EBX, 8, "bmi2"},
    {0xd, EAX, 0, "x87-state"},  {0xd, EAX, 1, "sse-state"},
    {0xd, EAX, 2, "avx-state"},  {0x80000001, ECX, 0, "lahf_lm"},
    {0x80000001, ECX, 5, "abm"}, {0x80000001, EDX, 11, "syscall"},
    {0x80000001, EDX, 20, "nx"}, {0x80000001, EDX, 29, "lm"},
};

/* Leaves that no guest sees: counters, enclaves, tracing, AMX, SVM, SEV, and the topology of the
 * host (ours comes in kvm_cpuid_give). */
static const uint32_t hidden[] = {0xa,  0xb,  0x12,       0x14,       0x1b,       0x1c,      0x1d,
                                  0x1e, 0x1f, 0x8000000a, 0x8000001f, 0x80000022, 0x80000026};

static const uint32_t in_named[] = {0,
                                    1,
                                    2,
                                    4,
                                    6,
                                    7,
                                    0xd,
                                    KVM_SIGNATURE,
                                    KVM_FEATURES,
                                    EXTENDED,
                                    0x80000001,
                                    BRAND,
                                    BRAND + 1,
                                    BRAND + 2,
                                    0x80000005,
                                    0x80000006,
                                    0x80000007,
                                    0x80000008};

static bool listed(const uint32_t *list, size_t n, uint32_t function)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == function)
            return true;
    return false;
}

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum reg reg)
{
    switch (reg) {
    case EAX: return &e->eax;
    case EBX: return &e->ebx;
    case ECX: return &e->ecx;
    default: return &e->edx;
    }
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
    for (uint32_t i = 0; i < c->nent; i++)
        if (c->entries[i].function == function && c->entries[i].index == index)
            return &c->entries[i];
    return NULL;
}

static uint32_t bits_of(const struct kvm_cpuid2 *c, const struct feature *f)
{
    struct kvm_cpuid_entry2 *e = find((struct kvm_cpuid2 *)c, f->function, f->index);

    return e ? *reg_of(e, f->reg) : 0;
}

static void keep(struct kvm_cpuid2 *c, bool (*wanted)(uint32_t function))
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->nent; i++)
        if (wanted(c->entries[i].function))
            c->entries[n++] = c->entries[i];
    c->nent = n;
}

static bool not_hidden(uint32_t function)
{
    return !listed(hidden, sizeof(hidden) / sizeof(hidden[0]), function);
}

static bool is_in_named(uint32_t function)
{
    return listed(in_named, sizeof(in_named) / sizeof(in_named[0]), function);
}

/* ---- models ---- */

/* Of a register, what the model must have and the host has not. */
static uint32_t lacking(const struct kvm_cpuid2 *c, const struct feature *f,
                        enum engine_cpu_model model)
{
    uint32_t need = model == ENGINE_CPU_V3 ? f->need_v3 : model == ENGINE_CPU_V2 ? f->need_v2 : 0;

    return need & ~bits_of(c, f);
}

static int check_needs(const struct kvm_cpuid2 *c, enum engine_cpu_model model)
{
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
        if (lacking(c, &features[i], model))
            return -ENOTSUP;
    return 0;
}

static const char *name_of(const struct feature *f, unsigned bit)
{
    for (size_t i = 0; i < sizeof(flag_names) / sizeof(flag_names[0]); i++)
        if (flag_names[i].function == f->function && flag_names[i].reg == f->reg &&
            flag_names[i].bit == bit)
            return flag_names[i].name;
    return "?";
}

void kvm_cpuid_missing(const struct kvm_cpuid2 *supported, enum engine_cpu_model model, char *text,
                       size_t size)
{
    size_t at = 0;

    text[0] = '\0';
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        uint32_t bits = lacking(supported, &features[i], model);

        for (unsigned bit = 0; bit < 32 && at < size; bit++)
            if (bits >> bit & 1)
                at += (size_t)snprintf(text + at, size - at, "%s%s", at ? " " : "",
                                       name_of(&features[i], bit));
    }
}

static void mask_features(struct kvm_cpuid2 *c, enum engine_cpu_model model)
{
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        const struct feature *f = &features[i];
        struct kvm_cpuid_entry2 *e = find(c, f->function, f->index);
        if (e)
            *reg_of(e, f->reg) &= model == ENGINE_CPU_V3   ? f->v3
                                  : model == ENGINE_CPU_V2 ? f->v2
                                                           : f->host;
    }
}

/* The save area is as large as the components that are left need. */
static void fix_xsave(struct kvm_cpuid2 *c)
{
    struct kvm_cpuid_entry2 *area = find(c, 0xd, 0), *e;
    uint32_t end = 576, n = 0; /* legacy area and header */

    for (uint32_t i = 0; i < c->nent; i++) {
        e = &c->entries[i];
        if (e->function == 0xd && e->index >= 2) {
            if (!area || e->index > 31 || !(area->eax >> e->index & 1))
                continue; /* dropped */
            if (e->ebx + e->eax > end)
                end = e->ebx + e->eax;
        }
        if (area == e)
            area = &c->entries[n];
        c->entries[n++] = *e;
    }
    c->nent = n;
    if (area)
        area->ebx = area->ecx = end;
}

static void name_it(struct kvm_cpuid2 *c, enum engine_cpu_model model)
{
    char brand[48] = "vmmd virtual CPU, x86-64-v2";
    struct kvm_cpuid_entry2 *vendor = find(c, 0, 0), *e = find(c, 1, 0);
    bool amd = vendor && (vendor->ebx == AMD_EBX || vendor->ebx == HYGON_EBX);

    if (model == ENGINE_CPU_V3)
        brand[26] = '3';
    if (e) /* a first Zen; Haswell; Nehalem */
        e->eax = amd ? 0x00800f12 : model == ENGINE_CPU_V3 ? 0x000306c3 : 0x000106a5;
    for (unsigned i = 0; i < 3; i++) {
        e = find(c, BRAND + i, 0);
        if (!e)
            continue;
        memcpy(&e->eax, brand + 16 * i, 4);
        memcpy(&e->ebx, brand + 16 * i + 4, 4);
        memcpy(&e->ecx, brand + 16 * i + 8, 4);
        memcpy(&e->edx, brand + 16 * i + 12, 4);
    }
}

static void limit_leaves(struct kvm_cpuid2 *c)
{
    struct kvm_cpuid_entry2 *basic = find(c, 0, 0), *extended = find(c, EXTENDED, 0);

    if (basic && basic->eax > 0xd)
        basic->eax = 0xd;
    if (extended && extended->eax > 0x80000008)
        extended->eax = 0x80000008;
}

/* ---- ours ---- */

static void force(struct kvm_cpuid2 *c, int kvm_fd)
{
    struct kvm_cpuid_entry2 *e = find(c, 1, 0);

    if (!e)
        return;
    e->ecx |= HYPERVISOR;
    if (kvm_extension(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER))
        e->ecx |= TSC_DEADLINE;
}

static struct kvm_cpuid2 *new_table(void)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + KVM_MAX_CPUID * sizeof(struct kvm_cpuid_entry2));

    if (c)
        c->nent = KVM_MAX_CPUID;
    return c;
}

static void copy_table(struct kvm_cpuid2 *to, const struct kvm_cpuid2 *from)
{
    memcpy(to, from, sizeof(*from) + from->nent * sizeof(from->entries[0]));
}

int kvm_cpuid_filter(const struct kvm_cpuid2 *supported, enum engine_cpu_model model,
                     struct kvm_cpuid2 *ret)
{
    int r = check_needs(supported, model);

    if (r < 0)
        return r;
    copy_table(ret, supported);
    if (model != ENGINE_CPU_HOST) {
        keep(ret, is_in_named);
        mask_features(ret, model);
        limit_leaves(ret);
        name_it(ret, model);
    }
    fix_xsave(ret);
    return 0;
}

int kvm_cpuid_init(struct engine *e, int kvm_fd, enum engine_cpu_model model)
{
    int r;

    e->supported = new_table();
    e->cpuid = new_table();
    if (!e->supported || !e->cpuid)
        return -ENOMEM;
    r = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, e->supported);
    if (r < 0)
        return r;
    force(e->supported, kvm_fd);
    keep(e->supported, not_hidden);
    mask_features(e->supported, ENGINE_CPU_HOST);
    return kvm_cpuid_filter(e->supported, model, e->cpuid);
}

bool kvm_cpuid_possible(const struct engine *e, const struct kvm_cpuid2 *c)
{
    for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
        const struct feature *f = &features[i];
        uint32_t free_bits = 0;
        if (f->function == 1)
            free_bits = f->reg == ECX ? OSXSAVE : HTT;
        else if (f->function == 0x80000001 && f->reg == ECX)
            free_bits = CMP_LEGACY;
        if (bits_of(c, f) & ~bits_of(e->supported, f) & ~free_bits)
            return false;
    }
    return true;
}

/* ---- a vCPU's own ---- */

static unsigned bits_for(unsigned n)
{
    unsigned bits = 0;

    while (1u << bits < n)
        bits++;
    return bits;
}

/* One package of single-threaded cores. */
static void add_topology(struct kvm_cpuid2 *c, unsigned n, unsigned id)
{
    const struct kvm_cpuid_entry2 thread = {.function = 0xb,
                                            .index = 0,
                                            .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                            .ebx = 1,
                                            .ecx = 0x100,
                                            .edx = id};
    const struct kvm_cpuid_entry2 core = {.function = 0xb,
                                          .index = 1,
                                          .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                                          .eax = bits_for(n),
                                          .ebx = n,
                                          .ecx = 0x201,
                                          .edx = id};

    if (c->nent > KVM_MAX_CPUID - 2)
        return;
    c->entries[c->nent++] = thread;
    c->entries[c->nent++] = core;
}

static void set_number(struct kvm_cpuid_entry2 *e, unsigned n, unsigned id)
{
    switch (e->function) {
    case 1:
        e->ebx = (e->ebx & 0xffff) | n << 16 | id << 24;
        e->edx = n > 1 ? e->edx | HTT : e->edx & ~HTT;
        break;
    case 4: /* caches: one core each, or all of the package */
        if (e->eax & 0x1f)
            e->eax =
                (e->eax & 0x3fff) | (n - 1) << 26 | ((e->eax >> 5 & 7) >= 3 ? (n - 1) << 14 : 0);
        break;
    case 0x80000001: e->ecx = n > 1 ? e->ecx | CMP_LEGACY : e->ecx & ~CMP_LEGACY; break;
    case 0x80000008: e->ecx = bits_for(n) << 12 | (n - 1); break;
    case 0x8000001d:
        if (e->eax & 0x1f)
            e->eax = (e->eax & 0x3fff) | ((e->eax >> 5 & 7) >= 3 ? (n - 1) << 14 : 0);
        break;
    case 0x8000001e:
        e->eax = id;
        e->ebx = id;
        e->ecx = 0;
        break;
    }
}

int kvm_cpuid_give(struct vcpu *v)
{
    struct kvm_cpuid2 *c = new_table();
    const struct kvm_cpuid_entry2 *vendor;
    int r;

    if (!c)
        return -ENOMEM;
    copy_table(c, v->engine->cpuid);
    vendor = find(c, 0, 0);
    if (vendor && vendor->eax >= 0xb)
        add_topology(c, v->engine->n_vcpus, v->index);
    for (uint32_t i = 0; i < c->nent; i++)
        set_number(&c->entries[i], v->engine->n_vcpus, v->index);
    r = kvm_ioctl(v->fd, KVM_SET_CPUID2, c);
    free(c);
    return r;
}
