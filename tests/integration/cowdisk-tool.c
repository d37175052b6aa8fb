/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For the cowdisk scripts: images from the command line.
 *
 *   create IMAGE BACKING|- BYTES CLUSTER_BITS       an overlay
 *   dump IMAGE raw|qcow2 BACKING|- OUT              the whole disk into a raw file
 *   equal IMAGE RAW SNAPSHOT|-                      an image with all that lies under it against
 *                                                   a raw file: whole, and in random pieces
 *   snapshots IMAGE                                 id and name of each
 *   random IMAGE BACKING|- MODEL SEED STEPS         random changes to an image and a raw file;
 *                                                   BACKING "chain": whatever the image names
 *   die IMAGE                                       one write, no flush, then the end
 *   base FILE BYTES                                 the backing file for `kill`
 *   kill IMAGE BACKING SEED ROUNDS                  see torture()
 *   fill IMAGE BACKING|-                            write until it fails, twice; see fill()
 */
#include "cowdisk/cowdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK   4096u
#define CLUSTER 65536u

static _Noreturn void die(const char *what, int r)
{
    fprintf(stderr, "cowdisk-tool: %s: %s\n", what, strerror(-r));
    exit(1);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static int open_file(const char *path, int flags)
{
    int fd = strcmp(path, "-") == 0 ? -1 : open(path, flags | O_CLOEXEC, 0644);

    if (fd < 0 && strcmp(path, "-") != 0)
        die(path, -errno);
    return fd;
}

static int open_by_name(void *opaque, const char *path, bool writable, int *ret_fd)
{
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);

    (void)opaque;
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static struct cow_disk *open_chain(const char *path, const char *snapshot, unsigned flags)
{
    struct cow_chain_options options = {
        .path = path,
        .flags = flags,
        .snapshot = strcmp(snapshot, "-") == 0 ? NULL : snapshot,
        .open_file = open_by_name,
    };
    struct cow_disk *disk;
    struct cow_error err;

    if (cow_chain_open(&disk, &options, &err) < 0) {
        fprintf(stderr, "cowdisk-tool: %s\n", err.text);
        exit(1);
    }
    return disk;
}

static struct cow_disk *open_image(const char *path, bool raw, const char *backing, unsigned flags)
{
    if (strcmp(backing, "chain") == 0)
        return open_chain(path, "-", flags);

    int backing_fd = open_file(backing, O_RDONLY);
    struct cow_open_options base = {
        .fd = backing_fd, .format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options top = {
        .fd = open_file(path, flags & COW_RDONLY ? O_RDONLY : O_RDWR),
        .format = raw ? COW_FORMAT_RAW : COW_FORMAT_QCOW2,
        .flags = flags,
        .data_fd = -1,
    };
    struct cow_disk *disk;
    struct cow_error err;
    int r = backing_fd >= 0 ? cow_open(&top.backing, &base, &err) : 0;

    if (r == 0)
        r = cow_open(&disk, &top, &err);
    if (r < 0) {
        fprintf(stderr, "cowdisk-tool: %s: %s\n", path, err.text);
        exit(1);
    }
    close(top.fd);
    if (backing_fd >= 0)
        close(backing_fd);
    return disk;
}

static void must(const char *what, int r)
{
    if (r < 0)
        die(what, r);
}

static int create(char **a)
{
    int fd = open_file(a[0], O_RDWR | O_CREAT | O_TRUNC);
    struct cow_error err;
    struct cow_create_options options = {
        .size = strtoull(a[2], NULL, 0),
        .cluster_bits = (unsigned)atoi(a[3]),
        .backing_name = strcmp(a[1], "-") == 0 ? NULL : a[1],
        .backing_format = COW_FORMAT_RAW,
    };
    int r = cow_create(fd, &options, &err);

    if (r < 0)
        fprintf(stderr, "cowdisk-tool: %s\n", err.text);
    return r < 0;
}

static int dump(char **a)
{
    struct cow_disk *disk = open_image(a[0], strcmp(a[1], "raw") == 0, a[2], COW_RDONLY);
    int out = open_file(a[3], O_RDWR | O_CREAT | O_TRUNC);
    static uint8_t buffer[3 * 65536 + 512];

    must("truncate", ftruncate(out, (off_t)cow_size(disk)) < 0 ? -errno : 0);
    for (uint64_t at = 0; at < cow_size(disk); at += sizeof(buffer)) {
        uint64_t left = cow_size(disk) - at;
        struct iovec iov = {.iov_base = buffer,
                            .iov_len = left < sizeof(buffer) ? left : sizeof(buffer)};
        must("read", cow_preadv(disk, &iov, 1, at));
        if (pwrite(out, buffer, iov.iov_len, (off_t)at) != (ssize_t)iov.iov_len)
            die("write", -errno);
    }
    return cow_close(disk) < 0;
}

/* What is said to be zeroes is zeroes; every byte is covered. */
static void compare_map(struct cow_disk *disk, const uint8_t *want)
{
    uint64_t size = cow_size(disk);

    for (uint64_t at = 0; at < size;) {
        struct cow_map map, own;
        must("map", cow_map_chain(disk, at, size - at, &map));
        must("map", cow_map(disk, at, map.length, &own));
        if (map.length == 0 || own.length != map.length)
            die("extents of no length, or longer through the chain than alone", -EIO);
        if (map.kind == COW_MAP_ZERO &&
            (want[at] || memcmp(want + at, want + at + 1, map.length - 1)))
            die("map says zeroes where there are none", -EIO);
        at += map.length;
    }
}

/* Each byte of the buffers was something else before. */
static void compare_piece(struct cow_disk *disk, const uint8_t *want, uint64_t offset,
                          uint64_t length, uint64_t cut)
{
    static uint8_t buffer[1 << 20];
    struct iovec iov[2] = {{.iov_base = buffer, .iov_len = cut},
                           {.iov_base = buffer + cut, .iov_len = length - cut}};

    for (uint64_t i = 0; i < length; i++)
        buffer[i] = (uint8_t)~want[offset + i];
    must("read", cow_preadv(disk, iov, 2, offset));
    if (memcmp(buffer, want + offset, length) != 0) {
        fprintf(stderr, "cowdisk-tool: [%llu, +%llu) differs\n", (unsigned long long)offset,
                (unsigned long long)length);
        exit(1);
    }
}

static int equal(char **a)
{
    struct cow_disk *disk = open_chain(a[0], a[2], COW_RDONLY);
    uint64_t size = cow_size(disk), rng = 1, done = 0;
    int fd = open_file(a[1], O_RDONLY);
    const uint8_t *want;

    if ((uint64_t)lseek(fd, 0, SEEK_END) != size)
        die("the size differs", -EIO);
    want = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    for (uint64_t at = 0; at < size; at += 1 << 20)
        compare_piece(disk, want, at, size - at < 1 << 20 ? size - at : 1 << 20, 0);
    for (int i = 0; i < 1500 && done < 32u << 20; i++) {
        uint64_t max = next_random(&rng) % 4 ? 9000 : 400000;
        uint64_t offset = next_random(&rng) % size, length = 1 + next_random(&rng) % max;
        length = length < size - offset ? length : size - offset;
        compare_piece(disk, want, offset, length, next_random(&rng) % (length + 1));
        done += length;
    }
    compare_map(disk, want);
    return cow_close(disk) < 0;
}

static int snapshots(char **a)
{
    int fd = open_file(a[0], O_RDONLY);
    struct cow_snapshot *list;
    struct cow_error err;
    size_t n;

    if (cow_snapshots_read(fd, &list, &n, &err) < 0) {
        fprintf(stderr, "cowdisk-tool: %s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < n; i++)
        printf("%s %s %llu\n", list[i].id, list[i].name, (unsigned long long)list[i].virtual_size);
    free(list);
    return 0;
}

static int random_changes(char **a)
{
    struct cow_disk *disk = open_image(a[0], false, a[1], 0);
    int model = open_file(a[2], O_RDWR);
    uint64_t rng = strtoull(a[3], NULL, 0), size = cow_size(disk);
    static uint8_t buffer[300000];

    for (int i = atoi(a[4]); i > 0; i--) {
        uint64_t unit = next_random(&rng) % 2 ? 512 : CLUSTER;
        uint64_t offset = next_random(&rng) % size / unit * unit;
        uint64_t length = (1 + next_random(&rng) % 6) * (unit == 512 ? 7 * 512 : unit);
        struct iovec iov = {.iov_base = buffer};

        length = length < sizeof(buffer) ? length : sizeof(buffer);
        length = length < size - offset ? length : size - offset;
        memset(buffer, 0, length);
        iov.iov_len = length;
        if (next_random(&rng) % 4 == 0) {
            must("zero", cow_write_zeroes(disk, offset, length));
        } else {
            for (uint64_t k = 0; k < length; k += 8)
                *(uint64_t *)(void *)(buffer + k) = next_random(&rng);
            must("write", cow_pwritev(disk, &iov, 1, offset));
        }
        if (pwrite(model, buffer, length, (off_t)offset) != (ssize_t)length)
            die("model", -errno);
        if (next_random(&rng) % 16 == 0)
            must("flush", cow_flush(disk));
    }
    return cow_close(disk) < 0;
}

static int die_after_write(char **a)
{
    struct cow_disk *disk = open_chain(a[0], "-", 0);
    static uint8_t data[BLOCK];
    struct iovec iov = {.iov_base = data, .iov_len = BLOCK};

    must("write", cow_pwritev(disk, &iov, 1, BLOCK));
    _exit(0);
}

/* ---- kill ------------------------------------------------------------------------------------ */

/* Shared with the child that is killed: plain memory survives that. */
struct record {
    uint32_t block, count;
    uint32_t version; /* 0: zeroes */
};

struct journal {
    _Atomic uint64_t n_begun, n_flushed; /* records */
    struct record records[1 << 20];
};

static uint64_t pattern(uint64_t block, uint32_t version)
{
    uint64_t state = block << 32 | version;

    return version ? next_random(&state) | 1 : 0;
}

/* Writes, zeroes, discards, flushes until killed. */
static _Noreturn void torture(struct cow_disk *disk, struct journal *j, uint64_t rng)
{
    uint64_t n_blocks = cow_size(disk) / BLOCK;
    static uint64_t data[32 * BLOCK / 8];

    for (;;) {
        uint64_t n = j->n_begun, kind = next_random(&rng) % 16;
        struct record *record = &j->records[n];

        if (n == sizeof(j->records) / sizeof(j->records[0]))
            _exit(0);
        record->block = (uint32_t)(next_random(&rng) % (n_blocks - 64));
        record->count = 1 + (uint32_t)(next_random(&rng) % 32);
        record->version = (uint32_t)n + 1;
        if (kind == 0) {
            must("flush", cow_flush(disk));
            j->n_flushed = n;
            continue;
        }
        if (kind <= 2) { /* whole clusters */
            record->block = record->block / 16 * 16;
            record->count = 16 * (1 + record->count % 4);
            record->version = 0;
        }
        j->n_begun = n + 1;
        if (kind == 1) {
            must("zero", cow_write_zeroes(disk, (uint64_t)record->block * BLOCK,
                                          (uint64_t)record->count * BLOCK));
        } else if (kind == 2) {
            must("discard", cow_discard(disk, (uint64_t)record->block * BLOCK,
                                        (uint64_t)record->count * BLOCK));
        } else {
            struct iovec iov = {.iov_base = data, .iov_len = record->count * BLOCK};
            for (uint32_t i = 0; i < record->count * (BLOCK / 8); i++)
                data[i] = pattern(record->block + i / (BLOCK / 8), record->version);
            must("write", cow_pwritev(disk, &iov, 1, (uint64_t)record->block * BLOCK));
        }
    }
}

/* Each block must hold its last flushed version or one begun later; whole. The versions found
 * become the base of the next round. */
static void verify(const char *image, const char *backing, struct journal *j, uint32_t *base)
{
    struct cow_disk *disk = open_image(image, false, backing, COW_RDONLY);
    uint64_t n_blocks = cow_size(disk) / BLOCK;
    uint8_t *ok = calloc(1, n_blocks);
    uint64_t *want = calloc(n_blocks, 8), *now = calloc(n_blocks, 8), data[BLOCK / 8];

    for (uint64_t b = 0; b < n_blocks; b++) {
        struct iovec iov = {.iov_base = data, .iov_len = BLOCK};
        must("read", cow_preadv(disk, &iov, 1, b * BLOCK));
        now[b] = data[0];
        want[b] = base[b] == UINT32_MAX ? pattern(b, UINT32_MAX) : pattern(b, base[b]);
        for (size_t i = 1; i < BLOCK / 8; i++) {
            if (data[i] != data[0])
                die("a torn block", -EIO);
        }
    }
    for (uint64_t n = 0; n < j->n_begun; n++) {
        const struct record *r = &j->records[n];
        for (uint64_t b = r->block; b < r->block + r->count; b++) {
            if (n < j->n_flushed)
                want[b] = pattern(b, r->version);
            else if (now[b] == pattern(b, r->version))
                ok[b] = 1;
        }
    }
    for (uint64_t b = 0; b < n_blocks; b++) {
        if (now[b] != want[b] && !ok[b]) {
            fprintf(stderr, "cowdisk-tool: block %llu: flushed data is lost\n",
                    (unsigned long long)b);
            exit(1);
        }
    }
    /* Which version it is: the last record that matches. */
    for (uint64_t n = 0; n < j->n_begun; n++) {
        const struct record *r = &j->records[n];
        for (uint64_t b = r->block; b < r->block + r->count; b++) {
            if (now[b] == pattern(b, r->version))
                base[b] = r->version;
        }
    }
    free(ok);
    free(want);
    free(now);
    must("close", cow_close(disk));
}

static void check_clean(const char *image)
{
    char command[1100];
    int status;

    snprintf(command, sizeof(command), "qemu-img check -q -f qcow2 '%s'", image);
    status = system(command);
    if (status != 0) {
        fprintf(stderr, "cowdisk-tool: qemu-img check: exit %d\n", WEXITSTATUS(status));
        exit(1);
    }
}

static void kill_round(char **a, struct journal *j, uint64_t *rng)
{
    uint64_t micros = 2000 + next_random(rng) % 200000;
    struct timespec delay = {.tv_nsec = (long)(micros * 1000)};
    pid_t pid;
    int status;

    j->n_begun = j->n_flushed = 0;
    pid = fork();
    if (pid < 0)
        die("fork", -errno);
    if (pid == 0)
        torture(open_image(a[0], false, a[1], 0), j, next_random(rng));
    nanosleep(&delay, NULL); /* the random instant is the test */
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status))
        exit(1);
}

static int kill_rounds(char **a)
{
    struct journal *j =
        mmap(NULL, sizeof(*j), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t rng = strtoull(a[2], NULL, 0), writes = 0, flushed = 0, n_blocks;
    struct cow_disk *disk = open_image(a[0], false, a[1], 0);
    int rounds = atoi(a[3]);
    uint32_t *base;

    n_blocks = cow_size(disk) / BLOCK;
    must("close", cow_close(disk));
    base = malloc(n_blocks * sizeof(*base));
    memset(base, 0xff, n_blocks * sizeof(*base)); /* the backing file's contents */
    for (int i = 0; i < rounds; i++) {
        kill_round(a, j, &rng);
        check_clean(a[0]);
        verify(a[0], a[1], j, base);
        writes += j->n_begun;
        flushed += j->n_flushed;
    }
    printf("%d kills: %llu writes, %llu flushed, all there; check clean each time\n", rounds,
           (unsigned long long)writes, (unsigned long long)flushed);
    return 0;
}

/* The backing file of the kill test. */
static int make_base(char **a)
{
    int fd = open_file(a[0], O_RDWR | O_CREAT | O_TRUNC);
    uint64_t n_blocks = strtoull(a[1], NULL, 0) / BLOCK, data[BLOCK / 8];

    for (uint64_t b = 0; b < n_blocks; b++) {
        for (size_t i = 0; i < BLOCK / 8; i++)
            data[i] = pattern(b, UINT32_MAX);
        if (pwrite(fd, data, BLOCK, (off_t)(b * BLOCK)) != BLOCK)
            die("write", -errno);
    }
    return 0;
}

/* ---- full disk ------------------------------------------------------------------------------- */

/* Writes cluster after cluster until there is no room; flushes; says how many were accepted. Byte i
 * of the disk's clusters tells which one it is. */
static int fill(char **a)
{
    struct cow_disk *disk = open_image(a[0], false, a[1], 0);
    static uint8_t data[CLUSTER];
    struct iovec iov = {.iov_base = data, .iov_len = CLUSTER};
    uint64_t n = cow_size(disk) / CLUSTER, accepted = 0;
    int r = 0;

    for (uint64_t i = 0; i < n; i++) {
        memset(data, 1 + (int)(i % 255), sizeof(data));
        r = cow_pwritev(disk, &iov, 1, i * CLUSTER);
        if (r < 0)
            break;
        accepted++;
    }
    if (accepted < n && r != -ENOSPC)
        die("write", r);
    must("flush on a full disk", cow_flush(disk));
    for (uint64_t i = 0; i < accepted; i++) {
        must("read", cow_preadv(disk, &iov, 1, i * CLUSTER));
        if (data[0] != 1 + i % 255 || memcmp(data, data + 1, CLUSTER - 1) != 0)
            die("accepted data is lost", -EIO);
    }
    printf("%llu\n", (unsigned long long)accepted);
    return cow_close(disk) < 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(char **);
        int n;
    } modes[] = {{"create", create, 4},         {"dump", dump, 4},
                 {"equal", equal, 3},           {"snapshots", snapshots, 1},
                 {"random", random_changes, 5}, {"kill", kill_rounds, 4},
                 {"base", make_base, 2},        {"fill", fill, 2},
                 {"die", die_after_write, 1}};

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (argc == modes[i].n + 2 && strcmp(argv[1], modes[i].name) == 0)
            return modes[i].run(argv + 2);
    }
    fprintf(stderr, "usage: see the top of cowdisk-tool.c\n");
    return 2;
}
