/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random operations on an overlay against a flat model: write, read, discard, write-zeroes, flush,
 * map, reopen, with cluster sizes from 512 bytes to 2 MiB. At every turn the file as it is at that
 * instant, as a kill -9 would leave it, must be clean.
 */
#include "tests/unit/test-cowdisk-util.h"

struct twin {
    struct rng rng;
    int fd, backing_fd;
    uint64_t size, backing_size, cluster;
    uint8_t *model, *backing;
    uint8_t *own; /* per 512 bytes: surely not from the backing file */
    struct cow_disk *disk;
};

static void twin_open(struct twin *t)
{
    struct cow_error err;
    int r = open_image(&t->disk, t->fd, false, t->backing_fd, 0, &err);

    if (r < 0)
        fail_msg("cow_open: %s (%s)", strerror(-r), err.text);
    assert_int_equal(cow_size(t->disk), t->size);
}

static void twin_start(struct twin *t, uint64_t seed, unsigned bits, uint64_t size,
                       uint64_t backing_size)
{
    struct cow_error err;

    memset(t, 0, sizeof(*t));
    t->rng.state = seed;
    t->size = size;
    t->backing_size = backing_size;
    t->cluster = 1ull << bits;
    t->model = calloc(1, size);
    t->backing = malloc(backing_size + 1);
    t->own = calloc(1, size / 512);
    rng_fill(&t->rng, t->backing, backing_size);
    memcpy(t->model, t->backing, backing_size < size ? backing_size : size);
    t->fd = nameless_file();
    t->backing_fd = backing_size ? nameless_file() : -1;
    if (backing_size)
        put_bytes(t->backing_fd, t->backing, backing_size, 0);
    assert_int_equal(create_image(t->fd, backing_size ? "base.raw" : NULL, size, bits, &err), 0);
    assert_clean(t->fd);
    twin_open(t);
}

static void twin_end(struct twin *t)
{
    assert_int_equal(cow_close(t->disk), 0);
    assert_clean(t->fd);
    close(t->fd);
    if (t->backing_fd >= 0)
        close(t->backing_fd);
    free(t->model);
    free(t->backing);
    free(t->own);
}

/* A range that is often aligned, often small, sometimes neither. */
static void pick_range(struct twin *t, uint64_t max, uint64_t *ret_offset, uint64_t *ret_length)
{
    static const uint64_t units[] = {1, 512, 4096, 65536};
    uint64_t unit = units[rng_below(&t->rng, 4)];
    uint64_t offset, length;

    if (rng_below(&t->rng, 4) == 0)
        unit = t->cluster;
    offset = rng_below(&t->rng, t->size) / unit * unit;
    length = (1 + rng_below(&t->rng, max)) / unit * unit;
    if (length == 0)
        length = unit;
    if (length > t->size - offset || rng_below(&t->rng, 32) == 0)
        length = t->size - offset;
    if (length > 4 * max)
        length = 4 * max;
    *ret_offset = offset;
    *ret_length = length;
}

/* Cuts a buffer into pieces. */
static int pieces(struct twin *t, uint8_t *data, uint64_t length, struct iovec *iov, int max)
{
    int n = 0;

    while (length > 0) {
        uint64_t piece = n == max - 1 ? length : rng_below(&t->rng, length + 1);
        iov[n++] = (struct iovec){.iov_base = data, .iov_len = piece};
        data += piece;
        length -= piece;
    }
    return n;
}

static void mark_own(struct twin *t, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / 512; i < (offset + length + 511) / 512; i++)
        t->own[i] = 1;
}

static void step_write(struct twin *t)
{
    uint64_t offset, length;
    struct iovec iov[100];
    uint8_t *data;

    pick_range(t, 4 * t->cluster + 70000, &offset, &length);
    data = malloc(length);
    rng_fill(&t->rng, data, length);
    if (rng_below(&t->rng, 8) == 0)
        memset(data, 0, length);
    assert_int_equal(cow_pwritev(t->disk, iov,
                                 pieces(t, data, length, iov, 1 + (int)rng_below(&t->rng, 100)),
                                 offset),
                     0);
    memcpy(t->model + offset, data, length);
    mark_own(t, offset, length);
    free(data);
}

static void step_read(struct twin *t)
{
    uint64_t offset, length;
    struct iovec iov[100];
    uint8_t *data;

    pick_range(t, 4 * t->cluster + 70000, &offset, &length);
    data = malloc(length);
    memset(data, 0xee, length);
    assert_int_equal(cow_preadv(t->disk, iov,
                                pieces(t, data, length, iov, 1 + (int)rng_below(&t->rng, 100)),
                                offset),
                     0);
    assert_memory_equal(data, t->model + offset, length);
    free(data);
}

