/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fileio: small files and flat directories.
 *
 * Everything is made under a temporary name and renamed into place; the order is data, fsync,
 * rename, fsync of the directory. Names that begin with FILEIO_TEMP_PREFIX are garbage by
 * definition and swept at start.
 */
#include "vmmd/fileio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static int write_temp(int dir_fd, const char *temp, const char *text, bool durable)
{
    int fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return -errno;
    r = write_all(fd, text, strlen(text));
    if (r == 0 && durable && fsync(fd) < 0)
        r = -errno;
    if (close(fd) < 0 && r == 0)
        r = -errno;
    return r;
}

int json_save(int dir_fd, const char *name, const json_t *json, bool durable)
{
    char temp[FILEIO_NAME_MAX];
    char *text = json_dumps(json, JSON_INDENT(2));
    int r;

    if (!text)
        return -ENOMEM;
    snprintf(temp, sizeof(temp), FILEIO_TEMP_PREFIX "%s", name);
    r = write_temp(dir_fd, temp, text, durable);
    free(text);
    if (r == 0 && renameat(dir_fd, temp, dir_fd, name) < 0)
        r = -errno;
    if (r == 0 && durable && fsync(dir_fd) < 0)
        r = -errno;
    if (r < 0)
        unlinkat(dir_fd, temp, 0);
    return r;
}

static int read_all(int fd, char *buffer, size_t size, size_t *ret_used)
{
    size_t used = 0;

    while (used < size) {
        ssize_t n = read(fd, buffer + used, size - used);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        used += (size_t)n;
    }
    *ret_used = used;
    return 0;
}

int json_load(int dir_fd, const char *name, json_t **ret_json)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    char *text = NULL;
    json_t *json;
    size_t used = 0;
    int r;

    if (fd < 0)
        return -errno;
    text = malloc(FILEIO_JSON_MAX);
    r = text ? read_all(fd, text, FILEIO_JSON_MAX, &used) : -ENOMEM;
    close(fd);
    if (r == 0 && used == FILEIO_JSON_MAX)
        r = -EFBIG;
    if (r < 0) {
        free(text);
        return r;
    }
    json = json_loadb(text, used, 0, NULL);
    free(text);
    if (!json_is_object(json)) {
        json_decref(json);
        return -EINVAL;
    }
    *ret_json = json;
    return 0;
}

bool json_read_string(const json_t *json, const char *key, char *buffer, size_t size)
{
    const json_t *value = json_object_get(json, key);
    const char *text = json_string_value(value);

    if (!text || json_string_length(value) >= size || strlen(text) != json_string_length(value))
        return false;
    memcpy(buffer, text, json_string_length(value) + 1);
    return true;
}

bool json_read_u64(const json_t *json, const char *key, uint64_t *ret)
{
    const json_t *value = json_object_get(json, key);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(value);
    return true;
}

int dir_open(int dir_fd, const char *name)
{
    int fd;

    if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
        return -errno;
    fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int dir_make_temp(int dir_fd, char ret_name[FILEIO_NAME_MAX])
{
    uint64_t number;
    int fd;

    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        return -errno;
    snprintf(ret_name, FILEIO_NAME_MAX, FILEIO_TEMP_PREFIX "%016llx", (unsigned long long)number);
    if (mkdirat(dir_fd, ret_name, 0700) < 0)
        return -errno;
    fd = openat(dir_fd, ret_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        int r = -errno;

        unlinkat(dir_fd, ret_name, AT_REMOVEDIR);
        return r;
    }
    return fd;
}

int dir_publish(int dir_fd, const char *temp, const char *name)
{
    if (renameat2(dir_fd, temp, dir_fd, name, RENAME_NOREPLACE) < 0)
        return -errno;
    return 0;
}

int dir_sync(int dir_fd)
{
    return fsync(dir_fd) < 0 ? -errno : 0;
}

/* Opens the entries of a directory; the caller's dir_fd keeps its own offset. */
static DIR *open_entries(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (fd >= 0 && !dir)
        close(fd);
    return dir;
}

int dir_remove(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct dirent *entry;
    DIR *dir;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    while ((entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(fd, entry->d_name, 0);
    closedir(dir);
    return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int dir_discard(int dir_fd, const char *name)
{
    char temp[FILEIO_NAME_MAX];

    snprintf(temp, sizeof(temp), FILEIO_TEMP_PREFIX "gone-%s", name);
    dir_remove(dir_fd, temp); /* of an earlier one of this name that could not be removed whole */
    if (renameat(dir_fd, name, dir_fd, temp) < 0)
        return -errno;
    fsync(dir_fd);            /* if this fails the removal below still happens */
    dir_remove(dir_fd, temp); /* what cannot be removed now is swept at the next start */
    return 0;
}

void dir_clean(int dir_fd)
{
    DIR *dir = open_entries(dir_fd);
    struct dirent *entry;

    if (!dir)
        return;
    while ((entry = readdir(dir))) {
        if (strncmp(entry->d_name, FILEIO_TEMP_PREFIX, strlen(FILEIO_TEMP_PREFIX)) != 0)
            continue;
        if (dir_remove(dir_fd, entry->d_name) < 0)
            unlinkat(dir_fd, entry->d_name, 0);
    }
    closedir(dir);
}

int dir_each(int dir_fd, void (*each)(void *opaque, const char *name), void *opaque)
{
    DIR *dir = open_entries(dir_fd);
    struct dirent *entry;

    if (!dir)
        return -errno;
    while ((entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            each(opaque, entry->d_name);
    closedir(dir);
    return 0;
}
