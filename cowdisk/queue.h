/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What queue.c and queue-io.c share. Nobody else includes this.
 */
#ifndef COWDISK_QUEUE_H
#define COWDISK_QUEUE_H

#include "cowdisk/aio.h"
#include "cowdisk/internal.h"

struct cow_requests {
    struct cow_request *first, **end;
};

/* New clusters whose data is on its way; mapped when the last piece of it is there. */
struct cow_making {
    struct cow_making *next;
    struct cow_run run;
    unsigned pieces;
    int error;
    uint8_t around[]; /* what surrounds the data: nothing, or two clusters */
};

/* Part of a request that is one operation at a time. */
struct cow_piece {
    struct cow_op op;
    struct cow_piece *next; /* in the list of free ones */
    struct cow_request *request;
    struct cow_making *making; /* NULL: data goes where it belongs already */
    struct cow_disk *disk;     /* of a read: what it reads from */
    struct cow_range read;     /* bytes of that disk */
    uint64_t at;               /* where in the request they go */
    struct iovec vec[COW_VEC]; /* op.vec is what is left of it */
};

struct cow_queue {
    struct cow_disk *disk;
    struct cow_aio *aio;
    int event_fd;
    bool no_nowait;
    unsigned n_requests; /* not done */
    unsigned n_begun;    /* of them begun */
    struct cow_requests waiting, done;
    struct cow_making *making;
    struct cow_piece *free_pieces;
};

/* queue.c: a piece of the request ended. */
void cow_queue_piece_done(struct cow_queue *queue, struct cow_request *request, int r);

/* queue-io.c: start the pieces of a request. After an error what was started goes on. */
int cow_queue_read(struct cow_queue *queue, struct cow_request *request);
int cow_queue_write(struct cow_queue *queue, struct cow_request *request);
int cow_queue_sync(struct cow_queue *queue, struct cow_request *request);
void cow_queue_op_done(struct cow_queue *queue, struct cow_op *op);
void cow_queue_free_pieces(struct cow_queue *queue);

#endif
