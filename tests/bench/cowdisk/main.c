/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench-cowdisk: what an overlay costs against plain pread and pwrite on the same file system, and
 * against QEMU's qcow2 driver (`qemu-img bench`, if it is there) doing the same steps: interleaved
 * rounds, medians. Where a name says so, something else stands in the column "raw": a chain of one
 * image, libqcow. Half of what is read at random lies in the overlay and half in the file below it,
 * twice the pages of a flat file for the host's caches: so "raw" reads the same blocks of the same
 * files, known beforehand, and the flat file is a line of its own. bench-cowdisk [DIR] [--json]
 */
#include "tests/bench/cowdisk/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <libqcow.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS      6
#define STEP        (65536u + 4096u)
#define N_WARM      150000u
#define N_WRITES    12000u
#define N_FLUSHES   300u
#define N_OVERLAYS  1000u
#define N_UNPACKED  2000u
#define PACKED_SIZE (128ull << 20)
#define DEPTH       8u

struct bench {
    const char *name;
    int (*run)(int side, double *ret_seconds);
    unsigned n;
    double seconds[N_SIDES][ROUNDS];
    bool has[N_SIDES];
};

static int base_fd, raw_fd;
static char dir[512];

double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return z ^ (z >> 27);
}

static const char *path_of(const char *name)
{
    static char path[600];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static int new_file(const char *name)
{
    int fd = open(path_of(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0) {
        perror(path_of(name));
        exit(1);
    }
    return fd;
}

static struct cow_disk *new_overlay(const char *name)
{
    int fd = new_file(name);
    struct cow_create_options create = {
        .size = SIZE, .backing_name = path_of("base.raw"), .backing_format = COW_FORMAT_RAW};
    struct cow_open_options base = {
        .fd = base_fd, .format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options top = {.fd = fd, .format = COW_FORMAT_QCOW2, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;

    if (cow_create(fd, &create, &err) < 0 || cow_open(&top.backing, &base, &err) < 0 ||
        cow_open(&disk, &top, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    close(fd);
    return disk;
}

void check(int r)
{
    if (r < 0) {
        fprintf(stderr, "%s\n", strerror(-r));
        exit(1);
    }
}

int run_qemu(const char *options, unsigned n, double *ret_seconds)
{
    char command[1400];
    double start;
    int r;

    snprintf(command, sizeof(command),
             "qemu-img create -q -f qcow2 -F raw -b %s/base.raw %s/q.qcow2", dir, dir);
    if (system(command) != 0)
        return -ENOENT;
    snprintf(command, sizeof(command),
             "qemu-img bench -q -f qcow2 -t writeback -d 1 -s %u -S %u -c %u %s %s/q.qcow2 "
             ">/dev/null 2>&1",
             BLOCK, STEP, n, options, dir);
    start = now();
    r = system(command);
    *ret_seconds = now() - start;
    return r == 0 ? 0 : -EIO;
}

struct cow_disk *half_written(const struct place **ret_place)
{
    static struct cow_disk *disk;
    static struct place place[SIZE / BLOCK];
    static uint8_t buffer[BLOCK];
    struct iovec iov = {.iov_base = buffer, .iov_len = BLOCK};

    *ret_place = place;
    if (disk)
        return disk;
    disk = new_overlay("read.qcow2");
    for (uint64_t i = 0; i < SIZE / 65536; i += 2)
        check(cow_pwritev(disk, &iov, 1, i * 65536));
    check(cow_flush(disk));
    for (uint64_t i = 0; i < SIZE / BLOCK; i++) {
        struct cow_place found;
        check(cow_find_place(disk, i * BLOCK, BLOCK, &found));
        place[i] = (struct place){found.disk->fd, found.extent.host};
    }
    return disk;
}

/* The first ones are not timed: they bring back what another bench drove out of the caches. */
static int read_at_random(struct cow_disk *disk, const struct place *place, double *ret_seconds)
{
    static uint8_t buffer[BLOCK];
    struct iovec iov = {.iov_base = buffer, .iov_len = BLOCK};
    uint64_t rng = 1;
    double start = 0;

    for (unsigned i = 0; i < N_WARM + N_READS; i++) {
        if (i == N_WARM)
            start = now();
        uint64_t block = next_random(&rng) % (SIZE / BLOCK);
        struct place at = place ? place[block] : (struct place){base_fd, block * BLOCK};
        if (disk)
            check(cow_preadv(disk, &iov, 1, block * BLOCK));
        else if (pread(at.fd, buffer, BLOCK, (off_t)at.offset) != BLOCK)
            return -EIO;
    }
    *ret_seconds = now() - start;
    return 0;
}

static int bench_read(int side, double *ret_seconds)
{
    const struct place *place;
    struct cow_disk *disk;

    if (side == QEMU)
        return run_qemu("", N_READS, ret_seconds);
    disk = half_written(&place);
    return read_at_random(side == OURS ? disk : NULL, place, ret_seconds);
}

static int bench_read_flat(int side, double *ret_seconds)
{
    const struct place *place;
    struct cow_disk *disk;

    if (side == QEMU)
        return -ENOENT;
    disk = half_written(&place);
    return read_at_random(side == OURS ? disk : NULL, NULL, ret_seconds);
}

static int bench_sequential(int side, double *ret_seconds)
{
    static uint8_t buffer[1 << 20];
    struct iovec iov = {.iov_base = buffer, .iov_len = sizeof(buffer)};
    struct cow_disk *disk;
    double start;

    if (side == QEMU)
        return -ENOENT;
    disk = new_overlay("seq.qcow2");
    start = now();
    for (uint64_t at = 0; at < SIZE; at += sizeof(buffer)) {
        if (side == OURS)
            check(cow_preadv(disk, &iov, 1, at));
        else if (pread(base_fd, buffer, sizeof(buffer), (off_t)at) != (ssize_t)sizeof(buffer))
            return -EIO;
    }
    *ret_seconds = now() - start;
    check(cow_close(disk));
    return 0;
}

static struct cow_disk *open_one(int fd, enum cow_format format, unsigned flags,
                                 struct cow_disk *backing)
{
    struct cow_open_options options = {
        .fd = fd, .format = format, .flags = flags, .backing = backing, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;

    if (cow_open(&disk, &options, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return disk;
}

/* `depth` images over the base, each with a share of the clusters of its own. */
static struct cow_disk *new_chain(unsigned depth)
{
    struct cow_disk *disk = open_one(base_fd, COW_FORMAT_RAW, COW_RDONLY, NULL);
    static uint8_t buffer[BLOCK];
    struct iovec iov = {.iov_base = buffer, .iov_len = BLOCK};

    for (unsigned k = 0; k < depth; k++) {
        struct cow_create_options create = {
            .size = SIZE,
            .backing_name = "below",
            .backing_format = k ? COW_FORMAT_QCOW2 : COW_FORMAT_RAW,
        };
        struct cow_error err;
        char name[32];
        int fd;

        snprintf(name, sizeof(name), "chain%u-%u.qcow2", depth, k);
        fd = new_file(name);
        check(cow_create(fd, &create, &err));
        disk = open_one(fd, COW_FORMAT_QCOW2, 0, disk);
        for (uint64_t i = k; i < SIZE / 65536; i += 2 * depth)
            check(cow_pwritev(disk, &iov, 1, i * 65536));
        check(cow_flush(disk));
        close(fd);
    }
    return disk;
}

/* Opens the chain again, as a guest has it: nothing below the top is open for writing. */
static int open_by_name(void *opaque, const char *path, bool writable, int *ret_fd)
{
    unsigned *k = opaque;
    char name[32];

    (void)path;
    snprintf(name, sizeof(name), "chain%u-%u.qcow2", DEPTH, *k - 1);
    *ret_fd = *k ? open(path_of(name), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC)
                 : open(path_of("base.raw"), O_RDONLY | O_CLOEXEC);
    (*k)--;
    return *ret_fd < 0 ? -errno : 0;
}

static int bench_chain(int side, double *ret_seconds)
{
    static struct cow_disk *disks[2];
    unsigned k = DEPTH;

    if (side == QEMU)
        return -ENOENT;
    if (!disks[side] && side == OURS) {
        struct cow_chain_options options = {
            .path = "top", .flags = 0, .open_file = open_by_name, .opaque = &k};
        struct cow_error err;
        check(cow_close(new_chain(DEPTH)));
        check(cow_chain_open(&disks[side], &options, &err));
    }
    if (!disks[side])
        disks[side] = new_chain(1);
    return read_at_random(disks[side], NULL, ret_seconds);
}

/* Text-like bytes, compressed by cow_convert(). */
static void make_packed(void)
{
    struct cow_convert_options options = {.format = COW_FORMAT_QCOW2, .compress = true};
    static char text[1 << 20];
    int fd = new_file("text.raw"), packed = new_file("packed.qcow2");
    struct cow_disk *disk;
    struct cow_error err;
    uint64_t rng = 3;

    for (uint64_t at = 0; at < PACKED_SIZE; at += sizeof(text)) {
        for (size_t i = 0; i + 16 <= sizeof(text); i += 16)
            snprintf(text + i, 17, "%s%08x", next_random(&rng) % 3 ? "the word" : "another ",
                     (unsigned)(next_random(&rng) % 5000));
        if (pwrite(fd, text, sizeof(text), (off_t)at) != (ssize_t)sizeof(text))
            exit(1);
    }
    disk = open_one(fd, COW_FORMAT_RAW, COW_RDONLY, NULL);
    check(cow_convert(disk, packed, &options, NULL, NULL, &err));
    check(cow_close(disk));
    close(fd);
    close(packed);
}

static int bench_packed(int side, double *ret_seconds)
{
    static struct cow_disk *disk;
    static libqcow_file_t *file;
    static uint8_t buffer[BLOCK];
    struct iovec iov = {.iov_base = buffer, .iov_len = BLOCK};
    uint64_t rng = 1;
    double start;

    if (side == QEMU)
        return -ENOENT;
    if (!disk) {
        int fd;
        make_packed();
        fd = open(path_of("packed.qcow2"), O_RDONLY | O_CLOEXEC);
        disk = open_one(fd, COW_FORMAT_QCOW2, COW_RDONLY, NULL);
        close(fd);
        if (libqcow_file_initialize(&file, NULL) != 1 ||
            libqcow_file_open(file, path_of("packed.qcow2"), LIBQCOW_OPEN_READ, NULL) != 1)
            return -EIO;
    }
    start = now();
    for (unsigned i = 0; i < N_UNPACKED; i++) {
        uint64_t offset = next_random(&rng) % (PACKED_SIZE / BLOCK) * BLOCK;
        if (side == OURS)
            check(cow_preadv(disk, &iov, 1, offset));
        else if (libqcow_file_read_buffer_at_offset(file, buffer, BLOCK, (off64_t)offset, NULL) !=
                 BLOCK)
            return -EIO;
    }
    *ret_seconds = now() - start;
    return 0;
}

static int write_steps(int side, unsigned n, unsigned flush_every, double *ret_seconds)
{
    static uint8_t buffer[BLOCK];
    struct iovec iov = {.iov_base = buffer, .iov_len = BLOCK};
    struct cow_disk *disk = side == OURS ? new_overlay("write.qcow2") : NULL;
    double start = now();

    memset(buffer, 0x42, sizeof(buffer));
    for (unsigned i = 0; i < n; i++) {
        uint64_t offset = (uint64_t)i * STEP % (SIZE - STEP);
        bool flush = flush_every && i % flush_every == 0;
        if (side == OURS) {
            check(cow_pwritev(disk, &iov, 1, offset));
            check(flush ? cow_flush(disk) : 0);
        } else if (pwrite(raw_fd, buffer, BLOCK, (off_t)offset) != BLOCK ||
                   (flush && fdatasync(raw_fd) < 0)) {
            return -errno;
        }
    }
    check(disk ? cow_flush(disk) : fdatasync(raw_fd));
    *ret_seconds = now() - start;
    check(cow_close(disk));
    return 0;
}

static int bench_write(int side, double *ret_seconds)
{
    if (side == QEMU)
        return run_qemu("-w --flush-interval=100000000", N_WRITES, ret_seconds);
    return write_steps(side, N_WRITES, 0, ret_seconds);
}

static int bench_flush(int side, double *ret_seconds)
{
    if (side == QEMU)
        return run_qemu("-w --flush-interval=1", N_FLUSHES, ret_seconds);
    return write_steps(side, N_FLUSHES, 1, ret_seconds);
}

static int bench_open(int side, double *ret_seconds)
{
    static struct cow_disk *disks[N_OVERLAYS];
    char name[32];
    double start = now();

    if (side != OURS)
        return -ENOENT;
    for (unsigned i = 0; i < N_OVERLAYS; i++) {
        snprintf(name, sizeof(name), "many%u.qcow2", i);
        disks[i] = new_overlay(name);
    }
    *ret_seconds = now() - start;
    for (unsigned i = 0; i < N_OVERLAYS; i++) {
        check(cow_close(disks[i]));
        snprintf(name, sizeof(name), "many%u.qcow2", i);
        unlink(path_of(name));
    }
    return 0;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void report(struct bench *b, bool json, bool last)
{
    double median[N_SIDES] = {0};

    for (int side = 0; side < N_SIDES; side++) {
        if (b->has[side]) {
            qsort(b->seconds[side], ROUNDS, sizeof(double), compare);
            median[side] = b->seconds[side][ROUNDS / 2] / b->n * 1e6;
        }
    }
    if (json)
        printf(
            "  {\"name\": \"%s\", \"cowdisk_us\": %.3f, \"raw_us\": %.3f, \"qemu_us\": %.3f}%s\n",
            b->name, median[OURS], median[RAW], median[QEMU], last ? "" : ",");
    else
        printf("%-34s %9.2f us  %9.2f us  %9.2f us   %5.2fx raw  %5.2fx qemu\n", b->name,
               median[OURS], median[RAW], median[QEMU],
               median[RAW] > 0 ? median[RAW] / median[OURS] : 0,
               median[QEMU] > 0 ? median[QEMU] / median[OURS] : 0);
}

static void prepare(void)
{
    static uint8_t buffer[1 << 20];
    uint64_t rng = 9;

    base_fd = new_file("base.raw");
    raw_fd = new_file("plain.raw");
    for (size_t i = 0; i < sizeof(buffer); i += 8) {
        uint64_t v = next_random(&rng);
        memcpy(buffer + i, &v, 8);
    }
    for (uint64_t at = 0; at < SIZE; at += sizeof(buffer)) {
        if (pwrite(base_fd, buffer, sizeof(buffer), (off_t)at) != (ssize_t)sizeof(buffer)) {
            perror("base.raw");
            exit(1);
        }
    }
    fdatasync(base_fd);
}

int main(int argc, char **argv)
{
    struct bench benches[] = {
        {.name = "random 4 KiB read", .run = bench_read, .n = N_READS},
        {.name = "the same (raw: of a flat file)", .run = bench_read_flat, .n = N_READS},
        {.name = "random 4 KiB read, 64 at a time", .run = bench_queue, .n = N_READS},
        {.name = "sequential read, per MiB", .run = bench_sequential, .n = SIZE >> 20},
        {.name = "4 KiB read, chain of 8 (raw: of 1)", .run = bench_chain, .n = N_READS},
        {.name = "compressed read (raw: libqcow)", .run = bench_packed, .n = N_UNPACKED},
        {.name = "4 KiB write into a fresh overlay", .run = bench_write, .n = N_WRITES},
        {.name = "4 KiB write and flush", .run = bench_flush, .n = N_FLUSHES},
        {.name = "create and open an overlay", .run = bench_open, .n = N_OVERLAYS},
    };
    const size_t n = sizeof(benches) / sizeof(benches[0]);
    const char *parent = "/tmp";
    char command[600];
    bool json = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else
            parent = realpath(argv[i], NULL); /* images name each other by it */
    }
    if (!parent) {
        perror("bench-cowdisk");
        return 1;
    }
    struct rlimit files = {.rlim_cur = 4096, .rlim_max = 4096};
    setrlimit(RLIMIT_NOFILE, &files);
    snprintf(dir, sizeof(dir), "%.400s/bench-cowdisk.XXXXXX", parent);
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    prepare();
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < n; i++) {
            for (int k = 0; k < N_SIDES; k++) {
                int side = (k + round) % N_SIDES;
                benches[i].has[side] = benches[i].run(side, &benches[i].seconds[side][round]) == 0;
            }
        }
    }
    printf(json ? "[\n" : "%-34s %12s  %12s  %12s\n", "per request, medians", "cowdisk", "raw",
           "qemu");
    for (size_t i = 0; i < n; i++)
        report(&benches[i], json, i == n - 1);
    if (json)
        printf("]\n");
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command) == 0 ? 0 : 1;
}
