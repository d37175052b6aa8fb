/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CPU models on what this host's KVM really supports: each is refused with the names of what is
 * missing, or has all of its level, and nothing that the host, the next larger model or (for what
 * is known to be beyond a level) the level has not. What a level has is written down here again, by
 * the x86-64 psABI, and not taken from the engine. Without /dev/kvm: skipped.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define FORCED \
    (1u << 31 | 1u << 24 | 1u << 21) /* 1 ECX: hypervisor, deadline, x2APIC are KVM's own */

enum { A, B, C, D };

struct flag {
    uint32_t function;
    unsigned reg, bit;
    const char *name;
};

static const struct flag level2[] = {
    {1, C, 0, "pni"},
    {1, C, 9, "ssse3"},
    {1, C, 13, "cx16"},
    {1, C, 19, "sse4_1"},
    {1, C, 20, "sse4_2"},
    {1, C, 23, "popcnt"},
    {1, D, 0, "fpu"},
    {1, D, 8, "cx8"},
    {1, D, 15, "cmov"},
    {1, D, 24, "fxsr"},
    {1, D, 25, "sse"},
    {1, D, 26, "sse2"},
    {0x80000001, C, 0, "lahf_lm"},
    {0x80000001, D, 11, "syscall"},
    {0x80000001, D, 29, "lm"},
    {0},
};

static const struct flag level3[] = {
    {1, C, 12, "fma"},         {1, C, 22, "movbe"},
    {1, C, 26, "xsave"},       {1, C, 28, "avx"},
    {1, C, 29, "f16c"},        {7, B, 3, "bmi1"},
    {7, B, 5, "avx2"},         {7, B, 8, "bmi2"},
    {0x80000001, C, 5, "abm"}, {0},
};

/* Beyond both, though nearly every host has them. */
static const struct flag beyond[] = {
    {1, C, 1, "pclmulqdq"},
    {1, C, 5, "vmx"},
    {1, C, 25, "aes"},
    {1, C, 30, "rdrand"},
    {7, B, 0, "fsgsbase"},
    {7, B, 16, "avx512f"},
    {7, B, 18, "rdseed"},
    {7, B, 29, "sha"},
    {7, C, 3, "pku"},
    {7, C, 10, "vpclmul"},
    {0x80000001, C, 2, "svm"},
    {0x80000001, C, 6, "sse4a"},
    {0x80000007, D, 8, "constant_tsc"},
    {0},
};

/* Registers that hold one feature a bit. */
static const struct flag registers[] = {
    {1, C, 0, ""},
    {1, D, 0, ""},
    {7, B, 0, ""},
    {7, C, 0, ""},
    {7, D, 0, ""},
    {0xd, A, 0, ""},
    {0x80000001, C, 0, ""},
    {0x80000001, D, 0, ""},
    {0x80000008, B, 0, ""},
    {0x40000001, A, 0, ""},
    {0},
};

static uint32_t reg_of(const struct kvm_cpuid2 *c, uint32_t function, unsigned reg)
{
    for (uint32_t i = 0; i < c->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &c->entries[i];
        const uint32_t values[] = {e->eax, e->ebx, e->ecx, e->edx};

        if (e->function == function && e->index == 0)
            return values[reg];
    }
    return 0;
}

static bool has(const struct kvm_cpuid2 *c, const struct flag *f)
{
    return reg_of(c, f->function, f->reg) >> f->bit & 1;
}

static struct kvm_cpuid2 *new_table(void)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + KVM_MAX_CPUID * sizeof(c->entries[0]));

    assert_non_null(c);
    c->nent = KVM_MAX_CPUID;
    return c;
}

/* As the kernel tells it. */
static struct kvm_cpuid2 *host_table(int kvm)
{
    struct kvm_cpuid2 *c = new_table();

    assert_int_equal(kvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, c), 0);
    return c;
}

static bool names(const char *text, const char *name)
{
    size_t n = strlen(name);

    for (const char *at = text; (at = strstr(at, name)); at++)
        if ((at == text || at[-1] == ' ') && (at[n] == '\0' || at[n] == ' '))
            return true;
    return false;
}

static void expect_missing(const struct kvm_cpuid2 *host, const struct flag *level,
                           const char *text)
{
    for (; level->name; level++)
        if (has(host, level) == names(text, level->name))
            fail_msg("%s %s, but \"%s\" is said to be missing", level->name,
                     has(host, level) ? "is there" : "is not there", text);
}

