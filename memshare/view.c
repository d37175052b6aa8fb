/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mapping the store: see view.h.
 *
 * A read beyond the end of a file is a SIGBUS, so the file must be one that cannot shrink, and its
 * size is asked for before a slot beyond the last known one is touched.
 */
#include "memshare/view.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "memshare/memshare.h"

#define VIEW_LEAST  16384u /* slots */
#define SEEN_MAX    4096u  /* pages that may stay mapped between two releases */
#define FAULT_BYTES 65536u /* as far the kernel maps what is around a page that is missing */

const uint8_t *ms_view_at(const struct ms_view *view, uint32_t slot)
{
    return view->at + (uint64_t)slot * MS_PAGE_SIZE;
}

void ms_view_release(struct ms_view *view)
{
    if (view->seen)
        (void)madvise((void *)view->at, view->slots * MS_PAGE_SIZE, MADV_DONTNEED);
    view->seen = 0;
}

void ms_view_close(struct ms_view *view)
{
    if (view->at)
        (void)munmap((void *)view->at, view->slots * MS_PAGE_SIZE);
    *view = (struct ms_view){0};
}

/* Twice what is needed: a store grows in many small steps. */
static int map(struct ms_view *view, int fd, uint64_t there)
{
    uint64_t slots = 2 * there > VIEW_LEAST ? 2 * there : VIEW_LEAST;
    void *at = mmap(NULL, slots * MS_PAGE_SIZE, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);

    if (at == MAP_FAILED)
        return -errno;
    ms_view_close(view);
    *view = (struct ms_view){.at = at, .slots = slots};
    return 0;
}

static int reach(struct ms_view *view, int fd, uint64_t end)
{
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat st;
    uint64_t there;
    int r;

    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0)
        return -EIO;
    there = (uint64_t)st.st_size / MS_PAGE_SIZE;
    if (there < end)
        return -EIO;
    if (there > view->slots) {
        r = map(view, fd, there);
        if (r < 0)
            return r;
    }
    view->there = there;
    return 0;
}

/* The kernel maps what is around a page that is missing, as far as FAULT_BYTES. Pages it leaves out
 * come when they are compared. */
static void bring(const uint8_t *at, uint64_t n)
{
    const uint8_t *end = at + n * MS_PAGE_SIZE;

    while (at < end) {
        (void)*(const volatile uint8_t *)at;
        at = (const uint8_t *)(((uintptr_t)at | (FAULT_BYTES - 1)) + 1);
    }
}

int ms_view_bring(struct ms_view *view, int fd, uint32_t slot, uint32_t n)
{
    if (view->there < (uint64_t)slot + n) {
        int r = reach(view, fd, (uint64_t)slot + n);

        if (r < 0)
            return r;
    }
    if (view->seen > SEEN_MAX)
        ms_view_release(view);
    view->seen += n;
    bring(ms_view_at(view, slot), n);
    return 0;
}
