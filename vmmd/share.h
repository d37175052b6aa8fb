/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * share: the pools of identical pages, one per share group, and their sockets in the event loop.
 */
#ifndef VMMD_SHARE_H
#define VMMD_SHARE_H

#include "memshare/memshare.h"

#include <stdint.h>

struct event_base;
struct shares;
struct share_member; /* one guest process in one group */

/* The pool lost this guest process: -ECONNRESET: it hung up; -EPROTO: it lied, `text` says how. The
 * member is still to be freed by its owner. */
typedef void (*share_lost_fn)(void *opaque, int error, const char *text);

struct shares *shares_new(struct event_base *base, uint64_t max_bytes); /* NULL: no memory */
void shares_free(struct shares *shares); /* after all members; NULL is fine */

/* Who joins what. The strings are the caller's and need not outlive the call. */
struct share_request {
    const char *group;
    enum ms_timing timing;    /* of the pool, if this is the first of its group */
    uint64_t ram_bytes;       /* of the guest */
    const char *template_key; /* "": no template */
    uint64_t template_blocks; /* of 4096 bytes */
    share_lost_fn lost;
    void *opaque; /* for lost */
};

/*
 * Joins a group, whose pool is made for the first and freed after the last. On 0 the caller owns
 * the two fds, which are for the guest process: its end of the socket, and the read-only pool.
 */
int share_join(struct shares *shares, const struct share_request *request,
               struct share_member **ret_member, int *ret_sock, int *ret_pool_fd);

/* Drops every page of this guest process. NULL is fine. */
void share_leave(struct share_member *member);

uint64_t share_saved(const struct share_member *member); /* bytes; 0 for NULL */

#endif
