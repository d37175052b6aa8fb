/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Templates that are not what they were: one flipped bit fails the reads of its block and no
 * others, and is told each time; a backing file other than the recorded one is refused.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <xxhash.h>

#define BLOCKS 40u
#define BYTES  (BLOCKS * COW_BLOCK_SIZE - 1536) /* whole sectors, not whole blocks */

struct fixture {
    int raw, hash_fd, overlay_fd;
    uint8_t data[BLOCKS * COW_BLOCK_SIZE], got[BLOCKS * COW_BLOCK_SIZE];
    struct cow_hashes hashes;
    struct cow_disk *disk;
    unsigned told; /* since the last look */
    uint64_t last;
};

static void on_damaged(void *opaque, uint64_t offset)
{
    struct fixture *f = opaque;

    f->told++;
    f->last = offset;
}

static struct cow_open_options template_options(struct fixture *f)
{
    return (struct cow_open_options){.fd = f->raw,
                                     .format = COW_FORMAT_RAW,
                                     .flags = COW_RDONLY,
                                     .data_fd = -1,
                                     .hashes = &f->hashes,
                                     .damaged = on_damaged,
                                     .opaque = f};
}

static struct fixture *fixture_new(uint64_t seed)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct rng rng = {seed};
    struct cow_error err;

    assert_non_null(f);
    f->raw = nameless_file();
    f->hash_fd = nameless_file();
    f->overlay_fd = -1;
    rng_fill(&rng, f->data, BYTES);
    memset(f->data + 7 * COW_BLOCK_SIZE, 0, 2 * COW_BLOCK_SIZE);
    put_bytes(f->raw, f->data, 7 * COW_BLOCK_SIZE, 0); /* a hole behind it */
    put_bytes(f->raw, f->data + 9 * COW_BLOCK_SIZE, BYTES - 9 * COW_BLOCK_SIZE, 9 * COW_BLOCK_SIZE);
    assert_int_equal(cow_hashes_write(f->raw, f->hash_fd, NULL, NULL), 0);
    assert_int_equal(cow_hashes_map(f->hash_fd, BYTES, &f->hashes, &err), 0);
    return f;
}

static void open_template(struct fixture *f)
{
    struct cow_open_options options = template_options(f);
    struct cow_error err;

    if (cow_open(&f->disk, &options, &err) < 0)
        fail_msg("cow_open: %s", err.text);
}

static void fixture_free(struct fixture *f)
{
    assert_int_equal(cow_close(f->disk), 0);
    cow_hashes_unmap(&f->hashes);
    close(f->raw);
    close(f->hash_fd);
    if (f->overlay_fd >= 0)
        close(f->overlay_fd);
    free(f);
}

static int read_at(struct fixture *f, uint64_t offset, size_t length)
{
    struct iovec iov = {.iov_base = f->got, .iov_len = length};

    f->told = 0;
    memset(f->got, 0xee, length);
    return cow_preadv(f->disk, &iov, 1, offset);
}

static void flip(struct fixture *f, uint64_t byte, unsigned bit)
{
    uint8_t b = f->data[byte] ^ (uint8_t)(1u << bit);

    put_bytes(f->raw, &b, 1, byte);
}

static void mend(struct fixture *f, uint64_t byte)
{
    put_bytes(f->raw, f->data + byte, 1, byte);
}

static void assert_block(struct fixture *f, uint64_t block, bool good)
{
    uint64_t offset = block * COW_BLOCK_SIZE;
    size_t length = block + 1 < BLOCKS ? COW_BLOCK_SIZE : BYTES % COW_BLOCK_SIZE;

    assert_int_equal(read_at(f, offset, length), good ? 0 : -EIO);
    assert_int_equal(f->told, good ? 0 : 1);
    if (good)
        assert_memory_equal(f->got, f->data + offset, length);
    else
        assert_int_equal(f->last, offset);
}

