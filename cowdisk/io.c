/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whole reads and writes on a file descriptor: short transfers, EINTR and iovecs are dealt with
 * here and nowhere else. Reading past the end of a file gives zeroes, because the last cluster of
 * an image and a backing file shorter than its overlay are both legal. A file size limit and a
 * quota count as a full disk.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

/* Names out of an image become part of messages: whatever is not printable is a question mark. */
void cow_fail(struct cow_error *err, const char *format, ...)
{
    va_list args;

    if (!err)
        return;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    for (char *p = err->text; *p; p++) {
        if (*p < ' ' || *p > '~')
            *p = '?';
    }
}

bool cow_is_zero(const void *data, size_t length)
{
    const uint8_t *p = data;

    /* Comparing the bytes with themselves, one byte apart: memcmp is as fast as it gets. */
    return length == 0 || (p[0] == 0 && memcmp(p, p + 1, length - 1) == 0);
}

int cow_iov_bytes(const struct iovec *iov, int iovcnt, uint64_t *ret_bytes)
{
    uint64_t bytes = 0;

    if (iovcnt < 0 || (unsigned)iovcnt > COW_MAX_IOV)
        return -EINVAL;
    for (int i = 0; i < iovcnt; i++) {
        if (iov[i].iov_len > (uint64_t)SSIZE_MAX - bytes)
            return -EINVAL;
        bytes += iov[i].iov_len;
    }
    *ret_bytes = bytes;
    return 0;
}

static int write_error(void)
{
    return errno == EFBIG || errno == EDQUOT ? -ENOSPC : -errno;
}

int cow_read_full(int fd, void *data, size_t length, uint64_t offset)
{
    uint8_t *p = data;

    while (length > 0) {
        ssize_t n = pread(fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) {
            memset(p, 0, length);
            return 0;
        }
        p += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int cow_write_full(int fd, const void *data, size_t length, uint64_t offset)
{
    const uint8_t *p = data;

    while (length > 0) {
        ssize_t n = pwrite(fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return write_error();
        if (n == 0)
            return -EIO;
        p += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int cow_sync(int fd)
{
    int r;

    do {
        r = fdatasync(fd);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

void cow_iter_skip(struct cow_iter *iter, size_t length)
{
    while (length > 0) {
        size_t left = iter->iov->iov_len - iter->skip;
        if (length < left) {
            iter->skip += length;
            return;
        }
        length -= left;
        iter->iov++;
        iter->iovcnt--;
        iter->skip = 0;
    }
}

/* The next segment that holds anything, at most `length` of it. */
static struct iovec next_segment(struct cow_iter *iter, size_t length)
{
    while (iter->iov->iov_len == iter->skip) {
        iter->iov++;
        iter->iovcnt--;
        iter->skip = 0;
    }
    return (struct iovec){
        .iov_base = (uint8_t *)iter->iov->iov_base + iter->skip,
        .iov_len = cow_min(iter->iov->iov_len - iter->skip, length),
    };
}

/* As many segments as fit into `vec` without going beyond `length`. */
static int take_segments(const struct cow_iter *iter, size_t length, struct iovec *vec)
{
    struct cow_iter it = *iter;
    int n = 0;

    while (n < COW_VEC && length > 0) {
        vec[n] = next_segment(&it, length);
        length -= vec[n].iov_len;
        cow_iter_skip(&it, vec[n].iov_len);
        n++;
    }
    return n;
}

int cow_iter_take(struct cow_iter *iter, uint64_t length, struct iovec *vec, size_t *ret_bytes)
{
    int n = take_segments(iter, length, vec);
    size_t bytes = 0;

    for (int i = 0; i < n; i++)
        bytes += vec[i].iov_len;
    cow_iter_skip(iter, bytes);
    *ret_bytes = bytes;
    return n;
}

/* One segment is the common case, and the plain call is a tenth of a microsecond faster. */
static ssize_t read_segments(int fd, const struct iovec *vec, int n, uint64_t offset)
{
    if (n == 1)
        return pread(fd, vec->iov_base, vec->iov_len, (off_t)offset);
    return preadv(fd, vec, n, (off_t)offset);
}

static ssize_t write_segments(int fd, const struct iovec *vec, int n, uint64_t offset)
{
    if (n == 1)
        return pwrite(fd, vec->iov_base, vec->iov_len, (off_t)offset);
    return pwritev(fd, vec, n, (off_t)offset);
}

int cow_iter_read(struct cow_iter *iter, int fd, size_t length, uint64_t offset)
{
    struct iovec vec[COW_VEC];

    while (length > 0) {
        int n_vec = take_segments(iter, length, vec);
        ssize_t n = read_segments(fd, vec, n_vec, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) {
            cow_iter_zero(iter, length);
            return 0;
        }
        cow_iter_skip(iter, (size_t)n);
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

void cow_iter_zero(struct cow_iter *iter, size_t length)
{
    while (length > 0) {
        struct iovec segment = next_segment(iter, length);
        memset(segment.iov_base, 0, segment.iov_len);
        cow_iter_skip(iter, segment.iov_len);
        length -= segment.iov_len;
    }
}

void cow_iter_fill(struct cow_iter *iter, const void *data, size_t length)
{
    const uint8_t *p = data;

    while (length > 0) {
        struct iovec segment = next_segment(iter, length);
        memcpy(segment.iov_base, p, segment.iov_len);
        cow_iter_skip(iter, segment.iov_len);
        p += segment.iov_len;
        length -= segment.iov_len;
    }
}

int cow_writer_finish(struct cow_writer *writer)
{
    struct iovec *vec = writer->vec;
    int n_vec = writer->n;

    writer->n = 0;
    while (n_vec > 0) {
        ssize_t n = write_segments(writer->fd, vec, n_vec, writer->offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return write_error();
        if (n == 0)
            return -EIO;
        writer->offset += (uint64_t)n;
        while (n_vec > 0 && (size_t)n >= vec->iov_len) {
            n -= (ssize_t)vec->iov_len;
            vec++;
            n_vec--;
        }
        if (n_vec > 0) {
            vec->iov_base = (uint8_t *)vec->iov_base + n;
            vec->iov_len -= (size_t)n;
        }
    }
    return 0;
}

int cow_writer_add(struct cow_writer *writer, const void *data, size_t length)
{
    int r;

    if (length == 0)
        return 0;
    if (writer->n == COW_VEC) {
        r = cow_writer_finish(writer);
        if (r < 0)
            return r;
    }
    writer->vec[writer->n++] = (struct iovec){.iov_base = (void *)data, .iov_len = length};
    return 0;
}

int cow_writer_add_iter(struct cow_writer *writer, struct cow_iter *iter, size_t length)
{
    while (length > 0) {
        struct iovec segment = next_segment(iter, length);
        int r = cow_writer_add(writer, segment.iov_base, segment.iov_len);
        if (r < 0)
            return r;
        cow_iter_skip(iter, segment.iov_len);
        length -= segment.iov_len;
    }
    return 0;
}
