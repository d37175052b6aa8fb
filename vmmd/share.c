/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * share: pools and their members.
 *
 * Pages are compared and counted by memshare; here is only who is with whom, and which socket is
 * readable. A group exists as long as it has members.
 */
#include "vmmd/share.h"
#include "vmmd/name.h"

#include <errno.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

struct share_group {
    LIST_ENTRY(share_group) link;
    char name[NAME_LENGTH_MAX + 1];
    struct ms_pool *pool;
    unsigned n_members;
};

struct share_member {
    struct share_group *group;
    struct ms_client *client;
    struct event *event;
    share_lost_fn lost;
    void *opaque;
};

struct shares {
    struct event_base *base;
    uint64_t max_bytes;
    LIST_HEAD(, share_group) groups;
};

struct shares *shares_new(struct event_base *base, uint64_t max_bytes)
{
    struct shares *shares = calloc(1, sizeof(*shares));

    if (!shares)
        return NULL;
    shares->base = base;
    shares->max_bytes = max_bytes;
    LIST_INIT(&shares->groups);
    return shares;
}

void shares_free(struct shares *shares)
{
    free(shares);
}

static int group_get(struct shares *shares, const char *name, enum ms_timing timing,
                     struct share_group **ret_group)
{
    struct share_group *group;
    int r;

    LIST_FOREACH(group, &shares->groups, link)
    {
        if (strcmp(group->name, name) == 0) {
            *ret_group = group;
            return 0;
        }
    }
    group = calloc(1, sizeof(*group));
    if (!group)
        return -ENOMEM;
    snprintf(group->name, sizeof(group->name), "%s", name);
    r = ms_pool_new(&group->pool, name, shares->max_bytes, timing);
    if (r < 0) {
        free(group);
        return r;
    }
    LIST_INSERT_HEAD(&shares->groups, group, link);
    *ret_group = group;
    return 0;
}

static void group_put(struct share_group *group)
{
    if (group->n_members > 0)
        return;
    LIST_REMOVE(group, link);
    ms_pool_free(group->pool);
    free(group);
}

static void on_readable(evutil_socket_t fd, short what, void *opaque)
{
    struct share_member *member = opaque;
    int r = ms_client_serve(member->client);

    (void)fd;
    (void)what;
    if (r == 0)
        return;
    event_del(member->event);
    member->lost(member->opaque, r, ms_client_error(member->client));
}

/* Makes the member's client from the daemon's end of the socket, which is consumed. */
static int attach(struct shares *shares, struct share_member *member, int sock,
                  const struct share_request *request)
{
    int r = ms_pool_attach(member->group->pool, sock, request->template_key,
                           request->template_blocks, &member->client);

    if (r < 0) {
        close(sock);
        return r;
    }
    ms_client_expect_ram(member->client, request->ram_bytes);
    member->event = event_new(shares->base, ms_client_fd(member->client), EV_READ | EV_PERSIST,
                              on_readable, member);
    if (!member->event || event_add(member->event, NULL) < 0)
        return -ENOMEM;
    return 0;
}

int share_join(struct shares *shares, const struct share_request *request,
               struct share_member **ret_member, int *ret_sock, int *ret_pool_fd)
{
    struct share_member *member = calloc(1, sizeof(*member));
    int socks[2], pool_fd = -1, r;

    if (!member)
        return -ENOMEM;
    member->lost = request->lost;
    member->opaque = request->opaque;
    r = group_get(shares, request->group, request->timing, &member->group);
    if (r < 0) {
        free(member);
        return r;
    }
    member->group->n_members++;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0) {
        r = -errno;
        goto fail;
    }
    r = attach(shares, member, socks[0], request);
    if (r == 0)
        r = pool_fd = ms_pool_guest_fd(member->group->pool);
    if (r < 0) {
        close(socks[1]);
        goto fail;
    }
    *ret_member = member;
    *ret_sock = socks[1];
    *ret_pool_fd = pool_fd;
    return 0;
fail:
    share_leave(member);
    return r;
}

void share_leave(struct share_member *member)
{
    if (!member)
        return;
    if (member->event)
        event_free(member->event);
    if (member->client)
        ms_client_detach(member->client);
    member->group->n_members--;
    group_put(member->group);
    free(member);
}

uint64_t share_saved(const struct share_member *member)
{
    return member ? ms_client_saved(member->client) : 0;
}
