/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What both kinds of aio share: see aio.h.
 */
#include "cowdisk/aio.h"

void cow_ops_init(struct cow_ops *ops)
{
    ops->first = NULL;
    ops->end = &ops->first;
}

void cow_ops_add(struct cow_ops *ops, struct cow_op *op)
{
    op->next = NULL;
    *ops->end = op;
    ops->end = &op->next;
}

struct cow_op *cow_ops_take(struct cow_ops *ops)
{
    struct cow_op *op = ops->first;

    if (!op)
        return NULL;
    ops->first = op->next;
    if (!ops->first)
        ops->end = &ops->first;
    return op;
}

struct cow_op *cow_aio_finished(struct cow_aio *aio)
{
    if (!aio->finished.first)
        aio->ops->collect(aio);
    return cow_ops_take(&aio->finished);
}
