/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening an image with all that lies under it. First down: each file is opened by the caller's
 * function and asked what it names, until one stands alone. Then up: each image gets the one below.
 *
 * A name in an image is written by whoever made the image. It is data, never more: it goes to the
 * caller's function as a path, and that function decides whether it may be opened. Must never call
 * anything but that function with it, and must end for any images (a limit, and no file twice).
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct layer {
    int fd, data_fd; /* -1: none */
    enum cow_format format;
    char *path; /* as it was opened */
};

struct identity {
    dev_t device;
    ino_t inode;
};

struct chain {
    const struct cow_chain_options *options;
    struct cow_error *err;
    struct layer layer[COW_MAX_CHAIN]; /* the top one first */
    size_t n;
    struct identity seen[2 * COW_MAX_CHAIN]; /* images and data files */
    size_t n_seen;
};

/* ---- names ----------------------------------------------------------------------------------- */

/* Is there a colon before any slash? Then it is no path, but something only QEMU understands. */
static bool has_protocol(const char *name)
{
    return name[strcspn(name, ":/")] == ':';
}

int cow_resolve_name(const char *from, const char *name, char **ret_path, struct cow_error *err)
{
    const char *slash = strrchr(from, '/');
    int directory = slash ? (int)(slash - from + 1) : 0;

    if (strncmp(name, "file:", 5) == 0) {
        name += 5;
    } else if (has_protocol(name)) {
        cow_fail(err,
                 "%.80s names \"%.80s\", which is not a plain file: give it one with "
                 "qemu-img rebase",
                 from, name);
        return -ENOTSUP;
    }
    if (name[0] == '\0') {
        cow_fail(err, "%.150s names a file without a name", from);
        return -EINVAL;
    }
    if (name[0] == '/')
        directory = 0;
    if (directory + strlen(name) >= PATH_MAX) {
        cow_fail(err, "%.150s names a file whose path is too long", from);
        return -ENAMETOOLONG;
    }
    return asprintf(ret_path, "%.*s%s", directory, from, name) < 0 ? -ENOMEM : 0;
}

/* ---- down ------------------------------------------------------------------------------------ */

static int open_path(struct chain *chain, const char *path, bool writable, int *ret_fd)
{
    int r = chain->options->open_file(chain->options->opaque, path, writable, ret_fd);

    if (r < 0)
        cow_fail(chain->err, "%.180s: %s", path, strerror(-r));
    return r;
}

/* No file twice: neither as an image nor as the data of one. */
static int check_new(struct chain *chain, const char *path, int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    for (size_t i = 0; i < chain->n_seen; i++) {
        if (chain->seen[i].device == st.st_dev && chain->seen[i].inode == st.st_ino) {
            cow_fail(chain->err, "%.180s lies under itself", path);
            return -ELOOP;
        }
    }
    chain->seen[chain->n_seen++] = (struct identity){st.st_dev, st.st_ino};
    return 0;
}

/* Opens one more image; takes `path`, whatever happens. */
static int add_layer(struct chain *chain, char *path, enum cow_format format)
{
    struct layer layer = {.fd = -1, .data_fd = -1, .format = format, .path = path};
    bool writable = chain->n == 0 && !(chain->options->flags & COW_RDONLY);
    int r;

    if (chain->n == COW_MAX_CHAIN) {
        cow_fail(chain->err, "more than %u images lie on top of each other", COW_MAX_CHAIN);
        r = -ELOOP;
    } else {
        r = open_path(chain, path, writable, &layer.fd);
    }
    if (r == 0)
        r = check_new(chain, path, layer.fd);
    if (r < 0) {
        if (layer.fd >= 0)
            close(layer.fd);
        free(path);
        return r;
    }
    chain->layer[chain->n++] = layer;
    return 0;
}

