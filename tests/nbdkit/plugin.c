/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbdkit cowdisk: serves any image through cowdisk, so that other people's tools (qemu-io,
 * qemu-img, nbdcopy, fio) test it:
 *
 *     nbdkit build/nbdkit-cowdisk-plugin.so file=PATH [readonly=1]
 *
 * The whole chain is opened once and shared by all connections; nbdkit serialises their requests,
 * as cowdisk wants it. Only for tests: files are opened by whatever names images have in them.
 */
#include "cowdisk/cowdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_SERIALIZE_ALL_REQUESTS

/* A plugin has no other place for its state. */
static struct {
    char *path;
    int readonly;
    struct cow_disk *disk;
} served;

static int complain(const char *what, int r)
{
    nbdkit_error("%s: %s", what, strerror(-r));
    nbdkit_set_error(-r);
    return -1;
}

/* ---- configuration --------------------------------------------------------------------------- */

static int plugin_config(const char *key, const char *value)
{
    if (strcmp(key, "file") == 0) {
        free(served.path);
        served.path = nbdkit_realpath(value);
        return served.path ? 0 : -1;
    }
    if (strcmp(key, "readonly") == 0) {
        served.readonly = nbdkit_parse_bool(value);
        return served.readonly < 0 ? -1 : 0;
    }
    nbdkit_error("unknown parameter %s", key);
    return -1;
}

static int plugin_config_complete(void)
{
    if (served.path)
        return 0;
    nbdkit_error("file=PATH is missing");
    return -1;
}

static int open_file(void *opaque, const char *path, bool writable, int *ret_fd)
{
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);

    (void)opaque;
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static int plugin_get_ready(void)
{
    struct cow_chain_options options = {
        .path = served.path,
        .flags = served.readonly ? COW_RDONLY : 0,
        .open_file = open_file,
    };
    struct cow_error err;

    if (cow_chain_open(&served.disk, &options, &err) == 0)
        return 0;
    nbdkit_error("%s", err.text);
    return -1;
}

static void plugin_cleanup(void)
{
    int r = cow_close(served.disk);

    served.disk = NULL;
    if (r < 0)
        complain("closing the image", r);
}

static void plugin_unload(void)
{
    free(served.path);
}

/* ---- a connection ---------------------------------------------------------------------------- */

static void *plugin_open(int readonly)
{
    (void)readonly;
    return served.disk;
}

static int64_t plugin_get_size(void *handle)
{
    return (int64_t)cow_size(handle);
}

static int plugin_can_write(void *handle)
{
    (void)handle;
    return !served.readonly;
}

/* One disk for all: what one connection has flushed, all have. */
static int plugin_yes(void *handle)
{
    (void)handle;
    return 1;
}

static int plugin_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred,
                             uint32_t *maximum)
{
    (void)handle;
    *minimum = 1;
    *preferred = 1u << COW_CLUSTER_BITS;
    *maximum = UINT32_MAX;
    return 0;
}

/* ---- requests -------------------------------------------------------------------------------- */

static int plugin_flush(void *handle, uint32_t flags)
{
    int r = cow_flush(handle);

    (void)flags;
    return r < 0 ? complain("flush", r) : 0;
}

static int finish(void *handle, const char *what, int r, uint32_t flags)
{
    if (r == 0 && flags & NBDKIT_FLAG_FUA)
        r = cow_flush(handle);
    return r < 0 ? complain(what, r) : 0;
}

static int plugin_pread(void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct iovec iov = {.iov_base = data, .iov_len = count};

    (void)flags;
    return finish(handle, "read", cow_preadv(handle, &iov, 1, offset), 0);
}

static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset,
                         uint32_t flags)
{
    struct iovec iov = {.iov_base = (void *)data, .iov_len = count};

    return finish(handle, "write", cow_pwritev(handle, &iov, 1, offset), flags);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    return finish(handle, "discard", cow_discard(handle, offset, count), flags);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    return finish(handle, "write zeroes", cow_write_zeroes(handle, offset, count), flags);
}

/* Through all layers: is the beginning of the range known to be zeroes? */
static int map_chain(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_map *map)
{
    *map = (struct cow_map){.kind = COW_MAP_BACKING, .length = length};
    while (disk && offset < cow_size(disk) && map->kind == COW_MAP_BACKING) {
        uint64_t left = cow_size(disk) - offset;
        int r = cow_map(disk, offset, map->length < left ? map->length : left, map);
        if (r < 0)
            return r;
        disk = cow_backing(disk);
    }
    return 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents)
{
    uint64_t end = offset + count;

    while (offset < end) {
        struct cow_map map;
        int r = map_chain(handle, offset, end - offset, &map);

        if (r < 0)
            return complain("map", r);
        if (nbdkit_add_extent(
                extents, offset, map.length,
                map.kind == COW_MAP_DATA ? 0 : NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO) < 0)
            return -1;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            break;
        offset += map.length;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "cowdisk",
    .version = VMMD_VERSION,
    .description = "disk images through cowdisk",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = "file=PATH      the image\n"
                   "readonly=BOOL  open it for reading only",
    .magic_config_key = "file",
    .get_ready = plugin_get_ready,
    .cleanup = plugin_cleanup,
    .unload = plugin_unload,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .can_write = plugin_can_write,
    .can_flush = plugin_yes,
    .can_trim = plugin_yes,
    .can_zero = plugin_yes,
    .can_extents = plugin_yes,
    .can_multi_conn = plugin_yes,
    .can_fua = plugin_can_fua,
    .block_size = plugin_block_size,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .extents = plugin_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
