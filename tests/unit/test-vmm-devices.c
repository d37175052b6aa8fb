/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The devices of a machine without an engine: a driver in this file programs them as a guest would,
 * through PCI configuration and BAR 0. What a guest may ask for, which interrupts and kicks get
 * lost (none), and that a saved machine is the one that comes back.
 */
#include "cowdisk/cowdisk.h"
#include "vmmd/vmm/console.h"
#include "vmmd/vmm/devices.h"
#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define RAM      (16u << 20)
#define SIZE     8u /* of our queues */
#define RINGS    0x10000u
#define DATA     0x100000u
#define BIG      0x200000u
#define PATIENCE 30 /* seconds until a hang is called one */

enum { NEXT = 1, WRITE = 2 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 0x40 };
enum { SELECT = 22, VECTOR = 26, STATUS = 20, CONFIG = 0x2000, NOTIFY = 0x3000 };

struct engine {
    int unused;
};

struct fixture {
    struct machine m;
    struct console console;
    struct serial *serial;
    struct acpi_pm *pm;
    struct virtio_console *vconsole;
    struct virtio_balloon *balloon;
    unsigned failures;
    uint16_t avail_idx[8];
};

/* ---- an engine that runs nothing */

static struct engine the_engine;

static int fake_create(const struct engine_config *config, struct engine **ret_engine)
{
    (void)config;
    *ret_engine = &the_engine;
    return 0;
}

static void fake_destroy(struct engine *e)
{
    (void)e;
}

static int fake_map(struct engine *e, uint64_t gpa, uint64_t bytes, void *hva)
{
    (void)e, (void)gpa, (void)bytes, (void)hva;
    return 0;
}

static int fake_vcpu(struct engine *e, unsigned index, struct vcpu **ret_vcpu)
{
    (void)e, (void)index;
    *ret_vcpu = NULL;
    return 0;
}

static void fake_kick(struct vcpu *v)
{
    (void)v;
}

static int fake_vcpu_state(struct vcpu *v, struct state *s)
{
    (void)v, (void)s;
    return 0;
}

static int fake_irqchip_state(struct engine *e, struct state *s)
{
    (void)e, (void)s;
    return 0;
}

static int fake_line(struct engine *e, unsigned gsi, bool level)
{
    (void)e, (void)gsi, (void)level;
    return 0;
}

static int fake_msi(struct engine *e, uint64_t address, uint32_t data)
{
    (void)e, (void)address, (void)data;
    return 0;
}

static const struct engine_ops fake_ops = {
    .name = "fake",
    .create = fake_create,
    .destroy = fake_destroy,
    .map_ram = fake_map,
    .vcpu_create = fake_vcpu,
    .vcpu_kick = fake_kick,
    .vcpu_get_state = fake_vcpu_state,
    .vcpu_set_state = fake_vcpu_state,
    .irq_line = fake_line,
    .msi = fake_msi,
    .get_irqchip = fake_irqchip_state,
    .set_irqchip = fake_irqchip_state,
};

