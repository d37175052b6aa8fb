/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * doorbell: see doorbell.h. Lock order: `serving`, then the dma bracket, then the machine lock. The
 * table is written before the thread starts; `gpa` afterwards under the machine lock.
 */
#include "vmmd/vmm/doorbell.h"

#include "vmmd/vmm/machine.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int doorbells_init(struct doorbells *d, struct machine *m)
{
    *d = (struct doorbells){.machine = m, .wake_fd = -1};
    sem_init(&d->serving, 0, 1);
    if (!m->ops->ioeventfd)
        return 0;
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return d->wake_fd < 0 ? -errno : 0;
}

int doorbell_add(struct doorbells *d, unsigned size, void (*ring)(void *opaque, unsigned index),
                 void *opaque, unsigned index, unsigned *ret_bell)
{
    struct doorbell *b = &d->bell[d->n];
    int fd;

    if (d->wake_fd < 0)
        return -ENOTSUP;
    if (d->n == DOORBELL_MAX || d->started)
        return -ENOSPC;
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *b = (struct doorbell){.fd = fd, .size = size, .opaque = opaque, .index = index, .ring = ring};
    *ret_bell = d->n++;
    return 0;
}

void doorbell_move(struct doorbells *d, unsigned bell, uint64_t gpa)
{
    const struct engine_ops *ops = d->machine->ops;
    struct doorbell *b = &d->bell[bell];

    if (b->gpa == gpa)
        return;
    if (b->gpa)
        ops->ioeventfd(d->machine->engine, b->gpa, b->size, b->fd, false);
    b->gpa = 0;
    if (gpa && ops->ioeventfd(d->machine->engine, gpa, b->size, b->fd, true) == 0)
        b->gpa = gpa;
}

static bool has_rung(const struct doorbell *b)
{
    uint64_t n;

    return read(b->fd, &n, sizeof(n)) == sizeof(n);
}

static void take(struct doorbells *d)
{
    while (sem_wait(&d->serving) < 0 && errno == EINTR)
        ;
}

/* `serving` taken. */
static void serve(struct doorbells *d)
{
    struct machine *m = d->machine;

    for (unsigned i = 0; i < d->n; i++) {
        if (!has_rung(&d->bell[i]))
            continue;
        memory_dma_begin(&m->memory);
        pthread_mutex_lock(&m->lock);
        d->bell[i].ring(d->bell[i].opaque, d->bell[i].index);
        pthread_mutex_unlock(&m->lock);
        memory_dma_end(&m->memory);
    }
}

static void *serve_thread(void *opaque)
{
    struct doorbells *d = opaque;
    struct pollfd fds[DOORBELL_MAX + 1];

    pthread_setname_np(pthread_self(), "doorbells");
    for (unsigned i = 0; i < d->n; i++)
        fds[i] = (struct pollfd){.fd = d->bell[i].fd, .events = POLLIN};
    fds[d->n] = (struct pollfd){.fd = d->wake_fd, .events = POLLIN};
    while (!(fds[d->n].revents & POLLIN)) {
        if (poll(fds, d->n + 1, -1) < 0)
            continue;
        take(d);
        serve(d);
        sem_post(&d->serving);
    }
    return NULL;
}

int doorbells_start(struct doorbells *d)
{
    int r;

    if (d->n == 0)
        return 0;
    r = -pthread_create(&d->thread, NULL, serve_thread, d);
    d->started = r == 0;
    return r;
}

void doorbells_hold(struct doorbells *d)
{
    take(d);
    serve(d);
}

void doorbells_release(struct doorbells *d)
{
    sem_post(&d->serving);
}

void doorbells_destroy(struct doorbells *d)
{
    uint64_t one = 1;

    if (d->started && write(d->wake_fd, &one, sizeof(one)) == sizeof(one))
        pthread_join(d->thread, NULL);
    for (unsigned i = 0; i < d->n; i++) {
        doorbell_move(d, i, 0);
        close(d->bell[i].fd);
    }
    if (d->wake_fd >= 0)
        close(d->wake_fd);
    sem_destroy(&d->serving);
}
