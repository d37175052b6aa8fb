/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd-import --disk: looks whether the source can be a disk of a guest, and how large it is, or
 * gives it another size. Its format is told by the caller: a guest writes what a raw disk begins
 * with.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "cowdisk/internal.h"

#define DISK_MIN 512u

static bool is_writable(void)
{
    return (fcntl(FD_SOURCE, F_GETFL) & O_ACCMODE) == O_RDWR;
}

static int resize(struct import *import, struct cow_disk *disk)
{
    int r = cow_resize(disk, import->resize, import->shrink ? COW_SHRINK : 0, &import->error);

    return r == 0 ? cow_flush(disk) : r;
}

int import_disk(struct import *import)
{
    bool raw = strcmp(import->disk, "raw") == 0;
    struct cow_disk *disk;
    int r = import_open(import, raw ? COW_FORMAT_RAW : COW_FORMAT_QCOW2,
                        is_writable() ? 0 : COW_RDONLY, &disk);

    if (r < 0)
        return r;
    if (import->resize)
        r = resize(import, disk);
    import->disk_bytes = cow_size(disk);
    if (r == 0 && import->disk_bytes < DISK_MIN) {
        cow_fail(&import->error, "the image is empty");
        r = -EINVAL;
    }
    cow_close(disk);
    return r;
}
