/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Damaged images: thousands of deterministic mutants (bytes changed, mostly in metadata; files cut
 * short), each opened, read and written. Any result is fine but a crash, a hang or a read outside
 * of memory (run it under the address sanitizer). Then the errors people should understand, one by
 * one.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <sys/mman.h>
#include <zlib.h>

#define MAX_READ (8u << 20)

struct seed {
    uint8_t *data;
    uint64_t bytes;
    bool backing;
};

/* ---- images to start from -------------------------------------------------------------------- */

static int backing_file(void)
{
    int fd = memfd_create("backing", MFD_CLOEXEC);
    uint8_t data[65536];

    memset(data, 0xb5, sizeof(data));
    put_bytes(fd, data, sizeof(data), 0);
    return fd;
}

static void take_seed(struct seed *seed, int fd, bool backing)
{
    seed->bytes = file_size(fd);
    seed->data = malloc(seed->bytes);
    seed->backing = backing;
    assert_int_equal(pread(fd, seed->data, seed->bytes, 0), (ssize_t)seed->bytes);
}

/* An overlay with a bit of everything that we write. */
static void make_overlay(struct seed *seed, unsigned bits, uint64_t size, bool backing)
{
    int fd = memfd_create("seed", MFD_CLOEXEC), backing_fd = backing ? backing_file() : -1;
    uint8_t data[3000];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    struct rng rng = {bits};
    struct cow_disk *disk;
    struct cow_error err;

    assert_int_equal(create_image(fd, backing ? "base.raw" : NULL, size, bits, &err), 0);
    assert_int_equal(open_image(&disk, fd, false, backing_fd, 0, &err), 0);
    for (int i = 0; i < 12; i++) {
        rng_fill(&rng, data, sizeof(data));
        assert_int_equal(cow_pwritev(disk, &iov, 1, rng_below(&rng, size - sizeof(data))), 0);
        if (i % 4 == 0)
            assert_int_equal(cow_flush(disk), 0);
    }
    assert_int_equal(cow_write_zeroes(disk, 0, size / 4), 0);
    assert_int_equal(cow_close(disk), 0);
    take_seed(seed, fd, backing);
    close(fd);
    if (backing_fd >= 0)
        close(backing_fd);
}

/* Adds a compressed cluster to an image of ours: at its end, for the last guest cluster. */
static void make_compressed(struct seed *seed)
{
    uint64_t cluster, l1, l2, at, in_bytes;
    uint8_t plain[4096], packed[8192];
    struct check check;
    z_stream stream = {0};

    make_overlay(seed, 12, 1 << 20, false);
    assert_null(check_image(&check, seed->data, seed->bytes));
    cluster = check.cluster;
    l1 = image_64(&check.image, 40);
    l2 = image_64(&check.image, l1) & 0x00fffffffffffe00ull;
    assert_true(l2 != 0);
    memset(plain, 0x5a, sizeof(plain));
    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = plain;
    stream.avail_in = sizeof(plain);
    stream.next_out = packed;
    stream.avail_out = sizeof(packed);
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    in_bytes = sizeof(packed) - stream.avail_out;
    deflateEnd(&stream);
    at = (seed->bytes + cluster - 1) / cluster * cluster;
    seed->data = realloc(seed->data, at + in_bytes);
    memset(seed->data + seed->bytes, 0, at - seed->bytes);
    memcpy(seed->data + at, packed, in_bytes);
    seed->bytes = at + in_bytes;
    at = htobe64(1ull << 62 | at | ((in_bytes - 1) / 512) << 58);
    memcpy(seed->data + l2 + 8 * 255, &at, 8);
}

/* ---- mutants --------------------------------------------------------------------------------- */

static uint8_t interesting(struct rng *rng)
{
    static const uint8_t bytes[] = {0, 1, 2, 3, 4, 0x10, 0x40, 0x7f, 0x80, 0xc0, 0xfe, 0xff};

    return rng_below(rng, 3) ? bytes[rng_below(rng, sizeof(bytes))] : (uint8_t)rng_next(rng);
}

