/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests side by side: see cowdisk.h. Here is the order they begin and end in; queue-io.c has the
 * pieces a request is made of.
 *
 * Requests begin in the order they came. One waits, and those behind it, while
 *   - it changes tables as a whole (discard, write-zeroes, a flush with changed tables, a commit
 *     that is due) and anything is under way: a commit frees clusters for good that a read may
 *     still be reading, and counts clusters that a write has not mapped yet;
 *   - it writes to clusters that a write under way is making.
 * All else goes on side by side. A flush without changed tables is one fdatasync like any other
 * operation.
 */
#include "cowdisk/queue.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- lists ----------------------------------------------------------------------------------- */

static void list_init(struct cow_requests *list)
{
    list->first = NULL;
    list->end = &list->first;
}

static void list_add(struct cow_requests *list, struct cow_request *request)
{
    request->own.next = NULL;
    *list->end = request;
    list->end = &request->own.next;
}

static struct cow_request *list_take(struct cow_requests *list)
{
    struct cow_request *request = list->first;

    if (!request)
        return NULL;
    list->first = request->own.next;
    if (!list->first)
        list->end = &list->first;
    return request;
}

/* ---- the end of a request -------------------------------------------------------------------- */

static void count_done(struct cow_stats *stats, const struct cow_request *request)
{
    switch (request->kind) {
    case COW_READ:
        stats->reads++;
        stats->read_bytes += request->own.length;
        break;
    case COW_WRITE:
        stats->writes++;
        stats->written_bytes += request->own.length;
        break;
    default: break; /* counted where they are done, or begun */
    }
}

static void finish(struct cow_queue *queue, struct cow_request *request)
{
    if (request->result == 0)
        count_done(&queue->disk->stats, request);
    list_add(&queue->done, request);
}

/* ---- the beginning --------------------------------------------------------------------------- */

static int check_range(const struct cow_disk *disk, struct cow_request *request)
{
    int r = cow_iov_bytes(request->iov, request->iovcnt, &request->own.length);

    if (r < 0)
        return r;
    if (request->kind == COW_WRITE && (!disk->writable || disk->alone))
        return -EROFS;
    if (request->offset > disk->size || request->own.length > disk->size - request->offset)
        return -EINVAL;
    return request->kind == COW_WRITE && disk->broken ? -EIO : 0;
}

/* Does it write to clusters that are being made? */
static bool overlaps_making(const struct cow_queue *queue, const struct cow_request *request)
{
    const struct cow_disk *disk = queue->disk;
    uint64_t first, end;

    if (!queue->making)
        return false;
    first = request->offset >> disk->cluster_bits;
    end = cow_clusters(disk, request->offset + request->own.length);
    for (const struct cow_making *making = queue->making; making; making = making->next) {
        if (first < making->run.first_guest + making->run.n && making->run.first_guest < end)
            return true;
    }
    return false;
}

/* Must it have the disk for itself? */
static bool is_alone(const struct cow_queue *queue, const struct cow_request *request)
{
    const struct cow_disk *disk = queue->disk;

    switch (request->kind) {
    case COW_READ: return false;
    case COW_WRITE: return !disk->raw && disk->writable && cow_commit_is_due(disk);
    case COW_FLUSH:
        return disk->writable && (disk->broken || disk->n_dirty > 0 || disk->header_dirty);
    case COW_DISCARD:
    case COW_WRITE_ZEROES: break;
    }
    return true;
}

static bool may_begin(const struct cow_queue *queue, const struct cow_request *request)
{
    if (is_alone(queue, request))
        return queue->n_begun == 0;
    return request->kind != COW_WRITE || !overlaps_making(queue, request);
}

static int begin_flush(struct cow_queue *queue, struct cow_request *request)
{
    struct cow_disk *disk = queue->disk;

    if (!disk->writable || !disk->unsynced || is_alone(queue, request))
        return cow_flush(disk);
    disk->stats.flushes++;
    disk->unsynced = false; /* what is written from now on makes it true again */
    return cow_queue_sync(queue, request);
}

