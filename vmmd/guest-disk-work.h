/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-disk-work: what the files about a guest's disks share: finding a disk, writing guest.json,
 * and a vmmd-import process at work on one.
 */
#ifndef VMMD_GUEST_DISK_WORK_H
#define VMMD_GUEST_DISK_WORK_H

#include "vmmd/guest.h"
#include "vmmd/import-child.h"

#define DISK_SECTOR 512u

enum disk_work_kind { DISK_WORK_ATTACH, DISK_WORK_RESIZE };

struct disk_work {
    LIST_ENTRY(disk_work) link;
    struct daemon *daemon;
    enum disk_work_kind kind;
    char guest[NAME_LENGTH_MAX + 1]; /* it stays still until the end */
    struct guest_disk disk;          /* of a resize: only the name */
    char size_text[24];
    struct import_child *child;
    guest_disk_done_fn done;
    void *opaque;
};

/* NULL: no memory. The guest stays still from now on. */
struct disk_work *disk_work_new(struct guest *guest, enum disk_work_kind kind,
                                guest_disk_done_fn done, void *opaque);
/* Starts vmmd-import on `image`, with `below` under it (-1: nothing); they stay the caller's. What
 * is to be changed in guest.json is changed when it is done. On failure the work is gone. */
int disk_work_start(struct disk_work *work, const char *const *options, int image, int below,
                    struct problem *problem);

/* Beside the root disk; NULL: there is none. */
struct guest_disk *guest_disk_find(struct guest *guest, const char *name);
const char *guest_disk_format(const struct guest_disk *disk); /* "raw" or "qcow2" */
int guest_disk_check_size(uint64_t size, struct problem *problem);
/* Removes the file of one of its own, if it is there. */
int guest_disk_remove_file(const struct guest *guest, const char *name, struct problem *problem);
/* Writes guest.json; on failure the disks are as `before`. */
int guest_disks_store(struct guest *guest, const struct guest_disks *before,
                      struct problem *problem);

#endif
