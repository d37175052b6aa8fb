/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What extfs.c and extfs-edit.c share.
 */
#ifndef COWDISK_IMPORT_EXTFS_H
#define COWDISK_IMPORT_EXTFS_H

#include <ext2fs/ext2fs.h>

#include "cowdisk/import/import.h"

/* The part of the disk that a file system lies in. */
struct extfs_window {
    int fd;
    uint64_t offset, size;
    bool writable;
};

struct extfs {
    ext2_filsys fs;
    unsigned n_pruned; /* entries that were judged */
};

int extfs_open_with(struct extfs **ret_fs, int fd, uint64_t offset, uint64_t size, int flags);
/* -ENOENT. */
int extfs_lookup(struct extfs *fs, const char *path, bool follow, ext2_ino_t *ret_inode);

#endif
