/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checking an image: how often each cluster is referred to, against how often the file counts it.
 * What is an error and what a leak is judged as qemu-img check does, so that both give the same
 * verdict on the same file.
 *
 * Must never write unless a repair was asked for.
 */
#include "cowdisk/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void note(struct check *c, const char *format, va_list args)
{
    struct cow_check_result *result = &c->result;

    if (result->n_problems < COW_CHECK_PROBLEMS)
        vsnprintf(result->problem[result->n_problems++], sizeof(result->problem[0]), format, args);
    result->corruptions++;
}

void check_problem(struct check *c, const char *format, ...)
{
    va_list args;

    if (!c->tell)
        return;
    va_start(args, format);
    note(c, format, args);
    va_end(args);
}

void check_note(struct check *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    note(c, format, args);
    va_end(args);
}

/* ---- windows --------------------------------------------------------------------------------- */

int check_each_window(struct check *c, int (*fn)(struct check *c))
{
    for (c->first = 0; c->first < c->n_clusters; c->first += COW_CHECK_WINDOW) {
        int r;

        c->n = cow_min(COW_CHECK_WINDOW, c->n_clusters - c->first);
        r = check_count_references(c);
        c->tell = false;
        if (r == 0)
            r = check_load_counts(c);
        if (r == 0)
            r = fn(c);
        if (r < 0)
            return r;
    }
    return 0;
}

static void compare(struct check *c)
{
    for (uint64_t i = 0; i < c->n; i++) {
        uint32_t refs = c->refs[i], counts = c->counts[i];

        /* Beyond the file's end only what is referred to counts. */
        if (refs == 0 && c->first + i == c->n_clusters - 1)
            continue;
        if (refs || counts)
            c->highest = c->first + i + 1;
        if (refs > counts) {
            check_note(c, "the cluster at 0x%llx is used %u times, its refcount is %u",
                       (unsigned long long)((c->first + i) << c->header.cluster_bits), refs,
                       counts);
            c->need_rebuild = true;
        } else if (counts > refs) {
            c->result.leaks++;
        }
    }
}

static int judge_window(struct check *c)
{
    int r = check_blocks(c);

    compare(c);
    return r < 0 ? r : check_copied(c);
}

int check_all(struct check *c)
{
    int r;

    memset(&c->result, 0, sizeof(c->result));
    c->highest = c->done = 0;
    c->need_rebuild = c->blind = false;
    c->lowest_outside = UINT64_MAX;
    c->tell = true;
    r = check_each_window(c, judge_window);
    c->tell = false;
    c->result.total_clusters = (c->header.size + c->cluster_size - 1) >> c->header.cluster_bits;
    c->result.image_end = c->highest << c->header.cluster_bits;
    return r;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static int prepare(struct check *c, struct cow_error *err)
{
    off_t end = lseek(c->fd, 0, SEEK_END);
    uint64_t n, windows;
    int r;

    if (end < 0)
        return -errno;
    r = cow_header_read(c->fd, NULL, false, &c->header, err);
    if (r < 0)
        return r;
    c->cluster_size = 1ull << c->header.cluster_bits;
    c->entry_words = c->header.incompatible & QCOW_INCOMPAT_EXTENDED_L2 ? 2 : 1;
    c->file_bytes = (uint64_t)end;
    c->n_clusters = (c->file_bytes + c->cluster_size - 1) / c->cluster_size + 1;
    n = cow_min(c->n_clusters, COW_CHECK_WINDOW);
    windows = (c->n_clusters + COW_CHECK_WINDOW - 1) / COW_CHECK_WINDOW;
    c->total = 2ull * windows * c->header.l1_size;
    c->refs = calloc(n, sizeof(*c->refs));
    c->counts = calloc(n, sizeof(*c->counts));
    c->l1 = malloc(c->cluster_size);
    c->l2 = malloc(c->cluster_size);
    return c->refs && c->counts && c->l1 && c->l2 ? 0 : -ENOMEM;
}

static bool is_marked(const struct check *c)
{
    return c->header.incompatible & (QCOW_INCOMPAT_DIRTY | QCOW_INCOMPAT_CORRUPT);
}

/* Repairs, and checks again what came of it. */
static int repair(struct check *c, unsigned flags, struct cow_error *err)
{
    struct cow_check_result before = c->result;
    int r = 0;

    if (before.corruptions || before.leaks) {
        r = check_repair(c, flags, err);
        if (r == 0)
            r = check_all(c);
        if (r < 0)
            return r;
        if (before.corruptions > c->result.corruptions)
            c->result.corruptions_fixed = before.corruptions - c->result.corruptions;
        if (before.leaks > c->result.leaks)
            c->result.leaks_fixed = before.leaks - c->result.leaks;
    }
    if (flags & COW_REPAIR_ALL && c->result.corruptions == 0 && is_marked(c))
        r = check_mark_clean(c);
    return r;
}

static int run(struct check *c, unsigned flags, struct cow_error *err)
{
    int r = prepare(c, err);

    if (r == 0)
        r = check_all(c);
    if (r == 0 && flags & (COW_REPAIR_LEAKS | COW_REPAIR_ALL))
        r = repair(c, flags, err);
    c->result.dirty = c->header.incompatible & QCOW_INCOMPAT_DIRTY;
    c->result.corrupt = c->header.incompatible & QCOW_INCOMPAT_CORRUPT;
    free(c->refs);
    free(c->counts);
    free(c->l1);
    free(c->l2);
    return r;
}

int cow_check(int fd, unsigned flags, struct cow_check_result *ret_result, cow_progress_fn progress,
              void *opaque, struct cow_error *err)
{
    bool writes = flags & (COW_REPAIR_LEAKS | COW_REPAIR_ALL);
    struct check c = {.progress = progress, .opaque = opaque};
    int r = 0;

    cow_fail(err, "%s", "");
    if (writes && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) {
        cow_fail(err, "the image is not open for writing");
        return -EINVAL;
    }
    /* A duplicate would share the caller's locks; so would a second check: the caller serialises.
     */
    c.fd = fd;
    if (!(flags & COW_SHARED))
        r = cow_lock(fd, writes, err);
    if (r < 0)
        return r;
    r = run(&c, flags, err);
    if (!(flags & COW_SHARED))
        cow_unlock(fd);
    if (r < 0 && err && !err->text[0])
        cow_fail(err, "%s", strerror(-r));
    if (r == 0)
        *ret_result = c.result;
    return r;
}
