/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest RAM with its hole, and the kernel loader's refusals.
 */
#include "vmmd/vmm/boot.h"
#include "vmmd/vmm/memory.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static void test_hole(void **state)
{
    struct memory m;
    uint32_t v = 42;

    (void)state;
    assert_int_equal(memory_init(&m, 4 * GIB), 0);
    assert_non_null(memory_at(&m, 0, 3 * GIB));
    assert_null(memory_at(&m, 0, 3 * GIB + 1));
    assert_null(memory_at(&m, 3 * GIB, 1));
    assert_null(memory_at(&m, 4 * GIB - 1, 2));
    assert_ptr_equal(memory_at(&m, 4 * GIB, GIB), m.base + 3 * GIB);
    assert_null(memory_at(&m, 4 * GIB, GIB + 1));
    assert_null(memory_at(&m, UINT64_MAX, 2));
    assert_int_equal(memory_write(&m, 3 * GIB - 2, &v, 4), -EFAULT);
    assert_int_equal(memory_write(&m, 5 * GIB - 4, &v, 4), 0);
    assert_int_equal(memory_page(&m, 4 * GIB + 8192), 3 * GIB / 4096 + 2);
    memory_free(&m);
    assert_int_equal(memory_init(&m, 0), -EINVAL);
    assert_int_equal(memory_init(&m, 4097), -EINVAL);
}

static void test_discard(void **state)
{
    struct memory m;

    (void)state;
    assert_int_equal(memory_init(&m, MIB), 0);
    memset(m.base, 1, MIB);
    assert_int_equal(memory_discard(&m, 4096 + 100, 3 * 4096), 0); /* whole pages inside only */
    assert_int_equal(m.base[2 * 4096 - 1], 1);
    assert_int_equal(m.base[2 * 4096], 0);
    assert_int_equal(m.base[4 * 4096 - 1], 0);
    assert_int_equal(m.base[4 * 4096], 1);
    assert_int_equal(memory_discard(&m, MIB - 4096, 8192), -EFAULT);
    memory_free(&m);
}

static int kernel_file(const struct setup_header *h, size_t bytes)
{
    int fd = memfd_create("kernel", 0);

    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    if (bytes > 0x1f1 + sizeof(*h))
        assert_int_equal(pwrite(fd, h, sizeof(*h), 0x1f1), sizeof(*h));
    return fd;
}

static struct setup_header good_header(void)
{
    return (struct setup_header){
        .setup_sects = 1,
        .boot_flag = 0xaa55,
        .header = 0x53726448,
        .version = 0x20f,
        .loadflags = LOADED_HIGH,
        .xloadflags = XLF_KERNEL_64,
        .pref_address = 0x1000000,
        .init_size = MIB,
        .syssize = 4096 / 16,
        .initrd_addr_max = 0x7fffffff,
    };
}

static void try_boot(const struct setup_header *h, size_t bytes, const char *cmdline, uint64_t ram,
                     const char *why)
{
    struct boot_config c = {
        .kernel_fd = kernel_file(h, bytes), .initrd_fd = -1, .cmdline = cmdline, .tsc_khz = 1};
    struct engine_entry entry;
    struct memory m;
    char text[128] = "";

    assert_int_equal(memory_init(&m, ram), 0);
    int r = boot_linux(&m, &c, &entry, text, sizeof(text));
    if (why) {
        assert_true(r < 0);
        assert_non_null(strstr(text, why));
    } else {
        assert_int_equal(r, 0);
        assert_int_equal(entry.rip, 0x1000200);
    }
    memory_free(&m);
    close(c.kernel_fd);
}

static void test_kernel_checks(void **state)
{
    struct setup_header h = good_header();
    char *longline = calloc(1, 4096);

    (void)state;
    try_boot(&h, 1024 + 4096, "root=/dev/vda", 64 * MIB, NULL);
    try_boot(&h, 0, "", 64 * MIB, "too short");
    try_boot(&h, 1024 + 2048, "", 64 * MIB, "truncated");
    try_boot(&h, 1024 + 4096, "", 8 * MIB, "too small");
    try_boot(&h, 1024 + 4096, memset(longline, 'x', 4095), 64 * MIB, "longer than 2 KiB");
    free(longline);
    h.header = 0;
    try_boot(&h, 1024 + 4096, "", 64 * MIB, "not a bzImage");
    h = good_header();
    h.xloadflags = 0;
    try_boot(&h, 1024 + 4096, "", 64 * MIB, "64-bit entry");
    h = good_header();
    h.pref_address = UINT64_MAX - 4095;
    try_boot(&h, 1024 + 4096, "", 64 * MIB, "too small");
    h = good_header();
    h.init_size = UINT32_MAX;
    try_boot(&h, 1024 + 4096, "", 64 * MIB, "too small");
    h = good_header();
    h.syssize = UINT32_MAX;
    try_boot(&h, 1024 + 4096, "", 64 * MIB, "truncated");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hole),
        cmocka_unit_test(test_discard),
        cmocka_unit_test(test_kernel_checks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
