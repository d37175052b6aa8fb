/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine-none: stands in for engine-soft/ where libunicorn is missing: the build lacks the engine
 * and says so.
 */
#include "vmmd/vmm/engine.h"

const struct engine_ops *engine_soft(void)
{
    return NULL;
}