static void on_device_failed(void *opaque, const char *text)
{
    (void)text;
    ((struct fixture *)opaque)->failures++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct machine_config config = {
        .memory_bytes = RAM,
        .vcpus = 1,
        .ops = &fake_ops,
        .kvm_fd = -1,
        .events = {.opaque = f, .device_failed = on_device_failed},
    };
    struct cow_error error;
    struct cow_disk *disk;
    char text[128];
    int fd = memfd_create("disk", 0);

    alarm(PATIENCE);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(
        cow_open(&disk,
                 &(struct cow_open_options){.fd = fd, .format = COW_FORMAT_RAW, .data_fd = -1},
                 &error),
        0);
    close(fd);
    assert_int_equal(machine_init(&f->m, &config, text, sizeof(text)), 0);
    assert_int_equal(console_init(&f->console, memfd_create("log", 0)), 0);
    assert_int_equal(virtio_blk_add(&f->m, disk, "disk", false), 0);
    assert_int_equal(serial_add(&f->m, &f->console, &f->serial), 0);
    assert_int_equal(rtc_add(&f->m), 0);
    assert_int_equal(i8042_add(&f->m), 0);
    assert_int_equal(acpi_pm_add(&f->m, &f->pm), 0);
    assert_int_equal(virtio_rng_add(&f->m), 0);
    assert_int_equal(virtio_console_add(&f->m, &f->console, true, &f->vconsole), 0);
    assert_int_equal(virtio_balloon_add(&f->m, &f->balloon), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    machine_destroy(&f->m);
    console_destroy(&f->console);
    free(f);
    alarm(0);
    return 0;
}

/* ---- the driver */

static unsigned slot_of(struct fixture *f, const char *name)
{
    for (unsigned i = 1; i < PCI_MAX_SLOTS && f->m.pci.slots[i]; i++)
        if (strcmp(f->m.pci.slots[i]->name, name) == 0)
            return i;
    fail_msg("no device %s", name);
    return 0;
}

static uint64_t bar_of(struct fixture *f, const char *name)
{
    uint32_t base;

    memcpy(&base, f->m.pci.slots[slot_of(f, name)]->config + 0x10, sizeof(base));
    return base;
}

static void put(struct fixture *f, const char *name, uint64_t at, unsigned size, uint64_t value)
{
    uint64_t bar = bar_of(f, name);

    pthread_mutex_lock(&f->m.lock);
    pci_mmio_write(&f->m.pci, bar + at, size, value);
    pthread_mutex_unlock(&f->m.lock);
}

static uint64_t get(struct fixture *f, const char *name, uint64_t at, unsigned size)
{
    uint64_t bar = bar_of(f, name), value;

    pthread_mutex_lock(&f->m.lock);
    value = pci_mmio_read(&f->m.pci, bar + at, size);
    pthread_mutex_unlock(&f->m.lock);
    return value & (size == 8 ? ~0ull : (1ull << (8 * size)) - 1);
}

static uint64_t rings(unsigned queue)
{
    return RINGS + 0x1000u * queue;
}

static void start(struct fixture *f, const char *name, unsigned n_queues)
{
    static const uint8_t zero[0x1000];

    put(f, name, STATUS, 1, 0);
    put(f, name, STATUS, 1, ACKNOWLEDGE | DRIVER);
    put(f, name, 8, 4, 0);
    put(f, name, 12, 4, 1u << 29); /* event index */
    put(f, name, 8, 4, 1);
    put(f, name, 12, 4, 1); /* VERSION_1 */
    put(f, name, STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    for (unsigned q = 0; q < n_queues; q++) {
        memory_write(&f->m.memory, rings(q), zero, sizeof(zero));
        f->avail_idx[q] = 0;
        put(f, name, SELECT, 2, q);
        put(f, name, 24, 2, SIZE);
        put(f, name, 32, 8, rings(q));
        put(f, name, 40, 8, rings(q) + 0x400);
        put(f, name, 48, 8, rings(q) + 0x800);
        put(f, name, 28, 2, 1);
    }
    put(f, name, STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

static void desc(struct fixture *f, unsigned queue, unsigned i, uint64_t addr, uint32_t len,
                 uint16_t flags, uint16_t next)
{
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } d = {addr, len, flags, next};

    memory_write(&f->m.memory, rings(queue) + 16 * i, &d, sizeof(d));
}

static void offer(struct fixture *f, unsigned queue, uint16_t head)
{
    uint64_t avail = rings(queue) + 0x400;

    memory_write(&f->m.memory, avail + 4 + 2 * (f->avail_idx[queue] % SIZE), &head, 2);
    f->avail_idx[queue]++;
    memory_write(&f->m.memory, avail + 2, &f->avail_idx[queue], 2);
}

static void kick(struct fixture *f, const char *name, unsigned queue)
{
    put(f, name, NOTIFY + 4 * queue, 2, queue);
}

static uint16_t read16(struct fixture *f, uint64_t gpa)
{
    return __atomic_load_n((uint16_t *)memory_at(&f->m.memory, gpa, 2), __ATOMIC_ACQUIRE);
}

static uint16_t used_idx(struct fixture *f, unsigned queue)
{
    return read16(f, rings(queue) + 0x800 + 2);
}

static uint16_t avail_event(struct fixture *f, unsigned queue)
{
    return read16(f, rings(queue) + 0x800 + 4 + 8 * SIZE);
}

/* ---- transport */

static void test_negotiation(void **state)
{
    struct fixture *f = *state;
    const char *rng = "virtio-rng";

    put(f, rng, STATUS, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK); /* features were never agreed on */
    assert_false(get(f, rng, STATUS, 1) & DRIVER_OK);
    put(f, rng, STATUS, 1, 0);
    put(f, rng, 8, 4, 0);
    put(f, rng, 12, 4, 0xffffffff); /* what was never offered */
    put(f, rng, 8, 4, 1);
    put(f, rng, 12, 4, 1);
    put(f, rng, STATUS, 1, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_false(get(f, rng, STATUS, 1) & FEATURES_OK);
    start(f, rng, 1);
    assert_true(get(f, rng, STATUS, 1) & DRIVER_OK);
    put(f, rng, SELECT, 2, 0);
    put(f, rng, VECTOR, 2, 1);
    assert_int_equal(get(f, rng, VECTOR, 2), 1);
    put(f, rng, VECTOR, 2, 2); /* it has two vectors: 0 and 1 */
    assert_int_equal(get(f, rng, VECTOR, 2), 0xffff);
    put(f, rng, SELECT, 2, 77);
    assert_int_equal(get(f, rng, 24, 2), 0);
    put(f, rng, STATUS, 1, 0);
    put(f, rng, SELECT, 2, 0);
    assert_int_equal(get(f, rng, 28, 2), 0);
}

/* Any access of any size to all of both BARs and to configuration space. */
static void test_wild_accesses(void **state)
{
    struct fixture *f = *state;

    srandom(3);
    for (unsigned i = 0; i < 200000; i++) {
        unsigned slot = 1 + (unsigned)random() % 4, size = 1u << random() % 4;
        uint64_t gpa = PCI_WINDOW_START + 0x1000000 + (uint64_t)random() % 0x20000;
        uint64_t value = (uint64_t)random() << (random() % 33);
        pthread_mutex_lock(&f->m.lock);
        pci_mmio_write(&f->m.pci, gpa, size, value);
        pci_mmio_read(&f->m.pci, gpa, size);
        if (i % 16 == 0) {
            iobus_write(&f->m.ports, 0xcf8, 4,
                        0x80000000u | slot << 11 | ((uint32_t)random() & 0xfc));
            iobus_write(&f->m.ports, 0xcfc + (uint16_t)(random() % 4), 1u << random() % 3,
                        (uint32_t)value);
            iobus_read(&f->m.ports, 0xcfc, 4);
        }
        pthread_mutex_unlock(&f->m.lock);
    }
}

/* ---- balloon */

static void test_balloon_config(void **state)
{
    struct fixture *f = *state;
    const char *balloon = "virtio-balloon";

    start(f, balloon, 3);
    pthread_mutex_lock(&f->m.lock);
    virtio_balloon_target(f->balloon, RAM - 64 * 4096);
    pthread_mutex_unlock(&f->m.lock);
    put(f, balloon, CONFIG, 8, 7ull << 32 | 9999); /* both fields at once */
    assert_int_equal(get(f, balloon, CONFIG, 4), 64);
    assert_int_equal(virtio_balloon_bytes(f->balloon), 7 * 4096);
}

static void test_balloon_inflate(void **state)
{
    struct fixture *f = *state;
    const char *balloon = "virtio-balloon";
    uint32_t pfns[] = {DATA / 4096 + 2, DATA / 4096 + 1, 0xffffffff};
    uint8_t *ram = f->m.memory.base;

    memset(ram + DATA, 1, 4 * 4096);
    memcpy(ram + BIG, pfns, sizeof(pfns));
    start(f, balloon, 3);
    desc(f, 0, 0, BIG, sizeof(pfns), 0, 0);
    offer(f, 0, 0);
    kick(f, balloon, 0);
    assert_int_equal(used_idx(f, 0), 1);
    assert_int_equal(ram[DATA + 4095], 1);
    assert_int_equal(ram[DATA + 4096], 0);
    assert_int_equal(ram[DATA + 3 * 4096 - 1], 0);
    assert_int_equal(ram[DATA + 3 * 4096], 1);
    assert_int_equal(f->failures, 0);

    desc(f, 0, 1, BIG, 8u << 20, 0, 0); /* two million page numbers */
    offer(f, 0, 1);
    kick(f, balloon, 0);
    assert_int_equal(used_idx(f, 0), 2); /* completed, and refused */
    assert_true(get(f, balloon, STATUS, 1) & NEEDS_RESET);
    assert_int_equal(f->failures, 1);
}

/* ---- console */

enum { CONSOLE_IN, CONSOLE_OUT, CONTROL_IN, CONTROL_OUT };

static void control(struct fixture *f, uint32_t port, uint16_t event)
{
    struct {
        uint32_t port;
        uint16_t event, value;
    } message = {port, event, 1};

    memory_write(&f->m.memory, BIG, &message, sizeof(message));
    desc(f, CONTROL_OUT, 0, BIG, sizeof(message), 0, 0);
    offer(f, CONTROL_OUT, 0);
    kick(f, "virtio-console", CONTROL_OUT);
}

/* With event indices a driver kicks only where it was asked to: a device that waits for a buffer
 * must ask. */
static void test_console_asks_for_buffers(void **state)
{
    struct fixture *f = *state;
    size_t taken;

    start(f, "virtio-console", 6);
    desc(f, CONTROL_IN, 0, DATA, 64, WRITE, 0);
    offer(f, CONTROL_IN, 0);
    control(f, 0, 0); /* device ready: two ports are announced, one finds a buffer */
    assert_int_equal(used_idx(f, CONTROL_IN), 1);
    assert_int_equal(avail_event(f, CONTROL_IN), 1);
    desc(f, CONTROL_IN, 1, DATA + 64, 64, WRITE, 0);
    offer(f, CONTROL_IN, 1);
    kick(f, "virtio-console", CONTROL_IN);
    assert_int_equal(used_idx(f, CONTROL_IN), 2);

    desc(f, CONSOLE_IN, 0, DATA, 2, WRITE, 0);
    offer(f, CONSOLE_IN, 0);
    memory_dma_begin(&f->m.memory);
    pthread_mutex_lock(&f->m.lock);
    taken = virtio_console_input(f->vconsole, (const uint8_t *)"abc", 3);
    pthread_mutex_unlock(&f->m.lock);
    memory_dma_end(&f->m.memory);
    assert_int_equal(taken, 2);
    assert_int_equal(avail_event(f, CONSOLE_IN), 1);
}

/* A driver cannot hold the machine lock by printing a gigabyte in one go. */
static void test_console_output_is_bounded(void **state)
{
    struct fixture *f = *state;

    start(f, "virtio-console", 6);
    memset(f->m.memory.base + BIG, 'x', 8u << 20);
    memcpy(f->m.memory.base + BIG, "hello\n", 6);
    desc(f, CONSOLE_OUT, 0, BIG, 8u << 20, 0, 0);
    offer(f, CONSOLE_OUT, 0);
    kick(f, "virtio-console", CONSOLE_OUT);
    assert_int_equal(used_idx(f, CONSOLE_OUT), 1);
    assert_memory_equal(f->console.out, "hello\nxxx", 9);
    assert_int_equal(f->console.out_bytes, CONSOLE_BUFFER);
}

/* A client that typed more than the guest takes and hung up must not keep poll() awake. */
static void test_client_hangs_up_with_input_full(void **state)
{
    struct fixture *f = *state;
    struct pollfd fds[CONSOLE_POLLFDS];
    uint8_t junk[2 * CONSOLE_INPUT] = {0};
    int pair[2];
    unsigned n;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(console_attach(&f->console, pair[0]), 0);
    assert_int_equal(send(pair[1], junk, sizeof(junk), 0), sizeof(junk));
    close(pair[1]);
    n = console_pollfds(&f->console, fds);
    assert_int_equal(poll(fds, n, 0), 1);
    console_serve(&f->console, fds, n);
    assert_int_equal(f->console.input_bytes, CONSOLE_INPUT);
    n = console_pollfds(&f->console, fds);
    assert_int_equal(poll(fds, n, 0), 0);
    console_taken(&f->console, CONSOLE_INPUT); /* now there is room: the rest, then the end */
    for (unsigned i = 0; i < 2; i++) {
        n = console_pollfds(&f->console, fds);
        assert_int_equal(poll(fds, n, 0), 1);
        console_serve(&f->console, fds, n);
        console_taken(&f->console, f->console.input_bytes);
    }
    assert_int_equal(f->console.clients[0], -1);
}

/* ---- disk */

static void offer_read(struct fixture *f)
{
    const uint32_t header[4] = {0}; /* read sector 0 */

    memset(f->m.memory.base + DATA, 0xff, 1024);
    memory_write(&f->m.memory, BIG, header, sizeof(header));
    desc(f, 0, 0, BIG, sizeof(header), NEXT, 1);
    desc(f, 0, 1, DATA, 512, NEXT | WRITE, 2);
    desc(f, 0, 2, DATA + 512, 1, WRITE, 0);
    offer(f, 0, 0);
}

static void wait_used(struct fixture *f, uint16_t want)
{
    while (used_idx(f, 0) != want)
        sched_yield();
}

static void test_disk(void **state)
{
    struct fixture *f = *state;

    start(f, "virtio-blk", 1);
    for (uint16_t i = 1; i <= 20; i++) {
        offer_read(f);
        kick(f, "virtio-blk", 0);
        wait_used(f, i);
        assert_int_equal(f->m.memory.base[DATA + 511], 0);
        assert_int_equal(f->m.memory.base[DATA + 512], 0); /* status */
    }
    for (unsigned i = 0; i < 50; i++) { /* reset with a request on its way */
        offer_read(f);
        kick(f, "virtio-blk", 0);
        start(f, "virtio-blk", 1);
    }
    offer_read(f);
    kick(f, "virtio-blk", 0);
    wait_used(f, 1);
}

struct frozen_kick {
    struct fixture *f;
    uint16_t before;
};

/* No request can begin. */
static void kick_and_save(void *arg)
{
    struct frozen_kick *k = arg;
    struct state s;

    state_init(&s);
    offer_read(k->f);
    kick(k->f, "virtio-blk", 0);
    if (k->before % 2)
        sched_yield(); /* the disk's thread may stand before its bracket */
    assert_int_equal(machine_save(&k->f->m, &s), 0);
    assert_int_equal(used_idx(k->f, 0), k->before);
    state_free(&s);
}

/* A machine that was saved goes on: what was kicked before is served after. */
static void test_save_keeps_the_kick(void **state)
{
    struct fixture *f = *state;

    start(f, "virtio-blk", 1);
    for (uint16_t i = 0; i < 20; i++) {
        struct frozen_kick k = {f, i};
        int r;
        /* A device thread may be about to look for work, or end the bracket of its last request. */
        while ((r = machine_frozen(&f->m, kick_and_save, &k)) == -EBUSY)
            sched_yield();
        assert_int_equal(r, 0);
        wait_used(f, i + 1);
    }
}

/* ---- state */

#define CLOCK_BYTES 32u /* the first section: it differs each time */

static void program_all(struct fixture *f)
{
    static const char *const names[] = {"virtio-blk", "virtio-rng", "virtio-console",
                                        "virtio-balloon"};
    static const unsigned queues[] = {1, 1, 6, 3};
    static const uint16_t ports[] = {0x3f9, 0x3fb, 0x3fc, 0x3ff, 0x70, 0x602};

    for (unsigned i = 0; i < 4; i++) {
        start(f, names[i], queues[i]);
        put(f, names[i], VECTOR, 2, i % 2);
        put(f, names[i], 0x4000 + 16 * i, 8, 0xfee00000); /* perhaps its MSI-X table */
    }
    control(f, 0, 0); /* leaves messages without a buffer */
    pthread_mutex_lock(&f->m.lock);
    for (unsigned i = 0; i < 6; i++)
        iobus_write(&f->m.ports, ports[i], 1, 0x11 * (i + 1));
    serial_input(f->serial, (const uint8_t *)"typed", 5);
    acpi_pm_power_button(f->pm);
    virtio_balloon_target(f->balloon, RAM / 2);
    iobus_write(&f->m.ports, 0xcf8, 4, 0x80001234);
    pthread_mutex_unlock(&f->m.lock);
}

static void save(struct fixture *f, struct state *s)
{
    state_init(s);
    assert_int_equal(machine_save(&f->m, s), 0);
}

static void test_save_and_load(void **state)
{
    struct fixture *a = *state, *b;
    struct state first, second;
    void *other;

    program_all(a);
    save(a, &first);
    setup(&other);
    b = other;
    memcpy(b->m.memory.base, a->m.memory.base, RAM);
    assert_int_equal(machine_load(&b->m, &first), 0);
    assert_int_equal(first.at, first.size);
    save(b, &second);
    assert_int_equal(second.size, first.size);
    assert_memory_equal(second.data + CLOCK_BYTES, first.data + CLOCK_BYTES,
                        first.size - CLOCK_BYTES);
    put(b, "virtio-balloon", CONFIG, 4, 1); /* still the device's own field */
    assert_int_equal(get(b, "virtio-balloon", CONFIG, 4), RAM / 2 / 4096);
    state_free(&first);
    state_free(&second);
    teardown(&other);
}

/* Guest time goes on where it was saved, however long the state lay about. */
static void test_load_keeps_time(void **state)
{
    struct fixture *f = *state;
    struct state s;
    uint64_t then;

    f->m.clock_behind = 5000000000; /* pauses of its life so far */
    then = machine_time(&f->m);
    save(f, &s);
    f->m.clock_behind = 0;
    assert_int_equal(machine_load(&f->m, &s), 0);
    assert_true(machine_time(&f->m) - then < 4000000000);
    state_free(&s);
}

static void test_damaged_states(void **state)
{
    struct fixture *f = *state;
    struct state good;

    program_all(f);
    save(f, &good);
    srandom(5);
    for (unsigned round = 0; round < 3000; round++) {
        struct state s = {.data = malloc(good.size), .size = good.size};
        memcpy(s.data, good.data, good.size);
        if (round % 3 == 0)
            s.size = (size_t)random() % good.size;
        for (unsigned i = 0; i < 1 + round % 40; i++)
            s.data[(size_t)random() % good.size] = (uint8_t)random();
        int r = machine_load(&f->m, &s);
        assert_true(r == 0 || r == -EPROTO);
        assert_false(r == 0 && round % 3 == 0);
        state_free(&s);
    }
    state_free(&good);
}

/* Sections of a version that this build does not know. */
static void test_other_versions(void **state)
{
    struct fixture *f = *state;
    struct state good;
    uint32_t length;

    save(f, &good);
    for (size_t at = 0; at < good.size; at += 24 + length) {
        struct state s = {.data = malloc(good.size), .size = good.size};
        memcpy(s.data, good.data, good.size);
        s.data[at + 16]++;
        memcpy(&length, s.data + at + 20, sizeof(length));
        assert_int_equal(machine_load(&f->m, &s), -EPROTO);
        state_free(&s);
    }
    state_free(&good);
}

/* What machine_init() refuses can be destroyed all the same. */
static void test_half_a_machine(void **state)
{
    struct machine_config config = {.memory_bytes = RAM, .ops = &fake_ops, .kvm_fd = -1};
    struct machine m;
    char text[128];

    (void)state;
    assert_int_equal(machine_init(&m, &config, text, sizeof(text)), -EINVAL);
    machine_destroy(&m);
    config.vcpus = 1;
    config.memory_bytes = 1;
    assert_int_equal(machine_init(&m, &config, text, sizeof(text)), -EINVAL);
    machine_destroy(&m);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_negotiation),
        TEST(test_wild_accesses),
        TEST(test_balloon_config),
        TEST(test_balloon_inflate),
        TEST(test_console_asks_for_buffers),
        TEST(test_console_output_is_bounded),
        TEST(test_client_hangs_up_with_input_full),
        TEST(test_disk),
        TEST(test_save_keeps_the_kick),
        TEST(test_save_and_load),
        TEST(test_load_keeps_time),
        TEST(test_damaged_states),
        TEST(test_other_versions),
        cmocka_unit_test(test_half_a_machine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
