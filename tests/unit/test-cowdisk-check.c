/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cow_check() on images damaged by hand, one thing at a time: what it counts, what a repair leaves,
 * and what it must not touch. The images in masses, beside QEMU, are in integration/image-check.
 */
#include "tests/unit/test-cowdisk-util.h"

#define BITS    12u
#define CLUSTER (1u << BITS)
#define SIZE    (4u << 20)
#define COPIED  (1ull << 63)
#define N_DATA  100u /* clusters with data, from the beginning of the disk */
#define OFFSETS 0x00fffffffffffe00ull

struct broken {
    int fd;
    uint8_t data[N_DATA * CLUSTER];
    uint64_t l1, l2, rt, block; /* places in the file */
};

static uint64_t get_64(int fd, uint64_t offset)
{
    uint64_t v;

    assert_int_equal(pread(fd, &v, sizeof(v), (off_t)offset), sizeof(v));
    return be64toh(v);
}

static void put_64(int fd, uint64_t offset, uint64_t v)
{
    v = htobe64(v);
    put_bytes(fd, &v, sizeof(v), offset);
}

static void put_count(struct broken *b, uint64_t cluster, uint16_t count)
{
    count = htobe16(count);
    put_bytes(b->fd, &count, sizeof(count), b->block + 2 * cluster);
}

static uint64_t entry_place(const struct broken *b, uint64_t cluster)
{
    return b->l2 + 8 * cluster;
}

static uint64_t host_cluster(const struct broken *b, uint64_t cluster)
{
    return (get_64(b->fd, entry_place(b, cluster)) & OFFSETS) >> BITS;
}

static struct cow_disk *open_disk(int fd, unsigned flags)
{
    struct cow_open_options options = {
        .fd = fd, .format = COW_FORMAT_QCOW2, .flags = flags, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;

    if (cow_open(&disk, &options, &err) < 0)
        fail_msg("cow_open: %s", err.text);
    return disk;
}

/* A clean image with data in it, and where its tables are. */
static void start(struct broken *b)
{
    struct cow_create_options options = {.size = SIZE, .cluster_bits = BITS};
    struct rng rng = {.state = 77};
    struct iovec iov = {.iov_base = b->data, .iov_len = sizeof(b->data)};
    struct cow_disk *disk;

    b->fd = nameless_file();
    assert_int_equal(cow_create(b->fd, &options, NULL), 0);
    rng_fill(&rng, b->data, sizeof(b->data));
    disk = open_disk(b->fd, 0);
    assert_int_equal(cow_pwritev(disk, &iov, 1, 0), 0);
    assert_int_equal(cow_close(disk), 0);
    b->l1 = get_64(b->fd, 40);
    b->rt = get_64(b->fd, 48);
    b->l2 = get_64(b->fd, b->l1) & OFFSETS;
    b->block = get_64(b->fd, b->rt);
    assert_clean(b->fd);
}

static struct cow_check_result check_it(const struct broken *b, unsigned flags)
{
    struct cow_check_result result;
    struct cow_error err;

    memset(&result, 0xa5, sizeof(result));
    if (cow_check(b->fd, flags, &result, NULL, NULL, &err) < 0)
        fail_msg("cow_check: %s", err.text);
    return result;
}

/* The data is still there. */
static void same_data(const struct broken *b)
{
    struct cow_disk *disk = open_disk(b->fd, COW_RDONLY);
    uint8_t *now = malloc(sizeof(b->data));
    struct iovec iov = {.iov_base = now, .iov_len = sizeof(b->data)};

    assert_int_equal(cow_preadv(disk, &iov, 1, 0), 0);
    assert_memory_equal(now, b->data, sizeof(b->data));
    assert_int_equal(cow_close(disk), 0);
    free(now);
}

static void repaired(const struct broken *b, unsigned how)
{
    struct cow_check_result result = check_it(b, how);

    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_true(result.corruptions_fixed + result.leaks_fixed > 0);
    assert_clean(b->fd);
    same_data(b);
    close(b->fd);
}

static void test_clean(void **state)
{
    static struct broken b;
    struct cow_check_result result;

    (void)state;
    start(&b);
    result = check_it(&b, 0);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.n_problems, 0);
    assert_int_equal(result.total_clusters, SIZE / CLUSTER);
    assert_int_equal(result.allocated_clusters, N_DATA);
    assert_int_equal(result.compressed_clusters, 0);
    assert_true(result.image_end <= file_size(b.fd));
    close(b.fd);
}

static void test_leaks(void **state)
{
    static struct broken b;
    struct cow_check_result result;

    (void)state;
    start(&b);
    put_64(b.fd, entry_place(&b, 200), 0);
    put_count(&b, 300, 1); /* behind all that is used, inside the file */
    assert_int_equal(ftruncate(b.fd, 400 * CLUSTER), 0);
    put_count(&b, host_cluster(&b, 5), 3);
    result = check_it(&b, 0);
    assert_int_equal(result.leaks, 2);
    assert_int_equal(result.corruptions, 1); /* COPIED, but not counted once */
    repaired(&b, COW_REPAIR_LEAKS);
}