/* One bit, anywhere: exactly its block fails, again and again. */
static void test_one_bit(void **state)
{
    struct fixture *f = fixture_new(1);
    struct rng rng = {2};

    (void)state;
    for (int round = 0; round < 60; round++) {
        uint64_t byte = round == 0   ? BYTES - 1
                        : round == 1 ? 0
                        : round == 2 ? 7 * COW_BLOCK_SIZE + 5
                                     : rng_below(&rng, BYTES);
        flip(f, byte, (unsigned)rng_below(&rng, 8));
        open_template(f);
        for (uint64_t block = 0; block < BLOCKS; block++)
            assert_block(f, block, block != byte / COW_BLOCK_SIZE);
        assert_block(f, byte / COW_BLOCK_SIZE, false); /* never taken for good */
        mend(f, byte);
        assert_block(f, byte / COW_BLOCK_SIZE, true);
        flip(f, byte, 0); /* it is known to be good now, and not read for hashing again */
        assert_int_equal(read_at(f, byte / COW_BLOCK_SIZE * COW_BLOCK_SIZE, 512), 0);
        mend(f, byte);
        assert_int_equal(cow_close(f->disk), 0);
        f->disk = NULL;
    }
    fixture_free(f);
}

/* Any offset, length and cut of the buffers: -EIO exactly if a touched block is damaged. */
static void test_unaligned(void **state)
{
    struct fixture *f = fixture_new(3);
    struct rng rng = {4};

    (void)state;
    for (int round = 0; round < 3000; round++) {
        uint64_t bad = rng_below(&rng, BYTES), offset = rng_below(&rng, BYTES);
        uint64_t length = 1 + rng_below(&rng, (BYTES - offset) < 20000 ? BYTES - offset : 20000);
        uint64_t a = rng_below(&rng, length + 1), b = a + rng_below(&rng, length - a + 1);
        struct iovec iov[] = {{f->got, a}, {f->got + a, b - a}, {f->got + b, length - b}};
        uint64_t block = bad / COW_BLOCK_SIZE;
        bool hit = offset / COW_BLOCK_SIZE <= block && block <= (offset + length - 1) / 4096;

        open_template(f);
        flip(f, bad, 3);
        f->told = 0;
        assert_int_equal(cow_preadv(f->disk, iov, 3, offset), hit ? -EIO : 0);
        assert_int_equal(f->told, hit ? 1 : 0);
        if (!hit)
            assert_memory_equal(f->got, f->data + offset, length);
        mend(f, bad);
        assert_int_equal(cow_preadv(f->disk, iov, 3, offset), 0);
        assert_memory_equal(f->got, f->data + offset, length);
        assert_int_equal(cow_close(f->disk), 0);
        f->disk = NULL;
    }
    fixture_free(f);
}

/* All damage that a read meets is told. */
static void test_many(void **state)
{
    struct fixture *f = fixture_new(5);

    (void)state;
    open_template(f);
    flip(f, 3 * COW_BLOCK_SIZE, 0);
    flip(f, 20 * COW_BLOCK_SIZE + 1, 1);
    flip(f, BYTES - 1, 7);
    assert_int_equal(read_at(f, 0, BYTES), -EIO);
    assert_int_equal(f->told, 3);
    assert_int_equal(f->last, (BLOCKS - 1) * COW_BLOCK_SIZE);
    fixture_free(f);
}

static int open_overlay(struct fixture *f, const struct cow_identity *identity,
                        struct cow_error *err)
{
    struct cow_open_options base = template_options(f);
    struct cow_open_options top = {.fd = f->overlay_fd,
                                   .format = COW_FORMAT_QCOW2,
                                   .data_fd = -1,
                                   .backing_identity = identity};
    int r = cow_open(&top.backing, &base, err);

    assert_int_equal(r, 0);
    r = cow_open(&f->disk, &top, err);
    if (r < 0)
        (void)cow_close(top.backing);
    return r;
}

