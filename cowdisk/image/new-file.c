/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file that appears under its name when it is complete and not before: whoever is killed while it
 * is made leaves nothing. Where the file system knows no nameless files it has a hidden name
 * meanwhile, and only then a kill leaves that.
 */
#include "cowdisk/image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE 0666

static int fail(struct image *image, int error, const char *what)
{
    snprintf(image->err.text, sizeof(image->err.text), "%s %.180s: %s", what, image->o.target,
             strerror(-error));
    return error;
}

/* The directory of the new file; malloc'ed. */
static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? strndup(path, (size_t)(slash - path + 1)) : strdup(".");
}

/* A name beside the target that is free; malloc'ed. */
static char *hidden_name(const struct image *image)
{
    const char *target = image->o.target, *slash = strrchr(target, '/');
    int directory = slash ? (int)(slash - target + 1) : 0;
    char *name;

    if (asprintf(&name, "%.*s.%s.%ld", directory, target, target + directory, (long)getpid()) < 0)
        return NULL;
    return name;
}

static int open_hidden(struct image *image)
{
    image->new_path = hidden_name(image);
    if (!image->new_path)
        return -ENOMEM;
    image->new_fd = open(image->new_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, MODE);
    if (image->new_fd >= 0)
        return 0;
    free(image->new_path);
    image->new_path = NULL;
    return fail(image, -errno, "cannot create");
}

int image_new_file(struct image *image)
{
    struct stat st;
    char *directory;

    if (lstat(image->o.target, &st) == 0 && (!image->o.replace || !S_ISREG(st.st_mode))) {
        snprintf(image->err.text, sizeof(image->err.text), "%.180s exists already%s",
                 image->o.target,
                 S_ISREG(st.st_mode) ? "; --replace replaces it" : " and is not a file");
        return -EEXIST;
    }
    directory = directory_of(image->o.target);
    if (!directory)
        return -ENOMEM;
    image->new_fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, MODE);
    free(directory);
    if (image->new_fd >= 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
        return fail(image, -errno, "cannot create");
    return open_hidden(image);
}

/* Gives the nameless file a hidden name, so that it can replace another. */
static int name_it(struct image *image, const char *name)
{
    char self[64];

    snprintf(self, sizeof(self), "/proc/self/fd/%d", image->new_fd);
    return linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int sync_directory(const struct image *image)
{
    char *directory = directory_of(image->o.target);
    int fd = directory ? open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int r = fd >= 0 && fsync(fd) < 0 ? -errno : 0;

    if (fd >= 0)
        close(fd);
    free(directory);
    return r;
}

int image_publish(struct image *image)
{
    int r = 0;

    if (!image->new_path && !image->o.replace) {
        r = name_it(image, image->o.target);
        return r < 0 ? fail(image, r, "cannot create") : sync_directory(image);
    }
    if (!image->new_path) {
        image->new_path = hidden_name(image);
        r = image->new_path ? name_it(image, image->new_path) : -ENOMEM;
    }
    if (r == 0 && !image->o.replace && link(image->new_path, image->o.target) < 0)
        r = -errno;
    if (r == 0 && image->o.replace && rename(image->new_path, image->o.target) < 0)
        r = -errno;
    if (r == 0 && image->o.replace) {
        free(image->new_path);
        image->new_path = NULL;
    }
    return r < 0 ? fail(image, r, "cannot create") : sync_directory(image);
}

void image_drop_new_file(struct image *image)
{
    if (image->new_path)
        unlink(image->new_path);
    free(image->new_path);
    image->new_path = NULL;
    if (image->new_fd >= 0)
        close(image->new_fd);
    image->new_fd = -1;
}
