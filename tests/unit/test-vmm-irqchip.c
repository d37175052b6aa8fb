/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The software engine's interrupt controllers and timers, without an engine: priorities, edge and
 * level, EOI, the three timers, and junk in every register.
 */
#include "vmmd/vmm/engine-soft/irqchip.h"
#include "vmmd/vmm/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define LAPIC   0xfee00000ull
#define IOAPIC  0xfec00000ull
#define TSC_KHZ 1000000u /* one tick is a ns */

static void lapic(struct irqchip *c, uint32_t reg, uint32_t value)
{
    assert_true(irqchip_mmio_write(c, LAPIC + reg, 0, value));
}

static void ioapic(struct irqchip *c, uint32_t reg, uint32_t value)
{
    irqchip_mmio_write(c, IOAPIC, 0, reg);
    irqchip_mmio_write(c, IOAPIC + 0x10, 0, value);
}

static void test_pic(void **state)
{
    struct irqchip c;
    const uint8_t init[][2] = {{0x11, 0x20}, {0x20, 0x21}, {4, 0x21}, {1, 0x21},
                               {0x11, 0xa0}, {0x28, 0xa1}, {2, 0xa1}, {1, 0xa1}};

    (void)state;
    irqchip_reset(&c, TSC_KHZ);
    for (unsigned i = 0; i < 8; i++)
        irqchip_pio_write(&c, init[i][1], 0, init[i][0]);
    assert_false(irqchip_pending(&c));
    irqchip_line(&c, 12, true); /* through the cascade */
    irqchip_line(&c, 4, true);
    assert_int_equal(irqchip_acknowledge(&c), 0x2c); /* cascade is line 2: before 4 */
    irqchip_line(&c, 1, true);
    assert_int_equal(irqchip_acknowledge(&c), 0x21); /* more urgent: nests */
    irqchip_pio_write(&c, 0x20, 0, 0x20);            /* EOI 1 */
    assert_false(irqchip_pending(&c));               /* 4 waits for the cascade's EOI */
    irqchip_pio_write(&c, 0xa0, 0, 0x20);
    irqchip_pio_write(&c, 0x20, 0, 0x20);
    assert_int_equal(irqchip_acknowledge(&c), 0x24);
    irqchip_pio_write(&c, 0x20, 0, 0x20);
    irqchip_line(&c, 4, true); /* still high: no new edge */
    assert_false(irqchip_pending(&c));
}

static void test_msi_priorities(void **state)
{
    struct irqchip c;

    (void)state;
    irqchip_reset(&c, TSC_KHZ);
    irqchip_msi(&c, 0xfee00000, 0x41);
    irqchip_msi(&c, 0xfee00000, 0x51);
    assert_int_equal(irqchip_acknowledge(&c), 0x51);
    assert_int_equal(irqchip_acknowledge(&c), -1); /* 0x41 is below what is in service */
    lapic(&c, 0xb0, 0);
    irqchip_set_tpr(&c, 0x40);
    assert_false(irqchip_pending(&c)); /* class 4 is not above TPR 4 */
    irqchip_set_tpr(&c, 0x30);
    assert_int_equal(irqchip_acknowledge(&c), 0x41);
    irqchip_msi(&c, 0xfee00000, 0x0f); /* vectors below 16 are illegal */
    lapic(&c, 0xb0, 0);
    assert_false(irqchip_pending(&c));
    irqchip_msi(&c, 0x12345678, 0x61); /* not an MSI address */
    assert_false(irqchip_pending(&c));
}

static void test_ioapic_level(void **state)
{
    struct irqchip c;

    (void)state;
    irqchip_reset(&c, TSC_KHZ);
    ioapic(&c, 0x10 + 2 * 17, 0x8000 | 0x71); /* GSI 17: level, vector 0x71, open */
    irqchip_line(&c, 17, true);
    assert_int_equal(irqchip_acknowledge(&c), 0x71);
    lapic(&c, 0xb0, 0); /* EOI with the line up: again */
    assert_int_equal(irqchip_acknowledge(&c), 0x71);
    irqchip_line(&c, 17, false);
    lapic(&c, 0xb0, 0);
    assert_false(irqchip_pending(&c));
    irqchip_line(&c, 99, true); /* no such GSI */
    assert_false(irqchip_pending(&c));
}

