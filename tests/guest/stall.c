/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stall: a guest that measures from inside how long it is held up. Its pages are the same in every
 * such guest. In a phase it turns a short loop, counts the gaps between two looks at the TSC, and
 * rewrites half of its pages, one after the other: each is split, and lies still from then on.
 *
 * Typed to it: c  a phase with content that every such guest writes: all is merged again meanwhile;
 *              u  a phase with content of its own, so that nothing can be merged: the baseline;
 *              q  says whether all content is right, and powers off.
 * After a phase it prints how many gaps were how long, what they sum up to, and "end of LETTER".
 */
#include "runtime.h"

#define START       (32ull << 20)
#define PAGES       16384u
#define PAGE        4096u
#define WORDS       (PAGE / 8)
#define PHASE       10u  /* seconds */
#define NOT_LOOKING 512u /* turns between two looks at the serial port */

/* Gaps of up to 1, 2, 4 ... us; the last is everything longer. */
#define BUCKETS 20u
#define STALL   7u /* from this bucket on a gap is called a stall: more than 64 us */

struct gaps {
    uint64_t bucket[BUCKETS];
    uint64_t max, stalled; /* TSC ticks */
};

/* What a page holds: set when it was written. */
static uint64_t *const seed_of = (uint64_t *)(20ull << 20);
static uint64_t ticks_per_us, own, phases;
static unsigned next_page;

static uint64_t word_of(uint64_t seed, unsigned word)
{
    return (seed + word) * 0x9e3779b97f4a7c15ull;
}

static void write_page(unsigned page, uint64_t seed, uint64_t secret)
{
    volatile uint64_t *p = (volatile uint64_t *)(START + (uint64_t)page * PAGE);

    seed += secret;
    seed_of[page] = seed;
    for (unsigned w = 0; w < WORDS; w++)
        p[w] = word_of(seed, w);
}

static int right(void)
{
    for (unsigned page = 0; page < PAGES; page++)
        for (unsigned w = 0; w < WORDS; w++)
            if (((volatile uint64_t *)(START + (uint64_t)page * PAGE))[w] !=
                word_of(seed_of[page], w))
                return 0;
    return 1;
}

static void count_gap(struct gaps *g, uint64_t ticks)
{
    unsigned i = 0;

    while (i < BUCKETS - 1 && ticks > ticks_per_us << i)
        i++;
    g->bucket[i]++;
    if (ticks > g->max)
        g->max = ticks;
    if (i >= STALL)
        g->stalled += ticks;
}

static void print_field(const char *name, uint64_t n)
{
    print(name);
    print_number(n);
}

/* The bucket's end, us: of the gaps that are longer than `from`, `parts` of `whole` are no longer
 * than this. */
static uint64_t quantile(const struct gaps *g, unsigned from, uint64_t parts, uint64_t whole)
{
    uint64_t seen = 0, count = 0;

    for (unsigned i = from; i < BUCKETS; i++)
        count += g->bucket[i];
    for (unsigned i = from; i < BUCKETS - 1; i++) {
        seen += g->bucket[i];
        if (seen * whole >= count * parts)
            return count ? 1ull << i : 0;
    }
    return g->max / ticks_per_us;
}

static void report(const struct gaps *g, char phase)
{
    const char name[] = {phase, '\0'};
    uint64_t stalls = 0;

    for (unsigned i = 0; i < BUCKETS; i++) {
        print_field(i < BUCKETS - 1 ? "gaps up to us " : "gaps above us ",
                    1ull << (i < BUCKETS - 1 ? i : i - 1));
        print_field(": ", g->bucket[i]);
        print("\n");
    }
    print("gaps ");
    print(name);
    print_field(" p50 ", quantile(g, 0, 50, 100));
    print_field(" p99 ", quantile(g, 0, 99, 100));
    print_field(" p999 ", quantile(g, 0, 999, 1000));
    print_field(" max ", g->max / ticks_per_us);
    print("\nstalls ");
    print(name);
    for (unsigned i = STALL; i < BUCKETS; i++)
        stalls += g->bucket[i];
    print_field(" count ", stalls);
    print_field(" together ", g->stalled / ticks_per_us);
    print_field(" p50 ", quantile(g, STALL, 50, 100));
    print_field(" p99 ", quantile(g, STALL, 99, 100));
    print_field(" p999 ", quantile(g, STALL, 999, 1000));
    print("\nend of ");
    print(name);
    print("\n");
}

static void run_phase(char phase)
{
    uint64_t step = ticks_per_us * 1000000 * PHASE / (PAGES / 2);
    uint64_t last = rdtsc(), end = last + ticks_per_us * 1000000 * PHASE, due = last;
    struct gaps gaps = {{0}, 0, 0};

    phases++;
    for (;;) {
        uint64_t now = rdtsc();
        count_gap(&gaps, now - last);
        last = now;
        if (now > end)
            break;
        if (now < due)
            continue;
        due += step;
        write_page(next_page, (uint64_t)next_page << 16 | phases, phase == 'u' ? own : 0);
        next_page = (next_page + 1) % PAGES;
    }
    report(&gaps, phase);
}

void guest_main(uint8_t *boot_params)
{
    int c = 0;

    ticks_per_us = tsc_khz(boot_params) / 1000;
    if (ticks_per_us == 0) {
        print("the command line does not tell the rate of the TSC\n");
        power_off();
    }
    own = rdtsc() << 20 | 1ull << 63;
    for (unsigned page = 0; page < PAGES; page++)
        write_page(page, (uint64_t)page << 16, 0);
    print("ready login: \n");
    while (c != 'q') {
        for (unsigned i = 0; i < NOT_LOOKING; i++)
            __asm__ volatile("pause");
        c = typed();
        if (c == 'c' || c == 'u')
            run_phase((char)c);
    }
    print(right() ? "RIGHT\n" : "WRONG\n");
    power_off();
}
