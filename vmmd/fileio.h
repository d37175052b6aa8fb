/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fileio: small files and flat directories, written so that a crash leaves the old or the new one.
 */
#ifndef VMMD_FILEIO_H
#define VMMD_FILEIO_H

#include "vmmd/problem.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILEIO_TEMP_PREFIX ".tmp-"
#define FILEIO_NAME_MAX    128
#define FILEIO_JSON_MAX    (64 * 1024) /* larger files are not ours */

/*
 * Replaces dir_fd/name by `json`. With `durable` it survives a power loss when this returns;
 * without it is only never seen half-written by a process, and does not wait for the disk.
 */
int json_save(int dir_fd, const char *name, const json_t *json, bool durable);

/* Reads an object; -EINVAL if it is not one, -EFBIG, or the error of opening. */
int json_load(int dir_fd, const char *name, json_t **ret_json);

/* Members of an object; false if missing or of another type. Strings must fit with their NUL. */
bool json_read_string(const json_t *json, const char *key, char *buffer, size_t size);
bool json_read_u64(const json_t *json, const char *key, uint64_t *ret);

/* Opens the directory dir_fd/name, making it (mode 0700) if it does not exist. An fd or -errno. */
int dir_open(int dir_fd, const char *name);

/* Makes a directory with a temporary name; an fd or -errno, and the name in `ret_name`. */
int dir_make_temp(int dir_fd, char ret_name[FILEIO_NAME_MAX]);

/* Renames a finished temporary directory into place; durable after dir_sync(). -EEXIST if `name` is
 * there already. */
int dir_publish(int dir_fd, const char *temp, const char *name);
int dir_sync(int dir_fd);

/* Removes a flat directory with its files (what is not there is fine). */
int dir_remove(int dir_fd, const char *name);

/* Renames it to a temporary name, durably, and removes that: after a crash it is whole or gone. */
int dir_discard(int dir_fd, const char *name);

/* Removes every entry of dir_fd that has a temporary name: what a crash left behind. */
void dir_clean(int dir_fd);

/* Calls `each` for every entry that does not begin with a dot. 0 or -errno. */
int dir_each(int dir_fd, void (*each)(void *opaque, const char *name), void *opaque);

#endif
