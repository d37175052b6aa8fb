/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * name: names of guests, templates and share groups, and sizes written by people.
 */
#ifndef VMMD_NAME_H
#define VMMD_NAME_H

#include "vmmd/problem.h"

#include <stdint.h>

#define NAME_LENGTH_MAX 63 /* bytes, without the NUL */

/* [A-Za-z0-9][A-Za-z0-9._-]{0,62} and not "none". `what` ("guest", ...) begins the error's line. */
int name_check(const char *what, const char *name, struct problem *problem);

/* "256M", "1G", "4096": bytes with an optional K, M, G or T (1024). 0 or -EINVAL. */
int size_parse(const char *text, uint64_t *ret_bytes);

#endif
