/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memshare: identical pages of many guests, held once.
 *
 * Two halves that speak a small private protocol over a SOCK_SEQPACKET socket.
 *
 * The pool, in vmmd: per share group a store (memfd) of pages, an index hash -> slot, and how often
 * each guest maps each slot. Trusts no guest process.
 *
 * The scanner, in each guest process: finds zero pages, pages equal to a template block, pages
 * equal to a pool slot; compares every byte; remaps them MAP_PRIVATE, so that the kernel's own
 * write fault splits them again.
 *
 * memshare knows nothing of engines, devices, disks or the bus; it neither logs nor exits.
 *
 * A page is 4096 bytes; "page N" is the N-th page of the guest RAM region in host address order.
 * Hash: XXH3-64 with seed 0 of the 4096 bytes: a hint only. Nothing is merged without a comparison
 * of all bytes while nobody can write the page.
 */
#ifndef MEMSHARE_H
#define MEMSHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MS_PAGE_SIZE 4096u

/* ---- the ledger: where every byte of a guest is ---- */

/*
 * All sizes in bytes. nominal = zero + lineage + template_ + pool + private_ .
 * resident is what the kernel calls Rss of the guest RAM mappings (each page present counts in full
 * for every guest that maps it): lineage + template_ + pool + private_. saved is Rss - Pss of the
 * same mappings: a page mapped n times by all guests together costs each 1/n and saves each 1 -
 * 1/n.
 */
struct ms_ledger {
    uint64_t nominal, resident;
    uint64_t zero;      /* not backed by memory: never touched, dropped zero pages, ballooned */
    uint64_t lineage;   /* mapped from the parent's memory image */
    uint64_t template_; /* mapped from the template's page cache */
    uint64_t pool;      /* mapped from the pool */
    uint64_t private_;  /* the guest's own */
    uint64_t saved;     /* filled by the pool side (ms_client_saved) */
    uint64_t merges, splits;    /* pages, since start */
    uint64_t cpu_ns;            /* CPU time of scanning and merging, in whatever thread */
    uint64_t mappings;          /* VMAs of guest RAM now */
    uint64_t mappings_skipped;  /* runs not merged because of the budget, when last looked at */
    uint64_t passes;            /* complete passes over guest RAM */
    uint64_t repacked;          /* pages moved to longer runs since start */
    uint64_t freezes;           /* times the guest was held up to merge, since start */
    uint64_t longest_freeze_ns; /* wall time of the work of the longest of them */
    bool settled;               /* the last complete pass found (almost) nothing new to merge */
};

/* ---- guest side ---- */

struct ms_scanner_ops {
    /*
     * Runs work(arg) exactly once while no vCPU runs guest code and no device writes guest RAM, and
     * returns 0 after it; or -EBUSY without having run it: a device write is in flight, try again
     * later. Called from the scanner thread with no memshare lock held. `work` may run in any
     * thread of the process; best in that of the vCPU it holds up, so that no guest ever waits for
     * another thread to be scheduled. It does not block and takes less than half a millisecond of
     * CPU time.
     */
    int (*frozen)(void *opaque, void (*work)(void *arg), void *arg);
};

/* The template's raw disk as a source of pages; the arrays are the caller's and outlive the
 * scanner. */
struct ms_template {
    int fd; /* raw disk, read-only; -1: no template */
    uint64_t bytes;
    uint64_t n_blocks;       /* of 4096 bytes */
    const uint64_t *hash;    /* [n_blocks] */
    const uint32_t *by_hash; /* [n_blocks], sorted by (hash, block) */
};

/*
 * The memory image that a clone came from. Guest RAM then is a MAP_PRIVATE mapping of `fd` from
 * `offset` on, so a page that was never written is the image's own, and one that is equal to it
 * again goes back to it. The image never changes.
 */
struct ms_lineage {
    int fd;          /* readable; -1: no image. 0 is not a memory image either, so {0} is none */
    uint64_t offset; /* bytes, a multiple of 4096 */
};

struct ms_scanner_config {
    void *ram;          /* page-aligned, private anonymous memory, mapped with MAP_NORESERVE and
                           advised MADV_NOHUGEPAGE (with other flags all works, but pages that
                           become anonymous again then need mappings of their own); or a private
                           mapping of the memory image, see lineage */
    uint64_t ram_bytes; /* multiple of 4096 */
    const struct ms_scanner_ops *ops;
    void *opaque; /* for ops */
    struct ms_lineage lineage;
    struct ms_template tmpl;
    unsigned budget_percent; /* of one core, 1..100; 0: do not scan */
    uint64_t max_mappings;   /* VMAs that guest RAM may use, of what vm.max_map_count leaves;
                                0: 40,000 */
};

struct ms_scanner;

/* Creates a scanner (opens /proc/self/pagemap now, so that a later sandbox need not allow opening).
 * -EINVAL, -ENOMEM, or the error of opening pagemap. */