static void make_overlay(struct fixture *f, const struct cow_identity *identity)
{
    struct cow_create_options options = {.size = BYTES,
                                         .backing_name = "template",
                                         .backing_format = COW_FORMAT_RAW,
                                         .backing_identity = identity};
    struct cow_error err;

    f->overlay_fd = nameless_file();
    assert_int_equal(cow_create(f->overlay_fd, &options, &err), 0);
}

/* Through an overlay; a write to a part of a damaged cluster fails as well, and spoils nothing. */
static void test_overlay(void **state)
{
    struct fixture *f = fixture_new(6);
    struct iovec iov = {.iov_base = f->got, .iov_len = 512};
    struct cow_error err;

    (void)state;
    make_overlay(f, &f->hashes.identity);
    flip(f, 5 * COW_BLOCK_SIZE + 77, 2);
    assert_int_equal(open_overlay(f, &f->hashes.identity, &err), 0);
    for (uint64_t block = 0; block < BLOCKS; block++)
        assert_block(f, block, block != 5);
    memset(f->got, 1, 512);
    assert_int_equal(cow_pwritev(f->disk, &iov, 1, 512), -EIO);
    memset(f->got, 1, 512);
    assert_int_equal(cow_pwritev(f->disk, &iov, 1, 100ull * 1024), 0);
    assert_block(f, 0, true);
    assert_block(f, 5, false);
    assert_int_equal(cow_flush(f->disk), 0);
    assert_clean(f->overlay_fd);
    fixture_free(f);
}

/* Other guests depend on a template as it is. */
static void test_no_commit_to_template(void **state)
{
    struct fixture *f = fixture_new(9);
    struct cow_error err;

    (void)state;
    make_overlay(f, &f->hashes.identity);
    assert_int_equal(open_overlay(f, &f->hashes.identity, &err), 0);
    assert_int_equal(cow_commit_to_backing(f->disk, 0, NULL, NULL, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "template"));
    fixture_free(f);
}

static void test_identity(void **state)
{
    struct fixture *f = fixture_new(7), *other = fixture_new(8);
    struct cow_identity id;
    struct cow_error err;
    struct cow_info info;

    (void)state;
    assert_memory_not_equal(&f->hashes.identity, &other->hashes.identity, sizeof(id));
    assert_int_equal(cow_hashes_identity(f->hash_fd, BYTES, &id, &err), 0);
    assert_memory_equal(&id, &f->hashes.identity, sizeof(id));
    assert_int_equal(cow_hashes_identity(f->hash_fd, BYTES + 512, &id, &err), -EINVAL);

    make_overlay(f, &f->hashes.identity);
    assert_int_equal(cow_info_read(f->overlay_fd, COW_FORMAT_QCOW2, &info, &err), 0);
    assert_true(info.has_identity);
    assert_memory_equal(&info.identity, &f->hashes.identity, sizeof(id));
    assert_int_equal(open_overlay(f, &other->hashes.identity, &err), -ESTALE);
    assert_non_null(strstr(err.text, "\"template\" is not the one"));
    assert_int_equal(open_overlay(f, &f->hashes.identity, &err), 0);
    assert_int_equal(cow_close(f->disk), 0);
    assert_int_equal(open_overlay(f, NULL, &err), 0); /* not compared */
    assert_clean(f->overlay_fd);
    if (have_qemu_img())
        assert_int_equal(qemu_img_check(f->overlay_fd), 0);

    make_overlay(other, NULL); /* of an earlier version: nothing to compare with */
    assert_int_equal(cow_info_read(other->overlay_fd, COW_FORMAT_QCOW2, &info, &err), 0);
    assert_false(info.has_identity);
    assert_int_equal(open_overlay(other, &f->hashes.identity, &err), 0);
    fixture_free(f);
    fixture_free(other);
}

/* The extension must have its length. */
static void test_identity_damaged(void **state)
{
    struct fixture *f = fixture_new(9);
    uint32_t length = htobe32(15);
    struct cow_error err;
    struct cow_info info;

    (void)state;
    make_overlay(f, &f->hashes.identity);
    put_bytes(f->overlay_fd, &length, sizeof(length), 104 + 16 + 4);
    assert_int_equal(cow_info_read(f->overlay_fd, COW_FORMAT_QCOW2, &info, &err), -EINVAL);
    assert_non_null(strstr(err.text, "identity"));
    fixture_free(f);
}

