/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-disk: the disks that a guest has beside its root disk.
 *
 * One that is the guest's own is disk-NAME.qcow2 in the guest's directory. Any other is somebody's
 * file: whoever attached it had it open, so its path is remembered together with what file that
 * was, and no other file is ever opened in its place.
 *
 * Images are foreign: what reads or changes their tables is a vmmd-import process.
 */
#ifndef VMMD_GUEST_DISK_H
#define VMMD_GUEST_DISK_H

#include "vmmd/problem.h"
#include "vmmd/proto.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define GUEST_DISKS_MAX     (PROTO_DISKS_MAX - 1) /* beside the root disk */
#define GUEST_DISK_NAME_MAX 20                    /* what a virtio disk can tell as its serial */
#define GUEST_DISK_PATH_MAX 512
#define GUEST_ROOT_DISK     "root"

struct daemon;
struct guest;

/* What file it is, whatever is done to its contents. */
struct file_identity {
    uint64_t device, inode;
    uint64_t born; /* nanoseconds; 0: its file system does not say */
};

struct guest_disk {
    char name[GUEST_DISK_NAME_MAX + 1];
    bool own; /* else `path` and `identity` tell its file */
    bool raw; /* else qcow2; never asked of the file again, because the guest writes it */
    bool readonly;
    uint64_t size; /* bytes */
    char path[GUEST_DISK_PATH_MAX];
    struct file_identity identity;
};

struct guest_disks {
    uint64_t root_size; /* bytes; 0: as the template's disk */
    unsigned n;
    struct guest_disk disk[GUEST_DISKS_MAX];
};

struct attach_request {
    const char *name;
    uint64_t size; /* of a new disk of its own; 0: none */
    int file;      /* an image, open for reading, and for writing unless `readonly`; or -1 */
    bool readonly;
    /* Neither: one of its own that was detached and kept. */
};

/* The end of a request: NULL: done, else why not. */
typedef void (*guest_disk_done_fn)(void *opaque, const struct problem *problem);

/* These want the guest stopped (WrongState) and undisturbed (Busy), and call `done` later if they
 * return 0. What they do is durable then. */
int guest_disk_attach(struct guest *guest, const struct attach_request *request,
                      guest_disk_done_fn done, void *opaque, struct problem *problem);
/* `name` may be GUEST_ROOT_DISK. A smaller size cuts off what lies behind it: only with `shrink`.
 */
int guest_disk_resize(struct guest *guest, const char *name, uint64_t size, bool shrink,
                      guest_disk_done_fn done, void *opaque, struct problem *problem);

/* At once. A file that is not the guest's own is left alone; the guest's own is removed with
 * `remove`, else *ret_kept, where it is kept, is the caller's to free(); NULL: nothing is. */
int guest_disk_detach(struct guest *guest, const char *name, bool remove, char **ret_kept,
                      struct problem *problem);

/* The path of a disk's file; malloc'ed. */
char *guest_disk_path(const struct guest *guest, const struct guest_disk *disk);
/* Bytes of the root disk. */
uint64_t guest_root_size(const struct guest *guest);

/* The file of the guest's own disk NAME, in the guest's directory. */
#define GUEST_DISK_FILE "disk-%s.qcow2"

/* The file of one disk, as it is to be used: an fd, or -errno. BadImage: another file is there. */
int guest_disk_open(const struct guest *guest, const struct guest_disk *disk,
                    struct problem *problem);
/* -EINVAL: not a regular file. */
int guest_disk_identify(int fd, struct file_identity *ret_identity);

/* Opens the files of all but the root disk; fds[i] is of disk i. On failure none is open. */
int guest_disks_open(const struct guest *guest, int fds[GUEST_DISKS_MAX], struct problem *problem);

/* Ends what is under way; the daemon ends. */
void guest_disks_abort_all(struct daemon *daemon);

/* For guest.json. NULL: no memory, or a path that is not UTF-8. Absent there: no disks. */
json_t *guest_disks_to_json(const struct guest_disks *disks);
int guest_disks_from_json(const json_t *json, struct guest_disks *ret_disks);

#endif
