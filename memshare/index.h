/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pool's index: page hash -> slot, or -> who offered such a page first.
 *
 * Open addressing with linear probing and backward-shift deletion, 16 bytes an entry. An entry
 * without a slot is only a memory of an offer: its client takes it back when the page changes, and
 * serve.c bounds how many a client may have, so the table holds what is true and no more.
 *
 * Guests choose their hashes: a guest process says any, and a guest can make pages that have the
 * ones it likes. So a secret key decides where a hash stands, or it could heap them up in one place
 * and every look there would take a walk over all of them.
 */
#ifndef MS_INDEX_H
#define MS_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#define MS_INDEX_MAX ((uint64_t)1 << 26)

enum ms_entry_kind { MS_ENTRY_EMPTY, MS_ENTRY_UNIQUE, MS_ENTRY_SLOT };

struct ms_entry {
    uint64_t hash;
    uint32_t value;  /* SLOT: the slot. UNIQUE: the page of the client that offered it */
    uint16_t client; /* UNIQUE: who */
    union {
        uint8_t mark; /* UNIQUE: the OFFER that was last asked to publish it, modulo 256 */
        uint8_t fan;  /* SLOT: the content has 1 << fan slots in a row, from `value` on */
    };
    uint8_t kind;
};

struct ms_index {
    struct ms_entry *entry;
    uint64_t size; /* a power of two */
    uint64_t used;
    uint64_t max_size; /* it does not grow beyond this; the owner sets it */
    uint64_t key[2];
};

int ms_index_init(struct ms_index *index);
void ms_index_free(struct ms_index *index);
uint64_t ms_index_bytes(const struct ms_index *index);

/* `hash` will be looked for soon: the processor may fetch where it stands. */
void ms_index_expect(const struct ms_index *index, uint64_t hash);
/* The entry of `hash` or NULL; valid until the next insert or removal. */
struct ms_entry *ms_index_find(const struct ms_index *index, uint64_t hash);
/* Remembers a first offer. -ENOMEM when there is no room: the offer is not remembered. */
int ms_index_add_unique(struct ms_index *index, uint64_t hash, uint16_t client, uint32_t page);
/* hash -> slot, in place of what was there. */
int ms_index_set_slot(struct ms_index *index, uint64_t hash, uint32_t slot);
/* Forgets the slots of `hash` if they begin at `slot`. */
void ms_index_remove_slot(struct ms_index *index, uint64_t hash, uint32_t slot);
/* Forgets the offer of `hash` if it is the client's and of this page; tells whether it was. */
bool ms_index_withdraw(struct ms_index *index, uint64_t hash, uint16_t client, uint32_t page);
/* Forgets what a client offered. */
void ms_index_forget_client(struct ms_index *index, uint16_t client);

#endif
