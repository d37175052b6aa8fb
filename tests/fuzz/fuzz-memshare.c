/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target for the daemon's side of page sharing: anything that guest processes can send.
 *
 * The input is a program: attach, detach, hang up, send a message (well formed, of another length,
 * or any bytes), read answers and do what they say, or not. Three hostile clients run it; beside
 * them are two honest ones, which share pages and must keep them. After each step every count is
 * compared with every other, and at the end nothing may be left over.
 *
 *   make fuzz, or build/fuzz/fuzz-memshare FILE to repeat one input
 */
#include "memshare/pool.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memshare/ms-hash.h"

#define HOSTILE   3
#define CLIENTS   (HOSTILE + 2)
#define RAM_PAGES 64
#define BLOCKS    40
#define CONTENTS  32
#define KEPT      4 /* contents that both honest clients hold: the first ones */
#define MAX_STEPS 400

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct peer {
    struct ms_client *client; /* NULL: detached */
    int sock;                 /* the guest's end; -1: closed */
    uint32_t n_offered, n_answer;
    uint8_t offered[MS_MAX_OFFER]; /* contents of its last OFFER */
    uint32_t answer[MS_MAX_DROP];
};

struct fuzz {
    const uint8_t *data;
    size_t size;
    struct ms_pool *pool;
    struct peer peer[CLIENTS];
    uint32_t kept[2][KEPT]; /* the honest clients' slots */
    union {
        struct ms_msg_head head;
        struct ms_msg_hello hello;
        struct ms_msg_offer offer;
        struct ms_msg_publish publish;
        struct ms_msg_numbers numbers;
        uint8_t byte[sizeof(struct ms_msg_publish) + 64];
    } out;
    uint8_t in[sizeof(struct ms_msg_numbers) + MS_MAX_LOOK * 8];
};

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

/* ---- the input ---- */

static uint8_t next(struct fuzz *f)
{
    if (!f->size)
        return 0;
    f->size--;
    return *f->data++;
}

/* Mostly a small number, sometimes any. */
static uint32_t next_number(struct fuzz *f, uint32_t small)
{
    uint8_t byte = next(f);

    if (byte < 0xf0)
        return byte % small;
    return (uint32_t)next(f) | (uint32_t)next(f) << 8 | (uint32_t)next(f) << 16 |
           (uint32_t)next(f) << 24;
}

static uint32_t next_count(struct fuzz *f, uint32_t most)
{
    uint8_t byte = next(f);

    if (byte < 0xe0)
        return byte % 9;
    return byte < 0xf0 ? most : most + byte - 0xf8;
}

static void content(uint8_t *page, uint8_t number)
{
    memset(page, 0, MS_PAGE_SIZE);
    page[number % 7 * 500] = number + 1;
}

static uint64_t hash_of(uint8_t number)
{
    uint8_t page[MS_PAGE_SIZE];

    content(page, number);
    return ms_hash_page(page);
}

/* ---- what must always be so ---- */

static uint64_t references(const struct fuzz *f, uint32_t slot)
{
    uint64_t sum = 0;

    for (uint32_t id = 0; id < f->pool->n_ids; id++)
        if (f->pool->client[id])
            sum += ms_refs_get(&f->pool->client[id]->slots, slot);
    for (const struct ms_client *client = f->pool->orphans; client; client = client->next_orphan)
        sum += ms_refs_get(&client->slots, slot);
    return sum;
}

static void check_slots(const struct fuzz *f)
{
    const struct ms_store *store = &f->pool->store;
    uint64_t sum = 0, used = 0;

    for (uint32_t slot = 0; slot < store->n_slots; slot++) {
        uint64_t refs = ms_store_refs(store, slot);

        CHECK(refs == references(f, slot));
        sum += refs;
        used += refs != 0;
    }
    CHECK(sum == f->pool->mapped_pages);
    CHECK(used == store->used);
}

