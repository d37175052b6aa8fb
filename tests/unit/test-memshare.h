/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A rig for the tests of memshare: a pool with a thread that serves it, and guests, each with RAM,
 * a scanner thread and a freeze made of a rwlock (writers of RAM hold it for reading).
 */
#ifndef TEST_MEMSHARE_H
#define TEST_MEMSHARE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "memshare/memshare.h"
#include "memshare/ms-hash.h"
#include "memshare/pool.h"
#include "memshare/scanner.h"

#define RIG_CLIENTS  8
#define PAGE         MS_PAGE_SIZE
#define WAIT_SECONDS 60 /* until a test gives up waiting for what must come */

struct rig {
    struct ms_pool *pool;
    pthread_mutex_t lock; /* guards the pool and everything below */
    struct ms_client *client[RIG_CLIENTS];
    int error[RIG_CLIENTS];
    pthread_t thread;
    atomic_bool stop;
};

static void *rig_serve(void *opaque)
{
    struct rig *rig = opaque;

    while (!atomic_load(&rig->stop)) {
        struct pollfd fds[RIG_CLIENTS];

        pthread_mutex_lock(&rig->lock);
        for (int i = 0; i < RIG_CLIENTS; i++)
            fds[i] = (struct pollfd){
                .fd = rig->client[i] && !rig->error[i] ? ms_client_fd(rig->client[i]) : -1,
                .events = POLLIN};
        pthread_mutex_unlock(&rig->lock);
        if (poll(fds, RIG_CLIENTS, 2) <= 0)
            continue;
        pthread_mutex_lock(&rig->lock);
        for (int i = 0; i < RIG_CLIENTS; i++)
            if (fds[i].revents && rig->client[i] && ms_client_fd(rig->client[i]) == fds[i].fd)
                rig->error[i] = ms_client_serve(rig->client[i]);
        pthread_mutex_unlock(&rig->lock);
    }
    return NULL;
}

static inline void rig_start_with(struct rig *rig, enum ms_timing timing)
{
    memset(rig, 0, sizeof(*rig));
    pthread_mutex_init(&rig->lock, NULL);
    assert_int_equal(ms_pool_new(&rig->pool, "test", 0, timing), 0);
    assert_int_equal(pthread_create(&rig->thread, NULL, rig_serve, rig), 0);
}

static inline void rig_start(struct rig *rig)
{
    rig_start_with(rig, MS_TIMING_PLAIN);
}

static inline void rig_detach(struct rig *rig, int i)
{
    pthread_mutex_lock(&rig->lock);
    if (rig->client[i])
        ms_client_detach(rig->client[i]);
    rig->client[i] = NULL;
    rig->error[i] = 0;
    pthread_mutex_unlock(&rig->lock);
}

static inline void rig_end(struct rig *rig)
{
    atomic_store(&rig->stop, true);
    pthread_join(rig->thread, NULL);
    for (int i = 0; i < RIG_CLIENTS; i++)
        rig_detach(rig, i);
    ms_pool_free(rig->pool);
    pthread_mutex_destroy(&rig->lock);
}

static inline struct ms_pool_stats rig_stats(struct rig *rig)
{
    struct ms_pool_stats stats;

    pthread_mutex_lock(&rig->lock);
    ms_pool_get_stats(rig->pool, &stats);
    pthread_mutex_unlock(&rig->lock);
    return stats;
}

static inline uint64_t rig_saved(struct rig *rig, int i)
{
    uint64_t saved;

    pthread_mutex_lock(&rig->lock);
    saved = ms_client_saved(rig->client[i]);
    pthread_mutex_unlock(&rig->lock);
    return saved;
}

static inline bool rig_greeted(struct rig *rig, int i)
{
    bool hello;

    pthread_mutex_lock(&rig->lock);
    hello = rig->client[i]->hello;
    pthread_mutex_unlock(&rig->lock);
    return hello;
}

/* Memory the store really takes. */
static inline uint64_t rig_store_bytes(struct rig *rig)
{
    struct stat st;
    int fd = ms_pool_guest_fd(rig->pool);

    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    close(fd);
    return (uint64_t)st.st_blocks * 512;
}

/* The daemon dies: the guests live on with what they map. */
static inline void rig_die(struct rig *rig)
{
    atomic_store(&rig->stop, true);
    pthread_join(rig->thread, NULL);
    ms_pool_free(rig->pool);
    pthread_mutex_destroy(&rig->lock);
}

/* A socket for client i of the rig, attached on the daemon's side. */
static inline int rig_socket(struct rig *rig, int i, uint64_t template_blocks)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pthread_mutex_lock(&rig->lock);
    assert_int_equal(ms_pool_attach(rig->pool, pair[0], template_blocks ? "template" : "",
                                    template_blocks, &rig->client[i]),
                     0);
    pthread_mutex_unlock(&rig->lock);
    return pair[1];
}

