/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening and closing. A disk works on duplicates of the caller's fds. For writing, all refcounts
 * are read once; for reading they are not looked at.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int file_bytes(int fd, uint64_t *ret_bytes, struct cow_error *err)
{
    struct stat st;
    off_t end;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        cow_fail(err, "an image must be a regular file or a block device");
        return -EINVAL;
    }
    end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return -errno;
    *ret_bytes = (uint64_t)end;
    return 0;
}

static int open_raw(struct cow_disk *disk, struct cow_error *err)
{
    uint64_t bytes = (disk->file_end + 511) & ~511ull;

    if (disk->backing_fd >= 0) {
        cow_fail(err, "a raw image has no backing file");
        return -EINVAL;
    }
    if (bytes > COW_MAX_VIRTUAL_SIZE) {
        cow_fail(err, "the image is larger than 64 TiB");
        return -EINVAL;
    }
    disk->size = bytes;
    return 0;
}

/* What lies under the image must be what the caller gave: a raw file, or nothing. */
static int check_backing(const struct cow_disk *disk, struct cow_error *err)
{
    const struct cow_header *h = &disk->header;

    if (h->backing_name[0] == '\0' && disk->backing_fd >= 0) {
        cow_fail(err, "the image stands alone, but a backing file was given");
        return -EINVAL;
    }
    if (h->backing_name[0] != '\0' && disk->backing_fd < 0) {
        cow_fail(err,
                 "the image needs its backing file \"%.100s\"; make it one file first: "
                 "qemu-img convert -O qcow2 IMAGE NEW",
                 h->backing_name);
        return -ENOTSUP;
    }
    if (disk->backing_fd >= 0 && strcmp(h->backing_format, "raw") != 0) {
        cow_fail(err, "the backing file \"%.100s\" is not marked as raw", h->backing_name);
        return -ENOTSUP;
    }
    return 0;
}

static int load_tables(struct cow_disk *disk, struct cow_error *err)
{
    const struct cow_header *h = &disk->header;

    disk->l2 = calloc(h->l1_size ? h->l1_size : 1, sizeof(*disk->l2));
    disk->l1 = cow_table_new(disk, COW_TABLE_L1, 0, h->l1_offset, h->l1_size * 8ull);
    if (!disk->l2 || !disk->l1)
        return -ENOMEM;
    if (!disk->writable)
        return 0;
    disk->rt = cow_table_new(disk, COW_TABLE_RT, 0, h->rt_offset,
                             (uint64_t)h->rt_clusters << h->cluster_bits);
    if (!disk->rt)
        return -ENOMEM;
    return cow_alloc_load(disk, err);
}

static int open_qcow(struct cow_disk *disk, struct cow_error *err)
{
    struct stat st;
    int r = cow_header_read(disk->fd, &disk->header, err);

    if (r == 0)
        r = check_backing(disk, err);
    if (r == 0 && disk->writable)
        r = cow_header_check_writable(&disk->header, err);
    if (r < 0)
        return r;
    if (disk->writable && (fstat(disk->fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        cow_fail(err, "a qcow2 image can be written only in a regular file");
        return -ENOTSUP;
    }
    disk->size = disk->header.size;
    disk->cluster_bits = disk->header.cluster_bits;
    disk->cluster_size = 1ull << disk->cluster_bits;
    disk->page_bytes = (uint32_t)cow_min(COW_PAGE_BYTES, disk->cluster_size);
    return load_tables(disk, err);
}

static int take_fds(struct cow_disk *disk, int fd, int backing_fd, struct cow_error *err)
{
    disk->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (disk->fd < 0)
        return -errno;
    if (backing_fd >= 0) {
        disk->backing_fd = fcntl(backing_fd, F_DUPFD_CLOEXEC, 0);
        if (disk->backing_fd < 0)
            return -errno;
    }
    if (disk->writable && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
        cow_fail(err, "the image is not open for writing");
        return -EINVAL;
    }
    return 0;
}

static void disk_free(struct cow_disk *disk)
{
    if (disk->cluster_size) {
        cow_cache_free(disk);
        cow_table_free(disk, disk->l1);
        cow_table_free(disk, disk->rt);
        cow_alloc_unload(disk);
    }
    free(disk->l2);
    cow_packed_free(disk->packed);
    free(disk->bounce);
    if (disk->fd >= 0)
        close(disk->fd);
    if (disk->backing_fd >= 0)
        close(disk->backing_fd);
    free(disk);
}

static int open_locked(struct cow_disk *disk, struct cow_error *err)
{
    int r = file_bytes(disk->fd, &disk->file_end, err);

    if (r == 0 && disk->backing_fd >= 0)
        r = file_bytes(disk->backing_fd, &disk->backing_size, err);
    if (r == 0)
        r = disk->raw ? open_raw(disk, err) : open_qcow(disk, err);
    return r;
}

int cow_open(struct cow_disk **ret_disk, int fd, bool raw, int backing_fd, unsigned flags,
             struct cow_error *err)
{
    struct cow_disk *disk = calloc(1, sizeof(*disk));
    bool locked = false, backing_locked = false;
    int r;

    cow_fail(err, "%s", "");
    if (!disk)
        return -ENOMEM;
    disk->fd = disk->backing_fd = -1;
    disk->raw = raw;
    disk->writable = !(flags & COW_RDONLY);
    r = take_fds(disk, fd, backing_fd, err);
    if (r == 0) {
        r = cow_lock(disk->fd, disk->writable, err);
        locked = r == 0;
    }
    if (r == 0 && disk->backing_fd >= 0) {
        r = cow_lock(disk->backing_fd, false, err);
        backing_locked = r == 0;
    }
    if (r == 0)
        r = open_locked(disk, err);
    if (r < 0) {
        if (locked)
            cow_unlock(disk->fd);
        if (backing_locked)
            cow_unlock(disk->backing_fd);
        disk_free(disk);
        if (err && err->text[0] == '\0')
            cow_fail(err, "%s", strerror(-r));
        return r;
    }
    *ret_disk = disk;
    return 0;
}

int cow_close(struct cow_disk *disk)
{
    int r = 0;

    if (!disk)
        return 0;
    if (disk->writable)
        r = cow_commit(disk);
    cow_unlock(disk->fd);
    if (disk->backing_fd >= 0)
        cow_unlock(disk->backing_fd);
    disk_free(disk);
    return r;
}

uint64_t cow_size(const struct cow_disk *disk)
{
    return disk->size;
}

void cow_get_stats(const struct cow_disk *disk, struct cow_stats *ret_stats)
{
    *ret_stats = disk->stats;
    ret_stats->allocated_clusters = disk->alloc.n_counted;
}
