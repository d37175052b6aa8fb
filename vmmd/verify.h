/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * verify: reading all of a template to see whether it is still what was imported.
 */
#ifndef VMMD_VERIFY_H
#define VMMD_VERIFY_H

#include "vmmd/job.h"

struct template;

/* Starts the work as a job; the job's result is the template's name. InUse: it is being verified
 * already. */
int verify_start(struct template *tmpl, struct job **ret_job, struct problem *problem);

/* Kills all; the daemon ends. */
void verify_abort_all(struct daemon *daemon);

#endif