struct guest {
    uint8_t *ram;
    uint64_t n;
    struct ms_scanner *scanner;
    pthread_rwlock_t lock;
    pthread_t thread;
    atomic_bool busy; /* freeze says -EBUSY */
    atomic_uint freezes;
};

static int guest_frozen(void *opaque, void (*work)(void *arg), void *arg)
{
    struct guest *guest = opaque;

    atomic_fetch_add(&guest->freezes, 1);
    if (atomic_load(&guest->busy))
        return -EBUSY;
    pthread_rwlock_wrlock(&guest->lock);
    work(arg);
    pthread_rwlock_unlock(&guest->lock);
    return 0;
}

static const struct ms_scanner_ops guest_ops = {.frozen = guest_frozen};

/* Between two pages that nobody may touch, so that no other mapping joins it. */
static inline void *guest_ram(uint64_t n)
{
    uint8_t *ram =
        mmap(NULL, (n + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_true(ram != MAP_FAILED);
    ram += PAGE;
    assert_int_equal(mprotect(ram, n * PAGE, PROT_READ | PROT_WRITE), 0);
    (void)madvise(ram, n * PAGE, MADV_NOHUGEPAGE);
    return ram;
}

static inline void guest_init(struct guest *guest, uint64_t n)
{
    pthread_rwlockattr_t attr;

    memset(guest, 0, sizeof(*guest));
    guest->n = n;
    guest->ram = guest_ram(n);
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&guest->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
}

static void *guest_scan(void *opaque)
{
    struct guest *guest = opaque;

    ms_scanner_run(guest->scanner);
    return NULL;
}

static inline struct ms_scanner_config guest_config(struct guest *guest)
{
    return (struct ms_scanner_config){
        .ram = guest->ram,
        .ram_bytes = guest->n * PAGE,
        .ops = &guest_ops,
        .opaque = guest,
        .tmpl = {.fd = -1},
        .budget_percent = 100,
    };
}

static inline void guest_start_with(struct guest *guest, const struct ms_scanner_config *config,
                                    enum ms_pagemap_allow allow)
{
    assert_int_equal(ms_scanner_new_with(&guest->scanner, config, allow), 0);
    guest->scanner->at_rest_ns = 10000000;
    assert_int_equal(pthread_create(&guest->thread, NULL, guest_scan, guest), 0);
}

static inline void guest_start(struct guest *guest, const struct ms_template *tmpl,
                               uint64_t max_mappings, enum ms_pagemap_allow allow)
{
    struct ms_scanner_config config = guest_config(guest);

    if (tmpl)
        config.tmpl = *tmpl;
    config.max_mappings = max_mappings;
    guest_start_with(guest, &config, allow);
}

static inline void guest_connect(struct guest *guest, struct rig *rig, int i,
                                 uint64_t template_blocks)
{
    int pool_fd = ms_pool_guest_fd(rig->pool);

    assert_true(pool_fd >= 0);
    assert_int_equal(
        ms_scanner_connect(guest->scanner, rig_socket(rig, i, template_blocks), pool_fd), 0);
}

static inline void guest_end(struct guest *guest)
{
    if (guest->scanner) {
        ms_scanner_stop(guest->scanner);
        pthread_join(guest->thread, NULL);
        ms_scanner_free(guest->scanner);
    }
    munmap(guest->ram - PAGE, (guest->n + 2) * PAGE);
    pthread_rwlock_destroy(&guest->lock);
}

static inline struct ms_ledger guest_ledger(struct guest *guest)
{
    struct ms_ledger ledger;

    assert_int_equal(ms_scanner_ledger(guest->scanner, &ledger), 0);
    assert_int_equal(ledger.nominal, guest->n * PAGE);
    assert_int_equal(ledger.resident,
                     ledger.lineage + ledger.template_ + ledger.pool + ledger.private_);
    assert_int_equal(ledger.nominal, ledger.zero + ledger.resident);
    return ledger;
}

/* Content that depends on the number alone and never repeats. */
static inline void fill_page(void *page, uint64_t number)
{
    uint64_t *word = page;

    for (size_t i = 0; i < PAGE / sizeof(*word); i++)
        word[i] = (number + 1) * 0x9e3779b97f4a7c15ull + i * 0xc2b2ae3d27d4eb4full;
}

static inline bool page_is(const void *page, uint64_t number)
{
    uint8_t want[PAGE];

    fill_page(want, number);
    return memcmp(page, want, PAGE) == 0;
}

static inline void guest_write(struct guest *guest, uint64_t page, uint64_t number)
{
    pthread_rwlock_rdlock(&guest->lock);
    fill_page(guest->ram + page * PAGE, number);
    pthread_rwlock_unlock(&guest->lock);
}

static inline int guest_discard(struct guest *guest, uint64_t page, uint64_t n)
{
    int r;

    pthread_rwlock_rdlock(&guest->lock);
    r = ms_scanner_discard(guest->scanner, page, n);
    pthread_rwlock_unlock(&guest->lock);
    return r;
}

/* Waits until a condition holds; the state it asks for changes in another thread. */
#define WAIT_FOR(condition)                                  \
    do {                                                     \
        time_t give_up = time(NULL) + WAIT_SECONDS;          \
        while (!(condition)) {                               \
            struct timespec nap = {.tv_nsec = 2000000};      \
            if (time(NULL) > give_up)                        \
                fail_msg("never came true: %s", #condition); \
            nanosleep(&nap, NULL);                           \
        }                                                    \
    } while (0)

struct smaps {
    uint64_t rss, pss, mappings;
    uint64_t files; /* mappings of one */
};

/* The kernel's own account of an address range. */
static inline struct smaps smaps_of(const void *start, uint64_t bytes)
{
    uintptr_t from = (uintptr_t)start, to = from + bytes;
    struct smaps sum = {0};
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    bool inside = false;

    assert_non_null(file);
    while (fgets(line, sizeof(line), file)) {
        unsigned long low, high, inode, kib;

        if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &low, &high, &inode) == 3) {
            inside = low >= from && high <= to;
            sum.mappings += inside;
            sum.files += inside && inode;
        } else if (inside && sscanf(line, "Rss: %lu kB", &kib) == 1) {
            sum.rss += kib * 1024;
        } else if (inside && sscanf(line, "Pss: %lu kB", &kib) == 1) {
            sum.pss += kib * 1024;
        }
    }
    fclose(file);
    return sum;
}

static inline void assert_near(uint64_t have, uint64_t want)
{
    uint64_t apart = have > want ? have - want : want - have;

    /* 3 % as promised; the kernel rounds Pss down for each mapping, so allow a page or two */
    if (apart * 100 > want * 3 && apart > 2 * PAGE)
        fail_msg("%llu is not within 3 %% of %llu", (unsigned long long)have,
                 (unsigned long long)want);
}

/* A template file with pages fill_page(first + block), and its hashes. */
struct disk {
    struct ms_template tmpl;
    uint64_t *hash;
    uint32_t *by_hash;
};

static inline int compare_block(const void *left, const void *right, void *opaque)
{
    const uint64_t *hash = opaque;
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    if (hash[a] != hash[b])
        return hash[a] < hash[b] ? -1 : 1;
    return a < b ? -1 : a > b;
}

static inline void disk_init(struct disk *disk, uint64_t n, uint64_t first)
{
    char path[] = "/tmp/test-memshare-disk-XXXXXX";
    int fd = mkstemp(path);
    uint8_t page[PAGE];

    assert_true(fd >= 0);
    unlink(path);
    disk->hash = calloc(n, sizeof(*disk->hash));
    disk->by_hash = calloc(n, sizeof(*disk->by_hash));
    assert_non_null(disk->hash);
    assert_non_null(disk->by_hash);
    for (uint64_t i = 0; i < n; i++) {
        fill_page(page, first + i);
        assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
        disk->hash[i] = ms_hash_page(page);
        disk->by_hash[i] = (uint32_t)i;
    }
    qsort_r(disk->by_hash, n, sizeof(*disk->by_hash), compare_block, disk->hash);
    disk->tmpl = (struct ms_template){
        .fd = fd, .bytes = n * PAGE, .n_blocks = n, .hash = disk->hash, .by_hash = disk->by_hash};
}

static inline void disk_end(struct disk *disk)
{
    close(disk->tmpl.fd);
    free(disk->hash);
    free(disk->by_hash);
}

/* A test in three ways: with all help from the kernel, without tracking of writes, and without the
 * PAGEMAP_SCAN ioctl. For the list in main(); the test asks allowed() which it is. */
#define EACH(test)                                                                              \
    cmocka_unit_test(test),                                                                     \
        {#test " without tracking", test, NULL, NULL, &(enum ms_pagemap_allow){MS_ALLOW_SCAN}}, \
    {                                                                                           \
#test " without PAGEMAP_SCAN", test, NULL, NULL, &(enum ms_pagemap_allow)               \
        {                                                                                       \
            MS_ALLOW_ENTRIES                                                                    \
        }                                                                                       \
    }

static inline enum ms_pagemap_allow allowed(void **state)
{
    return *state ? *(enum ms_pagemap_allow *)*state : MS_ALLOW_ALL;
}

#endif
