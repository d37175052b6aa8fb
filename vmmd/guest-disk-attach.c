/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-disk-attach: one more disk for a guest that is stopped: a new one, one that was kept, or
 * somebody's file. Whose file it is and what it is made of is looked at once, here.
 */
#include "vmmd/guest-disk-work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_name(struct guest *guest, const char *name, struct problem *problem)
{
    int r = name_check("disk", name, problem);

    if (r < 0)
        return r;
    if (strlen(name) > GUEST_DISK_NAME_MAX)
        return problem_set(problem, PROBLEM_INVALID_NAME,
                           "disk name %s is longer than %d characters, which is all that a guest "
                           "could see of it",
                           name, GUEST_DISK_NAME_MAX);
    if (strcmp(name, GUEST_ROOT_DISK) == 0 || guest_disk_find(guest, name))
        return problem_set(problem, PROBLEM_EXISTS, "guest %s has a disk %s already",
                           guest->config.name, name);
    if (guest->config.disks.n == GUEST_DISKS_MAX)
        return problem_set(problem, PROBLEM_LIMIT_EXCEEDED,
                           "guest %s has %d disks, the most that are possible", guest->config.name,
                           PROTO_DISKS_MAX);
    return 0;
}

/* Is there a file for a disk of its own? */
static bool has_file(const struct guest *guest, const char *disk)
{
    char path[3 * NAME_LENGTH_MAX];

    snprintf(path, sizeof(path), "%s/" GUEST_DISK_FILE, guest->config.name, disk);
    return faccessat(guest->daemon->guests_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A new one; an old one of that name is not touched. */
static int make_own(const struct guest *guest, const struct guest_disk *disk, uint64_t size,
                    struct problem *problem)
{
    const struct cow_create_options options = {.size = size};
    char name[sizeof(GUEST_DISK_FILE) + GUEST_DISK_NAME_MAX];
    char path[2 * NAME_LENGTH_MAX];
    struct cow_error err = {{0}};
    int fd, r;

    snprintf(name, sizeof(name), GUEST_DISK_FILE, disk->name);
    snprintf(path, sizeof(path), "%s/%s", guest->config.name, name);
    if (has_file(guest, disk->name))
        return problem_set(
            problem, PROBLEM_EXISTS,
            "guest %s: %s/guests/%s is kept from a disk that was detached: attach it "
            "without a size, or detach it then with its data",
            guest->config.name, guest->daemon->state_dir, path);
    fd = guest_store_open(guest, name, O_RDWR | O_CREAT | O_EXCL, problem);
    if (fd < 0)
        return fd;
    r = cow_create(fd, &options, &err);
    close(fd);
    if (r < 0) {
        unlinkat(guest->daemon->guests_fd, path, 0);
        return problem_errno(problem, r, "guest %s: cannot make %s/guests/%s%s%s",
                             guest->config.name, guest->daemon->state_dir, path,
                             err.text[0] ? ": " : "", err.text);
    }
    return 0;
}

/* Somebody's file: what it is, and where. */
static int take_foreign(struct guest_disk *disk, int fd, struct problem *problem)
{
    int flags = fcntl(fd, F_GETFL), access = flags & O_ACCMODE;
    char link[64];
    ssize_t n;

    if (flags < 0 || flags & O_PATH || (access != O_RDWR && !disk->readonly) || access == O_WRONLY)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the image is not open for reading%s",
                           disk->readonly ? "" : " and writing");
    if (guest_disk_identify(fd, &disk->identity) < 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the image is not a regular file");
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, disk->path, sizeof(disk->path));
    if (n < 0)
        return problem_errno(problem, -errno, "cannot tell the path of the image");
    if (n >= (ssize_t)sizeof(disk->path) || disk->path[0] != '/')
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "the path of the image is longer than %d bytes, or none",
                           GUEST_DISK_PATH_MAX - 1);
    disk->path[n] = '\0';
    return 0;
}

static bool is_utf8(const char *text)
{
    json_t *json = json_string(text);

    json_decref(json);
    return json != NULL;
}

