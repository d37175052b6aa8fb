/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hostile: a guest that gives its virtio devices rings and descriptors that no driver would. Each
 * case resets the device, sets up a queue with one thing wrong, kicks, and prints whether the
 * device failed itself (NEEDS_RESET) or completed the chain. At the end a proper request must still
 * work: what was refused broke nothing. Prints DONE and powers off.
 */
#include "runtime.h"

#define QUEUE   8u
#define DESC    ((volatile struct desc *)0x2000000)
#define AVAIL   ((volatile uint16_t *)0x2001000)
#define USED    ((volatile uint16_t *)0x2002000)
#define TABLE   ((volatile struct desc *)0x2003000)
#define REQUEST 0x2004000ull
#define DATA    0x2005000ull
#define STATUS  0x2006000ull
#define FAR     0xffffffff00000000ull

enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 0x40 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static volatile uint8_t *common; /* BAR 0 */
static uint16_t queue;           /* the one attacked */

static void w8(unsigned at, uint8_t v)
{
    common[at] = v;
}

static void w16(unsigned at, uint16_t v)
{
    *(volatile uint16_t *)(common + at) = v;
}

static void w32(unsigned at, uint32_t v)
{
    *(volatile uint32_t *)(common + at) = v;
}

static void set_address(unsigned at, uint64_t v)
{
    w32(at, (uint32_t)v);
    w32(at + 4, (uint32_t)(v >> 32));
}

