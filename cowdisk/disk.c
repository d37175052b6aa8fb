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

int cow_file_bytes(int fd, uint64_t *ret_bytes, struct cow_error *err)
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

static int open_raw(struct cow_disk *disk, const struct cow_open_options *o, struct cow_error *err)
{
    uint64_t bytes = cow_raw_size(disk->file_end);

    if (disk->backing || o->data_fd >= 0 || o->snapshot) {
        cow_fail(err, "a raw image has no %s",
                 disk->backing     ? "backing file"
                 : o->data_fd >= 0 ? "external data file"
                                   : "snapshots");
        return -EINVAL;
    }
    if (bytes > COW_MAX_VIRTUAL_SIZE) {
        cow_fail(err, "the image is larger than 64 TiB");
        return -EINVAL;
    }
    disk->size = bytes;
    return o->hashes ? cow_verify_new(disk, o, err) : 0;
}

/* The backing file must be the one that the image was made over. */
static int check_identity(const struct cow_disk *disk, const struct cow_identity *identity,
                          struct cow_error *err)
{
    const struct cow_header *h = &disk->header;

    if (!disk->backing || !identity || !h->has_identity ||
        memcmp(identity, &h->identity, sizeof(*identity)) == 0)
        return 0;
    cow_fail(err,
             "the backing file \"%.100s\" is not the one that the image was made over: it was "
             "replaced or changed",
             h->backing_name);
    return -ESTALE;
}

/* What lies under the image must be what the image says. */
static int check_backing(struct cow_disk *disk, unsigned flags, struct cow_error *err)
{
    const struct cow_header *h = &disk->header;
    bool named = h->backing_name[0] != '\0';

    if (disk->backing && !named) {
        cow_fail(err, "the image stands alone, but a backing file was given");
        return -EINVAL;
    }
    if (disk->backing && flags & COW_NO_BACKING) {
        cow_fail(err, "a backing file was given, but none is wanted");
        return -EINVAL;
    }
    disk->alone = named && flags & COW_NO_BACKING;
    if (named && !disk->backing && !disk->alone) {
        cow_fail(err,
                 "the image needs its backing file \"%.100s\"; make it one file first: "
                 "vmctl image convert IMAGE --output NEW, or qemu-img convert",
                 h->backing_name);
        return -ENOTSUP;
    }
    if (disk->backing && h->backing_format[0] != '\0' &&
        strcmp(h->backing_format, disk->backing->raw ? "raw" : "qcow2") != 0) {
        cow_fail(err, "the backing file \"%.100s\" is not %s, as the image says it were",
                 h->backing_name, h->backing_format);
        return -EINVAL;
    }
    return 0;
}

