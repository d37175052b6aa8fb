/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The private protocol between a guest process and the pool in the daemon.
 *
 * SOCK_SEQPACKET, host byte order, one message a packet, every length fixed by type and count. The
 * client speaks first (HELLO). OFFER, PUBLISH and REPACK are answered by one ANSWER each; a client
 * sends the next only after it has read the answer. The other messages are not answered. The daemon
 * sends LOOK unasked, and not again before LOOKED: so what a client has not read is bounded, and an
 * honest client that stands still can never fill its socket.
 *
 * A slot number in an ANSWER or a LOOK carries one reference, which the client returns with DROP
 * when it no longer maps the slot (or never came to map it). An offer that was answered with
 * MS_SLOT_UNIQUE is remembered until the client takes it back with WITHDRAW, because the page has
 * changed or is gone.
 */
#ifndef MS_PROTO_H
#define MS_PROTO_H

#include <stdint.h>

#include "memshare/memshare.h"

#define MS_PROTO_VERSION 2u

/* The largest message is a full PUBLISH, well below the smallest usual socket buffer (212,992). */
#define MS_MAX_OFFER   1024u
#define MS_MAX_PUBLISH 16u
#define MS_MAX_DROP    2048u
#define MS_MAX_LOOK    1024u
#define MS_MAX_REPACK  64u

/* Slots and template blocks fit in 28 bits: the guest's page table keeps its kind beside them. */
#define MS_INDEX_BITS    28
#define MS_MAX_INDEX     ((1u << MS_INDEX_BITS) - 1)
#define MS_MAX_RAM_PAGES ((uint64_t)1 << 32)

/* References a client may hold beyond its pages: grants in flight and drops not yet sent. */
#define MS_REF_SLACK (2 * (MS_MAX_OFFER + MS_MAX_DROP))

enum ms_msg_type {
    MS_MSG_HELLO = 1,
    MS_MSG_OFFER,
    MS_MSG_PUBLISH,
    MS_MSG_DROP,
    MS_MSG_TEMPLATE_REF,
    MS_MSG_TEMPLATE_DROP,
    MS_MSG_LOOKED,
    MS_MSG_WITHDRAW,
    MS_MSG_REPACK,
    MS_MSG_ANSWER = 64,
    MS_MSG_LOOK,
    MS_MSG_HIDE,
};

/* Answers that are not a slot. */
#define MS_SLOT_UNIQUE  0xffffffffu /* nobody else has it; a LOOK comes when somebody has */
#define MS_SLOT_PUBLISH 0xfffffffeu /* somebody else has it: send me the content */
#define MS_SLOT_AGAIN \
    0xfffffffdu /* as an earlier one of this OFFER: offer it after publishing that */
#define MS_SLOT_FULL 0xfffffffcu /* no room: leave the page alone, perhaps later */

struct ms_msg_head {
    uint32_t type;
    uint32_t count;
};

struct ms_msg_hello { /* count 0 */
    struct ms_msg_head head;
    uint32_t version;
    uint32_t reserved;
    uint64_t ram_pages;
};

struct ms_offer {
    uint64_t hash;
    uint32_t page;
    uint32_t reserved;
};

struct ms_msg_offer {
    struct ms_msg_head head;
    struct ms_offer offer[MS_MAX_OFFER]; /* only count of them are sent */
};

/* WITHDRAW: like an OFFER. */

/* LOOK: somebody else published what the client had offered at this page; here is the slot. */
struct ms_look {
    uint32_t page;
    uint32_t slot;
};

struct ms_msg_look {
    struct ms_msg_head head;
    struct ms_look look[MS_MAX_LOOK];
};

/* item: places in the last OFFER that were answered with MS_SLOT_PUBLISH; each may be sent once. */
struct ms_msg_publish {
    struct ms_msg_head head;
    uint32_t item[MS_MAX_PUBLISH];              /* sent in full */
    uint8_t page[MS_MAX_PUBLISH][MS_PAGE_SIZE]; /* only count of them are sent */
};

/* HIDE: head only, count 0. The first message of a pool that hides timing: all mappings of the pool
 * are to be alike for the first write. */

/*
 * REPACK: slots the client maps in consecutive pages, and would like to have in a row. It is
 * answered like an OFFER: with new slots in a row, or MS_SLOT_FULL for each. The old ones are
 * dropped when they are no longer mapped.
 */

/* DROP, TEMPLATE_REF, TEMPLATE_DROP, REPACK, ANSWER: count numbers. LOOKED: head only, count 0. */
struct ms_msg_numbers {
    struct ms_msg_head head;
    uint32_t number[MS_MAX_DROP];
};

#endif
