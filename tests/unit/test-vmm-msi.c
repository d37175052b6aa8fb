/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MSI-X on an engine that only notes what it was told: which way interrupts take, how often routes
 * are set, and that masking, changes and loading lose and misdirect none. The guest's side is what
 * a driver writes: the table in BAR 1, the capability. On a real kernel: test-vmm-kvm.c.
 */
#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define VECTORS  4u
#define ROUTES   3u
#define MASK_ALL 0x4000u
#define ENABLE   0x8000u

struct engine {
    struct {
        int fd; /* 0: free */
        uint64_t address;
        uint32_t data;
    } route[ROUTES];
    unsigned n_msi, n_irqfd; /* calls */
    uint64_t address;        /* of the last msi() */
    uint32_t data;
};

struct fixture {
    struct machine m;
    struct engine engine;
    struct pci_device dev;
};

static int note_msi(struct engine *e, uint64_t address, uint32_t data)
{
    e->n_msi++;
    e->address = address;
    e->data = data;
    return 0;
}

static int note_irqfd(struct engine *e, int fd, uint64_t address, uint32_t data)
{
    int free_one = -1;

    e->n_irqfd++;
    if (data == 0xbad)
        return -EINVAL;
    for (unsigned i = 0; i < ROUTES; i++) {
        if (e->route[i].fd == fd)
            free_one = (int)i;
        else if (e->route[i].fd == 0 && free_one < 0)
            free_one = (int)i;
    }
    if (free_one < 0)
        return -ENOSPC;
    e->route[free_one].fd = fd;
    e->route[free_one].address = address;
    e->route[free_one].data = data;
    return 0;
}

static int note_line(struct engine *e, unsigned gsi, bool level)
{
    (void)e, (void)gsi, (void)level;
    return 0;
}

static const struct engine_ops with = {.msi = note_msi, .irqfd = note_irqfd, .irq_line = note_line};
static const struct engine_ops without = {.msi = note_msi, .irq_line = note_line};

/* How often the kernel would have injected this message since the last look. */
static unsigned fired(struct fixture *f, uint32_t data)
{
    unsigned n = 0;

    for (unsigned i = 0; i < ROUTES; i++) {
        uint64_t count;

        if (f->engine.route[i].fd && f->engine.route[i].data == data &&
            read(f->engine.route[i].fd, &count, sizeof(count)) == sizeof(count))
            n += (unsigned)count;
    }
    return n;
}

/* ---- what a driver does ---- */

static void write_entry(struct fixture *f, unsigned vector, uint32_t data, uint32_t control)
{
    uint64_t at = pci_bar_address(&f->dev, 1) + 16 * vector;

    pci_mmio_write(&f->m.pci, at, 4, 0xfee01000);
    pci_mmio_write(&f->m.pci, at + 4, 4, 0);
    pci_mmio_write(&f->m.pci, at + 8, 4, data);
    pci_mmio_write(&f->m.pci, at + 12, 4, control);
}

static void write_control(struct fixture *f, uint32_t bits)
{
    iobus_write(&f->m.ports, 0xcf8, 4, 0x80000000u | f->dev.slot << 11 | f->dev.msix_at);
    iobus_write(&f->m.ports, 0xcfe, 2, bits);
}

static void create(struct fixture *f, const struct engine_ops *ops)
{
    static const struct pci_bar_ops bar_ops;
    const struct pci_id id = {.vendor = 1};
    const struct pci_bar bar = {&bar_ops, 4096};

    memset(f, 0, sizeof(*f));
    f->m.ops = ops;
    f->m.engine = &f->engine;
    assert_int_equal(pci_bus_init(&f->m.pci, &f->m), 0);
    assert_int_equal(pci_add(&f->m.pci, &f->dev, &id, &bar, VECTORS), 0);
    for (unsigned i = 0; i < VECTORS; i++)
        write_entry(f, i, 0x40 + i, 0);
    write_control(f, ENABLE);
}

static void destroy(struct fixture *f)
{
    msi_destroy(&f->m);
}

/* ---- tests ---- */

/* Routes are set once for each vector, not for each interrupt nor for each write to the table. */
static void test_steady_state(void **state)
{
    static struct fixture f;

    (void)state;
    create(&f, &with);
    for (unsigned i = 0; i < 1000; i++) {
        pci_msix_fire(&f.dev, 0);
        pci_msix_fire(&f.dev, 1);
    }
    assert_int_equal(f.engine.n_msi, 2);
    assert_int_equal(f.engine.n_irqfd, 2);
    assert_int_equal(fired(&f, 0x40), 999);
    assert_int_equal(fired(&f, 0x41), 999);
    destroy(&f);
}

