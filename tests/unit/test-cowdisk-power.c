/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Power cuts in the middle of what changes whole images: resize, commit, rebase, repair. One run of
 * the operation is recorded, every change and every fdatasync of the files it writes. Then files
 * are built as a power cut at any point of it could have left them: what was synced is there, of
 * the rest any 512-byte sectors. Each must be clean (a damaged one no worse) and show the same
 * disk.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define SECTOR    512u
#define MAX_FILES 2
#define BITS      12u
#define CLUSTER   (1u << BITS)
#define SIZE      (1u << 20)
#define CAPACITY  (8u << 20)
#define CUTS      250

/* ---- what happened --------------------------------------------------------------------------- */

enum kind { WROTE, PUNCHED, SIZED, SYNCED };

struct event {
    enum kind kind;
    int file;
    uint64_t offset, length;
    uint8_t *data;
};

struct file {
    dev_t device;
    ino_t inode;
    uint8_t *start; /* its contents when the recording began */
    uint64_t bytes;
};

static struct {
    bool on;
    struct file file[MAX_FILES];
    int n_files;
    struct event *events;
    size_t n, capacity;
} tape;

static int watched(int fd)
{
    struct stat st;

    if (!tape.on || fstat(fd, &st) < 0)
        return -1;
    for (int i = 0; i < tape.n_files; i++) {
        if (tape.file[i].inode == st.st_ino && tape.file[i].device == st.st_dev)
            return i;
    }
    return -1;
}

static void record(int fd, enum kind kind, uint64_t offset, uint64_t length, const void *data)
{
    struct event event = {.kind = kind, .file = watched(fd), .offset = offset, .length = length};

    if (event.file < 0)
        return;
    if (tape.n == tape.capacity) {
        tape.capacity = tape.capacity ? 2 * tape.capacity : 256;
        tape.events = realloc(tape.events, tape.capacity * sizeof(*tape.events));
    }
    if (data) {
        event.data = malloc(length);
        memcpy(event.data, data, length);
    }
    tape.events[tape.n++] = event;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    record(fd, WROTE, (uint64_t)offset, length, data);
    return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
    ssize_t total = 0;

    for (int i = 0; i < n; i++)
        total += pwrite(fd, iov[i].iov_base, iov[i].iov_len, offset + total);
    return total;
}

