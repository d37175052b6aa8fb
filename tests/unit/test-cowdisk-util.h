/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the cowdisk tests share: a deterministic generator, nameless files, a flat model of a disk,
 * and a checker of qcow2 images that is independent of the code it checks (it knows the format, not
 * cowdisk): every cluster must be counted exactly as often as it is referred to.
 */
#ifndef TEST_COWDISK_UTIL_H
#define TEST_COWDISK_UTIL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cowdisk/cowdisk.h"

/* ---- numbers --------------------------------------------------------------------------------- */

struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline uint64_t rng_below(struct rng *rng, uint64_t n)
{
    return rng_next(rng) % n;
}

static inline void rng_fill(struct rng *rng, uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        data[i] = (uint8_t)(rng_next(rng) >> 24);
}

/* ---- files ----------------------------------------------------------------------------------- */

static inline int nameless_file(void)
{
    const char *dir = getenv("TMPDIR");
    int fd = open(dir ? dir : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0) {
        char path[] = "/tmp/test-cowdisk-XXXXXX";
        fd = mkstemp(path);
        if (fd >= 0)
            unlink(path);
    }
    assert_true(fd >= 0);
    return fd;
}

/* The same file, opened a second time: locks of its own. */
static inline int open_again(int fd, int flags)
{
    char path[64];
    int again;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    again = open(path, flags | O_CLOEXEC);
    assert_true(again >= 0);
    return again;
}

static inline void put_bytes(int fd, const void *data, size_t length, uint64_t offset)
{
    assert_int_equal(pwrite(fd, data, length, (off_t)offset), (ssize_t)length);
}

static inline uint64_t file_size(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_size;
}

/* ---- images ---------------------------------------------------------------------------------- */

static inline int create_image(int fd, const char *backing, uint64_t size, unsigned bits,
                               struct cow_error *err)
{
    struct cow_create_options options = {
        .size = size,
        .cluster_bits = bits,
        .backing_name = backing,
        .backing_format = COW_FORMAT_RAW,
    };

    return cow_create(fd, &options, err);
}

