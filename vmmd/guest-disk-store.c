/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-disk-store: the disks of a guest in its guest.json, and their files. A path in guest.json
 * is a place to look at, not a right: the file there must be the one that was attached.
 */
#include "vmmd/guest-disk.h"
#include "vmmd/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512u

/* ---- guest.json ---- */

static json_t *disk_to_json(const struct guest_disk *disk)
{
    const struct file_identity *id = &disk->identity;

    return json_pack("{s:s, s:b, s:b, s:b, s:I, s:s, s:I, s:I, s:I}", "name", disk->name, "own",
                     disk->own, "raw", disk->raw, "readonly", disk->readonly, "size",
                     (json_int_t)disk->size, "path", disk->path, "device", (json_int_t)id->device,
                     "inode", (json_int_t)id->inode, "born", (json_int_t)id->born);
}

json_t *guest_disks_to_json(const struct guest_disks *disks)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < disks->n && list; i++) {
        if (json_array_append_new(list, disk_to_json(&disks->disk[i])) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static bool read_bool(const json_t *json, const char *key, bool *ret)
{
    const json_t *value = json_object_get(json, key);

    *ret = json_is_true(value);
    return json_is_boolean(value);
}

static bool disk_name_ok(const char *name)
{
    return strlen(name) <= GUEST_DISK_NAME_MAX && strcmp(name, GUEST_ROOT_DISK) != 0 &&
           name_check("disk", name, NULL) == 0;
}

static bool disk_from_json(const json_t *json, struct guest_disk *disk)
{
    struct file_identity *id = &disk->identity;

    return json_read_string(json, "name", disk->name, sizeof(disk->name)) &&
           json_read_string(json, "path", disk->path, sizeof(disk->path)) &&
           read_bool(json, "own", &disk->own) && read_bool(json, "raw", &disk->raw) &&
           read_bool(json, "readonly", &disk->readonly) &&
           json_read_u64(json, "size", &disk->size) && json_read_u64(json, "device", &id->device) &&
           json_read_u64(json, "inode", &id->inode) && json_read_u64(json, "born", &id->born) &&
           disk_name_ok(disk->name) && (disk->own || disk->path[0] == '/') &&
           disk->size <= COW_MAX_VIRTUAL_SIZE;
}

int guest_disks_from_json(const json_t *json, struct guest_disks *ret_disks)
{
    struct guest_disks disks = {.root_size = ret_disks->root_size};

    if (!json_is_array(json) || json_array_size(json) > GUEST_DISKS_MAX)
        return -EINVAL;
    for (; disks.n < json_array_size(json); disks.n++) {
        struct guest_disk *disk = &disks.disk[disks.n];

        if (!disk_from_json(json_array_get(json, disks.n), disk))
            return -EINVAL;
        for (unsigned i = 0; i < disks.n; i++)
            if (strcmp(disks.disk[i].name, disk->name) == 0)
                return -EINVAL;
    }
    *ret_disks = disks;
    return 0;
}

/* ---- files ---- */

uint64_t guest_root_size(const struct guest *guest)
{
    const struct template *tmpl = template_find(guest->daemon, guest->config.tmpl);

    if (guest->config.disks.root_size)
        return guest->config.disks.root_size;
    return tmpl ? (tmpl->info.size + SECTOR - 1) / SECTOR * SECTOR : 0;
}

char *guest_disk_path(const struct guest *guest, const struct guest_disk *disk)
{
    char *path;

    if (!disk->own)
        return strdup(disk->path);
    if (asprintf(&path, "%s/guests/%s/" GUEST_DISK_FILE, guest->daemon->state_dir,
                 guest->config.name, disk->name) < 0)
        return NULL;
    return path;
}

int guest_disk_identify(int fd, struct file_identity *ret_identity)
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
        return -errno;
    *ret_identity = (struct file_identity){
        .device = (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor,
        .inode = st.stx_ino,
        .born = st.stx_mask & STATX_BTIME
                    ? (uint64_t)st.stx_btime.tv_sec * 1000000000u + st.stx_btime.tv_nsec
                    : 0,
    };
    return S_ISREG(st.stx_mode) ? 0 : -EINVAL;
}

static int check_identity(const struct guest *guest, const struct guest_disk *disk, int fd,
                          struct problem *problem)
{
    struct file_identity now;
    int r = guest_disk_identify(fd, &now);

    if (r == 0 && memcmp(&now, &disk->identity, sizeof(now)) == 0)
        return 0;
    return problem_set(problem, PROBLEM_BAD_IMAGE,
                       "guest %s: %s is not the file that was attached as disk %s: detach it, and "
                       "attach it again if it is the right one",
                       guest->config.name, disk->path, disk->name);
}

/* Never waits for a FIFO that took its place. */
static int open_foreign(const struct guest *guest, const struct guest_disk *disk, int flags,
                        struct problem *problem)
{
    int fd = open(disk->path, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC), r;

    if (fd < 0)
        return problem_errno(problem, -errno, "guest %s: disk %s: cannot open %s%s",
                             guest->config.name, disk->name, disk->path,
                             errno == EROFS || errno == EACCES
                                 ? " (where the vmmd service may write is said in vmmd(8))"
                                 : "");
    r = check_identity(guest, disk, fd, problem);
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

int guest_disk_open(const struct guest *guest, const struct guest_disk *disk,
                    struct problem *problem)
{
    int flags = disk->readonly ? O_RDONLY : O_RDWR;
    char name[sizeof(GUEST_DISK_FILE) + GUEST_DISK_NAME_MAX];

    if (!disk->own)
        return open_foreign(guest, disk, flags, problem);
    snprintf(name, sizeof(name), GUEST_DISK_FILE, disk->name);
    return guest_store_open(guest, name, flags, problem);
}

int guest_disks_open(const struct guest *guest, int fds[GUEST_DISKS_MAX], struct problem *problem)
{
    const struct guest_disks *disks = &guest->config.disks;
    int open_fds[GUEST_DISKS_MAX];

    for (unsigned i = 0; i < disks->n; i++) {
        int r = open_fds[i] = guest_disk_open(guest, &disks->disk[i], problem);

        if (r >= 0)
            continue;
        while (i-- > 0)
            close(open_fds[i]);
        return r;
    }
    memcpy(fds, open_fds, disks->n * sizeof(*fds));
    return 0;
}