/* Hash files of version 1: no identity in the header. */
static void test_old_hash_file(void **state)
{
    struct fixture *f = fixture_new(10);
    size_t bytes = file_size(f->hash_fd);
    uint8_t *file = malloc(bytes);
    struct cow_hashes hashes;
    struct cow_identity id;
    struct cow_error err;
    uint32_t version = 1;
    uint64_t sum;

    (void)state;
    assert_int_equal(pread(f->hash_fd, file, bytes, 0), (ssize_t)bytes);
    memcpy(file + 8, &version, sizeof(version));
    memset(file + 40, 0, 24);
    sum = XXH3_64bits_withSeed(file + 64, bytes - 64, XXH3_64bits(file, 64));
    memcpy(file + 56, &sum, sizeof(sum));
    id = f->hashes.identity;
    cow_hashes_unmap(&f->hashes);
    put_bytes(f->hash_fd, file, bytes, 0);
    assert_int_equal(cow_hashes_map(f->hash_fd, BYTES, &hashes, &err), 0);
    assert_memory_equal(&hashes.identity, &id, sizeof(id));
    cow_hashes_unmap(&hashes);
    memset(&id, 0, sizeof(id));
    assert_int_equal(cow_hashes_identity(f->hash_fd, BYTES, &id, &err), 0);
    version = 3;
    put_bytes(f->hash_fd, &version, sizeof(version), 8);
    assert_int_equal(cow_hashes_map(f->hash_fd, BYTES, &hashes, &err), -EINVAL);
    assert_int_equal(cow_hashes_identity(f->hash_fd, BYTES, &id, &err), -EINVAL);
    free(file);
    fixture_free(f);
}

static void test_bad_options(void **state)
{
    struct fixture *f = fixture_new(11);
    struct cow_open_options options = template_options(f);
    struct cow_disk *disk;
    struct cow_error err;

    (void)state;
    options.flags = 0;
    assert_int_equal(cow_open(&disk, &options, &err), -EINVAL);
    make_overlay(f, NULL);
    options.flags = COW_RDONLY | COW_NO_BACKING;
    options.fd = f->overlay_fd;
    options.format = COW_FORMAT_QCOW2;
    assert_int_equal(cow_open(&disk, &options, &err), -EINVAL);
    options = template_options(f);
    assert_int_equal(ftruncate(f->raw, BYTES - 512), 0);
    assert_int_equal(cow_open(&disk, &options, &err), -ESTALE);
    assert_int_equal(ftruncate(f->raw, BYTES + 512), 0);
    assert_int_equal(cow_open(&disk, &options, &err), -ESTALE);
    fixture_free(f);
}

static int stop_at_once(void *opaque, uint64_t done, uint64_t total)
{
    (void)opaque;
    return done <= total;
}

static void test_whole_disk(void **state)
{
    struct fixture *f = fixture_new(12);

    (void)state;
    assert_int_equal(cow_hashes_verify(f->raw, &f->hashes, on_damaged, NULL, f), 0);
    assert_int_equal(f->told, 0);
    flip(f, 8 * COW_BLOCK_SIZE, 4); /* in the hole */
    flip(f, BYTES - 1, 0);
    assert_int_equal(cow_hashes_verify(f->raw, &f->hashes, on_damaged, NULL, f), -EILSEQ);
    assert_int_equal(f->told, 2);
    assert_int_equal(f->last, (BLOCKS - 1) * COW_BLOCK_SIZE);
    assert_int_equal(cow_hashes_verify(f->raw, &f->hashes, on_damaged, stop_at_once, f),
                     -ECANCELED);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_bit),
        cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_overlay),
        cmocka_unit_test(test_no_commit_to_template),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_identity_damaged),
        cmocka_unit_test(test_old_hash_file),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_whole_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
