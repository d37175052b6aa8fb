/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of vmmd-import. Everything runs in one sandboxed, throw-away process; the first error
 * ends it with one line. Order: sandbox, copy, remove the identity, look for kernel and root, hash,
 * done.
 */
#ifndef COWDISK_IMPORT_H
#define COWDISK_IMPORT_H

#include "cowdisk/cowdisk.h"

/* The fds of the contract in cowdisk.h. */
enum import_fd {
    FD_STATUS = 3,
    FD_SOURCE = 4,
    FD_DISK = 5,
    FD_HASHES = 6,
    FD_KERNEL = 7,
    FD_INITRD = 8,
    FD_PASSPHRASE = 9, /* with --passphrase */
    FD_BELOW = 10,     /* with --below: so many, then the hashes of the last */
};

#define IMPORT_MAX_DISK    (4ull << 40)   /* virtual size of an image */
#define IMPORT_MAX_KERNEL  (256ull << 20) /* bytes */
#define IMPORT_MAX_INITRD  (1ull << 30)
#define IMPORT_MAX_VOLUMES 128  /* partitions looked at */
#define IMPORT_MAX_ENTRIES 4096 /* files in /boot looked at */
#define IMPORT_MAX_KERNELS 16   /* of them kernels tried */
#define IMPORT_NAME_MAX    128
#define IMPORT_MAX_MOUNTS  16          /* lines of an fstab that name volumes of the disk */
#define IMPORT_MAX_PRUNED  (1u << 20)  /* entries of directories that are looked at */
#define IMPORT_MAX_DEPTH   64u         /* of directories */
#define IMPORT_MAX_TEXT    (64u << 10) /* bytes of a file that is read as text */

struct import {
    bool own_kernel, own_initrd; /* given by the caller, only to be checked */
    bool has_passphrase;
    bool verify;        /* nothing is imported */
    const char *export; /* nothing is imported: the format of an image to write */
    bool compress;      /* it */
    const char *disk;   /* nothing is imported: the format of a disk to look at, */
    uint64_t resize;    /* and the size that it is given; 0: none */
    bool shrink;
    bool anonymous;               /* what tells this machine from others is removed */
    unsigned n_below, used_below; /* files that the source needs; so many are open */
    bool below_hashes;            /* the last of them has a hash file */
    struct cow_hashes hashes;
    uint64_t damaged_at; /* of the image under the source, if it was found to be damaged, */
    bool damaged;        /* which this says */
    bool encrypted; /* the image was, and the passphrase may have been wrong: nobody can tell */
    const char *cmdline;  /* NULL: find it */
    const char *snapshot; /* NULL: the current state */
    uint64_t disk_bytes;
    uint64_t done, total, reported; /* progress */
    struct cow_import_msg result;
    struct cow_error error; /* the reason, once something returned < 0 */
};

/* ---- limits.c */
/* Gives up everything that copying and parsing do not need. Before the first byte is read. */
int import_enter_sandbox(struct import *import);
/* Parsing a file system may take this much CPU time from now on; 0: as much as the process. */
int import_limit_cpu(unsigned seconds);
/* Address space for the hash file of a disk. */
int import_allow_hashes(uint64_t disk_bytes);

/* ---- copy.c */
int import_copy(struct import *import);
/* The source with what lies under it. */
int import_open(struct import *import, enum cow_format format, unsigned flags,
                struct cow_disk **ret_disk);
/* Notes the size of the disk, if it can be imported. */
int import_check_size(struct import *import, uint64_t disk_bytes);
/* The source is the disk of a template: maps its hash file to import->hashes. */
int import_map_hashes(struct import *import);

/* ---- verify.c */
/* Compares the disk with its hashes; nothing else is done then. -EILSEQ: it is damaged. */
int import_verify(struct import *import);

/* ---- export.c */
/* Writes the source, compared with its hashes, to the disk as an image; nothing else is done. */
int import_export(struct import *import);

/* ---- disk.c */
/* Tells the size of the source, or changes it; nothing else is done. */
int import_disk(struct import *import);

/* ---- old.c */
/* Is the source an image for libqcow? */
bool import_is_old(uint32_t *ret_version);
int import_copy_old(struct import *import, uint32_t version);

