/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds what a guest needs to boot this disk without firmware: the root file system, the newest
 * kernel, its initrd, a command line. Kernels lie in /boot of the root file system or, if that has
 * none, in a file system of their own.
 */
#include "cowdisk/import/import.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cowdisk/internal.h"

struct search {
    struct import *import;
    struct layout *layout;
};

/* Kernels of one directory, newest first. */
struct kernels {
    char name[IMPORT_MAX_KERNELS][IMPORT_NAME_MAX];
    size_t n;
};

/* ---- root file system ------------------------------------------------------------------------ */

/* The value of PRETTY_NAME in os-release, printable ASCII or UTF-8. */
static void parse_pretty_name(const char *text, char *name, size_t size)
{
    const char *line =
        strncmp(text, "PRETTY_NAME=", 12) == 0 ? text : strstr(text, "\nPRETTY_NAME=");
    size_t n = 0;
    char quote;

    if (!line)
        return;
    line = strchr(line, '=') + 1;
    quote = *line == '"' || *line == '\'' ? *line++ : '\n';
    for (; *line && *line != quote && *line != '\n' && n < size - 1; line++) {
        if ((unsigned char)*line >= ' ' && *line != 0x7f)
            name[n++] = *line;
    }
    name[n] = '\0';
}

static bool is_root(struct import *import, struct extfs *fs)
{
    char text[4096], *name = import->result.os_name;

    if (!extfs_exists(fs, "/sbin/init"))
        return false;
    if (extfs_read_text(fs, "/etc/os-release", text, sizeof(text)) < 0 &&
        extfs_read_text(fs, "/usr/lib/os-release", text, sizeof(text)) < 0)
        return false;
    parse_pretty_name(text, name, sizeof(import->result.os_name));
    return true;
}

static void find_root(struct import *import, struct layout *layout)
{
    for (size_t i = 0; i < layout->n_volumes && !layout->root; i++) {
        struct volume *volume = &layout->volumes[i];
        struct extfs *fs;

        if (!volume_is_ext(volume) || extfs_open(&fs, FD_DISK, volume->offset, volume->size) < 0)
            continue;
        if (is_root(import, fs))
            layout->root = volume;
        extfs_close(fs);
    }
}

static int no_root(struct search *search)
{
    struct cow_error *err = &search->import->error;
    const struct layout *layout = search->layout;
    const char *type = NULL;

    for (size_t i = 0; i < layout->n_volumes; i++) {
        const struct volume *volume = &layout->volumes[i];
        if (volume->type[0] && strcmp(volume->type, "vfat") != 0 &&
            strcmp(volume->type, "swap") != 0 && !volume_is_ext(volume))
            type = volume->type;
    }
    if (type)
        cow_fail(err,
                 "no root file system found: the image has %s, only ext2, ext3 and ext4 can be "
                 "searched; give --kernel, --initrd and --cmdline",
                 type);
    else
        cow_fail(err, "no root file system found in the image (looked for ext2, ext3 or ext4 with "
                      "/sbin/init and os-release); give --kernel, --initrd and --cmdline");
    return -ENOENT;
}

/* ---- kernel and initrd ----------------------------------------------------------------------- */

static bool is_kernel_name(const char *name)
{
    static const char *const not_these[] = {".old", ".bak", ".sig", ".dpkg-new", ".dpkg-tmp", "~"};
    size_t length = strlen(name);

    if (strncmp(name, "vmlinuz-", 8) != 0 || length >= IMPORT_NAME_MAX)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isgraph((unsigned char)name[i]) || name[i] == '/')
            return false;
    }
    for (size_t i = 0; i < sizeof(not_these) / sizeof(not_these[0]); i++) {
        size_t n = strlen(not_these[i]);
        if (length >= n && strcmp(name + length - n, not_these[i]) == 0)
            return false;
    }
    return true;
}