/* What the index knows is true, and each client's share of it is counted. */
static void check_index(const struct fuzz *f)
{
    const struct ms_index *index = &f->pool->index;
    uint64_t hints[CLIENTS + 1] = {0}, used = 0;

    for (uint64_t i = 0; i < index->size; i++) {
        const struct ms_entry *entry = &index->entry[i];

        used += entry->kind != MS_ENTRY_EMPTY;
        if (entry->kind == MS_ENTRY_UNIQUE) {
            CHECK(entry->client < f->pool->n_ids && f->pool->client[entry->client]);
            CHECK(entry->client < CLIENTS);
            hints[entry->client]++;
        } else if (entry->kind == MS_ENTRY_SLOT) {
            CHECK(entry->value < f->pool->store.n_slots);
        }
    }
    CHECK(used == index->used);
    for (int i = 0; i < CLIENTS; i++)
        if (f->peer[i].client)
            CHECK(f->peer[i].client->n_hints == hints[f->peer[i].client->id]);
}

static void check_stats(const struct fuzz *f)
{
    struct ms_pool_stats stats;
    uint64_t attached = 0;

    for (int i = 0; i < CLIENTS; i++)
        attached += f->peer[i].client != NULL;
    ms_pool_get_stats(f->pool, &stats);
    CHECK(stats.clients == attached);
    CHECK(stats.slots <= stats.mapped_pages);
    CHECK(stats.store_bytes == stats.slots * MS_PAGE_SIZE);
    CHECK(stats.index_bytes < 64u << 20);
}

static void check_slot(const struct fuzz *f, uint32_t slot, uint8_t number)
{
    uint8_t want[MS_PAGE_SIZE], have[MS_PAGE_SIZE];

    if (slot > MS_MAX_INDEX)
        return;
    content(want, number);
    CHECK(pread(f->pool->store.fd, have, sizeof(have), (off_t)slot * MS_PAGE_SIZE) == MS_PAGE_SIZE);
    CHECK(memcmp(have, want, MS_PAGE_SIZE) == 0);
}

/* The store holds what the honest clients put there, and counts them. */
static void check_honest(const struct fuzz *f)
{
    for (int i = 0; i < 2; i++) {
        const struct ms_client *client = f->peer[HOSTILE + i].client;

        for (uint8_t k = 0; k < KEPT; k++) {
            CHECK(f->kept[i][k] > MS_MAX_INDEX || ms_refs_get(&client->slots, f->kept[i][k]) >= 1);
            check_slot(f, f->kept[i][k], k);
        }
        CHECK(ms_client_saved(client) <= client->slots.total * MS_PAGE_SIZE);
    }
}

/* ---- clients ---- */

static void attach(struct fuzz *f, struct peer *peer)
{
    int pair[2];

    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    memset(peer, 0, sizeof(*peer));
    peer->sock = pair[1];
    CHECK(ms_pool_attach(f->pool, pair[0], "disk", BLOCKS, &peer->client) == 0);
}

static void hang_up(struct peer *peer)
{
    if (peer->sock >= 0)
        close(peer->sock);
    peer->sock = -1;
}

static void detach(struct peer *peer)
{
    if (peer->client)
        ms_client_detach(peer->client);
    peer->client = NULL;
}

/* As vmmd does: an error ends it. Its process may live on. */
static void serve(struct peer *peer)
{
    int r;

    if (!peer->client)
        return;
    r = ms_client_serve(peer->client);
    CHECK(r == 0 || r == -ECONNRESET || r == -EPROTO || r == -ENOMEM);
    CHECK((r == -EPROTO) == (*ms_client_error(peer->client) != '\0'));
    if (r < 0)
        detach(peer);
}

