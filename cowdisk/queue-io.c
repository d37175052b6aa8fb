/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pieces of a request: see queue.c. A piece is one operation on one file, continued until all
 * of it is done. Where the map says zeroes or a compressed cluster the buffers are filled at once.
 *
 * Data that is in the page cache is read at once, without a detour through another thread.
 */
#include "cowdisk/queue.h"

#include <errno.h>
#include <stdlib.h>

/* ---- pieces ---------------------------------------------------------------------------------- */

static struct cow_piece *piece_new(struct cow_queue *queue, struct cow_request *request,
                                   enum cow_op_kind kind)
{
    struct cow_piece *piece = queue->free_pieces;

    if (piece)
        queue->free_pieces = piece->next;
    else
        piece = malloc(sizeof(*piece));
    if (!piece)
        return NULL;
    piece->op = (struct cow_op){.kind = kind, .vec = piece->vec};
    piece->request = request;
    piece->making = NULL;
    return piece;
}

static void piece_free(struct cow_queue *queue, struct cow_piece *piece)
{
    piece->next = queue->free_pieces;
    queue->free_pieces = piece;
}

void cow_queue_free_pieces(struct cow_queue *queue)
{
    while (queue->free_pieces) {
        struct cow_piece *piece = queue->free_pieces;
        queue->free_pieces = piece->next;
        free(piece);
    }
}

static void piece_start(struct cow_queue *queue, struct cow_piece *piece)
{
    piece->request->own.pieces++;
    if (piece->making)
        piece->making->pieces++;
    queue->aio->ops->start(queue->aio, &piece->op);
}

/* Passes over the first `n` bytes; whether anything is left. */
static bool piece_skip(struct cow_piece *piece, size_t n)
{
    struct cow_op *op = &piece->op;

    op->offset += n;
    while (op->n > 0 && n >= op->vec->iov_len) {
        n -= op->vec->iov_len;
        op->vec++;
        op->n--;
    }
    if (op->n == 0)
        return false;
    op->vec->iov_base = (uint8_t *)op->vec->iov_base + n;
    op->vec->iov_len -= n;
    return true;
}

