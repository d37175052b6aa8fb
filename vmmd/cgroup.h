/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cgroup: which control group this process is in, version 1 or 2.
 */
#ifndef VMMD_CGROUP_H
#define VMMD_CGROUP_H

#include <limits.h>
#include <stdbool.h>

struct cgroup {
    char mount[PATH_MAX]; /* where its hierarchy is mounted */
    char path[PATH_MAX];  /* below that: "" (the top) or "/a/b" */
    bool unified;         /* version 2 */
};

/*
 * Finds our cgroup: in the hierarchy of a version 1 `controller` ("memory", "cpu"), or with NULL in
 * that of version 2. `root` stands before the /proc that is read, not in what is found. False:
 * there is no such hierarchy here, or it is not mounted.
 */
bool cgroup_find(struct cgroup *ret, const char *root, const char *controller);

/* Whether a list, separated by commas or spaces, has this word. */
bool cgroup_has_word(const char *list, const char *word);

#endif
