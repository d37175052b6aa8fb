/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hostmem: how much memory the daemon and its guests can still have: what the host has, or less if
 * a memory cgroup that vmmd is in (version 1 or 2, its parents included) ends sooner.
 */
#ifndef VMMD_HOSTMEM_H
#define VMMD_HOSTMEM_H

#include <stdbool.h>
#include <stdint.h>

#define HOSTMEM_WHERE_MAX 160

struct hostmem {
    uint64_t total;                /* of the host, or the smallest limit; bytes */
    uint64_t available;            /* the least of all: what can be had before somebody is killed */
    char where[HOSTMEM_WHERE_MAX]; /* whose that is: "this host", "memory cgroup /a/b" */
};

/* Reads all figures now. `root` stands before every path: "", or a directory of a test. 0, or
 * -errno if not even /proc/meminfo can be read; limits that cannot be read do not count. */
int hostmem_read(const char *root, struct hostmem *ret_hostmem);

/* Percent of the last ten seconds in which somebody waited for memory; -1: the kernel has no PSI.
 */
double hostmem_stall(const char *root);

/*
 * Asks the kernel to report memory stalls: a descriptor that is readable when there was one and
 * that hostmem_stall_clear() makes unreadable; the trigger behind it must stay open as long.
 * -ENOENT: no PSI here; -EACCES, -EPERM and others: it is not for us.
 */
int hostmem_stall_watch(const char *root, int *ret_trigger);
/* 0, or -EIO: it will report nothing more. */
int hostmem_stall_clear(int fd);

#endif
