/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * storm: a guest whose memory is the same as that of all others like it, until it is told to write
 * to all of it. Beyond 32 MiB every page is filled with content of its own, the same in each guest.
 *
 * Typed to it: s  writes one word of every page, one page after the other, in about ten seconds,
 * and prints "stormed"; v  prints RIGHT, or WRONG, and how many pages it wrote to; q  the same, and
 * powers off. It halts while it has nothing to do.
 */
#include "runtime.h"

#define START   (32ull << 20)
#define PAGE    4096u
#define WORDS   (PAGE / 8)
#define LOOK_MS 5u
#define SECONDS 10u

struct storm {
    uint64_t pages, khz;
    uint64_t written; /* pages below this one are stormed */
    uint64_t began;   /* TSC; 0: it lies still */
    uint64_t own;     /* what is added to a word: other guests add something else */
};

static struct interrupts idt;

__attribute__((interrupt)) static void on_timer(struct frame *frame)
{
    (void)frame;
    end_of_interrupt();
}

static volatile uint64_t *page_at(uint64_t page)
{
    return (volatile uint64_t *)(START + page * PAGE);
}

static uint64_t word_of(uint64_t page, unsigned word)
{
    return (page << 32 | word) * 0x9e3779b97f4a7c15ull;
}

static unsigned changed_word(uint64_t page)
{
    return (unsigned)(page * 7 % WORDS);
}

static void fill(struct storm *s)
{
    for (uint64_t page = 0; page < s->pages; page++)
        for (unsigned w = 0; w < WORDS; w++)
            page_at(page)[w] = word_of(page, w);
}

static int right(const struct storm *s)
{
    for (uint64_t page = 0; page < s->pages; page++)
        for (unsigned w = 0; w < WORDS; w++) {
            int changed = page < s->written && w == changed_word(page);
            if (page_at(page)[w] != word_of(page, w) + (changed ? s->own : 0))
                return 0;
        }
    return 1;
}

static void answer(const struct storm *s)
{
    print(right(s) ? "RIGHT, wrote to " : "WRONG, wrote to ");
    print_number(s->written);
    print(" of ");
    print_number(s->pages);
    print(" pages\n");
}

static void go_on(struct storm *s)
{
    uint64_t due = (rdtsc() - s->began) / s->khz * s->pages / (SECONDS * 1000);

    for (; s->written < due && s->written < s->pages; s->written++)
        page_at(s->written)[changed_word(s->written)] += s->own;
    if (s->written < s->pages)
        return;
    s->began = 0;
    print("stormed\n");
}

void guest_main(uint8_t *boot_params)
{
    struct storm s = {(ram_end(boot_params, START) - START) / PAGE, tsc_khz(boot_params), 0, 0, 0};
    int c = 0;

    if (s.khz == 0) {
        print("the command line does not tell the rate of the TSC\n");
        power_off();
    }
    fill(&s);
    start_interrupts(&idt, on_timer);
    print("ready login: \n");
    while (c != 'q') {
        halt_until(rdtsc() + LOOK_MS * s.khz);
        c = typed();
        if (c == 's' && s.written == 0)
            s.began = s.own = rdtsc();
        if (s.began)
            go_on(&s);
        if (c == 'v' || c == 'q')
            answer(&s);
    }
    power_off();
}
