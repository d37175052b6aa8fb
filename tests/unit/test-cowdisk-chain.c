/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Images on top of each other: what is opened and how it is named, what is refused, who owns what;
 * deep chains of random images against a flat model, and the memory they take.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <dirent.h>
#include <malloc.h>
#include <sys/mman.h>

#define MAX_FILES 260
#define MIB       (1ull << 20)

/* A file system of our own. */
struct files {
    char name[MAX_FILES][64];
    int fd[MAX_FILES];
    int n;
    char opened[4096]; /* what was asked for, in order, "+" behind what is to be written to */
};

static int file_new(struct files *f, const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    assert_true(fd >= 0 && f->n < MAX_FILES);
    snprintf(f->name[f->n], sizeof(f->name[0]), "%s", name);
    f->fd[f->n++] = fd;
    return fd;
}

static void files_free(struct files *f)
{
    for (int i = 0; i < f->n; i++)
        close(f->fd[i]);
    free(f);
}

static int open_by_name(void *opaque, const char *path, bool writable, int *ret_fd)
{
    struct files *f = opaque;
    size_t used = strlen(f->opened);

    snprintf(f->opened + used, sizeof(f->opened) - used, "%s%s ", path, writable ? "+" : "");
    for (int i = 0; i < f->n; i++) {
        if (strcmp(f->name[i], path) == 0) {
            *ret_fd = open_again(f->fd[i], writable ? O_RDWR : O_RDONLY);
            return 0;
        }
    }
    return -ENOENT;
}

static int open_files(struct files *f, const char *path, unsigned flags, struct cow_disk **ret_disk,
                      struct cow_error *err)
{
    struct cow_chain_options options = {
        .path = path, .flags = flags, .open_file = open_by_name, .opaque = f};

    f->opened[0] = '\0';
    return cow_chain_open(ret_disk, &options, err);
}

static int count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void make(struct files *f, const char *name, const char *backing, enum cow_format format,
                 uint64_t size, unsigned bits)
{
    struct cow_create_options options = {
        .size = size, .cluster_bits = bits, .backing_name = backing, .backing_format = format};
    struct cow_error err;

    if (cow_create(file_new(f, name), &options, &err) < 0)
        fail_msg("%s: %s", name, err.text);
}

static void make_raw(struct files *f, const char *name, uint8_t byte, uint64_t bytes)
{
    uint8_t *data = malloc(bytes);

    memset(data, byte, bytes);
    put_bytes(file_new(f, name), data, bytes, 0);
    free(data);
}

/* A failed open: the error, words of its text, nothing left open. */
static void refused(struct files *f, const char *path, unsigned flags, int error, const char *words)
{
    int before = count_fds(), r;
    struct cow_disk *disk = NULL;
    struct cow_error err;

    r = open_files(f, path, flags, &disk, &err);
    if (r != error || !strstr(err.text, words))
        fail_msg("%s: %d (%s), not %d (%s)", path, r, err.text, error, words);
    assert_null(disk);
    assert_int_equal(count_fds(), before);
}

static int first_byte(struct cow_disk *disk, uint64_t offset)
{
    uint8_t byte;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};

    assert_int_equal(cow_preadv(disk, &iov, 1, offset), 0);
    return byte;
}

/* ---- names ----------------------------------------------------------------------------------- */

static void test_names(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    int before = count_fds();
    struct cow_disk *disk;
    struct cow_error err;

    (void)state;
    make_raw(f, "/images/a/../base.raw", 0xb1, 65536);
    make(f, "/images/a/mid.qcow2", "../base.raw", COW_FORMAT_RAW, MIB, 16);
    make(f, "over/top.qcow2", "/images/a/mid.qcow2", COW_FORMAT_QCOW2, MIB, 16);
    make(f, "prefix.qcow2", "file:over/top.qcow2", COW_FORMAT_QCOW2, MIB, 16);
    make(f, "colon.qcow2", "./a:b", COW_FORMAT_RAW, MIB, 16);
    make_raw(f, "./a:b", 0xc1, 512);
    assert_int_equal(open_files(f, "prefix.qcow2", 0, &disk, &err), 0);
    assert_string_equal(f->opened, "prefix.qcow2+ over/top.qcow2 /images/a/mid.qcow2 "
                                   "/images/a/../base.raw ");
    assert_int_equal(first_byte(disk, 0), 0xb1);
    assert_int_equal(first_byte(disk, 65536), 0);
    assert_non_null(cow_backing(cow_backing(cow_backing(disk))));
    assert_null(cow_backing(cow_backing(cow_backing(cow_backing(disk)))));
    assert_int_equal(cow_close(disk), 0);
    assert_int_equal(open_files(f, "colon.qcow2", COW_RDONLY, &disk, &err), 0);
    assert_string_equal(f->opened, "colon.qcow2 ./a:b ");
    assert_int_equal(first_byte(disk, 0), 0xc1);
    assert_int_equal(cow_close(disk), 0);
    assert_int_equal(count_fds(), before + f->n);
    files_free(f);
}

