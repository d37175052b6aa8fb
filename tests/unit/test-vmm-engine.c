/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The software engine with a few instructions of guest code: its RAM is replaced under it by work
 * at the gate, and a kick that comes just before it waits in HLT is not lost.
 */
#include "vmmd/vmm/boot.h"
#include "vmmd/vmm/machine.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB      (1ull << 20)
#define RAM      (64 * MIB)
#define CODE     0x1000000u
#define COUNTER  0x1800000u /* and another one a page behind it */
#define PAGE     4096u
#define ROUNDS   300
#define PATIENCE 30 /* seconds until a hang is called one */

/* mov $COUNTER, %rax; 1: incq (%rax); incq 0x1000(%rax); jmp 1b */
static const uint8_t counting[] = {0x48, 0xc7, 0xc0, 0x00, 0x00, 0x80, 0x01, 0x48, 0xff, 0x00,
                                   0x48, 0xff, 0x80, 0x00, 0x10, 0x00, 0x00, 0xeb, 0xf4};
/* 1: sti; hlt; jmp 1b */
static const uint8_t halting[] = {0xfb, 0xf4, 0xeb, 0xfc};

static struct engine_entry load(struct memory *memory, const uint8_t *code, size_t bytes)
{
    const struct setup_header header = {
        .setup_sects = 1,
        .boot_flag = 0xaa55,
        .header = 0x53726448,
        .version = 0x20f,
        .loadflags = LOADED_HIGH,
        .xloadflags = XLF_KERNEL_64,
        .pref_address = CODE,
        .init_size = MIB,
        .syssize = 4096 / 16,
        .initrd_addr_max = 0x7fffffff,
    };
    struct boot_config c = {
        .kernel_fd = memfd_create("kernel", 0), .initrd_fd = -1, .cmdline = "", .tsc_khz = 1};
    struct engine_entry entry;
    char text[128] = "";

    assert_int_equal(ftruncate(c.kernel_fd, 1024 + 4096), 0);
    assert_int_equal(pwrite(c.kernel_fd, &header, sizeof(header), 0x1f1), sizeof(header));
    assert_int_equal(pwrite(c.kernel_fd, code, bytes, 1024 + 0x200), bytes);
    assert_int_equal(boot_linux(memory, &c, &entry, text, sizeof(text)), 0);
    close(c.kernel_fd);
    return entry;
}

static const struct engine_ops *engine_or_skip(void)
{
    const struct engine_ops *ops = engine_soft();

    if (!ops) {
        print_message("this build has no software engine\n");
        skip();
    }
    return ops;
}

static void join(pthread_t thread)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += PATIENCE;
    assert_int_equal(pthread_timedjoin_np(thread, NULL, &end), 0);
}

/* ---- work under a running guest ---- */

static void replace_page(struct memory *memory, uint64_t gpa)
{
    uint8_t *old = memory_at(memory, gpa, PAGE);
    uint8_t *copy = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(copy != MAP_FAILED);
    memcpy(copy, old, PAGE);
    assert_true(mremap(copy, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, old) == old);
}

struct watcher {
    struct machine m;
    uint64_t count, works;
};

static uint64_t count_at(const struct watcher *w, uint64_t gpa)
{
    return *(volatile uint64_t *)memory_at(&w->m.memory, gpa, 8);
}

static void replace(void *opaque)
{
    struct watcher *w = opaque;
    uint64_t count = count_at(w, COUNTER);

    assert_int_equal(count_at(w, COUNTER + PAGE), count); /* it stands between two turns */
    assert_true(count >= w->count);
    w->count = count;
    replace_page(&w->m.memory, COUNTER);
    replace_page(&w->m.memory, COUNTER + PAGE);
    replace_page(&w->m.memory, CODE);
    assert_int_equal(count_at(w, COUNTER), count);
    w->works++;
}

static void wait_beyond(const struct watcher *w, uint64_t count)
{
    time_t end = time(NULL) + PATIENCE;

    while (count_at(w, COUNTER) <= count) {
        assert_true(time(NULL) < end);
        sched_yield();
    }
}

/* It counts on after each replacement, and not one turn is lost. */
static void test_ram_is_replaced(void **state)
{
    struct machine_config config = {
        .memory_bytes = RAM, .vcpus = 1, .ops = engine_or_skip(), .kvm_fd = -1};
    static struct watcher w;
    struct engine_entry entry;
    char text[128] = "";

    (void)state;
    assert_int_equal(machine_init(&w.m, &config, text, sizeof(text)), 0);
    entry = load(&w.m.memory, counting, sizeof(counting));
    assert_int_equal(w.m.ops->vcpu_enter_at(w.m.vcpus[0].vcpu, &entry), 0);
    assert_int_equal(machine_start(&w.m), 0);
    for (int i = 0; i < ROUNDS; i++) {
        assert_int_equal(machine_frozen(&w.m, replace, &w), 0);
        if (i % 50 == 0) { /* paused, the work is done all the same */
            machine_pause(&w.m);
            assert_int_equal(machine_frozen(&w.m, replace, &w), 0);
            machine_resume(&w.m);
        }
        wait_beyond(&w, w.count);
    }
    assert_int_equal(w.works, ROUNDS + ROUNDS / 50);
    assert_true(w.m.gate.times.by_kicked > 0);
    machine_destroy(&w.m);
}

/* ---- a kick in the moment of halting ---- */

struct halter {
    const struct engine_ops *ops;
    struct engine *engine;
    struct vcpu *vcpu;
    unsigned halts, resumes;
    enum engine_exit exit;
};

static bool always(void *opaque, unsigned vcpu)
{
    (void)opaque, (void)vcpu;
    return true;
}

/* It is about to wait: what comes now must still be seen. */
static void on_halt(void *opaque, unsigned vcpu)
{
    struct halter *h = opaque;

    (void)vcpu;
    if (h->halts++ == 0)
        h->ops->vcpu_kick(h->vcpu);
}

static bool on_resume(void *opaque, unsigned vcpu)
{
    (void)vcpu;
    return ((struct halter *)opaque)->resumes++ == 0; /* the second time: end */
}

static void *run(void *opaque)
{
    struct halter *h = opaque;

    h->exit = h->ops->vcpu_run(h->vcpu);
    return NULL;
}

static void test_kick_before_waiting(void **state)
{
    struct halter h = {.ops = engine_or_skip()};
    struct engine_config config = {
        .host = {.opaque = &h, .poll = always, .halt = on_halt, .resume = on_resume},
        .vcpus = 1,
        .kvm_fd = -1,
    };
    struct engine_entry entry;
    struct memory memory;
    pthread_t thread;

    (void)state;
    assert_int_equal(memory_init(&memory, RAM), 0);
    entry = load(&memory, halting, sizeof(halting));
    assert_int_equal(h.ops->create(&config, &h.engine), 0);
    assert_int_equal(h.ops->map_ram(h.engine, 0, RAM, memory.base), 0);
    assert_int_equal(h.ops->vcpu_create(h.engine, 0, &h.vcpu), 0);
    assert_int_equal(h.ops->vcpu_enter_at(h.vcpu, &entry), 0);
    assert_int_equal(pthread_create(&thread, NULL, run, &h), 0);
    join(thread);
    assert_int_equal(h.exit, ENGINE_EXIT_STOPPED);
    assert_int_equal(h.resumes, 2);
    h.ops->destroy(h.engine);
    memory_free(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ram_is_replaced),
        cmocka_unit_test(test_kick_before_waiting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
