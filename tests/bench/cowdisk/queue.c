/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many reads at a time: cowdisk's queue against a plain io_uring that reads the same blocks of the
 * same files, each with as many under way as a guest's virtqueue has.
 */
#include "tests/bench/cowdisk/bench.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct reads {
    struct cow_queue *queue;
    uint64_t rng;
    unsigned begun, done;
    uint8_t buffer[COW_QUEUE_DEPTH][BLOCK];
    struct iovec iov[COW_QUEUE_DEPTH];
    struct cow_request request[COW_QUEUE_DEPTH];
};

static uint64_t next_block(struct reads *r)
{
    r->begun++;
    return next_random(&r->rng) % (SIZE / BLOCK);
}

/* ---- ours ---- */

static void submit(struct reads *r, struct cow_request *request)
{
    request->offset = next_block(r) * BLOCK;
    cow_queue_submit(r->queue, request);
}

static void read_done(struct cow_request *request)
{
    struct reads *r = request->opaque;

    check(request->result);
    r->done++;
    if (r->begun < N_READS)
        submit(r, request);
}

static void wait_event(int fd)
{
    struct pollfd event = {.fd = fd, .events = POLLIN};
    uint64_t count;

    if (poll(&event, 1, -1) < 0 || read(fd, &count, sizeof(count)) < 0)
        check(-errno);
}

static void read_ours(struct reads *r, struct cow_disk *disk)
{
    int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    check(cow_queue_new(&r->queue, disk, COW_QUEUE_ANY, event_fd));
    for (unsigned i = 0; i < COW_QUEUE_DEPTH; i++) {
        r->request[i] = (struct cow_request){
            .kind = COW_READ, .iov = &r->iov[i], .iovcnt = 1, .done = read_done, .opaque = r};
        submit(r, &r->request[i]);
    }
    while (cow_queue_reap(r->queue))
        wait_event(event_fd);
    cow_queue_free(r->queue);
    close(event_fd);
}

/* ---- raw ---- */

static void prepare(struct reads *r, struct io_uring *ring, unsigned i, const struct place *place)
{
    const struct place *at = &place[next_block(r)];
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

    io_uring_prep_readv(sqe, at->fd, &r->iov[i], 1, at->offset);
    io_uring_sqe_set_data(sqe, &r->iov[i]);
}

static void read_raw(struct reads *r, const struct place *place)
{
    struct io_uring ring;
    struct io_uring_cqe *cqe;
    unsigned head, n;

    check(io_uring_queue_init(COW_QUEUE_DEPTH, &ring, 0));
    for (unsigned i = 0; i < COW_QUEUE_DEPTH; i++)
        prepare(r, &ring, i, place);
    while (r->done < N_READS) {
        int submitted = io_uring_submit_and_wait(&ring, 1);

        check(submitted < 0 ? submitted : 0);
        n = 0;
        io_uring_for_each_cqe(&ring, head, cqe)
        {
            check(cqe->res == BLOCK ? 0 : -EIO);
            n++;
            if (r->begun < N_READS)
                prepare(r, &ring, (unsigned)((struct iovec *)io_uring_cqe_get_data(cqe) - r->iov),
                        place);
        }
        io_uring_cq_advance(&ring, n);
        r->done += n;
    }
    io_uring_queue_exit(&ring);
}

int bench_queue(int side, double *ret_seconds)
{
    struct reads *r;
    const struct place *place;
    struct cow_disk *disk;
    double start;

    if (side == QEMU)
        return run_qemu("-d 64", N_READS, ret_seconds);
    disk = half_written(&place);
    r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->rng = 1;
    for (unsigned i = 0; i < COW_QUEUE_DEPTH; i++)
        r->iov[i] = (struct iovec){.iov_base = r->buffer[i], .iov_len = BLOCK};
    start = now();
    if (side == OURS)
        read_ours(r, disk);
    else
        read_raw(r, place);
    *ret_seconds = now() - start;
    free(r);
    return 0;
}
