/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bench-memshare inside: what page sharing costs and gains, beside the kernel's KSM.
 *
 *   main.c    options, and which runs are made        image.c   contents of guests, and the oracle
 *   guest.c   the guest processes                     daemon.c  the process that holds the pool
 *   run.c     one run of memshare                     ksm.c     one run of KSM, and its settings
 *   proc.c    what the kernel says: Pss, CPU time     report.c  tables and JSON
 *   plain.c   the library's hash, called plainly
 *
 * The parent is the daemon: one thread serves the pool, the main thread measures. Each guest is a
 * forked process: its main thread obeys commands (its CPU time does not count), its other thread
 * runs the scanner. Memory is what the kernel says (Pss), never what memshare says; progress over
 * time comes from the pool's counters, read without waking anybody.
 */
#ifndef BENCH_MEMSHARE_H
#define BENCH_MEMSHARE_H

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "memshare/memshare.h"

#define MAX_GUESTS 256
#define MAX_POINTS 1024
#define GOAL       0.94 /* of what is possible: what Satori captured */
#define MOST       0.999

/* ---- image.c ---- */

/* Content of one guest: a raw file, or generated pages. */
struct image {
    const char *path; /* NULL: generated */
    const uint8_t *data;
    uint64_t n_pages;
    unsigned number; /* generated: which guest's */
};

struct oracle {
    uint64_t pages, zero, non_zero, distinct;
    uint64_t possible; /* pages that sharing can free: non_zero - distinct (+ resident zeros) */
};

int image_open(struct image *image, const char *path);
void image_flat(struct image *image, uint64_t n_pages, unsigned number);
/* The page's bytes; `buffer` is used for generated ones. */
const uint8_t *image_page(const struct image *image, uint64_t page, uint8_t *buffer);
bool image_is_zero(const uint8_t *page);
int image_oracle(const struct image *image, unsigned n, bool zero_resident, struct oracle *ret);

/* ---- guest.c ---- */

enum guest_command {
    GUEST_SCAN,      /* start the scanner with budget `value` */
    GUEST_MERGEABLE, /* give the memory to KSM instead */
    GUEST_COUNTERS,  /* cheap: to look at while it is measured */
    GUEST_LEDGER,
    GUEST_CHANGE, /* change `value` pages a second for `seconds` */
    GUEST_HASH,   /* hash what is resident, as memshare does and plainly */
};

struct guest_request {
    enum guest_command command;
    unsigned value, seconds;
};

struct guest_reply {
    int error;
    uint64_t main_ns; /* CPU time of the main thread so far */
    uint64_t changed;
    uint64_t ours_ns, plain_ns; /* of hashing */
    struct ms_ledger ledger;
};

struct guest {
    pid_t pid;
    int control;
    int sock; /* the daemon's end */
    uintptr_t ram;
    uint64_t ram_bytes;
    clockid_t clock;
    uint64_t start_ns;         /* CPU time when the run began */
    _Atomic uint64_t main_ns;  /* of its main thread, as last heard */
    uint64_t other_pss_before; /* memory beside RAM after loading */
};

struct guests {
    unsigned n;
    struct guest guest[MAX_GUESTS];
};

/* Forks guests that have loaded their images; pool_fd < 0: without a pool. */
int guests_start(struct guests *guests, const struct image *image, unsigned n, struct ms_pool *pool,
                 bool zero_resident);
void guests_end(struct guests *guests);
int guest_send(struct guest *guest, const struct guest_request *request);
int guest_receive(struct guest *guest, struct guest_reply *ret_reply);
int guests_ask(struct guests *guests, const struct guest_request *request,
               struct guest_reply *ret_reply); /* [n] or NULL */
/* CPU time of everything but the main threads, since start_ns. */
uint64_t guests_cpu_ns(const struct guests *guests);
uint64_t plain_hash(const void *page);

/* ---- proc.c ---- */

struct memory {
    uint64_t pss;       /* of guest RAM */
    uint64_t shmem_pss; /* the part of it that is mapped from the pool */
    uint64_t other_pss; /* private memory beside guest RAM */
    uint64_t mappings;  /* of guest RAM */
};