static void negotiate(void)
{
    w8(20, 0);
    w8(20, ACKNOWLEDGE);
    w8(20, ACKNOWLEDGE | DRIVER);
    w32(8, 0);
    w32(12, 1u << 28); /* indirect descriptors */
    w32(8, 1);
    w32(12, 1); /* VERSION_1 */
    w8(20, ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

static void start(uint64_t desc, uint64_t avail, uint64_t used)
{
    for (unsigned i = 0; i < 2048; i++)
        AVAIL[i] = USED[i] = 0;
    negotiate();
    w16(22, queue);
    w16(24, QUEUE);
    set_address(32, desc);
    set_address(40, avail);
    set_address(48, used);
    w16(28, 1);
    w8(20, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

static void start_sane(void)
{
    start((uint64_t)DESC, (uint64_t)AVAIL, (uint64_t)USED);
}

static void put(volatile struct desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    d->addr = addr;
    d->len = len;
    d->flags = flags;
    d->next = next;
}

static void kick(uint16_t idx)
{
    __asm__ volatile("" : : : "memory");
    AVAIL[1] = idx;
    __asm__ volatile("mfence" : : : "memory");
    w16(0x3000 + 4u * queue, queue);
}

/* Waits until the device failed or completed `want` chains; a device that does neither is a bug. */
static void outcome(const char *what, uint16_t want)
{
    uint64_t began = rdtsc();

    print(what);
    for (;;) {
        if (common[20] & NEEDS_RESET) {
            print(": device failed\n");
            return;
        }
        if (want && USED[1] == want) {
            print(": completed\n");
            return;
        }
        if (rdtsc() - began > 20000000000ull) {
            print(": STUCK\n");
            return;
        }
    }
}

static void sane_request(uint32_t type, uint64_t sector)
{
    *(volatile uint32_t *)REQUEST = type;
    *(volatile uint64_t *)(REQUEST + 8) = sector;
    *(volatile uint8_t *)STATUS = 0xff;
    put(&DESC[0], REQUEST, 16, NEXT, 1);
    put(&DESC[1], DATA, 512, NEXT | WRITE, 2);
    put(&DESC[2], STATUS, 1, WRITE, 0);
    AVAIL[2] = 0;
}

static void bad_rings(void)
{
    start(FAR, (uint64_t)AVAIL, (uint64_t)USED);
    kick(1);
    outcome("descriptor table outside of memory", 0);
    start((uint64_t)DESC, FAR, (uint64_t)USED);
    kick(1);
    outcome("available ring outside of memory", 0);
    start((uint64_t)DESC, (uint64_t)AVAIL, FAR);
    sane_request(0, 0);
    kick(1);
    outcome("used ring outside of memory", 0);
    start((uint64_t)DESC, (uint64_t)AVAIL + 1, (uint64_t)USED);
    kick(1);
    outcome("available ring not aligned", 0);
    start_sane();
    kick(1000);
    outcome("available index beyond the ring", 0);
    start_sane();
    AVAIL[2] = 0xfff0;
    kick(1);
    outcome("descriptor that does not exist", 0);
}

static void bad_chains(void)
{
    start_sane();
    sane_request(0, 0);
    put(&DESC[2], STATUS, 1, WRITE | NEXT, 0);
    kick(1);
    outcome("chain with a loop", 0);
    start_sane();
    sane_request(0, 0);
    put(&DESC[1], FAR, 512, NEXT | WRITE, 2);
    kick(1);
    outcome("buffer outside of memory", 0);
    start_sane();
    sane_request(0, 0);
    put(&DESC[1], DATA, 0xffffffff, NEXT | WRITE, 2);
    kick(1);
    outcome("buffer of 4 GiB", 0);
    start_sane();
    put(&DESC[0], (uint64_t)TABLE, 16, INDIRECT, 0);
    put(&TABLE[0], (uint64_t)TABLE, 16, INDIRECT, 0);
    AVAIL[2] = 0;
    kick(1);
    outcome("indirect table in itself", 0);
    start_sane();
    sane_request(0, 0);
    put(&DESC[1], DATA, 512, NEXT | WRITE, 77);
    kick(1);
    outcome("next descriptor beyond the table", 0);
}

/* Well-formed chains that make no sense as requests: completed with an error, the device goes on.
 */
static void bad_requests(void)
{
    start_sane();
    sane_request(99, 0);
    kick(1);
    outcome("unknown request", 1);
    sane_request(0, 1ull << 60);
    kick(2);
    outcome("read beyond the disk", 2);
    put(&DESC[0], REQUEST, 3, NEXT, 2);
    kick(3);
    outcome("short request header", 3);
    put(&DESC[0], REQUEST, 16, 0, 0);
    kick(4);
    outcome("request without a status byte", 4);
}

static void wild_registers(void)
{
    uint64_t r = rdtsc();

    for (unsigned i = 0; i < 20000; i++) {
        r ^= r << 13, r ^= r >> 7, r ^= r << 17;
        unsigned at = (unsigned)(r >> 8) & 0x3ffc;
        if (r & 1)
            *(volatile uint32_t *)(common + at) = (uint32_t)(r >> 32);
        else
            (void)*(volatile uint32_t *)(common + at);
    }
    print("20000 random register accesses: survived\n");
}

static void attack(uint16_t device, uint16_t which, const char *name)
{
    unsigned slot = pci_find_virtio(device);

    print(name);
    if (!slot) {
        print(": NOT FOUND\n");
        return;
    }
    print(":\n");
    queue = which;
    common = (volatile uint8_t *)(uint64_t)(pci_read(slot, 0x10) & ~0xfu);
    bad_rings();
    bad_chains();
    wild_registers();
}

void guest_main(uint8_t *boot_params)
{
    unsigned slot = pci_find_virtio(0x1042);

    (void)boot_params;
    attack(0x1042, 0, "virtio-blk");
    attack(0x1044, 0, "virtio-rng");
    attack(0x1043, 3, "virtio-console");
    attack(0x1045, 0, "virtio-balloon");
    common = (volatile uint8_t *)(uint64_t)(pci_read(slot, 0x10) & ~0xfu);
    queue = 0;
    bad_requests();
    start_sane();
    sane_request(0, 0);
    kick(1);
    outcome("a proper read after all that", 1);
    print(*(volatile uint8_t *)STATUS == 0 ? "its status is good\n" : "its status is BAD\n");
    print("DONE\n");
    power_off();
}
