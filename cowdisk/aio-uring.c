/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio by io_uring (io_uring_setup(2), liburing).
 *
 * A ring can do nearly all that system calls can, whatever the process's seccomp filter says. So it
 * is born disabled, limited for good to the three operations we use, and only then enabled.
 */
#include "cowdisk/aio.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RING_ENTRIES 128u
#define IN_RING_MAX  256u /* operations at a time: as many as there is room to complete */

struct uring {
    struct cow_aio aio;
    struct io_uring ring;
    unsigned in_ring, prepared;
    struct cow_ops waiting; /* for room */
};

static void prepare(struct uring *u, struct io_uring_sqe *sqe, struct cow_op *op)
{
    switch (op->kind) {
    case COW_OP_READ: io_uring_prep_readv(sqe, op->fd, op->vec, (unsigned)op->n, op->offset); break;
    case COW_OP_WRITE:
        io_uring_prep_writev(sqe, op->fd, op->vec, (unsigned)op->n, op->offset);
        break;
    case COW_OP_SYNC: io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC); break;
    }
    io_uring_sqe_set_data(sqe, op);
    u->in_ring++;
    u->prepared++;
}

/* A failure to submit leaves the entries where they are: the next push tries again. */
static void submit(struct uring *u)
{
    int n = u->prepared ? io_uring_submit(&u->ring) : 0;

    if (n > 0)
        u->prepared -= (unsigned)n;
}

static void uring_push(struct cow_aio *aio)
{
    struct uring *u = (struct uring *)aio;

    while (u->waiting.first && u->in_ring < IN_RING_MAX) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (!sqe) {
            submit(u);
            sqe = io_uring_get_sqe(&u->ring);
        }
        if (!sqe)
            break;
        prepare(u, sqe, cow_ops_take(&u->waiting));
    }
    submit(u);
}

static void uring_start(struct cow_aio *aio, struct cow_op *op)
{
    cow_ops_add(&((struct uring *)aio)->waiting, op);
}

static void uring_collect(struct cow_aio *aio)
{
    struct uring *u = (struct uring *)aio;
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        struct cow_op *op = io_uring_cqe_get_data(cqe);
        op->result = cqe->res;
        cow_ops_add(&aio->finished, op);
        n++;
    }
    io_uring_cq_advance(&u->ring, n);
    u->in_ring -= n;
    if (n > 0 || u->prepared)
        uring_push(aio);
}

static void uring_free(struct cow_aio *aio)
{
    io_uring_queue_exit(&((struct uring *)aio)->ring);
    free(aio);
}

static const struct cow_aio_ops uring_ops = {"io_uring", uring_start, uring_push, uring_collect,
                                             uring_free};

/* io_uring_register(2). Debian's liburing has functions for these two only in its static library.
 */
static int ring_register(const struct io_uring *ring, unsigned opcode, void *arg, unsigned n)
{
    return syscall(SYS_io_uring_register, ring->ring_fd, opcode, arg, n) < 0 ? -errno : 0;
}

static int limit(const struct io_uring *ring)
{
    struct io_uring_restriction allowed[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_FSYNC},
    };

    return ring_register(ring, IORING_REGISTER_RESTRICTIONS, allowed,
                         sizeof(allowed) / sizeof(allowed[0]));
}

int cow_aio_uring(struct cow_aio **ret_aio, int event_fd)
{
    struct io_uring_params params = {.flags = IORING_SETUP_R_DISABLED};
    struct uring *u = calloc(1, sizeof(*u));
    int r;

    if (!u)
        return -ENOMEM;
    u->aio.ops = &uring_ops;
    cow_ops_init(&u->aio.finished);
    cow_ops_init(&u->waiting);
    r = io_uring_queue_init_params(RING_ENTRIES, &u->ring, &params);
    if (r < 0) {
        free(u);
        return r;
    }
    r = io_uring_register_eventfd(&u->ring, event_fd);
    if (r == 0)
        r = limit(&u->ring);
    if (r == 0)
        r = ring_register(&u->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (r < 0) {
        uring_free(&u->aio);
        return r;
    }
    *ret_aio = &u->aio;
    return 0;
}
