/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A daemon that lies, and a scanner that must not mind: it goes on without a pool, and guest RAM
 * keeps its bytes whatever it is told.
 *
 * First the link alone: all that is answered stands in the socket before it is asked for, so
 * nothing waits. Then a scanner with the test as its daemon.
 */
#include "memshare/link.h"
#include "memshare/pool.h"

#include <sys/eventfd.h>

#include "tests/unit/test-memshare.h"

/* ---- the link alone ---- */

struct liar {
    struct ms_link link;
    int sock; /* the daemon's end */
    bool canceled;
    union {
        struct ms_msg_head head;
        struct ms_msg_numbers numbers;
        struct ms_msg_look look;
        uint8_t byte[2 * sizeof(struct ms_msg_look)];
    } out;
    uint8_t in[sizeof(struct ms_msg_publish)];
};

static bool is_canceled(void *opaque)
{
    const struct liar *liar = opaque;

    return liar->canceled;
}

static int setup(void **state)
{
    struct liar *liar = calloc(1, sizeof(*liar));
    int pair[2];

    assert_non_null(liar);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    ms_link_init(&liar->link, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), is_canceled, liar);
    assert_int_equal(ms_link_open(&liar->link, pair[1], -1, 1000), 0);
    liar->sock = pair[0];
    assert_int_equal(recv(liar->sock, liar->in, sizeof(liar->in), 0), sizeof(struct ms_msg_hello));
    *state = liar;
    return 0;
}

static int teardown(void **state)
{
    struct liar *liar = *state;

    close(liar->link.wake);
    ms_link_close(&liar->link);
    close(liar->sock);
    free(liar);
    return 0;
}

static void say(struct liar *liar, uint32_t type, uint32_t count, size_t length)
{
    liar->out.head = (struct ms_msg_head){.type = type, .count = count};
    assert_int_equal(send(liar->sock, &liar->out, length, 0), length);
}

static void answer(struct liar *liar, uint32_t count)
{
    say(liar, MS_MSG_ANSWER, count,
        offsetof(struct ms_msg_numbers, number) + count * sizeof(uint32_t));
}

static void look(struct liar *liar, uint32_t count)
{
    say(liar, MS_MSG_LOOK, count,
        offsetof(struct ms_msg_look, look) + count * sizeof(struct ms_look));
}

static int offer(struct liar *liar, uint32_t n, uint32_t *ret_slot)
{
    static const struct ms_offer offers[MS_MAX_OFFER];

    return ms_link_offer(&liar->link, offers, n, ret_slot);
}

static void expect_lost(struct liar *liar)
{
    struct ms_offer one = {.hash = 1};
    uint32_t slot = 4711;

    assert_int_equal(offer(liar, 3, (uint32_t[3]){0}), -ECONNRESET);
    assert_false(ms_link_is_up(&liar->link));
    assert_int_equal(ms_link_offer(&liar->link, &one, 1, &slot), -ECONNRESET);
    assert_int_equal(ms_link_publish(&liar->link, &(uint32_t){0}, liar->in, 1, &slot), -ECONNRESET);
    assert_int_equal(ms_link_repack(&liar->link, &(uint32_t){0}, 1, &slot), -ECONNRESET);
    assert_int_equal(slot, 4711);
    ms_link_drop(&liar->link, 1);
    ms_link_withdraw(&liar->link, 1, 1);
    assert_int_equal(ms_link_flush(&liar->link), 0);
    assert_int_equal(ms_link_poll(&liar->link), 0);
}

