/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * import: making a template from an image.
 */
#ifndef VMMD_IMPORT_H
#define VMMD_IMPORT_H

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
};

/* Starts the work as a job; the fds stay the caller's. The job's result is the template's name. */
int import_start(struct daemon *daemon, const struct import_request *request, struct job **ret_job,
                 struct problem *problem);

/* Kills all imports; the daemon ends. */
void import_abort_all(struct daemon *daemon);

#endif
