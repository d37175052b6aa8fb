/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox: what a guest process may still do once it has its fds. Called before any guest code
 * runs; applies to all threads, present and future.
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

#include <stddef.h>
#include <stdint.h>

/* Gives up privileges: uid and gid (0: stay), capabilities, core dumps, new privileges. -errno. */
int sandbox_drop_privileges(uint32_t uid, uint32_t gid);

/* Installs the system call filter on all threads; `ioctls` (ended by 0, or NULL) are the engine's
 * (engine.h). -errno. A forbidden call kills the process. */
int sandbox_filter(const unsigned long *ioctls);

#endif