static int backing_format(const char *path, const char *recorded, enum cow_format *ret_format,
                          struct cow_error *err)
{
    if (recorded[0] == '\0')
        *ret_format = COW_FORMAT_PROBE;
    else if (strcmp(recorded, "raw") == 0)
        *ret_format = COW_FORMAT_RAW;
    else if (strcmp(recorded, "qcow2") == 0)
        *ret_format = COW_FORMAT_QCOW2;
    else {
        cow_fail(err, "%.100s is of the format %.15s: only raw and qcow2 can lie under an image",
                 path, recorded);
        return -ENOTSUP;
    }
    return 0;
}

static int add_data(struct chain *chain, struct layer *layer, const char *name)
{
    char *path;
    int r;

    if (name[0] == '\0') {
        cow_fail(chain->err, "%.150s does not say which file holds its data", layer->path);
        return -EINVAL;
    }
    r = cow_resolve_name(layer->path, name, &path, chain->err);
    if (r < 0)
        return r;
    r = open_path(chain, path, false, &layer->data_fd);
    if (r == 0)
        r = check_new(chain, path, layer->data_fd);
    free(path);
    return r;
}

/* The image below the last one, if there is one. */
static int add_next(struct chain *chain, bool *ret_more)
{
    struct layer *layer = &chain->layer[chain->n - 1];
    enum cow_format format;
    struct cow_error why;
    struct cow_info info;
    char *path;
    int r = cow_info_read(layer->fd, layer->format, &info, &why);

    *ret_more = false;
    if (r < 0) {
        cow_fail(chain->err, "%.100s: %s", layer->path, why.text);
        return r;
    }
    layer->format = info.format;
    if (info.has_data_file) {
        r = add_data(chain, layer, info.data_name);
        if (r < 0)
            return r;
    }
    if (info.backing_name[0] == '\0' || (chain->n == 1 && chain->options->flags & COW_NO_BACKING))
        return 0;
    r = cow_resolve_name(layer->path, info.backing_name, &path, chain->err);
    if (r < 0)
        return r;
    r = backing_format(path, info.backing_format, &format, chain->err);
    if (r < 0) {
        free(path);
        return r;
    }
    *ret_more = true;
    return add_layer(chain, path, format);
}

/* ---- up -------------------------------------------------------------------------------------- */

static int open_layers(struct chain *chain, struct cow_disk **ret_disk)
{
    struct cow_disk *disk = NULL;

    for (size_t i = chain->n; i-- > 0;) {
        struct layer *layer = &chain->layer[i];
        struct cow_open_options options = {
            .fd = layer->fd,
            .format = layer->format,
            .flags = COW_RDONLY | (chain->options->flags & COW_SHARED),
            .backing = disk,
            .data_fd = layer->data_fd,
        };
        struct cow_error why;
        int r;

        if (i == 0) {
            options.flags = chain->options->flags;
            options.snapshot = chain->options->snapshot;
        }
        r = cow_open(&disk, &options, &why);
        if (r < 0) {
            cow_fail(chain->err, "%.100s: %s", layer->path, why.text);
            (void)cow_close(disk);
            return r;
        }
        close(layer->fd);
        layer->fd = -1;
    }
    *ret_disk = disk;
    return 0;
}

static void chain_free(struct chain *chain)
{
    for (size_t i = 0; i < chain->n; i++) {
        struct layer *layer = &chain->layer[i];
        if (layer->fd >= 0)
            close(layer->fd);
        if (layer->data_fd >= 0)
            close(layer->data_fd);
        free(layer->path);
    }
    free(chain);
}

int cow_chain_open(struct cow_disk **ret_disk, const struct cow_chain_options *options,
                   struct cow_error *err)
{
    struct chain *chain = calloc(1, sizeof(*chain));
    char *path = strdup(options->path);
    bool more = true;
    int r;

    cow_fail(err, "%s", "");
    if (!chain || !path) {
        free(chain);
        free(path);
        return -ENOMEM;
    }
    chain->options = options;
    chain->err = err;
    r = add_layer(chain, path, options->format);
    while (r == 0 && more)
        r = add_next(chain, &more);
    if (r == 0)
        r = open_layers(chain, ret_disk);
    chain_free(chain);
    if (r < 0 && err && err->text[0] == '\0')
        cow_fail(err, "%s", strerror(-r));
    return r;
}
