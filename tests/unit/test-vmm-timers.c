/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Timers that count, over a pause, on a real /dev/kvm: the PIT and a local APIC timer that is not
 * in deadline mode stand still while the guest is paused, fire when the rest of their count has
 * passed and not before, and what has fired does not fire again. No guest code runs: timers are set
 * and looked at as state. Each test pauses for longer than the timer's whole count. Without
 * /dev/kvm: skipped.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define RAM        (32ull << 20)
#define MS         1000000ull
#define PIT_HZ     1193182ull
#define PIT_COUNT  65536u /* 55 ms */
#define PIT_NS     (PIT_COUNT * 1000000000ull / PIT_HZ)
#define APIC_COUNT (60u * 1000000u) /* of 1 ns: 60 ms */
#define APIC_LVT   0x320u
#define APIC_TMICT 0x380u
#define APIC_TMCCT 0x390u
#define APIC_DIV   0x3e0u
#define PERIODIC   (1u << 17)
#define ATTEMPTS   20 /* of what a busy host may come too late for */
#define PATIENCE   30 /* seconds until a hang is called one */

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void let_pass(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
        continue;
}

static void create(struct machine *m)
{
    struct machine_config config = {.memory_bytes = RAM,
                                    .vcpus = 1,
                                    .ops = engine_kvm(),
                                    .kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC)};
    char text[128] = "";

    assert_true(config.kvm_fd >= 0);
    assert_int_equal(machine_init(m, &config, text, sizeof(text)), 0);
    close(config.kvm_fd);
}

/* ---- the PIT ---- */

static void set_pit(struct machine *m, uint8_t mode, uint32_t count)
{
    struct kvm_pit_state2 pit;

    assert_int_equal(kvm_ioctl(m->engine->vm_fd, KVM_GET_PIT2, &pit), 0);
    pit.channels[0].mode = mode;
    pit.channels[0].count = count;
    assert_int_equal(kvm_ioctl(m->engine->vm_fd, KVM_SET_PIT2, &pit), 0);
}

/* Whether channel 0 has fired; and forgets it. Until it is forgotten it does not fire again. */
static bool pit_fired(struct machine *m)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};

    assert_int_equal(kvm_ioctl(m->engine->vm_fd, KVM_GET_IRQCHIP, &chip), 0);
    if (!(chip.chip.pic.irr & 1))
        return false;
    chip.chip.pic.irr = 0;
    chip.chip.pic.last_irr = 0;
    assert_int_equal(kvm_ioctl(m->engine->vm_fd, KVM_SET_IRQCHIP, &chip), 0);
    return true;
}

static void wait_for_pit(struct machine *m)
{
    time_t until = time(NULL) + PATIENCE;

    while (!pit_fired(m)) {
        assert_true(time(NULL) < until);
        sched_yield();
    }
}

/* Set, paused for longer than it counts, resumed; false: this host was too slow to tell. */
static bool pit_waits(struct machine *m, uint8_t mode)
{
    uint64_t resumed;
    bool early;

    pit_fired(m);
    set_pit(m, mode, PIT_COUNT);
    machine_pause(m);
    if (pit_fired(m)) {
        machine_resume(m);
        return false;
    }
    let_pass(2 * PIT_NS);
    assert_false(pit_fired(m));
    resumed = now_ns();
    machine_resume(m);
    early = pit_fired(m);
    if (now_ns() - resumed > PIT_NS / 4)
        return false;
    assert_false(early);
    wait_for_pit(m);
    return true;
}

static void test_pit(void **state)
{
    static const uint8_t modes[] = {2, 3};
    static struct machine m;

    (void)state;
    create(&m);
    for (unsigned i = 0; i < sizeof(modes); i++) {
        int attempt = 0;

        while (!pit_waits(&m, modes[i]))
            assert_true(++attempt < ATTEMPTS);
    }
    machine_destroy(&m);
}

/* Channel 2, which a guest waits for by looking: the rest of a single count, not all of it. */
static void test_pit_goes_on(void **state)
{
    static struct machine m;
    struct kvm_pit_state2 pit;
    uint64_t began, used, passed = 10 * MS * PIT_HZ / 1000000000u;

    (void)state;
    create(&m);
    assert_int_equal(kvm_ioctl(m.engine->vm_fd, KVM_GET_PIT2, &pit), 0);
    pit.channels[2].mode = 0;
    pit.channels[2].count = PIT_COUNT;
    began = now_ns();
    assert_int_equal(kvm_ioctl(m.engine->vm_fd, KVM_SET_PIT2, &pit), 0);
    let_pass(10 * MS);
    machine_pause(&m);
    used = (now_ns() - began) * PIT_HZ / 1000000000u; /* at most */
    let_pass(2 * PIT_NS);
    machine_resume(&m);
    assert_int_equal(kvm_ioctl(m.engine->vm_fd, KVM_GET_PIT2, &pit), 0);
    assert_true(pit.channels[2].count <= PIT_COUNT - passed);
    assert_true(pit.channels[2].count >= (used + 1 < PIT_COUNT ? PIT_COUNT - used - 1 : 1));
    machine_destroy(&m);
}

/* A single count of channel 0 that is over is not begun again. */
static void test_pit_fires_once(void **state)
{
    static struct machine m;

    (void)state;
    create(&m);
    set_pit(&m, 0, 100);
    wait_for_pit(&m);
    machine_pause(&m);
    machine_resume(&m);
    let_pass(20 * MS); /* of a count of 0.1 ms */
    assert_false(pit_fired(&m));
    machine_destroy(&m);
}

