/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many requests at a time, by io_uring and by threads, against a flat model: up to 64 under way,
 * which touch the same clusters but never the same sectors. The file as it is at any instant must
 * be clean, and at every stop the disk equals the model.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <sys/eventfd.h>
#include <sys/uio.h>

#define SECTOR    512u
#define MAX_BYTES (96u << 10)
#define N_IOV     3

struct rig {
    struct rng rng;
    int fd, backing_fd, event_fd;
    uint64_t size;
    uint8_t *model;
    bool *busy; /* per sector: a request under way writes or reads it */
    struct cow_disk *disk;
    struct cow_queue *queue;
    struct job *idle;
    unsigned done;
};

struct job {
    struct cow_request request;
    struct rig *rig;
    struct job *next;
    struct iovec iov[N_IOV];
    uint8_t *data;
    uint64_t offset, length;
};

/* ---- jobs ------------------------------------------------------------------------------------ */

static void mark(struct rig *rig, const struct job *job, bool busy)
{
    for (uint64_t s = job->offset / SECTOR; s < (job->offset + job->length) / SECTOR; s++)
        rig->busy[s] = busy;
}

static bool is_free(const struct rig *rig, uint64_t offset, uint64_t length)
{
    for (uint64_t s = offset / SECTOR; s < (offset + length) / SECTOR; s++) {
        if (rig->busy[s])
            return false;
    }
    return true;
}

static void job_done(struct cow_request *request)
{
    struct job *job = request->opaque;
    struct rig *rig = job->rig;

    assert_int_equal(request->result, 0);
    if (request->kind == COW_READ)
        assert_memory_equal(job->data, rig->model + job->offset, job->length);
    mark(rig, job, false);
    job->next = rig->idle;
    rig->idle = job;
    rig->done++;
}

/* Cuts the buffer at any place. */
static void spread(struct rig *rig, struct job *job)
{
    uint64_t first = rng_below(&rig->rng, job->length + 1);
    uint64_t second = rng_below(&rig->rng, job->length - first + 1);

    job->iov[0] = (struct iovec){job->data, first};
    job->iov[1] = (struct iovec){job->data + first, second};
    job->iov[2] = (struct iovec){job->data + first + second, job->length - first - second};
}

/* What a discard leaves of a cluster it covers in part is the disk's business: only whole ones. */
static void discard_model(struct rig *rig, const struct job *job)
{
    memset(rig->model + job->offset, 0, job->length);
}

static enum cow_request_kind pick_kind(struct rig *rig)
{
    uint64_t n = rng_below(&rig->rng, 100);

    return n < 45 ? COW_WRITE : n < 88 ? COW_READ : n < 94 ? COW_FLUSH : COW_WRITE_ZEROES;
}

static void start_job(struct rig *rig)
{
    struct job *job = rig->idle;
    enum cow_request_kind kind = pick_kind(rig);
    uint64_t offset = rng_below(&rig->rng, rig->size / SECTOR) * SECTOR;
    uint64_t length = (1 + rng_below(&rig->rng, MAX_BYTES / SECTOR)) * SECTOR;

    if (length > rig->size - offset)
        length = rig->size - offset;
    if (kind == COW_FLUSH)
        length = 0;
    if (!is_free(rig, offset, length))
        return;
    rig->idle = job->next;
    job->offset = offset;
    job->length = length;
    mark(rig, job, true);
    if (kind == COW_WRITE) {
        rng_fill(&rig->rng, job->data, length);
        memcpy(rig->model + offset, job->data, length);
    } else if (kind == COW_WRITE_ZEROES) {
        discard_model(rig, job);
    }
    spread(rig, job);
    job->request = (struct cow_request){
        .kind = kind,
        .iov = job->iov,
        .iovcnt = kind == COW_READ || kind == COW_WRITE ? N_IOV : 0,
        .offset = offset,
        .length = length,
        .done = job_done,
        .opaque = job,
    };
    cow_queue_submit(rig->queue, &job->request);
}

/* ---- the rig --------------------------------------------------------------------------------- */

static void add_jobs(struct rig *rig)
{
    for (unsigned i = 0; i < COW_QUEUE_DEPTH; i++) {
        struct job *job = calloc(1, sizeof(*job));
        job->data = malloc(MAX_BYTES);
        job->rig = rig;
        job->next = rig->idle;
        rig->idle = job;
    }
}

static bool rig_start(struct rig *rig, uint64_t seed, unsigned bits, bool raw,
                      enum cow_queue_kind kind)
{
    uint64_t backing = 3u << 20;
    struct cow_error err;

