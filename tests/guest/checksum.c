/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * checksum: a guest that knows what every byte of its memory must be. Pages hold one of a small set
 * of patterns, so that guests have many equal ones, or zeroes. It verifies pages at random, and in
 * a window that wanders through memory rewrites them or changes one word: outside of the window
 * pages lie still long enough to be merged, and are split when it comes. It prints how far it is
 * about once a second, WRONG at the first wrong byte, and when somebody types: the sum, and powers
 * off.
 */
#include "runtime.h"

#define START        (32ull << 20) /* of the pages; the table of what they hold is below */
#define PAGE         4096u
#define WORDS        (PAGE / 8)
#define PATTERNS     200u
#define UNCHANGED    0xffffu
#define WINDOW_PART  16u     /* the window is this part of memory */
#define WINDOW_TURNS 200000u /* and moves on after so many turns */

struct page_state {
    uint16_t pattern;      /* 0: zeroes */
    uint16_t changed_word; /* or UNCHANGED */
    uint32_t change;
};

static struct page_state *const table = (struct page_state *)(20ull << 20);
static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t pattern_word(uint16_t pattern, unsigned word)
{
    return pattern ? (pattern * 0x9e3779b97f4a7c15ull) ^ (word * 0xc2b2ae3d27d4eb4full) : 0;
}

static uint64_t expected(const struct page_state *s, unsigned word)
{
    uint64_t v = pattern_word(s->pattern, word);

    return word == s->changed_word ? v ^ s->change : v;
}

static volatile uint64_t *page_at(uint64_t i)
{
    return (volatile uint64_t *)(START + i * PAGE);
}

static void rewrite(uint64_t i, uint16_t pattern)
{
    volatile uint64_t *p = page_at(i);

    table[i] = (struct page_state){pattern, UNCHANGED, 0};
    for (unsigned w = 0; w < WORDS; w++)
        p[w] = pattern_word(pattern, w);
}

static void change_word(uint64_t i)
{
    struct page_state *s = &table[i];

    if (s->changed_word != UNCHANGED)
        page_at(i)[s->changed_word] = pattern_word(s->pattern, s->changed_word);
    s->changed_word = (uint16_t)(next_random() % WORDS);
    s->change = (uint32_t)next_random() | 1;
    page_at(i)[s->changed_word] = expected(s, s->changed_word);
}

static void verify(uint64_t i)
{
    volatile uint64_t *p = page_at(i);

    for (unsigned w = 0; w < WORDS; w++) {
        if (p[w] == expected(&table[i], w))
            continue;
        print("WRONG page ");
        print_number(i);
        print(" word ");
        print_number(w);
        print("\n");
        power_off();
    }
}

void guest_main(uint8_t *boot_params)
{
    uint64_t n = (ram_end(boot_params, START) - START) / PAGE, turns = 0, writes = 0,
             said = rdtsc();

    random_state = rdtsc() | 1;
    for (uint64_t i = 0; i < n; i++)
        rewrite(
            i,
            (uint16_t)(i % 3 == 0 ? 0 : i / 8 % PATTERNS)); /* runs of 8, the same in every guest */
    print("ready login: \n");
    while (typed() < 0) {
        uint64_t r = next_random(), i = next_random() % n;
        uint64_t window = n / WINDOW_PART,
                 at = (turns / WINDOW_TURNS * window + next_random() % window) % n;
        verify(i);
        if (r % 8 < 2) {
            verify(at);
            if (r % 8 == 0)
                rewrite(
                    at,
                    (uint16_t)(at / 8 %
                               PATTERNS)); /* what it was at first: equal to other guests' again */
            else
                change_word(at);
            writes++;
        }
        turns++;
        if (rdtsc() - said > 2000000000ull) {
            said = rdtsc();
            print("verified ");
            print_number(turns);
            print("\n");
        }
    }
    for (uint64_t i = 0; i < n; i++)
        verify(i);
    print("RIGHT after ");
    print_number(turns);
    print(" checks and ");
    print_number(writes);
    print(" writes\n");
    power_off();
}
