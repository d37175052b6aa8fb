/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What cowdisk.h promises, call by call: arguments, errors, locks, raw disks, holes, hash files.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <signal.h>
#include <sys/resource.h>
#include <xxhash.h>

#define MIB (1ull << 20)

static struct cow_disk *open_disk(int fd, bool raw, int backing_fd, unsigned flags)
{
    struct cow_disk *disk = NULL;
    struct cow_error err;
    int r = open_image(&disk, fd, raw, backing_fd, flags, &err);

    if (r < 0)
        fail_msg("cow_open: %s (%s)", strerror(-r), err.text);
    return disk;
}

static int new_overlay(const char *backing, uint64_t size)
{
    int fd = nameless_file();
    struct cow_error err;

    assert_int_equal(create_image(fd, backing, size, COW_CLUSTER_BITS, &err), 0);
    return fd;
}

static int write_at(struct cow_disk *disk, const void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)data, .iov_len = length};

    return cow_pwritev(disk, &iov, 1, offset);
}

static int read_at(struct cow_disk *disk, void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {.iov_base = data, .iov_len = length};

    return cow_preadv(disk, &iov, 1, offset);
}

/* ---- creating -------------------------------------------------------------------------------- */

static void test_create_arguments(void **state)
{
    char name[1100];
    struct cow_error err;
    int fd = nameless_file();

    (void)state;
    memset(name, 'n', sizeof(name));
    name[1099] = '\0';
    assert_int_equal(create_image(fd, name, MIB, 16, &err), -EINVAL);
    assert_int_equal(create_image(fd, "", MIB, 16, &err), -EINVAL);
    assert_int_equal(create_image(fd, "b", 0, 16, &err), -EINVAL);
    assert_int_equal(create_image(fd, "b", 1000, 16, &err), -EINVAL);
    assert_int_equal(create_image(fd, "b", COW_MAX_VIRTUAL_SIZE + 512, 16, &err), -EINVAL);
    assert_int_equal(create_image(fd, "b", MIB, 8, &err), -EINVAL);
    assert_int_equal(create_image(fd, "b", MIB, 22, &err), -EINVAL);
    assert_int_equal(create_image(fd, "b", COW_MAX_VIRTUAL_SIZE, 9, &err), -EINVAL);
    assert_true(strlen(err.text) > 10);
    assert_int_equal(file_size(fd), 0);
    name[1023] = '\0';
    assert_int_equal(create_image(fd, name, MIB, 16, NULL), 0);
    assert_clean(fd);
    assert_int_equal(create_image(fd, "b", MIB, 16, &err), -EINVAL); /* not empty */
    close(fd);
}

