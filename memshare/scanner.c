/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest side: the scanner's life, its loop, and what other threads may call.
 *
 * The loop: take a new connection, merge what the devices hinted at, make a pass when it is time,
 * sleep. While a pass finds work the next one follows soon; when it finds nothing they become rare.
 * Other threads set flags and write to an eventfd; only connect and the hint ring have a lock, held
 * for a few instructions. Discard takes none.
 */
#include "memshare/scanner.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memshare/ms-hash.h"

#define MS(x)           ((uint64_t)(x)*1000000)
#define PASS_SOON       MS(20)  /* the time a page must stand still to be worth merging, */
#define PASS_BUSY       MS(160) /* doubling up to this while the guest makes news all the time */
#define RARE            64      /* when there was nothing to do: at most 64 times AT_REST, */
#define IDLE_SHARE      20000   /* and so that passes take 1/20000 of the time */
#define GROWTH_FRACTION 64      /* 1/64 of resident more memory of our own: look at once */
#define SLOW            8   /* when there are some news: at most 8 times, and so that they take */
#define TRICKLE_SHARE   400 /* 1/400 of the time: */
#define BUSY_FRACTION   20  /* less than 1/20 of resident, but */
#define AT_REST         MS(1000) /* between looks at whether there is something to do */
#define HINT_GATHER     MS(10)   /* device reads come in swarms */
#define LOOK_NS         20       /* a look at a page for splits, about */
#define QUIET_FRACTION  200      /* less than 1/200 of resident is (almost) nothing */

/* ---- life ---- */

static int check_config(const struct ms_scanner_config *config)
{
    if (!config->ram || (uintptr_t)config->ram % MS_PAGE_SIZE || !config->ram_bytes ||
        config->ram_bytes % MS_PAGE_SIZE || config->ram_bytes / MS_PAGE_SIZE > UINT32_MAX)
        return -EINVAL;
    if (!config->ops || !config->ops->frozen || config->budget_percent > 100)
        return -EINVAL;
    if (config->tmpl.fd >= 0 && config->tmpl.n_blocks &&
        (!config->tmpl.hash || !config->tmpl.by_hash))
        return -EINVAL;
    return 0;
}

#define BUFFER_PAGES (MS_BATCH_PAGES + MS_RUN_MAX)
#define BUFFER_BYTES ((size_t)(BUFFER_PAGES + MS_MAX_PUBLISH) * MS_PAGE_SIZE)

/* In one piece, which costs nothing while there is nothing to do. */
static int map_buffers(struct ms_scanner *scanner)
{
    uint8_t *buffer =
        mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (buffer == MAP_FAILED)
        return -errno;
    scanner->batch.content = buffer;
    scanner->offers.page = (void *)(buffer + (size_t)BUFFER_PAGES * MS_PAGE_SIZE);
    return 0;
}

static void empty_buffers(struct ms_scanner *scanner)
{
    (void)madvise(scanner->batch.content, BUFFER_BYTES, MADV_DONTNEED);
}

static int open_all(struct ms_scanner *scanner, enum ms_pagemap_allow allow)
{
    int r = ms_pages_init(&scanner->pages, scanner->n_pages);

    if (r < 0)
        return r;
    r = map_buffers(scanner);
    if (r < 0)
        return r;
    if (scanner->config.lineage.fd > 0)
        ms_pages_set(&scanner->pages, 0, scanner->n_pages, MS_LINEAGE, 0);
    r = ms_pagemap_open(&scanner->pagemap, scanner->ram, scanner->config.ram_bytes, allow);
    if (r < 0)
        return r;
    scanner->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return scanner->wake < 0 ? -errno : 0;
}

int ms_scanner_new_with(struct ms_scanner **ret_scanner, const struct ms_scanner_config *config,
                        enum ms_pagemap_allow allow)
{
    static const uint8_t zero[MS_PAGE_SIZE];
    struct ms_scanner *scanner;
    int r = check_config(config);

