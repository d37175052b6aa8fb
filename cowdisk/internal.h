/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of cowdisk share: the structures of an open image and the steps between the public
 * calls and the file. Nobody outside cowdisk/ includes this.
 *
 * How an image is changed, in one paragraph (commit.c has the whole story): metadata is never
 * overwritten where the image on disk uses it. Changed tables are written to clusters that the
 * image counts as free, and one small write into the header's first sector then points to the new
 * L1 table and the new refcount table at once. Before that write the file is the old consistent
 * image, after it the new one: killed or unplugged at any instant, `qemu-img check` finds neither a
 * leak nor an error.
 *
 * Layers, lower ones know nothing of higher ones:
 *   io.c      whole reads and writes on an fd      page.c   tables, cached page by page
 *   alloc.c   refcounts, free clusters             map.c    guest offset -> extent
 *   trace.c   guest offset -> place in the chain   commit.c  the switch to the new tables
 *   read.c write.c zero.c packed.c autoclear.c                                     the requests
 *   disk.c    open, close, raw or qcow2            header.c create.c lock.c        the file's frame
 *   chain.c   opens all that lies under an image   resize.c                        a disk's end
 *   transfer*.c rebase.c                           from image to image
 *   verify.c  blocks of a template against their hashes
 *   check*.c info.c snapshot.c hashes.c                     stand alone
 */
#ifndef COWDISK_INTERNAL_H
#define COWDISK_INTERNAL_H

#include "cowdisk/cowdisk.h"

#include <endian.h>
#include <string.h>

#include "cowdisk/format.h"

/* ---- limits ---------------------------------------------------------------------------------- */

#define COW_PAGE_BYTES         4096u        /* unit in which tables are cached and written */
#define COW_MAX_PAGES          1024u        /* cached pages of a chain: 4 MiB */
#define COW_MAX_DIRTY_PAGES    512u         /* more than this: commit without being asked */
#define COW_MAX_L1_BYTES       (32u << 20)  /* as QEMU */
#define COW_MAX_RT_BYTES       (8u << 20)   /* as QEMU */
#define COW_MAX_CLUSTERS       (1ull << 30) /* of a file opened for writing: its bitmap is 128 MiB */
#define COW_MAX_CHUNKS_BEYOND  64u /* refcount blocks for what is past the end of the file */
#define COW_MAX_SNAPSHOTS      65536u
#define COW_MAX_SNAPSHOT_TABLE (64ull << 20) /* bytes, as QEMU */
#define COW_MAX_SNAPSHOT_EXTRA 1024u         /* bytes, as QEMU */
#define COW_MAX_UNPACKED       16u           /* decompressed clusters kept, */
#define COW_MAX_UNPACKED_BYTES (4u << 20)    /* but no more than this, and at least one */
#define COW_MAX_FREED          65536u        /* freed ranges waiting for a commit */
#define COW_MAX_RUN            (4u << 20)    /* bytes allocated for one step of a write */
#define COW_VEC                64            /* segments of one system call */

/* A flag of cow_open() for vmmd-import: an image encrypted with AES as it is. Only with
 * COW_RDONLY. */
#define COW_CIPHERTEXT (1u << 31)

/* ---- io.c ------------------------------------------------------------------------------------ */

/* A place in the caller's iovec. */
struct cow_iter {
    const struct iovec *iov;
    int iovcnt;
    size_t skip; /* bytes of iov[0] already done */
};

/* Collects pieces that follow each other in the file and writes them with few system calls. */
struct cow_writer {
    int fd;
    uint64_t offset; /* of the first piece not written yet */
    int n;
    struct iovec vec[COW_VEC];
};

/* Bytes past the end of the file read as zeroes. */
int cow_read_full(int fd, void *data, size_t length, uint64_t offset);
int cow_write_full(int fd, const void *data, size_t length, uint64_t offset);
int cow_sync(int fd);
/* The next `length` bytes of the iovec <- file, zeroes, memory; or -> memory. The iovec is known to
 * be long enough. */