/* ---- report.c */
int import_progress(struct import *import, uint64_t done);
int import_send(const struct cow_import_msg *msg, bool wait);

/* ---- kernel.c */
int kernel_check(int fd, struct cow_error *err);
int initrd_check(int fd, struct cow_error *err);
/* < 0, 0, > 0 as a is an older, the same, a newer version than b: runs of digits are numbers. */
int version_compare(const char *a, const char *b);

/* ---- extfs.c: a file system of the ext family inside a disk */
struct extfs;
int extfs_open(struct extfs **ret_fs, int fd, uint64_t offset, uint64_t size);
void extfs_close(struct extfs *fs);
/* Follows symbolic links inside the file system. */
bool extfs_exists(struct extfs *fs, const char *path);
/* At most `size - 1` bytes of a regular file, NUL-terminated. */
int extfs_read_text(struct extfs *fs, const char *path, char *text, size_t size);
/* A regular file of at most `max` bytes into the empty file `fd`. */
int extfs_copy(struct extfs *fs, const char *path, int fd, uint64_t max, struct cow_error *err);
/* Names in a directory; a return other than 0 ends the walk. */
typedef int (*extfs_name_fn)(void *opaque, const char *name);
int extfs_list(struct extfs *fs, const char *path, extfs_name_fn fn, void *opaque);
/* Where a symbolic link points to; -EINVAL if it is not one. */
int extfs_read_link(struct extfs *fs, const char *path, char *target, size_t size);

/* ---- extfs-edit.c: changing one. Nothing is sure before extfs_finish(): after a failure the disk
 * is no use. */

/* -EBUSY: it was not unmounted cleanly; -ENOTSUP: it has features that we cannot write. */
int extfs_open_to_edit(struct extfs **ret_fs, int fd, uint64_t offset, uint64_t size,
                       struct cow_error *err);
/* A regular file gets other contents, its owner and mode stay. -ENOENT: there is none. */
int extfs_set_text(struct extfs *fs, const char *path, const char *text);

struct extfs_entry {
    const char *name;
    unsigned depth; /* 0: in the directory itself */
    bool is_dir, is_file;
};
enum extfs_verdict {
    EXTFS_KEEP,
    EXTFS_ENTER,  /* a directory: judge what is in it */
    EXTFS_EMPTY,  /* a regular file: it stays, its contents go */
    EXTFS_REMOVE, /* a directory: with all that is in it */
};
typedef enum extfs_verdict (*extfs_judge_fn)(const struct extfs_entry *entry);
/* Asks about each entry of a directory, the first `depth` deep, and does what was said. One that
 * does not exist has no entries. -EFBIG: too many or too deep; -EIO: damaged. */
int extfs_prune(struct extfs *fs, const char *dir, unsigned depth, extfs_judge_fn judge);
/* Writes it all, makes what is free, and what the journal held, zeroes, and closes it. */
int extfs_finish(struct extfs *fs);
/* Zeroes, as a hole if there can be one. */
int extfs_wipe(int fd, uint64_t offset, uint64_t length);

/* ---- volumes.c: partitions and what is in them */
struct volume {
    uint64_t offset, size;
    int number; /* of the partition; 0: the whole disk */
    char type[16], uuid[64], partuuid[64];
    char label[64]; /* any bytes: only to be compared */
};

/* What is where on the disk. */
struct layout {
    struct volume volumes[IMPORT_MAX_VOLUMES];
    size_t n_volumes;
    struct volume *root; /* the root file system; NULL: none found */
};
int volumes_find(int fd, uint64_t disk_bytes, struct volume *volumes, size_t max,
                 size_t *ret_count);
bool volume_is_ext(const struct volume *volume);

/* ---- boot.c */
/* Fills in the layout and the name of the system. */
int import_find_layout(struct import *import, struct layout *layout);
/* Fills in kernel, initrd and command line. */
int import_find_boot(struct import *import, struct layout *layout);

/* ---- identity.c */
/* Removes what tells the machine on the disk from its copies. */
int import_remove_identity(struct import *import, const struct layout *layout);

#endif
