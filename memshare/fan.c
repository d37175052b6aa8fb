/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One content, many slots: daemon side, one thread.
 *
 * Guests hold long stretches of pages that all have the same content (fresh page descriptors,
 * poisoned memory). Mapped onto one slot each page would need a mapping of its own; mapped onto a
 * row of slots that hold the content once each, a whole stretch needs one. A row, or fan, comes
 * into being when a stretch is offered and enough pages are mapped already that the copies cost
 * little. Page N of a guest gets slot N modulo the length of the row, so stretches join however
 * they were found. The slots of a fan are reserved, and written when they are first granted: a slot
 * that nobody maps holds no memory.
 *
 * Slots of before, that a longer row replaced, live on as long as they are mapped, but nobody finds
 * them any more: should the whole row go first, the next guest with that content begins a new slot.
 */
#include "memshare/pool.h"

#include <errno.h>

#define FAN_STEP 3u /* a fan is 8 slots long, or 64 */
#define FAN_MAX  6u
#define FAN_COST 8u /* pages that map the content for each slot it may have */

static uint64_t mapped(const struct ms_store *store, const struct ms_entry *entry)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < 1u << entry->fan; i++)
        sum += ms_store_refs(store, entry->value + i);
    return sum;
}

/* A slot of the entry that is in use. There is one as long as the entry exists. */
static uint32_t live_slot(const struct ms_store *store, const struct ms_entry *entry)
{
    uint32_t slot = entry->value;

    while (ms_store_refs(store, slot) == 0)
        slot++;
    return slot;
}

/* As long as the stretch and the pages that share the cost are worth it, but never shorter. */
static unsigned wanted_fan(const struct ms_pool *pool, const struct ms_entry *entry, uint32_t run)
{
    uint64_t pages = 0;

    for (unsigned fan = FAN_MAX; fan > entry->fan; fan -= FAN_STEP) {
        if (run < 1u << fan)
            continue;
        if (!pages)
            pages = mapped(&pool->store, entry) + run;
        if (pages >= (uint64_t)FAN_COST << fan)
            return fan;
    }
    return entry->fan;
}

/* The content's slots are a new, longer row from now on, not written yet. */
static void widen(struct ms_pool *pool, struct ms_entry *entry, unsigned fan)
{
    uint32_t slot;

    if (fan == entry->fan || ms_store_reserve(&pool->store, 1u << fan, &slot) < 0)
        return;
    entry->value = slot;
    entry->fan = (uint8_t)fan;
}

static void unreserve(struct ms_pool *pool, const struct ms_entry *entry)
{
    if (entry->fan)
        ms_store_unreserve(&pool->store, entry->value, 1u << entry->fan);
}

/* Writes the slot, for a first reference of this client. */
static int begin_slot(struct ms_client *client, uint32_t slot, uint32_t from)
{
    int r = ms_store_copy(&client->pool->store, slot, from);

    if (r == 0 && !ms_client_count_slot(client, slot)) {
        ms_store_unref(&client->pool->store, slot);
        r = -ENOMEM;
    }
    return r;
}

/* Is one more copy worth it still? A row that was made for many pages stays when they are gone. */
static bool worth_a_copy(const struct ms_store *store, const struct ms_entry *entry, uint32_t run)
{
    uint64_t copies = 1;

    for (uint32_t i = 0; i < 1u << entry->fan; i++)
        copies += ms_store_refs(store, entry->value + i) > 0;
    return mapped(store, entry) + run >= copies * FAN_COST;
}

uint32_t ms_fan_grant(struct ms_client *client, struct ms_entry *entry, uint32_t page, uint32_t run)
{
    struct ms_pool *pool = client->pool;
    struct ms_entry before = *entry;
    uint32_t from = live_slot(&pool->store, entry);
    uint32_t slot;

    if (run > 1)
        widen(pool, entry, wanted_fan(pool, entry, run));
    slot = entry->value + (page & ((1u << entry->fan) - 1));
    if (entry->fan == before.fan && !ms_store_refs(&pool->store, slot) &&
        !worth_a_copy(&pool->store, entry, run))
        slot = from;
    if (ms_store_refs(&pool->store, slot))
        return ms_client_ref_slot(client, slot) ? slot : MS_SLOT_FULL;
    if (begin_slot(client, slot, from) < 0) {
        if (entry->fan != before.fan)
            unreserve(pool, entry);
        *entry = before;
        return MS_SLOT_FULL;
    }
    if (entry->fan != before.fan) /* those slots live as long as they are mapped */
        unreserve(pool, &before);
    return slot;
}

void ms_fan_slot_freed(struct ms_pool *pool, uint32_t slot)
{
    struct ms_entry *entry = ms_index_find(&pool->index, pool->store.hash[slot]);

    if (!entry || entry->kind != MS_ENTRY_SLOT || slot < entry->value ||
        slot - entry->value >= 1u << entry->fan || mapped(&pool->store, entry))
        return;
    unreserve(pool, entry);
    ms_index_remove_slot(&pool->index, entry->hash, entry->value);
}