    memset(rig, 0, sizeof(*rig));
    rig->rng.state = seed;
    rig->size = 4u << 20;
    rig->model = calloc(1, rig->size);
    rig->busy = calloc(rig->size / SECTOR, sizeof(*rig->busy));
    rig->fd = nameless_file();
    rig->backing_fd = -1;
    if (raw) {
        assert_int_equal(ftruncate(rig->fd, (off_t)rig->size), 0);
    } else {
        rng_fill(&rig->rng, rig->model, backing);
        rig->backing_fd = nameless_file();
        put_bytes(rig->backing_fd, rig->model, backing, 0);
        assert_int_equal(fsync(rig->backing_fd), 0); /* forget_cache() wants it clean */
        assert_int_equal(create_image(rig->fd, "base.raw", rig->size, bits, &err), 0);
    }
    assert_int_equal(open_image(&rig->disk, rig->fd, raw, rig->backing_fd, 0, &err), 0);
    rig->event_fd = eventfd(0, EFD_CLOEXEC);
    add_jobs(rig);
    return cow_queue_new(&rig->queue, rig->disk, kind, rig->event_fd) == 0;
}

static void rig_end(struct rig *rig)
{
    cow_queue_free(rig->queue);
    assert_int_equal(cow_close(rig->disk), 0);
    while (rig->idle) {
        struct job *job = rig->idle;
        rig->idle = job->next;
        free(job->data);
        free(job);
    }
    close(rig->event_fd);
    close(rig->fd);
    if (rig->backing_fd >= 0)
        close(rig->backing_fd);
    free(rig->model);
    free(rig->busy);
}

static void check_all(struct rig *rig)
{
    uint8_t *data = malloc(rig->size);
    struct iovec iov = {data, rig->size};

    cow_queue_drain(rig->queue);
    assert_int_equal(cow_preadv(rig->disk, &iov, 1, 0), 0);
    assert_memory_equal(data, rig->model, rig->size);
    free(data);
}

static void wait_for_some(struct rig *rig)
{
    uint64_t count;

    if (cow_queue_reap(rig->queue) == COW_QUEUE_DEPTH)
        assert_int_equal(read(rig->event_fd, &count, sizeof(count)), sizeof(count));
    cow_queue_reap(rig->queue);
}

