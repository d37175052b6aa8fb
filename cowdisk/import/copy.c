/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the source image to a sparse raw disk. Which reader reads it is told by the first bytes;
 * what only libqcow reads is in old.c; formats we know but do not read are refused by name,
 * everything else is a raw disk. Zeroes become holes.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <string.h>

#include "cowdisk/internal.h"

struct magic {
    const char *bytes;
    uint8_t length;
    const char *name;
};

static const struct magic foreign[] = {
    {"KDMV", 4, "VMDK"},
    {"COWD", 4, "VMDK (ESX)"},
    {"# Disk Descriptor", 17, "VMDK"},
    {"vhdxfile", 8, "VHDX"},
    {"conectix", 8, "VHD"},
    {"QED\0", 4, "QED"},
    {"<<< Oracle VM VirtualBox", 24, "VDI"},
    {"\x1f\x8b", 2, "gzip-compressed"},
    {"\xfd"
     "7zXZ\0",
     6, "xz-compressed"},
    {"\x28\xb5\x2f\xfd", 4, "zstd-compressed"},
};

static int recognise(struct import *import)
{
    char head[32];
    int r = cow_read_full(FD_SOURCE, head, sizeof(head), 0);

    if (r < 0) {
        cow_fail(&import->error, "reading the image: %s", strerror(-r));
        return r;
    }
    for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
        if (memcmp(head, foreign[i].bytes, foreign[i].length) != 0)
            continue;
        cow_fail(&import->error,
                 "the image is %s, which is not supported: make it raw or qcow2 first "
                 "(qemu-img convert -O qcow2, or unpack it)",
                 foreign[i].name);
        return -ENOTSUP;
    }
    return 0;
}

int import_check_size(struct import *import, uint64_t disk_bytes)
{
    if (disk_bytes == 0 || disk_bytes > IMPORT_MAX_DISK) {
        cow_fail(&import->error, "a disk of %llu bytes cannot be imported (1 byte to 4 TiB can)",
                 (unsigned long long)disk_bytes);
        return -EINVAL;
    }
    import->disk_bytes = disk_bytes;
    import->total = 2 * disk_bytes;
    return 0;
}

static int open_source(struct import *import, struct cow_disk **ret_disk)
{
    struct cow_open_options options = {
        .fd = FD_SOURCE, .flags = COW_RDONLY, .data_fd = -1, .snapshot = import->snapshot};
    int r = recognise(import);

    if (r == 0)
        r = cow_open(ret_disk, &options, &import->error);
    if (r < 0)
        return r;
    r = import_check_size(import, cow_size(*ret_disk));
    if (r < 0)
        cow_close(*ret_disk);
    return r;
}

static int copy_progress(void *opaque, uint64_t done, uint64_t total)
{
    (void)total;
    return import_progress(opaque, done);
}

int import_copy(struct import *import)
{
    struct cow_convert_options options = {.format = COW_FORMAT_RAW};
    struct cow_disk *disk;
    uint32_t version;
    int r;

    if (import_is_old(&version))
        return import_copy_old(import, version);
    r = open_source(import, &disk);
    if (r < 0)
        return r;
    r = cow_convert(disk, FD_DISK, &options, copy_progress, import, &import->error);
    cow_close(disk);
    return r;
}
