/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon side inside: what pool.c (life of pools and clients) and serve.c (messages) share.
 * One thread.
 */
#ifndef MS_POOL_H
#define MS_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "memshare/index.h"
#include "memshare/memshare.h"
#include "memshare/ms-proto.h"
#include "memshare/refs.h"
#include "memshare/store.h"

#define MS_MAX_CLIENTS 4096u /* of one pool; the index names a client in 16 bits */

/* How often all clients of the pool map each block of a template. */
struct ms_template_refs {
    struct ms_template_refs *next;
    char *key;
    uint32_t clients;
    struct ms_refs refs;
};

struct ms_pool {
    enum ms_timing timing;
    struct ms_store store;
    struct ms_index index;
    struct ms_template_refs *templates;
    struct ms_client **client; /* by id; NULL: free */
    uint32_t n_ids;
    struct ms_client *orphans; /* detached, but the guest process may still map its slots */
    uint32_t n_clients;
    uint64_t mapped_pages;
    uint64_t ram_pages; /* of all clients, as they say */
    bool look_pending;  /* some client has pages to look at */
    uint8_t serial;     /* of the OFFER being served */
    union {
        struct ms_msg_head head;
        struct ms_msg_hello hello;
        struct ms_msg_offer offer;
        struct ms_msg_publish publish;
        struct ms_msg_numbers numbers;
        uint8_t byte[sizeof(struct ms_msg_publish) + 1]; /* one more: an oversize message shows */
    } in;
    union {
        struct ms_msg_head head;
        struct ms_msg_numbers numbers;
        struct ms_msg_look look;
    } out;
};

struct ms_client {
    struct ms_pool *pool;
    struct ms_client *next_orphan;
    int sock;
    uint16_t id;
    bool hello;              /* said HELLO */
    uint64_t ram_pages;      /* as it says; bounds the references it may hold */
    uint64_t expected_pages; /* as the daemon knows; 0: it does not */
    uint64_t n_hints;        /* its offers that the index remembers */
    struct ms_refs slots;
    struct ms_refs blocks;
    struct ms_template_refs *tmpl; /* NULL: none */
    uint64_t template_blocks;
    uint32_t n_offered; /* length of its last OFFER */
    uint64_t wanted_hash[MS_MAX_OFFER];
    uint32_t wanted_page[MS_MAX_OFFER];
    bool wanted[MS_MAX_OFFER]; /* answered with PUBLISH and not sent yet */
    bool look_sent;            /* a LOOK it has not acknowledged */
    uint32_t n_look, look_size;
    struct ms_look *look; /* its pages that another guest turned out to have too; in a LOOK soon */
    char error[160];
};

/* Frees what detached clients held whose guest process has closed its socket since. */
void ms_pool_reap(struct ms_pool *pool);

/* A client with so many pages comes or (negative) goes: the index may grow accordingly. */
void ms_pool_count_ram(struct ms_pool *pool, int64_t ram_pages);

/* Counts a reference of this client that the store has already. False: no room for the count. */
bool ms_client_count_slot(struct ms_client *client, uint32_t slot);
/* One more reference of this client. False: no room for the count, so it must not map the slot. */
bool ms_client_ref_slot(struct ms_client *client, uint32_t slot);
/* Takes one reference of the client away from a slot it holds; frees the slot with its last one. */
void ms_client_unref_slot(struct ms_client *client, uint32_t slot);

/* fan.c: the slot for `page` among those of the entry's content, with a reference of the client;
 * `run` pages from it on hold the same content. Or MS_SLOT_FULL. */
uint32_t ms_fan_grant(struct ms_client *client, struct ms_entry *entry, uint32_t page,
                      uint32_t run);
/* A slot lost its last reference: forgets the content if it was the last of its slots. */
void ms_fan_slot_freed(struct ms_pool *pool, uint32_t slot);

#endif