/* The format is told by the first bytes, this once: the caller says that it is an image. */
static int probe(struct guest_disk *disk, int fd, struct problem *problem)
{
    struct cow_error err = {{0}};
    enum cow_format format;
    int r = cow_probe(fd, &format, &err);

    if (r < 0)
        return problem_errno(problem, r, "cannot read %s", disk->path);
    disk->raw = format == COW_FORMAT_RAW;
    return 0;
}

/* Is this file a disk of some guest already? Only readers may share. */
static int check_unshared(const struct guest *guest, const struct guest_disk *disk,
                          struct problem *problem)
{
    const struct guest *other;

    TAILQ_FOREACH(other, &guest->daemon->guests, link)
    {
        for (unsigned i = 0; i < other->config.disks.n; i++) {
            const struct guest_disk *theirs = &other->config.disks.disk[i];

            if (!theirs->own && !(theirs->readonly && disk->readonly) &&
                memcmp(&theirs->identity, &disk->identity, sizeof(disk->identity)) == 0)
                return problem_set(problem, PROBLEM_IN_USE, "%s is disk %s of guest %s already",
                                   disk->path, theirs->name, other->config.name);
        }
    }
    return 0;
}

static int prepare(struct guest *guest, const struct attach_request *request,
                   struct guest_disk *disk, struct problem *problem)
{
    int r;

    snprintf(disk->name, sizeof(disk->name), "%s", request->name);
    disk->readonly = request->readonly;
    disk->own = request->file < 0;
    if (disk->own && request->size)
        return make_own(guest, disk, request->size, problem);
    if (disk->own && !has_file(guest, disk->name))
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "disk %s needs a size, or a file: guest %s keeps none of that name",
                           disk->name, guest->config.name);
    if (disk->own)
        return 0;
    r = take_foreign(disk, request->file, problem);
    if (r == 0 && !is_utf8(disk->path))
        r = problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the path of the image is not UTF-8");
    if (r == 0)
        r = check_unshared(guest, disk, problem);
    if (r == 0)
        r = probe(disk, request->file, problem);
    return r;
}

/* One that we made needs no look at it. */
static int add_new(struct guest *guest, struct guest_disk *disk, uint64_t size,
                   guest_disk_done_fn done, void *opaque, struct problem *problem)
{
    struct guest_disks before = guest->config.disks;
    int r;

    disk->size = size;
    guest->config.disks.disk[guest->config.disks.n++] = *disk;
    r = guest_disks_store(guest, &before, problem);
    if (r < 0)
        guest_disk_remove_file(guest, disk->name, NULL);
    else if (done)
        done(opaque, NULL);
    return r;
}

int guest_disk_attach(struct guest *guest, const struct attach_request *request,
                      guest_disk_done_fn done, void *opaque, struct problem *problem)
{
    struct guest_disk disk = {0};
    struct disk_work *work;
    int fd, r = guest_check_still(guest, problem);

    if (r == 0)
        r = check_name(guest, request->name, problem);
    if (r == 0 && request->file >= 0 && request->size)
        r = problem_set(problem, PROBLEM_INVALID_ARGUMENT, "a file has its size");
    if (r == 0 && request->size)
        r = guest_disk_check_size(request->size, problem);
    if (r == 0)
        r = prepare(guest, request, &disk, problem);
    if (r < 0)
        return r;
    if (request->size)
        return add_new(guest, &disk, request->size, done, opaque, problem);
    fd = guest_disk_open(guest, &disk, problem); /* as every start will */
    if (fd < 0)
        return fd;
    work = disk_work_new(guest, DISK_WORK_ATTACH, done, opaque);
    if (!work) {
        close(fd);
        return problem_errno(problem, -ENOMEM, "guest %s", guest->config.name);
    }
    work->disk = disk;
    r = disk_work_start(work, (const char *[]){"--disk", guest_disk_format(&disk), NULL}, fd, -1,
                        problem);
    close(fd);
    return r;
}
