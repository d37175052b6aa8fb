/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The store of a pool: a memfd of page slots.
 *
 * Written with pwrite and, but for a pool that hides timing, never mapped by the daemon, so that
 * the kernel's map counts are those of the guests alone. A slot is in use while its count of
 * references is not zero; what becomes free is punched out at once. Content of a slot in use never
 * changes.
 *
 * A row of slots may be reserved: they are not given to other content although they are not in use,
 * and hold no memory until they are written.
 */
#ifndef MS_STORE_H
#define MS_STORE_H

#include <stdbool.h>
#include <stdint.h>

#define MS_RESERVED (1u << 31)
#define MS_MAX_REFS (MS_RESERVED - 1)

struct ms_store {
    int fd;
    uint32_t max_slots;
    uint32_t file_slots; /* size of the file */
    uint32_t n_slots;    /* no slot at or beyond this is in use */
    uint32_t used;
    uint32_t reserved; /* slots of rows, in use or not */
    uint32_t cursor;   /* where the next slot is looked for */
    uint32_t capacity;
    uint32_t *refs; /* MS_RESERVED, and the count; read it with ms_store_refs */
    uint64_t *hash;
    const uint8_t *view;           /* of all slots, or NULL */
    uint32_t punch_first, punch_n; /* freed, not yet punched out */
};

/* `held`: the daemon maps every slot in use as well, so that no guest is ever the last to unmap
 * one: the kernel takes a little longer for that, which would tell. */
int ms_store_init(struct ms_store *store, const char *name, uint64_t max_bytes, bool held);
void ms_store_free(struct ms_store *store);
uint64_t ms_store_table_bytes(const struct ms_store *store);

/* Moves to a place where the next `n` slots are consecutive, if one is found cheaply. */
void ms_store_seek_run(struct ms_store *store, uint32_t n);
/* Stores a page in a new slot with one reference. 0, -ENOSPC, -ENOMEM or the error of writing. */
int ms_store_put(struct ms_store *store, const void *page, uint64_t hash, uint32_t *ret_slot);

/* Reserves `n` free slots in a row. 0, -ENOSPC or -ENOMEM. Rows get half of the store at most: a
 * guest that has many made and maps one slot of each must not keep others out. */
int ms_store_reserve(struct ms_store *store, uint32_t n, uint32_t *ret_slot);
void ms_store_unreserve(struct ms_store *store, uint32_t slot, uint32_t n);
/* Writes a copy of slot `from` into `slot`, a reserved one that is not in use; it then has one
 * reference. 0 or -errno. */
int ms_store_copy(struct ms_store *store, uint32_t slot, uint32_t from);

static inline uint32_t ms_store_refs(const struct ms_store *store, uint32_t slot)
{
    return store->refs[slot] & MS_MAX_REFS;
}

/* Takes one reference away. Returns how many are left; at 0 the slot is free and its hash gone. */
uint32_t ms_store_unref(struct ms_store *store, uint32_t slot);
/* Gives the memory of the freed slots back; adjacent ones in one call. */
void ms_store_punch(struct ms_store *store);

#endif
