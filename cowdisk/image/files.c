/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files of a chain, opened by name before the sandbox closes: an image names what lies under
 * it, that file names the next. Only headers are read here. In the sandbox cowdisk asks for the
 * same files again, by the same names, and gets the descriptors.
 */
#include "cowdisk/image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail(struct image *image, int error, const char *path)
{
    snprintf(image->err.text, sizeof(image->err.text), "%.180s: %s", path, strerror(-error));
    return error;
}

int image_open(struct image *image, const char *path, bool writable)
{
    struct image_file *files = realloc(image->files, (image->n_files + 1) * sizeof(*files));
    char *copy = strdup(path);
    int fd, error;

    if (files)
        image->files = files;
    if (!files || !copy) {
        free(copy);
        return -ENOMEM;
    }
    /* Whoever gives us a FIFO shall not wait for ever. */
    fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        error = -errno;
        free(copy);
        return fail(image, error, path);
    }
    files[image->n_files++] = (struct image_file){.path = copy, .fd = fd};
    return fd;
}

static enum cow_format recorded_format(const struct cow_info *info)
{
    return strcmp(info->backing_format, "raw") == 0 ? COW_FORMAT_RAW : COW_FORMAT_PROBE;
}

/* Opens a file and, if it has one, its data file. *ret_next: the path below it, or NULL. */
static int open_layer(struct image *image, const char *path, enum cow_format *format, bool writable,
                      char **ret_next)
{
    struct cow_error why;
    struct cow_info info;
    char *data = NULL;
    int fd = image_open(image, path, writable), r;

    *ret_next = NULL;
    if (fd < 0)
        return fd;
    r = cow_info_read(fd, *format, &info, &why);
    if (r < 0) {
        snprintf(image->err.text, sizeof(image->err.text), "%.100s: %.150s", path, why.text);
        return r;
    }
    if (info.has_data_file && info.data_name[0])
        r = cow_resolve_name(path, info.data_name, &data, &image->err);
    if (r == 0 && data)
        r = image_open(image, data, writable);
    if (r >= 0 && data)
        image->files[image->n_files - 1].is_data = true;
    free(data);
    if (r >= 0 && info.backing_name[0])
        r = cow_resolve_name(path, info.backing_name, ret_next, &image->err);
    *format = recorded_format(&info);
    return r < 0 ? r : 0;
}

int image_open_chain(struct image *image, const char *path, enum cow_format format, bool writable)
{
    char *at = strdup(path);
    int r = at ? 0 : -ENOMEM;

    /* One more than may be: cowdisk says what is wrong with it. */
    for (unsigned i = 0; i <= COW_MAX_CHAIN && at && r == 0; i++) {
        char *next;
        r = open_layer(image, at, &format, writable, &next);
        free(at);
        at = next;
        writable = false;
    }
    free(at);
    return r;
}

int image_first(const struct image *image)
{
    return image->files[0].fd;
}

int image_take_file(void *opaque, const char *path, bool writable, int *ret_fd)
{
    struct image *image = opaque;

    (void)writable; /* of the wrong kind it is refused by cow_open() */
    for (size_t i = 0; i < image->n_files; i++) {
        struct image_file *file = &image->files[i];
        if (file->fd >= 0 && strcmp(file->path, path) == 0) {
            *ret_fd = file->fd;
            file->fd = -1;
            return 0;
        }
    }
    return -ENOENT;
}

void image_close_files(struct image *image)
{
    for (size_t i = 0; i < image->n_files; i++) {
        free(image->files[i].path);
        if (image->files[i].fd >= 0)
            close(image->files[i].fd);
    }
    free(image->files);
    image->files = NULL;
    image->n_files = 0;
}

int image_chain(struct image *image, const char *path, enum cow_format format, unsigned flags,
                const char *snapshot, struct cow_disk **ret_disk)
{
    struct cow_chain_options options = {
        .path = path,
        .format = format,
        .flags = flags,
        .snapshot = snapshot,
        .open_file = image_take_file,
        .opaque = image,
    };

    return cow_chain_open(ret_disk, &options, &image->err);
}
