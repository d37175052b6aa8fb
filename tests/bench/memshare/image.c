/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guests hold: raw RAM images, or generated ("flat") ones, in which 7 of 10 runs of eight
 * pages are common to all guests, each guest having them at other addresses. The oracle knows how
 * many pages perfect sharing would free, by hashing everything in a process of its own.
 */
#include "tests/bench/memshare/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FLAT_RUN    8
#define FLAT_COMMON 7 /* of 10 */
#define FLAT_TURN   37

int image_open(struct image *image, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    void *data;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0 || st.st_size == 0 || st.st_size % MS_PAGE_SIZE) {
        close(fd);
        return -EINVAL;
    }
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (data == MAP_FAILED)
        return -errno;
    *image =
        (struct image){.path = path, .data = data, .n_pages = (uint64_t)st.st_size / MS_PAGE_SIZE};
    return 0;
}

void image_flat(struct image *image, uint64_t n_pages, unsigned number)
{
    *image = (struct image){.n_pages = n_pages, .number = number};
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void fill(uint8_t *buffer, uint64_t seed)
{
    uint64_t state = mix(seed + 0x9e3779b97f4a7c15ull) | 1;

    for (size_t i = 0; i < MS_PAGE_SIZE; i += sizeof(state)) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(buffer + i, &state, sizeof(state));
    }
}

const uint8_t *image_page(const struct image *image, uint64_t page, uint8_t *buffer)
{
    uint64_t runs = image->n_pages / FLAT_RUN;
    uint64_t run = page / FLAT_RUN, common;

    if (image->path)
        return image->data + page * MS_PAGE_SIZE;
    common = runs ? (run + (uint64_t)image->number * FLAT_TURN) % runs : run;
    if (mix(common) % 10 < FLAT_COMMON)
        fill(buffer, common * FLAT_RUN + page % FLAT_RUN);
    else
        fill(buffer, ((uint64_t)image->number + 1) << 32 | page);
    return buffer;
}

bool image_is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, MS_PAGE_SIZE - 1) == 0;
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

    return a < b ? -1 : a > b;
}

static int count(const struct image *image, unsigned n, struct oracle *oracle)
{
    uint8_t buffer[MS_PAGE_SIZE];
    uint64_t *hash, total = 0;

    for (unsigned i = 0; i < n; i++)
        total += image[i].n_pages;
    hash = malloc(total * sizeof(*hash));
    if (!hash)
        return -ENOMEM;
    for (unsigned i = 0; i < n; i++) {
        for (uint64_t k = 0; k < image[i].n_pages; k++) {
            const uint8_t *page = image_page(&image[i], k, buffer);

            if (image_is_zero(page))
                oracle->zero++;
            else
                hash[oracle->non_zero++] = plain_hash(page);
        }
    }
    qsort(hash, oracle->non_zero, sizeof(*hash), compare);
    for (uint64_t i = 0; i < oracle->non_zero; i++)
        oracle->distinct += i == 0 || hash[i] != hash[i - 1];
    oracle->pages = total;
    free(hash);
    return 0;
}

/* In a process of its own: the tables are gone when the measurement begins. */
int image_oracle(const struct image *image, unsigned n, bool zero_resident, struct oracle *ret)
{
    struct oracle *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = 1;
    pid_t pid;

    if (shared == MAP_FAILED)
        return -errno;
    pid = fork();
    if (pid == 0)
        _exit(count(image, n, shared) < 0);
    if (pid > 0)
        waitpid(pid, &status, 0);
    *ret = *shared;
    munmap(shared, sizeof(*shared));
    if (status != 0)
        return -ENOMEM;
    ret->possible = ret->non_zero - ret->distinct + (zero_resident ? ret->zero : 0);
    return 0;
}
