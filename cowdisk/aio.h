/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads, writes and syncs of files that are under way while others are: io_uring, or a few threads
 * where the kernel has no io_uring or does not allow it. Nobody outside cowdisk/ includes this.
 *
 * One thread owns an aio: it starts operations and takes finished ones back. When something has
 * finished meanwhile, the owner's eventfd becomes readable. An operation belongs to the aio from
 * cow_aio_start() until cow_aio_finished() returns it.
 */
#ifndef COWDISK_AIO_H
#define COWDISK_AIO_H

#include "cowdisk/cowdisk.h"

enum cow_op_kind { COW_OP_READ, COW_OP_WRITE, COW_OP_SYNC };

struct cow_op {
    enum cow_op_kind kind;
    int fd;
    uint64_t offset;
    struct iovec *vec; /* [n]; not of a sync */
    int n;
    ssize_t result; /* bytes, which may be fewer than asked for, or -errno */
    struct cow_op *next;
};

/* A list in order. */
struct cow_ops {
    struct cow_op *first, **end;
};

struct cow_aio;

struct cow_aio_ops {
    const char *name;
    void (*start)(struct cow_aio *aio, struct cow_op *op);
    /* Hands what was started to the kernel; io_uring takes many in one call. */
    void (*push)(struct cow_aio *aio);
    /* What has finished goes to aio->finished. */
    void (*collect)(struct cow_aio *aio);
    void (*free)(struct cow_aio *aio);
};

struct cow_aio {
    const struct cow_aio_ops *ops;
    struct cow_ops finished;
};

/* `event_fd` stays the caller's. -ENOSYS, -EPERM or -ENOMEM: it is not to be had here. */
int cow_aio_uring(struct cow_aio **ret_aio, int event_fd);
int cow_aio_threads(struct cow_aio **ret_aio, int event_fd);

/* A finished operation, or NULL. */
struct cow_op *cow_aio_finished(struct cow_aio *aio);

void cow_ops_init(struct cow_ops *ops);
void cow_ops_add(struct cow_ops *ops, struct cow_op *op);
struct cow_op *cow_ops_take(struct cow_ops *ops);

#endif
