/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-disk-work: a vmmd-import process looks at the image of a disk, or changes its size; when it
 * is done, guest.json is written. A daemon that dies in between has changed nothing, or a size that
 * the next look at the image corrects (the image is right, guest.json only repeats what it says).
 */
#include "vmmd/guest-disk-work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct guest_disk *guest_disk_find(struct guest *guest, const char *name)
{
    struct guest_disks *disks = &guest->config.disks;

    for (unsigned i = 0; i < disks->n; i++)
        if (strcmp(disks->disk[i].name, name) == 0)
            return &disks->disk[i];
    return NULL;
}

/* Writes guest.json; on failure it is as `before`. */
int guest_disks_store(struct guest *guest, const struct guest_disks *before,
                      struct problem *problem)
{
    int r = guest_store_config(guest, problem);

    if (r < 0)
        guest->config.disks = *before;
    else
        guest_changed(guest, GUEST_CHANGE_CONFIG);
    return r;
}

int guest_disk_check_size(uint64_t size, struct problem *problem)
{
    if (size > 0 && size % DISK_SECTOR == 0 && size <= COW_MAX_VIRTUAL_SIZE)
        return 0;
    return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                       "a disk of %llu bytes: must be whole sectors of %u bytes, at most 64 TiB",
                       (unsigned long long)size, DISK_SECTOR);
}

const char *guest_disk_format(const struct guest_disk *disk)
{
    return disk->raw ? "raw" : "qcow2";
}

int guest_disk_remove_file(const struct guest *guest, const char *name, struct problem *problem)
{
    char path[3 * NAME_LENGTH_MAX];

    snprintf(path, sizeof(path), "%s/" GUEST_DISK_FILE, guest->config.name, name);
    if (unlinkat(guest->daemon->guests_fd, path, 0) == 0 || errno == ENOENT)
        return 0;
    return problem_errno(problem, -errno, "guest %s: cannot remove %s/guests/%s",
                         guest->config.name, guest->daemon->state_dir, path);
}

/* ---- the end of work ---- */

static void work_free(struct disk_work *work)
{
    struct guest *guest = guest_find(work->daemon, work->guest);

    if (guest)
        guest->readers--;
    LIST_REMOVE(work, link);
    import_child_free(work->child);
    free(work);
}

static int finish_attach(struct guest *guest, struct disk_work *work, uint64_t size,
                         struct problem *problem)
{
    struct guest_disks before = guest->config.disks;

    work->disk.size = size;
    guest->config.disks.disk[guest->config.disks.n++] = work->disk;
    return guest_disks_store(guest, &before, problem);
}

static int finish_resize(struct guest *guest, const struct disk_work *work, uint64_t size,
                         struct problem *problem)
{
    struct guest_disks before = guest->config.disks;
    struct guest_disk *disk = guest_disk_find(guest, work->disk.name);

    if (disk)
        disk->size = size;
    else
        guest->config.disks.root_size = size;
    return guest_disks_store(guest, &before, problem);
}

static void on_ended(void *opaque, int result, const struct cow_import_msg *msg, const char *why)
{
    struct disk_work *work = opaque;
    struct guest *guest = guest_find(work->daemon, work->guest);
    guest_disk_done_fn done = work->done;
    void *done_opaque = work->opaque;
    struct problem problem;
    int r = result;

    if (r < 0)
        problem_set(&problem, PROBLEM_BAD_IMAGE, "guest %s: disk %s: %.400s", work->guest,
                    work->disk.name, why);
    else if (!guest)
        r = problem_set(&problem, PROBLEM_NOT_FOUND, "guest %s is gone", work->guest);
    else if (work->kind == DISK_WORK_ATTACH)
        r = finish_attach(guest, work, msg->disk_bytes, &problem);
    else
        r = finish_resize(guest, work, msg->disk_bytes, &problem);
    work_free(work);
    if (done)
        done(done_opaque, r < 0 ? &problem : NULL);
}

/* ---- the beginning of work ---- */

struct disk_work *disk_work_new(struct guest *guest, enum disk_work_kind kind,
                                guest_disk_done_fn done, void *opaque)
{
    struct disk_work *work = calloc(1, sizeof(*work));

    if (!work)
        return NULL;
    work->daemon = guest->daemon;
    work->kind = kind;
    work->done = done;
    work->opaque = opaque;
    memcpy(work->guest, guest->config.name, sizeof(work->guest));
    guest->readers++;
    LIST_INSERT_HEAD(&guest->daemon->disk_works, work, link);
    return work;
}

/* `below`: what lies under the image, or -1. */
int disk_work_start(struct disk_work *work, const char *const *options, int image, int below,
                    struct problem *problem)
{
    struct import_child_spec spec = {
        .fds = {image, -1, -1, -1, -1, -1, below},
        .n_fds = below >= 0 ? 7 : 6,
        .ended = on_ended,
        .opaque = work,
    };
    int r;

    for (int i = 0; i < IMPORT_CHILD_OPTIONS_MAX - 1 && options[i]; i++)
        spec.options[i] = options[i];
    r = import_child_new(&work->child, work->daemon, &spec, problem);
    if (r < 0)
        work_free(work);
    else
        import_child_go(work->child);
    return r;
}

void guest_disks_abort_all(struct daemon *daemon)
{
    struct problem problem;

    problem_set(&problem, PROBLEM_BUSY, "vmmd is ending");
    while (!LIST_EMPTY(&daemon->disk_works)) {
        struct disk_work *work = LIST_FIRST(&daemon->disk_works);
        guest_disk_done_fn done = work->done;
        void *opaque = work->opaque;

        work_free(work);
        if (done)
            done(opaque, &problem);
    }
}