static int load_tables(struct cow_disk *disk, struct cow_error *err)
{
    const struct cow_header *h = &disk->header;

    if (cow_cache_attach(disk) < 0)
        return -ENOMEM;
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

/* Takes the external data file, if the image has one. */
static int open_data(struct cow_disk *disk, const struct cow_open_options *o, struct cow_error *err)
{
    const struct cow_header *h = &disk->header;
    int r;

    if (!(h->incompatible & QCOW_INCOMPAT_EXTERNAL_DATA)) {
        if (o->data_fd < 0)
            return 0;
        cow_fail(err, "the image holds its data itself, but an external data file was given");
        return -EINVAL;
    }
    if (o->data_fd < 0) {
        cow_fail(err,
                 "the image needs its external data file \"%.100s\"; make it one file first: "
                 "vmctl image convert IMAGE --output NEW, or qemu-img convert",
                 h->data_name);
        return -ENOTSUP;
    }
    disk->data_fd = fcntl(o->data_fd, F_DUPFD_CLOEXEC, 0);
    if (disk->data_fd < 0)
        return -errno;
    if (!(o->flags & COW_SHARED)) {
        r = cow_lock(disk->data_fd, false, err);
        if (r < 0)
            return r;
        disk->data_locked = true;
    }
    return cow_file_bytes(disk->data_fd, &disk->data_end, err);
}

static void set_geometry(struct cow_disk *disk)
{
    const struct cow_header *h = &disk->header;
    bool extended = h->incompatible & QCOW_INCOMPAT_EXTENDED_L2;

    disk->size = h->size;
    disk->cluster_bits = h->cluster_bits;
    disk->cluster_size = 1ull << disk->cluster_bits;
    disk->page_bytes = (uint32_t)cow_min(COW_PAGE_BYTES, disk->cluster_size);
    disk->entry_bits = extended ? 4 : 3;
    disk->n_subs = extended ? QCOW_SUBCLUSTERS : 1;
    disk->sub_bits = extended ? disk->cluster_bits - 5 : disk->cluster_bits;
}

static int open_qcow(struct cow_disk *disk, const struct cow_open_options *o, struct cow_error *err)
{
    struct stat st;
    int r;

    if (o->hashes) {
        cow_fail(err, "only a raw image can be compared with hashes");
        return -EINVAL;
    }
    r = cow_header_read(disk->fd, o->snapshot, o->flags & COW_CIPHERTEXT, &disk->header, err);
    if (r == 0)
        r = check_backing(disk, o->flags, err);
    if (r == 0)
        r = check_identity(disk, o->backing_identity, err);
    if (r == 0)
        r = open_data(disk, o, err);
    if (r == 0 && disk->writable)
        r = cow_header_check_writable(&disk->header, err);
    if (r < 0)
        return r;
    if (disk->writable && (fstat(disk->fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        cow_fail(err, "a qcow2 image can be written only in a regular file");
        return -ENOTSUP;
    }
    set_geometry(disk);
    cow_trace_prepare(disk);
    return load_tables(disk, err);
}

static int take_fd(struct cow_disk *disk, int fd, struct cow_error *err)
{
    disk->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (disk->fd < 0)
        return -errno;
    if (disk->writable && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
        cow_fail(err, "the image is not open for writing");
        return -EINVAL;
    }
    return 0;
}

/* Everything but what lies below. */
static void disk_free(struct cow_disk *disk)
{
    if (disk->cluster_size) {
        cow_cache_detach(disk);
        cow_table_free(disk->l1);
        cow_table_free(disk->rt);
        cow_alloc_unload(disk);
    }
    cow_trace_free(disk);
    cow_verify_free(disk);
    free(disk->l2);
    free(disk->bounce);
    if (disk->locked)
        cow_unlock(disk->fd);
    if (disk->fd >= 0)
        close(disk->fd);
    if (disk->data_locked)
        cow_unlock(disk->data_fd);
    if (disk->data_fd >= 0)
        close(disk->data_fd);
    free(disk);
}

int cow_probe(int fd, enum cow_format *ret_format, struct cow_error *err)
{
    uint32_t magic;
    int r = cow_read_full(fd, &magic, sizeof(magic), 0);

    if (r < 0)
        cow_fail(err, "reading the first bytes: %s", strerror(-r));
    else
        *ret_format = be32toh(magic) == QCOW_MAGIC ? COW_FORMAT_QCOW2 : COW_FORMAT_RAW;
    return r;
}

static int open_file(struct cow_disk *disk, const struct cow_open_options *o, struct cow_error *err)
{
    enum cow_format format = o->format;
    int r = take_fd(disk, o->fd, err);

    if (r == 0 && !(o->flags & COW_SHARED)) {
        r = cow_lock(disk->fd, disk->writable, err);
        disk->locked = r == 0;
    }
    if (r == 0)
        r = cow_file_bytes(disk->fd, &disk->file_end, err);
    if (r == 0 && format == COW_FORMAT_PROBE)
        r = cow_probe(disk->fd, &format, err);
    if (r < 0)
        return r;
    disk->raw = format == COW_FORMAT_RAW;
    return disk->raw ? open_raw(disk, o, err) : open_qcow(disk, o, err);
}

static int check_options(const struct cow_open_options *o, struct cow_error *err)
{
    const char *why = NULL;

    if (o->flags & COW_SHARED && !(o->flags & COW_RDONLY))
        why = "an image can be shared only for reading";
    else if (o->snapshot && !(o->flags & COW_RDONLY))
        why = "a snapshot can only be read";
    else if (o->flags & COW_CIPHERTEXT && !(o->flags & COW_RDONLY))
        why = "an encrypted image can only be read";
    if (!why)
        return 0;
    cow_fail(err, "%s", why);
    return -EINVAL;
}

int cow_open(struct cow_disk **ret_disk, const struct cow_open_options *options,
             struct cow_error *err)
{
    struct cow_disk *disk;
    int r;

    cow_fail(err, "%s", "");
    r = check_options(options, err);
    if (r < 0)
        return r;
    disk = calloc(1, sizeof(*disk));
    if (!disk) {
        cow_fail(err, "%s", strerror(ENOMEM));
        return -ENOMEM;
    }
    disk->fd = disk->data_fd = -1;
    disk->writable = !(options->flags & COW_RDONLY);
    disk->backing = options->backing;
    r = open_file(disk, options, err);
    if (r < 0) {
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
    int result = 0;

    while (disk) {
        struct cow_disk *backing = disk->backing;
        int r = disk->writable ? cow_commit(disk) : 0;
        if (result == 0)
            result = r;
        disk_free(disk);
        disk = backing;
    }
    return result;
}

struct cow_disk *cow_backing(struct cow_disk *disk)
{
    return disk->backing;
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
