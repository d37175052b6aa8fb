/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest end of the sharing protocol.
 *
 * Used by the scanner thread alone. Waits for answers, but returns -ECANCELED as soon as the
 * scanner is to stop or to change its connection, and asks nothing more from then on. When the
 * daemon is gone the link is dead: every call returns -ECONNRESET and the scanner works without a
 * pool.
 */
#ifndef MS_LINK_H
#define MS_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "memshare/ms-proto.h"

struct ms_link {
    int sock;    /* -1: none */
    int pool_fd; /* -1: none */
    int wake;    /* eventfd that interrupts waiting; not ours */
    bool (*canceled)(void *opaque);
    void *opaque;
    bool dead;
    bool hide; /* the pool hides timing */
    bool owed; /* an answer is to come */
    uint32_t n_answer;
    uint32_t answer[MS_MAX_OFFER];
    struct ms_msg_numbers drop;   /* references to give back, gathered */
    struct ms_msg_numbers tref;   /* template blocks newly mapped */
    struct ms_msg_numbers tdrop;  /* template blocks no longer mapped */
    struct ms_msg_offer withdraw; /* offers that are no longer true */
    uint32_t n_look;              /* pages that the daemon has slots for, with references */
    struct ms_look look[MS_MAX_LOOK];
    union {
        struct ms_msg_head head;
        struct ms_msg_numbers numbers;
        struct ms_msg_look look;
    } in;
};

void ms_link_init(struct ms_link *link, int wake, bool (*canceled)(void *opaque), void *opaque);
/* Takes both fds and greets the daemon. An error leaves the link dead. */
int ms_link_open(struct ms_link *link, int sock, int pool_fd, uint64_t ram_pages);
void ms_link_close(struct ms_link *link);

static inline bool ms_link_is_up(const struct ms_link *link)
{
    return link->sock >= 0 && !link->dead;
}

/* Is there a daemon at the other end, be the link dead or not? It keeps our references then, and
 * only as long as the socket is open. */
bool ms_link_is_held(const struct ms_link *link);

/* The answer for each offer: a slot with a reference, or one of MS_SLOT_... */
int ms_link_offer(struct ms_link *link, const struct ms_offer *offer, uint32_t n,
                  uint32_t *ret_slot);
/* Sends pages asked for; page: n * MS_PAGE_SIZE bytes that nobody changes. */
int ms_link_publish(struct ms_link *link, const uint32_t *item, const void *page, uint32_t n,
                    uint32_t *ret_slot);

/* Slots in a row for what is in these `n` ones, at most MS_MAX_REPACK; ret_slot[0] may be
 * MS_SLOT_FULL: the daemon would rather not. */
int ms_link_repack(struct ms_link *link, const uint32_t *slot, uint32_t n, uint32_t *ret_slot);

/* Gathered and sent when full or by ms_link_flush; without a connection they are forgotten. */
void ms_link_drop(struct ms_link *link, uint32_t slot);
void ms_link_template_ref(struct ms_link *link, uint32_t block);
void ms_link_withdraw(struct ms_link *link, uint64_t hash, uint64_t page);
void ms_link_template_drop(struct ms_link *link, uint32_t block);
int ms_link_flush(struct ms_link *link);

/* Takes what the daemon has for us, at most MS_MAX_LOOK; only then does it send more. */
uint32_t ms_link_take_look(struct ms_link *link, struct ms_look *ret_look);

/* Reads what came unasked, without waiting. 0, or -ECONNRESET. */
int ms_link_poll(struct ms_link *link);

#endif
