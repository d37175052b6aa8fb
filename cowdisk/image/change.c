/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * create, convert, commit, rebase, resize. What cowdisk does is safe to be killed; here it only
 * gets its files.
 */
#include "cowdisk/image/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int closed(struct image *image, struct cow_disk *disk, int r)
{
    int close_r;

    image_progress_end(image);
    close_r = cow_close(disk);
    if (r == 0 && close_r < 0)
        snprintf(image->err.text, sizeof(image->err.text), "closing the image: %s",
                 strerror(-close_r));
    return r < 0 ? r : close_r;
}

/* ---- create ---------------------------------------------------------------------------------- */

/* Format and, if none was given, size come from the backing file. */
static int ask_backing(struct image *image)
{
    struct cow_info info;
    char *path;
    int r = cow_resolve_name(image->o.target, image->o.backing, &path, &image->err);

    if (r < 0)
        return r;
    r = image_open(image, path, false);
    if (r >= 0)
        r = cow_info_read(r, image->o.backing_format, &info, &image->err);
    free(path);
    if (r < 0)
        return r;
    image->o.backing_format = info.format;
    if (!image->o.size)
        image->o.size = (info.virtual_size + 511) & ~511ull;
    return 0;
}

int image_prepare_create(struct image *image)
{
    int r = image->o.backing && image->o.backing[0] ? ask_backing(image) : 0;

    if (r == 0 && !image->o.size) {
        snprintf(image->err.text, sizeof(image->err.text),
                 "a size is missing: give --size, or --backing to take its size");
        return -EINVAL;
    }
    return r < 0 ? r : image_new_file(image);
}

int image_create(struct image *image)
{
    struct cow_create_options options = {
        .size = image->o.size,
        .cluster_bits = image->o.cluster_bits,
        .backing_name = image->o.backing && image->o.backing[0] ? image->o.backing : NULL,
        .backing_format = image->o.backing_format,
    };

    return cow_create(image->new_fd, &options, &image->err);
}

/* ---- convert --------------------------------------------------------------------------------- */

int image_prepare_convert(struct image *image)
{
    int r = image_open_chain(image, image->o.file, image->o.image_format, false);

    return r < 0 ? r : image_new_file(image);
}

int image_convert(struct image *image)
{
    struct cow_convert_options options = {
        .format = image->o.target_format ? image->o.target_format : COW_FORMAT_QCOW2,
        .cluster_bits = image->o.cluster_bits,
        .compress = image->o.compress,
    };
    unsigned flags = COW_RDONLY | (image->o.force_share ? COW_SHARED : 0);
    struct cow_disk *disk;
    int r =
        image_chain(image, image->o.file, image->o.image_format, flags, image->o.snapshot, &disk);

    if (r < 0)
        return r;
    r = cow_convert(disk, image->new_fd, &options, image_progress, image, &image->err);
    return closed(image, disk, r);
}

/* ---- commit ---------------------------------------------------------------------------------- */

int image_prepare_commit(struct image *image)
{
    struct cow_info info;
    int r = image_open(image, image->o.file, true);

    if (r >= 0)
        r = cow_info_read(r, image->o.image_format, &info, &image->err);
    if (r < 0)
        return r;
    if (info.backing_name[0] == '\0') {
        snprintf(image->err.text, sizeof(image->err.text), "it has no backing file to commit to");
        return -EINVAL;
    }
    r = cow_resolve_name(image->o.file, info.backing_name, &image->below, &image->err);
    image->o.backing_format =
        strcmp(info.backing_format, "raw") == 0 ? COW_FORMAT_RAW : COW_FORMAT_PROBE;
    return r < 0 ? r : image_open_chain(image, image->below, image->o.backing_format, true);
}