static void test_refused(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    char name[COW_MAX_NAME];

    (void)state;
    memset(name, 'n', sizeof(name));
    name[COW_MAX_NAME - 1] = '\0';
    make(f, "json", "json:{\"driver\":\"null-co\"}", COW_FORMAT_RAW, MIB, 16);
    make(f, "nbd", "nbd://host/x", COW_FORMAT_RAW, MIB, 16);
    make(f, "nothing", "file:", COW_FORMAT_RAW, MIB, 16);
    make(f, "long", name, COW_FORMAT_RAW, MIB, 16);
    make(f, "missing", "nowhere", COW_FORMAT_RAW, MIB, 16);
    make(f, "deep", "missing", COW_FORMAT_QCOW2, MIB, 16);
    make(f, "self", "self", COW_FORMAT_QCOW2, MIB, 16);
    make(f, "one", "two", COW_FORMAT_QCOW2, MIB, 16);
    make(f, "two", "three", COW_FORMAT_QCOW2, MIB, 16);
    make(f, "three", "./two", COW_FORMAT_QCOW2, MIB, 16);
    snprintf(f->name[f->n], sizeof(f->name[0]), "./two"); /* another name of the same file */
    f->fd[f->n] = dup(f->fd[f->n - 2]);
    f->n++;
    make_raw(f, "noise", 0x55, 70000);
    make(f, "wrong", "noise", COW_FORMAT_QCOW2, MIB, 16);
    refused(f, "json", COW_RDONLY, -ENOTSUP, "not a plain file");
    refused(f, "nbd", 0, -ENOTSUP, "not a plain file");
    refused(f, "nothing", 0, -EINVAL, "without a name");
    refused(f, "long", 0, -ENOENT, "nnn");
    refused(f, "missing", 0, -ENOENT, "nowhere: No such file");
    refused(f, "deep", COW_RDONLY, -ENOENT, "nowhere: No such file");
    refused(f, "self", 0, -ELOOP, "under itself");
    refused(f, "one", COW_RDONLY, -ELOOP, "under itself");
    refused(f, "wrong", 0, -EINVAL, "noise: not a qcow2 image");
    refused(f, "absent", 0, -ENOENT, "absent: No such file");
    refused(f, "missing", COW_SHARED, -ENOENT, "nowhere");
    refused(f, "noise", COW_SHARED, -EINVAL, "only for reading");
    files_free(f);
}

static void test_depth(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    char name[16], below[16];
    struct cow_disk *disk;
    struct cow_error err;

    (void)state;
    make_raw(f, "0", 0xb1, 65536);
    for (unsigned i = 1; i <= COW_MAX_CHAIN; i++) {
        snprintf(name, sizeof(name), "%u", i);
        snprintf(below, sizeof(below), "%u", i - 1);
        make(f, name, below, i == 1 ? COW_FORMAT_RAW : COW_FORMAT_QCOW2, MIB, 9);
    }
    snprintf(name, sizeof(name), "%u", COW_MAX_CHAIN - 1);
    assert_int_equal(open_files(f, name, COW_RDONLY, &disk, &err), 0);
    assert_int_equal(first_byte(disk, 65535), 0xb1);
    assert_int_equal(first_byte(disk, 65536), 0);
    assert_int_equal(cow_close(disk), 0);
    snprintf(name, sizeof(name), "%u", COW_MAX_CHAIN);
    refused(f, name, COW_RDONLY, -ELOOP, "more than 200");
    files_free(f);
}

/* ---- formats and flags ----------------------------------------------------------------------- */

