/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Power loss and full disks. The system calls that change a file are replaced by ones that remember
 * what is not yet durable. At random moments a file is built as a power cut could leave it: of
 * every 512-byte sector any version since the last fdatasync, independently of all others. It must
 * be a clean image, hold every flushed byte, hold nothing that was never written there, and take
 * new writes. The same calls can also fail, as on a full or broken disk.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define SECTOR     512u
#define QEMU_EVERY 50

/* ---- a file that can lose writes ------------------------------------------------------------- */

struct change {
    uint64_t offset, length;
    uint8_t *data; /* NULL: a hole */
    bool size;     /* the file's length became `offset` */
};

/* Held while a change is remembered and made, and while the power fails: changes may come from
 * several threads. */
static pthread_mutex_t shim_lock = PTHREAD_MUTEX_INITIALIZER;

static struct {
    dev_t device;
    ino_t inode;                       /* 0: nothing is watched */
    void (*before_sync)(void *opaque); /* the power may fail here, too */
    void *opaque;
    uint8_t *durable;
    uint64_t durable_bytes, capacity;
    struct change *changes;
    size_t n_changes, max_changes;
    uint64_t fail_in; /* this many changes until `full`; 0: never */
    bool full;        /* every change that needs space fails */
    bool sync_fails;
} shim;

static bool watched(int fd)
{
    struct stat st;

    return shim.inode && fstat(fd, &st) == 0 && st.st_ino == shim.inode && st.st_dev == shim.device;
}

static void remember(uint64_t offset, uint64_t length, const void *data, bool size)
{
    struct change *change;

    if (shim.n_changes == shim.max_changes) {
        shim.max_changes = shim.max_changes ? 2 * shim.max_changes : 256;
        shim.changes = realloc(shim.changes, shim.max_changes * sizeof(*shim.changes));
    }
    change = &shim.changes[shim.n_changes++];
    *change = (struct change){.offset = offset, .length = length, .size = size};
    if (data) {
        change->data = malloc(length);
        memcpy(change->data, data, length);
    }
}

static void forget_changes(void)
{
    for (size_t i = 0; i < shim.n_changes; i++)
        free(shim.changes[i].data);
    shim.n_changes = 0;
}

/* Is it time to fail? */
static bool out_of_space(void)
{
    if (shim.fail_in > 0 && --shim.fail_in == 0)
        shim.full = true;
    return shim.full;
}

static ssize_t locked_pwrite(int fd, const void *data, size_t length, off_t offset)
{
    if (watched(fd)) {
        if (out_of_space()) {
            /* Part of it may have arrived. */
            length = length / 2 / SECTOR * SECTOR;
            if (length == 0) {
                errno = ENOSPC;
                return -1;
            }
        }
        remember((uint64_t)offset, length, data, false);
    }
    return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    ssize_t n;

    pthread_mutex_lock(&shim_lock);
    n = locked_pwrite(fd, data, length, offset);
    pthread_mutex_unlock(&shim_lock);
    return n;
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
    ssize_t total = 0;

    for (int i = 0; i < n; i++) {
        ssize_t r = pwrite(fd, iov[i].iov_base, iov[i].iov_len, offset + total);
        if (r < 0)
            return total ? total : r;
        total += r;
        if ((size_t)r < iov[i].iov_len)
            break;
    }
    return total;
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    struct stat st;
    int r;

    if (watched(fd) && mode == 0 && out_of_space()) {
        errno = ENOSPC;
        return -1;
    }
    r = (int)syscall(SYS_fallocate, fd, mode, offset, length);
    if (r == 0 && watched(fd)) {
        if (mode)
            remember((uint64_t)offset, (uint64_t)length, NULL, false);
        fstat(fd, &st);
        remember((uint64_t)st.st_size, 0, NULL, true);
    }
    return r;
}

int ftruncate(int fd, off_t length)
{
    if (watched(fd))
        remember((uint64_t)length, 0, NULL, true);
    return (int)syscall(SYS_ftruncate, fd, length);
}