uint64_t now_ns(clockid_t clock);
int nap_ns(uint64_t ns);      /* -EINTR: somebody wants us to end */
int proc_block_signals(void); /* once, before that */
int proc_memory(pid_t pid, uintptr_t ram, uint64_t ram_bytes, struct memory *ret_memory);
pid_t proc_find(const char *comm);
uint64_t proc_cpu_ns(pid_t pid); /* of a kernel thread, to the nanosecond */
json_t *proc_machine(void);

/* ---- daemon.c ---- */

struct point {
    double seconds, cpu_seconds;
    uint64_t captured; /* pages */
};

struct daemon {
    struct ms_pool *pool;
    struct guests *guests;
    struct ms_client *client[MAX_GUESTS];
    char error[200];
    int epoll, wake;
    pthread_t thread;
    pthread_mutex_t lock; /* guards pool, client, error and the points */
    _Atomic bool stop;
    clockid_t clock;
    uint64_t start_ns, start_cpu_ns, sample_cost_ns;
    uint64_t last_sample_ns, captured, step;
    bool sample_due;
    unsigned n_points;
    struct point point[MAX_POINTS];
};

int daemon_start(struct daemon *daemon, struct ms_pool *pool, struct guests *guests,
                 uint64_t possible);
void daemon_stop(struct daemon *daemon); /* also detaches all clients */
uint64_t daemon_cpu_ns(const struct daemon *daemon);

/* ---- run.c, ksm.c: one run each ---- */

struct options {
    bool ksm, json, zero_resident, hide;
    unsigned budget, steady, limit, changes;
    const struct image *image;
    unsigned n_images;
    const struct oracle *oracle;
};

struct when {
    bool reached;
    double seconds, cpu_seconds;
};

struct steady {
    double changes;     /* pages a second */
    double cpu_percent; /* of one core */
};

struct run {
    char name[64];
    uint64_t resident_before, resident_after, resident_claimed;
    uint64_t possible, captured_counted; /* pages */
    double captured;                     /* of what is possible, as the kernel's Pss says */
    struct when goal, end;
    double seconds, cpu_seconds; /* until nothing was left to do */
    bool settled;
    uint64_t mappings, index_bytes, daemon_bytes, scanner_bytes;
    uint64_t ledger_cpu_ns, longest_freeze_ns, freezes, merges;
    unsigned pages_to_scan, sleep_ms; /* KSM */
    unsigned n_steady;
    struct steady steady[3];
};

#define MAX_KSM_RUNS 8

struct results {
    struct run ours, limited; /* limited: to a share of a core */
    struct run ksm[MAX_KSM_RUNS], ksm_steady, ksm_limited;
    unsigned n_ksm;
};

/* The share of a core that it took on its way to the goal. */
static inline double run_share(const struct run *run)
{
    return run->goal.reached ? run->goal.cpu_seconds / run->goal.seconds : 0;
}

/* Where progress reached `pages`. */
struct when when_reached(const struct point *point, unsigned n, double pages);

/* n guests; steady: also what it costs when all is done. */
int run_ours(const struct options *options, unsigned n, unsigned budget, bool steady,
             struct run *ret_run);
int run_hash(const struct options *options, double *ret_ratio, double *ret_bytes_per_second);

struct ksm;
int ksm_open(struct ksm **ret_ksm, const struct options *options);
void ksm_close(struct ksm *ksm); /* restores the settings */
int ksm_run(struct ksm *ksm, unsigned pages_to_scan, unsigned sleep_ms, bool steady,
            struct run *ret_run);
json_t *ksm_settings(const struct ksm *ksm);

/* ---- report.c ---- */

json_t *report_oracle(const struct oracle *oracle, unsigned guests);
json_t *report_run(const struct run *run);
json_t *report_ratios(const struct results *results);
/* Markdown, as the figures come: machine and content, then runs, then what follows from them. */
void report_begin(const json_t *all);
void report_print_run(const json_t *run);
void report_end(const json_t *all);
void report_begin_flat(void);
void report_print_flat(const json_t *row);

#endif