int cow_iter_read(struct cow_iter *iter, int fd, size_t length, uint64_t offset);
/* Takes at most COW_VEC segments and at most `length` bytes; how many segments, and bytes. */
int cow_iter_take(struct cow_iter *iter, uint64_t length, struct iovec *vec, size_t *ret_bytes);
void cow_iter_zero(struct cow_iter *iter, size_t length);
void cow_iter_skip(struct cow_iter *iter, size_t length);
void cow_iter_fill(struct cow_iter *iter, const void *data, size_t length);
int cow_writer_add(struct cow_writer *writer, const void *data, size_t length);
int cow_writer_add_iter(struct cow_writer *writer, struct cow_iter *iter, size_t length);
int cow_writer_finish(struct cow_writer *writer);
bool cow_is_zero(const void *data, size_t length);
void cow_fail(struct cow_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Sum of the lengths, or -EINVAL for a bad count or a sum beyond SSIZE_MAX. */
int cow_iov_bytes(const struct iovec *iov, int iovcnt, uint64_t *ret_bytes);

/* ---- page.c ---------------------------------------------------------------------------------- */

enum cow_table_kind { COW_TABLE_L1, COW_TABLE_L2, COW_TABLE_RT, COW_TABLE_RB };

/*
 * A metadata table: L1, an L2 table, the refcount table or a refcount block. It has two places in
 * the file: `active`, which the image on disk points to and which is never written, and `other`, a
 * run of clusters reserved for its next version. A commit brings `other` up to date and swaps the
 * two.
 */
struct cow_table {
    struct cow_disk *disk;
    enum cow_table_kind kind;
    uint32_t index;  /* of an L2 table: in L1; of a refcount block: in the refcount table */
    uint64_t active; /* 0: the image on disk does not have this table yet */
    uint64_t other;  /* 0: none reserved */
    bool moving;     /* the pending refcounts and parent already say `other` */
    bool shared;     /* a snapshot uses the active place as well: it cannot become `other` */
    uint64_t bytes;
    uint32_t n_pages, n_loaded;
    uint64_t *stale;        /* bitmap: pages of `other` that differ from `active` */
    struct cow_page **page; /* NULL: not in memory */
    struct cow_table *next_moving;
};

struct cow_page {
    struct cow_table *table;
    uint32_t number;
    uint32_t pins; /* > 0: must not be evicted */
    uint32_t bytes;
    bool recent, dirty;
    uint64_t entry[]; /* big endian, `bytes` long */
};

/* Of all images of a chain; the lowest one owns it. */
struct cow_cache {
    struct cow_page **slot;
    size_t n_slots, capacity, hand;
    struct cow_packed *packed; /* NULL until there is a compressed cluster */
};

int cow_cache_attach(struct cow_disk *disk);
void cow_cache_detach(struct cow_disk *disk);

struct cow_table *cow_table_new(struct cow_disk *disk, enum cow_table_kind kind, uint32_t index,
                                uint64_t active, uint64_t bytes);
void cow_table_free(struct cow_table *table);
/* Valid until the next cow_page_get() unless pinned. Never writes. */
int cow_page_get(struct cow_disk *disk, struct cow_table *table, uint32_t number,
                 struct cow_page **ret_page);
void cow_page_dirty(struct cow_page *page);
void cow_page_clean(struct cow_page *page);
/* One big-endian 64-bit entry of a table. */
int cow_table_entry(struct cow_disk *disk, struct cow_table *table, uint64_t index,
                    uint64_t *ret_entry);
int cow_table_set_entry(struct cow_disk *disk, struct cow_table *table, uint64_t index,
                        uint64_t entry);

/* ---- refcount.c ------------------------------------------------------------------------------ */

uint64_t cow_count_get(const uint8_t *block, unsigned order, uint64_t i);
/* False: the refcount does not fit its width. */
bool cow_count_put(uint8_t *block, unsigned order, uint64_t i, uint64_t count);

/* ---- alloc.c --------------------------------------------------------------------------------- */

struct cow_range {
    uint64_t first, n; /* clusters, or bytes */
};

/*
 * Free space. A chunk is what one refcount block describes. A bit in `used` is set while the
 * cluster is in use by the image on disk, or by the pending one, or reserved: only a clear bit may
 * be handed out.
 */
struct cow_alloc {
    uint64_t n_chunks;
    uint64_t per_chunk;      /* clusters */
    struct cow_table **rb;   /* [n_chunks], NULL: not loaded or not there */
    uint64_t **used;         /* [n_chunks] bitmaps */
    uint32_t *n_free;        /* [n_chunks] clear bits */
    uint64_t cursor;         /* no cluster below it is free */
    uint64_t n_counted;      /* clusters with a refcount, pending state */
    struct cow_range *freed; /* in use by the image on disk until the next commit */
    size_t n_freed, freed_capacity;
};

/* Reads every refcount block of the image. */
int cow_alloc_load(struct cow_disk *disk, struct cow_error *err);
void cow_alloc_unload(struct cow_disk *disk);
/* Makes the refcount table large enough for the step to come: it is not replaced in the middle. */
int cow_alloc_prepare(struct cow_disk *disk);
/* Reserves 1..want clusters that lie side by side: no refcount yet. Those from *ret_fresh on (a
 * file offset) were never written and read as zeroes. */
int cow_alloc_reserve(struct cow_disk *disk, uint64_t want, uint64_t *ret_first, uint64_t *ret_got,
                      uint64_t *ret_fresh);
/* Exactly `n` side by side, at the end of the file if n > 1. */
int cow_alloc_reserve_exactly(struct cow_disk *disk, uint64_t n, uint64_t *ret_first,
                              uint64_t *ret_fresh);
/* Gives back what was reserved and never counted in a committed image. */
void cow_alloc_release(struct cow_disk *disk, uint64_t first, uint64_t n);
int cow_refcount_set(struct cow_disk *disk, uint64_t first, uint64_t n, unsigned count);
/* Room for the next version of the refcount block that counts `cluster`. */
int cow_alloc_reserve_block(struct cow_disk *disk, uint64_t cluster);
/* Copies the entries of a table to one that is at least as large. */
int cow_table_copy(struct cow_disk *disk, struct cow_table *from, struct cow_table *to);
/* A table of `bytes`, with the entries of a smaller one and no place in the file yet. */
int cow_table_enlarge(struct cow_disk *disk, struct cow_table *old, uint64_t bytes,
                      struct cow_table **ret_table);
/* Drops the cached pages of a table, changed or not. */
void cow_table_forget(struct cow_disk *disk, struct cow_table *table);
/* Gives up a table and its place in the file; nothing refers to it in the pending state. */
int cow_table_drop(struct cow_disk *disk, struct cow_table *table);
/* One reference less; at 0 the cluster is free after the next commit, unless `keep` reserves it.
 * Whether references are left (1 or 0), or -EIO: there was none. */
int cow_refcount_drop(struct cow_disk *disk, uint64_t cluster, bool keep);
/* After a commit: what was freed before it may be used again, its space goes back to the host. */
void cow_alloc_committed(struct cow_disk *disk);

/* ---- map.c ----------------------------------------------------------------------------------- */

enum cow_kind {
    COW_DATA,    /* at `host` in the image */
    COW_ZERO,    /* reads as zeroes */
    COW_BACKING, /* not in this image: the backing file, or zeroes without one */
    COW_PACKED,  /* compressed; `entry` says where; one cluster at most */
};

struct cow_extent {
    enum cow_kind kind;
    bool owned; /* COW_DATA: may be written in place */
    uint64_t host;
    uint64_t length;
    uint64_t entry; /* L2 entry of the first cluster */
};

/* This image alone. */
int cow_lookup(struct cow_disk *disk, uint64_t offset, uint64_t length,
               struct cow_extent *ret_extent);
/* The page of the L2 table that holds the entry of guest cluster `cluster`, and where in it; a
 * table that the image lacks is made (in memory). */
int cow_l2_page(struct cow_disk *disk, uint64_t cluster, struct cow_page **ret_page,
                uint32_t *ret_slot);
/* Gives up what an L2 entry refers to. */
int cow_entry_drop(struct cow_disk *disk, uint64_t entry);
/* Host bytes of a compressed cluster. */
void cow_packed_range(const struct cow_disk *disk, uint64_t entry, uint64_t *ret_offset,
                      uint64_t *ret_length);

/* ---- trace.c --------------------------------------------------------------------------------- */

struct cow_trace;

/* Where bytes of a chain are: never COW_BACKING. */
struct cow_place {
    struct cow_disk *disk; /* in which image; a raw one holds COW_DATA; not of COW_ZERO */
    struct cow_extent extent;
};

/* Of what comes from below `disk`. */
int cow_trace_below(struct cow_disk *disk, uint64_t offset, uint64_t length,
                    struct cow_place *ret_place);
/* The disk and what lies below it are known. */
void cow_trace_prepare(struct cow_disk *disk);
void cow_trace_free(struct cow_disk *disk);

/* ---- packed.c -------------------------------------------------------------------------------- */

/* Decompressors, and the clusters decompressed last. */
struct cow_packed;
/* Valid until the next call. */
int cow_packed_get(struct cow_disk *disk, uint64_t entry, const uint8_t **ret_cluster);
/* Nothing of this disk is kept any longer. */
void cow_packed_forget(struct cow_packed *packed, const struct cow_disk *disk);
void cow_packed_free(struct cow_packed *packed);

/* ---- commit.c -------------------------------------------------------------------------------- */

/* Makes the pending state the state of the file, durable. */
int cow_commit(struct cow_disk *disk);
/* Room for the next versions of the L2 table of this page, L1 and the refcount table. */
int cow_reserve_for_change(struct cow_disk *disk, struct cow_page *l2_page);
/* Commits if too much is pending; to be called before a change. */
int cow_commit_if_full(struct cow_disk *disk);
/* Would it commit? */
bool cow_commit_is_due(const struct cow_disk *disk);
/* The clusters belong to the next committed image. */
void cow_file_must_hold(struct cow_disk *disk, uint64_t first, uint64_t n);
/* Makes sure that the next commit has room for this table: -ENOSPC now instead of then. */
int cow_table_reserve(struct cow_disk *disk, struct cow_table *table);

/* ---- autoclear.c ----------------------------------------------------------------------------- */

/* Before the first change: what the image keeps of features that we do not follow is given up. */
int cow_autoclear(struct cow_disk *disk);

/* ---- zero.c ---------------------------------------------------------------------------------- */

/* [offset, end) reads as zeroes afterwards, also past the end of the disk; `end` is the end of a
 * cluster that the L1 table covers. */
int cow_zero_range(struct cow_disk *disk, uint64_t offset, uint64_t end);
/* Clusters of [offset, end) that come from below are zeroes of this image from now on, whatever
 * lies below later; they are zeroes now. `offset` is the beginning of a cluster, `end` the end of
 * one or of the disk. */
int cow_pin_zeroes(struct cow_disk *disk, uint64_t offset, uint64_t end);
/* The clusters in [start, end) are no longer in this image, neither data nor zeroes. */
int cow_unmap_range(struct cow_disk *disk, uint64_t start, uint64_t end);

/* ---- resize.c -------------------------------------------------------------------------------- */

/* Gives up the clusters and L2 tables from guest offset `start` (the beginning of a cluster) on,
 * also those past the end of the disk. Commits. */
int cow_truncate_map(struct cow_disk *disk, uint64_t start);

/* ---- verify.c -------------------------------------------------------------------------------- */

struct cow_verify;

/* A raw disk that was opened with hashes. */
int cow_verify_new(struct cow_disk *disk, const struct cow_open_options *options,
                   struct cow_error *err);
void cow_verify_free(struct cow_disk *disk);
/* After `length` bytes at `offset` of the raw disk were read to `start`: compares blocks that are
 * not known to be good. A part of a block is read again with the rest of it. -EIO: one is damaged.
 * Does nothing if the disk has no hashes. By the thread that reads. */
int cow_verify_iter(struct cow_disk *disk, const struct cow_iter *start, uint64_t offset,
                    uint64_t length);

/* ---- the rest -------------------------------------------------------------------------------- */

int cow_lock(int fd, bool writable, struct cow_error *err);
void cow_unlock(int fd);

/* The length of a regular file or block device; anything else is no image. */
int cow_file_bytes(int fd, uint64_t *ret_bytes, struct cow_error *err);

/* What the header says; only what is needed to understand it is checked. */
int cow_header_parse(int fd, struct cow_header *ret_header, struct cow_error *err);
/* The header of an image that can be read: its features and tables are checked as well. AES is
 * fine if `ciphertext`. */
int cow_header_read(int fd, const char *snapshot, bool ciphertext, struct cow_header *ret_header,
                    struct cow_error *err);
/* Puts the L1 table and the size of a snapshot (by id or name) in place of those of the active
 * state. -ENOENT: there is none. */
int cow_snapshot_select(int fd, const char *snapshot, struct cow_header *header,
                        struct cow_error *err);
/* Is the image one that may be written? */
int cow_header_check_writable(const struct cow_header *header, struct cow_error *err);

/* Where the beginning of a range is, in whatever image of the chain. */
int cow_find_place(struct cow_disk *disk, uint64_t offset, uint64_t length,
                   struct cow_place *ret_place);
/* Reads it; `offset` is the guest's. */
int cow_read_place(const struct cow_place *place, struct cow_iter *iter, uint64_t offset);
int cow_read_iter(struct cow_disk *disk, struct cow_iter *iter, uint64_t offset, uint64_t length);
/* The same into memory; beyond the end of the disk are zeroes. */
int cow_read_memory(struct cow_disk *disk, void *data, uint64_t offset, uint64_t length);
int cow_write_iter(struct cow_disk *disk, struct cow_iter *iter, uint64_t offset, uint64_t length);

/* ---- write.c --------------------------------------------------------------------------------- */

/* New clusters for a write, side by side in the guest's disk and in the file. */
struct cow_run {
    uint64_t offset, length; /* guest bytes to write */
    uint64_t first_guest;    /* cluster */
    uint64_t first_host, n;  /* clusters */
    uint64_t fresh;          /* the file was never written from here on */
};

/* Clusters for the beginning of a write, counted but not mapped: no commit may happen before
 * cow_run_end() or cow_run_undo(). */
int cow_run_begin(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_run *ret_run);
/* What surrounds the write in its first and last cluster: the head in `buffer`, the tail
 * one cluster further on. Lengths of 0: nothing need be written there. */
int cow_run_around(struct cow_disk *disk, const struct cow_run *run, uint8_t *buffer,
                   uint64_t *ret_head, uint64_t *ret_tail);
/* Where the first byte of the write goes in the file. */
uint64_t cow_run_host(const struct cow_disk *disk, const struct cow_run *run);
/* The data is there: it is the guest's from now on. After an error it is not, and the clusters are
 * given back. */
int cow_run_end(struct cow_disk *disk, const struct cow_run *run);
void cow_run_undo(struct cow_disk *disk, const struct cow_run *run);

/* Is it known without reading data that the extent at `offset` reads as zeroes? */
bool cow_extent_is_zero(const struct cow_disk *disk, const struct cow_extent *extent,
                        uint64_t offset);

struct cow_disk {
    int fd;
    struct cow_disk *backing; /* NULL: none */
    bool raw, writable;
    struct cow_verify *verify; /* NULL: data is not compared with hashes */
    bool locked, data_locked;
    bool alone;        /* it has a backing file, but was opened without: data cannot be written */
    bool unsynced;     /* written to since the last fdatasync */
    bool header_dirty; /* the header has what the file's does not have yet */
    bool autoclearing; /* the next commit clears the autoclear bits */
    bool broken;       /* the file may lack what was written: only reads from now on */
    int data_fd;       /* external data file; -1: data is in the image */
    uint64_t data_end; /* its length */
    uint64_t size;
    uint64_t file_end; /* the file was never written from here on; of a raw image its length */
    uint64_t used_end; /* the file must reach at least to here with the next commit */
    struct cow_header header;
    uint32_t cluster_bits, page_bytes;
    uint32_t entry_bits;       /* an L2 entry is 1 << entry_bits bytes */
    uint32_t n_subs, sub_bits; /* subclusters of a cluster, 1 << sub_bits bytes each; 1: no such */
    uint64_t cluster_size;
    struct cow_cache *cache; /* shared with what lies above and below */
    bool owns_cache;
    size_t n_dirty; /* pages */
    struct cow_table *l1, *rt;
    struct cow_table **l2; /* [header.l1_size] */
    struct cow_alloc alloc;
    struct cow_table *moving; /* list of tables that the next commit moves */
    uint32_t unit_bits;       /* trace.c: no cluster from here on down is smaller */
    bool fixed_below;         /* nothing below is open for writing */
    bool traces;              /* worth remembering what lies below */
    struct cow_trace *trace;  /* NULL until something came from below */
    uint8_t *bounce;          /* two clusters: what surrounds a partial write */
    struct cow_stats stats;
};

/* The file that guest data is in. */
static inline int cow_data_file(const struct cow_disk *disk)
{
    return disk->data_fd >= 0 ? disk->data_fd : disk->fd;
}

static inline uint64_t cow_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Bytes that lie below from `offset` on. */
static inline uint64_t cow_below(const struct cow_disk *disk, uint64_t offset)
{
    return disk->backing && offset < disk->backing->size ? disk->backing->size - offset : 0;
}

/* A raw disk has whole sectors. */
static inline uint64_t cow_raw_size(uint64_t file_bytes)
{
    return (file_bytes + 511) & ~511ull;
}

/* Big-endian numbers at any address. */
static inline uint32_t cow_get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint64_t cow_get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static inline uint64_t cow_clusters(const struct cow_disk *disk, uint64_t bytes)
{
    return (bytes + disk->cluster_size - 1) >> disk->cluster_bits;
}

#endif
