/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest processes that speak the protocol wrongly: each is cut off with one line of why, and the
 * pool and its other clients stay as they were.
 */
#include "memshare/pool.h"

#include <dirent.h>
#include <fcntl.h>

#include "tests/unit/test-memshare.h"

#define RAM_PAGES 100
#define BLOCKS    50

struct hostile {
    struct ms_pool *pool;
    struct ms_client *bad, *good;
    int bad_sock, good_sock;
    struct ms_msg_offer offer;
    struct ms_msg_publish publish;
    struct ms_msg_numbers numbers, answer;
    uint32_t good_slot;
};

static void push(int sock, const void *message, size_t length)
{
    assert_int_equal(send(sock, message, length, 0), length);
}

static void greet(int sock)
{
    struct ms_msg_hello hello = {
        .head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION, .ram_pages = RAM_PAGES};

    push(sock, &hello, sizeof(hello));
}

static void push_offer(struct hostile *h, int sock, uint32_t n)
{
    h->offer.head = (struct ms_msg_head){.type = MS_MSG_OFFER, .count = n};
    push(sock, &h->offer, offsetof(struct ms_msg_offer, offer) + n * sizeof(struct ms_offer));
}

static void push_numbers(struct hostile *h, int sock, uint32_t type, uint32_t n)
{
    h->numbers.head = (struct ms_msg_head){.type = type, .count = n};
    push(sock, &h->numbers, offsetof(struct ms_msg_numbers, number) + n * sizeof(uint32_t));
}

static void push_publish(struct hostile *h, int sock, uint32_t n)
{
    h->publish.head = (struct ms_msg_head){.type = MS_MSG_PUBLISH, .count = n};
    push(sock, &h->publish, offsetof(struct ms_msg_publish, page) + n * PAGE);
}

static uint32_t pull(struct hostile *h, int sock)
{
    assert_true(recv(sock, &h->answer, sizeof(h->answer), MSG_DONTWAIT) > 0);
    return h->answer.head.type;
}

