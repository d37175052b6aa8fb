/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target for the image reader and writer: any bytes as a qcow2 file, opened with what it
 * asks for (a raw backing file, an external data file), alone, at each of its snapshots, and for
 * writing. Seeds: tests/fuzz/seeds-cowdisk.sh. See `fuzz` in the Makefile.
 *
 * Checked besides what the sanitizers check: nothing read from a disk, and nothing written to an
 * image, was in our memory and not in the files (canary.h); a failed open says why; the map covers
 * everything that reads cover, and what it calls zeroes is zeroes.
 */
#include "cowdisk/cowdisk.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/canary.h"

#define MAX_READ      (1u << 20)
#define PIECE         65536u
#define MAX_SNAPSHOTS 4u
#define BACKING_BYTES 100000
#define DATA_BYTES    300000

struct files {
    int image, backing, data;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void no_canary(const uint8_t *data, size_t length, const char *where)
{
    const uint64_t pattern = CANARY;

    if (length >= sizeof(pattern) && memmem(data, length, &pattern, sizeof(pattern))) {
        fprintf(stderr, "memory of ours in %s\n", where);
        abort();
    }
}

static int file_of(const char *name, const void *data, size_t length, int fill)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    uint8_t block[4096];

    memset(block, fill, sizeof(block));
    if (fd < 0 || (data && write(fd, data, length) != (ssize_t)length))
        abort();
    for (size_t at = 0; !data && at < length; at += sizeof(block)) {
        if (pwrite(fd, block, sizeof(block), (off_t)at) < 0)
            abort();
    }
    return fd;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void read_piece(struct cow_disk *disk, uint8_t *buffer, uint64_t offset, size_t length)
{
    struct iovec iov[2] = {{.iov_base = buffer, .iov_len = length / 3},
                           {.iov_base = buffer + length / 3, .iov_len = length - length / 3}};
    struct cow_map map;
    int r;

    canary_fill(buffer, length);
    r = cow_preadv(disk, iov, 2, offset);
    if (r == 0)
        no_canary(buffer, length, "what was read");
    if (length == 0 || cow_map_chain(disk, offset, length, &map) < 0)
        return;
    if (map.length == 0 || map.length > length)
        abort();
    for (uint64_t i = 0; r == 0 && map.kind == COW_MAP_ZERO && i < map.length; i++) {
        if (buffer[i])
            abort();
    }
}

static void read_all(struct cow_disk *disk)
{
    static uint8_t buffer[PIECE];
    uint64_t size = cow_size(disk), odd = 0;

    for (uint64_t at = 0; at < size && at < MAX_READ; at += PIECE)
        read_piece(disk, buffer, at, size - at < PIECE ? size - at : PIECE);
    for (uint64_t i = 0; i < 8 && size > 5000; i++) {
        odd = odd * 6364136223846793005u + 1442695040888963407u;
        read_piece(disk, buffer, odd % (size - 5000), 4999);
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

static void write_some(struct cow_disk *disk)
{
    static uint8_t data[PIECE];
    uint64_t size = cow_size(disk);

    memset(data, 0x5a, sizeof(data));
    for (uint64_t at = 0; at < size && at < MAX_READ; at += 3 * PIECE) {
        uint64_t left = size - at;
        struct iovec iov = {.iov_base = data, .iov_len = left < PIECE ? left / 3 : PIECE / 3};
        (void)cow_pwritev(disk, &iov, 1, at);
        (void)cow_discard(disk, at + left / 4, left / 2 < MAX_READ ? left / 2 : MAX_READ);
        (void)cow_write_zeroes(disk, at + left / 3, left / 5 < 9000 ? left / 5 : 9000);
        (void)cow_flush(disk);
    }
}

static void check_file(int fd)
{
    struct stat st;
    uint8_t *data;

    if (fstat(fd, &st) < 0)
        abort();
    if (st.st_size == 0 || st.st_size > 64 << 20)
        return;
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
        abort();
    no_canary(data, (size_t)st.st_size, "the image");
    munmap(data, (size_t)st.st_size);
}

/* ---- opening --------------------------------------------------------------------------------- */

static void use_image(const struct files *files, const struct cow_info *info, const char *snapshot,
                      unsigned flags)
{
    struct cow_open_options base = {
        .fd = files->backing, .format = COW_FORMAT_RAW, .flags = COW_RDONLY, .data_fd = -1};
    struct cow_open_options top = {.fd = files->image,
                                   .format = COW_FORMAT_QCOW2,
                                   .flags = flags,
                                   .data_fd = info->has_data_file ? files->data : -1,
                                   .snapshot = snapshot};
    struct cow_error err = {{0}};
    struct cow_disk *disk;

    if (info->backing_name[0] && !(flags & COW_NO_BACKING) &&
        cow_open(&top.backing, &base, &err) < 0)
        abort();
    if (cow_open(&disk, &top, &err) < 0) {
        if (err.text[0] == '\0')
            abort();
        (void)cow_close(top.backing);
        return;
    }
    read_all(disk);
    if (!(flags & COW_RDONLY)) {
        write_some(disk);
        read_all(disk);
    }
    (void)cow_close(disk);
}

static void use_snapshots(const struct files *files, const struct cow_info *info)
{
    struct cow_snapshot *list = NULL;
    struct cow_error err = {{0}};
    size_t n = 0;

    if (cow_snapshots_read(files->image, &list, &n, &err) < 0) {
        if (err.text[0] == '\0')
            abort();
        return;
    }
    for (size_t i = 0; i < n && i < MAX_SNAPSHOTS; i++) {
        no_canary((const uint8_t *)&list[i], sizeof(list[i]), "a snapshot's entry");
        use_image(files, info, list[i].name, COW_RDONLY);
    }
    free(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint64_t pattern = CANARY;
    struct cow_error err = {{0}};
    struct files files;
    struct cow_info info;

    if (memmem(data, size, &pattern, sizeof(pattern))) /* then it is from the image */
        return 0;
    files.image = file_of("image", data, size, 0);
    files.backing = file_of("backing", NULL, BACKING_BYTES, 0xb1);
    files.data = file_of("data", NULL, DATA_BYTES, 0xd2);
    if (cow_info_read(files.image, COW_FORMAT_QCOW2, &info, &err) == 0) {
        use_image(&files, &info, NULL, COW_RDONLY);
        use_image(&files, &info, NULL, COW_RDONLY | COW_NO_BACKING | COW_SHARED);
        use_snapshots(&files, &info);
        use_image(&files, &info, NULL, 0);
        check_file(files.image);
    } else if (err.text[0] == '\0') {
        abort();
    }
    close(files.image);
    close(files.backing);
    close(files.data);
    return 0;
}