static void test_wrong_lengths(void **state)
{
    static const struct {
        uint32_t type, count;
        size_t length;
    } lie[] = {
        {MS_MSG_ANSWER, 3, 3},
        {MS_MSG_ANSWER, 3, 8},
        {MS_MSG_ANSWER, 3, 8 + 2 * 4},
        {MS_MSG_ANSWER, 3, 8 + 4 * 4},
        {MS_MSG_ANSWER, UINT32_MAX, 4},
        {MS_MSG_ANSWER, 0x40000003, 8 + 3 * 4}, /* what 32 bits would make of it */
        {MS_MSG_ANSWER, MS_MAX_OFFER + 1, 8 + (MS_MAX_OFFER + 1) * 4},
        {MS_MSG_LOOK, 1, 8},
        {MS_MSG_LOOK, 1, 8 + 4},
        {MS_MSG_LOOK, MS_MAX_LOOK + 1, 8 + (MS_MAX_LOOK + 1) * 8},
        {MS_MSG_LOOK, 0x20000001, 8 + 8},
        {MS_MSG_HIDE, 1, 8},
        {MS_MSG_HIDE, 0, 12},
        {MS_MSG_HELLO, 0, sizeof(struct ms_msg_hello)},
        {MS_MSG_OFFER, 1, 8 + sizeof(struct ms_offer)},
        {MS_MSG_LOOKED, 0, 8},
        {0, 0, 8},
        {99, 0, 8},
        {UINT32_MAX, UINT32_MAX, 8},
    };

    for (size_t i = 0; i < sizeof(lie) / sizeof(lie[0]); i++) {
        say(*state, lie[i].type, lie[i].count, lie[i].length);
        expect_lost(*state);
        teardown(state);
        setup(state);
    }
}

static void test_answers_of_another_count(void **state)
{
    static const uint32_t count[] = {0, 1, 2, 4, MS_MAX_OFFER};

    for (size_t i = 0; i < sizeof(count) / sizeof(count[0]); i++) {
        answer(*state, count[i]);
        expect_lost(*state);
        teardown(state);
        setup(state);
    }
}

static void test_an_answer_nobody_waits_for(void **state)
{
    struct liar *liar = *state;
    uint32_t slot[3];

    answer(liar, 3);
    answer(liar, 3); /* it would be taken for that of the next offer */
    assert_int_equal(offer(liar, 3, slot), 0);
    assert_int_equal(ms_link_poll(&liar->link), -ECONNRESET);
    expect_lost(liar);
}

static void test_look_again_without_looked(void **state)
{
    struct liar *liar = *state;
    struct ms_look looks[MS_MAX_LOOK];
    struct ms_msg_head head;

    look(liar, 2);
    assert_int_equal(ms_link_poll(&liar->link), 0);
    assert_int_equal(ms_link_take_look(&liar->link, looks), 2);
    assert_int_equal(recv(liar->sock, &head, sizeof(head), 0), sizeof(head));
    assert_int_equal(head.type, MS_MSG_LOOKED);
    look(liar, MS_MAX_LOOK);
    look(liar, 1);
    expect_lost(liar);
}

static void test_slots_out_of_range(void **state)
{
    static const uint32_t slot[] = {MS_MAX_INDEX + 1, INT32_MAX, MS_SLOT_FULL, UINT32_MAX};
    struct liar *liar = *state;

    for (size_t i = 0; i < sizeof(slot) / sizeof(slot[0]); i++) {
        liar->out.look.look[1] = (struct ms_look){.page = 1, .slot = slot[i]};
        look(liar, 2);
        expect_lost(liar);
        teardown(state);
        setup(state);
        liar = *state;
    }
}

static void test_a_row_that_is_none(void **state)
{
    static const uint32_t row[][4] = {
        {10, 11, 12, 14},
        {10, 10, 10, 10},
        {10, 11, 12, MS_SLOT_FULL},
        {MS_SLOT_FULL, 11, 12, 13},
        {MS_MAX_INDEX - 2, MS_MAX_INDEX - 1, MS_MAX_INDEX, MS_MAX_INDEX + 1},
    };
    static const uint32_t full[] = {MS_SLOT_FULL, MS_SLOT_FULL, MS_SLOT_FULL, MS_SLOT_FULL};
    static const uint32_t right[] = {10, 11, 12, 13};
    struct liar *liar = *state;
    uint32_t slot[4];

    memcpy(liar->out.numbers.number, right, sizeof(right));
    answer(liar, 4);
    assert_int_equal(ms_link_repack(&liar->link, right, 4, slot), 0);
    memcpy(liar->out.numbers.number, full, sizeof(full));
    answer(liar, 4);
    assert_int_equal(ms_link_repack(&liar->link, right, 4, slot), 0);
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        memcpy(liar->out.numbers.number, row[i], sizeof(row[i]));
        answer(liar, 4);
        assert_int_equal(ms_link_repack(&liar->link, right, 4, slot), -ECONNRESET);
        expect_lost(liar);
        teardown(state);
        setup(state);
        liar = *state;
    }
}