static void test_create_sizes(void **state)
{
    static const struct {
        uint64_t size;
        unsigned bits;
    } cases[] = {{512, 16},           {20ull << 30, 16}, {COW_MAX_VIRTUAL_SIZE, 16},
                 {1ull << 40, 12},    {1ull << 33, 9},   {COW_MAX_VIRTUAL_SIZE, 21},
                 {(1 << 20) + 512, 9}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = nameless_file();
        struct cow_error err;
        struct stat st;
        struct cow_disk *disk;

        if (create_image(fd, NULL, cases[i].size, cases[i].bits, &err) < 0)
            fail_msg("size %llu: %s", (unsigned long long)cases[i].size, err.text);
        fstat(fd, &st);
        assert_true(st.st_blocks * 512 <= 200 << 10);
        disk = open_disk(fd, false, -1, 0);
        assert_int_equal(cow_size(disk), cases[i].size);
        assert_int_equal(write_at(disk, "end", 3, cases[i].size - 3), 0);
        assert_int_equal(cow_close(disk), 0);
        assert_clean(fd);
        if (have_qemu_img())
            assert_int_equal(qemu_img_check(fd), 0);
        close(fd);
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static void test_bad_requests(void **state)
{
    int fd = new_overlay(NULL, MIB);
    struct cow_disk *disk = open_disk(fd, false, -1, 0);
    struct iovec many[COW_MAX_IOV + 1] = {{0}};
    struct cow_map map = {.kind = COW_MAP_ZERO, .length = 77};
    char byte = 1;

    (void)state;
    assert_int_equal(read_at(disk, &byte, 1, MIB), -EINVAL);
    assert_int_equal(write_at(disk, &byte, 1, MIB), -EINVAL);
    assert_int_equal(write_at(disk, &byte, 1, UINT64_MAX), -EINVAL);
    assert_int_equal(cow_preadv(disk, many, COW_MAX_IOV + 1, 0), -EINVAL);
    assert_int_equal(cow_preadv(disk, many, -1, 0), -EINVAL);
    assert_int_equal(cow_preadv(disk, many, COW_MAX_IOV, 0), 0); /* nothing, in many pieces */
    assert_int_equal(cow_discard(disk, MIB, 1), -EINVAL);
    assert_int_equal(cow_discard(disk, 512, UINT64_MAX), -EINVAL);
    assert_int_equal(cow_write_zeroes(disk, 0, MIB + 1), -EINVAL);
    assert_int_equal(cow_map(disk, 0, 0, &map), -EINVAL);
    assert_int_equal(cow_map(disk, MIB, 1, &map), -EINVAL);
    assert_int_equal(cow_map_chain(disk, 0, 0, &map), -EINVAL);
    assert_int_equal(cow_map_chain(disk, MIB, 1, &map), -EINVAL);
    assert_int_equal(map.length, 77);
    assert_int_equal(map.kind, COW_MAP_ZERO);
    assert_int_equal(read_at(disk, &byte, 0, MIB), 0);
    assert_int_equal(cow_close(disk), 0);
    assert_int_equal(cow_close(NULL), 0);
    close(fd);
}

static void test_read_only(void **state)
{
    int fd = new_overlay(NULL, MIB), again = open_again(fd, O_RDONLY);
    struct cow_disk *disk = open_disk(again, false, -1, COW_RDONLY), *other = NULL;
    struct cow_error err;
    char byte = 1;

    (void)state;
    assert_int_equal(write_at(disk, &byte, 1, 0), -EROFS);
    assert_int_equal(cow_discard(disk, 0, MIB), -EROFS);
    assert_int_equal(cow_write_zeroes(disk, 0, MIB), -EROFS);
    assert_int_equal(read_at(disk, &byte, 1, 0), 0);
    assert_int_equal(byte, 0);
    assert_int_equal(cow_flush(disk), 0);
    assert_int_equal(cow_close(disk), 0);
    assert_int_equal(open_image(&other, again, false, -1, 0, &err), -EINVAL); /* fd is read-only */
    assert_null(other);
    close(again);
    close(fd);
}

static void test_stats(void **state)
{
    int fd = new_overlay(NULL, MIB);
    struct cow_disk *disk = open_disk(fd, false, -1, 0);
    struct cow_stats stats;
    char data[4096] = {1};

    (void)state;
    assert_int_equal(write_at(disk, data, 4096, 0), 0);
    assert_int_equal(read_at(disk, data, 512, 0), 0);
    assert_int_equal(cow_flush(disk), 0);
    assert_int_equal(cow_discard(disk, 0, MIB), 0);
    cow_get_stats(disk, &stats);
    assert_int_equal(stats.writes, 1);
    assert_int_equal(stats.written_bytes, 4096);
    assert_int_equal(stats.reads, 1);
    assert_int_equal(stats.read_bytes, 512);
    assert_int_equal(stats.flushes, 1);
    assert_int_equal(stats.discards, 1);
    assert_true(stats.allocated_clusters >= 5);
    assert_int_equal(cow_close(disk), 0);
    close(fd);
}

static void test_backing_must_match(void **state)
{
    int overlay = new_overlay("base.raw", MIB), alone = new_overlay(NULL, MIB);
    int base = nameless_file();
    struct cow_disk *disk = NULL;
    struct cow_error err;

    (void)state;
    assert_int_equal(open_image(&disk, overlay, false, -1, 0, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "base.raw"));
    assert_non_null(strstr(err.text, "qemu-img convert"));
    assert_int_equal(open_image(&disk, alone, false, base, 0, &err), -EINVAL);
    assert_int_equal(open_image(&disk, base, false, -1, 0, &err), -EINVAL); /* empty: no image */
    assert_int_equal(open_image(&disk, base, true, alone, 0, &err), -EINVAL);
    assert_null(disk);
    close(overlay);
    close(alone);
    close(base);
}

/* A guest that discards a template's contents must never see them again, and its own data's space
 * goes back to the host. */
static void test_discard_gives_back(void **state)
{
    int base = nameless_file(), fd = new_overlay("base", 16 * MIB);
    uint8_t *data = malloc(16 * MIB), *zero = calloc(1, 16 * MIB);
    struct cow_disk *disk;
    struct stat full, empty;

    (void)state;
    memset(data, 0xab, 16 * MIB);
    put_bytes(base, data, 16 * MIB, 0);
    disk = open_disk(fd, false, base, 0);
    assert_int_equal(write_at(disk, data, 8 * MIB, 0), 0);
    assert_int_equal(cow_flush(disk), 0);
    fstat(fd, &full);
    assert_int_equal(cow_discard(disk, 0, 16 * MIB), 0);
    assert_int_equal(cow_flush(disk), 0);
    fstat(fd, &empty);
    assert_true(full.st_blocks - empty.st_blocks >= (blkcnt_t)(7 * MIB / 512));
    assert_int_equal(read_at(disk, data, 16 * MIB, 0), 0);
    assert_memory_equal(data, zero, 16 * MIB);
    assert_int_equal(cow_close(disk), 0);
    assert_clean(fd);
    free(data);
    free(zero);
    close(fd);
    close(base);
}

/* A flush without changes in between must not grow anything; the same blocks written again and
 * again neither. */
static void test_steady_size(void **state)
{
    int fd = new_overlay(NULL, 64 * MIB);
    struct cow_disk *disk = open_disk(fd, false, -1, 0);
    uint8_t data[4096];
    uint64_t before;

    (void)state;
    for (int i = 0; i < 40; i++) {
        memset(data, i, sizeof(data));
        assert_int_equal(write_at(disk, data, sizeof(data), 65536ull * (unsigned)i), 0);
        assert_int_equal(cow_flush(disk), 0);
    }
    before = file_size(fd);
    /* 40 clusters of data, and two of each kind of table. */
    assert_true(before <= (40 + 12) * 65536ull);
    for (int i = 0; i < 400; i++) {
        assert_int_equal(write_at(disk, data, sizeof(data), 65536ull * (unsigned)(i % 40)), 0);
        assert_int_equal(cow_flush(disk), 0);
    }
    for (int i = 0; i < 100; i++) {
        assert_int_equal(cow_discard(disk, 0, 65536), 0);
        assert_int_equal(write_at(disk, data, sizeof(data), 0), 0);
        assert_int_equal(cow_flush(disk), 0);
    }
    assert_true(file_size(fd) <= before + 2 * 65536);
    assert_int_equal(cow_close(disk), 0);
    assert_clean(fd);
    close(fd);
}

/* ---- locks ----------------------------------------------------------------------------------- */

static void test_locks(void **state)
{
    int base = nameless_file(), fd = new_overlay("base", MIB);
    int fd2 = open_again(fd, O_RDWR), base2 = open_again(base, O_RDWR);
    int base3 = open_again(base, O_RDWR);
    struct cow_disk *disk, *other = NULL;
    struct cow_error err;

    (void)state;
    put_bytes(base, "data", 4, 0);
    disk = open_disk(fd, false, base, 0);
    assert_int_equal(open_image(&other, fd2, false, base2, 0, &err), -EBUSY);
    assert_int_equal(open_image(&other, fd2, false, base2, COW_RDONLY, &err), -EBUSY);
    /* The template: others may read it, nobody may write to it. */
    other = open_disk(base3, true, -1, COW_RDONLY);
    assert_int_equal(cow_close(other), 0);
    other = NULL;
    assert_int_equal(open_image(&other, base3, true, -1, 0, &err), -EBUSY);
    if (have_qemu_img()) {
        char command[200];
        snprintf(command, sizeof(command),
                 "qemu-img resize -q -f raw /proc/%d/fd/%d 2M >/dev/null 2>&1", (int)getpid(),
                 base3);
        assert_int_not_equal(system(command), 0);
        snprintf(command, sizeof(command), "qemu-img snapshot -c x /proc/%d/fd/%d >/dev/null 2>&1",
                 (int)getpid(), fd2);
        assert_int_not_equal(system(command), 0);
    }
    assert_int_equal(cow_close(disk), 0);
    disk = open_disk(fd2, false, base2, 0);
    assert_int_equal(cow_close(disk), 0);
    other = open_disk(base3, true, -1, 0);
    assert_int_equal(cow_close(other), 0);
    close(fd);
    close(fd2);
    close(base);
    close(base2);
    close(base3);
}

/* ---- raw ------------------------------------------------------------------------------------- */

static void test_raw(void **state)
{
    uint8_t data[3000], got[3000], zero[3000] = {0};
    int fd = nameless_file();
    struct cow_disk *disk;
    struct rng rng = {5};
    struct cow_map map;

    (void)state;
    rng_fill(&rng, data, sizeof(data));
    put_bytes(fd, data, sizeof(data), 0);
    disk = open_disk(fd, true, -1, 0);
    assert_int_equal(cow_size(disk), 3072); /* whole sectors; what is missing is zero */
    assert_int_equal(read_at(disk, got, 72, 3000), 0);
    assert_memory_equal(got, zero, 72);
    assert_int_equal(write_at(disk, "xyz", 3, 1000), 0);
    memcpy(data + 1000, "xyz", 3);
    assert_int_equal(cow_flush(disk), 0);
    assert_int_equal(read_at(disk, got, 3000, 0), 0);
    assert_memory_equal(got, data, 3000);
    assert_int_equal(cow_write_zeroes(disk, 100, 900), 0);
    memset(data + 100, 0, 900);
    assert_int_equal(cow_discard(disk, 2000, 500), 0);
    memset(data + 2000, 0, 500);
    assert_int_equal(read_at(disk, got, 3000, 0), 0);
    assert_memory_equal(got, data, 3000);
    assert_int_equal(cow_map_chain(disk, 0, 3072, &map), 0);
    assert_int_equal(map.length, 3072);
    assert_int_equal(map.kind, COW_MAP_DATA);
    assert_int_equal(cow_close(disk), 0);
    close(fd);
}

/* ---- a file that must not grow --------------------------------------------------------------- */

static void test_file_size_limit(void **state)
{
    struct rlimit old, limit;
    int fd = new_overlay(NULL, 64 * MIB), accepted = 0;
    uint8_t data[65536], got[65536];
    struct cow_disk *disk = open_disk(fd, false, -1, 0);

    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 4 * MIB;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (; accepted < 100; accepted++) {
        memset(data, accepted + 1, sizeof(data));
        if (write_at(disk, data, sizeof(data), 131072ull * (unsigned)accepted) != 0)
            break;
    }
    assert_in_range(accepted, 40, 63);
    assert_int_equal(write_at(disk, data, sizeof(data), 60 * MIB), -ENOSPC);
    /* What was accepted can be made durable without more room. */
    assert_int_equal(cow_flush(disk), 0);
    assert_clean(fd);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(write_at(disk, data, sizeof(data), 60 * MIB), 0);
    assert_int_equal(cow_close(disk), 0);
    assert_clean(fd);
    disk = open_disk(fd, false, -1, COW_RDONLY);
    for (int i = 0; i < accepted; i++) {
        memset(data, i + 1, sizeof(data));
        assert_int_equal(read_at(disk, got, sizeof(got), 131072ull * (unsigned)i), 0);
        assert_memory_equal(got, data, sizeof(got));
    }
    assert_int_equal(cow_close(disk), 0);
    close(fd);
}

/* More dirty metadata than memory is kept for: commits come by themselves. */
static void test_many_tables(void **state)
{
    int fd = nameless_file();
    struct cow_disk *disk;
    struct cow_error err;
    uint64_t size = 64ull << 30;
    char text[16];

    (void)state;
    assert_int_equal(create_image(fd, NULL, size, 12, &err), 0);
    disk = open_disk(fd, false, -1, 0);
    /* Each in an L2 table of its own. */
    for (uint64_t i = 0; i < 3000; i++) {
        snprintf(text, sizeof(text), "%llu", (unsigned long long)i);
        assert_int_equal(write_at(disk, text, sizeof(text), i * (2 * MIB)), 0);
    }
    for (uint64_t i = 0; i < 3000; i += 7) {
        char got[16];
        snprintf(text, sizeof(text), "%llu", (unsigned long long)i);
        assert_int_equal(read_at(disk, got, sizeof(got), i * (2 * MIB)), 0);
        assert_string_equal(got, text);
    }
    assert_int_equal(cow_close(disk), 0);
    assert_clean(fd);
    close(fd);
}

/* ---- hashes ---------------------------------------------------------------------------------- */

static int cancel(void *opaque, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    return ++*(int *)opaque > 2;
}

static void check_hashes(const struct cow_hashes *hashes, const uint8_t *data, uint64_t bytes)
{
    uint8_t block[COW_BLOCK_SIZE];

    assert_int_equal(hashes->n_blocks, (bytes + COW_BLOCK_SIZE - 1) / COW_BLOCK_SIZE);
    for (uint64_t i = 0; i < hashes->n_blocks; i++) {
        uint64_t n = bytes - i * COW_BLOCK_SIZE;
        memset(block, 0, sizeof(block));
        memcpy(block, data + i * COW_BLOCK_SIZE, n < COW_BLOCK_SIZE ? n : COW_BLOCK_SIZE);
        assert_true(hashes->hash[i] == XXH3_64bits(block, sizeof(block)));
    }
    for (uint64_t i = 1; i < hashes->n_blocks; i++) {
        uint32_t a = hashes->by_hash[i - 1], b = hashes->by_hash[i];
        assert_true(hashes->hash[a] < hashes->hash[b] ||
                    (hashes->hash[a] == hashes->hash[b] && a < b));
    }
}

static void run_hashes(uint64_t bytes)
{
    uint8_t *data = calloc(1, bytes + 1);
    int raw = nameless_file(), fd = nameless_file();
    struct cow_hashes hashes = {0};
    struct cow_error err;
    struct rng rng = {bytes};

    assert_int_equal(ftruncate(raw, (off_t)bytes), 0);
    /* Some random blocks, some equal ones, holes between them. */
    for (uint64_t at = 0; at + 5000 < bytes; at += 4096 * (1 + rng_below(&rng, 40))) {
        if (rng_below(&rng, 3))
            rng_fill(&rng, data + at, 5000);
        else
            memset(data + at, 0x11, 4096);
        put_bytes(raw, data + at, 5000, at);
    }
    assert_int_equal(cow_hashes_write(raw, fd, NULL, NULL), 0);
    assert_int_equal(cow_hashes_map(fd, bytes, &hashes, &err), 0);
    check_hashes(&hashes, data, bytes);
    cow_hashes_unmap(&hashes);
    assert_null(hashes.map);
    assert_int_equal(cow_hashes_map(fd, bytes + 4096, &hashes, &err), -EINVAL);
    free(data);
    close(raw);
    close(fd);
}

static void test_hashes(void **state)
{
    (void)state;
    run_hashes(0);
    run_hashes(512);
    run_hashes(4096);
    run_hashes(5 * MIB);
    run_hashes(12 * MIB + 1536);
}

static void test_hashes_damaged(void **state)
{
    int raw = nameless_file(), fd = nameless_file();
    struct cow_hashes hashes = {0};
    struct cow_error err;
    struct rng rng = {3};
    uint64_t bytes;

    (void)state;
    assert_int_equal(ftruncate(raw, 200 * 4096), 0);
    assert_int_equal(cow_hashes_write(raw, fd, NULL, NULL), 0);
    bytes = file_size(fd);
    for (int i = 0; i < 2000; i++) {
        uint64_t at = i < 64 ? (uint64_t)i : rng_below(&rng, bytes);
        uint8_t was, now;
        assert_int_equal(pread(fd, &was, 1, (off_t)at), 1);
        now = was ^ (uint8_t)(1u << rng_below(&rng, 8));
        put_bytes(fd, &now, 1, at);
        assert_int_equal(cow_hashes_map(fd, 200 * 4096, &hashes, &err), -EINVAL);
        put_bytes(fd, &was, 1, at);
    }
    assert_int_equal(cow_hashes_map(fd, 200 * 4096, &hashes, &err), 0);
    cow_hashes_unmap(&hashes);
    for (uint64_t n = 0; n < bytes; n += 97) {
        assert_int_equal(ftruncate(fd, (off_t)(bytes - 1 - n)), 0);
        assert_int_equal(cow_hashes_map(fd, 200 * 4096, &hashes, &err), -EINVAL);
    }
    close(raw);
    close(fd);
}

static void test_hashes_cancel(void **state)
{
    int raw = nameless_file(), fd = nameless_file(), calls = 0;
    uint8_t *data = malloc(8 * MIB);
    struct cow_hashes hashes;
    struct cow_error err;

    (void)state;
    memset(data, 1, 8 * MIB);
    put_bytes(raw, data, 8 * MIB, 0);
    assert_int_equal(cow_hashes_write(raw, fd, cancel, &calls), -ECANCELED);
    assert_int_equal(cow_hashes_map(fd, 8 * MIB, &hashes, &err), -EINVAL);
    free(data);
    close(raw);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_arguments),
        cmocka_unit_test(test_create_sizes),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_backing_must_match),
        cmocka_unit_test(test_discard_gives_back),
        cmocka_unit_test(test_steady_size),
        cmocka_unit_test(test_locks),
        cmocka_unit_test(test_raw),
        cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_many_tables),
        cmocka_unit_test(test_hashes),
        cmocka_unit_test(test_hashes_damaged),
        cmocka_unit_test(test_hashes_cancel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