    if (r < 0)
        return r;
    scanner = calloc(1, sizeof(*scanner));
    if (!scanner)
        return -ENOMEM;
    scanner->config = *config;
    scanner->ram = config->ram;
    scanner->n_pages = config->ram_bytes / MS_PAGE_SIZE;
    scanner->zero_hash = ms_hash_page(zero);
    scanner->pagemap.fd = scanner->pagemap.uffd = scanner->pagemap.statm = -1;
    scanner->wake = -1;
    scanner->connect_sock = -1;
    scanner->connect_pool_fd = -1;
    scanner->at_rest_ns = AT_REST;
    scanner->splits_cost_ns = scanner->n_pages * LOOK_NS; /* until it is known */
    pthread_mutex_init(&scanner->connect_lock, NULL);
    ms_hints_init(&scanner->hints);
    ms_budget_init(&scanner->budget, config->budget_percent);
    r = open_all(scanner, allow);
    ms_link_init(&scanner->link, scanner->wake, ms_scanner_interrupted, scanner);
    if (r < 0) {
        ms_scanner_free(scanner);
        return r;
    }
    *ret_scanner = scanner;
    return 0;
}

int ms_scanner_new(struct ms_scanner **ret_scanner, const struct ms_scanner_config *config)
{
    return ms_scanner_new_with(ret_scanner, config, MS_ALLOW_ALL);
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

static void close_tokens(struct ms_scanner *scanner)
{
    uint32_t n = atomic_exchange(&scanner->n_tokens, 0);

    for (uint32_t i = 0; i < n; i++)
        close(scanner->token[i]);
}

void ms_scanner_free(struct ms_scanner *scanner)
{
    if (!scanner)
        return;
    ms_view_close(&scanner->view);
    ms_link_close(&scanner->link);
    close_tokens(scanner);
    close_fd(scanner->connect_sock);
    close_fd(scanner->connect_pool_fd);
    close_fd(scanner->wake);
    ms_pagemap_close(&scanner->pagemap);
    ms_pages_free(&scanner->pages);
    ms_hints_destroy(&scanner->hints);
    pthread_mutex_destroy(&scanner->connect_lock);
    if (scanner->batch.content)
        munmap(scanner->batch.content, BUFFER_BYTES);
    free(scanner);
}

/* ---- calls from other threads ---- */

static void wake(struct ms_scanner *scanner)
{
    uint64_t one = 1;

    (void)!write(scanner->wake, &one, sizeof(one)); /* full means that it is awake already */
}

void ms_scanner_stop(struct ms_scanner *scanner)
{
    atomic_store(&scanner->stop, true);
    wake(scanner);
}

void ms_scanner_set_budget(struct ms_scanner *scanner, unsigned percent)
{
    atomic_store(&scanner->budget.percent, percent < 100 ? percent : 100);
    wake(scanner);
}

int ms_scanner_connect(struct ms_scanner *scanner, int sock, int pool_fd)
{
    if (sock >= 0 && pool_fd < 0)
        return -EINVAL;
    if (atomic_load(&scanner->n_tokens) == MS_MAX_TOKENS)
        return -EBUSY;
    pthread_mutex_lock(&scanner->connect_lock);
    close_fd(scanner->connect_sock); /* one that was never taken up */
    close_fd(scanner->connect_pool_fd);
    scanner->connect_sock = sock;
    scanner->connect_pool_fd = pool_fd;
    atomic_store(&scanner->connect_wanted, true);
    pthread_mutex_unlock(&scanner->connect_lock);
    wake(scanner);
    return 0;
}

void ms_scanner_hint_template(struct ms_scanner *scanner, uint64_t page, uint64_t n_pages,
                              uint64_t block)
{
    const struct ms_template *tmpl = &scanner->config.tmpl;
    uint64_t n_blocks = tmpl->n_blocks < MS_MAX_INDEX ? tmpl->n_blocks : MS_MAX_INDEX;

    if (tmpl->fd < 0 || page >= scanner->n_pages || n_pages > scanner->n_pages - page ||
        block >= n_blocks || n_pages > n_blocks - block || n_pages == 0)
        return;
    if (ms_hints_put(&scanner->hints, (struct ms_hint){.page = page, .block = block, .n = n_pages}))
        wake(scanner);
}

/* ---- discard ---- */

/* Without a mapping left the pages are cleared instead: they cost memory, but show nothing. */
static int map_anonymous(struct ms_scanner *scanner, uint64_t page, uint64_t n)
{
    void *ram = ms_ram_page(scanner, page);
    size_t length = n * MS_PAGE_SIZE;
    int r = ms_map_fresh(scanner, page, n);

    if (r < 0) {
        if (r != -ENOMEM)
            return r;
        if (madvise(ram, length, MADV_NORMAL) < 0)
            return -errno;
        memset(ram, 0, length);
        return 0;
    }
    /* Only now: once the scanner sees the bit, the slot may be given to somebody else. */
    for (uint64_t p = page; p < page + n; p++)
        atomic_fetch_or_explicit(&scanner->pages.gone[p / 64], (uint64_t)1 << (p % 64),
                                 memory_order_release);
    return 0;
}

int ms_scanner_discard(struct ms_scanner *scanner, uint64_t page, uint64_t n_pages)
{
    uint64_t end = page + n_pages;

    if (page > scanner->n_pages || n_pages > scanner->n_pages - page)
        return -EINVAL;
    while (page < end) {
        uint64_t first = page;
        bool anon = ms_kind_of(ms_where(&scanner->pages, page)) == MS_ANON;
        int r = 0;

        while (page < end && (ms_kind_of(ms_where(&scanner->pages, page)) == MS_ANON) == anon)
            page++;
        if (!anon)
            r = map_anonymous(scanner, first, page - first);
        else if (madvise(ms_ram_page(scanner, first), (page - first) * MS_PAGE_SIZE,
                         MADV_DONTNEED) < 0)
            r = -errno;
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- sleeping ---- */

bool ms_scanner_interrupted(void *opaque)
{
    struct ms_scanner *scanner = opaque;

    return atomic_load(&scanner->stop) || atomic_load(&scanner->connect_wanted);
}

/* Waits for the eventfd or the link; true if one of them woke us. */
static bool wait_event(struct ms_scanner *scanner, uint64_t ns, bool with_link)
{
    struct pollfd fds[2] = {{.fd = scanner->wake, .events = POLLIN},
                            {.fd = scanner->link.sock, .events = POLLIN}};
    nfds_t n = with_link && ms_link_is_up(&scanner->link) ? 2 : 1;
    uint64_t count;

    if (poll(fds, n, (int)((ns + 999999) / 1000000)) <= 0)
        return false;
    if (fds[0].revents)
        (void)!read(scanner->wake, &count, sizeof(count));
    return true;
}

void ms_scanner_sleep(struct ms_scanner *scanner, uint64_t ns, bool with_link)
{
    uint64_t now = ms_now_ns();
    uint64_t until = now + ns;

    ms_view_release(&scanner->view);
    while (now < until && !ms_scanner_interrupted(scanner)) {
        if (wait_event(scanner, until - now, with_link) && with_link)
            return;
        now = ms_now_ns();
    }
}

void ms_scanner_pay(struct ms_scanner *scanner)
{
    uint64_t ns = ms_budget_charge(&scanner->budget);

    if (ns)
        ms_scanner_sleep(scanner, ns, false);
}

/* ---- connections ---- */

/* The pool of a connection must keep our references while we map its pages: as long as there is a
 * daemon at the other end, though it may not talk to us any more. False: too many are kept. */
static bool retire_link(struct ms_scanner *scanner)
{
    struct ms_link *link = &scanner->link;
    uint32_t n = atomic_load(&scanner->n_tokens);

    if (ms_link_is_held(link)) {
        if (n == MS_MAX_TOKENS)
            return false;
        scanner->token[n] = link->sock;
        atomic_store(&scanner->n_tokens, n + 1);
        link->sock = -1;
    }
    ms_view_close(&scanner->view);
    ms_link_close(link);
    return true;
}

/* The new daemon knows nothing yet of the template blocks we map. */
static void resend_template_refs(struct ms_scanner *scanner)
{
    for (uint64_t page = 0; page < scanner->n_pages; page++) {
        uint32_t where = ms_where(&scanner->pages, page);

        if (ms_kind_of(where) == MS_TEMPLATE && !(where & MS_SPLIT))
            ms_link_template_ref(&scanner->link, ms_index_of(where));
    }
    (void)ms_link_flush(&scanner->link);
}

static bool take_connection(struct ms_scanner *scanner)
{
    int sock, pool_fd;

    if (!atomic_load(&scanner->connect_wanted))
        return false;
    pthread_mutex_lock(&scanner->connect_lock);
    sock = scanner->connect_sock;
    pool_fd = scanner->connect_pool_fd;
    scanner->connect_sock = -1;
    scanner->connect_pool_fd = -1;
    atomic_store(&scanner->connect_wanted, false);
    pthread_mutex_unlock(&scanner->connect_lock);

    if (!retire_link(scanner)) {
        close_fd(sock);
        close_fd(pool_fd);
        return false;
    }
    ms_pages_pool_to_old(&scanner->pages);
    /* Everything is worth an offer again. */
    ms_pages_forget_state(&scanner->pages);
    if (sock < 0)
        close_fd(pool_fd);
    else if (ms_link_open(&scanner->link, sock, pool_fd, scanner->n_pages) == 0)
        resend_template_refs(scanner);
    return true;
}

/* ---- the loop ---- */

static uint64_t between(uint64_t low, uint64_t ns, uint64_t high)
{
    return ns < low ? low : ns > high ? high : ns;
}

static void finish_pass(struct ms_scanner *scanner, uint64_t cpu_ns)
{
    uint64_t news = scanner->pass_merged + scanner->pass_fresh + scanner->looked;
    uint64_t rest = scanner->at_rest_ns;

    if (ms_scanner_interrupted(scanner))
        return;
    scanner->looked = 0;
    atomic_fetch_add(&scanner->passes, 1);
    if (news && news * QUIET_FRACTION >= scanner->pass_resident)
        scanner->quiet_passes = 0;
    else
        scanner->quiet_passes++;
    atomic_store(&scanner->settled, scanner->quiet_passes >= 2);
    if (scanner->quiet_passes == 2)
        empty_buffers(scanner);
    scanner->anonymous = ms_pagemap_anonymous(&scanner->pagemap);
    if (!scanner->quiet_passes && news * BUSY_FRACTION < scanner->pass_resident)
        scanner->interval_ns = between(rest, cpu_ns * TRICKLE_SHARE, SLOW * rest);
    else if (scanner->quiet_passes >= 2)
        scanner->interval_ns = between(rest, cpu_ns * IDLE_SHARE, RARE * rest);
    else if (scanner->quiet_passes || !scanner->interval_ns)
        scanner->interval_ns = PASS_SOON;
    else if (scanner->interval_ns < PASS_BUSY)
        scanner->interval_ns *= 2;
}

/* There is work again. */
static void hurry(struct ms_scanner *scanner)
{
    scanner->quiet_passes = 0;
    scanner->interval_ns = PASS_SOON;
    atomic_store(&scanner->settled, false);
}

/* Many pages that another guest has too turned up: there is work again. */
static void take_looks(struct ms_scanner *scanner)
{
    ms_scan_looks(scanner);
    if (!scanner->looked || scanner->looked * QUIET_FRACTION < scanner->pass_resident)
        return;
    hurry(scanner);
}

/* Has the guest taken much memory of its own since the last pass? */
static bool has_grown(const struct ms_scanner *scanner)
{
    uint64_t now = ms_pagemap_anonymous(&scanner->pagemap);

    return now > scanner->anonymous &&
           (now - scanner->anonymous) * GROWTH_FRACTION > scanner->pass_resident;
}

/* So that references to pages that are private now do not stay until a rare pass. */
static void sweep(struct ms_scanner *scanner)
{
    ms_scan_sweep(scanner);
    if (atomic_load(&scanner->budget.percent) && has_grown(scanner))
        hurry(scanner);
}

static void stand_by(struct ms_scanner *scanner, uint64_t until)
{
    uint64_t now = ms_now_ns();
    uint64_t left = until > now ? until - now : 0;

    ms_scanner_sleep(scanner, left < scanner->at_rest_ns ? left : scanner->at_rest_ns, true);
    if (ms_hints_waiting(&scanner->hints))
        ms_scanner_sleep(scanner, HINT_GATHER, false);
}

void ms_scanner_run(struct ms_scanner *scanner)
{
    uint64_t passed = 0, swept = 0, now, cpu;

    scanner->thread = pthread_self();
    ms_budget_start(&scanner->budget);
    while (!atomic_load(&scanner->stop)) {
        if (take_connection(scanner)) {
            scanner->interval_ns = 0;
            scanner->quiet_passes = 0;
            atomic_store(&scanner->settled, false);
        }
        if (!scanner->pages.n_old)
            close_tokens(scanner);
        if (atomic_load(&scanner->budget.percent))
            take_looks(scanner);
        else
            (void)ms_link_poll(&scanner->link);
        now = ms_now_ns();
        if (atomic_load(&scanner->budget.percent) && now >= passed + scanner->interval_ns) {
            cpu = ms_thread_cpu_ns();
            ms_scan_pass(scanner);
            finish_pass(scanner, ms_thread_cpu_ns() - cpu);
            passed = swept = ms_now_ns();
        } else if (now >= swept + scanner->at_rest_ns) {
            sweep(scanner);
            swept = ms_now_ns();
        }
        if (atomic_load(&scanner->budget.percent))
            ms_scan_hints(scanner);
        ms_scanner_pay(scanner);
        stand_by(scanner, passed + scanner->interval_ns);
    }
}
