/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest processes that speak the protocol wrongly: each is cut off with one line of why, and the
 * pool and its other clients stay as they were.
 */
#include "memshare/pool.h"
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

    assert_non_null(big);
    big->head = (struct ms_msg_head){.type = MS_MSG_PUBLISH, .count = MS_MAX_PUBLISH + 1};
    push(h->bad_sock, big, length);
    free(big);
    expect_cut_off(h, "with count 17");
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