/* Where metadata is: anything that is not zero and mostly early in the file. */
static uint64_t pick_spot(struct rng *rng, const struct seed *seed)
{
    for (int tries = 0; tries < 200; tries++) {
        uint64_t at = rng_below(rng, 4) ? rng_below(rng, seed->bytes) : rng_below(rng, 120);
        if (at < seed->bytes && seed->data[at / 8 * 8])
            return at;
    }
    return rng_below(rng, 104);
}

static int make_mutant(struct rng *rng, const struct seed *seed)
{
    int fd = memfd_create("mutant", MFD_CLOEXEC);
    uint64_t changes = 1 + rng_below(rng, rng_below(rng, 4) ? 3 : 60);

    put_bytes(fd, seed->data, seed->bytes, 0);
    for (uint64_t i = 0; i < changes; i++) {
        uint8_t byte = interesting(rng);
        put_bytes(fd, &byte, 1, pick_spot(rng, seed));
    }
    if (rng_below(rng, 8) == 0)
        assert_int_equal(ftruncate(fd, (off_t)rng_below(rng, seed->bytes)), 0);
    return fd;
}

static void read_some(struct cow_disk *disk, struct rng *rng)
{
    static uint8_t buffer[65536];
    uint64_t size = cow_size(disk);
    struct cow_map map;

    for (uint64_t at = 0; at < size && at < MAX_READ; at += sizeof(buffer)) {
        struct iovec iov = {.iov_base = buffer,
                            .iov_len = size - at < sizeof(buffer) ? size - at : sizeof(buffer)};
        (void)cow_preadv(disk, &iov, 1, at);
    }
    for (int i = 0; i < 20 && size >= 4096; i++) {
        struct iovec iov = {.iov_base = buffer, .iov_len = 4096};
        uint64_t at = rng_below(rng, size - 4095);
        (void)cow_preadv(disk, &iov, 1, at);
        (void)cow_map_chain(disk, at, 4096, &map);
    }
}

static void write_some(struct cow_disk *disk, struct rng *rng)
{
    uint8_t data[5000];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    uint64_t size = cow_size(disk);

    memset(data, 0x77, sizeof(data));
    for (int i = 0; i < 12 && size > sizeof(data); i++) {
        uint64_t at = rng_below(rng, size - sizeof(data));
        (void)cow_pwritev(disk, &iov, 1, at);
        if (i % 3 == 0)
            (void)cow_discard(disk, rng_below(rng, size / 2), size / 8);
        if (i % 4 == 0)
            (void)cow_flush(disk);
    }
}

static void run_mutants(const struct seed *seed, uint64_t start, int n)
{
    const char *more = getenv("MUTANT_FACTOR"); /* for long runs */
    struct rng rng = {start};
    int opened = 0, backing_fd = seed->backing ? backing_file() : -1;

    n *= more ? atoi(more) : 1;
    for (int i = 0; i < n; i++) {
        int fd = make_mutant(&rng, seed);
        unsigned flags = i % 2 ? COW_RDONLY : 0;
        struct cow_disk *disk;
        struct cow_error err;

        if (open_image(&disk, fd, false, backing_fd, flags, &err) == 0) {
            opened++;
            read_some(disk, &rng);
            if (!(flags & COW_RDONLY)) {
                write_some(disk, &rng);
                read_some(disk, &rng);
            }
            (void)cow_close(disk);
        } else {
            assert_true(err.text[0] != '\0');
        }
        close(fd);
    }
    assert_true(opened > n / 20);
    assert_true(opened < n);
    if (backing_fd >= 0)
        close(backing_fd);
}

static void test_mutants(void **state)
{
    static const struct {
        unsigned bits;
        uint64_t size;
        bool backing;
    } kinds[] = {
        {9, 256 << 10, true}, {12, 1 << 20, true}, {12, 1 << 20, false}, {16, 4 << 20, true}};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct seed seed;
        make_overlay(&seed, kinds[i].bits, kinds[i].size, kinds[i].backing);
        run_mutants(&seed, 100 + i, kinds[i].bits == 16 ? 500 : 900);
        free(seed.data);
    }
}

