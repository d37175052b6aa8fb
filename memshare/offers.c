/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Offering pages to the pool. Scanner thread only, never during a freeze, for it waits for answers.
 *
 * Offers are gathered and made in one message; pages the daemon asks for are sent; pages it has
 * slots for are handed to merge.c. A page nobody else has is remembered by the pool until it is
 * taken back, so it is offered once and not again until it changes.
 */
#include "memshare/scanner.h"

#include <string.h>

#include "memshare/ms-hash.h"

#define OFFER_ROUNDS 3 /* what was to be offered again is, so often */

bool ms_still_mergeable(const struct ms_scanner *scanner, uint64_t page)
{
    return ms_is_mergeable(ms_where(&scanner->pages, page));
}

/* The page is not what was offered any more. */
void ms_take_back(struct ms_scanner *scanner, uint64_t page)
{
    if (!(scanner->pages.state[page] & MS_HINTED))
        return;
    ms_link_withdraw(&scanner->link, scanner->pages.hash[page], page);
    ms_pages_clear(&scanner->pages, page, MS_HINTED);
}

/* Sends copies of pages [0, n) gathered in offers->page. */
static int publish(struct ms_scanner *scanner, uint32_t n)
{
    struct ms_offers *offers = &scanner->offers;
    uint32_t slot[MS_MAX_PUBLISH];
    int r = ms_link_publish(&scanner->link, offers->item, offers->page, n, slot);

    for (uint32_t i = 0; r == 0 && i < n; i++)
        offers->slot[offers->item[i]] = slot[i];
    return r;
}

/* Sends the pages the daemon asked for. Copied first and hashed again: one that changed meanwhile
 * is not what was asked for, and to send it would be a lie. */
static int publish_wanted(struct ms_scanner *scanner)
{
    struct ms_offers *offers = &scanner->offers;
    uint32_t n = 0;
    int r = 0;

    for (uint32_t i = 0; i < offers->n && r == 0; i++) {
        if (offers->slot[i] != MS_SLOT_PUBLISH)
            continue;
        offers->slot[i] = MS_SLOT_UNIQUE;
        memcpy(offers->page[n], ms_ram_page(scanner, offers->offer[i].page), MS_PAGE_SIZE);
        if (ms_hash_page(offers->page[n]) != offers->offer[i].hash)
            continue;
        offers->item[n++] = i;
        if (n == MS_MAX_PUBLISH) {
            r = publish(scanner, n);
            n = 0;
        }
    }
    return r == 0 && n ? publish(scanner, n) : r;
}

static void take_answer(struct ms_scanner *scanner, uint64_t page, uint32_t slot)
{
    struct ms_pages *pages = &scanner->pages;

    if (slot <= MS_MAX_INDEX) {
        if (ms_still_mergeable(scanner, page))
            ms_merge_add(scanner, MS_FROM_POOL, page, slot);
        else
            ms_link_drop(&scanner->link, slot);
        return;
    }
    if (slot == MS_SLOT_UNIQUE)
        pages->state[page] |= MS_HINTED;
    else
        ms_pages_clear(pages, page, MS_DONE); /* another time */
    scanner->pass_full |= slot == MS_SLOT_FULL;
    ms_pages_back_off(pages, page, slot == MS_SLOT_FULL ? MS_BACKOFF_MAX : MS_BACKOFF_IDLE);
}

/* One OFFER and what follows from it. What is to be offered again stays in `offers`. */
static int make_offers(struct ms_scanner *scanner)
{
    struct ms_offers *offers = &scanner->offers;
    uint32_t n = offers->n;
    int r = ms_link_offer(&scanner->link, offers->offer, n, offers->slot);

    if (r == 0)
        r = publish_wanted(scanner);
    offers->n = 0;
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        if (offers->slot[i] == MS_SLOT_AGAIN)
            offers->offer[offers->n++] = offers->offer[i];
        else
            take_answer(scanner, offers->offer[i].page, offers->slot[i]);
    }
    return r;
}

void ms_flush_offers(struct ms_scanner *scanner)
{
    struct ms_offers *offers = &scanner->offers;
    int r = 0;

    for (int round = 0; r == 0 && offers->n && round < OFFER_ROUNDS; round++)
        r = make_offers(scanner);
    for (uint32_t i = 0; i < offers->n; i++)
        ms_pages_clear(&scanner->pages, offers->offer[i].page, MS_DONE);
    offers->n = 0;
    ms_merge_flush(scanner);
}

void ms_offer_page(struct ms_scanner *scanner, uint64_t page, uint64_t hash)
{
    struct ms_offers *offers = &scanner->offers;

    if (!ms_link_is_up(&scanner->link)) {
        ms_pages_back_off(&scanner->pages, page, MS_BACKOFF_IDLE);
        return;
    }
    offers->offer[offers->n++] = (struct ms_offer){.hash = hash, .page = (uint32_t)page};
    if (offers->n == MS_MAX_OFFER)
        ms_flush_offers(scanner);
}
