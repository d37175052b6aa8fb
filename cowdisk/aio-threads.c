/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio by a few threads that do plain system calls: where there is no io_uring. The threads exist
 * from the beginning, because a sandboxed process can start none later. The lock guards all lists
 * but aio.finished, which is the owner's.
 */
#include "cowdisk/aio.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define THREADS     8
#define STACK_BYTES (64u << 10)

struct threads {
    struct cow_aio aio;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct cow_ops todo, done;
    bool stop;
    int event_fd, n;
    pthread_t thread[THREADS];
};

static ssize_t run(const struct cow_op *op)
{
    ssize_t n;

    switch (op->kind) {
    case COW_OP_READ: n = preadv(op->fd, op->vec, op->n, (off_t)op->offset); break;
    case COW_OP_WRITE: n = pwritev(op->fd, op->vec, op->n, (off_t)op->offset); break;
    default: n = fdatasync(op->fd); break;
    }
    return n < 0 ? -errno : n;
}

static void *work(void *opaque)
{
    struct threads *t = opaque;
    const uint64_t one = 1;

    pthread_mutex_lock(&t->lock);
    while (!t->stop) {
        struct cow_op *op = cow_ops_take(&t->todo);
        if (!op) {
            pthread_cond_wait(&t->work, &t->lock);
            continue;
        }
        pthread_mutex_unlock(&t->lock);
        op->result = run(op);
        pthread_mutex_lock(&t->lock);
        cow_ops_add(&t->done, op);
        (void)!write(t->event_fd, &one, sizeof(one)); /* full: it is readable already */
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void threads_start(struct cow_aio *aio, struct cow_op *op)
{
    struct threads *t = (struct threads *)aio;

    pthread_mutex_lock(&t->lock);
    cow_ops_add(&t->todo, op);
    pthread_cond_signal(&t->work);
    pthread_mutex_unlock(&t->lock);
}

static void threads_push(struct cow_aio *aio)
{
    (void)aio; /* threads_start() did */
}

static void threads_collect(struct cow_aio *aio)
{
    struct threads *t = (struct threads *)aio;
    struct cow_op *op;

    pthread_mutex_lock(&t->lock);
    while ((op = cow_ops_take(&t->done)))
        cow_ops_add(&aio->finished, op);
    pthread_mutex_unlock(&t->lock);
}

static void threads_free(struct cow_aio *aio)
{
    struct threads *t = (struct threads *)aio;

    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    while (t->n > 0)
        pthread_join(t->thread[--t->n], NULL);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct cow_aio_ops threads_ops = {"threads", threads_start, threads_push,
                                               threads_collect, threads_free};

/* Signals are for the threads that wait for them. */
static int start_threads(struct threads *t)
{
    pthread_attr_t attr;
    sigset_t all, before;
    int r = pthread_attr_init(&attr);

    if (r != 0)
        return -r;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    while (t->n < THREADS && r == 0) {
        r = pthread_create(&t->thread[t->n], &attr, work, t);
        t->n += r == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return t->n > 0 ? 0 : -r;
}

int cow_aio_threads(struct cow_aio **ret_aio, int event_fd)
{
    struct threads *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    t->aio.ops = &threads_ops;
    t->event_fd = event_fd;
    cow_ops_init(&t->aio.finished);
    cow_ops_init(&t->todo);
    cow_ops_init(&t->done);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    r = start_threads(t);
    if (r < 0) {
        threads_free(&t->aio);
        return r;
    }
    *ret_aio = &t->aio;
    return 0;
}