static void test_compressed_mutants(void **state)
{
    struct seed seed;

    (void)state;
    make_compressed(&seed);
    run_mutants(&seed, 200, 900);
    free(seed.data);
}

/* ---- compressed clusters --------------------------------------------------------------------- */

static int open_bytes(const struct seed *seed, struct cow_disk **ret_disk, struct cow_error *err)
{
    int fd = memfd_create("image", MFD_CLOEXEC), r;

    put_bytes(fd, seed->data, seed->bytes, 0);
    r = open_image(ret_disk, fd, false, -1, COW_RDONLY, err);
    close(fd);
    return r;
}

static void test_compressed_cluster(void **state)
{
    uint8_t data[4096], expected[4096];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    struct cow_disk *disk;
    struct cow_error err;
    struct seed seed;

    (void)state;
    make_compressed(&seed);
    memset(expected, 0x5a, sizeof(expected));
    assert_int_equal(open_bytes(&seed, &disk, &err), 0);
    assert_int_equal(cow_preadv(disk, &iov, 1, 255 * 4096), 0);
    assert_memory_equal(data, expected, sizeof(data));
    assert_int_equal(cow_close(disk), 0);
    /* A stream that ends early: never a full cluster with something else in it. */
    seed.bytes -= 8;
    assert_int_equal(open_bytes(&seed, &disk, &err), 0);
    assert_int_equal(cow_preadv(disk, &iov, 1, 255 * 4096), -EIO);
    assert_int_equal(cow_close(disk), 0);
    free(seed.data);
}

/* ---- one wrong thing at a time --------------------------------------------------------------- */

struct defect {
    const char *what;
    uint64_t offset;
    uint64_t value;
    int bytes;      /* of the value, big endian */
    int read_error; /* expected from a read-only open */
    int write_error;
};

static const struct defect defects[] = {
    {"magic", 0, 0x514649fa, 4, -EINVAL, -EINVAL},
    {"version 4", 4, 4, 4, -ENOTSUP, -ENOTSUP},
    {"version 1", 4, 1, 4, -ENOTSUP, -ENOTSUP},
    {"backing name far away", 8, 1ull << 40, 8, -EINVAL, -EINVAL},
    {"clusters of 256", 20, 8, 4, -EINVAL, -EINVAL},
    {"clusters of 4 MiB", 20, 22, 4, -EINVAL, -EINVAL},
    {"odd size", 24, 1000, 8, -EINVAL, -EINVAL},
    {"huge size", 24, 1ull << 50, 8, -EINVAL, -EINVAL},
    {"size beyond L1", 24, 1ull << 40, 8, -EINVAL, -EINVAL},
    {"AES", 32, 1, 4, -ENOTSUP, -ENOTSUP},
    {"LUKS", 32, 2, 4, -ENOTSUP, -ENOTSUP},
    {"huge L1", 36, 0xffffffff, 4, -EINVAL, -EINVAL},
    {"L1 past the end", 40, 1ull << 40, 8, -EINVAL, -EINVAL},
    {"L1 unaligned", 40, 4097, 8, -EINVAL, -EINVAL},
    {"L1 in the header", 40, 0, 8, -EINVAL, -EINVAL},
    {"refcount table past the end", 48, 1ull << 40, 8, -EINVAL, -EINVAL},
    {"huge refcount table", 56, 0xffffffff, 4, -EINVAL, -EINVAL},
    {"no refcount table", 56, 0, 4, -EINVAL, -EINVAL},
    {"too many snapshots", 60, 1000000, 4, -EINVAL, -EINVAL},
    {"a snapshot", 60, 1, 4, 0, 0},
    {"dirty", 72, 1, 8, 0, -ENOTSUP},
    {"corrupt", 72, 2, 8, 0, -ENOTSUP},
    {"external data", 72, 4, 8, -ENOTSUP, -ENOTSUP},
    {"zstd, but zlib", 72, 8, 8, -EINVAL, -EINVAL},
    {"extended L2, small clusters", 72, 16, 8, -EINVAL, -EINVAL},
    {"unknown feature", 72, 1ull << 40, 8, -ENOTSUP, -ENOTSUP},
    {"unknown compatible feature", 80, 1ull << 40, 8, 0, 0},
    {"bitmaps", 88, 1, 8, 0, 0},
    {"refcounts of 1 bit", 96, 0, 4, 0, -EINVAL},
    {"refcounts of 2^7 bits", 96, 7, 4, -EINVAL, -EINVAL},
    {"short header", 100, 96, 4, -EINVAL, -EINVAL},
    {"long header", 100, 8192, 4, -EINVAL, -EINVAL},
    {"odd header", 100, 105, 4, -EINVAL, -EINVAL},
    {"long extension", 108, 0xffffff00, 4, 0, 0}, /* type 0 ends them: its length is nobody's */
    {"long unknown extension", 104, 0x11111111ffffff00, 8, -EINVAL, -EINVAL},
};