/* What is recorded as raw is raw, whatever a guest wrote to its beginning. */
static void test_formats(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    enum cow_format format;
    struct cow_disk *disk;
    struct cow_error err;
    struct cow_info info;

    (void)state;
    make_raw(f, "base", 0xb1, 65536);
    make(f, "guest", "base", COW_FORMAT_RAW, MIB, 16);
    make(f, "raw", "guest", COW_FORMAT_RAW, MIB, 16);
    make(f, "qcow2", "guest", COW_FORMAT_QCOW2, MIB, 16);
    make(f, "unknown", "guest", COW_FORMAT_QCOW2, MIB, 16);
    put_bytes(f->fd[4], "\0\0\0\0\0\0\0\0", 8, 104); /* forgets the format */
    assert_int_equal(open_files(f, "raw", COW_RDONLY, &disk, &err), 0);
    assert_int_equal(first_byte(disk, 0), 'Q');
    assert_int_equal(cow_close(disk), 0);
    assert_int_equal(open_files(f, "qcow2", COW_RDONLY, &disk, &err), 0);
    assert_int_equal(first_byte(disk, 0), 0xb1);
    assert_int_equal(cow_close(disk), 0);
    assert_int_equal(open_files(f, "unknown", COW_RDONLY, &disk, &err), 0);
    assert_int_equal(first_byte(disk, 0), 0xb1);
    assert_int_equal(cow_close(disk), 0);
    put_bytes(f->fd[3], "vmdk!", 5, 112);
    refused(f, "qcow2", COW_RDONLY, -ENOTSUP, "only raw and qcow2");
    assert_int_equal(cow_probe(f->fd[0], &format, &err), 0);
    assert_int_equal(format, COW_FORMAT_RAW);
    assert_int_equal(cow_probe(f->fd[1], &format, &err), 0);
    assert_int_equal(format, COW_FORMAT_QCOW2);
    assert_int_equal(cow_info_read(f->fd[2], COW_FORMAT_PROBE, &info, &err), 0);
    assert_int_equal(info.format, COW_FORMAT_QCOW2);
    assert_int_equal(info.version, 3);
    assert_int_equal(info.virtual_size, MIB);
    assert_int_equal(info.cluster_bits, 16);
    assert_int_equal(info.refcount_bits, 16);
    assert_string_equal(info.backing_name, "guest");
    assert_string_equal(info.backing_format, "raw");
    assert_int_equal(info.file_bytes, file_size(f->fd[2]));
    assert_int_equal(cow_info_read(f->fd[0], COW_FORMAT_PROBE, &info, &err), 0);
    assert_int_equal(info.format, COW_FORMAT_RAW);
    assert_int_equal(info.virtual_size, 65536);
    files_free(f);
}

static void test_flags(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    struct iovec iov = {.iov_base = "x", .iov_len = 1};
    struct cow_disk *disk, *other = NULL;
    struct cow_error err;
    struct cow_map map;

    (void)state;
    make_raw(f, "base", 0xb1, 65536);
    make(f, "mid", "base", COW_FORMAT_RAW, MIB, 16);
    make(f, "top", "mid", COW_FORMAT_QCOW2, MIB, 16);
    /* A writer; the base below it may be read by others, not written to. */
    assert_int_equal(open_files(f, "top", 0, &disk, &err), 0);
    assert_int_equal(cow_pwritev(disk, &iov, 1, 10), 0);
    assert_int_equal(cow_flush(disk), 0);
    refused(f, "top", 0, -EBUSY, "in use");
    refused(f, "top", COW_RDONLY, -EBUSY, "in use");
    refused(f, "mid", 0, -EBUSY, "in use");
    assert_int_equal(open_files(f, "mid", COW_RDONLY, &other, &err), 0);
    assert_int_equal(cow_close(other), 0);
    assert_int_equal(open_files(f, "top", COW_RDONLY | COW_SHARED, &other, &err), 0);
    assert_int_equal(first_byte(other, 10), 'x');
    assert_int_equal(first_byte(other, 11), 0xb1);
    assert_int_equal(cow_close(other), 0);
    assert_int_equal(cow_close(disk), 0);
    /* Alone: without what lies below, for reading. */
    assert_int_equal(open_files(f, "top", COW_NO_BACKING, &disk, &err), 0);
    assert_string_equal(f->opened, "top+ ");
    assert_null(cow_backing(disk));
    assert_int_equal(first_byte(disk, 10), 'x');
    assert_int_equal(first_byte(disk, 65536), 0);
    assert_int_equal(cow_pwritev(disk, &iov, 1, 70000), -EROFS);
    assert_int_equal(cow_write_zeroes(disk, 0, 65536), -EROFS);
    assert_int_equal(cow_discard(disk, 0, 65536), -EROFS);
    assert_int_equal(cow_map(disk, 65536, 65536, &map), 0);
    assert_int_equal(map.kind, COW_MAP_BACKING);
    assert_int_equal(cow_close(disk), 0);
    files_free(f);
}

