/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target for checking and changing images: any bytes as a qcow2 file, checked, repaired,
 * resized, converted, put on another backing file. Seeds: tests/fuzz/seeds-cowdisk.sh. The first
 * byte, which every image has alike, says which repair.
 *
 * Checked besides what the sanitizers check: two checks of one file agree; a repair of leaks leaves
 * no more errors than there were; what a repair of all calls clean is clean to the next check; what
 * was clean has no errors after a change (leaks it may have: counts of clusters behind the file's
 * end are none until the file grows).
 */
#include "cowdisk/cowdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_CONVERT (256u << 20) /* bytes of a disk */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(truth)                                                     \
    do {                                                                \
        if (!(truth)) {                                                 \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #truth); \
            abort();                                                    \
        }                                                               \
    } while (0)

static int file_of(const uint8_t *data, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    must(fd >= 0 && pwrite(fd, data, size, 0) == (ssize_t)size && pwrite(fd, "Q", 1, 0) == 1);
    return fd;
}

static bool check(int fd, unsigned flags, struct cow_check_result *ret_result)
{
    struct cow_error err;

    if (cow_check(fd, flags, ret_result, NULL, NULL, &err) == 0)
        return true;
    must(err.text[0] != '\0');
    return false;
}

static bool is_clean(int fd)
{
    struct cow_check_result result;

    return check(fd, 0, &result) && result.corruptions == 0 && result.leaks == 0;
}

static void repair(int fd, unsigned how)
{
    struct cow_check_result before, again, after;

    if (!check(fd, 0, &before))
        return;
    must(check(fd, 0, &again) && again.corruptions == before.corruptions &&
         again.leaks == before.leaks);
    if (!how || !check(fd, how, &after))
        return;
    must(check(fd, 0, &again) && again.corruptions == after.corruptions &&
         again.leaks == after.leaks);
    if (how == COW_REPAIR_LEAKS)
        must(after.corruptions <= before.corruptions && after.leaks <= before.leaks);
}

static struct cow_disk *open_disk(int fd, unsigned flags)
{
    struct cow_open_options options = {
        .fd = fd, .format = COW_FORMAT_QCOW2, .flags = flags, .data_fd = -1};
    struct cow_disk *disk;
    struct cow_error err;

    return cow_open(&disk, &options, &err) < 0 ? NULL : disk;
}

static void change(int fd)
{
    struct cow_rebase_options rebase = {
        .backing_name = "somewhere/else", .backing_format = COW_FORMAT_RAW, .unsafe = true};
    bool was_clean = is_clean(fd);
    struct cow_disk *disk = open_disk(fd, 0);
    struct cow_check_result result;
    struct cow_error err;

    if (!disk)
        return;
    (void)cow_resize(disk, cow_size(disk) + 300 * 512, 0, &err);
    (void)cow_resize(disk, 512 * 700, COW_SHRINK, &err);
    (void)cow_rebase(disk, &rebase, NULL, NULL, &err);
    (void)cow_close(disk);
    must(!was_clean || (check(fd, 0, &result) && result.corruptions == 0));
}

static void convert(int fd, bool compress)
{
    struct cow_convert_options options = {.format = COW_FORMAT_QCOW2, .compress = compress};
    struct cow_disk *disk = open_disk(fd, COW_RDONLY);
    int new_fd = memfd_create("new", MFD_CLOEXEC);
    struct cow_error err;

    if (disk && cow_size(disk) > 0 && cow_size(disk) <= MAX_CONVERT &&
        cow_convert(disk, new_fd, &options, NULL, NULL, &err) == 0)
        must(is_clean(new_fd));
    (void)cow_close(disk);
    close(new_fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned how[] = {0, COW_REPAIR_LEAKS, COW_REPAIR_ALL, COW_REPAIR_ALL};
    int fd;

    if (size < 100)
        return 0;
    fd = file_of(data, size);
    repair(fd, how[data[0] % 4]);
    convert(fd, data[0] & 4);
    change(fd);
    close(fd);
    return 0;
}