static unsigned count_missing(const struct kvm_cpuid2 *host, const struct flag *level)
{
    unsigned n = 0;

    for (; level->name; level++)
        n += !has(host, level);
    return n;
}

static void expect_all(const struct kvm_cpuid2 *c, const struct flag *level, bool there)
{
    for (; level->name; level++)
        if (has(c, level) != there)
            fail_msg("%s is %s", level->name, there ? "not there" : "there");
}

static void expect_subset(const struct kvm_cpuid2 *c, const struct kvm_cpuid2 *of, const char *what)
{
    for (const struct flag *r = registers; r->name; r++) {
        uint32_t more = reg_of(c, r->function, r->reg) & ~reg_of(of, r->function, r->reg);

        if (r->function == 1 && r->reg == C)
            more &= ~FORCED;
        if (more)
            fail_msg("leaf %x has %08x that %s has not", r->function, more, what);
    }
    for (uint32_t i = 0; i < c->nent; i++) {
        bool found = false;

        for (uint32_t k = 0; k < of->nent && !found; k++)
            found = of->entries[k].function == c->entries[i].function &&
                    of->entries[k].index == c->entries[i].index;
        if (!found)
            fail_msg("leaf %x.%x is not one that %s has", c->entries[i].function,
                     c->entries[i].index, what);
    }
}

/* The engine's table for this model; NULL: refused, and the names are right. */
static struct kvm_cpuid2 *model_table(int kvm, const struct kvm_cpuid2 *host,
                                      enum engine_cpu_model model)
{
    struct engine e = {0};
    char text[256];
    unsigned missing = count_missing(host, level2);
    int r = kvm_cpuid_init(&e, kvm, model);

    if (model == ENGINE_CPU_V3)
        missing += count_missing(host, level3);
    kvm_cpuid_missing(e.supported, model, text, sizeof(text));
    print_message("x86-64-v%d: %s%s\n", model == ENGINE_CPU_V3 ? 3 : 2,
                  r < 0 ? "refused, missing: " : "possible", text);
    expect_missing(host, level2, text);
    if (model == ENGINE_CPU_V3)
        expect_missing(host, level3, text);
    assert_null(strchr(text, '?'));
    free(e.supported);
    if (r == 0) {
        assert_int_equal(missing, 0);
        assert_string_equal(text, "");
        return e.cpuid;
    }
    assert_int_equal(r, -ENOTSUP);
    assert_true(text[0] != '\0');
    free(e.cpuid);
    return NULL;
}

static int open_kvm(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    assert_true(kvm >= 0);
    return kvm;
}

static void test_models(void **state)
{
    int kvm = open_kvm();
    struct kvm_cpuid2 *host = host_table(kvm), *v2, *v3;

    (void)state;
    v2 = model_table(kvm, host, ENGINE_CPU_V2);
    v3 = model_table(kvm, host, ENGINE_CPU_V3);
    if (v2) {
        expect_all(v2, level2, true);
        expect_all(v2, level3, false);
        expect_all(v2, beyond, false);
        expect_subset(v2, host, "the host");
    }
    if (v3) {
        expect_all(v3, level2, true);
        expect_all(v3, level3, true);
        expect_all(v3, beyond, false);
        expect_subset(v3, host, "the host");
        assert_non_null(v2); /* a host of the higher level is one of the lower */
        expect_subset(v2, v3, "the larger model");
    }
    free(v2);
    free(v3);
    free(host);
    close(kvm);
}

static void add_flag(struct kvm_cpuid2 *c, const struct flag *f)
{
    uint32_t i = 0;

    while (i < c->nent && (c->entries[i].function != f->function || c->entries[i].index != 0))
        i++;
    if (i == c->nent) {
        assert_true(c->nent < KVM_MAX_CPUID);
        c->entries[c->nent++] = (struct kvm_cpuid_entry2){.function = f->function};
    }
    *(uint32_t *[]){&c->entries[i].eax, &c->entries[i].ebx, &c->entries[i].ecx,
                    &c->entries[i].edx}[f->reg] |= 1u << f->bit;
}