int ms_scanner_new(struct ms_scanner **ret_scanner, const struct ms_scanner_config *config);
void ms_scanner_free(struct ms_scanner *scanner); /* after run() returned; NULL is fine */

/* Runs the scan loop in the calling thread until ms_scanner_stop(). */
void ms_scanner_run(struct ms_scanner *scanner);
void ms_scanner_stop(struct ms_scanner *scanner); /* any thread */

/* Connects to a pool: `sock` and `pool_fd` (read-only) become the scanner's. Replaces an earlier
 * connection (vmmd was restarted): pages of the old store stay valid and move to
 * the new one, or, if nobody else has them, to memory of their own.
 * With sock -1 the scanner merges zero and template pages only. Any thread. */
int ms_scanner_connect(struct ms_scanner *scanner, int sock, int pool_fd);

void ms_scanner_set_budget(struct ms_scanner *scanner, unsigned percent); /* any thread */

/* virtio-blk read template block `block`.. into pages `page`..: they are equal to the template
 * until written. A hint, verified like any other. Any thread. */
void ms_scanner_hint_template(struct ms_scanner *scanner, uint64_t page, uint64_t n_pages,
                              uint64_t block);

/*
 * The guest gave these pages away (balloon, free page reporting): they become untouched anonymous
 * memory that reads as zero, whatever was mapped there, so that no pool page shows through. The
 * caller guarantees that no freeze is in progress (it is a vCPU thread outside of frozen work, or a
 * device holding off freezes). 0 or -errno of mmap.
 */
int ms_scanner_discard(struct ms_scanner *scanner, uint64_t page, uint64_t n_pages);

/* A true ledger of now (looks at the page tables; milliseconds per GiB); `saved` is left 0. Any
 * thread. */
int ms_scanner_ledger(struct ms_scanner *scanner, struct ms_ledger *ret_ledger);

/* Only what is counted as it happens: merges .. settled, without a look at the page tables; the
 * sizes are 0. Any thread. */
void ms_scanner_counters(struct ms_scanner *scanner, struct ms_ledger *ret_ledger);

/* ---- daemon side ---- */
/* One thread (vmmd's event loop) calls all of these. Nothing blocks. */

struct ms_pool;
struct ms_client;

/*
 * A pool for one share group. `max_bytes`: the store never grows beyond it (0: half of the host).
 * MS_TIMING_HIDE: a page that nobody else has goes to the pool like one that somebody has, so that
 * the time of a guest's next write to it is the same and tells nothing of other guests; it costs
 * the CPU time to move every page once, no memory. MS_TIMING_PLAIN: only shared pages move.
 */
enum ms_timing { MS_TIMING_PLAIN, MS_TIMING_HIDE };
int ms_pool_new(struct ms_pool **ret_pool, const char *group, uint64_t max_bytes,
                enum ms_timing timing);
/* Frees the pool and the clients still attached. Guest processes that live on keep what they map.
 * NULL is fine. */
void ms_pool_free(struct ms_pool *pool);

/* A new read-only fd of the store, to pass to a guest process. The caller closes it. Or -errno. */
int ms_pool_guest_fd(struct ms_pool *pool);

/*
 * Attaches a guest process by the daemon's end of its socket (becomes the client's; set
 * non-blocking). template_key names the template its RAM may map ("" for none), template_blocks its
 * length.
 */
int ms_pool_attach(struct ms_pool *pool, int sock, const char *template_key,
                   uint64_t template_blocks, struct ms_client **ret_client);

/* Tells how much RAM the guest has, before the first message is served: a guest process that claims
 * another amount is cut off. Without it its word is taken for how much it may share. */
void ms_client_expect_ram(struct ms_client *client, uint64_t ram_bytes);

int ms_client_fd(const struct ms_client *client); /* to poll for reading */

/* Serves what is readable now (a bounded number of messages). 0; -ECONNRESET: the guest process
 * closed it; -EPROTO: it lied or broke the protocol, ms_client_error() says how; or another error
 * (-ENOMEM), for which it cannot help. After any of them: detach. */
int ms_client_serve(struct ms_client *client);
const char *ms_client_error(const struct ms_client *client); /* "" if none; valid until detach */

/*
 * Forgets this guest process. Its references are dropped, and slots nobody maps any more are freed
 * and punched out, as soon as it has closed its end of the socket (it ended, or it maps nothing of
 * this pool any more): at once, or else in a later call for this pool. So a guest process that
 * lives on never loses a page that it maps.
 */
void ms_client_detach(struct ms_client *client);

/* Bytes this guest saves by sharing now, as defined at struct ms_ledger. */
uint64_t ms_client_saved(const struct ms_client *client);

struct ms_pool_stats {
    uint64_t slots;        /* in use */
    uint64_t store_bytes;  /* slots * 4096 */
    uint64_t index_bytes;  /* memory of index and reference tables */
    uint64_t mapped_pages; /* sum of references of all guests */
    uint64_t clients;
};
void ms_pool_get_stats(const struct ms_pool *pool, struct ms_pool_stats *ret_stats);

#endif