int image_commit(struct image *image)
{
    struct cow_open_options options = {.format = image->o.image_format, .data_fd = -1};
    struct cow_disk *disk;
    int r = image_take_file(image, image->o.file, true, &options.fd);

    if (r == 0)
        r = image_chain(image, image->below, image->o.backing_format, 0, NULL, &options.backing);
    if (r < 0)
        return r;
    r = cow_open(&disk, &options, &image->err);
    if (r < 0) {
        cow_close(options.backing);
        return r;
    }
    r = cow_commit_to_backing(disk, image->o.keep ? COW_KEEP : 0, image_progress, image,
                              &image->err);
    return closed(image, disk, r);
}

/* ---- rebase ---------------------------------------------------------------------------------- */

/* An image that lies under itself could never be opened again. */
static int check_loop(struct image *image, size_t first_new)
{
    struct stat st, other;

    if (fstat(image_first(image), &st) < 0)
        return -errno;
    for (size_t i = first_new; i < image->n_files; i++) {
        if (fstat(image->files[i].fd, &other) == 0 && other.st_dev == st.st_dev &&
            other.st_ino == st.st_ino) {
            snprintf(image->err.text, sizeof(image->err.text), "it would lie under itself");
            return -ELOOP;
        }
    }
    return 0;
}

/* The new backing file with all below it; what was not told about it comes from its header. */
static int open_new_backing(struct image *image)
{
    size_t first_new = image->n_files;
    struct cow_info info;
    int r = cow_resolve_name(image->o.file, image->o.backing, &image->below, &image->err);

    if (r == 0)
        r = image_open_chain(image, image->below, image->o.backing_format, false);
    if (r == 0)
        r = check_loop(image, first_new);
    if (r == 0)
        r = cow_info_read(image->files[first_new].fd, image->o.backing_format, &info, &image->err);
    if (r == 0)
        image->o.backing_format = info.format;
    return r;
}

int image_prepare_rebase(struct image *image)
{
    bool alone = image->o.unsafe;
    int r = alone ? image_open(image, image->o.file, true)
                  : image_open_chain(image, image->o.file, image->o.image_format, true);

    if (r < 0 || image->o.backing[0] == '\0')
        return r < 0 ? r : 0;
    /* An unsafe rebase may name what is not there yet, if its format is told. */
    if (image->o.unsafe && image->o.backing_format)
        return 0;
    return open_new_backing(image);
}

int image_rebase(struct image *image)
{
    unsigned flags = image->o.unsafe ? COW_NO_BACKING : 0;
    struct cow_rebase_options options = {
        .backing_name = image->o.backing[0] ? image->o.backing : NULL,
        .backing_format = image->o.backing_format,
        .unsafe = image->o.unsafe,
    };
    struct cow_disk *disk;
    int r = image_chain(image, image->o.file, image->o.image_format, flags, NULL, &disk);

    if (r < 0)
        return r;
    if (options.backing_name && !image->o.unsafe)
        r = image_chain(image, image->below, image->o.backing_format, COW_RDONLY, NULL,
                        &options.backing);
    if (r == 0)
        r = cow_rebase(disk, &options, image_progress, image, &image->err);
    cow_close(options.backing);
    return closed(image, disk, r);
}

/* ---- resize ---------------------------------------------------------------------------------- */

int image_prepare_resize(struct image *image)
{
    return image_open_chain(image, image->o.file, image->o.image_format, true);
}

int image_resize(struct image *image)
{
    struct cow_disk *disk;
    int r = image_chain(image, image->o.file, image->o.image_format, 0, NULL, &disk);

    if (r < 0)
        return r;
    if (image->o.size < cow_size(disk) && !image->o.shrink) {
        snprintf(image->err.text, sizeof(image->err.text),
                 "the disk has %llu bytes, more than %llu: --shrink cuts it off, with the data "
                 "behind that",
                 (unsigned long long)cow_size(disk), (unsigned long long)image->o.size);
        r = -EINVAL;
    }
    if (r == 0)
        r = cow_resize(disk, image->o.size, image->o.shrink ? COW_SHRINK : 0, &image->err);
    return closed(image, disk, r);
}
