/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target for the image reader and writer: any bytes as a qcow2 file.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. \
 *       tests/fuzz/fuzz-cowdisk.c cowdisk/[a-z]*.c -lxxhash -lz -lzstd -o fuzz-cowdisk
 */
#include "cowdisk/cowdisk.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_READ (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct cow_disk *disk, int writable)
{
    static uint8_t buffer[65536];
    uint64_t disk_size = cow_size(disk);
    struct cow_map map;

    for (uint64_t at = 0; at < disk_size && at < MAX_READ; at += sizeof(buffer)) {
        uint64_t left = disk_size - at;
        struct iovec iov = {.iov_base = buffer,
                            .iov_len = left < sizeof(buffer) ? left : sizeof(buffer)};
        (void)cow_preadv(disk, &iov, 1, at);
        (void)cow_map_chain(disk, at, iov.iov_len, &map);
        if (writable && at % (4 * sizeof(buffer)) == 0) {
            iov.iov_len /= 3;
            (void)cow_pwritev(disk, &iov, 1, at);
            (void)cow_discard(disk, at, left / 2);
            (void)cow_flush(disk);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int writable = 0; writable < 2; writable++) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC), backing_fd = memfd_create("base", MFD_CLOEXEC);
        struct cow_disk *disk;
        struct cow_error err;

        if (fd < 0 || backing_fd < 0 || write(fd, data, size) != (ssize_t)size ||
            ftruncate(backing_fd, 100000) < 0)
            abort();
        for (int backed = 0; backed < 2; backed++) {
            struct cow_open_options base = {
                .fd = backing_fd, .format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
            struct cow_open_options top = {.fd = fd,
                                           .format = COW_FORMAT_QCOW2,
                                           .flags = writable ? 0 : COW_RDONLY,
                                           .data_fd = -1};

            if (backed && cow_open(&top.backing, &base, &err) < 0)
                abort();
            if (cow_open(&disk, &top, &err) == 0) {
                use(disk, writable);
                (void)cow_close(disk);
            } else {
                (void)cow_close(top.backing);
            }
        }
        close(fd);
        close(backing_fd);
    }
    return 0;
}
