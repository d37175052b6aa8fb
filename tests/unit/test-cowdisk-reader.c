/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Kinds of qcow2 images that we do not write ourselves, built by hand: subclusters, zstd, external
 * data files, internal snapshots, version 2. What the format allows reads right; what it does not
 * allow is an error for the request that met it, never a byte that is not in the image.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#define COPIED     (1ull << 63)
#define COMPRESSED (1ull << 62)
#define SNAPSHOTS  7u /* cluster of the snapshot table */

/*
 * Cluster 0 header, 1 refcount table, 2 refcount block, 3 L1, 4 L2, 5 and 6 data, 7 free for tests;
 * all counted once.
 */
struct built {
    uint8_t *data;
    uint64_t cluster, bytes;
    int entry_bytes;
};

static void set_32(struct built *b, uint64_t at, uint32_t v)
{
    v = htobe32(v);
    memcpy(b->data + at, &v, 4);
}

static void set_64(struct built *b, uint64_t at, uint64_t v)
{
    v = htobe64(v);
    memcpy(b->data + at, &v, 8);
}

static void set_entry(struct built *b, unsigned i, uint64_t entry, uint64_t bitmap)
{
    uint64_t at = 4 * b->cluster + i * (unsigned)b->entry_bytes;

    set_64(b, at, entry);
    if (b->entry_bytes == 16)
        set_64(b, at + 8, bitmap);
}

static void build(struct built *b, unsigned bits, uint64_t incompatible)
{
    b->cluster = 1ull << bits;
    b->bytes = 8 * b->cluster;
    b->data = calloc(1, b->bytes);
    b->entry_bytes = incompatible & 16 ? 16 : 8;
    set_32(b, 0, 0x514649fb);
    set_32(b, 4, 3);
    set_32(b, 20, bits);
    set_64(b, 24, 16 * b->cluster); /* the disk */
    set_32(b, 36, 1);
    set_64(b, 40, 3 * b->cluster);
    set_64(b, 48, b->cluster);
    set_32(b, 56, 1);
    set_64(b, 72, incompatible);
    set_32(b, 96, 4);
    set_32(b, 100, 112);
    b->data[104] = incompatible & 8 ? 1 : 0;
    set_64(b, b->cluster, 2 * b->cluster);
    for (int i = 0; i < 8; i++)
        b->data[2 * b->cluster + 2 * (unsigned)i + 1] = 1;
    set_64(b, 3 * b->cluster, 4 * b->cluster | COPIED);
    memset(b->data + 5 * b->cluster, 0xd5, b->cluster);
    memset(b->data + 6 * b->cluster, 0xd6, b->cluster);
}

static int built_file(const struct built *b)
{
    int fd = memfd_create("built", MFD_CLOEXEC);

    put_bytes(fd, b->data, b->bytes, 0);
    return fd;
}

static int open_options(struct cow_disk **ret_disk, const struct built *b,
                        struct cow_open_options *o, struct cow_error *err)
{
    int fd = built_file(b), r;

    o->fd = fd;
    o->format = COW_FORMAT_QCOW2;
    r = cow_open(ret_disk, o, err);
    close(fd);
    if (r < 0)
        assert_true(strlen(err->text) > 10);
    return r;
}

static struct cow_disk *open_built(const struct built *b)
{
    struct cow_open_options o = {.flags = COW_RDONLY, .data_fd = -1};
    struct cow_disk *disk = NULL;
    struct cow_error err;

    if (open_options(&disk, b, &o, &err) < 0)
        fail_msg("%s", err.text);
    return disk;
}

static int read_at(struct cow_disk *disk, void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {.iov_base = data, .iov_len = length};

    return cow_preadv(disk, &iov, 1, offset);
}

/* [offset, offset + length) holds this byte. */
static void assert_bytes(struct cow_disk *disk, uint64_t offset, size_t length, int byte)
{
    uint8_t *data = malloc(length);

    memset(data, ~byte, length);
    assert_int_equal(read_at(disk, data, length, offset), 0);
    for (size_t i = 0; i < length; i++) {
        if (data[i] != byte)
            fail_msg("byte %llu is 0x%02x, not 0x%02x", (unsigned long long)(offset + i), data[i],
                     byte);
    }
    free(data);
}

