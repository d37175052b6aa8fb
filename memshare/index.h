/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pool's index: page hash -> slot, or -> who offered such a page first.
 *
 * Open addressing with linear probing and backward-shift deletion, 16 bytes an entry. Entries
 * without a slot are only a memory of an offer. Honest clients renew theirs, so when the table is
 * full those of earlier epochs go first; only then does it grow, up to what the guests' pages can
 * need; and at that size all of them go.
 */
#ifndef MS_INDEX_H
#define MS_INDEX_H

#include <stdint.h>

#define MS_INDEX_MAX ((uint64_t)1 << 26)

enum ms_entry_kind { MS_ENTRY_EMPTY, MS_ENTRY_UNIQUE, MS_ENTRY_SLOT };

struct ms_entry {
    uint64_t hash;
    uint32_t value;  /* SLOT: the slot. UNIQUE: the page of the client that offered it */
    uint16_t client; /* UNIQUE: who */
    uint8_t epoch;   /* UNIQUE: when it was offered last */
    uint8_t kind;
};

struct ms_index {
    struct ms_entry *entry;
    uint64_t size; /* a power of two */
    uint64_t used;
    uint64_t max_size; /* it does not grow beyond this; the owner sets it */
    uint8_t epoch;     /* the owner moves it on with time */
};

int ms_index_init(struct ms_index *index);
void ms_index_free(struct ms_index *index);
uint64_t ms_index_bytes(const struct ms_index *index);

/* The entry of `hash` or NULL; valid until the next insert or removal. */
struct ms_entry *ms_index_find(const struct ms_index *index, uint64_t hash);
/* Remembers a first offer. -ENOMEM when there is no room: the offer is not remembered. */
int ms_index_add_unique(struct ms_index *index, uint64_t hash, uint16_t client, uint32_t page);
/* hash -> slot, in place of what was there. */
int ms_index_set_slot(struct ms_index *index, uint64_t hash, uint32_t slot);
/* Forgets the slot of `hash` if it is `slot`. */
void ms_index_remove_slot(struct ms_index *index, uint64_t hash, uint32_t slot);
/* Forgets what a client offered. */
void ms_index_forget_client(struct ms_index *index, uint16_t client);

#endif
