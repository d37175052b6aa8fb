/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of cow_check(): what is referred to, what is counted, what is wrong, how it is put
 * right.
 *
 * Memory is bounded by a window: two numbers for each of at most COW_CHECK_WINDOW clusters are held
 * at a time, and a file with more clusters is walked once for each window. Apart from that there
 * are a few clusters of buffers.
 *
 *   check-walk.c    every reference in the metadata    check.c         comparison, result
 *   check-counts.c  refcounts as the file has them     check-copied.c  the COPIED flags
 *   check-repair.c  putting it right
 */
#ifndef COWDISK_CHECK_H
#define COWDISK_CHECK_H

#include "cowdisk/internal.h"

#define COW_CHECK_WINDOW (1ull << 25) /* clusters; 8 bytes each: 256 MiB */

struct check {
    int fd;
    struct cow_header header;
    uint32_t entry_words; /* 64-bit words of an L2 entry: 2 with subclusters */
    uint64_t cluster_size;
    uint64_t file_bytes;
    uint64_t n_clusters; /* of the file, and one more that may be cut short */

    uint64_t first, n;  /* the window */
    uint32_t *refs;     /* references found; stops at UINT32_MAX */
    uint32_t *counts;   /* refcounts in the file; the same */
    uint64_t highest;   /* cluster in use, plus one */
    bool tell;          /* this pass notes what is wrong */
    bool no_structures; /* this pass does not count the refcount table and its blocks */
    bool need_rebuild;  /* refcounts are too low, or their structures wrong */
    bool blind;         /* some references could not be followed: what looks leaked may be data */
    uint64_t lowest_outside; /* reference that lies outside of the file */

    uint64_t *l1, *l2; /* one cluster each */
    struct cow_check_result result;
    uint64_t done, total;
    cow_progress_fn progress;
    void *opaque;
};

enum check_entry { CHECK_EMPTY, CHECK_PACKED, CHECK_ALLOCATED };

/* ---- check.c */
/* Notes one corruption of the metadata itself (on the first pass). */
void check_problem(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Notes one corruption. */
void check_note(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Calls `fn` for each window; refs and counts are ready in it. */
int check_each_window(struct check *c, int (*fn)(struct check *c));
/* Walks it all; the result is that of this moment. */
int check_all(struct check *c);

/* ---- check-walk.c */
int check_count_references(struct check *c);
enum check_entry check_entry_kind(const struct check *c, uint64_t entry);
/* Offset of the L2 table of an L1 entry; false: it has none that can be read. */
bool check_l2_place(const struct check *c, uint64_t l1_entry, uint64_t *ret_offset);
/* Calls `fn` for each entry of the active L1 table that is not empty. `at`: its place in the file.
 */
int check_each_l1(struct check *c,
                  int (*fn)(struct check *c, uint64_t index, uint64_t entry, uint64_t at));

/* ---- check-copied.c */
/* For targets in the window: notes flags that do not fit the file's refcounts. */
int check_copied(struct check *c);
/* Takes the flag from what is referred to more or less often than once. */
int check_clear_copied(struct check *c);
/* Gives the flag to what is referred to and counted once. */
int check_set_copied(struct check *c);

/* ---- check-counts.c */
int check_load_counts(struct check *c);
/* Notes refcount blocks in the window that lie on something else: they must not be written. */
int check_blocks(struct check *c);
/* That of one cluster, wherever it is; 0 if it cannot be read. */
uint32_t check_count_of(const struct check *c, uint64_t cluster);

/* ---- check-repair.c */
/* Repairs what the last check_all() found; the result must be found anew. */
int check_repair(struct check *c, unsigned flags, struct cow_error *err);
/* The refcounts are right: takes the dirty and the corrupt bit off. */
int check_mark_clean(struct check *c);

#endif
