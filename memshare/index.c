/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hash index: see index.h. One thread. Never trusts that two equal hashes are equal pages.
 */
#include "memshare/index.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define INDEX_MIN 1024u

int ms_index_init(struct ms_index *index)
{
    if (getrandom(index->key, sizeof(index->key), 0) != sizeof(index->key))
        return -EIO;
    index->entry = calloc(INDEX_MIN, sizeof(*index->entry));
    if (!index->entry)
        return -ENOMEM;
    index->size = INDEX_MIN;
    index->used = 0;
    index->max_size = MS_INDEX_MAX;
    return 0;
}

void ms_index_free(struct ms_index *index)
{
    free(index->entry);
    index->entry = NULL;
}

uint64_t ms_index_bytes(const struct ms_index *index)
{
    return index->size * sizeof(*index->entry);
}

/* Where `hash` stands if nothing is in its way. */
static uint64_t home_of(const struct ms_index *index, uint64_t hash)
{
    unsigned __int128 product = (unsigned __int128)(hash ^ index->key[0]) * (index->key[1] | 1);
    uint64_t mixed = (uint64_t)product ^ (uint64_t)(product >> 64);

    mixed = (mixed ^ mixed >> 32) * 0x9e3779b97f4a7c15;
    return (mixed ^ mixed >> 32) & (index->size - 1);
}

/* Where `hash` is, or the empty entry where it would be. */
static uint64_t place_of(const struct ms_index *index, uint64_t hash)
{
    uint64_t i = home_of(index, hash);

    while (index->entry[i].kind != MS_ENTRY_EMPTY && index->entry[i].hash != hash)
        i = (i + 1) & (index->size - 1);
    return i;
}

void ms_index_expect(const struct ms_index *index, uint64_t hash)
{
    __builtin_prefetch(&index->entry[home_of(index, hash)], 1);
}

struct ms_entry *ms_index_find(const struct ms_index *index, uint64_t hash)
{
    struct ms_entry *entry = &index->entry[place_of(index, hash)];

    return entry->kind == MS_ENTRY_EMPTY ? NULL : entry;
}

/* Backward shift: every entry after the hole that may stand nearer to its home does. */
static void remove_at(struct ms_index *index, uint64_t hole)
{
    uint64_t mask = index->size - 1;

    for (uint64_t i = (hole + 1) & mask; index->entry[i].kind != MS_ENTRY_EMPTY;
         i = (i + 1) & mask) {
        uint64_t home = home_of(index, index->entry[i].hash);

        if (((i - home) & mask) >= ((i - hole) & mask)) {
            index->entry[hole] = index->entry[i];
            hole = i;
        }
    }
    index->entry[hole].kind = MS_ENTRY_EMPTY;
    index->used--;
}

static int grow(struct ms_index *index)
{
    struct ms_index grown = *index;

    grown.size *= 2;
    grown.used = 0;
    if (grown.size > MS_INDEX_MAX || grown.size > index->max_size)
        return -ENOMEM;
    grown.entry = calloc(grown.size, sizeof(*grown.entry));
    if (!grown.entry)
        return -ENOMEM;
    for (uint64_t i = 0; i < index->size; i++) {
        if (index->entry[i].kind == MS_ENTRY_EMPTY)
            continue;
        grown.entry[place_of(&grown, index->entry[i].hash)] = index->entry[i];
        grown.used++;
    }
    free(index->entry);
    *index = grown;
    return 0;
}

/* Room for one more at a load of at most 3/4. */
static int make_room(struct ms_index *index)
{
    uint64_t limit = index->size / 4 * 3;

    return index->used < limit ? 0 : grow(index);
}

int ms_index_add_unique(struct ms_index *index, uint64_t hash, uint16_t client, uint32_t page)
{
    int r = make_room(index);
    struct ms_entry *entry;

    if (r < 0)
        return r;
    entry = &index->entry[place_of(index, hash)];
    if (entry->kind == MS_ENTRY_EMPTY)
        index->used++;
    *entry =
        (struct ms_entry){.hash = hash, .value = page, .client = client, .kind = MS_ENTRY_UNIQUE};
    return 0;
}

int ms_index_set_slot(struct ms_index *index, uint64_t hash, uint32_t slot)
{
    struct ms_entry *entry = ms_index_find(index, hash);

    if (!entry) {
        int r = ms_index_add_unique(index, hash, 0, 0);

        if (r < 0)
            return r;
        entry = ms_index_find(index, hash);
    }
    entry->kind = MS_ENTRY_SLOT;
    entry->value = slot;
    entry->fan = 0;
    return 0;
}

void ms_index_remove_slot(struct ms_index *index, uint64_t hash, uint32_t slot)
{
    uint64_t i = place_of(index, hash);

    if (index->entry[i].kind == MS_ENTRY_SLOT && index->entry[i].value == slot)
        remove_at(index, i);
}

bool ms_index_withdraw(struct ms_index *index, uint64_t hash, uint16_t client, uint32_t page)
{
    uint64_t i = place_of(index, hash);
    const struct ms_entry *entry = &index->entry[i];

    if (entry->kind != MS_ENTRY_UNIQUE || entry->client != client || entry->value != page)
        return false;
    remove_at(index, i);
    return true;
}

void ms_index_forget_client(struct ms_index *index, uint16_t client)
{
    for (uint64_t i = 0; i < index->size; i++)
        while (index->entry[i].kind == MS_ENTRY_UNIQUE && index->entry[i].client == client)
            remove_at(index, i);
}
