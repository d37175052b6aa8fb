/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd-import --export: writes the disk of a template into a file, as an image that stands alone.
 * Every block is compared with its hash when it is read: a damaged template makes no image.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "cowdisk/internal.h"

static void on_damaged(void *opaque, uint64_t offset)
{
    struct import *import = opaque;

    if (!import->damaged)
        import->damaged_at = offset;
    import->damaged = true;
}

static int on_progress(void *opaque, uint64_t done, uint64_t total)
{
    struct import *import = opaque;

    import->total = total;
    return import_progress(import, done);
}

static int open_template(struct import *import, struct cow_disk **ret_disk)
{
    struct cow_open_options options = {
        .fd = FD_SOURCE,
        .format = COW_FORMAT_RAW,
        .flags = COW_RDONLY,
        .data_fd = -1,
        .hashes = &import->hashes,
        .damaged = on_damaged,
        .opaque = import,
    };
    int r = import_map_hashes(import);

    if (r == 0)
        r = cow_open(ret_disk, &options, &import->error);
    return r;
}

int import_export(struct import *import)
{
    struct cow_convert_options options = {.format = COW_FORMAT_QCOW2, .compress = import->compress};
    struct cow_disk *disk;
    int r;

    if (strcmp(import->export, "raw") == 0)
        options.format = COW_FORMAT_RAW;
    r = open_template(import, &disk);
    if (r == 0) {
        r = cow_convert(disk, FD_DISK, &options, on_progress, import, &import->error);
        cow_close(disk);
    }
    if (r < 0 && import->damaged)
        cow_fail(&import->error, "it is damaged at byte %llu of its disk",
                 (unsigned long long)import->damaged_at);
    cow_hashes_unmap(&import->hashes);
    return r;
}
