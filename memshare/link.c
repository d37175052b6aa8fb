/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest end of the protocol: see link.h and ms-proto.h. Scanner thread only, no lock; must not
 * be called while the guest is frozen, for it may wait.
 */
#include "memshare/link.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

void ms_link_init(struct ms_link *link, int wake, bool (*canceled)(void *opaque), void *opaque)
{
    memset(link, 0, sizeof(*link));
    link->sock = -1;
    link->pool_fd = -1;
    link->wake = wake;
    link->canceled = canceled;
    link->opaque = opaque;
    link->drop.head.type = MS_MSG_DROP;
    link->tref.head.type = MS_MSG_TEMPLATE_REF;
    link->tdrop.head.type = MS_MSG_TEMPLATE_DROP;
    link->withdraw.head.type = MS_MSG_WITHDRAW;
}

void ms_link_close(struct ms_link *link)
{
    if (link->sock >= 0)
        close(link->sock);
    if (link->pool_fd >= 0)
        close(link->pool_fd);
    link->sock = -1;
    link->pool_fd = -1;
    link->dead = false;
    link->owed = false;
    link->n_look = 0;
    link->n_answer = 0;
    link->drop.head.count = 0;
    link->tref.head.count = 0;
    link->tdrop.head.count = 0;
    link->withdraw.head.count = 0;
}

bool ms_link_is_held(const struct ms_link *link)
{
    struct pollfd fd = {.fd = link->sock};

    return link->sock >= 0 && (poll(&fd, 1, 0) <= 0 || !(fd.revents & POLLHUP));
}

static int lost(struct ms_link *link)
{
    link->dead = true;
    return -ECONNRESET;
}

/* Waits for the socket; the wake-up fd only makes us look whether to give up. A daemon that will
 * say nothing more does not read either. */
static int wait_for(struct ms_link *link, short events)
{
    struct pollfd fds[2] = {{.fd = link->sock, .events = (short)(events | POLLRDHUP)},
                            {.fd = link->wake, .events = POLLIN}};

    for (;;) {
        uint64_t count;

        if (link->canceled(link->opaque))
            return -ECANCELED;
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (fds[1].revents && read(link->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
            return -errno;
        if (fds[0].revents)
            return fds[0].revents & events ? 0 : lost(link);
    }
}

static int send_message(struct ms_link *link, const struct iovec *iov, size_t n_iov)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n_iov};

    while (sendmsg(link->sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        int r;

        if (errno == EINTR)
            continue;
        if (errno != EAGAIN && errno != ENOBUFS)
            return lost(link);
        r = wait_for(link, POLLOUT);
        if (r < 0)
            return r;
    }
    return 0;
}

static int send_plain(struct ms_link *link, const void *message, size_t length)
{
    struct iovec iov = {.iov_base = (void *)message, .iov_len = length};

    if (!ms_link_is_up(link))
        return -ECONNRESET;
    return send_message(link, &iov, 1);
}

int ms_link_open(struct ms_link *link, int sock, int pool_fd, uint64_t ram_pages)
{
    struct ms_msg_hello hello = {
        .head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION, .ram_pages = ram_pages};

    link->sock = sock;
    link->pool_fd = pool_fd;
    link->dead = false;
    link->hide = false;
    return send_plain(link, &hello, sizeof(hello));
}

/* The length a message from the daemon has; 0: no such message. */
static size_t incoming_length(const struct ms_msg_head *head)
{
    if (head->type == MS_MSG_ANSWER && head->count <= MS_MAX_OFFER)
        return offsetof(struct ms_msg_numbers, number) + head->count * sizeof(uint32_t);
    if (head->type == MS_MSG_HIDE && head->count == 0)
        return sizeof(*head);
    if (head->type == MS_MSG_LOOK && head->count <= MS_MAX_LOOK)
        return offsetof(struct ms_msg_look, look) + head->count * sizeof(struct ms_look);
    return 0;
}

/* Can these be slots of a pool? What is in them is compared, but the page tables of ours keep their
 * numbers in few bits. */
static bool are_slots(const struct ms_look *look, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (look[i].slot > MS_MAX_INDEX)
            return false;
    return true;
}

/* Reads one message if there is one: 1, 0, or an error. The daemon is trusted, not infallible. */
static int read_message(struct ms_link *link)
{
    ssize_t n = recv(link->sock, &link->in, sizeof(link->in), MSG_DONTWAIT);
    uint32_t count = link->in.head.count;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n < (ssize_t)sizeof(link->in.head) || (size_t)n != incoming_length(&link->in.head))
        return lost(link);
    if (link->in.head.type == MS_MSG_ANSWER) {
        if (!link->owed || !count) /* it would be taken for the next one */
            return lost(link);
        memcpy(link->answer, link->in.numbers.number, count * sizeof(uint32_t));
        link->n_answer = count;
        return 1;
    }
    if (link->in.head.type == MS_MSG_HIDE) {
        link->hide = true;
        return 1;
    }
    /* it may send the next one only after LOOKED */
    if (link->n_look || !are_slots(link->in.look.look, count))
        return lost(link);
    memcpy(link->look, link->in.look.look, count * sizeof(link->look[0]));
    link->n_look = count;
    return 1;
}

/* May a message be sent that is answered? Not after waiting for an answer was canceled: it would be
 * taken for that of the next one. The connection ends then. */
static int may_ask(const struct ms_link *link)
{
    if (!ms_link_is_up(link))
        return -ECONNRESET;
    return link->owed ? -ECANCELED : 0;
}

static int wait_answer(struct ms_link *link, uint32_t n, uint32_t *ret_slot)
{
    link->owed = true;
    while (!link->n_answer) {
        int r = read_message(link);

        if (r == 0)
            r = wait_for(link, POLLIN);
        if (r < 0)
            return r;
    }
    link->owed = false;
    if (link->n_answer != n)
        return lost(link);
    memcpy(ret_slot, link->answer, n * sizeof(*ret_slot));
    link->n_answer = 0;
    return 0;
}