/* An image, over a raw one if backing_fd >= 0. */
static inline int open_image(struct cow_disk **ret_disk, int fd, bool raw, int backing_fd,
                             unsigned flags, struct cow_error *err)
{
    struct cow_open_options base = {
        .fd = backing_fd, .format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options top = {
        .fd = fd,
        .format = raw ? COW_FORMAT_RAW : COW_FORMAT_QCOW2,
        .flags = flags,
        .data_fd = -1,
    };
    int r = backing_fd >= 0 ? cow_open(&top.backing, &base, err) : 0;

    if (r < 0)
        return r;
    r = cow_open(ret_disk, &top, err);
    if (r < 0)
        (void)cow_close(top.backing);
    return r;
}

/* ---- qemu-img, if there is one --------------------------------------------------------------- */

static inline bool have_qemu_img(void)
{
    return system("qemu-img --version >/dev/null 2>&1") == 0;
}

/* Exit status of `qemu-img check` on an fd, whether or not its backing file is there. */
static inline int qemu_img_check(int fd)
{
    char command[320];
    int status;

    snprintf(command, sizeof(command),
             "qemu-img check -q -U 'json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":"
             "{\"driver\":\"file\",\"filename\":\"/proc/%d/fd/%d\"}}' >/dev/null",
             (int)getpid(), fd);
    status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* ---- an image as bytes ----------------------------------------------------------------------- */

struct image {
    const uint8_t *data;
    uint64_t bytes;
};

static inline uint64_t image_64(const struct image *image, uint64_t offset)
{
    uint64_t v = 0;

    if (offset + 8 <= image->bytes)
        memcpy(&v, image->data + offset, 8);
    return be64toh(v);
}

static inline uint32_t image_32(const struct image *image, uint64_t offset)
{
    uint32_t v = 0;

    if (offset + 4 <= image->bytes)
        memcpy(&v, image->data + offset, 4);
    return be32toh(v);
}

struct check {
    struct image image;
    uint32_t bits;
    uint64_t cluster, n_clusters;
    uint16_t *found; /* references */
    char problem[160];
};

#define CHECK_FAIL(check, ...)                                                 \
    do {                                                                       \
        if (!(check)->problem[0])                                              \
            snprintf((check)->problem, sizeof((check)->problem), __VA_ARGS__); \
    } while (0)

static inline void check_refer(struct check *c, uint64_t offset, uint64_t bytes, const char *what)
{
    if (offset % c->cluster)
        CHECK_FAIL(c, "%s at 0x%llx is not aligned", what, (unsigned long long)offset);
    for (uint64_t i = offset / c->cluster; i < (offset + bytes + c->cluster - 1) / c->cluster;
         i++) {
        if (i >= c->n_clusters) {
            CHECK_FAIL(c, "%s at 0x%llx is past the end", what, (unsigned long long)offset);
            return;
        }
        c->found[i]++;
    }
}

/* Refcounts of 8 bits and more. */
static inline uint16_t check_count(const struct check *c, uint64_t cluster)
{
    uint32_t width = (1u << image_32(&c->image, 96)) / 8;
    uint64_t per_block = c->cluster / width, rt = image_64(&c->image, 48);
    uint64_t n_entries = (uint64_t)image_32(&c->image, 56) * c->cluster / 8, block, at;
    uint16_t v = 0;

    if (cluster / per_block >= n_entries)
        return 0;
    block = image_64(&c->image, rt + 8 * (cluster / per_block));
    at = block + width * (cluster % per_block);
    for (uint32_t i = 0; block && i < width && at + i < c->image.bytes; i++)
        v = (uint16_t)(v << 8 | c->image.data[at + i]);
    return v;
}

/* What is counted once and belongs to the active state may be written in place, and says so. */
static inline void check_flag(struct check *c, uint64_t entry, bool active, const char *what)
{
    uint64_t offset = entry & 0x00fffffffffffe00ull;

    if (active && (check_count(c, offset / c->cluster) == 1) != (entry >> 63))
        CHECK_FAIL(c, "%s at 0x%llx has the wrong COPIED flag", what, (unsigned long long)offset);
}

static inline void check_l2(struct check *c, uint64_t l2, bool active)
{
    for (uint64_t i = 0; i < c->cluster / 8; i++) {
        uint64_t entry = image_64(&c->image, l2 + 8 * i);
        uint64_t offset = entry & 0x00fffffffffffe00ull;

        if (entry & 1ull << 62)
            CHECK_FAIL(c, "unexpected compressed cluster");
        else if (offset)
            check_refer(c, offset, 1, "data");
        if (offset)
            check_flag(c, entry, active, "data");
    }
}

static inline void check_l1(struct check *c, uint64_t l1, uint64_t l1_size, bool active)
{
    check_refer(c, l1, l1_size * 8, "L1 table");
    for (uint64_t i = 0; i < l1_size; i++) {
        uint64_t entry = image_64(&c->image, l1 + 8 * i);
        uint64_t offset = entry & 0x00fffffffffffe00ull;
        if (!offset)
            continue;
        check_flag(c, entry, active, "L2 table");
        check_refer(c, offset, c->cluster, "L2 table");
        check_l2(c, offset, active);
    }
}

static inline void check_snapshots(struct check *c)
{
    uint64_t start = image_64(&c->image, 64), at = start;

    for (uint32_t i = 0; i < image_32(&c->image, 60); i++) {
        uint32_t lengths = image_32(&c->image, at + 12);
        check_l1(c, image_64(&c->image, at), image_32(&c->image, at + 8), false);
        at += 40 + image_32(&c->image, at + 36) + (lengths >> 16) + (lengths & 0xffff);
        at = (at + 7) & ~7ull;
    }
    if (at > start)
        check_refer(c, start, at - start, "snapshot table");
}

/* NULL, or what is wrong: the buffer is in *c. */
static inline const char *check_image(struct check *c, const uint8_t *data, uint64_t bytes)
{
    uint64_t rt, rt_bytes;

    memset(c, 0, sizeof(*c));
    c->image = (struct image){data, bytes};
    if (image_32(&c->image, 0) != 0x514649fb || image_32(&c->image, 4) != 3)
        return "no qcow2 version 3 header";
    c->bits = image_32(&c->image, 20);
    c->cluster = 1ull << c->bits;
    c->n_clusters = (bytes + c->cluster - 1) / c->cluster;
    c->found = calloc(c->n_clusters, sizeof(*c->found));
    rt = image_64(&c->image, 48);
    rt_bytes = (uint64_t)image_32(&c->image, 56) * c->cluster;
    check_refer(c, 0, 1, "header");
    check_refer(c, rt, rt_bytes, "refcount table");
    for (uint64_t i = 0; i < rt_bytes / 8; i++) {
        uint64_t block = image_64(&c->image, rt + 8 * i);
        if (block)
            check_refer(c, block, c->cluster, "refcount block");
    }
    check_l1(c, image_64(&c->image, 40), image_32(&c->image, 36), true);
    check_snapshots(c);
    for (uint64_t i = 0; i < c->n_clusters; i++) {
        if (check_count(c, i) != c->found[i])
            CHECK_FAIL(c, "cluster %llu is counted %u times, referred to %u times",
                       (unsigned long long)i, check_count(c, i), c->found[i]);
    }
    free(c->found);
    c->found = NULL;
    return c->problem[0] ? c->problem : NULL;
}

static inline void assert_clean(int fd)
{
    uint64_t bytes = file_size(fd);
    uint8_t *data = malloc(bytes);
    struct check check;
    const char *problem;

    assert_non_null(data);
    assert_int_equal(pread(fd, data, bytes, 0), (ssize_t)bytes);
    problem = check_image(&check, data, bytes);
    if (problem)
        fail_msg("image is not clean: %s", problem);
    free(data);
}

#endif
