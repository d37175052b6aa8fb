/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Daemon side: the messages of one guest process.
 *
 * Everything a message says is checked before it is acted on, item by item; a client that breaks
 * the protocol gets -EPROTO and one line of why, and what is others' stays as it was. What
 * it publishes is hashed again here: a page enters the index under its own hash only.
 */
#include "memshare/pool.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "memshare/ms-hash.h"

#define SERVE_MAX 32 /* messages of one client before others get their turn */
#define PIECE_MAX 2u
#define EXPECT    8u /* offers ahead of the one being answered that memory is fetched for */

__attribute__((format(printf, 2, 3))) static int broken(struct ms_client *client,
                                                        const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(client->error, sizeof(client->error), format, args);
    va_end(args);
    return -EPROTO;
}

/* ---- sending ---- */

/* -ECONNRESET: the client is gone. -EAGAIN or -ENOBUFS: it has not read what it was sent before. */
static int send_out(struct ms_client *client, uint32_t type, uint32_t count, size_t length)
{
    struct ms_pool *pool = client->pool;

    pool->out.head = (struct ms_msg_head){.type = type, .count = count};
    if (send(client->sock, &pool->out, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return 0;
    return errno == EPIPE ? -ECONNRESET : -errno;
}

/* An honest client waits for each answer, so there is always room for it. */
static int send_answer(struct ms_client *client, uint32_t count)
{
    int r = send_out(client, MS_MSG_ANSWER, count,
                     offsetof(struct ms_msg_numbers, number) + count * sizeof(uint32_t));

    if (r == -EAGAIN || r == -ENOBUFS)
        return broken(client, "does not read its answers");
    return r;
}

/* Tells the client of pages that it can have from the pool, unless it still has such a message. An
 * error shows again when the client itself is served. */
static void send_look(struct ms_client *client)
{
    uint32_t n = client->n_look < MS_MAX_LOOK ? client->n_look : MS_MAX_LOOK;
    size_t bytes = n * sizeof(client->look[0]);

    if (client->look_sent || !n)
        return;
    memcpy(client->pool->out.look.look, client->look, bytes);
    if (send_out(client, MS_MSG_LOOK, n, offsetof(struct ms_msg_look, look) + bytes) < 0)
        return;
    client->look_sent = true;
    client->n_look -= n;
    memmove(client->look, client->look + n, client->n_look * sizeof(client->look[0]));
}

static void send_looks(struct ms_pool *pool)
{
    if (!pool->look_pending)
        return;
    pool->look_pending = false;
    for (uint32_t id = 0; id < pool->n_ids; id++)
        if (pool->client[id])
            send_look(pool->client[id]);
}

/* At most one for each page it has offered and not taken back. */
static bool room_for_look(struct ms_client *client)
{
    uint32_t size = client->look_size ? 2 * client->look_size : MS_MAX_LOOK;
    struct ms_look *grown;

    if (client->n_look < client->look_size)
        return true;
    if (client->look_size >= client->ram_pages)
        return false;
    grown = realloc(client->look, size * sizeof(*grown));
    if (!grown)
        return false;
    client->look = grown;
    client->look_size = size;
    return true;
}

/* The first to offer a page that has a slot now gets a reference to it. Without room for that the
 * page stays as it is until it changes. */
static void queue_look(struct ms_pool *pool, uint16_t id, uint32_t page, uint32_t slot)
{
    struct ms_client *client = id < pool->n_ids ? pool->client[id] : NULL;

    if (!client || client->slots.total >= client->ram_pages + MS_REF_SLACK / 2 ||
        !room_for_look(client) || !ms_client_ref_slot(client, slot))
        return;
    client->look[client->n_look++] = (struct ms_look){.page = page, .slot = slot};
    pool->look_pending = true;
}

/* ---- OFFER ---- */

/* Remembers the offer. False: no room, or this client has more than its share. */
static bool add_hint(struct ms_client *client, const struct ms_offer *offer)
{
    struct ms_pool *pool = client->pool;

    if (client->n_hints >= client->ram_pages ||
        ms_index_add_unique(&pool->index, offer->hash, client->id, offer->page) < 0)
        return false;
    client->n_hints++;
    return true;
}

/* The offer became a slot: it is no longer counted as its client's. */
static void forget_hint(struct ms_pool *pool, const struct ms_entry *entry)
{
    if (entry->kind == MS_ENTRY_UNIQUE && pool->client[entry->client])
        pool->client[entry->client]->n_hints--;
}

static uint32_t ask_for(struct ms_client *client, struct ms_entry *entry)
{
    struct ms_pool *pool = client->pool;

    if (pool->store.used >= pool->store.max_slots)
        return MS_SLOT_FULL;
    if (entry->mark == pool->serial)
        return MS_SLOT_AGAIN;
    entry->mark = pool->serial;
    return MS_SLOT_PUBLISH;
}

/* `run`: so many offers from this one on are of the same content in consecutive pages. */
static uint32_t answer_offer(struct ms_client *client, const struct ms_offer *offer, uint32_t run)
{
    struct ms_pool *pool = client->pool;
    bool hide = pool->timing == MS_TIMING_HIDE;
    struct ms_entry *entry = ms_index_find(&pool->index, offer->hash);

    if (entry && entry->kind == MS_ENTRY_SLOT)
        return ms_fan_grant(client, entry, offer->page, run);
    if (!entry) {
        if (!add_hint(client, offer))
            return MS_SLOT_FULL;
        entry = ms_index_find(&pool->index, offer->hash);
        entry->mark = 0;
    } else if (entry->client != client->id || entry->value != offer->page) {
        return ask_for(client, entry);
    }
    return hide ? ask_for(client, entry) : MS_SLOT_UNIQUE;
}

static int check_offers(struct ms_client *client, const struct ms_msg_offer *msg)
{
    for (uint32_t i = 0; i < msg->head.count; i++)
        if (msg->offer[i].page >= client->ram_pages || msg->offer[i].reserved)
            return broken(client, "offers page %u of %llu", msg->offer[i].page,
                          (unsigned long long)client->ram_pages);
    return 0;
}

static uint32_t run_at(const struct ms_msg_offer *msg, uint32_t i)
{
    const struct ms_offer *first = &msg->offer[i];
    uint32_t n = 1;

    while (i + n < msg->head.count && first[n].hash == first->hash &&
           first[n].page == first->page + n)
        n++;
    return n;
}

static int serve_offer(struct ms_client *client, const struct ms_msg_offer *msg)
{
    struct ms_pool *pool = client->pool;
    uint32_t *answer = pool->out.numbers.number;
    uint32_t run = 0;
    int r = check_offers(client, msg);

    if (r < 0)
        return r;
    if (client->slots.total + msg->head.count > client->ram_pages + MS_REF_SLACK)
        return broken(client, "holds more references than it has pages");
    client->n_offered = msg->head.count;
    pool->serial = pool->serial == UINT8_MAX ? 1 : (uint8_t)(pool->serial + 1);
    for (uint32_t i = 0; i < msg->head.count; i++, run--) {
        if (!run)
            run = run_at(msg, i);
        if (i + EXPECT < msg->head.count)
            ms_index_expect(&pool->index, msg->offer[i + EXPECT].hash);
        answer[i] = answer_offer(client, &msg->offer[i], run);
        client->wanted[i] = answer[i] == MS_SLOT_PUBLISH;
        client->wanted_hash[i] = msg->offer[i].hash;
        client->wanted_page[i] = msg->offer[i].page;
    }
    return send_answer(client, msg->head.count);
}

/* What was never offered, or has a slot by now, is nothing to take back. */
static int serve_withdraw(struct ms_client *client, const struct ms_msg_offer *msg)
{
    int r = check_offers(client, msg);

    for (uint32_t i = 0; r == 0 && i < msg->head.count; i++)
        if (ms_index_withdraw(&client->pool->index, msg->offer[i].hash, client->id,
                              msg->offer[i].page))
            client->n_hints--;
    return r;
}

/* ---- PUBLISH ---- */

static int check_publish(struct ms_client *client, const struct ms_msg_publish *msg)
{
    for (uint32_t i = 0; i < msg->head.count; i++) {
        uint32_t item = msg->item[i];

        if (item >= client->n_offered || !client->wanted[item])
            return broken(client, "publishes a page nobody asked for");
        if (ms_hash_page(msg->page[i]) != client->wanted_hash[item])
            return broken(client, "publishes a page that has another hash");
        client->wanted[item] = false;
    }
    return 0;
}

/* Puts a page into a new slot, of which this client has the first reference. */
static uint32_t store_page(struct ms_client *client, const void *page, uint64_t hash)
{
    struct ms_pool *pool = client->pool;
    uint32_t slot;

    if (ms_store_put(&pool->store, page, hash, &slot) < 0)
        return MS_SLOT_FULL;
    if (!ms_client_count_slot(client, slot)) {
        ms_store_unref(&pool->store, slot);
        return MS_SLOT_FULL;
    }
    if (ms_index_set_slot(&pool->index, hash, slot) < 0) {
        ms_client_unref_slot(client, slot);
        return MS_SLOT_FULL;
    }
    return slot;
}

static uint32_t publish_page(struct ms_client *client, const void *page, uint32_t item)
{
    struct ms_pool *pool = client->pool;
    uint64_t hash = client->wanted_hash[item];
    struct ms_entry *entry = ms_index_find(&pool->index, hash);
    struct ms_entry first = entry ? *entry : (struct ms_entry){.kind = MS_ENTRY_EMPTY};
    uint32_t slot;

    if (first.kind == MS_ENTRY_SLOT) /* somebody was faster */
        return ms_fan_grant(client, entry, client->wanted_page[item], 1);
    slot = store_page(client, page, hash);
    if (slot > MS_MAX_INDEX)
        return slot;
    forget_hint(pool, &first);
    if (first.kind == MS_ENTRY_UNIQUE &&
        (first.client != client->id || first.value != client->wanted_page[item]))
        queue_look(pool, first.client, first.value, slot);
    return slot;
}

/* The order in which pages get their slots. A pool that hides timing cuts them into pieces of one
 * or two and mixes these: else a page nobody else has would nearly always stand in a row with its
 * neighbours, and be reached a little faster than one that somebody has. */
static void choose_order(const struct ms_pool *pool, uint32_t n, uint8_t order[MS_MAX_PUBLISH])
{
    uint8_t any[MS_MAX_PUBLISH], first[MS_MAX_PUBLISH + 1], pieces = 0, at = 0;

    for (uint8_t i = 0; i < n; i++)
        order[i] = i;
    if (pool->timing != MS_TIMING_HIDE || getrandom(any, sizeof(any), 0) != sizeof(any))
        return;
    for (uint8_t i = 0; i < n; i = (uint8_t)(i + 1 + any[i] % PIECE_MAX))
        first[pieces++] = i;
    for (uint8_t left = pieces; left > 0; left--) {
        uint8_t pick = (uint8_t)(any[MS_MAX_PUBLISH - left] / 4 % left);
        uint8_t piece = first[pick];

        for (uint8_t i = piece; i < n && (i == piece || i < piece + 1 + any[piece] % PIECE_MAX);
             i++)
            order[at++] = i;
        first[pick] = first[left - 1];
    }
}

static int serve_publish(struct ms_client *client, const struct ms_msg_publish *msg)
{
    struct ms_pool *pool = client->pool;
    uint8_t order[MS_MAX_PUBLISH];
    int r = check_publish(client, msg);

    if (r < 0)
        return r;
    ms_store_seek_run(&pool->store, msg->head.count);
    choose_order(pool, msg->head.count, order);
    for (uint32_t i = 0; i < msg->head.count; i++)
        pool->out.numbers.number[order[i]] =
            publish_page(client, msg->page[order[i]], msg->item[order[i]]);
    r = send_answer(client, msg->head.count);
    send_looks(pool);
    return r;
}

/* ---- REPACK ---- */

/* Copies for slots that others map too cost memory: a few are worth the mappings they save. */
static bool worth_repacking(struct ms_client *client, const struct ms_msg_numbers *msg)
{
    uint32_t shared = 0;

    for (uint32_t i = 0; i < msg->head.count; i++)
        shared += ms_store_refs(&client->pool->store, msg->number[i]) > 1;
    return shared <= msg->head.count / 4;
}

/* Who offers that content from now on gets the new slot, unless others keep the old one alive. */
static void move_entry(struct ms_pool *pool, uint32_t from, uint32_t to)
{
    struct ms_entry *entry = ms_index_find(&pool->index, pool->store.hash[from]);

    if (entry && entry->kind == MS_ENTRY_SLOT && entry->value == from && !entry->fan &&
        ms_store_refs(&pool->store, from) == 1)
        entry->value = to;
}

/* Fills reserved slots from `slot` on; returns how many. */
static uint32_t copy_row(struct ms_client *client, const struct ms_msg_numbers *msg, uint32_t slot)
{
    struct ms_store *store = &client->pool->store;
    uint32_t n;

    for (n = 0; n < msg->head.count; n++) {
        if (ms_store_copy(store, slot + n, msg->number[n]) < 0)
            break;
        if (!ms_client_count_slot(client, slot + n)) {
            ms_store_unref(store, slot + n);
            break;
        }
    }
    return n;
}

static bool repack(struct ms_client *client, const struct ms_msg_numbers *msg, uint32_t *ret_slot)
{
    struct ms_pool *pool = client->pool;
    uint32_t count = msg->head.count, slot, n;

    if (!worth_repacking(client, msg) || ms_store_reserve(&pool->store, count, &slot) < 0)
        return false;
    n = copy_row(client, msg, slot);
    ms_store_unreserve(&pool->store, slot, count);
    for (uint32_t i = 0; n < count && i < n; i++)
        ms_client_unref_slot(client, slot + i);
    for (uint32_t i = 0; n == count && i < n; i++)
        move_entry(pool, msg->number[i], slot + i);
    *ret_slot = slot;
    return n == count;
}

static int serve_repack(struct ms_client *client, const struct ms_msg_numbers *msg)
{
    uint32_t *answer = client->pool->out.numbers.number;
    uint32_t slot;
    bool done;

    if (client->slots.total + msg->head.count > client->ram_pages + MS_REF_SLACK)
        return broken(client, "holds more references than it has pages");
    for (uint32_t i = 0; i < msg->head.count; i++)
        if (ms_refs_get(&client->slots, msg->number[i]) == 0)
            return broken(client, "repacks slot %u, which it does not hold", msg->number[i]);
    done = repack(client, msg, &slot);
    for (uint32_t i = 0; i < msg->head.count; i++)
        answer[i] = done ? slot + i : MS_SLOT_FULL;
    return send_answer(client, msg->head.count);
}

/* ---- references given back, template blocks ---- */

static int serve_drop(struct ms_client *client, const struct ms_msg_numbers *msg)
{
    for (uint32_t i = 0; i < msg->head.count; i++) {
        if (ms_refs_get(&client->slots, msg->number[i]) == 0)
            return broken(client, "drops slot %u, which it does not hold", msg->number[i]);
        ms_client_unref_slot(client, msg->number[i]);
    }
    ms_store_punch(&client->pool->store);
    return 0;
}

static int serve_template_ref(struct ms_client *client, const struct ms_msg_numbers *msg)
{
    if (client->blocks.total + msg->head.count > client->ram_pages + MS_REF_SLACK)
        return broken(client, "maps more template blocks than it has pages");
    for (uint32_t i = 0; i < msg->head.count; i++) {
        uint32_t block = msg->number[i];

        if (block >= client->template_blocks)
            return broken(client, "maps block %u of a template of %llu", block,
                          (unsigned long long)client->template_blocks);
        if (ms_refs_add(&client->blocks, block) < 0)
            return -ENOMEM;
        if (ms_refs_add(&client->tmpl->refs, block) < 0) {
            ms_refs_sub(&client->blocks, block);
            return -ENOMEM;
        }
    }
    return 0;
}

static int serve_template_drop(struct ms_client *client, const struct ms_msg_numbers *msg)
{
    for (uint32_t i = 0; i < msg->head.count; i++) {
        if (ms_refs_sub(&client->blocks, msg->number[i]) < 0)
            return broken(client, "drops template block %u, which it does not map", msg->number[i]);
        ms_refs_sub(&client->tmpl->refs, msg->number[i]);
    }
    return 0;
}

/* ---- the boundary: one message, its length against its kind ---- */

static int serve_hello(struct ms_client *client, const struct ms_msg_hello *msg)
{
    if (client->hello)
        return broken(client, "greets twice");
    if (msg->version != MS_PROTO_VERSION)
        return broken(client, "speaks version %u of the sharing protocol, not %u", msg->version,
                      MS_PROTO_VERSION);
    if (!msg->ram_pages || msg->ram_pages > MS_MAX_RAM_PAGES)
        return broken(client, "has %llu pages of RAM", (unsigned long long)msg->ram_pages);
    if (client->expected_pages && msg->ram_pages != client->expected_pages)
        return broken(client, "claims %llu pages of RAM, but has %llu",
                      (unsigned long long)msg->ram_pages,
                      (unsigned long long)client->expected_pages);
    client->ram_pages = msg->ram_pages;
    client->hello = true;
    ms_pool_count_ram(client->pool, (int64_t)msg->ram_pages);
    if (client->pool->timing == MS_TIMING_HIDE)
        return send_out(client, MS_MSG_HIDE, 0, sizeof(struct ms_msg_head));
    return 0;
}

static int serve_looked(struct ms_client *client)
{
    if (!client->look_sent)
        return broken(client, "acknowledges what was not sent");
    client->look_sent = false;
    send_look(client);
    return 0;
}

/* The length a message of this type and count has; 0: no such type, or the count is out of range.
 */
static size_t expected_length(const struct ms_msg_head *head)
{
    size_t count = head->count;

    switch (head->type) {
    case MS_MSG_HELLO: return count == 0 ? sizeof(struct ms_msg_hello) : 0;
    case MS_MSG_LOOKED: return count == 0 ? sizeof(struct ms_msg_head) : 0;
    case MS_MSG_OFFER:
    case MS_MSG_WITHDRAW:
        return count && count <= MS_MAX_OFFER
                   ? offsetof(struct ms_msg_offer, offer) + count * sizeof(struct ms_offer)
                   : 0;
    case MS_MSG_PUBLISH:
        return count && count <= MS_MAX_PUBLISH
                   ? offsetof(struct ms_msg_publish, page) + count * MS_PAGE_SIZE
                   : 0;
    case MS_MSG_REPACK:
        return count && count <= MS_MAX_REPACK
                   ? offsetof(struct ms_msg_numbers, number) + count * sizeof(uint32_t)
                   : 0;
    case MS_MSG_DROP:
    case MS_MSG_TEMPLATE_REF:
    case MS_MSG_TEMPLATE_DROP:
        return count && count <= MS_MAX_DROP
                   ? offsetof(struct ms_msg_numbers, number) + count * sizeof(uint32_t)
                   : 0;
    default: return 0;
    }
}

static int dispatch(struct ms_client *client)
{
    struct ms_pool *pool = client->pool;

    if (!client->hello && pool->in.head.type != MS_MSG_HELLO)
        return broken(client, "sends message %u before its greeting", pool->in.head.type);
    switch (pool->in.head.type) {
    case MS_MSG_HELLO: return serve_hello(client, &pool->in.hello);
    case MS_MSG_OFFER: return serve_offer(client, &pool->in.offer);
    case MS_MSG_WITHDRAW: return serve_withdraw(client, &pool->in.offer);
    case MS_MSG_PUBLISH: return serve_publish(client, &pool->in.publish);
    case MS_MSG_REPACK: return serve_repack(client, &pool->in.numbers);
    case MS_MSG_DROP: return serve_drop(client, &pool->in.numbers);
    case MS_MSG_TEMPLATE_REF: return serve_template_ref(client, &pool->in.numbers);
    case MS_MSG_TEMPLATE_DROP: return serve_template_drop(client, &pool->in.numbers);
    default: return serve_looked(client);
    }
}

/* 1: served one; 0: nothing to read; or an error. */
static int serve_one(struct ms_client *client)
{
    struct ms_pool *pool = client->pool;
    ssize_t n = recv(client->sock, &pool->in, sizeof(pool->in), MSG_DONTWAIT);
    int r;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -ECONNRESET;
    if ((size_t)n < sizeof(pool->in.head))
        return broken(client, "sends a message of %zd bytes", n);
    if ((size_t)n != expected_length(&pool->in.head))
        return broken(client, "sends message %u with count %u in %zd bytes", pool->in.head.type,
                      pool->in.head.count, n);
    r = dispatch(client);
    return r < 0 ? r : 1;
}

int ms_client_serve(struct ms_client *client)
{
    ms_pool_reap(client->pool);
    for (int i = 0; i < SERVE_MAX; i++) {
        int r = serve_one(client);

        if (r <= 0)
            return r;
    }
    return 0;
}
