/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The judgement of kernels and the order of versions. The file under test belongs to a program, not
 * to a library, so it is compiled in here.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <sys/mman.h>

#include "cowdisk/import/kernel.c"

static const struct {
    const char *older, *newer;
} pairs[] = {
    {"vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-10-amd64"},
    {"vmlinuz-5.10.0-30-amd64", "vmlinuz-6.1.0-9-amd64"},
    {"vmlinuz-6.1.0", "vmlinuz-6.1.0-1"},
    {"vmlinuz-6.1~rc1", "vmlinuz-6.1"},
    {"vmlinuz-6.1~rc9", "vmlinuz-6.1~rc10"},
    {"vmlinuz-6.9.12-amd64", "vmlinuz-6.12.9-amd64"},
    {"vmlinuz-0-rescue-abc", "vmlinuz-4.18.0-553.el8.x86_64"},
    {"", "1"},
    {"a", "b"},
    {"1", "1a"},
};

static void test_versions(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        if (version_compare(pairs[i].older, pairs[i].newer) >= 0 ||
            version_compare(pairs[i].newer, pairs[i].older) <= 0)
            fail_msg("%s against %s", pairs[i].older, pairs[i].newer);
        assert_int_equal(version_compare(pairs[i].newer, pairs[i].newer), 0);
    }
    assert_int_equal(version_compare("6.01", "6.1"), 0);
}

/* Antisymmetric and never out of bounds, whatever the text. */
static void test_versions_random(void **state)
{
    static const char letters[] = "0123.-~ab";
    struct rng rng = {7};

    (void)state;
    for (int i = 0; i < 20000; i++) {
        char text[2][9];
        for (int k = 0; k < 2; k++) {
            uint64_t n = rng_below(&rng, 9);
            for (uint64_t j = 0; j < n; j++)
                text[k][j] = letters[rng_below(&rng, sizeof(letters) - 1)];
            text[k][n] = '\0';
        }
        int a = version_compare(text[0], text[1]), b = version_compare(text[1], text[0]);
        assert_true((a < 0 && b > 0) || (a > 0 && b < 0) || (a == 0 && b == 0));
    }
}

/* ---- kernels --------------------------------------------------------------------------------- */

#define KERNEL_BYTES (4 * 512 + 4096)

static void make_bzimage(uint8_t *data)
{
    memset(data, 0, KERNEL_BYTES);
    data[BZ_SETUP_SECTS] = 3;
    data[BZ_SYSSIZE + 1] = 1; /* 256 * 16 bytes */
    data[BZ_BOOT_FLAG] = 0x55;
    data[BZ_BOOT_FLAG + 1] = 0xaa;
    memcpy(data + BZ_MAGIC, "HdrS", 4);
    data[BZ_VERSION] = 0x0f;
    data[BZ_VERSION + 1] = 2;
    data[BZ_LOADFLAGS] = BZ_LOADED_HIGH;
    data[BZ_XLOADFLAGS] = BZ_XLF_KERNEL_64;
}

/* -errno of a check of these bytes; the message must say `word`. */
static int check_bytes(const uint8_t *data, size_t bytes, const char *word)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC), r;
    struct cow_error err = {""};

    put_bytes(fd, data, bytes, 0);
    r = kernel_check(fd, &err);
    close(fd);
    if (r < 0 && !strstr(err.text, word))
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
    return r;
}

static void test_bzimage(void **state)
{
    uint8_t data[KERNEL_BYTES];

    (void)state;
    make_bzimage(data);
    assert_int_equal(check_bytes(data, KERNEL_BYTES, ""), 0);
    assert_int_equal(check_bytes(data, KERNEL_BYTES - 15, ""), 0);
    for (size_t n = 0; n < KERNEL_BYTES - 16; n += 100)
        assert_true(check_bytes(data, n,
                                n == 0          ? "0 bytes"
                                : n <= BZ_MAGIC ? ""
                                                : "truncated") < 0);
    data[BZ_VERSION] = 0x06;
    assert_int_equal(check_bytes(data, KERNEL_BYTES, "too old"), -ENOTSUP);
    make_bzimage(data);
    data[BZ_XLOADFLAGS] = 0;
    assert_int_equal(check_bytes(data, KERNEL_BYTES, "64-bit"), -ENOTSUP);
    make_bzimage(data);
    memset(data + BZ_SYSSIZE, 0xff, 4);
    assert_int_equal(check_bytes(data, KERNEL_BYTES, "truncated"), -EINVAL);
    make_bzimage(data);
    data[BZ_MAGIC] = 'h';
    assert_int_equal(check_bytes(data, KERNEL_BYTES, "not a bzImage"), -EINVAL);
}

static void test_elf(void **state)
{
    uint8_t data[KERNEL_BYTES] = {0};

    (void)state;
    memcpy(data, "\177ELF", 4);
    assert_int_equal(check_bytes(data, sizeof(data), "bzImage"), -ENOTSUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_versions_random),
        cmocka_unit_test(test_bzimage),
        cmocka_unit_test(test_elf),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