static void push(struct fuzz *f, struct peer *peer, size_t length)
{
    if (peer->sock >= 0)
        (void)send(peer->sock, &f->out, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Reads one message; notes an answer. Returns its type, 0: none. */
static uint32_t pull(struct fuzz *f, struct peer *peer)
{
    struct ms_msg_numbers numbers;
    ssize_t n = peer->sock < 0 ? -1 : recv(peer->sock, f->in, sizeof(f->in), MSG_DONTWAIT);

    if (n < (ssize_t)sizeof(numbers.head))
        return 0;
    memcpy(&numbers, f->in, (size_t)n < sizeof(numbers) ? (size_t)n : sizeof(numbers));
    CHECK(numbers.head.type == MS_MSG_ANSWER || numbers.head.type == MS_MSG_LOOK ||
          (numbers.head.type == MS_MSG_HIDE && f->pool->timing == MS_TIMING_HIDE));
    if (numbers.head.type == MS_MSG_ANSWER) {
        CHECK((size_t)n == sizeof(numbers.head) + numbers.head.count * sizeof(uint32_t));
        peer->n_answer = numbers.head.count;
        memcpy(peer->answer, numbers.number, peer->n_answer * sizeof(uint32_t));
    }
    return numbers.head.type;
}

/* ---- messages ---- */

static size_t hello(struct fuzz *f, uint64_t ram_pages)
{
    f->out.hello = (struct ms_msg_hello){
        .head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION, .ram_pages = ram_pages};
    return sizeof(f->out.hello);
}

static size_t offer(struct fuzz *f, struct peer *peer, uint32_t type)
{
    uint32_t n = next_count(f, MS_MAX_OFFER), most = n < MS_MAX_OFFER ? n : MS_MAX_OFFER;
    uint8_t number = next(f);
    uint32_t page = next_number(f, RAM_PAGES);
    uint8_t step = n > 8 ? next(f) : 0; /* a long one is a stretch of pages */

    f->out.head = (struct ms_msg_head){.type = type, .count = n};
    for (uint32_t i = 0; i < most; i++) {
        if (n <= 8 && i) {
            number = next(f);
            page = next_number(f, RAM_PAGES);
        }
        f->out.offer.offer[i] = (struct ms_offer){.hash = hash_of(number % CONTENTS), .page = page};
        if (type == MS_MSG_OFFER)
            peer->offered[i] = number % CONTENTS;
        number = (uint8_t)(number + step % 3);
        page = (page + 1) % RAM_PAGES;
    }
    if (type == MS_MSG_OFFER)
        peer->n_offered = most;
    return offsetof(struct ms_msg_offer, offer) + n * sizeof(struct ms_offer);
}

static size_t publish(struct fuzz *f)
{
    uint32_t n = next_count(f, MS_MAX_PUBLISH), most = n < MS_MAX_PUBLISH ? n : MS_MAX_PUBLISH;

    f->out.head = (struct ms_msg_head){.type = MS_MSG_PUBLISH, .count = n};
    for (uint32_t i = 0; i < most; i++) {
        f->out.publish.item[i] = next_number(f, 8);
        content(f->out.publish.page[i], next(f) % CONTENTS);
    }
    return offsetof(struct ms_msg_publish, page) + n * MS_PAGE_SIZE;
}

static size_t numbers(struct fuzz *f, uint32_t type)
{
    uint32_t n = next_count(f, MS_MAX_DROP), most = n < MS_MAX_DROP ? n : MS_MAX_DROP;

    f->out.head = (struct ms_msg_head){.type = type, .count = n};
    for (uint32_t i = 0; i < most; i++)
        f->out.numbers.number[i] = i < 8 ? next_number(f, BLOCKS + 4) : i % BLOCKS;
    return offsetof(struct ms_msg_numbers, number) + n * sizeof(uint32_t);
}

/* Sends what the last answer asked for: the right content. */
static size_t publish_asked(struct fuzz *f, struct peer *peer)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < peer->n_answer && i < peer->n_offered && n < MS_MAX_PUBLISH; i++) {
        if (peer->answer[i] != MS_SLOT_PUBLISH)
            continue;
        f->out.publish.item[n] = i;
        content(f->out.publish.page[n++], peer->offered[i]);
    }
    f->out.head = (struct ms_msg_head){.type = MS_MSG_PUBLISH, .count = n};
    return offsetof(struct ms_msg_publish, page) + n * MS_PAGE_SIZE;
}