/* Reads have to wait for the disk then, if the file system is on one. */
static void forget_cache(struct rig *rig)
{
    (void)fdatasync(rig->fd);
    (void)posix_fadvise(rig->fd, 0, 0, POSIX_FADV_DONTNEED);
    if (rig->backing_fd >= 0)
        (void)posix_fadvise(rig->backing_fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void random_requests(unsigned bits, bool raw, enum cow_queue_kind kind)
{
    struct rig rig;

    if (!rig_start(&rig, 1000 + bits, bits, raw, kind)) {
        assert_int_equal(kind, COW_QUEUE_URING);
        print_message("no io_uring here\n");
        rig_end(&rig);
        return;
    }
    while (rig.done < 3000) {
        while (rig.idle && rng_below(&rig.rng, 8))
            start_job(&rig);
        wait_for_some(&rig);
        if (!raw && rng_below(&rig.rng, 50) == 0)
            assert_clean(rig.fd);
        if (rng_below(&rig.rng, 100) == 0)
            check_all(&rig);
        if (rng_below(&rig.rng, 20) == 0)
            forget_cache(&rig);
    }
    check_all(&rig);
    rig_end(&rig);
}

static void test_uring(void **state)
{
    (void)state;
    random_requests(0, true, COW_QUEUE_URING);
    for (unsigned bits = 9; bits <= 21; bits += 3)
        random_requests(bits, false, COW_QUEUE_URING);
}

static void test_threads(void **state)
{
    (void)state;
    random_requests(0, true, COW_QUEUE_THREADS);
    for (unsigned bits = 9; bits <= 21; bits += 3)
        random_requests(bits, false, COW_QUEUE_THREADS);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void note_done(struct cow_request *request)
{
    *(unsigned *)request->opaque += 1;
}

static int one_request(struct rig *rig, enum cow_request_kind kind, uint64_t offset,
                       uint64_t length)
{
    uint8_t data[4096] = {0};
    struct iovec iov = {data, length};
    unsigned done = 0;
    struct cow_request request = {.kind = kind,
                                  .iov = &iov,
                                  .iovcnt = 1,
                                  .offset = offset,
                                  .length = length,
                                  .done = note_done,
                                  .opaque = &done};

    cow_queue_submit(rig->queue, &request);
    cow_queue_drain(rig->queue);
    assert_int_equal(done, 1);
    return request.result;
}

static void test_bad_requests(void **state)
{
    struct rig rig;

    (void)state;
    assert_true(rig_start(&rig, 7, 16, false, COW_QUEUE_ANY));
    assert_non_null(cow_queue_name(rig.queue));
    assert_int_equal(one_request(&rig, COW_READ, rig.size, 512), -EINVAL);
    assert_int_equal(one_request(&rig, COW_WRITE, rig.size - 512, 1024), -EINVAL);
    assert_int_equal(one_request(&rig, COW_WRITE, UINT64_MAX - 511, 512), -EINVAL);
    assert_int_equal(one_request(&rig, COW_DISCARD, rig.size, 512), -EINVAL);
    assert_int_equal(one_request(&rig, COW_READ, 0, 512), 0);
    rig_end(&rig);
}

static void test_read_only(void **state)
{
    struct cow_error err;
    struct rig rig;

    (void)state;
    assert_true(rig_start(&rig, 8, 16, false, COW_QUEUE_ANY));
    cow_queue_free(rig.queue);
    assert_int_equal(cow_close(rig.disk), 0);
    assert_int_equal(open_image(&rig.disk, rig.fd, false, rig.backing_fd, COW_RDONLY, &err), 0);
    assert_int_equal(cow_queue_new(&rig.queue, rig.disk, COW_QUEUE_ANY, rig.event_fd), 0);
    assert_int_equal(one_request(&rig, COW_WRITE, 0, 512), -EROFS);
    assert_int_equal(one_request(&rig, COW_WRITE_ZEROES, 0, 512), -EROFS);
    assert_int_equal(one_request(&rig, COW_FLUSH, 0, 0), 0);
    rig_end(&rig);
}

/* ---- templates ------------------------------------------------------------------------------- */

static void note_damage(void *opaque, uint64_t offset)
{
    *(uint64_t *)opaque = offset;
}

/* One flipped bit: that block cannot be read, the others can. */
static void test_damaged_block(void **state)
{
    struct rig rig = {.rng.state = 9, .size = 64 * COW_BLOCK_SIZE};
    uint64_t damage = UINT64_MAX;
    struct cow_hashes hashes;
    struct cow_error err;
    uint8_t block[COW_BLOCK_SIZE];
    int hash_fd = nameless_file();

    (void)state;
    rig.fd = nameless_file();
    rig.event_fd = eventfd(0, EFD_CLOEXEC);
    for (uint64_t i = 0; i < 64; i++) {
        rng_fill(&rig.rng, block, sizeof(block));
        put_bytes(rig.fd, block, sizeof(block), i * sizeof(block));
    }
    assert_int_equal(cow_hashes_write(rig.fd, hash_fd, NULL, NULL), 0);
    assert_int_equal(cow_hashes_map(hash_fd, rig.size, &hashes, &err), 0);
    block[1000] ^= 4; /* of the last one */
    put_bytes(rig.fd, block, sizeof(block), 63 * sizeof(block));
    assert_int_equal(cow_open(&rig.disk,
                              &(struct cow_open_options){.fd = rig.fd,
                                                         .format = COW_FORMAT_RAW,
                                                         .flags = COW_RDONLY,
                                                         .data_fd = -1,
                                                         .hashes = &hashes,
                                                         .damaged = note_damage,
                                                         .opaque = &damage},
                              &err),
                     0);
    assert_int_equal(cow_queue_new(&rig.queue, rig.disk, COW_QUEUE_ANY, rig.event_fd), 0);
    for (int turn = 0; turn < 2; turn++) {
        assert_int_equal(one_request(&rig, COW_READ, 62 * COW_BLOCK_SIZE, COW_BLOCK_SIZE), 0);
        assert_int_equal(one_request(&rig, COW_READ, 62 * COW_BLOCK_SIZE + 512, 3584), 0);
        assert_int_equal(damage, UINT64_MAX);
        assert_int_equal(one_request(&rig, COW_READ, 63 * COW_BLOCK_SIZE + 512, 512), -EIO);
        assert_int_equal(damage, 63 * COW_BLOCK_SIZE);
        damage = UINT64_MAX;
    }
    cow_queue_free(rig.queue);
    assert_int_equal(cow_close(rig.disk), 0);
    cow_hashes_unmap(&hashes);
    close(rig.event_fd);
    close(rig.fd);
    close(hash_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uring),         cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bad_requests),  cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_damaged_block),
    };

    alarm(300); /* a completion that nobody was told of */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