/* A periodic one has ticked and goes on ticking: once for each period after the pause, not for
 * those within it. */
static void test_pit_ticks_on(void **state)
{
    static struct machine m;

    (void)state;
    create(&m);
    set_pit(&m, 2, 1193); /* 1 ms */
    wait_for_pit(&m);
    machine_pause(&m);
    pit_fired(&m);
    let_pass(20 * MS);
    assert_false(pit_fired(&m));
    machine_resume(&m);
    wait_for_pit(&m);
    machine_destroy(&m);
}

/* ---- the timer of a local APIC ---- */

static uint32_t reg(const struct kvm_lapic_state *lapic, unsigned at)
{
    uint32_t value;

    memcpy(&value, lapic->regs + at, sizeof(value));
    return value;
}

static void put(struct kvm_lapic_state *lapic, unsigned at, uint32_t value)
{
    memcpy(lapic->regs + at, &value, sizeof(value));
}

static void get_lapic(struct machine *m, struct kvm_lapic_state *ret)
{
    assert_int_equal(kvm_ioctl(m->vcpus[0].vcpu->fd, KVM_GET_LAPIC, ret), 0);
}

static void set_lapic(struct machine *m, uint32_t mode)
{
    struct kvm_lapic_state lapic;

    get_lapic(m, &lapic);
    put(&lapic, 0xf0, 0x1ff); /* on */
    put(&lapic, APIC_LVT, 0x50 | mode);
    put(&lapic, APIC_DIV, 0xb); /* by 1 */
    put(&lapic, APIC_TMICT, APIC_COUNT);
    put(&lapic, APIC_TMCCT, APIC_COUNT);
    assert_int_equal(kvm_ioctl(m->vcpus[0].vcpu->fd, KVM_SET_LAPIC, &lapic), 0);
}

static uint32_t lapic_count(struct machine *m)
{
    struct kvm_lapic_state lapic;

    get_lapic(m, &lapic);
    return reg(&lapic, APIC_TMCCT);
}

/* Its count after a pause is what it was before, less what has passed since. */
static void expect_lapic_stands(uint32_t mode)
{
    static struct machine m;
    uint64_t set, resumed, before, after;

    create(&m);
    for (int attempt = 0;; attempt++) {
        assert_true(attempt < ATTEMPTS);
        set = now_ns();
        set_lapic(&m, mode);
        machine_pause(&m);
        before = now_ns() - set; /* ran for that long at most */
        let_pass(2 * APIC_COUNT + APIC_COUNT / 2);
        resumed = now_ns();
        machine_resume(&m);
        after = lapic_count(&m);
        if (before + (now_ns() - resumed) < APIC_COUNT / 2)
            break;
    }
    if (after < APIC_COUNT / 2 || after > APIC_COUNT)
        fail_msg("%llu are left of %u", (unsigned long long)after, APIC_COUNT);
    machine_destroy(&m);
}

static void test_lapic(void **state)
{
    (void)state;
    expect_lapic_stands(0);
    expect_lapic_stands(PERIODIC);
}

/* What has fired already, or was never started, is not started by a pause. */
static void test_lapic_idle(void **state)
{
    static struct machine m;

    (void)state;
    create(&m);
    machine_pause(&m);
    machine_resume(&m);
    assert_int_equal(lapic_count(&m), 0);
    set_lapic(&m, 0);
    let_pass(2 * APIC_COUNT);
    assert_int_equal(lapic_count(&m), 0);
    machine_pause(&m);
    machine_resume(&m);
    assert_int_equal(lapic_count(&m), 0);
    machine_destroy(&m);
}

/* ---- saved in a pause ---- */

static void test_saved(void **state)
{
    static struct machine m, n;
    struct kvm_pit_state2 pit;
    struct state s;
    uint64_t resumed, left;

    (void)state;
    create(&m);
    create(&n);
    for (int attempt = 0;; attempt++) {
        assert_true(attempt < ATTEMPTS);
        pit_fired(&n);
        set_pit(&m, 2, PIT_COUNT);
        set_lapic(&m, 0);
        machine_pause(&m);
        let_pass(2 * APIC_COUNT);
        state_init(&s);
        assert_int_equal(machine_save(&m, &s), 0);
        machine_pause(&n);
        assert_int_equal(machine_load(&n, &s), 0);
        pit_fired(&n);            /* m's may have fired before its pause */
        let_pass(2 * APIC_COUNT); /* the loaded ones stand, too */
        assert_false(pit_fired(&n));
        resumed = now_ns();
        machine_resume(&n);
        left = lapic_count(&n);
        assert_int_equal(kvm_ioctl(n.engine->vm_fd, KVM_GET_PIT2, &pit), 0);
        machine_resume(&m);
        state_free(&s);
        if (now_ns() - resumed < APIC_COUNT / 2 && left > 0)
            break;
    }
    assert_in_range(left, 1, APIC_COUNT);
    assert_int_equal(pit.channels[0].mode, 2);
    assert_int_equal(pit.channels[0].count, PIT_COUNT);
    wait_for_pit(&n);
    machine_destroy(&m);
    machine_destroy(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pit),
        cmocka_unit_test(test_pit_goes_on),
        cmocka_unit_test(test_pit_fires_once),
        cmocka_unit_test(test_pit_ticks_on),
        cmocka_unit_test(test_lapic),
        cmocka_unit_test(test_lapic_idle),
        cmocka_unit_test(test_saved),
    };
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        printf("timers of the KVM engine are NOT tested here: /dev/kvm: %s\n", strerror(errno));
        return 77;
    }
    close(fd);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