/* Gives back what the last answer granted. */
static size_t drop_granted(struct fuzz *f, const struct peer *peer)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < peer->n_answer; i++)
        if (peer->answer[i] <= MS_MAX_INDEX)
            f->out.numbers.number[n++] = peer->answer[i];
    f->out.head = (struct ms_msg_head){.type = MS_MSG_DROP, .count = n};
    return offsetof(struct ms_msg_numbers, number) + n * sizeof(uint32_t);
}

/* Some of the slots it holds, from one of them on; or one that it may not hold among them. Some
 * contents become hidden to later offers by this, but no slot changes what it holds. */
static size_t repack(struct fuzz *f, const struct peer *peer)
{
    uint32_t n = next_count(f, MS_MAX_REPACK), most = n < MS_MAX_REPACK ? n : MS_MAX_REPACK;
    uint32_t slot = next_number(f, CONTENTS), step = next(f) % 3, odd = next_number(f, 255);

    f->out.head = (struct ms_msg_head){.type = MS_MSG_REPACK, .count = n};
    for (uint32_t i = 0; i < most; i++) {
        for (uint32_t k = 0; peer->client && k < CONTENTS; k++, slot = (slot + 1) % CONTENTS)
            if (ms_refs_get(&peer->client->slots, slot))
                break;
        f->out.numbers.number[i] = i == odd ? next_number(f, CONTENTS) : slot;
        slot = (slot + step) % CONTENTS;
    }
    return offsetof(struct ms_msg_numbers, number) + n * sizeof(uint32_t);
}

static size_t any_bytes(struct fuzz *f)
{
    size_t n = (size_t)next(f) | (size_t)(next(f) & 1) << 8;

    for (size_t i = 0; i < n; i++)
        f->out.byte[i] = next(f);
    return n;
}

static size_t message(struct fuzz *f, struct peer *peer)
{
    uint8_t kind = next(f) % 15;

    switch (kind) {
    case 0: return hello(f, next_number(f, 2) ? RAM_PAGES : next_number(f, 255));
    case 1:
    case 2: return offer(f, peer, MS_MSG_OFFER);
    case 3: return offer(f, peer, MS_MSG_WITHDRAW);
    case 4: return publish(f);
    case 5: return publish_asked(f, peer);
    case 6: return drop_granted(f, peer);
    case 7: return numbers(f, MS_MSG_DROP);
    case 8: return numbers(f, MS_MSG_TEMPLATE_REF);
    case 9: return numbers(f, MS_MSG_TEMPLATE_DROP);
    case 10: f->out.head = (struct ms_msg_head){.type = MS_MSG_LOOKED}; return sizeof(f->out.head);
    case 11:
    case 12: return repack(f, peer);
    case 13: return numbers(f, MS_MSG_REPACK);
    default: return any_bytes(f);
    }
}

static void send_one(struct fuzz *f, struct peer *peer)
{
    size_t length = message(f, peer), most = sizeof(f->out);

    push(f, peer, length < most ? length : most);
}

/* The same, but a little longer or shorter than it should be. */
static void send_odd(struct fuzz *f, struct peer *peer)
{
    size_t length = message(f, peer) + next(f) - 16, most = sizeof(f->out);

    push(f, peer, length < most ? length : most);
}

/* ---- the program ---- */

static void step(struct fuzz *f)
{
    uint8_t byte = next(f);
    struct peer *peer = &f->peer[byte % HOSTILE];

    switch (byte / HOSTILE % 16) {
    case 0: hang_up(peer); break;
    case 1: detach(peer); break;
    case 2:
        hang_up(peer);
        detach(peer);
        attach(f, peer);
        break;
    case 3: send_odd(f, peer); break;
    case 4: /* not served now */ send_one(f, peer); return;
    case 5: shutdown(peer->sock, next(f) % 3); break;
    case 6:
    case 7:
    case 8: (void)pull(f, peer); return;
    case 9:
        hang_up(peer);
        detach(peer);
        attach(f, peer);
        push(f, peer, hello(f, RAM_PAGES));
        break;
    default:
        send_one(f, peer);
        serve(peer);
        (void)pull(f, peer);
        return;
    }
    serve(peer);
}