/* This host's table, with all added that its processor may lack: so models are possible on it. */
static void test_richer_host(void **state)
{
    static const struct flag rest[] = {{1, D, 4, "tsc"},
                                       {1, D, 11, "sep"},
                                       {0xd, A, 0, "x87"},
                                       {0xd, A, 1, "sse"},
                                       {0xd, A, 2, "avx"},
                                       {0x80000001, D, 20, "nx"},
                                       {0}};
    const struct flag *lists[] = {level2, level3, beyond, rest};
    int kvm = open_kvm();
    struct kvm_cpuid2 *host = host_table(kvm), *v2 = new_table(), *v3 = new_table();

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        for (const struct flag *f = lists[i]; f->name; f++)
            add_flag(host, f);
    assert_int_equal(kvm_cpuid_filter(host, ENGINE_CPU_V2, v2), 0);
    assert_int_equal(kvm_cpuid_filter(host, ENGINE_CPU_V3, v3), 0);
    expect_all(v2, level2, true);
    expect_all(v2, level3, false);
    expect_all(v2, beyond, false);
    expect_all(v3, level2, true);
    expect_all(v3, level3, true);
    expect_all(v3, beyond, false);
    expect_subset(v3, host, "the host");
    expect_subset(v2, v3, "the larger model");
    free(v2);
    free(v3);
    free(host);
    close(kvm);
}

/* A vCPU of each model that is possible can be made; one that is not is refused by name. */
static void test_engine(void **state)
{
    static const enum engine_cpu_model models[] = {ENGINE_CPU_HOST, ENGINE_CPU_V2, ENGINE_CPU_V3};
    char text[256];

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct engine_config config = {.vcpus = 2,
                                       .kvm_fd = open_kvm(),
                                       .cpu_model = models[i],
                                       .error = text,
                                       .error_bytes = sizeof(text)};
        struct engine *e = NULL;
        struct vcpu *v;
        int r;

        text[0] = '\0';
        r = engine_kvm()->create(&config, &e);
        close(config.kvm_fd);
        if (r == -ENOTSUP && models[i] != ENGINE_CPU_HOST) {
            print_message("%s\n", text);
            assert_non_null(
                strstr(text, "this host lacks features of the CPU model that vmmd.conf"));
            assert_true(text[strlen(text) - 1] != ' ');
            continue;
        }
        assert_int_equal(r, 0);
        assert_string_equal(text, "");
        assert_int_equal(engine_kvm()->vcpu_create(e, 0, &v), 0);
        assert_int_equal(engine_kvm()->vcpu_create(e, 1, &v), 0);
        engine_kvm()->destroy(e);
    }
}

/* This host with one feature less each time: refused by just that name. */
static void test_one_missing(void **state)
{
    int kvm = open_kvm();
    struct kvm_cpuid2 *host = host_table(kvm), *made = new_table();
    const struct flag *levels[] = {level2, level3};
    char before[256], text[256];

    (void)state;
    kvm_cpuid_missing(host, ENGINE_CPU_V3, before, sizeof(before));
    for (unsigned i = 0; i < 2; i++) {
        for (const struct flag *f = levels[i]; f->name; f++) {
            struct kvm_cpuid2 *poor = host_table(kvm);

            for (uint32_t k = 0; k < poor->nent; k++) {
                struct kvm_cpuid_entry2 *e = &poor->entries[k];
                uint32_t *regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

                if (e->function == f->function && e->index == 0)
                    *regs[f->reg] &= ~(1u << f->bit);
            }
            assert_int_equal(kvm_cpuid_filter(poor, ENGINE_CPU_V3, made), -ENOTSUP);
            kvm_cpuid_missing(poor, ENGINE_CPU_V3, text, sizeof(text));
            assert_true(names(text, f->name));
            if (has(host, f))
                assert_int_equal(strlen(text), strlen(before) + strlen(f->name) + !!before[0]);
            kvm_cpuid_missing(poor, ENGINE_CPU_V2, text, sizeof(text));
            assert_int_equal(names(text, f->name), i == 0);
            free(poor);
        }
    }
    free(made);
    free(host);
    close(kvm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_richer_host),
        cmocka_unit_test(test_engine),
        cmocka_unit_test(test_one_missing),
    };
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        printf("CPU models are NOT tested on a real host here: /dev/kvm: %s\n", strerror(errno));
        return 77;
    }
    close(fd);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
