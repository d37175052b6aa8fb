/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * import: making a template from an image, or from a guest.
 */
#ifndef VMMD_IMPORT_H
#define VMMD_IMPORT_H

#include "cowdisk/cowdisk.h"
#include "vmmd/job.h"

#define IMPORT_KERNEL_MAX     (256 * MIB)
#define IMPORT_INITRD_MAX     (1024 * MIB)
#define IMPORT_PASSPHRASE_MAX 1024
#define IMPORT_SNAPSHOT_MAX   256

struct import_request {
    const char *name;
    int disk;             /* readable; regular file or block device */
    int kernel, initrd;   /* regular files, or -1 */
    int passphrase;       /* of an encrypted image: the first line of a regular file; or -1 */
    const char *cmdline;  /* NULL: found in the image */
    const char *snapshot; /* internal snapshot by id or name; NULL: the current state */
    /* Files that the disk needs: of each image, from the top down, its external data file, and what
     * lies under it. */
    int below[COW_IMPORT_MAX_BELOW];
    unsigned n_below;
    int below_hashes;     /* of the last of these, if it is a template's disk; or -1 */
    bool remove_identity; /* of the machine that it was the disk of */
    struct guest *guest;  /* whose disk it is: stopped, it is kept so; or NULL */
};

/* A request without anything: the fds are -1. */
void import_request_init(struct import_request *request);

/* Starts the work as a job; the fds stay the caller's. The job's result is the template's name. */
int import_start(struct daemon *daemon, const struct import_request *request, struct job **ret_job,
                 struct problem *problem);

/* A template from the root disk of a guest that is stopped, with all that its template was imported
 * with; the job's result is its name. WrongState, Busy; errors as of import_start(). */
int import_from_guest(struct guest *guest, const char *name, bool keep_identity,
                      struct job **ret_job, struct problem *problem);

/* Kills all imports; the daemon ends. */
void import_abort_all(struct daemon *daemon);

#endif