static void test_count_too_low(void **state)
{
    static struct broken b;
    struct cow_check_result result;

    (void)state;
    start(&b);
    put_count(&b, host_cluster(&b, 7), 0);
    result = check_it(&b, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.corruptions, 2); /* the count, and the flag */
    result = check_it(&b, COW_REPAIR_LEAKS);
    assert_int_equal(result.corruptions, 2); /* not a leak: not touched */
    repaired(&b, COW_REPAIR_ALL);
}

static void test_copied(void **state)
{
    static struct broken b;
    struct cow_check_result result;

    (void)state;
    start(&b);
    put_64(b.fd, entry_place(&b, 9), get_64(b.fd, entry_place(&b, 9)) & ~COPIED);
    put_64(b.fd, b.l1, get_64(b.fd, b.l1) & ~COPIED);
    result = check_it(&b, 0);
    assert_int_equal(result.corruptions, 2);
    assert_int_equal(result.n_problems, 2);
    assert_non_null(strstr(result.problem[0], "COPIED"));
    repaired(&b, COW_REPAIR_ALL);
}

static void test_l1_flags(void **state)
{
    static struct broken b;

    (void)state;
    start(&b);
    put_64(b.fd, b.l1 + 8, COPIED);
    assert_int_equal(check_it(&b, 0).corruptions, 1);
    repaired(&b, COW_REPAIR_ALL);
}

/* Two guest clusters in one place: afterwards a write to one does not change the other. */
static void test_used_twice(void **state)
{
    static struct broken b;
    struct cow_check_result result;
    struct cow_disk *disk;
    uint8_t one[CLUSTER], other[CLUSTER];
    struct iovec to_one = {.iov_base = one, .iov_len = CLUSTER};
    struct iovec to_other = {.iov_base = other, .iov_len = CLUSTER};

    (void)state;
    start(&b);
    put_64(b.fd, entry_place(&b, 11), get_64(b.fd, entry_place(&b, 10)));
    result = check_it(&b, 0);
    assert_int_equal(result.corruptions, 1);
    assert_int_equal(result.leaks, 1);
    result = check_it(&b, COW_REPAIR_ALL);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    disk = open_disk(b.fd, 0);
    memset(one, 0x5a, sizeof(one));
    assert_int_equal(cow_pwritev(disk, &to_one, 1, 10 * CLUSTER), 0);
    assert_int_equal(cow_preadv(disk, &to_other, 1, 11 * CLUSTER), 0);
    assert_memory_equal(other, b.data + 10 * CLUSTER, CLUSTER);
    assert_int_equal(cow_close(disk), 0);
    /* Now the other one has its cluster for itself, without the flag for it. */
    assert_int_equal(check_it(&b, COW_REPAIR_ALL).corruptions_fixed, 1);
    assert_clean(b.fd);
    close(b.fd);
}

/* A lone entry far outside is an error that stays; all else is repaired around it. */
static void test_outside(void **state)
{
    static struct broken b;
    struct cow_check_result result;

    (void)state;
    start(&b);
    put_64(b.fd, entry_place(&b, 200), (1ull << 40) | COPIED);
    put_count(&b, host_cluster(&b, 7), 0);
    result = check_it(&b, COW_REPAIR_ALL);
    assert_int_equal(result.corruptions, 1);
    assert_non_null(strstr(result.problem[0], "outside of the file"));
    same_data(&b);
    close(b.fd);
}

/* A file that was cut short: a new refcount table would lie where missing data belongs. */
static void test_cut_short(void **state)
{
    static struct broken b;
    struct cow_check_result result;
    struct cow_error err;
    uint64_t end;

    (void)state;
    start(&b);
    put_64(b.fd, entry_place(&b, 200), file_size(b.fd) + 2 * CLUSTER);
    put_count(&b, host_cluster(&b, 7), 0);
    end = file_size(b.fd);
    assert_int_equal(cow_check(b.fd, COW_REPAIR_ALL, &result, NULL, NULL, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "cut short"));
    assert_int_equal(file_size(b.fd), end);
    same_data(&b);
    close(b.fd);
}

/* A refcount block that is data as well must not be written, whatever is repaired. */
static void test_block_on_data(void **state)
{
    static struct broken b;

    (void)state;
    start(&b);
    put_64(b.fd, b.rt, host_cluster(&b, 20) << BITS);
    check_it(&b, COW_REPAIR_LEAKS);
    same_data(&b);
    repaired(&b, COW_REPAIR_ALL);
}