/* Both clients offer the same page, so that the good one holds a slot. */
static int setup(void **state)
{
    struct hostile *h = calloc(1, sizeof(*h));
    int pair[2];

    assert_non_null(h);
    assert_int_equal(ms_pool_new(&h->pool, "hostile", 0, MS_TIMING_PLAIN), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(ms_pool_attach(h->pool, pair[0], "disk", BLOCKS, &h->bad), 0);
    h->bad_sock = pair[1];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(ms_pool_attach(h->pool, pair[0], "disk", BLOCKS, &h->good), 0);
    h->good_sock = pair[1];

    greet(h->bad_sock);
    greet(h->good_sock);
    fill_page(h->publish.page[0], 1);
    h->offer.offer[0] = (struct ms_offer){.hash = ms_hash_page(h->publish.page[0]), .page = 7};
    push_offer(h, h->bad_sock, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    assert_int_equal(h->answer.number[0], MS_SLOT_UNIQUE);
    push_offer(h, h->good_sock, 1);
    assert_int_equal(ms_client_serve(h->good), 0);
    assert_int_equal(pull(h, h->good_sock), MS_MSG_ANSWER);
    assert_int_equal(h->answer.number[0], MS_SLOT_PUBLISH);
    push_publish(h, h->good_sock, 1);
    assert_int_equal(ms_client_serve(h->good), 0);
    assert_int_equal(pull(h, h->good_sock), MS_MSG_ANSWER);
    h->good_slot = h->answer.number[0];
    assert_true(h->good_slot <= MS_MAX_INDEX);
    /* The first to offer it gets a reference, and gives it back. */
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_LOOK);
    assert_int_equal(h->answer.number[0], 7);
    assert_int_equal(h->answer.number[1], h->good_slot);
    h->numbers.number[0] = h->good_slot;
    push_numbers(h, h->bad_sock, MS_MSG_DROP, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    struct hostile *h = *state;

    ms_client_detach(h->bad);
    ms_client_detach(h->good);
    ms_pool_free(h->pool);
    close(h->bad_sock);
    close(h->good_sock);
    free(h);
    return 0;
}

/* Cut off, with a reason; the good client still has its page and is served. */
static void expect_cut_off(struct hostile *h, const char *reason)
{
    struct ms_pool_stats stats;
    uint8_t page[PAGE];
    int fd;

    assert_int_equal(ms_client_serve(h->bad), -EPROTO);
    if (!strstr(ms_client_error(h->bad), reason))
        fail_msg("\"%s\" does not say \"%s\"", ms_client_error(h->bad), reason);
    ms_pool_get_stats(h->pool, &stats);
    assert_true(stats.slots >= 1);
    fd = ms_pool_guest_fd(h->pool);
    assert_int_equal(pread(fd, page, PAGE, (off_t)h->good_slot * PAGE), PAGE);
    assert_true(page_is(page, 1));
    close(fd);
    fill_page(h->publish.page[0], 1);
    h->offer.offer[0] = (struct ms_offer){.hash = ms_hash_page(h->publish.page[0]), .page = 9};
    push_offer(h, h->good_sock, 1);
    assert_int_equal(ms_client_serve(h->good), 0);
    while (pull(h, h->good_sock) == MS_MSG_LOOK)
        ;
    assert_int_equal(h->answer.number[0], h->good_slot);
    assert_string_equal(ms_client_error(h->good), "");
}

static void test_no_greeting(void **state)
{
    struct hostile *h = *state;

    h->bad->hello = false;
    ms_pool_count_ram(h->pool, -(int64_t)h->bad->ram_pages);
    push_offer(h, h->bad_sock, 1);
    expect_cut_off(h, "before its greeting");
}

static void test_two_greetings(void **state)
{
    struct hostile *h = *state;

    greet(h->bad_sock);
    expect_cut_off(h, "greets twice");
}

static void test_other_version(void **state)
{
    struct hostile *h = *state;
    struct ms_msg_hello hello = {
        .head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION + 1, .ram_pages = 1};

    h->bad->hello = false;
    ms_pool_count_ram(h->pool, -(int64_t)h->bad->ram_pages);
    push(h->bad_sock, &hello, sizeof(hello));
    expect_cut_off(h, "version");
}

static void test_absurd_ram(void **state)
{
    struct hostile *h = *state;
    struct ms_msg_hello hello = {
        .head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION, .ram_pages = UINT64_MAX};

    h->bad->hello = false;
    ms_pool_count_ram(h->pool, -(int64_t)h->bad->ram_pages);
    push(h->bad_sock, &hello, sizeof(hello));
    expect_cut_off(h, "pages of RAM");
}

static void test_too_short(void **state)
{
    struct hostile *h = *state;

    push(h->bad_sock, "abc", 3);
    expect_cut_off(h, "message of 3 bytes");
}

static void test_truncated(void **state)
{
    struct hostile *h = *state;

    h->offer.head = (struct ms_msg_head){.type = MS_MSG_OFFER, .count = 4};
    push(h->bad_sock, &h->offer, sizeof(h->offer.head) + 3 * sizeof(struct ms_offer));
    expect_cut_off(h, "with count 4");
}

static void test_longer_than_said(void **state)
{
    struct hostile *h = *state;

    h->numbers.head = (struct ms_msg_head){.type = MS_MSG_LOOKED, .count = 0};
    push(h->bad_sock, &h->numbers, sizeof(h->numbers.head) + 4);
    expect_cut_off(h, "with count 0");
}

static void test_oversize(void **state)
{
    struct hostile *h = *state;
    size_t length = sizeof(struct ms_msg_publish) + PAGE;
    struct ms_msg_publish *big = calloc(1, length);
    char complaint[32];

    assert_non_null(big);
    big->head = (struct ms_msg_head){.type = MS_MSG_PUBLISH, .count = MS_MAX_PUBLISH + 1};
    push(h->bad_sock, big, length);
    free(big);
    snprintf(complaint, sizeof(complaint), "with count %u", MS_MAX_PUBLISH + 1);
    expect_cut_off(h, complaint);
}

static void test_huge_count(void **state)
{
    struct hostile *h = *state;

    h->numbers.head = (struct ms_msg_head){.type = MS_MSG_DROP, .count = UINT32_MAX};
    push(h->bad_sock, &h->numbers, sizeof(h->numbers.head) + 4);
    expect_cut_off(h, "with count 4294967295");
}

static void test_unknown_type(void **state)
{
    struct hostile *h = *state;

    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

static void test_answer_from_a_client(void **state)
{
    struct hostile *h = *state;

    push_numbers(h, h->bad_sock, MS_MSG_ANSWER, 1);
    expect_cut_off(h, "message 64");
}

static void test_offer_beyond_ram(void **state)
{
    struct hostile *h = *state;

    h->offer.offer[0].page = RAM_PAGES;
    push_offer(h, h->bad_sock, 1);
    expect_cut_off(h, "offers page 100 of 100");
}

static void test_publish_unasked(void **state)
{
    struct hostile *h = *state;

    push_publish(h, h->bad_sock, 1); /* its only offer was answered with UNIQUE */
    expect_cut_off(h, "nobody asked for");
}

/* Makes the daemon ask the bad client for a page. */
static void get_asked(struct hostile *h)
{
    fill_page(h->publish.page[0], 2);
    h->offer.offer[0] = (struct ms_offer){.hash = ms_hash_page(h->publish.page[0]), .page = 20};
    push_offer(h, h->good_sock, 1);
    assert_int_equal(ms_client_serve(h->good), 0);
    pull(h, h->good_sock);
    push_offer(h, h->bad_sock, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    pull(h, h->bad_sock);
    assert_int_equal(h->answer.number[0], MS_SLOT_PUBLISH);
    h->publish.item[0] = 0;
}

static void test_publish_out_of_range(void **state)
{
    struct hostile *h = *state;

    get_asked(h);
    h->publish.item[0] = 1;
    push_publish(h, h->bad_sock, 1);
    expect_cut_off(h, "nobody asked for");
}

static void test_publish_a_lie(void **state)
{
    struct hostile *h = *state;

    get_asked(h);
    h->publish.page[0][0] ^= 1;
    push_publish(h, h->bad_sock, 1);
    expect_cut_off(h, "another hash");
}

static void test_publish_again(void **state)
{
    struct hostile *h = *state;

    get_asked(h);
    push_publish(h, h->bad_sock, 1);
    push_publish(h, h->bad_sock, 1);
    expect_cut_off(h, "nobody asked for");
}

static void test_publish_twice_in_one(void **state)
{
    struct hostile *h = *state;

    get_asked(h);
    memcpy(h->publish.page[1], h->publish.page[0], PAGE);
    h->publish.item[1] = 0;
    push_publish(h, h->bad_sock, 2);
    expect_cut_off(h, "nobody asked for");
}

static void test_drop_of_another_guests_slot(void **state)
{
    struct hostile *h = *state;

    h->numbers.number[0] = h->good_slot;
    push_numbers(h, h->bad_sock, MS_MSG_DROP, 1);
    expect_cut_off(h, "does not hold");
}

static void test_drop_out_of_range(void **state)
{
    struct hostile *h = *state;

    h->numbers.number[0] = UINT32_MAX;
    push_numbers(h, h->bad_sock, MS_MSG_DROP, 1);
    expect_cut_off(h, "does not hold");
}

static void test_drop_twice(void **state)
{
    struct hostile *h = *state;

    push_offer(h, h->bad_sock, 1); /* the page that has a slot: one reference */
    h->numbers.number[0] = h->good_slot;
    h->numbers.number[1] = h->good_slot;
    push_numbers(h, h->bad_sock, MS_MSG_DROP, 2);
    expect_cut_off(h, "does not hold");
}

static void test_template_block_out_of_range(void **state)
{
    struct hostile *h = *state;

    h->numbers.number[0] = BLOCKS;
    push_numbers(h, h->bad_sock, MS_MSG_TEMPLATE_REF, 1);
    expect_cut_off(h, "maps block 50");
}

static void test_template_drop_unheld(void **state)
{
    struct hostile *h = *state;

    h->numbers.number[0] = 3;
    push_numbers(h, h->good_sock, MS_MSG_TEMPLATE_REF, 1);
    assert_int_equal(ms_client_serve(h->good), 0);
    push_numbers(h, h->bad_sock, MS_MSG_TEMPLATE_DROP, 1);
    expect_cut_off(h, "does not map");
}

static void test_unsent_look(void **state)
{
    struct hostile *h = *state;

    push_numbers(h, h->bad_sock, MS_MSG_LOOKED, 0); /* right: one was sent */
    push_numbers(h, h->bad_sock, MS_MSG_LOOKED, 0);
    expect_cut_off(h, "was not sent");
}

static void test_more_references_than_pages(void **state)
{
    struct hostile *h = *state;
    int r = 0;

    for (uint32_t i = 0; i < MS_MAX_OFFER; i++)
        h->offer.offer[i] =
            (struct ms_offer){.hash = h->offer.offer[0].hash, .page = i % RAM_PAGES};
    for (int i = 0; i < 100 && r == 0; i++) {
        push_offer(h, h->bad_sock, MS_MAX_OFFER);
        r = ms_client_serve(h->bad);
        if (r == 0)
            pull(h, h->bad_sock);
    }
    assert_int_equal(r, -EPROTO);
    assert_non_null(strstr(ms_client_error(h->bad), "more references"));
}

/* 10^6 offers without reading one answer: the daemon neither waits nor queues. */
static void test_flood_without_reading(void **state)
{
    struct hostile *h = *state;
    int r = 0;

    for (int i = 0; i < 1000 && r == 0; i++) {
        for (uint32_t k = 0; k < MS_MAX_OFFER; k++)
            h->offer.offer[k] = (struct ms_offer){.hash = (uint64_t)i * MS_MAX_OFFER + k + 1,
                                                  .page = k % RAM_PAGES};
        push_offer(h, h->bad_sock, MS_MAX_OFFER);
        r = ms_client_serve(h->bad);
    }
    assert_int_equal(r, -EPROTO);
    assert_string_equal(ms_client_error(h->bad), "does not read its answers");
}

/* And with reading them: the index stays within its bounds and answers the good one as before. */
static void test_flood_of_offers(void **state)
{
    struct hostile *h = *state;
    struct ms_pool_stats stats;

    for (int i = 0; i < 1000; i++) {
        for (uint32_t k = 0; k < MS_MAX_OFFER; k++)
            h->offer.offer[k] = (struct ms_offer){.hash = ((uint64_t)i * MS_MAX_OFFER + k + 1) *
                                                          0x9e3779b97f4a7c15ull,
                                                  .page = k % RAM_PAGES};
        push_offer(h, h->bad_sock, MS_MAX_OFFER);
        assert_int_equal(ms_client_serve(h->bad), 0);
        assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    }
    ms_pool_get_stats(h->pool, &stats);
    assert_int_equal(stats.slots, 1);
    assert_true(stats.index_bytes < 1 << 20);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

/* A client that stands still while others publish is not cut off: LOOK is sent once only. */
static void test_standing_still_is_honest(void **state)
{
    struct hostile *h = *state;

    for (uint64_t i = 100; i < 3000; i++) {
        fill_page(h->publish.page[0], i);
        h->offer.offer[0] = (struct ms_offer){.hash = ms_hash_page(h->publish.page[0]), .page = 1};
        push_offer(h, h->bad_sock, 1);
        assert_int_equal(ms_client_serve(h->bad), 0);
        pull(h, h->bad_sock); /* the answers, not what comes unasked */
        push_offer(h, h->good_sock, 1);
        assert_int_equal(ms_client_serve(h->good), 0);
        pull(h, h->good_sock);
        h->publish.item[0] = 0;
        push_publish(h, h->good_sock, 1);
        if (ms_client_serve(h->good) < 0)
            fail_msg("%llu: %s", (unsigned long long)i, ms_client_error(h->good));
        pull(h, h->good_sock);
        h->numbers.number[0] = h->answer.number[0];
        push_numbers(h, h->good_sock, MS_MSG_DROP, 1);
        if (ms_client_serve(h->good) < 0)
            fail_msg("%llu: %s", (unsigned long long)i, ms_client_error(h->good));
    }
    assert_int_equal(recv(h->bad_sock, &h->answer, sizeof(h->answer), MSG_DONTWAIT), -1);
    push_numbers(h, h->bad_sock, MS_MSG_LOOKED, 0);
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_LOOK);
    assert_int_equal(h->answer.head.count, MS_MAX_LOOK);
}

static void test_read_only_store(void **state)
{
    struct hostile *h = *state;
    int fd = ms_pool_guest_fd(h->pool);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_true(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    close(fd);
}

static void test_closed_socket(void **state)
{
    struct hostile *h = *state;

    shutdown(h->bad_sock, SHUT_RDWR);
    assert_int_equal(ms_client_serve(h->bad), -ECONNRESET);
    assert_string_equal(ms_client_error(h->bad), "");
}

/* ---- every kind of message, with every length and count it must not have ---- */

struct shape {
    uint32_t type, most; /* the largest count; 0: it has none */
    size_t fixed, each;
};

static const struct shape shapes[] = {
    {MS_MSG_HELLO, 0, sizeof(struct ms_msg_hello), 0},
    {MS_MSG_LOOKED, 0, sizeof(struct ms_msg_head), 0},
    {MS_MSG_OFFER, MS_MAX_OFFER, offsetof(struct ms_msg_offer, offer), sizeof(struct ms_offer)},
    {MS_MSG_WITHDRAW, MS_MAX_OFFER, offsetof(struct ms_msg_offer, offer), sizeof(struct ms_offer)},
    {MS_MSG_PUBLISH, MS_MAX_PUBLISH, offsetof(struct ms_msg_publish, page), PAGE},
    {MS_MSG_DROP, MS_MAX_DROP, sizeof(struct ms_msg_head), sizeof(uint32_t)},
    {MS_MSG_REPACK, MS_MAX_REPACK, sizeof(struct ms_msg_head), sizeof(uint32_t)},
    {MS_MSG_TEMPLATE_REF, MS_MAX_DROP, sizeof(struct ms_msg_head), sizeof(uint32_t)},
    {MS_MSG_TEMPLATE_DROP, MS_MAX_DROP, sizeof(struct ms_msg_head), sizeof(uint32_t)},
};

#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static int attach_another(struct hostile *h, const char *template_key, struct ms_client **ret)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(ms_pool_attach(h->pool, pair[0], template_key, BLOCKS, ret), 0);
    return pair[1];
}

/* Another bad client in place of the one that was cut off. */
static void bad_again(struct hostile *h, bool greeted)
{
    ms_client_detach(h->bad);
    close(h->bad_sock);
    h->bad_sock = attach_another(h, "disk", &h->bad);
    if (greeted)
        greet(h->bad_sock);
}

static void expect_refusal(struct hostile *h, const struct shape *shape, uint32_t count,
                           size_t length)
{
    static uint8_t message[sizeof(struct ms_msg_publish) + 2 * PAGE];
    struct ms_msg_head head = {.type = shape->type, .count = count};

    memcpy(message, &head, sizeof(head));
    push(h->bad_sock, message, length);
    if (ms_client_serve(h->bad) != -EPROTO || !*ms_client_error(h->bad))
        fail_msg("message %u with count %u in %zu bytes is served", shape->type, count, length);
    bad_again(h, true);
}

static void expect_refusal_around(struct hostile *h, const struct shape *shape, uint32_t count)
{
    static const int off[] = {-PAGE, -16, -4, -1, 1, 4, 16, PAGE};
    size_t right = shape->fixed + shape->each * count;

    for (size_t i = 0; i < sizeof(off) / sizeof(off[0]); i++) {
        if (off[i] < 0 && right < (size_t)-off[i] + 1)
            continue;
        expect_refusal(h, shape, count, right + (size_t)off[i]);
    }
}

static void test_every_wrong_length(void **state)
{
    struct hostile *h = *state;

    for (size_t i = 0; i < N_SHAPES; i++) {
        const struct shape *shape = &shapes[i];

        expect_refusal_around(h, shape, shape->most ? 1 : 0);
        if (shape->most)
            expect_refusal_around(h, shape, shape->most);
    }
    push(h->bad_sock, "", 1);
    expect_cut_off(h, "message of 1 bytes");
}

/* Counts that the kind has not, with the length that they would have and with none. */
static void test_every_wrong_count(void **state)
{
    struct hostile *h = *state;

    for (size_t i = 0; i < N_SHAPES; i++) {
        const struct shape *shape = &shapes[i];
        const uint32_t count[] = {shape->most ? 0 : 1, shape->most + 1,         UINT16_MAX,
                                  INT32_MAX,           (uint32_t)INT32_MAX + 1, UINT32_MAX};

        for (size_t k = 0; k < sizeof(count) / sizeof(count[0]); k++) {
            expect_refusal(h, shape, count[k], shape->fixed);
            if (count[k] <= shape->most + 1)
                expect_refusal(h, shape, count[k], shape->fixed + shape->each * count[k]);
            /* what 32 bits would make of it */
            expect_refusal(h, shape, count[k],
                           (uint32_t)(shape->fixed + shape->each * count[k]) % (4 * PAGE) + 8);
        }
    }
    push_numbers(h, h->bad_sock, 0, 0);
    expect_cut_off(h, "message 0");
}

/* An empty packet is what a closed socket looks like. */
static void test_empty_packet(void **state)
{
    struct hostile *h = *state;

    push(h->bad_sock, "", 0);
    assert_int_equal(ms_client_serve(h->bad), -ECONNRESET);
    assert_string_equal(ms_client_error(h->bad), "");
}

/* ---- order ---- */

static void test_everything_before_the_greeting(void **state)
{
    static uint8_t message[sizeof(struct ms_msg_publish)];
    struct hostile *h = *state;

    for (size_t i = 0; i < N_SHAPES; i++) {
        const struct shape *shape = &shapes[i];
        struct ms_msg_head head = {.type = shape->type, .count = shape->most ? 1 : 0};

        if (shape->type == MS_MSG_HELLO)
            continue;
        bad_again(h, false);
        memcpy(message, &head, sizeof(head));
        push(h->bad_sock, message, shape->fixed + shape->each * head.count);
        expect_cut_off(h, "before its greeting");
    }
}

static void test_publish_before_any_offer(void **state)
{
    struct hostile *h = *state;

    bad_again(h, true);
    h->publish.item[0] = 0;
    push_publish(h, h->bad_sock, 1);
    expect_cut_off(h, "nobody asked for");
}

/* What an earlier OFFER was asked for is not asked for any more. */
static void test_publish_too_late(void **state)
{
    struct hostile *h = *state;

    get_asked(h);
    h->offer.offer[0] = (struct ms_offer){.hash = 12345, .page = 21};
    push_offer(h, h->bad_sock, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    push_publish(h, h->bad_sock, 1);
    expect_cut_off(h, "nobody asked for");
}

static void test_replayed_publish(void **state)
{
    struct hostile *h = *state;

    get_asked(h);
    push_publish(h, h->bad_sock, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    assert_true(h->answer.number[0] <= MS_MAX_INDEX);
    push_publish(h, h->bad_sock, 1);
    expect_cut_off(h, "nobody asked for");
}

/* ---- numbers ---- */

/* Gives back what came with an answer or with a LOOK, until it holds nothing. */
static void drop_all_it_holds(struct hostile *h)
{
    for (uint32_t slot = 0; h->bad->slots.total; slot++) {
        while (ms_refs_get(&h->bad->slots, slot)) {
            h->numbers.number[0] = slot;
            push_numbers(h, h->bad_sock, MS_MSG_DROP, 1);
            assert_int_equal(ms_client_serve(h->bad), 0);
        }
    }
}

static void test_replayed_drop(void **state)
{
    struct hostile *h = *state;

    push_offer(h, h->bad_sock, 1); /* the page that has a slot: one reference */
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    assert_int_equal(h->answer.number[0], h->good_slot);
    drop_all_it_holds(h);
    h->numbers.number[0] = h->good_slot;
    push_numbers(h, h->bad_sock, MS_MSG_DROP, 1);
    expect_cut_off(h, "does not hold");
}

static void test_replayed_template_drop(void **state)
{
    struct hostile *h = *state;

    h->numbers.number[0] = 3;
    push_numbers(h, h->bad_sock, MS_MSG_TEMPLATE_REF, 1);
    push_numbers(h, h->bad_sock, MS_MSG_TEMPLATE_DROP, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    push_numbers(h, h->bad_sock, MS_MSG_TEMPLATE_DROP, 1);
    expect_cut_off(h, "does not map");
}

/* A slot that exists, but in the pool of other guests. */
static void test_drop_of_another_groups_slot(void **state)
{
    struct hostile *h = *state;
    struct ms_pool *other;
    struct ms_client *client;
    int pair[2];

    assert_int_equal(ms_pool_new(&other, "other", 0, MS_TIMING_PLAIN), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(ms_pool_attach(other, pair[0], "disk", BLOCKS, &client), 0);
    greet(pair[1]);
    h->numbers.number[0] = h->good_slot;
    push_numbers(h, pair[1], MS_MSG_DROP, 1);
    assert_int_equal(ms_client_serve(client), -EPROTO);
    assert_non_null(strstr(ms_client_error(client), "does not hold"));
    ms_client_detach(client);
    ms_pool_free(other);
    close(pair[1]);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

static void test_slots_that_never_were(void **state)
{
    static const uint32_t slot[] = {1000,      4096,           MS_MAX_INDEX, MS_MAX_INDEX + 1,
                                    INT32_MAX, MS_SLOT_PUBLISH};
    struct hostile *h = *state;

    for (size_t i = 0; i < sizeof(slot) / sizeof(slot[0]); i++) {
        h->numbers.number[0] = slot[i];
        push_numbers(h, h->bad_sock, MS_MSG_DROP, 1);
        expect_cut_off(h, "does not hold");
        bad_again(h, true);
    }
}

static void test_blocks_without_a_template(void **state)
{
    struct hostile *h = *state;

    ms_client_detach(h->bad);
    close(h->bad_sock);
    h->bad_sock = attach_another(h, "", &h->bad);
    greet(h->bad_sock);
    h->numbers.number[0] = 0;
    push_numbers(h, h->bad_sock, MS_MSG_TEMPLATE_REF, 1);
    expect_cut_off(h, "maps block 0");
}

static void test_more_blocks_than_pages(void **state)
{
    struct hostile *h = *state;
    int r = 0;

    for (uint32_t i = 0; i < MS_MAX_DROP; i++)
        h->numbers.number[i] = i % BLOCKS;
    for (int i = 0; i < 100 && r == 0; i++) {
        push_numbers(h, h->bad_sock, MS_MSG_TEMPLATE_REF, MS_MAX_DROP);
        r = ms_client_serve(h->bad);
    }
    assert_int_equal(r, -EPROTO);
    assert_non_null(strstr(ms_client_error(h->bad), "more template blocks"));
    assert_true(h->bad->blocks.total <= RAM_PAGES + MS_REF_SLACK);
}

/* ---- greetings that lie ---- */

static void greet_with(struct hostile *h, uint64_t ram_pages)
{
    struct ms_msg_hello hello = {
        .head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION, .ram_pages = ram_pages};

    bad_again(h, false);
    push(h->bad_sock, &hello, sizeof(hello));
}

static void test_no_ram(void **state)
{
    struct hostile *h = *state;

    greet_with(h, 0);
    expect_cut_off(h, "has 0 pages of RAM");
}

static void test_more_ram_than_there_can_be(void **state)
{
    struct hostile *h = *state;

    greet_with(h, MS_MAX_RAM_PAGES + 1);
    expect_cut_off(h, "pages of RAM");
}

static uint64_t offer_anew(struct hostile *h, uint64_t seed)
{
    for (uint32_t k = 0; k < MS_MAX_OFFER; k++)
        h->offer.offer[k] = (struct ms_offer){
            .hash = (seed * MS_MAX_OFFER + k + 1) * 0x9e3779b97f4a7c15ull, .page = k % RAM_PAGES};
    push_offer(h, h->bad_sock, MS_MAX_OFFER);
    return MS_MAX_OFFER;
}

/* 10^6 offers of one that says that it has 16 TiB: the pool takes what those offers take, and what
 * the host's memory could need at most. */
static void test_flood_of_the_largest_guest(void **state)
{
    struct hostile *h = *state;
    struct ms_pool_stats stats;
    uint64_t offers = 0;

    greet_with(h, MS_MAX_RAM_PAGES);
    for (uint64_t i = 0; offers < 1000000; i++) {
        offers += offer_anew(h, i);
        assert_int_equal(ms_client_serve(h->bad), 0);
        assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    }
    ms_pool_get_stats(h->pool, &stats);
    assert_true(stats.index_bytes < 64u << 20);
    assert_int_equal(stats.slots, 1);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
    bad_again(h, true); /* and with it go its offers */
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

/* ---- fairness, and what comes along ---- */

/* One that always has something to say: each call serves a part, so the others come in between. */
static void test_flood_leaves_turns(void **state)
{
    struct hostile *h = *state;
    int queued = 0, turns = 0;

    assert_int_equal(fcntl(h->bad_sock, F_SETFL, O_NONBLOCK), 0);
    h->numbers.number[0] = 1;
    h->numbers.head = (struct ms_msg_head){.type = MS_MSG_TEMPLATE_REF, .count = 1};
    while (send(h->bad_sock, &h->numbers, sizeof(struct ms_msg_head) + 4, 0) > 0)
        queued++;
    assert_true(queued > 64);
    while (h->bad->blocks.total < (uint64_t)queued) {
        uint64_t before = h->bad->blocks.total;

        assert_int_equal(ms_client_serve(h->bad), 0);
        assert_in_range(h->bad->blocks.total - before, 1, 64);
        push_numbers(h, h->good_sock, MS_MSG_TEMPLATE_REF, 1);
        assert_int_equal(ms_client_serve(h->good), 0);
        assert_int_equal(h->good->blocks.total, ++turns);
    }
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

static int open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* The daemon's table of files is not filled by what a guest process sends along. */
static void test_fds_sent_along(void **state)
{
    struct hostile *h = *state;
    struct ms_msg_head looked = {.type = MS_MSG_LOOKED};
    struct iovec iov = {.iov_base = &looked, .iov_len = sizeof(looked)};
    union {
        char bytes[CMSG_SPACE(100 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    int before = open_fds();

    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(100 * sizeof(int));
    for (size_t i = 0; i < 100; i++)
        memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &h->good_sock, sizeof(int));
    assert_int_equal(sendmsg(h->bad_sock, &msg, 0), sizeof(looked));
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(open_fds(), before);
    push_numbers(h, h->bad_sock, MS_MSG_LOOKED, 0);
    expect_cut_off(h, "was not sent");
}

/* Cut off, it still maps what it was given: that slot is nobody else's before it is gone. */
static void test_cut_off_but_alive(void **state)
{
    struct hostile *h = *state;
    uint8_t page[PAGE];
    uint32_t slot;

    get_asked(h);
    push_publish(h, h->bad_sock, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    slot = h->answer.number[0];
    assert_int_equal(pull(h, h->good_sock), MS_MSG_LOOK); /* it has that page, too; and drops it */
    h->numbers.number[0] = slot;
    push_numbers(h, h->good_sock, MS_MSG_DROP, 1);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
    ms_client_detach(h->bad);
    assert_int_equal(ms_client_serve(h->good), 0);
    assert_int_equal(h->pool->store.used, 2);
    assert_int_equal(pread(h->pool->store.fd, page, PAGE, (off_t)slot * PAGE), PAGE);
    assert_true(page_is(page, 2));
    close(h->bad_sock);
    assert_int_equal(ms_client_serve(h->good), 0);
    assert_int_equal(h->pool->store.used, 1);
    h->bad_sock = attach_another(h, "disk", &h->bad);
}

/* ---- taking offers back ---- */

static void withdraw(struct hostile *h, uint64_t hash, uint32_t page)
{
    h->offer.head = (struct ms_msg_head){.type = MS_MSG_WITHDRAW, .count = 1};
    h->offer.offer[0] = (struct ms_offer){.hash = hash, .page = page};
    push(h->bad_sock, &h->offer, offsetof(struct ms_msg_offer, offer) + sizeof(struct ms_offer));
    assert_int_equal(ms_client_serve(h->bad), 0);
}

static uint32_t answer_to(struct hostile *h, struct ms_client *client, int sock, uint64_t hash,
                          uint32_t page)
{
    h->offer.offer[0] = (struct ms_offer){.hash = hash, .page = page};
    push_offer(h, sock, 1);
    assert_int_equal(ms_client_serve(client), 0);
    while (pull(h, sock) == MS_MSG_LOOK)
        ;
    return h->answer.number[0];
}

/* Nobody takes back what another one offered, or what has a slot. */
static void test_withdraw_of_another_guests_offer(void **state)
{
    struct hostile *h = *state;

    assert_int_equal(answer_to(h, h->good, h->good_sock, 777, 20), MS_SLOT_UNIQUE);
    withdraw(h, 777, 20);
    withdraw(h, 777, 21);
    fill_page(h->publish.page[0], 1);
    withdraw(h, ms_hash_page(h->publish.page[0]), 7);
    assert_int_equal(answer_to(h, h->bad, h->bad_sock, 777, 22), MS_SLOT_PUBLISH);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

static void test_withdraw_again_and_again(void **state)
{
    struct hostile *h = *state;

    for (int i = 0; i < 1000; i++) {
        assert_int_equal(answer_to(h, h->bad, h->bad_sock, 777, 20), MS_SLOT_UNIQUE);
        for (int k = 0; k < 3; k++)
            withdraw(h, 777, 20);
    }
    for (uint32_t i = 0; i < RAM_PAGES; i++) /* its share of the index is what it was */
        assert_int_equal(answer_to(h, h->bad, h->bad_sock, 10000 + i, i), MS_SLOT_UNIQUE);
    assert_int_equal(answer_to(h, h->bad, h->bad_sock, 20000, 1), MS_SLOT_FULL);
    assert_int_equal(answer_to(h, h->good, h->good_sock, 20001, 1), MS_SLOT_UNIQUE);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

static void test_withdraw_beyond_ram(void **state)
{
    struct hostile *h = *state;

    h->offer.head = (struct ms_msg_head){.type = MS_MSG_WITHDRAW, .count = 1};
    h->offer.offer[0].page = RAM_PAGES;
    push(h->bad_sock, &h->offer, offsetof(struct ms_msg_offer, offer) + sizeof(struct ms_offer));
    expect_cut_off(h, "offers page 100 of 100");
}

/* ---- longer runs ---- */

/* A slot that the bad client alone holds, with one reference. */
static uint32_t own_slot(struct hostile *h, uint64_t number)
{
    uint32_t slot;

    fill_page(h->publish.page[0], number);
    assert_int_equal(
        answer_to(h, h->bad, h->bad_sock, ms_hash_page(h->publish.page[0]), number % RAM_PAGES),
        MS_SLOT_UNIQUE);
    assert_int_equal(answer_to(h, h->bad, h->bad_sock, ms_hash_page(h->publish.page[0]),
                               (number + 1) % RAM_PAGES),
                     MS_SLOT_PUBLISH);
    h->publish.item[0] = 0;
    push_publish(h, h->bad_sock, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    slot = h->answer.number[0];
    assert_true(slot <= MS_MAX_INDEX);
    /* its other page was the first: that is looked at now or later, and given back */
    h->numbers.number[0] = slot;
    push_numbers(h, h->bad_sock, MS_MSG_DROP, 1);
    assert_int_equal(ms_client_serve(h->bad), 0);
    assert_int_equal(ms_refs_get(&h->bad->slots, slot), 1);
    return slot;
}

/* Asks for a row for what is in h->numbers. */
static uint32_t repack(struct hostile *h, uint32_t n)
{
    push_numbers(h, h->bad_sock, MS_MSG_REPACK, n);
    assert_int_equal(ms_client_serve(h->bad), 0);
    while (pull(h, h->bad_sock) == MS_MSG_LOOK)
        ;
    assert_int_equal(h->answer.head.count, n);
    return h->answer.number[0];
}

static void test_repack_of_slots_not_held(void **state)
{
    struct hostile *h = *state;
    const uint32_t slot[] = {h->good_slot,     1000,      4096,           MS_MAX_INDEX,
                             MS_MAX_INDEX + 1, INT32_MAX, MS_SLOT_UNIQUE, MS_SLOT_FULL};

    for (size_t i = 0; i < sizeof(slot) / sizeof(slot[0]); i++) {
        for (uint32_t k = 0; k < 8; k++)
            h->numbers.number[k] = own_slot(h, 1000 + k);
        h->numbers.number[7] = slot[i]; /* one that is not its own, after some that are */
        push_numbers(h, h->bad_sock, MS_MSG_REPACK, 8);
        expect_cut_off(h, "does not hold");
        bad_again(h, true);
    }
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

/* What others hold as well is not copied for one of them. */
static void test_repack_of_what_others_hold(void **state)
{
    struct hostile *h = *state;

    push_offer(h, h->bad_sock, 1); /* the page that has a slot: one reference */
    assert_int_equal(ms_client_serve(h->bad), 0);
    h->numbers.number[0] = h->good_slot;
    pull(h, h->bad_sock);
    for (int i = 0; i < 100; i++)
        assert_int_equal(repack(h, 1), MS_SLOT_FULL);
    assert_int_equal(h->pool->store.used, 1);
    assert_int_equal(h->pool->store.reserved, 0);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

static void test_repack_of_one_slot_many_times(void **state)
{
    struct hostile *h = *state;
    uint32_t slot = own_slot(h, 50), first;
    uint8_t page[PAGE];

    for (uint32_t i = 0; i < MS_MAX_REPACK; i++)
        h->numbers.number[i] = slot;
    first = repack(h, MS_MAX_REPACK);
    assert_true(first <= MS_MAX_INDEX);
    assert_int_equal(h->pool->store.used, 2 + MS_MAX_REPACK);
    for (uint32_t i = 0; i < MS_MAX_REPACK; i++) {
        assert_int_equal(h->answer.number[i], first + i);
        assert_int_equal(pread(h->pool->store.fd, page, PAGE, (off_t)(first + i) * PAGE), PAGE);
        assert_true(page_is(page, 50));
    }
    drop_all_it_holds(h);
    assert_int_equal(h->pool->store.used, 1);
    fill_page(page, 50); /* nothing is left of it */
    assert_int_equal(answer_to(h, h->bad, h->bad_sock, ms_hash_page(page), 3), MS_SLOT_UNIQUE);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

/* Never a drop: it ends where all references end, and all it took is given back. */
static void test_flood_of_repacks(void **state)
{
    struct hostile *h = *state;
    uint32_t slot = own_slot(h, 50);
    int r = 0;

    for (int i = 0; i < 1000 && r == 0; i++) {
        for (uint32_t k = 0; k < MS_MAX_REPACK; k++)
            h->numbers.number[k] = slot;
        push_numbers(h, h->bad_sock, MS_MSG_REPACK, MS_MAX_REPACK);
        r = ms_client_serve(h->bad);
        if (r == 0)
            while (pull(h, h->bad_sock) == MS_MSG_LOOK)
                ;
        assert_in_range(h->pool->store.used, 1, RAM_PAGES + MS_REF_SLACK + 1);
        assert_int_equal(h->pool->store.reserved, 0);
    }
    assert_int_equal(r, -EPROTO);
    assert_non_null(strstr(ms_client_error(h->bad), "more references"));
    bad_again(h, true);
    assert_int_equal(ms_client_serve(h->good), 0);
    assert_int_equal(h->pool->store.used, 1);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

static void test_repack_before_anything_is_held(void **state)
{
    struct hostile *h = *state;

    bad_again(h, true);
    h->numbers.number[0] = 0;
    push_numbers(h, h->bad_sock, MS_MSG_REPACK, 1);
    expect_cut_off(h, "repacks slot 0, which it does not hold");
}

/* ---- what the daemon knows better, answers that are no slots, ends ---- */

static void test_other_ram_than_it_has(void **state)
{
    static const uint64_t claim[] = {1, RAM_PAGES - 1, RAM_PAGES + 1, 100000, MS_MAX_RAM_PAGES};
    struct hostile *h = *state;
    struct ms_msg_hello hello = {.head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION};

    for (size_t i = 0; i < sizeof(claim) / sizeof(claim[0]); i++) {
        bad_again(h, false);
        ms_client_expect_ram(h->bad, RAM_PAGES * PAGE);
        hello.ram_pages = claim[i];
        push(h->bad_sock, &hello, sizeof(hello));
        expect_cut_off(h, "pages of RAM, but has 100");
    }
    bad_again(h, false);
    ms_client_expect_ram(h->bad, RAM_PAGES * PAGE);
    greet(h->bad_sock);
    assert_int_equal(ms_client_serve(h->bad), 0);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

/* The same content a hundred times in one OFFER: it is asked for once. */
static void test_one_offer_full_of_one_content(void **state)
{
    struct hostile *h = *state;
    uint32_t asked = 0, again = 0;

    for (uint32_t i = 0; i < RAM_PAGES; i++)
        h->offer.offer[i] = (struct ms_offer){.hash = 4711, .page = i};
    push_offer(h, h->bad_sock, RAM_PAGES);
    assert_int_equal(ms_client_serve(h->bad), 0);
    while (pull(h, h->bad_sock) == MS_MSG_LOOK)
        ;
    assert_int_equal(h->answer.number[0], MS_SLOT_UNIQUE);
    for (uint32_t i = 1; i < RAM_PAGES; i++) {
        asked += h->answer.number[i] == MS_SLOT_PUBLISH;
        again += h->answer.number[i] == MS_SLOT_AGAIN;
    }
    assert_int_equal(asked, 1);
    assert_int_equal(asked + again, RAM_PAGES - 1);
    push_publish(h, h->bad_sock, 1); /* not the one that was asked for */
    expect_cut_off(h, "nobody asked for");
}

/* No room: nobody is asked for a page, and what is there stays. */
static void test_full_store(void **state)
{
    struct hostile *h = *state;

    h->pool->store.max_slots = 2;
    (void)own_slot(h, 50);
    assert_int_equal(answer_to(h, h->good, h->good_sock, 4711, 1), MS_SLOT_UNIQUE);
    assert_int_equal(answer_to(h, h->bad, h->bad_sock, 4711, 2), MS_SLOT_FULL);
    push_publish(h, h->bad_sock, 1);
    expect_cut_off(h, "nobody asked for");
}

/* It greets a pool that would answer, and is gone. */
static void test_greeting_without_staying(void **state)
{
    struct hostile *h = *state;
    struct ms_client *client;
    struct ms_pool *pool;
    int pair[2];

    assert_int_equal(ms_pool_new(&pool, "hide", 0, MS_TIMING_HIDE), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    assert_int_equal(ms_pool_attach(pool, pair[0], "", 0, &client), 0);
    greet(pair[1]);
    close(pair[1]);
    assert_int_equal(ms_client_serve(client), -ECONNRESET);
    assert_string_equal(ms_client_error(client), "");
    ms_client_detach(client);
    ms_pool_free(pool);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

/* Offers whose hashes are alike but for a few bits: none of them stands far from its place. */
static void test_chosen_hashes(void **state)
{
    struct hostile *h = *state;
    const struct ms_index *index = &h->pool->index;
    struct ms_msg_hello hello = {
        .head = {.type = MS_MSG_HELLO}, .version = MS_PROTO_VERSION, .ram_pages = 1 << 20};
    uint64_t longest = 0, row = 0;

    bad_again(h, false);
    push(h->bad_sock, &hello, sizeof(hello));
    for (uint64_t n = 0; n < 20 * MS_MAX_OFFER; n += MS_MAX_OFFER) {
        for (uint64_t k = 0; k < MS_MAX_OFFER; k++)
            h->offer.offer[k] =
                (struct ms_offer){.hash = (n + k) << 40 | 12345, .page = (uint32_t)(n + k)};
        push_offer(h, h->bad_sock, MS_MAX_OFFER);
        assert_int_equal(ms_client_serve(h->bad), 0);
        assert_int_equal(pull(h, h->bad_sock), MS_MSG_ANSWER);
    }
    assert_true(index->used > 20 * MS_MAX_OFFER);
    for (uint64_t i = 0; i < index->size; i++) {
        row = index->entry[i].kind == MS_ENTRY_EMPTY ? 0 : row + 1;
        longest = row > longest ? row : longest;
    }
    assert_in_range(longest, 1, 2000);
    push_numbers(h, h->bad_sock, 99, 0);
    expect_cut_off(h, "message 99");
}

#define HOSTILE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOSTILE(test_no_greeting),
        HOSTILE(test_two_greetings),
        HOSTILE(test_other_version),
        HOSTILE(test_absurd_ram),
        HOSTILE(test_too_short),
        HOSTILE(test_truncated),
        HOSTILE(test_longer_than_said),
        HOSTILE(test_oversize),
        HOSTILE(test_huge_count),
        HOSTILE(test_unknown_type),
        HOSTILE(test_answer_from_a_client),
        HOSTILE(test_offer_beyond_ram),
        HOSTILE(test_publish_unasked),
        HOSTILE(test_publish_out_of_range),
        HOSTILE(test_publish_a_lie),
        HOSTILE(test_publish_again),
        HOSTILE(test_publish_twice_in_one),
        HOSTILE(test_drop_of_another_guests_slot),
        HOSTILE(test_drop_out_of_range),
        HOSTILE(test_drop_twice),
        HOSTILE(test_template_block_out_of_range),
        HOSTILE(test_template_drop_unheld),
        HOSTILE(test_unsent_look),
        HOSTILE(test_more_references_than_pages),
        HOSTILE(test_flood_without_reading),
        HOSTILE(test_flood_of_offers),
        HOSTILE(test_standing_still_is_honest),
        HOSTILE(test_read_only_store),
        HOSTILE(test_closed_socket),
        HOSTILE(test_every_wrong_length),
        HOSTILE(test_every_wrong_count),
        HOSTILE(test_empty_packet),
        HOSTILE(test_everything_before_the_greeting),
        HOSTILE(test_publish_before_any_offer),
        HOSTILE(test_publish_too_late),
        HOSTILE(test_replayed_publish),
        HOSTILE(test_replayed_drop),
        HOSTILE(test_replayed_template_drop),
        HOSTILE(test_drop_of_another_groups_slot),
        HOSTILE(test_slots_that_never_were),
        HOSTILE(test_blocks_without_a_template),
        HOSTILE(test_more_blocks_than_pages),
        HOSTILE(test_no_ram),
        HOSTILE(test_more_ram_than_there_can_be),
        HOSTILE(test_flood_of_the_largest_guest),
        HOSTILE(test_flood_leaves_turns),
        HOSTILE(test_fds_sent_along),
        HOSTILE(test_cut_off_but_alive),
        HOSTILE(test_withdraw_of_another_guests_offer),
        HOSTILE(test_withdraw_again_and_again),
        HOSTILE(test_withdraw_beyond_ram),
        HOSTILE(test_repack_of_slots_not_held),
        HOSTILE(test_repack_of_what_others_hold),
        HOSTILE(test_repack_of_one_slot_many_times),
        HOSTILE(test_flood_of_repacks),
        HOSTILE(test_repack_before_anything_is_held),
        HOSTILE(test_other_ram_than_it_has),
        HOSTILE(test_one_offer_full_of_one_content),
        HOSTILE(test_full_store),
        HOSTILE(test_greeting_without_staying),
        HOSTILE(test_chosen_hashes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
