/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gate: a counting barrier for vCPU threads. See gate.h. A closer raises `closed` first and kicks
 * then, so that a vCPU which enters in between sees it; a vCPU inside looks only after a kick.
 */
#include "vmmd/vmm/gate.h"

void gate_init(struct gate *g)
{
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    g->inside = g->closed = 0;
    g->stop = false;
    atomic_init(&g->closing, false);
}

void gate_destroy(struct gate *g)
{
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}

bool gate_enter(struct gate *g)
{
    bool go;

    pthread_mutex_lock(&g->lock);
    while (g->closed > 0 && !g->stop)
        pthread_cond_wait(&g->changed, &g->lock);
    go = !g->stop;
    if (go)
        g->inside++;
    pthread_mutex_unlock(&g->lock);
    return go;
}

void gate_leave(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    if (--g->inside == 0)
        pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

bool gate_pass(struct gate *g)
{
    if (!atomic_load(&g->closing))
        return true;
    gate_leave(g);
    return gate_enter(g);
}

void gate_close(struct gate *g, void (*kick)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&g->lock);
    g->closed++;
    atomic_store(&g->closing, true);
    if (g->inside > 0)
        kick(opaque);
    while (g->inside > 0)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    if (--g->closed == 0 && !g->stop)
        atomic_store(&g->closing, false);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void gate_stop(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    atomic_store(&g->closing, true);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

bool gate_stopping(struct gate *g)
{
    bool stop;

    pthread_mutex_lock(&g->lock);
    stop = g->stop;
    pthread_mutex_unlock(&g->lock);
    return stop;
}