int ftruncate(int fd, off_t length)
{
    record(fd, SIZED, (uint64_t)length, 0, NULL);
    return (int)syscall(SYS_ftruncate, fd, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    struct stat st;
    int r = (int)syscall(SYS_fallocate, fd, mode, offset, length);

    if (mode) {
        record(fd, PUNCHED, (uint64_t)offset, (uint64_t)length, NULL);
    } else {
        fstat(fd, &st);
        record(fd, SIZED, (uint64_t)st.st_size, 0, NULL);
    }
    return r;
}

int fdatasync(int fd)
{
    record(fd, SYNCED, 0, 0, NULL);
    return 0;
}

static void tape_start(const int *fds, int n)
{
    for (int i = 0; i < n; i++) {
        struct file *file = &tape.file[i];
        struct stat st;

        fstat(fds[i], &st);
        *file = (struct file){st.st_dev, st.st_ino, calloc(1, CAPACITY), (uint64_t)st.st_size};
        assert_true(file->bytes <= CAPACITY);
        assert_int_equal(pread(fds[i], file->start, file->bytes, 0), (ssize_t)file->bytes);
    }
    tape.n_files = n;
    tape.on = true;
}

static void tape_stop(void)
{
    tape.on = false;
}

static void tape_free(void)
{
    for (size_t i = 0; i < tape.n; i++)
        free(tape.events[i].data);
    free(tape.events);
    for (int i = 0; i < tape.n_files; i++)
        free(tape.file[i].start);
    memset(&tape, 0, sizeof(tape));
}

/* ---- what could be left ---------------------------------------------------------------------- */

/* An event that was not synced: all of its sectors, none, or any of them. */
static void apply(struct rng *rng, uint8_t *image, uint64_t *bytes, const struct event *event,
                  bool whole)
{
    uint64_t mood = rng_below(rng, 3), end = event->offset + event->length;

    if (event->kind == SIZED) {
        if (whole || mood)
            *bytes = event->offset;
        return;
    }
    for (uint64_t at = event->offset; at < end;) {
        uint64_t n = SECTOR - at % SECTOR < end - at ? SECTOR - at % SECTOR : end - at;
        bool arrived = whole || mood == 1 || (mood == 2 && rng_below(rng, 2));

        if (arrived && at + n <= CAPACITY) {
            if (event->data)
                memcpy(image + at, event->data + (at - event->offset), n);
            else
                memset(image + at, 0, n);
            if (event->data && *bytes < at + n)
                *bytes = at + n;
        }
        at += n;
    }
}

/* File `file` after a cut behind `cut` events: a nameless file of its own. */
static int after_cut(struct rng *rng, int file, size_t cut)
{
    uint8_t *image = malloc(CAPACITY);
    uint64_t bytes = tape.file[file].bytes;
    size_t synced = 0;
    int fd = memfd_create("cut", MFD_CLOEXEC);

    memcpy(image, tape.file[file].start, CAPACITY);
    for (size_t i = 0; i < cut; i++) {
        if (tape.events[i].kind == SYNCED && tape.events[i].file == file)
            synced = i;
    }
    for (size_t i = 0; i < cut; i++) {
        const struct event *event = &tape.events[i];
        if (event->file == file && event->kind != SYNCED)
            apply(rng, image, &bytes, event, i < synced);
    }
    assert_true(fd >= 0 && bytes <= CAPACITY);
    put_bytes(fd, image, bytes, 0);
    free(image);
    return fd;
}

/* ---- disks ----------------------------------------------------------------------------------- */

struct scene {
    struct rng rng;
    int base, other, over; /* a raw file, another one, an overlay of the first */
    uint8_t *model;        /* what the overlay shows */
    uint64_t size;         /* of it */
};

static struct cow_disk *open_raw(int fd, unsigned flags)
{
    struct cow_open_options options = {
        .fd = fd, .format = COW_FORMAT_RAW, .flags = flags, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;

    if (cow_open(&disk, &options, &err) < 0)
        fail_msg("raw: %s", err.text);
    return disk;
}

/* `below` < 0: the image stands alone. */
static struct cow_disk *open_over(int fd, int below, unsigned below_flags, unsigned flags)
{
    struct cow_open_options options = {
        .fd = fd, .format = COW_FORMAT_QCOW2, .flags = flags, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;

    if (below >= 0)
        options.backing = open_raw(below, below_flags);
    if (cow_open(&disk, &options, &err) < 0)
        fail_msg("overlay: %s", err.text);
    return disk;
}

static void change(struct scene *s, struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    struct iovec iov = {.iov_base = s->model + offset, .iov_len = length};

    rng_fill(&s->rng, s->model + offset, length);
    assert_int_equal(cow_pwritev(disk, &iov, 1, offset), 0);
}

/* An overlay that is larger than its backing file, with data and zeroes in it. */
static void scene_start(struct scene *s, uint64_t seed)
{
    struct cow_create_options create = {.size = SIZE,
                                        .cluster_bits = BITS,
                                        .backing_name = "base",
                                        .backing_format = COW_FORMAT_RAW};
    uint64_t below = SIZE - 150 * 1024;
    struct cow_disk *disk;

    memset(s, 0, sizeof(*s));
    s->rng.state = seed;
    s->size = SIZE;
    s->model = calloc(1, CAPACITY);
    s->base = nameless_file();
    s->other = nameless_file();
    s->over = nameless_file();
    rng_fill(&s->rng, s->model, below);
    put_bytes(s->base, s->model, below, 0);
    put_bytes(s->other, s->model, below / 2, 0);
    put_bytes(s->other, "different", 9, 300000);
    assert_int_equal(cow_create(s->over, &create, NULL), 0);
    disk = open_over(s->over, s->base, COW_RDONLY, 0);
    change(s, disk, 30000, 70000);
    change(s, disk, 500000, 3000);
    change(s, disk, SIZE - 60000, 60000);
    assert_int_equal(cow_write_zeroes(disk, 600000, 120000), 0);
    memset(s->model + 600000, 0, 120000);
    assert_int_equal(cow_close(disk), 0);
}

static void scene_end(struct scene *s)
{
    tape_free();
    close(s->base);
    close(s->other);
    close(s->over);
    free(s->model);
}

static void shows_model(const struct scene *s, struct cow_disk *disk)
{
    uint8_t *now = malloc(s->size);
    struct iovec iov = {.iov_base = now, .iov_len = s->size};

    assert_int_equal(cow_size(disk), s->size);
    assert_int_equal(cow_preadv(disk, &iov, 1, 0), 0);
    assert_memory_equal(now, s->model, s->size);
    free(now);
    assert_int_equal(cow_close(disk), 0);
}

/* Cuts at random points, and behind the last event. */
static size_t cut_point(struct rng *rng, int i)
{
    return i == 0 ? tape.n : rng_below(rng, tape.n + 1);
}

/* ---- resize ---------------------------------------------------------------------------------- */

/* The old size or the new one, each with its contents. */
static void resize_and_cut(uint64_t seed, uint64_t size)
{
    struct scene s;
    uint64_t before;
    struct cow_disk *disk;

    scene_start(&s, seed);
    before = s.size;
    disk = open_over(s.over, s.base, COW_RDONLY, 0);
    tape_start(&s.over, 1);
    assert_int_equal(cow_resize(disk, size, COW_SHRINK, NULL), 0);
    assert_int_equal(cow_close(disk), 0);
    tape_stop();
    for (int i = 0; i < CUTS; i++) {
        int fd = after_cut(&s.rng, 0, cut_point(&s.rng, i));

        assert_clean(fd);
        disk = open_over(fd, s.base, COW_RDONLY, COW_RDONLY);
        s.size = cow_size(disk);
        assert_true(s.size == size || (s.size == before && i > 0));
        shows_model(&s, disk);
        close(fd);
    }
    scene_end(&s);
}

static void test_grow(void **state)
{
    (void)state;
    resize_and_cut(1, 7u << 20);
}

static void test_shrink(void **state)
{
    (void)state;
    resize_and_cut(2, 512 * 1000);
}

/* ---- commit ---------------------------------------------------------------------------------- */

static void commit_and_cut(uint64_t seed, unsigned flags)
{
    struct scene s;
    struct cow_disk *disk;
    int fds[2];

    scene_start(&s, seed);
    fds[0] = s.over;
    fds[1] = s.base;
    disk = open_over(s.over, s.base, 0, 0);
    tape_start(fds, 2);
    assert_int_equal(cow_commit_to_backing(disk, flags, NULL, NULL, NULL), 0);
    assert_int_equal(cow_close(disk), 0);
    tape_stop();
    for (int i = 0; i < CUTS; i++) {
        size_t cut = cut_point(&s.rng, i);
        int over = after_cut(&s.rng, 0, cut), base = after_cut(&s.rng, 1, cut);

        assert_clean(over);
        shows_model(&s, open_over(over, base, COW_RDONLY, COW_RDONLY));
        if (i == 0)
            shows_model(&s, open_raw(base, COW_RDONLY));
        close(over);
        close(base);
    }
    scene_end(&s);
}

static void test_commit(void **state)
{
    (void)state;
    commit_and_cut(3, 0);
    commit_and_cut(4, COW_KEEP);
}

/* ---- rebase ---------------------------------------------------------------------------------- */

/* The name tells which backing file belongs to it. */
static void rebase_and_cut(uint64_t seed, const char *name)
{
    struct scene s;
    struct cow_rebase_options options = {.backing_name = name, .backing_format = COW_FORMAT_RAW};
    struct cow_disk *disk;

    scene_start(&s, seed);
    options.backing = name ? open_raw(s.other, COW_RDONLY) : NULL;
    disk = open_over(s.over, s.base, COW_RDONLY, 0);
    tape_start(&s.over, 1);
    assert_int_equal(cow_rebase(disk, &options, NULL, NULL, NULL), 0);
    assert_int_equal(cow_close(disk), 0);
    tape_stop();
    assert_int_equal(cow_close(options.backing), 0);
    for (int i = 0; i < CUTS; i++) {
        int fd = after_cut(&s.rng, 0, cut_point(&s.rng, i));
        bool is_new;
        struct cow_info info;

        assert_clean(fd);
        assert_int_equal(cow_info_read(fd, COW_FORMAT_QCOW2, &info, NULL), 0);
        is_new = strcmp(info.backing_name, name ? name : "") == 0;
        assert_true(is_new || (i > 0 && strcmp(info.backing_name, "base") == 0));
        shows_model(&s,
                    open_over(fd, is_new ? name ? s.other : -1 : s.base, COW_RDONLY, COW_RDONLY));
        close(fd);
    }
    scene_end(&s);
}

static void test_rebase(void **state)
{
    char name[900];

    (void)state;
    rebase_and_cut(5, "other");
    rebase_and_cut(6, NULL);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    rebase_and_cut(7, name); /* does not fit into the first sector */
}

/* ---- repair ---------------------------------------------------------------------------------- */

static uint64_t problems(int fd, uint64_t *ret_leaks)
{
    struct cow_check_result result;

    assert_int_equal(cow_check(fd, 0, &result, NULL, NULL, NULL), 0);
    *ret_leaks = result.leaks;
    return result.corruptions;
}

static void repair_and_cut(uint64_t seed, unsigned how, uint64_t first, unsigned count)
{
    struct scene s;
    uint64_t block, corruptions, leaks;
    uint16_t value = htobe16((uint16_t)count);
    struct cow_check_result result;

    scene_start(&s, seed);
    assert_int_equal(pread(s.over, &block, 8, 48), 8);
    assert_int_equal(pread(s.over, &block, 8, (off_t)be64toh(block)), 8);
    for (uint64_t i = first; i < first + 6; i++)
        put_bytes(s.over, &value, 2, be64toh(block) + 2 * i);
    corruptions = problems(s.over, &leaks);
    assert_true(corruptions + leaks > 0);
    tape_start(&s.over, 1);
    assert_int_equal(cow_check(s.over, how, &result, NULL, NULL, NULL), 0);
    tape_stop();
    for (int i = 0; i < CUTS; i++) {
        int fd = after_cut(&s.rng, 0, cut_point(&s.rng, i));
        uint64_t l, c = problems(fd, &l);

        if (i == 0)
            assert_clean(fd);
        /* A count that is right before its flag is: the flag was missing all along. */
        assert_true(c <= corruptions + leaks && l <= leaks);
        shows_model(&s, open_over(fd, s.base, COW_RDONLY, COW_RDONLY));
        close(fd);
    }
    scene_end(&s);
}

static void test_repair(void **state)
{
    (void)state;
    repair_and_cut(8, COW_REPAIR_ALL, 8, 0);
    repair_and_cut(9, COW_REPAIR_ALL, 10, 5);
    repair_and_cut(10, COW_REPAIR_LEAKS, 10, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grow),   cmocka_unit_test(test_shrink), cmocka_unit_test(test_commit),
        cmocka_unit_test(test_rebase), cmocka_unit_test(test_repair),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