static void piece_zero(const struct cow_piece *piece)
{
    for (int i = 0; i < piece->op.n; i++)
        memset(piece->op.vec[i].iov_base, 0, piece->op.vec[i].iov_len);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* True: nothing is left to read. */
static bool read_at_once(struct cow_queue *queue, struct cow_piece *piece)
{
    struct cow_op *op = &piece->op;
    ssize_t n;

    if (queue->no_nowait)
        return false;
    n = preadv2(op->fd, op->vec, op->n, (off_t)op->offset, RWF_NOWAIT);
    if (n < 0 && errno == EOPNOTSUPP)
        queue->no_nowait = true; /* the file system cannot say */
    return n > 0 && !piece_skip(piece, (size_t)n);
}

/* What was read is compared with the hashes of a template. */
static int read_verify(const struct cow_piece *piece)
{
    const struct cow_request *request = piece->request;
    struct cow_iter iter = {.iov = request->iov, .iovcnt = request->iovcnt};

    if (!piece->disk->verify)
        return 0;
    cow_iter_skip(&iter, piece->at);
    return cow_verify_iter(piece->disk, &iter, piece->read.first, piece->read.n);
}

/* A part of the request, `at` bytes from its beginning, is at `offset` of a disk's file. */
static int read_data(struct cow_queue *queue, struct cow_request *request, struct cow_iter *iter,
                     uint64_t at, struct cow_disk *disk, uint64_t offset, uint64_t length)
{
    int r = 0;

    while (length > 0 && r == 0) {
        struct cow_piece *piece = piece_new(queue, request, COW_OP_READ);
        size_t bytes;

        if (!piece)
            return -ENOMEM;
        piece->op.fd = cow_data_file(disk);
        piece->op.offset = offset;
        piece->op.n = cow_iter_take(iter, length, piece->vec, &bytes);
        piece->disk = disk;
        piece->read = (struct cow_range){.first = offset, .n = bytes};
        piece->at = at;
        at += bytes;
        offset += bytes;
        length -= bytes;
        if (read_at_once(queue, piece)) {
            r = read_verify(piece);
            piece_free(queue, piece);
        } else {
            piece_start(queue, piece);
        }
    }
    return r;
}

int cow_queue_read(struct cow_queue *queue, struct cow_request *request)
{
    struct cow_iter iter = {.iov = request->iov, .iovcnt = request->iovcnt};
    uint64_t offset = request->offset, length = request->own.length;

    while (length > 0) {
        struct cow_place place;
        int r = cow_find_place(queue->disk, offset, length, &place);

        if (r < 0)
            return r;
        if (place.extent.kind == COW_DATA)
            r = read_data(queue, request, &iter, offset - request->offset, place.disk,
                          place.extent.host, place.extent.length);
        else
            r = cow_read_place(&place, &iter, offset);
        if (r < 0)
            return r;
        offset += place.extent.length;
        length -= place.extent.length;
    }
    return 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int write_data(struct cow_queue *queue, struct cow_request *request,
                      struct cow_making *making, struct cow_iter *iter, uint64_t offset,
                      uint64_t length)
{
    while (length > 0) {
        struct cow_piece *piece = piece_new(queue, request, COW_OP_WRITE);
        size_t bytes;

        if (!piece)
            return -ENOMEM;
        piece->op.fd = queue->disk->fd;
        piece->op.offset = offset;
        piece->making = making;
        piece->op.n = cow_iter_take(iter, length, piece->vec, &bytes);
        offset += bytes;
        length -= bytes;
        piece_start(queue, piece);
    }
    return 0;
}

/* One buffer of our own. */
static int write_around(struct cow_queue *queue, struct cow_request *request,
                        struct cow_making *making, uint8_t *data, uint64_t length, uint64_t offset)
{
    struct iovec iov = {.iov_base = data, .iov_len = length};
    struct cow_iter iter = {.iov = &iov, .iovcnt = 1};

    return write_data(queue, request, making, &iter, offset, length);
}

static struct cow_making *making_new(const struct cow_disk *disk, const struct cow_run *run)
{
    uint64_t mask = disk->cluster_size - 1;
    bool whole = !(run->offset & mask) && !((run->offset + run->length) & mask);
    struct cow_making *making =
        malloc(sizeof(*making) + (whole ? 0 : 2 * (size_t)disk->cluster_size));

    if (making)
        *making = (struct cow_making){.run = *run, .pieces = 1};
    return making;
}

/* One piece less is under way; after the last one the clusters are the guest's. */
static int making_piece_done(struct cow_queue *queue, struct cow_making *making, int r)
{
    struct cow_making **link = &queue->making;

    if (r < 0 && making->error == 0)
        making->error = r;
    if (--making->pieces > 0)
        return 0;
    while (*link != making)
        link = &(*link)->next;
    *link = making->next;
    r = making->error;
    if (r < 0)
        cow_run_undo(queue->disk, &making->run);
    else
        r = cow_run_end(queue->disk, &making->run);
    free(making);
    return r;
}

static int start_making(struct cow_queue *queue, struct cow_request *request,
                        struct cow_making *making, struct cow_iter *iter)
{
    struct cow_disk *disk = queue->disk;
    uint64_t host = cow_run_host(disk, &making->run), head, tail;
    int r = cow_run_around(disk, &making->run, making->around, &head, &tail);

    if (r == 0)
        r = write_around(queue, request, making, making->around, head, host - head);
    if (r == 0)
        r = write_data(queue, request, making, iter, host, making->run.length);
    if (r == 0)
        r = write_around(queue, request, making, making->around + disk->cluster_size, tail,
                         host + making->run.length);
    return r;
}

static int write_new(struct cow_queue *queue, struct cow_request *request, struct cow_iter *iter,
                     uint64_t offset, uint64_t length, uint64_t *ret_done)
{
    struct cow_making *making;
    struct cow_run run;
    int r = cow_alloc_prepare(queue->disk);

    if (r == 0)
        r = cow_run_begin(queue->disk, offset, length, &run);
    if (r < 0)
        return r;
    making = making_new(queue->disk, &run);
    if (!making) {
        cow_run_undo(queue->disk, &run);
        return -ENOMEM;
    }
    making->next = queue->making;
    queue->making = making;
    *ret_done = run.length;
    r = start_making(queue, request, making, iter);
    return making_piece_done(queue, making, r) < 0 && r == 0 ? -EIO : r;
}

int cow_queue_write(struct cow_queue *queue, struct cow_request *request)
{
    struct cow_iter iter = {.iov = request->iov, .iovcnt = request->iovcnt};
    uint64_t offset = request->offset, length = request->own.length;
    struct cow_disk *disk = queue->disk;
    int r;

    disk->unsynced = true;
    if (disk->raw)
        return write_data(queue, request, NULL, &iter, offset, length);
    r = queue->n_begun == 1 ? cow_commit_if_full(disk) : 0;
    while (r == 0 && length > 0) {
        struct cow_extent extent;
        uint64_t done;

        r = cow_lookup(disk, offset, length, &extent);
        if (r < 0)
            return r;
        done = extent.length;
        if (extent.owned)
            r = write_data(queue, request, NULL, &iter, extent.host, extent.length);
        else
            r = write_new(queue, request, &iter, offset, extent.length, &done);
        offset += done;
        length -= done;
    }
    return r;
}

/* ---- syncing, and the end of an operation ---------------------------------------------------- */

int cow_queue_sync(struct cow_queue *queue, struct cow_request *request)
{
    struct cow_piece *piece = piece_new(queue, request, COW_OP_SYNC);

    if (!piece)
        return -ENOMEM;
    piece->op.fd = queue->disk->fd;
    piece_start(queue, piece);
    return 0;
}

/* After a failed fdatasync nobody knows what the file holds: see commit.c. */
static int sync_result(struct cow_queue *queue, ssize_t result)
{
    if (result < 0)
        queue->disk->broken = true;
    return result < 0 ? (int)result : 0;
}

/* True: the operation goes on with what is left. Else *ret_error is its result. */
static bool continue_piece(struct cow_queue *queue, struct cow_piece *piece, int *ret_error)
{
    ssize_t result = piece->op.result;

    *ret_error = 0;
    if (piece->op.kind == COW_OP_SYNC) {
        *ret_error = sync_result(queue, result);
        return result == -EINTR;
    }
    if (result == -EINTR || result == -EAGAIN)
        return true;
    if (result == -EFBIG || result == -EDQUOT)
        result = -ENOSPC;
    if (result > 0)
        return piece_skip(piece, (size_t)result);
    if (result == 0 && piece->op.kind == COW_OP_READ)
        piece_zero(piece); /* past the end of the file */
    else
        *ret_error = result < 0 ? (int)result : -EIO;
    return false;
}

void cow_queue_op_done(struct cow_queue *queue, struct cow_op *op)
{
    struct cow_piece *piece = (struct cow_piece *)op;
    struct cow_request *request = piece->request;
    struct cow_making *making = piece->making;
    int r;

    if (continue_piece(queue, piece, &r)) {
        queue->aio->ops->start(queue->aio, op);
        return;
    }
    if (r == 0 && op->kind == COW_OP_READ)
        r = read_verify(piece);
    piece_free(queue, piece);
    if (making) {
        int made = making_piece_done(queue, making, r);
        if (r == 0)
            r = made;
    }
    cow_queue_piece_done(queue, request, r);
}