/* Whole clusters of a discarded range are zeroes; its ends are zeroes or what they were. */
static void step_discard(struct twin *t)
{
    uint64_t offset, length;
    struct iovec iov;
    uint8_t *now;

    pick_range(t, 8 * t->cluster, &offset, &length);
    now = malloc(length);
    assert_int_equal(cow_discard(t->disk, offset, length), 0);
    iov = (struct iovec){.iov_base = now, .iov_len = length};
    assert_int_equal(cow_preadv(t->disk, &iov, 1, offset), 0);
    for (uint64_t i = 0; i < length; i++) {
        uint64_t start = (offset + i) / t->cluster * t->cluster, end = start + t->cluster;
        bool whole = start >= offset && (end <= offset + length || offset + length == t->size);
        if (whole)
            assert_int_equal(now[i], 0);
        else
            assert_true(now[i] == 0 || now[i] == t->model[offset + i]);
    }
    memcpy(t->model + offset, now, length);
    free(now);
}

static void step_zero(struct twin *t)
{
    uint64_t offset, length;

    pick_range(t, 8 * t->cluster, &offset, &length);
    assert_int_equal(cow_write_zeroes(t->disk, offset, length), 0);
    memset(t->model + offset, 0, length);
    mark_own(t, offset, length);
}

/* What is said to come from the backing file must be equal to it, and untouched. */
static void step_map(struct twin *t)
{
    uint64_t offset, length;

    pick_range(t, 8 * t->cluster, &offset, &length);
    while (length > 0) {
        struct cow_map map, own;

        assert_int_equal(cow_map_chain(t->disk, offset, length, &map), 0);
        assert_int_equal(cow_map(t->disk, offset, length, &own), 0);
        assert_true(map.length > 0 && map.length <= own.length && own.length <= length);
        if (map.kind == COW_MAP_BACKING) {
            assert_int_equal(own.kind, COW_MAP_BACKING);
            assert_true(map.offset + map.length <= t->backing_size);
            assert_memory_equal(t->model + offset, t->backing + map.offset, map.length);
            for (uint64_t i = offset / 512; i < (offset + map.length) / 512; i++)
                assert_int_equal(t->own[i], 0);
        }
        for (uint64_t i = 0; map.kind == COW_MAP_ZERO && i < map.length; i++)
            assert_int_equal(t->model[offset + i], 0);
        offset += map.length;
        length -= map.length;
    }
}

static void whole_disk_is_equal(struct twin *t)
{
    uint8_t *data = malloc(t->size);
    struct iovec iov = {.iov_base = data, .iov_len = t->size};

    assert_int_equal(cow_preadv(t->disk, &iov, 1, 0), 0);
    assert_memory_equal(data, t->model, t->size);
    free(data);
}

static void step_reopen(struct twin *t)
{
    assert_int_equal(cow_close(t->disk), 0);
    twin_open(t);
    whole_disk_is_equal(t);
}

static void twin_step(struct twin *t)
{
    switch (rng_below(&t->rng, 16)) {
    case 0: step_discard(t); break;
    case 1: step_zero(t); break;
    case 2: assert_int_equal(cow_flush(t->disk), 0); break;
    case 3: step_map(t); break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8: step_read(t); break;
    case 9:
        if (rng_below(&t->rng, 8) == 0)
            step_reopen(t);
        break;
    default: step_write(t); break;
    }
}

static void run_random(uint64_t seed, unsigned bits, uint64_t size, uint64_t backing_size,
                       int steps)
{
    struct twin t;

    twin_start(&t, seed, bits, size, backing_size);
    for (int i = 0; i < steps; i++) {
        twin_step(&t);
        if (i % 8 == 0)
            assert_clean(t.fd);
    }
    whole_disk_is_equal(&t);
    step_reopen(&t);
    if (have_qemu_img()) {
        assert_int_equal(cow_flush(t.disk), 0);
        assert_int_equal(qemu_img_check(t.fd), 0);
    }
    twin_end(&t);
}

static void test_clusters_512(void **state)
{
    (void)state;
    run_random(1, 9, 6u << 20, 5u << 20, 600);
    run_random(2, 9, 1u << 20, 0, 300);
}

static void test_clusters_4k(void **state)
{
    (void)state;
    run_random(3, 12, 12u << 20, (7u << 20) + 1234, 600);
}

static void test_clusters_8k(void **state)
{
    (void)state;
    run_random(8, 13, 24u << 20, 20u << 20, 600);
}

static void test_clusters_64k(void **state)
{
    (void)state;
    run_random(4, 16, (24u << 20) + 512, 20u << 20, 500);
    run_random(5, 16, 12u << 20, 40u << 20, 300);
    run_random(6, 16, (8u << 20) + 4096, 0, 300);
}

static void test_clusters_2m(void **state)
{
    (void)state;
    run_random(7, 21, (16u << 20) + 512, 16u << 20, 120);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clusters_512), cmocka_unit_test(test_clusters_4k),
        cmocka_unit_test(test_clusters_8k),  cmocka_unit_test(test_clusters_64k),
        cmocka_unit_test(test_clusters_2m),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
