/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * template: an imported disk image with kernel and initrd, read-only, from which guests start.
 *
 * STATE/templates/NAME/ holds disk.raw, hashes, kernel, initrd (maybe) and template.json.
 */
#ifndef VMMD_TEMPLATE_H
#define VMMD_TEMPLATE_H

#include "cowdisk/cowdisk.h"
#include "vmmd/daemon.h"
#include "vmmd/name.h"

#include <sys/stat.h>

#define TEMPLATE_CMDLINE_MAX 1024
#define TEMPLATE_DISK        "disk.raw"
#define TEMPLATE_HASHES      "hashes"
#define TEMPLATE_KERNEL      "kernel"
#define TEMPLATE_INITRD      "initrd"

struct template_info {
    uint64_t size;  /* bytes of disk.raw */
    uint64_t mtime; /* of disk.raw, nanoseconds */
    uint64_t inode; /* of disk.raw */
    uint64_t created;
    bool has_initrd;
    bool own_kernel, own_initrd, own_cmdline; /* given at the import, not found in the image */
    char os_name[128], kernel_name[128], cmdline[TEMPLATE_CMDLINE_MAX];
};

struct template
{
    TAILQ_ENTRY(template) link;
    struct daemon *daemon;
    char name[NAME_LENGTH_MAX + 1];
    char *path; /* of its directory */
    struct template_info info;
};

/* Read-only fds of a template's files. -1: none. */
struct template_fds {
    int kernel, initrd, disk, hashes;
};

struct template *template_find(struct daemon *daemon, const char *name);

/* Reads all templates of the state directory; unreadable ones are logged and skipped. */
void templates_load(struct daemon *daemon);

/* Writes template.json into the (temporary) directory; size, mtime and inode are taken from its
 * disk.raw. Durable. */
int template_save(int dir_fd, struct template_info *info);

/* Adds what was just put into place and tells the listener. */
int template_add(struct daemon *daemon, const char *name, const struct template_info *info);

/* Opens the files, having checked that the disk is the one that was imported. */
int template_open(const struct template *tmpl, struct template_fds *ret_fds,
                  struct problem *problem);
/* Only disk and hashes, changed or not, to be verified. */
int template_open_changed(const struct template *tmpl, struct template_fds *ret_fds,
                          struct problem *problem);
void template_close(struct template_fds *fds);

/* Its disk, which was as `seen` before all of it was compared with the hashes, is good: guests
 * start over it again, should it be another file than the one of the import (a restored copy). What
 * changed while it was read is not accepted. */
void template_accept(struct template *tmpl, const struct stat *seen);

/* What overlays record of it. BadImage: its hash file is damaged. */
int template_identity(const struct template *tmpl, struct cow_identity *ret_identity,
                      struct problem *problem);

uint64_t template_disk_usage(const struct template *tmpl); /* bytes allocated on the host */

/* InUse (naming guests) while guests depend on it. */
int template_delete(struct template *tmpl, struct problem *problem);
void template_free(struct template *tmpl);

#endif
