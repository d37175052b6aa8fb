/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ring of template hints: see hints.h. Any thread puts, the scanner thread gets.
 */
#include "memshare/hints.h"

#include <stddef.h>

void ms_hints_init(struct ms_hints *hints)
{
    pthread_mutex_init(&hints->lock, NULL);
    hints->first = 0;
    hints->count = 0;
}

void ms_hints_destroy(struct ms_hints *hints)
{
    pthread_mutex_destroy(&hints->lock);
}

/* A read that goes on where the last one ended makes one hint with it. */
static bool extend_last(struct ms_hints *hints, const struct ms_hint *hint)
{
    struct ms_hint *last = &hints->hint[(hints->first + hints->count - 1) % MS_MAX_HINTS];

    if (!hints->count || last->page + last->n != hint->page || last->block + last->n != hint->block)
        return false;
    last->n += hint->n;
    return true;
}

bool ms_hints_put(struct ms_hints *hints, struct ms_hint hint)
{
    bool was_empty;

    pthread_mutex_lock(&hints->lock);
    was_empty = hints->count == 0;
    if (!extend_last(hints, &hint) && hints->count < MS_MAX_HINTS)
        hints->hint[(hints->first + hints->count++) % MS_MAX_HINTS] = hint;
    pthread_mutex_unlock(&hints->lock);
    return was_empty;
}

bool ms_hints_waiting(struct ms_hints *hints)
{
    bool waiting;

    pthread_mutex_lock(&hints->lock);
    waiting = hints->count > 0;
    pthread_mutex_unlock(&hints->lock);
    return waiting;
}

bool ms_hints_get(struct ms_hints *hints, struct ms_hint *ret_hint)
{
    bool found;

    pthread_mutex_lock(&hints->lock);
    found = hints->count > 0;
    if (found) {
        *ret_hint = hints->hint[hints->first];
        hints->first = (hints->first + 1) % MS_MAX_HINTS;
        hints->count--;
    }
    pthread_mutex_unlock(&hints->lock);
    return found;
}