static int flush_withdraw(struct ms_link *link)
{
    struct ms_msg_offer *msg = &link->withdraw;
    int r = 0;

    if (msg->head.count && ms_link_is_up(link))
        r = send_plain(link, msg,
                       offsetof(struct ms_msg_offer, offer) +
                           msg->head.count * sizeof(struct ms_offer));
    if (r != -ECANCELED)
        msg->head.count = 0;
    return r;
}

int ms_link_offer(struct ms_link *link, const struct ms_offer *offer, uint32_t n,
                  uint32_t *ret_slot)
{
    struct ms_msg_head head = {.type = MS_MSG_OFFER, .count = n};
    struct iovec iov[2] = {{.iov_base = &head, .iov_len = sizeof(head)},
                           {.iov_base = (void *)offer, .iov_len = n * sizeof(*offer)}};
    int r = may_ask(link);

    if (r == 0)
        r = flush_withdraw(link); /* or it would take back what is offered now */
    if (r == 0)
        r = send_message(link, iov, 2);
    return r < 0 ? r : wait_answer(link, n, ret_slot);
}

int ms_link_publish(struct ms_link *link, const uint32_t *item, const void *page, uint32_t n,
                    uint32_t *ret_slot)
{
    struct {
        struct ms_msg_head head;
        uint32_t item[MS_MAX_PUBLISH];
    } front = {.head = {.type = MS_MSG_PUBLISH, .count = n}};
    struct iovec iov[2] = {{.iov_base = &front, .iov_len = sizeof(front)},
                           {.iov_base = (void *)page, .iov_len = (size_t)n * MS_PAGE_SIZE}};
    int r = may_ask(link);

    _Static_assert(sizeof(front) == offsetof(struct ms_msg_publish, page), "one layout");
    memcpy(front.item, item, n * sizeof(*item));
    if (r == 0)
        r = send_message(link, iov, 2);
    return r < 0 ? r : wait_answer(link, n, ret_slot);
}

/* New slots in a row for all of them, or for none. */
static bool is_row(const uint32_t *slot, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (slot[i] != (slot[0] > MS_MAX_INDEX ? slot[0] : slot[0] + i))
            return false;
    return slot[0] > MS_MAX_INDEX || slot[n - 1] <= MS_MAX_INDEX;
}

int ms_link_repack(struct ms_link *link, const uint32_t *slot, uint32_t n, uint32_t *ret_slot)
{
    struct {
        struct ms_msg_head head;
        uint32_t slot[MS_MAX_REPACK];
    } msg = {.head = {.type = MS_MSG_REPACK, .count = n}};
    int r = may_ask(link);

    memcpy(msg.slot, slot, n * sizeof(*slot));
    if (r == 0)
        r = send_plain(link, &msg, sizeof(msg.head) + n * sizeof(*slot));
    if (r == 0)
        r = wait_answer(link, n, ret_slot);
    return r == 0 && !is_row(ret_slot, n) ? lost(link) : r;
}

static int flush_numbers(struct ms_link *link, struct ms_msg_numbers *numbers)
{
    uint32_t count = numbers->head.count;
    int r = 0;

    if (count && ms_link_is_up(link))
        r = send_plain(link, numbers,
                       offsetof(struct ms_msg_numbers, number) + count * sizeof(uint32_t));
    if (r != -ECANCELED)
        numbers->head.count = 0;
    return r;
}

int ms_link_flush(struct ms_link *link)
{
    int r = flush_numbers(link, &link->tref);

    if (r == 0)
        r = flush_numbers(link, &link->tdrop);
    if (r == 0)
        r = flush_numbers(link, &link->drop);
    if (r == 0)
        r = flush_withdraw(link);
    return r;
}

static void gather(struct ms_link *link, struct ms_msg_numbers *numbers, uint32_t number)
{
    if (!ms_link_is_up(link))
        return;
    /* Flushed all together: a block's drop must not overtake the message that took it. */
    if (numbers->head.count == MS_MAX_DROP)
        (void)ms_link_flush(link);
    if (numbers->head.count < MS_MAX_DROP)
        numbers->number[numbers->head.count++] = number;
}

void ms_link_drop(struct ms_link *link, uint32_t slot)
{
    gather(link, &link->drop, slot);
}

void ms_link_withdraw(struct ms_link *link, uint64_t hash, uint64_t page)
{
    struct ms_msg_offer *msg = &link->withdraw;

    if (!ms_link_is_up(link))
        return;
    if (msg->head.count == MS_MAX_OFFER)
        (void)flush_withdraw(link);
    if (msg->head.count < MS_MAX_OFFER)
        msg->offer[msg->head.count++] = (struct ms_offer){.hash = hash, .page = (uint32_t)page};
}

void ms_link_template_ref(struct ms_link *link, uint32_t block)
{
    gather(link, &link->tref, block);
}

void ms_link_template_drop(struct ms_link *link, uint32_t block)
{
    gather(link, &link->tdrop, block);
}

uint32_t ms_link_take_look(struct ms_link *link, struct ms_look *ret_look)
{
    const struct ms_msg_head looked = {.type = MS_MSG_LOOKED};
    uint32_t n = link->n_look;

    memcpy(ret_look, link->look, n * sizeof(*ret_look));
    link->n_look = 0;
    if (n)
        (void)send_plain(link, &looked, sizeof(looked));
    return n;
}

int ms_link_poll(struct ms_link *link)
{
    int r = 1;

    while (r > 0 && ms_link_is_up(link))
        r = read_message(link);
    return r < 0 ? r : 0;
}