static void make_durable(int fd)
{
    shim.durable_bytes = file_size(fd);
    assert_true(shim.durable_bytes <= shim.capacity);
    memset(shim.durable, 0, shim.capacity);
    assert_int_equal(pread(fd, shim.durable, shim.durable_bytes, 0), (ssize_t)shim.durable_bytes);
    forget_changes();
}

int fdatasync(int fd)
{
    if (watched(fd)) {
        if (shim.sync_fails) {
            errno = EIO;
            return -1;
        }
        if (shim.before_sync)
            shim.before_sync(shim.opaque);
        pthread_mutex_lock(&shim_lock);
        make_durable(fd);
        pthread_mutex_unlock(&shim_lock);
    }
    return 0;
}

static void shim_start(int fd, uint64_t capacity)
{
    struct stat st;

    memset(&shim, 0, sizeof(shim));
    fstat(fd, &st);
    shim.capacity = capacity;
    shim.durable = malloc(capacity);
    make_durable(fd);
    shim.inode = st.st_ino;
    shim.device = st.st_dev;
}

static void shim_end(void)
{
    forget_changes();
    free(shim.changes);
    free(shim.durable);
    memset(&shim, 0, sizeof(shim));
}

/* What a power cut now could leave. Returns its length. */
static uint64_t cut_power(struct rng *rng, uint8_t *image)
{
    uint64_t n_sectors = shim.capacity / SECTOR, bytes = shim.durable_bytes;
    uint32_t *version = malloc(n_sectors * sizeof(*version)); /* changes that arrived */
    uint64_t mood = rng_below(rng, 4);
    uint64_t size_version = rng_below(rng, shim.n_changes + 1);

    memcpy(image, shim.durable, shim.capacity);
    for (uint64_t i = 0; i < n_sectors; i++) {
        switch (mood) {
        case 0: version[i] = (uint32_t)rng_below(rng, shim.n_changes + 1); break;
        case 1: version[i] = rng_below(rng, 2) ? (uint32_t)shim.n_changes : 0; break;
        case 2: version[i] = rng_below(rng, 10) ? (uint32_t)shim.n_changes : 0; break;
        default: version[i] = rng_below(rng, 10) ? 0 : (uint32_t)shim.n_changes; break;
        }
    }
    for (size_t k = 0; k < shim.n_changes; k++) {
        const struct change *change = &shim.changes[k];
        if (change->size) {
            if (k < size_version)
                bytes = change->offset;
            continue;
        }
        for (uint64_t at = 0; at < change->length;) {
            uint64_t offset = change->offset + at;
            uint64_t n = SECTOR - offset % SECTOR;
            if (n > change->length - at)
                n = change->length - at;
            if (offset < shim.capacity && k < version[offset / SECTOR]) {
                if (change->data)
                    memcpy(image + offset, change->data + at, n);
                else
                    memset(image + offset, 0, n);
                if (change->data && bytes < offset + n)
                    bytes = offset + n;
            }
            at += n;
        }
    }
    free(version);
    return bytes;
}

/* ---- a disk whose history is known ----------------------------------------------------------- */

#define MAX_VERSIONS 24

struct sector_history {
    uint32_t n;
    uint64_t mark[MAX_VERSIONS]; /* [0]: flushed; later: written since */
};

struct disk {
    struct rng rng;
    int fd, backing_fd;
    uint64_t size;
    unsigned bits;
    struct cow_disk *cow;
    uint8_t *model;
    uint8_t *snapshot; /* what the snapshot "x" holds; NULL: there is none */
    struct sector_history *history;
};

/* A sector is told by its first eight bytes: random, or zero. */
static uint64_t mark_of(const uint8_t *sector)
{
    uint64_t mark;

    memcpy(&mark, sector, sizeof(mark));
    return mark;
}

static void disk_reopen(struct disk *d)
{
    struct cow_error err;
    int r = open_image(&d->cow, d->fd, false, d->backing_fd, 0, &err);

    if (r < 0)
        fail_msg("cow_open: %s", err.text);
}