/* A table nobody can follow: what it described looks leaked, and must not be given away. */
static void test_blind(void **state)
{
    static struct broken b;
    struct cow_check_result result;
    uint64_t entry;

    (void)state;
    start(&b);
    entry = get_64(b.fd, b.l1);
    put_64(b.fd, b.l1, entry + 512);
    result = check_it(&b, COW_REPAIR_LEAKS);
    assert_true(result.corruptions > 0);
    assert_true(result.leaks >= N_DATA);
    assert_int_equal(result.leaks_fixed, 0);
    put_64(b.fd, b.l1, entry);
    assert_clean(b.fd);
    same_data(&b);
    close(b.fd);
}

static void test_marks(void **state)
{
    static struct broken b;
    struct cow_check_result result;
    struct cow_open_options options = {.format = COW_FORMAT_QCOW2, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;

    (void)state;
    start(&b);
    put_64(b.fd, 72, 3); /* dirty, corrupt */
    options.fd = b.fd;
    assert_int_equal(cow_open(&disk, &options, &err), -ENOTSUP);
    result = check_it(&b, 0);
    assert_true(result.dirty && result.corrupt);
    result = check_it(&b, COW_REPAIR_LEAKS);
    assert_true(result.dirty && result.corrupt);
    result = check_it(&b, COW_REPAIR_ALL);
    assert_false(result.dirty || result.corrupt);
    assert_int_equal(get_64(b.fd, 72), 0);
    same_data(&b);
    close(b.fd);
}

/* More clusters than are looked at in one go: the last one lies in the second window. */
static void test_window(void **state)
{
    struct cow_create_options options = {.size = SIZE, .cluster_bits = 9};
    struct iovec iov = {.iov_base = (void *)"some data", .iov_len = 9};
    const uint64_t far = 18ull << 30;
    struct cow_check_result result;
    static struct broken b;
    struct cow_disk *disk;

    (void)state;
    b.fd = nameless_file();
    assert_int_equal(cow_create(b.fd, &options, NULL), 0);
    disk = open_disk(b.fd, 0);
    assert_int_equal(cow_pwritev(disk, &iov, 1, 0), 0);
    assert_int_equal(cow_close(disk), 0);
    b.l2 = get_64(b.fd, get_64(b.fd, 40)) & OFFSETS;
    put_64(b.fd, entry_place(&b, 30), far | COPIED);
    put_bytes(b.fd, b.data, 512, far);
    result = check_it(&b, 0);
    assert_int_equal(result.corruptions, 2);
    assert_int_equal(result.image_end, far + 512);
    result = check_it(&b, COW_REPAIR_ALL);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    if (have_qemu_img())
        assert_int_equal(qemu_img_check(b.fd), 0);
    close(b.fd);
}

static int stop_at_once(void *opaque, uint64_t done, uint64_t total)
{
    assert_true(done <= total);
    ++*(int *)opaque;
    return 1;
}

static void test_refused(void **state)
{
    static struct broken b;
    struct cow_create_options options = {.size = 1ull << 40, .cluster_bits = BITS};
    struct cow_check_result result = {.leaks = 4711};
    struct cow_error err;
    int calls = 0, again;
    struct cow_disk *disk;

    (void)state;
    start(&b);
    disk = open_disk(b.fd, 0);
    again = open_again(b.fd, O_RDWR);
    assert_int_equal(cow_check(again, 0, &result, NULL, NULL, &err), -EBUSY);
    assert_int_equal(cow_check(again, COW_REPAIR_ALL, &result, NULL, NULL, &err), -EBUSY);
    assert_int_equal(cow_check(again, COW_SHARED, &result, NULL, NULL, &err), 0);
    assert_int_equal(result.leaks, 0);
    close(again);
    assert_int_equal(cow_close(disk), 0);
    again = open_again(b.fd, O_RDONLY);
    result.leaks = 4711;
    assert_int_equal(cow_check(again, COW_REPAIR_ALL, &result, NULL, NULL, &err), -EINVAL);
    close(again);
    put_64(b.fd, 0, 0);
    assert_int_equal(cow_check(b.fd, 0, &result, NULL, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a qcow2 image"));
    close(b.fd);
    b.fd = nameless_file(); /* an L1 table of many entries: there is time to cancel */
    assert_int_equal(cow_create(b.fd, &options, &err), 0);
    assert_int_equal(cow_check(b.fd, 0, &result, stop_at_once, &calls, &err), -ECANCELED);
    assert_int_equal(calls, 1);
    assert_int_equal(result.leaks, 4711);
    close(b.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clean),         cmocka_unit_test(test_leaks),
        cmocka_unit_test(test_count_too_low), cmocka_unit_test(test_copied),
        cmocka_unit_test(test_used_twice),    cmocka_unit_test(test_outside),
        cmocka_unit_test(test_cut_short),     cmocka_unit_test(test_block_on_data),
        cmocka_unit_test(test_blind),         cmocka_unit_test(test_marks),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_window),
        cmocka_unit_test(test_l1_flags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