/* An honest client offers page `number`, sends it if asked to, and reads all it is told. */
static uint32_t honest_offer(struct fuzz *f, struct peer *peer, uint8_t number)
{
    uint32_t type;

    f->out.head = (struct ms_msg_head){.type = MS_MSG_OFFER, .count = 1};
    f->out.offer.offer[0] = (struct ms_offer){.hash = hash_of(number), .page = number};
    peer->offered[0] = number;
    peer->n_offered = 1;
    push(f, peer, offsetof(struct ms_msg_offer, offer) + sizeof(struct ms_offer));
    for (int i = 0; i < 2; i++) {
        serve(peer);
        CHECK(peer->client);
        peer->n_answer = 0;
        while ((type = pull(f, peer)) == MS_MSG_LOOK || type == MS_MSG_HIDE) {
            f->out.head = (struct ms_msg_head){.type = MS_MSG_LOOKED};
            if (type == MS_MSG_LOOK)
                push(f, peer, sizeof(f->out.head));
        }
        CHECK(peer->n_answer == 1);
        if (peer->answer[0] != MS_SLOT_PUBLISH)
            break;
        push(f, peer, publish_asked(f, peer));
    }
    while (pull(f, peer))
        ;
    return peer->answer[0];
}

static void start(struct fuzz *f)
{
    uint8_t byte = next(f);
    uint64_t max_bytes = byte & 1 ? 0 : (uint64_t)(KEPT + byte / 16) * MS_PAGE_SIZE;

    CHECK(ms_pool_new(&f->pool, "fuzz", max_bytes, byte & 2 ? MS_TIMING_HIDE : MS_TIMING_PLAIN) ==
          0);
    for (int i = 0; i < CLIENTS; i++) {
        attach(f, &f->peer[i]);
        if (i < HOSTILE && !(byte & 4))
            continue;
        push(f, &f->peer[i], hello(f, RAM_PAGES));
        serve(&f->peer[i]);
    }
    memset(f->kept, 0xff, sizeof(f->kept));
    for (uint8_t k = 0; k < KEPT; k++)
        for (int i = 0; i < 2; i++)
            f->kept[i][k] = honest_offer(f, &f->peer[HOSTILE + i], k);
    CHECK(f->kept[1][0] <= MS_MAX_INDEX);
}

/* All are gone: nothing is counted and no memory is left. */
static void end(struct fuzz *f)
{
    struct stat st;

    for (int i = 0; i < CLIENTS; i++) {
        hang_up(&f->peer[i]);
        detach(&f->peer[i]);
    }
    ms_pool_reap(f->pool);
    CHECK(f->pool->mapped_pages == 0 && f->pool->store.used == 0 && f->pool->index.used == 0);
    CHECK(f->pool->store.n_slots == 0); /* none is reserved */
    CHECK(fstat(f->pool->store.fd, &st) == 0);
    CHECK(st.st_blocks == 0);
    ms_pool_free(f->pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz f; /* zeroed anew each time */

    memset(&f, 0, offsetof(struct fuzz, out));
    f.data = data;
    f.size = size;
    start(&f);
    for (int i = 0; i < MAX_STEPS && f.size; i++) {
        step(&f);
        check_stats(&f);
        check_slots(&f);
        check_index(&f);
        check_honest(&f);
    }
    for (uint8_t k = 0; k < KEPT; k++) /* and the honest ones are served as before */
        check_slot(&f, honest_offer(&f, &f.peer[HOSTILE + 1], k), k);
    end(&f);
    return 0;
}
