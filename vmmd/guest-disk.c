/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-disk: detaching and resizing disks of a guest that is stopped.
 */
#include "vmmd/guest-disk-work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int no_disk(const struct guest *guest, const char *name, struct problem *problem)
{
    return problem_set(problem, PROBLEM_NOT_FOUND, "guest %s has no disk \"%.32s\"",
                       guest->config.name, name);
}

/* ---- detach ---- */

int guest_disk_detach(struct guest *guest, const char *name, bool remove, char **ret_kept,
                      struct problem *problem)
{
    struct guest_disks before = guest->config.disks;
    struct guest_disk *disk = guest_disk_find(guest, name);
    struct guest_disk gone;
    char *kept = NULL;
    int r = guest_check_still(guest, problem);

    if (r < 0)
        return r;
    if (strcmp(name, GUEST_ROOT_DISK) == 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "the root disk of guest %s goes with the guest", guest->config.name);
    if (!disk)
        return no_disk(guest, name, problem);
    if (remove && !disk->own)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "%s is not vmmd's to delete: detach it without that", disk->path);
    gone = *disk;
    memmove(disk, disk + 1,
            (size_t)(&guest->config.disks.disk[guest->config.disks.n] - (disk + 1)) *
                sizeof(*disk));
    memset(&guest->config.disks.disk[--guest->config.disks.n], 0, sizeof(*disk));
    r = guest_disks_store(guest, &before, problem);
    if (r == 0 && remove)
        r = guest_disk_remove_file(guest, gone.name, problem);
    if (r == 0 && gone.own && !remove)
        kept = guest_disk_path(guest, &gone);
    if (r == 0)
        *ret_kept = kept;
    return r;
}

/* ---- resize ---- */

static int open_root(struct guest *guest, int *ret_image, int *ret_below, struct problem *problem)
{
    struct template_fds fds;
    int image, r = guest_store_open_template(guest, NULL, &fds, problem);

    if (r < 0)
        return r;
    image = guest_store_open(guest, GUEST_OVERLAY, O_RDWR, problem);
    if (image >= 0) {
        *ret_image = image;
        *ret_below = fds.disk;
        fds.disk = -1;
    }
    template_close(&fds);
    return image < 0 ? image : 0;
}

static int check_resize(const struct guest *guest, const char *name, uint64_t now, uint64_t size,
                        bool shrink, struct problem *problem)
{
    int r = guest_disk_check_size(size, problem);

    if (r == 0 && size < now && !shrink)
        r = problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                        "disk %s of guest %s has %llu bytes: to make it smaller cuts off what lies "
                        "behind, and is done only if asked for (--shrink)",
                        name, guest->config.name, (unsigned long long)now);
    return r;
}

static int start_resize(struct guest *guest, const char *name, const char *format, int image,
                        int below, uint64_t size, bool shrink, guest_disk_done_fn done,
                        void *opaque, struct problem *problem)
{
    const char *options[IMPORT_CHILD_OPTIONS_MAX] = {"--disk", format, "--resize", NULL};
    struct disk_work *work = disk_work_new(guest, DISK_WORK_RESIZE, done, opaque);
    int n = 4;

    if (!work)
        return problem_errno(problem, -ENOMEM, "guest %s", guest->config.name);
    snprintf(work->disk.name, sizeof(work->disk.name), "%s", name);
    snprintf(work->size_text, sizeof(work->size_text), "%llu", (unsigned long long)size);
    if (shrink)
        options[n++] = "--shrink";
    if (below >= 0)
        options[n++] = "--below=1";
    options[3] = work->size_text;
    return disk_work_start(work, options, image, below, problem);
}

int guest_disk_resize(struct guest *guest, const char *name, uint64_t size, bool shrink,
                      guest_disk_done_fn done, void *opaque, struct problem *problem)
{
    const struct guest_disk *disk = guest_disk_find(guest, name);
    bool root = strcmp(name, GUEST_ROOT_DISK) == 0;
    int image = -1, below = -1, r = guest_check_still(guest, problem);

    if (r < 0)
        return r;
    if (!root && !disk)
        return no_disk(guest, name, problem);
    if (disk && disk->readonly)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "disk %s of guest %s is attached read-only", name, guest->config.name);
    r = check_resize(guest, name, root ? guest_root_size(guest) : disk->size, size, shrink,
                     problem);
    if (r == 0 && root)
        r = open_root(guest, &image, &below, problem);
    else if (r == 0)
        r = image = guest_disk_open(guest, disk, problem);
    if (r < 0)
        return r;
    r = start_resize(guest, name, root ? "qcow2" : guest_disk_format(disk), image, below, size,
                     shrink, done, opaque, problem);
    close(image);
    if (below >= 0)
        close(below);
    return r;
}