static void test_it_hangs_up(void **state)
{
    struct liar *liar = *state;

    say(liar, MS_MSG_HIDE, 0, sizeof(struct ms_msg_head));
    shutdown(liar->sock, SHUT_RDWR);
    expect_lost(liar);
}

/* The answer that was not waited for must not be taken for the next one. */
static void test_nothing_is_asked_after_a_canceled_wait(void **state)
{
    struct liar *liar = *state;
    uint32_t slot[3];

    liar->canceled = true;
    assert_int_equal(offer(liar, 3, slot), -ECANCELED);
    liar->canceled = false;
    answer(liar, 3);
    assert_int_equal(offer(liar, 3, slot), -ECANCELED);
    assert_int_equal(ms_link_publish(&liar->link, slot, liar->in, 1, slot), -ECANCELED);
    assert_int_equal(ms_link_repack(&liar->link, slot, 1, slot), -ECANCELED);
    assert_int_equal(ms_link_poll(&liar->link), 0); /* late, but no lie */
    assert_true(ms_link_is_up(&liar->link));
    assert_int_equal(offer(liar, 3, slot), -ECANCELED);
    ms_link_drop(&liar->link, 5);
    assert_int_equal(ms_link_flush(&liar->link), 0);
    assert_true(recv(liar->sock, liar->in, sizeof(liar->in), MSG_DONTWAIT) > 0); /* one OFFER */
    assert_true(recv(liar->sock, liar->in, sizeof(liar->in), MSG_DONTWAIT) > 0); /* the DROP */
    assert_int_equal(recv(liar->sock, liar->in, sizeof(liar->in), MSG_DONTWAIT), -1);
}

/* ---- a scanner ---- */

#define PAGES   1500
#define ZEROS   10   /* at the beginning */
#define IN_POOL 2000 /* the file's pages: the first hold what guest pages from ZEROS on hold */

struct scene {
    struct guest guest;
    int sock, pool;
    union {
        struct ms_msg_head head;
        struct ms_msg_offer offer;
        uint8_t byte[sizeof(struct ms_msg_publish)];
    } in;
    struct ms_msg_numbers out;
    struct ms_msg_look look;
};

