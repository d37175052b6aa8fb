/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is this a kernel that a guest can start? A bzImage with a 64-bit entry, and all of it there. Boot
 * parameters: Linux Documentation/arch/x86/boot.rst.
 */
#include "cowdisk/import/import.h"

#include <ctype.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cowdisk/internal.h"

/* Positions in a bzImage. */
enum {
    BZ_SETUP_SECTS = 0x1f1,
    BZ_SYSSIZE = 0x1f4,
    BZ_BOOT_FLAG = 0x1fe,
    BZ_MAGIC = 0x202,
    BZ_VERSION = 0x206,
    BZ_LOADFLAGS = 0x211,
    BZ_XLOADFLAGS = 0x236,
    BZ_END = 0x240,
};

#define BZ_MIN_VERSION   0x020c /* the first with xloadflags */
#define BZ_LOADED_HIGH   1u
#define BZ_XLF_KERNEL_64 1u

static uint16_t get16le(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32le(const uint8_t *p)
{
    return get16le(p) | (uint32_t)get16le(p + 2) << 16;
}

static int check_bzimage(const uint8_t *head, uint64_t bytes, struct cow_error *err)
{
    uint64_t setup = head[BZ_SETUP_SECTS] ? head[BZ_SETUP_SECTS] : 4;
    uint64_t need = (setup + 1) * 512 + get32le(head + BZ_SYSSIZE) * 16ull;
    unsigned version = get16le(head + BZ_VERSION);

    if (version < BZ_MIN_VERSION || !(head[BZ_LOADFLAGS] & BZ_LOADED_HIGH)) {
        cow_fail(err, "the kernel is too old: boot protocol %u.%02u, 2.12 is needed", version >> 8,
                 version & 0xff);
        return -ENOTSUP;
    }
    if (!(get16le(head + BZ_XLOADFLAGS) & BZ_XLF_KERNEL_64)) {
        cow_fail(err, "the kernel has no 64-bit entry: it is not built for x86-64");
        return -ENOTSUP;
    }
    /* The size counts in units of 16 bytes, rounded up. */
    if (bytes + 15 < need) {
        cow_fail(err, "the kernel is truncated: %llu bytes of %llu", (unsigned long long)bytes,
                 (unsigned long long)need);
        return -EINVAL;
    }
    return 0;
}

/* A regular file of 1..max bytes? */
static int check_length(int fd, const char *what, uint64_t max, uint64_t *ret_bytes,
                        struct cow_error *err)
{
    off_t end = lseek(fd, 0, SEEK_END);

    if (end < 0) {
        cow_fail(err, "the %s is not a file: %s", what, strerror(errno));
        return -errno;
    }
    if (end == 0 || (uint64_t)end > max) {
        cow_fail(err, "the %s has %lld bytes: 1 to %llu are possible", what, (long long)end,
                 (unsigned long long)max);
        return -EINVAL;
    }
    *ret_bytes = (uint64_t)end;
    return 0;
}

int kernel_check(int fd, struct cow_error *err)
{
    uint8_t head[BZ_END] = {0};
    uint64_t bytes = 0;
    int r = check_length(fd, "kernel", IMPORT_MAX_KERNEL, &bytes, err);

    if (r < 0)
        return r;
    r = cow_read_full(fd, head, sizeof(head), 0);
    if (r < 0) {
        cow_fail(err, "reading the kernel: %s", strerror(-r));
        return r;
    }
    if (memcmp(head, ELFMAG, SELFMAG) == 0) {
        cow_fail(err, "the kernel is an ELF file (vmlinux): give its bzImage (vmlinuz)");
        return -ENOTSUP;
    }
    if (get16le(head + BZ_BOOT_FLAG) == 0xaa55 && memcmp(head + BZ_MAGIC, "HdrS", 4) == 0)
        return check_bzimage(head, bytes, err);
    cow_fail(err,
             bytes < BZ_END ? "the kernel is truncated: it has only %llu bytes"
                            : "the kernel is not a bzImage (%llu bytes)",
             (unsigned long long)bytes);
    return -EINVAL;
}

int initrd_check(int fd, struct cow_error *err)
{
    uint64_t bytes = 0;

    return check_length(fd, "initrd", IMPORT_MAX_INITRD, &bytes, err);
}

/* Compares the numbers that two texts begin with and skips them. */
static int compare_numbers(const char **a, const char **b)
{
    size_t n, m;
    int r;

    while (**a == '0')
        (*a)++;
    while (**b == '0')
        (*b)++;
    for (n = 0; isdigit((unsigned char)(*a)[n]); n++)
        ;
    for (m = 0; isdigit((unsigned char)(*b)[m]); m++)
        ;
    r = n != m ? (n < m ? -1 : 1) : strncmp(*a, *b, n);
    *a += n;
    *b += m;
    return r;
}

/* A tilde sorts before everything, even the end (6.1~rc1 is older than 6.1); letters before signs.
 */
static int rank(char c)
{
    if (c == '~')
        return -1;
    if (c == '\0' || isdigit((unsigned char)c))
        return 0;
    return isalpha((unsigned char)c) ? (unsigned char)c : 256 + (unsigned char)c;
}

int version_compare(const char *a, const char *b)
{
    while (*a || *b) {
        int r;

        while ((*a && !isdigit((unsigned char)*a)) || (*b && !isdigit((unsigned char)*b))) {
            r = rank(*a) - rank(*b);
            if (r != 0)
                return r;
            a++;
            b++;
        }
        r = compare_numbers(&a, &b);
        if (r != 0)
            return r;
    }
    return 0;
}
