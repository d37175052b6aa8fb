/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the source image to a sparse raw disk. Which of our readers reads it is told by the first
 * bytes; formats we know but do not read are refused by name, everything else is a raw disk. Zeroes
 * become holes.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cowdisk/internal.h"

#define COPY_BYTES (1u << 20)

struct magic {
    const char *bytes;
    uint8_t length;
    const char *name;
};

static const struct magic foreign[] = {
    {"QFI\xfb\0\0\0\1", 8, "qcow version 1"},
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

static int open_source(struct import *import, struct cow_disk **ret_disk)
{
    struct cow_open_options options = {.fd = FD_SOURCE, .flags = COW_RDONLY, .data_fd = -1};
    int r = recognise(import);

    if (r == 0)
        r = cow_open(ret_disk, &options, &import->error);
    if (r < 0)
        return r;
    import->disk_bytes = cow_size(*ret_disk);
    if (import->disk_bytes == 0 || import->disk_bytes > IMPORT_MAX_DISK) {
        cow_fail(&import->error, "a disk of %llu bytes cannot be imported (1 byte to 4 TiB can)",
                 (unsigned long long)import->disk_bytes);
        cow_close(*ret_disk);
        return -EINVAL;
    }
    return 0;
}

/* Writes the blocks of a buffer that hold anything, neighbours together. */
static int write_sparse(const uint8_t *data, uint64_t length, uint64_t offset)
{
    for (uint64_t at = 0; at < length;) {
        uint64_t start, step = cow_min(COW_BLOCK_SIZE, length - at);
        int r;

        if (cow_is_zero(data + at, step)) {
            at += step;
            continue;
        }
        start = at;
        while (at < length && !cow_is_zero(data + at, cow_min(COW_BLOCK_SIZE, length - at)))
            at += cow_min(COW_BLOCK_SIZE, length - at);
        r = cow_write_full(FD_DISK, data + start, at - start, offset + start);
        if (r < 0)
            return r;
    }
    return 0;
}

/* How much from `offset` on surely is zeroes, without reading it. Nothing lies under the image. */
static int known_zeroes(struct cow_disk *disk, uint64_t offset, uint64_t *ret_length)
{
    struct cow_map map;
    int r = cow_map(disk, offset, cow_size(disk) - offset, &map);

    if (r == 0)
        *ret_length = map.kind == COW_MAP_DATA ? 0 : map.length;
    return r;
}

static int copy_disk(struct import *import, struct cow_disk *disk, uint8_t *buffer,
                     const char **ret_verb)
{
    uint64_t offset = 0;

    while (offset < import->disk_bytes) {
        uint64_t length = 0;
        int r = known_zeroes(disk, offset, &length);

        *ret_verb = "reading the image";
        if (r == 0 && length == 0) {
            struct iovec iov;
            length = cow_min(COPY_BYTES, import->disk_bytes - offset);
            iov = (struct iovec){.iov_base = buffer, .iov_len = length};
            r = cow_preadv(disk, &iov, 1, offset);
            if (r == 0) {
                *ret_verb = "writing the disk";
                r = write_sparse(buffer, length, offset);
            }
        }
        if (r < 0)
            return r;
        offset += length;
        *ret_verb = "reporting progress";
        r = import_progress(import, offset);
        if (r < 0)
            return r;
    }
    return 0;
}

int import_copy(struct import *import)
{
    const char *verb = "writing the disk";
    struct cow_disk *disk;
    uint8_t *buffer;
    int r = open_source(import, &disk);

    if (r < 0)
        return r;
    import->total = 2 * import->disk_bytes;
    buffer = malloc(COPY_BYTES);
    if (!buffer)
        r = -ENOMEM;
    if (r == 0 && ftruncate(FD_DISK, (off_t)import->disk_bytes) < 0)
        r = -errno;
    if (r == 0)
        r = copy_disk(import, disk, buffer, &verb);
    if (r == 0) {
        verb = "writing the disk";
        r = cow_sync(FD_DISK);
    }
    if (r == -EIO && !disk->raw && strcmp(verb, "reading the image") == 0)
        cow_fail(&import->error,
                 "the image is damaged or truncated (near byte %llu of the disk): "
                 "see qemu-img check",
                 (unsigned long long)import->done);
    else if (r < 0)
        cow_fail(&import->error, "%s: %s", verb, strerror(-r));
    free(buffer);
    cow_close(disk);
    return r;
}