static void disk_start(struct disk *d, uint64_t seed, unsigned bits, uint64_t size)
{
    struct cow_error err;

    memset(d, 0, sizeof(*d));
    d->rng.state = seed;
    d->size = size;
    d->bits = bits;
    d->model = malloc(size);
    d->history = calloc(size / SECTOR, sizeof(*d->history));
    rng_fill(&d->rng, d->model, size);
    d->fd = nameless_file();
    d->backing_fd = nameless_file();
    put_bytes(d->backing_fd, d->model, size, 0);
    for (uint64_t i = 0; i < size / SECTOR; i++)
        d->history[i] = (struct sector_history){1, {mark_of(d->model + i * SECTOR)}};
    assert_int_equal(create_image(d->fd, "base", size, bits, &err), 0);
    disk_reopen(d);
}

static void disk_end(struct disk *d)
{
    close(d->fd);
    close(d->backing_fd);
    free(d->model);
    free(d->snapshot);
    free(d->history);
}

static void add_version(struct disk *d, uint64_t sector, uint64_t mark)
{
    struct sector_history *h = &d->history[sector];

    if (h->n < MAX_VERSIONS)
        h->mark[h->n++] = mark;
}

static bool was_written(const struct disk *d, uint64_t sector, uint64_t mark)
{
    const struct sector_history *h = &d->history[sector];

    for (uint32_t i = 0; i < h->n; i++) {
        if (h->mark[i] == mark)
            return true;
    }
    return h->n == MAX_VERSIONS;
}

static void flushed(struct disk *d)
{
    for (uint64_t i = 0; i < d->size / SECTOR; i++)
        d->history[i] = (struct sector_history){1, {mark_of(d->model + i * SECTOR)}};
}

/* The same sector-aligned change for disk, model and history; returns what cowdisk returned. */
static int random_change(struct disk *d)
{
    uint64_t kind = rng_below(&d->rng, 8), cluster = 1ull << d->bits;
    uint64_t unit = rng_below(&d->rng, 2) ? SECTOR : cluster;
    uint64_t offset = rng_below(&d->rng, d->size) / unit * unit;
    uint64_t length = (1 + rng_below(&d->rng, 12)) * unit;
    uint8_t *data;
    int r;

    if (length > 2 * cluster && unit == SECTOR)
        length = 2 * cluster;
    if (length > d->size - offset)
        length = d->size - offset;
    data = calloc(1, length);
    if (kind >= 2)
        rng_fill(&d->rng, data, length);
    for (uint64_t i = 0; i < length / SECTOR; i++)
        add_version(d, offset / SECTOR + i, mark_of(data + i * SECTOR));
    if (kind == 0 && unit == cluster) {
        r = cow_discard(d->cow, offset, length);
    } else if (kind < 2) {
        r = cow_write_zeroes(d->cow, offset, length);
    } else {
        struct iovec iov = {.iov_base = data, .iov_len = length};
        r = cow_pwritev(d->cow, &iov, 1, offset);
    }
    if (r == 0)
        memcpy(d->model + offset, data, length);
    free(data);
    return r;
}

/* After a failed change the range holds, sector by sector, old or new: take what is there. */
static void take_as_is(struct disk *d)
{
    uint8_t *now = malloc(d->size);
    struct iovec iov = {.iov_base = now, .iov_len = d->size};

    assert_int_equal(cow_preadv(d->cow, &iov, 1, 0), 0);
    for (uint64_t i = 0; i < d->size / SECTOR; i++) {
        if (!was_written(d, i, mark_of(now + i * SECTOR)))
            fail_msg("sector %llu holds what was never written there", (unsigned long long)i);
    }
    memcpy(d->model, now, d->size);
    free(now);
}

static void disk_equals_model(struct cow_disk *cow, const struct disk *d)
{
    uint8_t *now = malloc(d->size);
    struct iovec iov = {.iov_base = now, .iov_len = d->size};

    assert_int_equal(cow_preadv(cow, &iov, 1, 0), 0);
    assert_memory_equal(now, d->model, d->size);
    free(now);
}

