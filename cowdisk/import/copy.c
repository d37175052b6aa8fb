/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the source image to a sparse raw disk. Which reader reads it is told by the first bytes;
 * what only libqcow reads is in old.c; formats we know but do not read are refused by name,
 * everything else is a raw disk. Zeroes become holes.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

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

int import_map_hashes(struct import *import)
{
    struct stat st;
    int r = fstat(FD_SOURCE, &st) < 0 ? -errno : 0;

    if (r == 0)
        r = import_check_size(import, (uint64_t)st.st_size);
    if (r == 0)
        r = import_allow_hashes(import->disk_bytes);
    if (r == 0)
        r = cow_hashes_map(FD_HASHES, import->disk_bytes, &import->hashes, &import->error);
    return r;
}

static void on_damaged(void *opaque, uint64_t offset)
{
    struct import *import = opaque;

    if (!import->damaged)
        import->damaged_at = offset;
    import->damaged = true;
}

static int map_hashes(struct import *import)
{
    int fd = FD_BELOW + (int)import->n_below, r;
    struct stat st;

    if (fstat(fd - 1, &st) < 0)
        return -errno;
    if (st.st_size <= 0 || (uint64_t)st.st_size > IMPORT_MAX_DISK)
        return -EINVAL;
    r = import_allow_hashes((uint64_t)st.st_size);
    return r < 0 ? r : cow_hashes_map(fd, (uint64_t)st.st_size, &import->hashes, &import->error);
}

static int open_layer(struct import *import, int fd, enum cow_format format, unsigned flags,
                      struct cow_disk **ret_disk);

static enum cow_format format_below(const struct cow_info *info)
{
    if (strcmp(info->backing_format, "raw") == 0)
        return COW_FORMAT_RAW;
    return strcmp(info->backing_format, "qcow2") == 0 ? COW_FORMAT_QCOW2 : COW_FORMAT_PROBE;
}

/* The files that an image says it needs are the next ones we were given. */
static int open_needed(struct import *import, struct cow_open_options *options)
{
    struct cow_info info;
    int r = cow_info_read(options->fd, options->format, &info, &import->error);

    if (r < 0)
        return r;
    if (info.has_data_file)
        options->data_fd = FD_BELOW + (int)import->used_below++;
    if (!info.backing_name[0] || import->used_below == import->n_below)
        return 0;
    if (import->used_below + 1 == import->n_below && import->below_hashes)
        options->backing_identity = &import->hashes.identity;
    return open_layer(import, FD_BELOW + (int)import->used_below++, format_below(&info), COW_RDONLY,
                      &options->backing);
}

static int open_layer(struct import *import, int fd, enum cow_format format, unsigned flags,
                      struct cow_disk **ret_disk)
{
    struct cow_open_options options = {
        .fd = fd,
        .format = format,
        .flags = flags,
        .data_fd = -1,
        .snapshot = fd == FD_SOURCE ? import->snapshot : NULL,
    };
    int r = 0;

    if (import->used_below < import->n_below) {
        r = open_needed(import, &options);
    } else if (import->below_hashes && fd != FD_SOURCE) {
        r = map_hashes(import);
        options.hashes = &import->hashes;
        options.damaged = on_damaged;
        options.opaque = import;
    }
    if (r == 0)
        r = cow_open(ret_disk, &options, &import->error);
    if (r < 0 && options.backing)
        cow_close(options.backing);
    return r;
}

int import_open(struct import *import, enum cow_format format, unsigned flags,
                struct cow_disk **ret_disk)
{
    int r = recognise(import);

    return r < 0 ? r : open_layer(import, FD_SOURCE, format, flags, ret_disk);
}

static int open_source(struct import *import, struct cow_disk **ret_disk)
{
    int r = import_open(import, COW_FORMAT_PROBE, COW_RDONLY, ret_disk);

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
    if (r < 0 && import->damaged)
        cow_fail(&import->error,
                 "the template it was made from is damaged at byte %llu of its disk",
                 (unsigned long long)import->damaged_at);
    cow_hashes_unmap(&import->hashes);
    if (r == 0)
        r = import_allow_hashes(0); /* none are needed while file systems are read */
    return r;
}
