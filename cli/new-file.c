/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file that vmmd fills for us: it gets its name when it is complete, so that whoever is
 * interrupted leaves nothing behind.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODE 0666

/* The length of the directory in a path, with the slash. */
static int directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? (int)(slash - path + 1) : 0;
}

static int make_hidden_name(struct cli_new_file *file)
{
    int n = directory_length(file->path);

    if (asprintf(&file->hidden, "%.*s.%s.%ld", n, file->path, file->path + n, (long)getpid()) < 0)
        file->hidden = NULL;
    return file->hidden ? 0 : -1;
}

static int open_nameless(const struct cli_new_file *file)
{
    int n = directory_length(file->path), fd;
    char *directory = n ? strndup(file->path, (size_t)n) : strdup(".");

    fd = directory ? open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, MODE) : -1;
    free(directory);
    return fd;
}

int cli_new_file_open(struct cli_new_file *file, const char *path, bool replace)
{
    struct stat st;

    *file = (struct cli_new_file){.path = path, .replace = replace, .fd = -1};
    if (lstat(path, &st) == 0 && (!replace || !S_ISREG(st.st_mode))) {
        cli_tell("%s exists already%s", path,
                 S_ISREG(st.st_mode) ? "; --replace replaces it" : " and is not a file");
        return -1;
    }
    file->fd = open_nameless(file);
    if (file->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL) &&
        make_hidden_name(file) == 0) {
        file->fd = open(file->hidden, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, MODE);
        if (file->fd < 0) {
            free(file->hidden);
            file->hidden = NULL;
        }
    }
    if (file->fd >= 0)
        return 0;
    cli_tell("cannot create %s: %m", path);
    return -1;
}

static int link_nameless(const struct cli_new_file *file, const char *name)
{
    char self[64];

    snprintf(self, sizeof(self), "/proc/self/fd/%d", file->fd);
    return linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

/* Replacing is a rename, and what is renamed must have a name. */
static int give_name(struct cli_new_file *file)
{
    if (!file->replace)
        return file->hidden ? link(file->hidden, file->path) : link_nameless(file, file->path);
    if (!file->hidden) {
        if (make_hidden_name(file) < 0)
            return -1;
        if (link_nameless(file, file->hidden) < 0) {
            free(file->hidden);
            file->hidden = NULL;
            return -1;
        }
    }
    return rename(file->hidden, file->path);
}

int cli_new_file_publish(struct cli_new_file *file)
{
    if (give_name(file) == 0)
        return 0;
    cli_tell("cannot create %s: %m", file->path);
    return -1;
}

void cli_new_file_free(struct cli_new_file *file)
{
    if (file->hidden)
        unlink(file->hidden);
    free(file->hidden);
    file->hidden = NULL;
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}