static void test_defects(void **state)
{
    struct seed seed;

    (void)state;
    make_overlay(&seed, 12, 1 << 20, false);
    for (size_t i = 0; i < sizeof(defects) / sizeof(defects[0]); i++) {
        const struct defect *defect = &defects[i];
        uint64_t value = htobe64(defect->value << (64 - 8 * defect->bytes));

        for (int writing = 0; writing < 2; writing++) {
            int fd = memfd_create("defect", MFD_CLOEXEC), r;
            int expected = writing ? defect->write_error : defect->read_error;
            struct cow_disk *disk;
            struct cow_error err;

            put_bytes(fd, seed.data, seed.bytes, 0);
            put_bytes(fd, &value, (size_t)defect->bytes, defect->offset);
            r = open_image(&disk, fd, false, -1, writing ? 0 : COW_RDONLY, &err);
            if (r != expected)
                fail_msg("%s: %d instead of %d (%s)", defect->what, r, expected, err.text);
            if (r == 0)
                assert_int_equal(cow_close(disk), 0);
            else
                assert_true(strlen(err.text) > 10);
            close(fd);
        }
    }
    free(seed.data);
}

/* An L2 entry that points to the header, L1, the refcount table or nowhere is -EIO, for that
 * request only. */
static void test_bad_pointers(void **state)
{
    uint8_t data[4096];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    uint64_t l1, l2, targets[7];
    struct check check;
    struct seed seed;

    (void)state;
    make_overlay(&seed, 12, 1 << 20, false);
    assert_null(check_image(&check, seed.data, seed.bytes));
    l1 = image_64(&check.image, 40);
    l2 = image_64(&check.image, l1) & 0x00fffffffffffe00ull;
    targets[0] = l1;
    targets[1] = image_64(&check.image, 48);
    targets[2] = 1ull << 40;
    targets[3] = 0x1200;                  /* unaligned */
    targets[4] = 0x5000 | 1ull << 58;     /* reserved bit */
    targets[5] = 1ull << 62;              /* compressed, in the header */
    targets[6] = 1ull << 62 | 0x30000000; /* compressed, past the end */
    for (size_t i = 0; i < 7; i++) {
        uint64_t entry = htobe64(1ull << 63 | targets[i]);
        int fd = memfd_create("pointer", MFD_CLOEXEC);
        struct cow_disk *disk;
        struct cow_error err;

        put_bytes(fd, seed.data, seed.bytes, 0);
        put_bytes(fd, &entry, 8, l2 + 8 * 200);
        assert_int_equal(open_image(&disk, fd, false, -1, 0, &err), 0);
        assert_int_equal(cow_preadv(disk, &iov, 1, 200 * 4096), -EIO);
        assert_int_equal(cow_pwritev(disk, &iov, 1, 200 * 4096), -EIO);
        assert_int_equal(cow_preadv(disk, &iov, 1, 201 * 4096), 0);
        assert_int_equal(cow_pwritev(disk, &iov, 1, 201 * 4096), 0);
        assert_int_equal(cow_close(disk), 0);
        close(fd);
    }
    free(seed.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compressed_cluster), cmocka_unit_test(test_defects),
        cmocka_unit_test(test_bad_pointers),       cmocka_unit_test(test_mutants),
        cmocka_unit_test(test_compressed_mutants),
    };

    alarm(getenv("MUTANT_FACTOR") ? 0 : 300); /* a hang is a failure */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