/* ---- power ----------------------------------------------------------------------------------- */

static void check_contents(const struct disk *d, struct cow_disk *cow)
{
    uint8_t *now = malloc(d->size);
    struct iovec iov = {.iov_base = now, .iov_len = d->size};

    assert_int_equal(cow_preadv(cow, &iov, 1, 0), 0);
    for (uint64_t i = 0; i < d->size / SECTOR; i++) {
        if (!was_written(d, i, mark_of(now + i * SECTOR)))
            fail_msg("after a power cut sector %llu holds what was never there (%u versions)",
                     (unsigned long long)i, d->history[i].n);
    }
    free(now);
}

/* The snapshot never changes. */
static void check_snapshot(const struct disk *d, int fd)
{
    struct cow_open_options base = {
        .fd = d->backing_fd, .format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options top = {
        .fd = fd, .format = COW_FORMAT_QCOW2, .flags = COW_RDONLY, .data_fd = -1, .snapshot = "x"};
    uint8_t *now = malloc(d->size);
    struct iovec iov = {.iov_base = now, .iov_len = d->size};
    struct cow_disk *cow;
    struct cow_error err;

    assert_int_equal(cow_open(&top.backing, &base, &err), 0);
    assert_int_equal(cow_open(&cow, &top, &err), 0);
    assert_int_equal(cow_preadv(cow, &iov, 1, 0), 0);
    assert_memory_equal(now, d->snapshot, d->size);
    assert_int_equal(cow_close(cow), 0);
    free(now);
}

/* States after a power cut that were looked at, and how many of them by QEMU. */
static unsigned n_cuts, n_judged;

/* Three times as many as the numbers of steps say, or as often as CUT_FACTOR says. */
static int cut_steps(int steps)
{
    const char *factor = getenv("CUT_FACTOR");

    return steps * (factor ? atoi(factor) : 3);
}

/* Our own check sees each state; that QEMU agrees, many of them must do for, for it takes long. */
static void let_qemu_judge(int fd)
{
    if (n_cuts++ % QEMU_EVERY || !have_qemu_img())
        return;
    n_judged++;
    assert_int_equal(qemu_img_check(fd), 0);
}

static int tell_cuts(void **state)
{
    (void)state;
    print_message("%u states after a power cut, %u of them judged by qemu-img too\n", n_cuts,
                  n_judged);
    return 0;
}

/* The image after the cut: clean, right, and of further use. */
static void check_cut(struct disk *d, const uint8_t *image, uint64_t bytes)
{
    int fd = memfd_create("cut", MFD_CLOEXEC);
    uint8_t data[8192];
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    struct cow_disk *cow;
    struct cow_error err;
    struct check check;
    const char *problem = check_image(&check, image, bytes);

    if (problem)
        fail_msg("after a power cut: %s", problem);
    assert_true(fd >= 0);
    put_bytes(fd, image, bytes, 0);
    let_qemu_judge(fd);
    if (open_image(&cow, fd, false, d->backing_fd, 0, &err) < 0)
        fail_msg("after a power cut: %s", err.text);
    check_contents(d, cow);
    if (d->snapshot)
        check_snapshot(d, fd);
    rng_fill(&d->rng, data, sizeof(data));
    assert_int_equal(cow_pwritev(cow, &iov, 1, rng_below(&d->rng, d->size - sizeof(data))), 0);
    assert_int_equal(cow_close(cow), 0);
    assert_clean(fd);
    close(fd);
}

static void cut_before_sync(void *opaque)
{
    uint8_t *image = malloc(shim.capacity);
    struct disk *d = opaque;

    check_cut(d, image, cut_power(&d->rng, image));
    free(image);
}

/* Some of the disk, frozen by QEMU. */
static void take_snapshot(struct disk *d)
{
    char command[256];

    for (int i = 0; i < 40; i++)
        assert_int_equal(random_change(d), 0);
    assert_int_equal(cow_close(d->cow), 0);
    snprintf(command, sizeof(command),
             "qemu-img snapshot -q -c x 'json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":"
             "{\"driver\":\"file\",\"filename\":\"/proc/%d/fd/%d\"}}'",
             (int)getpid(), d->fd);
    assert_int_equal(system(command), 0);
    assert_clean(d->fd);
    d->snapshot = malloc(d->size);
    memcpy(d->snapshot, d->model, d->size);
    disk_reopen(d);
    flushed(d);
}

static void run_power_cuts(uint64_t seed, unsigned bits, uint64_t size, int steps, bool snapshot)
{
    uint64_t capacity = 3 * size + (24ull << bits) + (1u << 20);
    uint8_t *image = malloc(capacity);
    struct disk d;

    steps = cut_steps(steps);
    disk_start(&d, seed, bits, size);
    if (snapshot)
        take_snapshot(&d);
    shim_start(d.fd, capacity);
    shim.before_sync = cut_before_sync;
    shim.opaque = &d;
    for (int i = 0; i < steps; i++) {
        assert_int_equal(random_change(&d), 0);
        if (rng_below(&d.rng, 12) == 0) {
            assert_int_equal(cow_flush(d.cow), 0);
            flushed(&d);
        }
        if (rng_below(&d.rng, 60) == 0) {
            assert_int_equal(cow_close(d.cow), 0);
            flushed(&d);
            disk_reopen(&d);
        }
        check_cut(&d, image, cut_power(&d.rng, image));
    }
    disk_equals_model(d.cow, &d);
    assert_int_equal(cow_close(d.cow), 0);
    shim_end();
    assert_clean(d.fd);
    disk_end(&d);
    free(image);
}

static void test_power_512(void **state)
{
    (void)state;
    run_power_cuts(11, 9, 512 << 10, 400, false);
}

static void test_power_4k(void **state)
{
    (void)state;
    run_power_cuts(12, 12, 2 << 20, 400, false);
}

/* Tables of two pages, so that a commit writes only a part of them. */
static void test_power_8k(void **state)
{
    (void)state;
    run_power_cuts(15, 13, 12 << 20, 120, false);
}

static void test_power_64k(void **state)
{
    (void)state;
    run_power_cuts(13, 16, 4 << 20, 300, false);
}

/* Tables and data that a snapshot uses as well. */
static void test_power_snapshot(void **state)
{
    (void)state;
    if (!have_qemu_img())
        skip();
    run_power_cuts(16, 12, 2 << 20, 200, true);
    run_power_cuts(17, 9, 512 << 10, 200, true);
    run_power_cuts(18, 16, 4 << 20, 150, true);
}

/* ---- power, while many requests are under way ---- */

#define JOBS 24

struct job {
    struct cow_request request;
    struct iovec iov;
    uint8_t *data; /* NULL: not under way */
};

struct busy_disk {
    struct disk d;
    struct cow_queue *queue;
    struct job job[JOBS];
    struct cow_request flush;
    bool flushing;
    uint32_t *floor; /* per sector: its newest version when the flush was submitted */
};

static void busy_write_done(struct cow_request *request)
{
    struct job *job = request->opaque;

    assert_int_equal(request->result, 0);
    free(job->data);
    job->data = NULL;
}

/* What was done before the flush was submitted can no longer be lost. */
static void busy_flush_done(struct cow_request *request)
{
    struct busy_disk *b = request->opaque;

    assert_int_equal(request->result, 0);
    b->flushing = false;
    for (uint64_t i = 0; i < b->d.size / SECTOR; i++) {
        struct sector_history *h = &b->d.history[i];
        h->n -= b->floor[i];
        memmove(h->mark, h->mark + b->floor[i], h->n * sizeof(h->mark[0]));
    }
}

static bool is_under_way(const struct busy_disk *b, uint64_t offset, uint64_t length)
{
    for (unsigned i = 0; i < JOBS; i++) {
        const struct cow_request *r = &b->job[i].request;
        if (b->job[i].data && r->offset < offset + length && offset < r->offset + r->length)
            return true;
    }
    return false;
}

/* Never two writes to a sector at a time, and no more versions than can be told apart. */
static void busy_write(struct busy_disk *b, struct job *job)
{
    struct disk *d = &b->d;
    uint64_t offset = rng_below(&d->rng, d->size / SECTOR) * SECTOR;
    uint64_t length = (1 + rng_below(&d->rng, 24)) * SECTOR;

    if (length > d->size - offset)
        length = d->size - offset;
    if (job->data || is_under_way(b, offset, length))
        return;
    for (uint64_t i = offset / SECTOR; i < (offset + length) / SECTOR; i++) {
        if (d->history[i].n == MAX_VERSIONS)
            return;
    }
    job->data = malloc(length);
    rng_fill(&d->rng, job->data, length);
    for (uint64_t i = 0; i < length / SECTOR; i++)
        add_version(d, offset / SECTOR + i, mark_of(job->data + i * SECTOR));
    memcpy(d->model + offset, job->data, length);
    job->iov = (struct iovec){.iov_base = job->data, .iov_len = length};
    job->request = (struct cow_request){.kind = COW_WRITE,
                                        .iov = &job->iov,
                                        .iovcnt = 1,
                                        .offset = offset,
                                        .length = length,
                                        .done = busy_write_done,
                                        .opaque = job};
    cow_queue_submit(b->queue, &job->request);
}

/* Only what is done is sure to be flushed: versions under way are newer than the floor. */
static void busy_flush(struct busy_disk *b)
{
    if (b->flushing)
        return;
    for (uint64_t i = 0; i < b->d.size / SECTOR; i++) {
        bool busy = is_under_way(b, i * SECTOR, SECTOR);
        b->floor[i] = b->d.history[i].n - 1 - busy;
    }
    b->flushing = true;
    b->flush = (struct cow_request){.kind = COW_FLUSH, .done = busy_flush_done, .opaque = b};
    cow_queue_submit(b->queue, &b->flush);
}

static void busy_cut(struct busy_disk *b, uint8_t *image)
{
    uint64_t bytes;

    pthread_mutex_lock(&shim_lock);
    bytes = cut_power(&b->d.rng, image);
    pthread_mutex_unlock(&shim_lock);
    check_cut(&b->d, image, bytes);
}

static void test_power_many_requests(void **state)
{
    struct busy_disk *b = calloc(1, sizeof(*b));
    int event_fd = eventfd(0, EFD_CLOEXEC), steps = cut_steps(800);
    uint64_t size = 1 << 20, capacity = 5 * size;
    uint8_t *image = malloc(capacity);

    (void)state;
    disk_start(&b->d, 15, 14, size);
    b->floor = calloc(size / SECTOR, sizeof(*b->floor));
    shim_start(b->d.fd, capacity);
    assert_int_equal(cow_queue_new(&b->queue, b->d.cow, COW_QUEUE_THREADS, event_fd), 0);
    for (int i = 0; i < steps; i++) {
        for (unsigned k = 0; k < JOBS; k++)
            busy_write(b, &b->job[k]);
        if (rng_below(&b->d.rng, 4) == 0)
            busy_flush(b);
        cow_queue_reap(b->queue);
        busy_cut(b, image);
        if (rng_below(&b->d.rng, 8) == 0)
            cow_queue_drain(b->queue);
    }
    cow_queue_drain(b->queue);
    cow_queue_free(b->queue);
    disk_equals_model(b->d.cow, &b->d);
    assert_int_equal(cow_close(b->d.cow), 0);
    shim_end();
    assert_clean(b->d.fd);
    disk_end(&b->d);
    close(event_fd);
    free(b->floor);
    free(image);
    free(b);
}

/* A cut inside of a commit: between any two of its steps. */
static void test_power_inside_commit(void **state)
{
    uint64_t capacity = 16u << 20;
    uint8_t *image = malloc(capacity);
    struct disk d;

    (void)state;
    disk_start(&d, 14, 12, 1 << 20);
    shim_start(d.fd, capacity);
    for (int i = 0; i < 60; i++) {
        for (int k = 0; k < 6; k++)
            assert_int_equal(random_change(&d), 0);
        /* Fails at its first fdatasync: all tables are written, nothing is switched. */
        shim.sync_fails = true;
        assert_int_equal(cow_flush(d.cow), -EIO);
        shim.sync_fails = false;
        for (int k = 0; k < 10; k++)
            check_cut(&d, image, cut_power(&d.rng, image));
        /* No more writes after that, reads go on. */
        assert_int_equal(random_change(&d), -EIO);
        assert_int_equal(cow_flush(d.cow), -EIO);
        assert_int_equal(cow_close(d.cow), -EIO);
        disk_reopen(&d);
        take_as_is(&d);
        assert_int_equal(cow_flush(d.cow), 0);
        flushed(&d);
    }
    assert_int_equal(cow_close(d.cow), 0);
    shim_end();
    assert_clean(d.fd);
    disk_end(&d);
    free(image);
}

/* ---- full disk ------------------------------------------------------------------------------- */

/* Space runs out at a random write, now and then; what failed failed, nothing else changed. */
static void test_full_now_and_then(void **state)
{
    struct disk d;
    int failures = 0;

    (void)state;
    disk_start(&d, 21, 12, 2 << 20);
    shim_start(d.fd, 64u << 20);
    for (int i = 0; i < 1500; i++) {
        bool flush = rng_below(&d.rng, 5) == 0;
        int r;

        if (rng_below(&d.rng, 3) == 0)
            shim.fail_in = 1 + rng_below(&d.rng, flush ? 8 : 2);
        r = flush ? cow_flush(d.cow) : random_change(&d);
        assert_true(r == 0 || r == -ENOSPC);
        failures += r != 0;
        shim.fail_in = 0;
        shim.full = false;
        if (r != 0)
            take_as_is(&d);
        else if (flush)
            flushed(&d);
        assert_clean(d.fd);
    }
    assert_true(failures > 50);
    disk_equals_model(d.cow, &d);
    assert_int_equal(cow_flush(d.cow), 0);
    assert_clean(d.fd);
    assert_int_equal(cow_close(d.cow), 0);
    disk_reopen(&d);
    disk_equals_model(d.cow, &d);
    assert_int_equal(cow_close(d.cow), 0);
    shim_end();
    disk_end(&d);
}

/* Full, tried again and again, then room: everything accepted is there. */
static void test_full_then_room(void **state)
{
    struct disk d;

    (void)state;
    disk_start(&d, 22, 16, 8 << 20);
    shim_start(d.fd, 64u << 20);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 10; i++)
            assert_int_equal(random_change(&d), 0);
        shim.full = true;
        for (int i = 0; i < 10; i++) {
            int r = random_change(&d);
            assert_true(r == 0 || r == -ENOSPC);
            if (r != 0)
                take_as_is(&d);
        }
        assert_int_equal(cow_flush(d.cow), -ENOSPC);
        assert_clean(d.fd);
        disk_equals_model(d.cow, &d);
        shim.full = false;
        assert_int_equal(cow_flush(d.cow), 0);
        assert_clean(d.fd);
        disk_equals_model(d.cow, &d);
    }
    assert_int_equal(cow_close(d.cow), 0);
    disk_reopen(&d);
    disk_equals_model(d.cow, &d);
    assert_int_equal(cow_close(d.cow), 0);
    shim_end();
    disk_end(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_512),
        cmocka_unit_test(test_power_4k),
        cmocka_unit_test(test_power_8k),
        cmocka_unit_test(test_power_64k),
        cmocka_unit_test(test_power_snapshot),
        cmocka_unit_test(test_power_inside_commit),
        cmocka_unit_test(test_power_many_requests),
        cmocka_unit_test(test_full_now_and_then),
        cmocka_unit_test(test_full_then_room),
    };

    return cmocka_run_group_tests(tests, NULL, tell_cuts);
}