/* Reading guest cluster `i` of what was built is an error, its neighbour is not. */
static void assert_bad_cluster(const struct built *b, unsigned i)
{
    struct cow_disk *disk = open_built(b);
    uint8_t byte;

    assert_int_equal(read_at(disk, &byte, 1, i * b->cluster + 77), -EIO);
    assert_int_equal(read_at(disk, &byte, 1, (i + 1) * b->cluster), 0);
    assert_int_equal(cow_close(disk), 0);
}

/* ---- subclusters ----------------------------------------------------------------------------- */

#define SUB 512u /* of clusters of 16 KiB */

static int filled(uint8_t byte, uint64_t bytes)
{
    int fd = memfd_create("filled", MFD_CLOEXEC);
    uint8_t *data = malloc(bytes);

    memset(data, byte, bytes);
    put_bytes(fd, data, bytes, 0);
    free(data);
    return fd;
}

static void test_subclusters(void **state)
{
    struct cow_open_options base = {.format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options top = {.flags = COW_RDONLY, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;
    struct cow_map map;
    struct built b;

    (void)state;
    build(&b, 14, 16);
    memcpy(b.data + 120, "b", 1); /* its backing file */
    set_64(&b, 8, 120);
    set_32(&b, 16, 1);
    /* 0..3 data, 4..7 from below, 8..11 zero, the rest from below */
    set_entry(&b, 0, 5 * b.cluster | COPIED, 0x00000f000000000full);
    set_entry(&b, 1, 6 * b.cluster | COPIED, 0x00000000ffffffffull);
    set_entry(&b, 2, 0, 0xffffffff00000000ull);
    set_entry(&b, 3, 5 * b.cluster, 0); /* a place, but nothing in it */
    base.fd = filled(0xbb, 16 * b.cluster);
    assert_int_equal(cow_open(&top.backing, &base, &err), 0);
    assert_int_equal(open_options(&disk, &b, &top, &err), 0);
    assert_bytes(disk, 0, 4 * SUB, 0xd5);
    assert_bytes(disk, 4 * SUB, 4 * SUB, 0xbb);
    assert_bytes(disk, 8 * SUB, 4 * SUB, 0);
    assert_bytes(disk, 12 * SUB, 20 * SUB, 0xbb);
    assert_bytes(disk, b.cluster, b.cluster, 0xd6);
    assert_bytes(disk, 2 * b.cluster, b.cluster, 0);
    assert_bytes(disk, 3 * b.cluster, 2 * b.cluster, 0xbb);
    assert_bytes(disk, 3 * SUB + 100, 400, 0xd5);
    assert_int_equal(cow_map(disk, 100, b.cluster, &map), 0);
    assert_int_equal(map.kind, COW_MAP_DATA);
    assert_int_equal(map.length, 4 * SUB - 100);
    assert_int_equal(cow_map(disk, 12 * SUB, b.cluster, &map), 0);
    assert_int_equal(map.kind, COW_MAP_BACKING);
    assert_int_equal(map.length, 20 * SUB);
    assert_int_equal(cow_map(disk, 3 * b.cluster, 3 * b.cluster, &map), 0);
    assert_int_equal(map.length, 3 * b.cluster);
    assert_int_equal(cow_close(disk), 0);
    close(base.fd);
    free(b.data);
}

static void test_bad_subclusters(void **state)
{
    static const struct {
        uint64_t entry, bitmap;
    } bad[] = {
        {5 << 14 | COPIED, 0x0000000100000001ull}, /* both data and zero */
        {5 << 14 | COPIED, 0x8000000080000000ull}, /* elsewhere in the cluster */
        {0, 1},                                    /* data nowhere */
        {5 << 14 | COPIED | 1, 0xffffffff},        /* the zero bit of other images */
        {COMPRESSED | 5 << 14, 1},                 /* compressed, with subclusters */
        {40 << 14 | COPIED, 0xffffffff},           /* past the end of the file */
        {3 << 14 | COPIED, 0xffffffff},            /* L1 */
    };
    struct built b;

    (void)state;
    build(&b, 14, 16);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        set_entry(&b, 1, bad[i].entry, bad[i].bitmap);
        assert_bad_cluster(&b, 1);
    }
    free(b.data);
}

/* ---- deflate --------------------------------------------------------------------------------- */

/* `bytes` of data at cluster 5, ended or not. */
static void put_deflated(struct built *b, size_t bytes, bool ended)
{
    uint8_t *plain = malloc(bytes);
    z_stream stream = {.next_in = plain, .avail_in = (uInt)bytes};

    for (size_t i = 0; i < bytes; i++)
        plain[i] = (uint8_t)(i / 512);
    memset(b->data + 5 * b->cluster, 0xee, 2 * b->cluster);
    stream.next_out = b->data + 5 * b->cluster;
    stream.avail_out = (uInt)b->cluster;
    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    assert_true(deflate(&stream, ended ? Z_FINISH : Z_SYNC_FLUSH) >= 0);
    deflateEnd(&stream);
    set_entry(b, 1, COMPRESSED | 5 * b->cluster | (stream.total_out - 1) / 512 << 58, 0);
    free(plain);
}

static void test_deflate(void **state)
{
    struct cow_disk *disk;
    struct built b;

    (void)state;
    build(&b, 12, 0);
    for (int ended = 0; ended < 2; ended++) {
        /* More than a cluster, then perhaps no end: what QEMU reads, we read. */
        for (int more = !ended; more < 2; more++) {
            put_deflated(&b, 4096 + 904 * (size_t)more, ended);
            disk = open_built(&b);
            for (unsigned i = 0; i < 8; i++)
                assert_bytes(disk, 4096 + 512 * i, 512, (int)i);
            assert_int_equal(cow_close(disk), 0);
        }
        put_deflated(&b, 4095, ended);
        assert_bad_cluster(&b, 1);
    }
    b.data[5 * b.cluster] = 0xff; /* no kind of block */
    assert_bad_cluster(&b, 1);
    free(b.data);
}

/* ---- zstd ------------------------------------------------------------------------------------ */

/* `n` frames that hold `bytes` each at cluster 5; *ret_length: of them all. */
static void put_frames(struct built *b, int n, size_t bytes, size_t *ret_length)
{
    uint8_t *plain = malloc(bytes);
    uint64_t at = 5 * b->cluster;

    memset(b->data + at, 0xee, 2 * b->cluster);
    for (int i = 0; i < n; i++) {
        memset(plain, 0x31 + i, bytes);
        at += ZSTD_compress(b->data + at, b->cluster, plain, bytes, 3);
    }
    *ret_length = at - 5 * b->cluster;
    set_entry(b, 1, COMPRESSED | 5 * b->cluster | ((*ret_length - 1) / 512) << 58, 0);
    free(plain);
}

static void test_zstd(void **state)
{
    struct cow_disk *disk;
    struct built b;
    size_t length;

    (void)state;
    build(&b, 12, 8);
    put_frames(&b, 1, 4096, &length);
    disk = open_built(&b);
    assert_bytes(disk, 4096, 4096, 0x31);
    assert_bytes(disk, 4096 + 1000, 1, 0x31);
    assert_int_equal(cow_close(disk), 0);
    put_frames(&b, 2, 2048, &length);
    disk = open_built(&b);
    assert_bytes(disk, 4096, 2048, 0x31);
    assert_bytes(disk, 4096 + 2048, 2048, 0x32);
    assert_bytes(disk, 4096 + 2000, 40, 0x31);
    assert_int_equal(cow_close(disk), 0);
    free(b.data);
}

static void test_bad_zstd(void **state)
{
    struct built b;
    size_t length;

    (void)state;
    build(&b, 12, 8);
    put_frames(&b, 1, 4095, &length); /* too little */
    assert_bad_cluster(&b, 1);
    put_frames(&b, 1, 5000, &length); /* too much */
    assert_bad_cluster(&b, 1);
    put_frames(&b, 2, 3000, &length);
    assert_bad_cluster(&b, 1);
    put_frames(&b, 1, 4096, &length); /* cut short */
    b.bytes = 5 * b.cluster + length - 3;
    assert_bad_cluster(&b, 1);
    b.bytes = 8 * b.cluster;
    put_frames(&b, 1, 4096, &length); /* not zstd */
    b.data[5 * b.cluster] ^= 1;
    assert_bad_cluster(&b, 1);
    free(b.data);
}

/* ---- external data --------------------------------------------------------------------------- */

static void test_external_data(void **state)
{
    struct cow_open_options o = {.flags = COW_RDONLY, .data_fd = -1};
    struct cow_disk *disk = NULL;
    struct cow_error err;
    struct built b;
    uint8_t byte;

    (void)state;
    build(&b, 12, 4);
    set_entry(&b, 0, COPIED, 0); /* at offset 0 */
    set_entry(&b, 2, 2 * b.cluster | COPIED, 0);
    set_entry(&b, 3, 8 * b.cluster | COPIED, 0); /* past its end */
    set_entry(&b, 4, COMPRESSED | 5 * b.cluster, 0);
    set_entry(&b, 5, 3 * b.cluster | COPIED | 1, 0);
    assert_int_equal(open_options(&disk, &b, &o, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "external data file"));
    o.data_fd = filled(0xda, 8 * b.cluster);
    o.flags = 0;
    assert_int_equal(open_options(&disk, &b, &o, &err), -ENOTSUP); /* written to */
    assert_non_null(strstr(err.text, "external file"));
    o.flags = COW_RDONLY;
    assert_int_equal(open_options(&disk, &b, &o, &err), 0);
    assert_bytes(disk, 0, b.cluster, 0xda);
    assert_bytes(disk, b.cluster, b.cluster, 0);
    assert_bytes(disk, 2 * b.cluster, b.cluster, 0xda);
    assert_int_equal(read_at(disk, &byte, 1, 3 * b.cluster), -EIO);
    assert_int_equal(read_at(disk, &byte, 1, 4 * b.cluster), -EIO);
    assert_bytes(disk, 5 * b.cluster, b.cluster, 0);
    assert_int_equal(cow_close(disk), 0);
    free(b.data);
    build(&b, 12, 0);
    assert_int_equal(open_options(&disk, &b, &o, &err), -EINVAL); /* it has none */
    close(o.data_fd);
    free(b.data);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

/* Two snapshots, "1"/"first" and "2"/"1": names may look like ids. */
static void build_snapshots(struct built *b)
{
    uint64_t at = SNAPSHOTS << 12;

    build(b, 12, 0);
    set_32(b, 60, 2);
    set_64(b, 64, at);
    set_64(b, at, 3 * b->cluster);
    set_32(b, at + 8, 1);
    set_32(b, at + 12, 1 << 16 | 5);
    set_32(b, at + 16, 1700000000);
    set_64(b, at + 24, 5000000000ull);
    set_32(b, at + 36, 16);
    set_64(b, at + 40, 0);
    set_64(b, at + 48, 3 * b->cluster);
    memcpy(b->data + at + 56, "1first", 6);
    at += 64;
    set_64(b, at, 0);
    set_32(b, at + 8, 0);
    set_32(b, at + 12, 1 << 16 | 1);
    set_32(b, at + 36, 16);
    memcpy(b->data + at + 56, "21", 2);
    set_entry(b, 1, 5 * b->cluster | COPIED, 0);
}

static void test_snapshots(void **state)
{
    struct cow_open_options o = {.flags = COW_RDONLY, .data_fd = -1, .snapshot = "first"};
    struct cow_snapshot *list;
    struct cow_disk *disk;
    struct cow_error err;
    struct built b;
    size_t n;
    int fd;

    (void)state;
    build_snapshots(&b);
    fd = built_file(&b);
    assert_int_equal(cow_snapshots_read(fd, &list, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_string_equal(list[0].id, "1");
    assert_string_equal(list[0].name, "first");
    assert_int_equal(list[0].date_sec, 1700000000);
    assert_int_equal(list[0].vm_clock_ns, 5000000000ull);
    assert_int_equal(list[0].virtual_size, 3 * b.cluster);
    assert_string_equal(list[1].name, "1");
    free(list);
    close(fd);
    assert_int_equal(open_options(&disk, &b, &o, &err), 0);
    assert_int_equal(cow_size(disk), 3 * b.cluster);
    assert_bytes(disk, b.cluster, b.cluster, 0xd5);
    assert_int_equal(cow_close(disk), 0);
    o.snapshot = "1"; /* the id, not the other one's name */
    assert_int_equal(open_options(&disk, &b, &o, &err), 0);
    assert_int_equal(cow_size(disk), 3 * b.cluster);
    assert_int_equal(cow_close(disk), 0);
    o.snapshot = "2"; /* of no bytes */
    assert_int_equal(open_options(&disk, &b, &o, &err), 0);
    assert_int_equal(cow_size(disk), 0);
    assert_int_equal(cow_close(disk), 0);
    o.snapshot = "third";
    assert_int_equal(open_options(&disk, &b, &o, &err), -ENOENT);
    o.snapshot = "first";
    o.flags = 0;
    assert_int_equal(open_options(&disk, &b, &o, &err), -EINVAL);
    free(b.data);
}

static void test_bad_snapshots(void **state)
{
    static const struct {
        uint64_t at, value;
        int bytes;
        bool list_fails;
    } bad[] = {
        {60, 65537, 4, true},                          /* too many */
        {60, 60000, 4, true},                          /* more than there are bytes */
        {64, 0, 8, true},                              /* the table: in the header */
        {64, (SNAPSHOTS << 12) + 512, 8, true},        /* unaligned */
        {64, 1ull << 40, 8, true},                     /* past the end */
        {64, UINT64_MAX << 12, 8, true},               /* and around */
        {(SNAPSHOTS << 12) + 12, 0xffff0001, 4, true}, /* a long id */
        {(SNAPSHOTS << 12) + 12, 0x0001ffff, 4, true}, /* a long name */
        {(SNAPSHOTS << 12) + 36, 1025, 4, true},       /* much extra data */
        {(SNAPSHOTS << 12) + 36, UINT32_MAX, 4, true},
        {(SNAPSHOTS << 12), 1ull << 40, 8, false}, /* L1 past the end */
        {(SNAPSHOTS << 12), 3 * 4096 + 8, 8, false},
        {(SNAPSHOTS << 12) + 8, 0, 4, false}, /* too small for the disk */
        {(SNAPSHOTS << 12) + 8, UINT32_MAX, 4, false},
        {(SNAPSHOTS << 12) + 48, 1ull << 60, 8, false}, /* a huge disk */
        {(SNAPSHOTS << 12) + 48, 1000, 8, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct cow_open_options o = {.flags = COW_RDONLY, .data_fd = -1, .snapshot = "first"};
        struct cow_snapshot *list = NULL;
        struct cow_disk *disk;
        struct cow_error err;
        struct built b;
        size_t n;
        int fd, r;

        build_snapshots(&b);
        if (bad[i].bytes == 4)
            set_32(&b, bad[i].at, (uint32_t)bad[i].value);
        else
            set_64(&b, bad[i].at, bad[i].value);
        fd = built_file(&b);
        r = cow_snapshots_read(fd, &list, &n, &err);
        if (r != (bad[i].list_fails ? -EINVAL : 0))
            fail_msg("case %zu: the list: %d", i, r);
        free(list);
        r = open_options(&disk, &b, &o, &err);
        if (r != -EINVAL)
            fail_msg("case %zu: opening: %d", i, r);
        close(fd);
        free(b.data);
    }
}

/* A snapshot refers to L2 table and data as well: writing leaves both alone. */
static void test_write_beside_snapshot(void **state)
{
    struct cow_open_options o = {.data_fd = -1, .format = COW_FORMAT_QCOW2};
    struct cow_disk *disk;
    struct cow_error err;
    struct built b;
    uint8_t data[100];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};

    (void)state;
    build_snapshots(&b);
    set_entry(&b, 1, 5 * b.cluster, 0);
    set_64(&b, 3 * b.cluster, 4 * b.cluster);
    /* L1 of the snapshot is a copy, as it has to be: in cluster 6 */
    set_64(&b, SNAPSHOTS << 12, 6 * b.cluster);
    memset(b.data + 6 * b.cluster, 0, b.cluster);
    set_64(&b, 6 * b.cluster, 4 * b.cluster);
    b.data[2 * b.cluster + 2 * 4 + 1] = b.data[2 * b.cluster + 2 * 5 + 1] = 2;
    o.fd = built_file(&b);
    for (int round = 1; round < 4; round++) {
        assert_int_equal(cow_open(&disk, &o, &err), 0);
        memset(data, round, sizeof(data));
        assert_int_equal(cow_pwritev(disk, &iov, 1, b.cluster + 1000), 0);
        assert_int_equal(cow_flush(disk), 0);
        assert_int_equal(cow_pwritev(disk, &iov, 1, 2 * b.cluster), 0);
        assert_int_equal(cow_close(disk), 0);
        if (have_qemu_img())
            assert_int_equal(qemu_img_check(o.fd), 0);
        o.flags = COW_RDONLY;
        assert_int_equal(cow_open(&disk, &o, &err), 0);
        assert_bytes(disk, b.cluster, 1000, 0xd5);
        assert_bytes(disk, b.cluster + 1000, 100, round);
        assert_bytes(disk, b.cluster + 1100, b.cluster - 1100, 0xd5);
        assert_int_equal(cow_close(disk), 0);
        o.snapshot = "first";
        assert_int_equal(cow_open(&disk, &o, &err), 0);
        assert_bytes(disk, 0, b.cluster, 0);
        assert_bytes(disk, b.cluster, b.cluster, 0xd5);
        assert_bytes(disk, 2 * b.cluster, b.cluster, 0);
        assert_int_equal(cow_close(disk), 0);
        o.snapshot = NULL;
        o.flags = 0;
    }
    close(o.fd);
    free(b.data);
}

/* ---- version 2 ------------------------------------------------------------------------------- */

/* There are no zero clusters: zeroes over a backing file are written, elsewhere entries go. */
static void test_version_2(void **state)
{
    int fd = nameless_file(), base = filled(0xbb, 100000);
    uint64_t size = 4 << 16, version = htobe64(0x514649fb00000002ull);
    uint8_t data[65536];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    struct cow_disk *disk;
    struct cow_error err;
    struct cow_map map;

    (void)state;
    assert_int_equal(create_image(fd, "base.raw", size, 16, &err), 0);
    put_bytes(fd, &version, 8, 0);
    memset(data, 0x11, sizeof(data));
    assert_int_equal(open_image(&disk, fd, false, base, 0, &err), 0);
    assert_int_equal(cow_pwritev(disk, &iov, 1, 1 << 16), 0);
    assert_int_equal(cow_pwritev(disk, &iov, 1, 3 << 16), 0);
    assert_int_equal(cow_flush(disk), 0);
    assert_int_equal(cow_discard(disk, 0, size), 0);
    assert_bytes(disk, 0, size, 0);
    assert_int_equal(cow_close(disk), 0);
    if (have_qemu_img())
        assert_int_equal(qemu_img_check(fd), 0);
    assert_int_equal(open_image(&disk, fd, false, base, COW_RDONLY, &err), 0);
    assert_bytes(disk, 0, size, 0);
    assert_int_equal(cow_map(disk, 3 << 16, 1, &map), 0);
    assert_int_equal(map.kind, COW_MAP_BACKING); /* given back */
    assert_int_equal(cow_close(disk), 0);
    close(fd);
    close(base);
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

/* A bitmap's table that points into the wild: it is left alone, the image can be written to. */
static void test_bad_bitmaps(void **state)
{
    static const uint64_t tables[] = {0,        1ull << 40, 5 * 4096 + 8, UINT64_MAX << 12,
                                      6 * 4096, 6 * 4096};

    (void)state;
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        struct cow_open_options o = {.data_fd = -1, .format = COW_FORMAT_QCOW2};
        uint64_t directory = SNAPSHOTS << 12, autoclear = 1;
        struct iovec iov = {.iov_base = "x", .iov_len = 1};
        struct cow_disk *disk;
        struct cow_error err;
        struct built b;

        build(&b, 12, 0);
        set_entry(&b, 1, 5 * b.cluster | COPIED, 0);
        set_64(&b, 88, 1);
        set_32(&b, 112, 0x23852875);
        set_32(&b, 116, 24);
        set_32(&b, 120, 1);
        set_64(&b, 128, 32);
        set_64(&b, 136, directory);
        set_64(&b, directory, tables[i]);
        set_32(&b, directory + 8, i == 5 ? UINT32_MAX : 1); /* as long as it can be */
        b.data[directory + 16] = 1;
        b.data[directory + 19] = 2;
        memset(b.data + 6 * b.cluster, 0, b.cluster);
        if (i == 4) /* this one is right, what it refers to is not */
            set_64(&b, 6 * b.cluster, 1ull << 50);
        o.fd = built_file(&b);
        assert_int_equal(cow_open(&disk, &o, &err), 0);
        assert_int_equal(cow_pwritev(disk, &iov, 1, b.cluster), 0);
        assert_int_equal(pread(o.fd, &autoclear, 8, 88), 8); /* before anything else */
        assert_int_equal(autoclear, 0);
        assert_bytes(disk, b.cluster + 1, b.cluster - 1, 0xd5);
        assert_int_equal(cow_close(disk), 0);
        close(o.fd);
        free(b.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_subclusters),
        cmocka_unit_test(test_bad_subclusters),
        cmocka_unit_test(test_deflate),
        cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_bad_zstd),
        cmocka_unit_test(test_external_data),
        cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_bad_snapshots),
        cmocka_unit_test(test_write_beside_snapshot),
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_bad_bitmaps),
    };

    alarm(300); /* a hang is a failure */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