static void test_timers(void **state)
{
    struct irqchip c;

    (void)state;
    irqchip_reset(&c, TSC_KHZ);
    lapic(&c, 0x320, 0x40000 | 0x81); /* TSC deadline, vector 0x81 */
    assert_true(irqchip_msr_write(&c, 0x6e0, 5000));
    assert_int_equal(irqchip_deadline(&c, 100, 1000), 100 + 4000);
    irqchip_run_timers(&c, 200, 4999);
    assert_false(irqchip_pending(&c));
    irqchip_run_timers(&c, 200, 5000);
    assert_int_equal(irqchip_acknowledge(&c), 0x81);
    assert_int_equal(irqchip_deadline(&c, 200, 5000), UINT64_MAX);
    lapic(&c, 0xb0, 0);

    lapic(&c, 0x320, 0x20000 | 0x82); /* periodic */
    lapic(&c, 0x3e0, 0xb);            /* divide by 1 */
    assert_true(irqchip_mmio_write(&c, LAPIC + 0x380, 1000, 500));
    irqchip_run_timers(&c, 1500, 0);
    assert_int_equal(irqchip_acknowledge(&c), 0x82);
    lapic(&c, 0xb0, 0);
    assert_int_equal(irqchip_deadline(&c, 1500, 0), 2000);
    irqchip_run_timers(&c, 1000000, 0); /* far behind: one interrupt, not two thousand */
    assert_int_equal(irqchip_acknowledge(&c), 0x82);
    assert_true(irqchip_deadline(&c, 1000000, 0) > 1000000);
}

static void test_pit_channel_2(void **state)
{
    struct irqchip c;
    uint8_t v;

    (void)state;
    irqchip_reset(&c, TSC_KHZ);
    irqchip_pio_write(&c, 0x61, 0, 1);
    irqchip_pio_write(&c, 0x43, 0, 0xb0); /* channel 2, low and high, mode 0 */
    irqchip_pio_write(&c, 0x42, 0, 0xe8);
    irqchip_pio_write(&c, 0x42, 0, 0x03); /* 1000 ticks: 838 us */
    assert_true(irqchip_pio_read(&c, 0x61, 800000, &v));
    assert_false(v & 0x20);
    assert_true(irqchip_pio_read(&c, 0x61, 900000, &v));
    assert_true(v & 0x20);
}

/* Any value in any register: no crash, no endless timer. */
static void test_junk(void **state)
{
    struct irqchip c;
    uint64_t now = 0;

    (void)state;
    srandom(7);
    irqchip_reset(&c, TSC_KHZ);
    for (unsigned i = 0; i < 200000; i++) {
        static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1,
                                         0x40, 0x41, 0x42, 0x43, 0x61};
        uint8_t byte;
        uint32_t word;
        now += (uint64_t)random() % 100000;
        irqchip_pio_write(&c, ports[random() % 11], now, (uint8_t)random());
        irqchip_pio_read(&c, ports[random() % 11], now, &byte);
        irqchip_mmio_write(&c, LAPIC + (uint64_t)random() % 4096, now, (uint32_t)random());
        irqchip_mmio_read(&c, LAPIC + (uint64_t)random() % 4096, now, &word);
        irqchip_mmio_write(&c, IOAPIC + (random() & 1 ? 0x10 : 0), now, (uint32_t)random());
        irqchip_msr_write(&c, 0x6e0, (uint64_t)random() << 20);
        irqchip_line(&c, (unsigned)random() % 30, random() & 1);
        irqchip_run_timers(&c, now, now);
        int vector = irqchip_acknowledge(&c);
        assert_true(vector >= -1 && vector < 256);
    }
}

static void test_save_and_load(void **state)
{
    struct irqchip a, b;
    struct state s;

    (void)state;
    irqchip_reset(&a, TSC_KHZ);
    irqchip_reset(&b, TSC_KHZ);
    irqchip_msi(&a, 0xfee00000, 0x91);
    state_init(&s);
    irqchip_save(&a, &s);
    irqchip_load(&b, &s);
    assert_int_equal(s.error, 0);
    assert_int_equal(irqchip_acknowledge(&b), 0x91);
    state_free(&s);
}

/* Any bytes as a state: nothing that is a divisor or an index afterwards does harm. */
static void test_junk_states(void **state)
{
    struct irqchip c;
    struct state s;

    (void)state;
    srandom(11);
    for (unsigned round = 0; round < 2000; round++) {
        irqchip_reset(&c, TSC_KHZ);
        state_init(&s);
        irqchip_save(&c, &s);
        for (size_t i = 24; i < s.size; i++) /* behind the section's header */
            s.data[i] = (uint8_t)(round % 2 ? random() : random() & random() & random());
        irqchip_load(&c, &s);
        assert_int_equal(s.error, 0);
        assert_int_equal(c.tsc_khz, TSC_KHZ); /* the host's, not the state's */
        for (uint64_t now = 0; now < 1000000; now += 50000) {
            uint32_t word;
            uint8_t byte;
            irqchip_run_timers(&c, now, now);
            irqchip_deadline(&c, now, now);
            int vector = irqchip_acknowledge(&c);
            assert_true(vector >= -1 && vector < 256);
            lapic(&c, 0xb0, 0);
            irqchip_mmio_read(&c, LAPIC + 0x390, now, &word);
            irqchip_mmio_read(&c, IOAPIC + 0x10, now, &word);
            irqchip_pio_read(&c, 0x40, now, &byte);
        }
        state_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pic),           cmocka_unit_test(test_msi_priorities),
        cmocka_unit_test(test_ioapic_level),  cmocka_unit_test(test_timers),
        cmocka_unit_test(test_pit_channel_2), cmocka_unit_test(test_junk),
        cmocka_unit_test(test_save_and_load), cmocka_unit_test(test_junk_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