static void test_masks(void **state)
{
    static struct fixture f;

    (void)state;
    create(&f, &with);
    for (unsigned i = 0; i < 3; i++)
        pci_msix_fire(&f.dev, 0);
    assert_int_equal(fired(&f, 0x40), 2);
    write_entry(&f, 0, 0x40, 1); /* its own mask */
    pci_msix_fire(&f.dev, 0);
    pci_msix_fire(&f.dev, 0);
    assert_int_equal(fired(&f, 0x40), 0);
    write_entry(&f, 0, 0x40, 0);
    assert_int_equal(fired(&f, 0x40), 1); /* what waited, once */
    write_control(&f, ENABLE | MASK_ALL);
    pci_msix_fire(&f.dev, 0);
    assert_int_equal(fired(&f, 0x40), 0);
    write_control(&f, ENABLE);
    assert_int_equal(fired(&f, 0x40), 1);
    write_control(&f, 0); /* off: nothing fires, nothing waits */
    pci_msix_fire(&f.dev, 0);
    write_control(&f, ENABLE);
    assert_int_equal(fired(&f, 0x40), 0);
    assert_int_equal(f.engine.n_irqfd, 1); /* none of this takes a route */
    assert_int_equal(f.engine.n_msi, 1);
    destroy(&f);
}

/* What fires is what the entry says when it fires, not what was routed. */
static void test_changes(void **state)
{
    static struct fixture f;

    (void)state;
    create(&f, &with);
    for (unsigned i = 0; i < 2; i++)
        pci_msix_fire(&f.dev, 0);
    assert_int_equal(fired(&f, 0x40), 1);
    write_entry(&f, 0, 0x60, 0);
    pci_msix_fire(&f.dev, 0);
    assert_int_equal(fired(&f, 0x40), 0);
    assert_int_equal(f.engine.data, 0x60);
    pci_msix_fire(&f.dev, 0);
    assert_int_equal(fired(&f, 0x60), 1);
    assert_int_equal(f.engine.n_irqfd, 2);
    for (unsigned i = 0; i < 100; i++) { /* a guest that changes it each time has no routes set */
        write_entry(&f, 0, 0x70 + i % 2, 0);
        pci_msix_fire(&f.dev, 0);
        assert_int_equal(f.engine.data, 0x70 + i % 2);
    }
    assert_int_equal(f.engine.n_irqfd, 2);
    assert_int_equal(f.engine.n_msi, 102);
    destroy(&f);
}

/* More vectors than routes, and messages that the kernel does not take: each goes the other way,
 * and is not tried again each time. */
static void test_limits(void **state)
{
    static struct fixture f;

    (void)state;
    create(&f, &with);
    for (unsigned v = 0; v < VECTORS; v++)
        for (unsigned i = 0; i < 50; i++)
            pci_msix_fire(&f.dev, v);
    assert_int_equal(f.engine.n_irqfd, VECTORS);
    assert_int_equal(f.engine.n_msi, ROUTES + 50);
    assert_int_equal(f.engine.data, 0x40 + ROUTES);
    write_entry(&f, 0, 0xbad, 0);
    for (unsigned i = 0; i < 50; i++)
        pci_msix_fire(&f.dev, 0);
    assert_int_equal(f.engine.n_irqfd, VECTORS + 1);
    assert_int_equal(f.engine.n_msi, ROUTES + 100);
    assert_int_equal(fired(&f, 0x40), 49); /* those from before */
    write_entry(&f, 0, 0x40, 0);
    for (unsigned i = 0; i < 3; i++)
        pci_msix_fire(&f.dev, 0);
    assert_int_equal(fired(&f, 0x40), 2);
    pci_msix_fire(&f.dev, VECTORS); /* no such vector */
    destroy(&f);
}

/* A loaded device fires what its saved table says, also where other routes are bound. */
static void test_load(void **state)
{
    static struct fixture f, g;
    struct state s;

    (void)state;
    create(&f, &with);
    create(&g, &with);
    for (unsigned i = 0; i < 3; i++) {
        pci_msix_fire(&f.dev, 0);
        pci_msix_fire(&g.dev, 0);
    }
    write_entry(&f, 0, 0x77, 0);
    write_entry(&f, 1, 0x78, 1);
    pci_msix_fire(&f.dev, 0);
    pci_msix_fire(&f.dev, 1); /* waits */
    state_init(&s);
    state_begin(&s, "x", 1);
    pci_save(&f.dev, &s);
    state_end(&s);
    assert_int_equal(fired(&g, 0x40), 2);
    assert_int_equal(state_open(&s, "x"), 1);
    pci_load(&g.dev, &s);
    state_close(&s);
    assert_int_equal(s.error, 0);
    for (unsigned i = 0; i < 3; i++)
        pci_msix_fire(&g.dev, 0);
    assert_int_equal(fired(&g, 0x40), 0);
    assert_int_equal(g.engine.data, 0x77);
    assert_int_equal(fired(&g, 0x77), 2);
    write_entry(&g, 1, 0x78, 0);
    assert_int_equal(g.engine.data, 0x78); /* what waited was saved, too */
    state_free(&s);
    destroy(&f);
    destroy(&g);
}

static void test_engine_without(void **state)
{
    static struct fixture f;

    (void)state;
    create(&f, &without);
    for (unsigned i = 0; i < 100; i++)
        pci_msix_fire(&f.dev, 2);
    assert_int_equal(f.engine.n_msi, 100);
    assert_int_equal(f.engine.data, 0x42);
    assert_int_equal(f.m.msi.vector[0].fd, -1);
    destroy(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steady_state), cmocka_unit_test(test_masks),
        cmocka_unit_test(test_changes),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_load),         cmocka_unit_test(test_engine_without),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