static int connect_scene(struct scene *s)
{
    int pair[2], pool = dup(s->pool);

    assert_true(pool >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(ms_scanner_connect(s->guest.scanner, pair[1], pool), 0);
    return pair[0];
}

/* Waits for a message of this kind, passing over others. */
static void expect_message(struct scene *s, int sock, uint32_t type)
{
    struct pollfd fd = {.fd = sock, .events = POLLIN};

    do {
        assert_int_equal(poll(&fd, 1, WAIT_SECONDS * 1000), 1);
        assert_true(recv(sock, &s->in, sizeof(s->in), 0) > 0);
    } while (s->in.head.type != type);
}

static struct scene *scene_new(void)
{
    struct scene *s = calloc(1, sizeof(*s));
    uint8_t page[PAGE];

    assert_non_null(s);
    guest_init(&s->guest, PAGES);
    memset(s->guest.ram, 0, ZEROS * PAGE);
    s->pool = memfd_create("liar", MFD_CLOEXEC);
    assert_int_equal(ftruncate(s->pool, IN_POOL * PAGE), 0);
    for (uint64_t p = ZEROS; p < PAGES; p++) {
        fill_page(s->guest.ram + p * PAGE, p);
        fill_page(page, p);
        assert_int_equal(pwrite(s->pool, page, PAGE, (off_t)((p - ZEROS) * PAGE)), PAGE);
    }
    guest_start(&s->guest, NULL, 0, MS_ALLOW_ALL);
    s->sock = connect_scene(s);
    expect_message(s, s->sock, MS_MSG_HELLO);
    return s;
}

/* RAM has its bytes, and the scanner still merges what needs no pool. */
static void scene_end(struct scene *s)
{
    pthread_rwlock_rdlock(&s->guest.lock);
    for (uint64_t p = ZEROS; p < PAGES; p++)
        assert_true(page_is(s->guest.ram + p * PAGE, p));
    memset(s->guest.ram + 100 * PAGE, 0, 300 * PAGE);
    pthread_rwlock_unlock(&s->guest.lock);
    WAIT_FOR(guest_ledger(&s->guest).zero >= 300 * PAGE);
    for (uint64_t p = 0; p < PAGES; p++)
        assert_true(p < ZEROS || (p >= 100 && p < 400) ? ms_is_zero_page(s->guest.ram + p * PAGE)
                                                       : page_is(s->guest.ram + p * PAGE, p));
    guest_end(&s->guest);
    close(s->sock);
    close(s->pool);
    free(s);
}

static void reply(struct scene *s, uint32_t count)
{
    size_t length = offsetof(struct ms_msg_numbers, number) + count * sizeof(uint32_t);

    s->out.head = (struct ms_msg_head){.type = MS_MSG_ANSWER, .count = count};
    assert_int_equal(send(s->sock, &s->out, length, 0), length);
}

/* Receives the next message; is it of this kind? */
static bool next_is(struct scene *s, uint32_t type)
{
    struct pollfd fd = {.fd = s->sock, .events = POLLIN};

    assert_int_equal(poll(&fd, 1, WAIT_SECONDS * 1000), 1);
    assert_true(recv(s->sock, &s->in, sizeof(s->in), 0) > 0);
    return s->in.head.type == type;
}

/* Nobody else has what was offered, if that is what was received. */
static void answer_unique(struct scene *s)
{
    if (s->in.head.type != MS_MSG_OFFER)
        return;
    for (uint32_t i = 0; i < s->in.head.count; i++)
        s->out.number[i] = MS_SLOT_UNIQUE;
    reply(s, s->in.head.count);
}

/* It dies while the scanner waits for its answer. */
static void test_end_while_it_waits(void **state)
{
    struct scene *s = scene_new();

    (void)state;
    expect_message(s, s->sock, MS_MSG_OFFER);
    shutdown(s->sock, SHUT_RDWR);
    scene_end(s);
}

static void test_nonsense_while_it_waits(void **state)
{
    struct scene *s = scene_new();

    (void)state;
    expect_message(s, s->sock, MS_MSG_OFFER);
    reply(s, s->in.head.count - 1);
    scene_end(s);
}

/* Slots there are not, slots that hold something else, and numbers that mean nothing. */
static void test_wrong_slots(void **state)
{
    static const uint32_t wrong[] = {0,         1,         IN_POOL,         IN_POOL - 1,
                                     500000,    INT32_MAX, MS_SLOT_FULL,    MS_SLOT_AGAIN,
                                     INT32_MAX, 777,       MS_MAX_INDEX - 1};
    struct scene *s = scene_new();

    (void)state;
    for (int round = 0; round < 3; round++) {
        expect_message(s, s->sock, MS_MSG_OFFER);
        for (uint32_t i = 0; i < s->in.head.count; i++)
            s->out.number[i] = wrong[i % (sizeof(wrong) / sizeof(wrong[0]))];
        reply(s, s->in.head.count);
    }
    shutdown(s->sock, SHUT_RDWR);
    scene_end(s);
}

/* Pages there are not, one page again and again, and a page that is not like the slot. */
static void test_wrong_looks(void **state)
{
    struct scene *s = scene_new();

    (void)state;
    for (uint32_t i = 0; i < MS_MAX_LOOK; i++)
        s->look.look[i] = (struct ms_look){.page = i % 5 ? ZEROS + i % 100 : PAGES + i * 1000,
                                           .slot = i % 3 ? i % 100 : i};
    s->look.head = (struct ms_msg_head){.type = MS_MSG_LOOK, .count = MS_MAX_LOOK};
    assert_int_equal(send(s->sock, &s->look, sizeof(s->look), 0), sizeof(s->look));
    while (!next_is(s, MS_MSG_LOOKED)) /* it may have asked something before it was told */
        answer_unique(s);
    WAIT_FOR(guest_ledger(&s->guest).merges > 0); /* what was right is taken */
    shutdown(s->sock, SHUT_RDWR);
    scene_end(s);
}

/* It never answers: another one takes its place, and is not sent what was meant for the first. */
static void test_another_daemon_while_it_waits(void **state)
{
    struct scene *s = scene_new();
    int first = s->sock, offers = 0;
    ssize_t n;

    (void)state;
    expect_message(s, first, MS_MSG_OFFER);
    s->sock = connect_scene(s);
    expect_message(s, s->sock, MS_MSG_HELLO);
    while ((n = recv(first, &s->in, sizeof(s->in), MSG_DONTWAIT)) > 0)
        offers += s->in.head.type == MS_MSG_OFFER;
    assert_int_equal(offers, 0); /* the one it read was the only one */
    expect_message(s, s->sock, MS_MSG_OFFER);
    shutdown(s->sock, SHUT_RDWR);
    scene_end(s);
    close(first);
}

/* And nobody waits for one that never answers when the guest ends. */
static void test_stop_while_it_waits(void **state)
{
    struct scene *s = scene_new();

    (void)state;
    expect_message(s, s->sock, MS_MSG_OFFER);
    guest_end(&s->guest);
    close(s->sock);
    close(s->pool);
    free(s);
}

/* ---- a daemon that goes on without us ---- */

static uint64_t rig_client_slots(struct rig *rig, int i)
{
    uint64_t total;

    pthread_mutex_lock(&rig->lock);
    total = rig->client[i]->slots.total;
    pthread_mutex_unlock(&rig->lock);
    return total;
}

/* The link broke, the daemon did not: it must not think that nothing of its pool is mapped. */
static void test_a_broken_link_keeps_its_references(void **state)
{
    const uint64_t n = 64;
    struct rig rig;
    struct guest guest[2];

    (void)state;
    rig_start(&rig);
    for (int i = 0; i < 2; i++) {
        guest_init(&guest[i], n);
        for (uint64_t p = 0; p < n; p++)
            fill_page(guest[i].ram + p * PAGE, p);
        guest_start(&guest[i], NULL, 0, MS_ALLOW_ALL);
        guest_connect(&guest[i], &rig, i, 0);
    }
    for (int i = 0; i < 2; i++)
        WAIT_FOR(guest_ledger(&guest[i]).pool == n * PAGE);
    assert_int_equal(send(ms_client_fd(rig.client[0]), "lie", 3, 0), 3);
    WAIT_FOR(guest[0].scanner->link.dead);
    rig_detach(&rig, 0);
    for (uint64_t p = 0; p < n; p++)
        guest_write(&guest[1], p, 1000 + p);
    WAIT_FOR(rig_client_slots(&rig, 1) == 0);
    guest_connect(&guest[0], &rig, 0, 0);
    WAIT_FOR(rig_greeted(&rig, 0));
    for (uint64_t p = 0; p < n; p++)
        assert_true(page_is(guest[0].ram + p * PAGE, p));
    for (int i = 0; i < 2; i++)
        guest_end(&guest[i]);
    rig_end(&rig);
}

/* Detached for no fault of its own, a guest waits for no answer: it merges what needs no pool. */
static void test_detached_it_goes_on(void **state)
{
    const uint64_t n = 256;
    struct rig rig;
    struct guest guest;

    (void)state;
    rig_start(&rig);
    guest_init(&guest, n);
    guest_start(&guest, NULL, 0, MS_ALLOW_ALL);
    guest_connect(&guest, &rig, 0, 0);
    WAIT_FOR(rig_greeted(&rig, 0));
    rig_detach(&rig, 0);
    for (int round = 0; round < 10; round++) {
        for (uint64_t p = 0; p < n; p++)
            guest_write(&guest, p, 1000 * (uint64_t)round + p);
        pthread_rwlock_rdlock(&guest.lock);
        memset(guest.ram + 50 * PAGE, 0, 100 * PAGE);
        pthread_rwlock_unlock(&guest.lock);
        WAIT_FOR(guest_ledger(&guest).zero == 100 * PAGE);
    }
    guest_end(&guest);
    rig_end(&rig);
}

#define LINK(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LINK(test_wrong_lengths),
        LINK(test_answers_of_another_count),
        LINK(test_an_answer_nobody_waits_for),
        LINK(test_look_again_without_looked),
        LINK(test_slots_out_of_range),
        LINK(test_a_row_that_is_none),
        LINK(test_it_hangs_up),
        LINK(test_nothing_is_asked_after_a_canceled_wait),
        cmocka_unit_test(test_end_while_it_waits),
        cmocka_unit_test(test_nonsense_while_it_waits),
        cmocka_unit_test(test_wrong_slots),
        cmocka_unit_test(test_wrong_looks),
        cmocka_unit_test(test_another_daemon_while_it_waits),
        cmocka_unit_test(test_stop_while_it_waits),
        cmocka_unit_test(test_a_broken_link_keeps_its_references),
        cmocka_unit_test(test_detached_it_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
