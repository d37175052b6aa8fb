/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * template-read: jobs that read all of a template: is it still what was imported, and a copy of it.
 */
#ifndef VMMD_TEMPLATE_READ_H
#define VMMD_TEMPLATE_READ_H

#include "vmmd/job.h"

struct template;

/* Starts the work as a job; the job's result is the template's name. InUse: it is being verified
 * already. */
int template_verify(struct template *tmpl, struct job **ret_job, struct problem *problem);

struct export_request {
    int output;         /* an empty regular file, open for reading and writing; the caller's */
    const char *format; /* "raw" or "qcow2"; NULL: qcow2 */
    bool compress;      /* the clusters of a qcow2 image */
};

/* Writes the disk into a file as an image that stands alone, compared with the hashes as it is
 * read. The output is no use before the job is done. */
int template_export(struct template *tmpl, const struct export_request *request,
                    struct job **ret_job, struct problem *problem);

/* Kills all; the daemon ends. */
void template_readings_abort_all(struct daemon *daemon);

#endif
