/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memory: guest RAM. Every address that comes from a guest is checked here, against wrap-around and
 * against the hole, before it becomes a pointer.
 */
#include "vmmd/vmm/memory.h"

#include "memshare/memshare.h"
#include "vmmd/vmm/engine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096ull

int memory_init(struct memory *m, uint64_t bytes)
{
    pthread_rwlockattr_t prefer_writer;

    if (bytes == 0 || bytes % PAGE != 0 || bytes > MEMORY_MAX)
        return -EINVAL;
    memset(m, 0, sizeof(*m));
    m->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (m->base == MAP_FAILED) {
        m->base = NULL;
        return -ENOMEM;
    }
    /* Sharing works page by page, and a huge page of a mostly idle guest is mostly zeroes. */
    madvise(m->base, bytes, MADV_NOHUGEPAGE);
    m->bytes = bytes;
    m->low_bytes = bytes < MEMORY_HOLE_START ? bytes : MEMORY_HOLE_START;
    pthread_rwlockattr_init(&prefer_writer);
    pthread_rwlockattr_setkind_np(&prefer_writer, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&m->dma, &prefer_writer);
    pthread_rwlockattr_destroy(&prefer_writer);
    return 0;
}

void memory_free(struct memory *m)
{
    if (!m->base)
        return;
    munmap(m->base, m->bytes);
    pthread_rwlock_destroy(&m->dma);
    m->base = NULL;
}

static bool offset_of(const struct memory *m, uint64_t gpa, uint64_t bytes, uint64_t *ret_offset)
{
    if (gpa < m->low_bytes && bytes <= m->low_bytes - gpa) {
        *ret_offset = gpa;
        return true;
    }
    if (gpa < MEMORY_HOLE_END)
        return false;
    uint64_t offset = gpa - MEMORY_HOLE_END + MEMORY_HOLE_START;
    if (m->bytes <= MEMORY_HOLE_START || offset >= m->bytes || bytes > m->bytes - offset)
        return false;
    *ret_offset = offset;
    return true;
}

void *memory_at(const struct memory *m, uint64_t gpa, uint64_t bytes)
{
    uint64_t offset;

    return offset_of(m, gpa, bytes, &offset) ? m->base + offset : NULL;
}

int memory_read(const struct memory *m, uint64_t gpa, void *data, size_t bytes)
{
    const void *p = memory_at(m, gpa, bytes);

    if (!p)
        return -EFAULT;
    memcpy(data, p, bytes);
    return 0;
}

int memory_write(struct memory *m, uint64_t gpa, const void *data, size_t bytes)
{
    void *p = memory_at(m, gpa, bytes);

    if (!p)
        return -EFAULT;
    memcpy(p, data, bytes);
    memory_written(m, gpa, bytes);
    return 0;
}

void memory_written(struct memory *m, uint64_t gpa, uint64_t bytes)
{
    if (m->engine && m->ops->ram_written && bytes > 0)
        m->ops->ram_written(m->engine, gpa, bytes);
}

uint64_t memory_page(const struct memory *m, uint64_t gpa)
{
    uint64_t offset = 0;

    offset_of(m, gpa, 1, &offset);
    return offset / PAGE;
}

void memory_dma_begin(struct memory *m)
{
    pthread_rwlock_rdlock(&m->dma);
}

void memory_dma_end(struct memory *m)
{
    pthread_rwlock_unlock(&m->dma);
}

bool memory_dma_is_wanted(struct memory *m)
{
    return atomic_load(&m->dma_wanted);
}

void memory_dma_block(struct memory *m)
{
    atomic_store(&m->dma_wanted, true);
    pthread_rwlock_wrlock(&m->dma);
    atomic_store(&m->dma_wanted, false);
}

void memory_dma_unblock(struct memory *m)
{
    pthread_rwlock_unlock(&m->dma);
}

int memory_discard(struct memory *m, uint64_t gpa, uint64_t bytes)
{
    uint64_t first = (gpa + PAGE - 1) & ~(PAGE - 1), end = (gpa + bytes) & ~(PAGE - 1);
    uint64_t offset = 0;
    int r = 0;

    if (!memory_at(m, gpa, bytes))
        return -EFAULT;
    if (first >= end)
        return 0;
    offset_of(m, first, end - first, &offset);
    if (m->scanner)
        r = ms_scanner_discard(m->scanner, offset / PAGE, (end - first) / PAGE);
    else if (madvise(m->base + offset, end - first, MADV_DONTNEED) < 0)
        r = -errno;
    memory_written(m, first, end - first);
    return r;
}