/* Keeps the newest, in order. */
static int add_kernel(void *opaque, const char *name)
{
    struct kernels *kernels = opaque;
    size_t at;

    if (!is_kernel_name(name))
        return 0;
    for (at = 0; at < kernels->n; at++) {
        if (version_compare(name, kernels->name[at]) > 0)
            break;
    }
    if (at == IMPORT_MAX_KERNELS)
        return 0;
    if (kernels->n < IMPORT_MAX_KERNELS)
        kernels->n++;
    memmove(kernels->name[at + 1 < IMPORT_MAX_KERNELS ? at + 1 : at], kernels->name[at],
            (kernels->n - 1 - at) * IMPORT_NAME_MAX);
    snprintf(kernels->name[at], IMPORT_NAME_MAX, "%s", name);
    return 0;
}

/* Copies out and checks; leaves the fd empty if it was no good. */
static int take_kernel(struct search *search, struct extfs *fs, const char *path)
{
    struct cow_error *err = &search->import->error;
    int r = extfs_copy(fs, path, FD_KERNEL, IMPORT_MAX_KERNEL, err);

    if (r == 0)
        r = kernel_check(FD_KERNEL, err);
    if (r < 0 && ftruncate(FD_KERNEL, 0) < 0)
        return -errno;
    return r;
}

static int take_initrd(struct search *search, struct extfs *fs, const char *path)
{
    struct import *import = search->import;
    int r;

    if (!extfs_exists(fs, path))
        return -ENOENT;
    r = extfs_copy(fs, path, FD_INITRD, IMPORT_MAX_INITRD, &import->error);
    if (r == 0)
        r = initrd_check(FD_INITRD, &import->error);
    if (r == 0)
        import->result.has_initrd = 1;
    return r;
}

/* The initrd that belongs to a kernel, by the names distributions give it; none is fine. */
static int find_initrd(struct search *search, struct extfs *fs, const char *dir,
                       const char *version)
{
    static const char *const patterns[] = {"%s/initrd.img-%s", "%s/initramfs-%s.img",
                                           "%s/initrd-%s", "%s/initrd-%s.img"};
    char path[IMPORT_NAME_MAX + 64];

    if (search->import->own_initrd)
        return 0;
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        int r;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(path, sizeof(path), patterns[i], dir, version);
#pragma GCC diagnostic pop
        r = take_initrd(search, fs, path);
        if (r != -ENOENT)
            return r;
    }
    return 0;
}

static int use_kernel(struct search *search, struct extfs *fs, const char *dir, const char *name)
{
    struct cow_import_msg *result = &search->import->result;
    char path[IMPORT_NAME_MAX + 64];
    int r;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    r = take_kernel(search, fs, path);
    if (r < 0)
        return r;
    result->has_kernel = 1;
    snprintf(result->kernel_name, sizeof(result->kernel_name), "%s", name);
    return find_initrd(search, fs, dir, name + strlen("vmlinuz-"));
}

/* The newest kernel of a directory that is one. -ENOENT: no kernels there. */
static int search_directory(struct search *search, struct extfs *fs, const char *dir)
{
    struct kernels *kernels = calloc(1, sizeof(*kernels));
    int r;

    if (!kernels)
        return -ENOMEM;
    r = extfs_list(fs, dir[0] ? dir : "/", add_kernel, kernels);
    if (r == 0)
        r = -ENOENT;
    for (size_t i = 0; i < kernels->n; i++) {
        r = use_kernel(search, fs, dir, kernels->name[i]);
        if (r == 0 || search->import->result.has_kernel)
            break;
    }
    free(kernels);
    return r;
}