/* Whose the backing disk is: the caller's until an image over it is open. */
static void test_ownership(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    struct cow_open_options base = {.format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options mid = {.format = COW_FORMAT_QCOW2, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options top = {.format = COW_FORMAT_QCOW2, .data_fd = -1};
    int before;
    struct cow_disk *disk = NULL;
    struct cow_error err;

    (void)state;
    make_raw(f, "base", 0xb1, 65536);
    make(f, "mid", "base", COW_FORMAT_RAW, MIB, 16);
    make(f, "top", "mid", COW_FORMAT_QCOW2, MIB, 16);
    make_raw(f, "noise", 0x12, 100);
    before = count_fds();
    base.fd = f->fd[0];
    mid.fd = f->fd[1];
    top.fd = f->fd[3];
    assert_int_equal(cow_open(&mid.backing, &base, &err), 0);
    assert_int_equal(cow_open(&top.backing, &mid, &err), 0);
    assert_int_equal(first_byte(top.backing, 5), 0xb1);
    assert_int_equal(cow_open(&disk, &top, &err), -EINVAL); /* noise */
    top.fd = f->fd[2];
    put_bytes(f->fd[2], "\xff", 1, 40); /* L1 is nowhere */
    assert_int_equal(cow_open(&disk, &top, &err), -EINVAL);
    put_bytes(f->fd[2], "\0", 1, 40);
    put_bytes(f->fd[2], "\xff\xff\xff\xff\xff", 5, 65536); /* nor are the refcounts */
    assert_int_equal(cow_open(&disk, &top, &err), -EINVAL);
    put_bytes(f->fd[2], "\0\0\0\0\0", 5, 65536);
    assert_int_equal(first_byte(top.backing, 5), 0xb1);
    assert_int_equal(cow_open(&disk, &top, &err), 0);
    assert_ptr_equal(cow_backing(disk), top.backing);
    assert_int_equal(first_byte(disk, 5), 0xb1);
    assert_int_equal(cow_close(disk), 0);
    assert_int_equal(count_fds(), before);
    files_free(f);
}

/* ---- deep ------------------------------------------------------------------------------------ */

#define LAYERS 14

/* Changes the disk and the model, which is as long as the longest. */
static void change(struct rng *rng, struct cow_disk *disk, uint8_t *model)
{
    uint64_t size = cow_size(disk);
    uint8_t data[40000];

    for (int i = 0; i < 14; i++) {
        uint64_t unit = rng_below(rng, 2) ? 1 : 4096;
        uint64_t offset = rng_below(rng, size) / unit * unit;
        uint64_t length = (1 + rng_below(rng, sizeof(data))) / unit * unit;
        struct iovec iov = {.iov_base = data};

        if (length > size - offset)
            length = size - offset;
        if (rng_below(rng, 4) == 0) {
            memset(data, 0, length);
            assert_int_equal(cow_write_zeroes(disk, offset, length), 0);
        } else {
            rng_fill(rng, data, length);
            iov.iov_len = length;
            assert_int_equal(cow_pwritev(disk, &iov, 1, offset), 0);
        }
        memcpy(model + offset, data, length);
    }
}

static void compare(struct rng *rng, struct cow_disk *disk, const uint8_t *model,
                    const uint8_t *base, uint64_t base_bytes)
{
    uint64_t size = cow_size(disk);
    uint8_t *data = malloc(size);

    for (int i = 0; i < 300; i++) {
        uint64_t offset = i ? rng_below(rng, size) : 0;
        uint64_t length = i ? 1 + rng_below(rng, i % 3 ? 9000 : 500000) : size;
        struct iovec iov = {.iov_base = data};
        struct cow_map map;

        iov.iov_len = length = length < size - offset ? length : size - offset;
        memset(data, 0xee, length);
        assert_int_equal(cow_preadv(disk, &iov, 1, offset), 0);
        assert_memory_equal(data, model + offset, length);
        assert_int_equal(cow_map_chain(disk, offset, length, &map), 0);
        assert_true(map.length > 0 && map.length <= length);
        if (map.kind == COW_MAP_BACKING) {
            assert_true(map.offset + map.length <= base_bytes);
            assert_memory_equal(base + map.offset, model + offset, map.length);
        }
        for (uint64_t k = 0; map.kind == COW_MAP_ZERO && k < map.length; k++)
            assert_int_equal(model[offset + k], 0);
    }
    free(data);
}

/* Layers of all sizes: a short one hides the rest of what is below it. */
static void run_chain(uint64_t seed)
{
    static const unsigned bits[] = {16, 12, 9, 16, 18, 12, 14};
    struct files *f = calloc(1, sizeof(*f));
    uint64_t max = 5 * MIB, base_bytes = 3 * MIB + 700;
    uint8_t *model = calloc(1, max), *base = malloc(base_bytes);
    struct rng rng = {seed};
    char name[16] = "base", below[16];

    rng_fill(&rng, base, base_bytes);
    memcpy(model, base, base_bytes);
    put_bytes(file_new(f, name), base, base_bytes, 0);
    for (unsigned i = 0; i < LAYERS; i++) {
        uint64_t size = i % 5 == 3 ? 2 * MIB + 512 * rng_below(&rng, 100) : max - 512 * (i % 3);
        struct cow_disk *disk;
        struct cow_error err;

        memcpy(below, name, sizeof(below));
        snprintf(name, sizeof(name), "%u", i);
        make(f, name, below, i ? COW_FORMAT_QCOW2 : COW_FORMAT_RAW, size, bits[(seed + i) % 7]);
        memset(model + size, 0, max - size);
        if (open_files(f, name, 0, &disk, &err) < 0)
            fail_msg("%s: %s", name, err.text);
        compare(&rng, disk, model, base, base_bytes);
        change(&rng, disk, model);
        compare(&rng, disk, model, base, base_bytes);
        assert_int_equal(cow_close(disk), 0);
        assert_clean(f->fd[f->n - 1]);
    }
    free(model);
    free(base);
    files_free(f);
}

static void test_deep(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++)
        run_chain(seed);
}

/* Each layer has more tables than the cache has pages; the cache is one for all of them. */
static void test_memory(void **state)
{
    struct files *f = calloc(1, sizeof(*f));
    uint64_t size = 1024 * MIB;
    char name[16] = "base", below[16];
    struct cow_disk *disk;
    struct cow_error err;
    size_t before;

    (void)state;
    make_raw(f, name, 0xb1, 4096);
    for (unsigned i = 0; i < 12; i++) {
        memcpy(below, name, sizeof(below));
        snprintf(name, sizeof(name), "%u", i);
        make(f, name, below, i ? COW_FORMAT_QCOW2 : COW_FORMAT_RAW, size, 12);
        assert_int_equal(open_files(f, name, 0, &disk, &err), 0);
        for (uint64_t at = 4096 * (1 + i); at < size; at += 2 * MIB) {
            struct iovec iov = {.iov_base = name, .iov_len = 1};
            assert_int_equal(cow_pwritev(disk, &iov, 1, at), 0);
        }
        assert_int_equal(cow_close(disk), 0);
    }
    before = mallinfo2().uordblks;
    assert_int_equal(open_files(f, name, COW_RDONLY, &disk, &err), 0);
    for (uint64_t at = 0; at < size; at += 2 * MIB)
        assert_int_equal(first_byte(disk, at), at ? 0 : 0xb1);
    for (uint64_t at = 4096; at < size; at += 2 * MIB)
        assert_int_equal(first_byte(disk, at), '0');
    assert_true(mallinfo2().uordblks - before < 6 * MIB);
    assert_int_equal(cow_close(disk), 0);
    files_free(f);
}

/* Hundreds of guests over one template: what each of them costs before it reads anything. */
static void test_many_overlays(void **state)
{
    enum { N = 100 };
    struct files *f = calloc(1, sizeof(*f));
    struct cow_disk *disk[N];
    struct cow_error err;
    size_t before;
    char name[16];

    (void)state;
    make_raw(f, "base", 0xb1, 65536);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "%d", i);
        make(f, name, "base", COW_FORMAT_RAW, 20ull << 30, 16);
    }
    before = mallinfo2().uordblks;
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_int_equal(open_files(f, name, 0, &disk[i], &err), 0);
    }
    assert_true(mallinfo2().uordblks - before < N * 65536ull);
    for (int i = 0; i < N; i++)
        assert_int_equal(cow_close(disk[i]), 0);
    files_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_depth),         cmocka_unit_test(test_formats),
        cmocka_unit_test(test_flags),         cmocka_unit_test(test_ownership),
        cmocka_unit_test(test_deep),          cmocka_unit_test(test_memory),
        cmocka_unit_test(test_many_overlays),
    };

    alarm(300);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