/* Pieces under way hold the request back; with none it is done at once. */
static void begin(struct cow_queue *queue, struct cow_request *request)
{
    struct cow_disk *disk = queue->disk;
    int r = 0;

    queue->n_begun++;
    request->own.pieces = 1; /* held by us until everything was started */
    switch (request->kind) {
    case COW_READ: r = cow_queue_read(queue, request); break;
    case COW_WRITE: r = cow_queue_write(queue, request); break;
    case COW_FLUSH: r = begin_flush(queue, request); break;
    case COW_DISCARD: r = cow_discard(disk, request->offset, request->length); break;
    case COW_WRITE_ZEROES: r = cow_write_zeroes(disk, request->offset, request->length); break;
    }
    cow_queue_piece_done(queue, request, r);
}

static void begin_waiting(struct cow_queue *queue)
{
    while (queue->waiting.first && may_begin(queue, queue->waiting.first))
        begin(queue, list_take(&queue->waiting));
}

void cow_queue_piece_done(struct cow_queue *queue, struct cow_request *request, int r)
{
    if (r < 0 && request->result == 0)
        request->result = r;
    if (--request->own.pieces > 0)
        return;
    queue->n_begun--;
    finish(queue, request);
}

void cow_queue_submit(struct cow_queue *queue, struct cow_request *request)
{
    int r = 0;

    request->result = 0;
    request->own.length = request->length;
    queue->n_requests++;
    if (request->kind == COW_READ || request->kind == COW_WRITE)
        r = check_range(queue->disk, request);
    if (r < 0) {
        request->result = r;
        finish(queue, request);
        return;
    }
    list_add(&queue->waiting, request);
    begin_waiting(queue);
}

unsigned cow_queue_reap(struct cow_queue *queue)
{
    struct cow_request *request;
    struct cow_op *op;
    bool again;

    do {
        queue->aio->ops->push(queue->aio);
        while ((op = cow_aio_finished(queue->aio)))
            cow_queue_op_done(queue, op);
        begin_waiting(queue);
        again = queue->done.first;
        while ((request = list_take(&queue->done))) {
            queue->n_requests--;
            request->done(request);
        }
    } while (again); /* what is done makes room, and done() may submit */
    queue->aio->ops->push(queue->aio);
    return queue->n_requests;
}

/* ---- life ------------------------------------------------------------------------------------ */

int cow_queue_new(struct cow_queue **ret_queue, struct cow_disk *disk, enum cow_queue_kind kind,
                  int event_fd)
{
    struct cow_queue *queue = calloc(1, sizeof(*queue));
    int r = -ENOSYS;

    if (!queue)
        return -ENOMEM;
    queue->disk = disk;
    queue->event_fd = event_fd;
    list_init(&queue->waiting);
    list_init(&queue->done);
    if (kind != COW_QUEUE_THREADS)
        r = cow_aio_uring(&queue->aio, event_fd);
    if (r < 0 && kind != COW_QUEUE_URING)
        r = cow_aio_threads(&queue->aio, event_fd);
    if (r < 0) {
        free(queue);
        return r;
    }
    *ret_queue = queue;
    return 0;
}

void cow_queue_drain(struct cow_queue *queue)
{
    struct pollfd fd = {.fd = queue->event_fd, .events = POLLIN};
    uint64_t count;

    while (cow_queue_reap(queue) > 0) {
        if (poll(&fd, 1, -1) > 0)
            (void)!read(queue->event_fd, &count, sizeof(count));
    }
}

void cow_queue_free(struct cow_queue *queue)
{
    struct cow_request *request;

    if (!queue)
        return;
    while ((request = list_take(&queue->waiting))) {
        request->result = -ECANCELED;
        list_add(&queue->done, request);
    }
    cow_queue_drain(queue);
    queue->aio->ops->free(queue->aio);
    cow_queue_free_pieces(queue);
    free(queue);
}

const char *cow_queue_name(const struct cow_queue *queue)
{
    return queue->aio->ops->name;
}