/* /vmlinuz and /boot/vmlinuz: a link to the current kernel, or a kernel without a version. */
static int search_link(struct search *search, struct extfs *fs, const char *dir)
{
    struct cow_import_msg *result = &search->import->result;
    char path[64], target[IMPORT_NAME_MAX], *name = target;
    int r;

    snprintf(path, sizeof(path), "%s/vmlinuz", dir);
    if (!extfs_exists(fs, path))
        return -ENOENT;
    r = take_kernel(search, fs, path);
    if (r < 0)
        return r;
    result->has_kernel = 1;
    if (extfs_read_link(fs, path, target, sizeof(target)) < 0)
        snprintf(target, sizeof(target), "vmlinuz");
    if (strrchr(target, '/'))
        name = strrchr(target, '/') + 1;
    snprintf(result->kernel_name, sizeof(result->kernel_name), "%s",
             is_kernel_name(name) ? name : "vmlinuz");
    if (search->import->own_initrd)
        return 0;
    snprintf(path, sizeof(path), "%s/initrd.img", dir);
    r = take_initrd(search, fs, path);
    return r == -ENOENT ? 0 : r;
}

static int search_volume(struct search *search, const struct volume *volume)
{
    /* /boot; the top of a file system that is mounted on /boot; links. */
    static const char *const dirs[] = {"/boot", ""};
    struct extfs *fs;
    int r = extfs_open(&fs, FD_DISK, volume->offset, volume->size);

    if (r < 0)
        return -ENOENT;
    r = -ENOENT;
    for (size_t i = 0; i < 2 && r == -ENOENT; i++)
        r = search_directory(search, fs, dirs[i]);
    for (size_t i = 0; i < 2 && r == -ENOENT; i++)
        r = search_link(search, fs, dirs[i]);
    extfs_close(fs);
    return r;
}

static int find_kernel(struct search *search)
{
    const struct layout *layout = search->layout;
    int r = search_volume(search, layout->root);

    for (size_t i = 0; i < layout->n_volumes && r == -ENOENT; i++) {
        if (&layout->volumes[i] != layout->root && volume_is_ext(&layout->volumes[i]))
            r = search_volume(search, &layout->volumes[i]);
    }
    if (r == -ENOENT)
        cow_fail(&search->import->error,
                 "no kernel found in the image (looked for /boot/vmlinuz-* and /vmlinuz); "
                 "give --kernel and --initrd");
    return r;
}

/* ---- command line ---------------------------------------------------------------------------- */

/* An initrd knows file systems by UUID; a bare kernel knows partitions and device names. */
static void make_cmdline(struct search *search)
{
    const struct volume *root = search->layout->root;
    struct cow_import_msg *result = &search->import->result;
    char where[96];

    if (result->has_initrd && root->uuid[0])
        snprintf(where, sizeof(where), "UUID=%s", root->uuid);
    else if (root->partuuid[0])
        snprintf(where, sizeof(where), "PARTUUID=%s", root->partuuid);
    else if (root->number > 0)
        snprintf(where, sizeof(where), "/dev/vda%d", root->number);
    else
        snprintf(where, sizeof(where), "/dev/vda");
    snprintf(result->cmdline, sizeof(result->cmdline), "root=%s ro console=ttyS0", where);
}

static int check_own_files(struct import *import)
{
    int r = 0;

    if (import->own_kernel) {
        r = kernel_check(FD_KERNEL, &import->error);
        import->result.has_kernel = r == 0;
    }
    if (r == 0 && import->own_initrd) {
        r = initrd_check(FD_INITRD, &import->error);
        import->result.has_initrd = r == 0;
    }
    return r;
}

static int find_all(struct search *search)
{
    struct import *import = search->import;
    int r = check_own_files(import);

    if (r < 0)
        return r;
    if (!search->layout->root && !(import->own_kernel && import->cmdline))
        return no_root(search);
    if (!import->own_kernel)
        r = find_kernel(search);
    if (r < 0)
        return r;
    if (import->cmdline)
        snprintf(import->result.cmdline, sizeof(import->result.cmdline), "%s", import->cmdline);
    else
        make_cmdline(search);
    return 0;
}

int import_find_layout(struct import *import, struct layout *layout)
{
    int r = volumes_find(FD_DISK, import->disk_bytes, layout->volumes, IMPORT_MAX_VOLUMES,
                         &layout->n_volumes);

    if (r == 0)
        find_root(import, layout);
    return r;
}

int import_find_boot(struct import *import, struct layout *layout)
{
    struct search search = {import, layout};

    return find_all(&search);
}
