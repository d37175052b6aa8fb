/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Removes from a disk what tells the machine that it was from its copies, and what that machine
 * wrote down for itself: see the table below. The disk is a copy that nobody else uses.
 *
 * Where files are is told by the root file system and its /etc/fstab. A file system that we cannot
 * change, but that should be, is an error: a template that keeps half of an identity is worse than
 * none. The one exception is FAT, as of an EFI system partition, which is left as it is.
 */
#include "cowdisk/import/import.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cowdisk/internal.h"

#define MOUNT_MAX   128
#define LABEL_SWAP  "swap"
#define SWAP_HEADER 4096u

struct mount {
    const struct volume *volume;
    char at[MOUNT_MAX]; /* "" is the root */
};

struct mounts {
    struct mount mount[IMPORT_MAX_MOUNTS];
    size_t n;
};

/* ---- what is removed ------------------------------------------------------------------------- */

static bool is_one_of(const char *name, const char *const *patterns)
{
    for (; *patterns; patterns++) {
        if (fnmatch(*patterns, name, 0) == 0)
            return true;
    }
    return false;
}

static enum extfs_verdict everything(const struct extfs_entry *entry)
{
    (void)entry;
    return EXTFS_REMOVE;
}

static enum extfs_verdict host_keys(const struct extfs_entry *entry)
{
    static const char *const names[] = {"ssh_host_*_key", "ssh_host_*_key.pub",
                                        "ssh_host_*_key-cert.pub", NULL};

    return !entry->is_dir && is_one_of(entry->name, names) ? EXTFS_REMOVE : EXTFS_KEEP;
}

static bool is_machine_id(const char *name)
{
    return strlen(name) >= 32 && strspn(name, "0123456789abcdef") >= 32;
}

/* Older and binary logs go; the others stay as empty files, because owner and mode of some of them
 * matter to who writes them. Directories of the journal bear the machine ID. */
static enum extfs_verdict logs(const struct extfs_entry *entry)
{
    static const char *const names[] = {"*.gz",       "*.xz",    "*.bz2",        "*.zst",
                                        "*.old",      "*.[0-9]", "*.[0-9][0-9]", "*-20[0-9][0-9]*",
                                        "*.journal*", NULL};

    if (entry->is_dir)
        return is_machine_id(entry->name) ? EXTFS_REMOVE : EXTFS_ENTER;
    if (!entry->is_file)
        return EXTFS_KEEP;
    return is_one_of(entry->name, names) ? EXTFS_REMOVE : EXTFS_EMPTY;
}

static enum extfs_verdict histories(const struct extfs_entry *entry)
{
    static const char *const names[] = {
        ".bash_history", ".zsh_history",    ".sh_history",        ".ash_history",   ".histfile",
        ".lesshst",      ".python_history", ".viminfo",           ".mysql_history", ".psql_history",
        ".wget-hsts",    ".sqlite_history", ".node_repl_history", "fish_history",   NULL};
    static const char *const on_the_way[] = {".local", "share", "fish", NULL};

    if (entry->is_dir)
        return is_one_of(entry->name, on_the_way) ? EXTFS_ENTER : EXTFS_KEEP;
    return is_one_of(entry->name, names) ? EXTFS_REMOVE : EXTFS_KEEP;
}

/* Of all users. */
static enum extfs_verdict homes(const struct extfs_entry *entry)
{
    return entry->depth == 0 && entry->is_dir ? EXTFS_ENTER : histories(entry);
}

static enum extfs_verdict seeds(const struct extfs_entry *entry)
{
    static const char *const names[] = {"random-seed", "credential.secret", NULL};

    return !entry->is_dir && is_one_of(entry->name, names) ? EXTFS_REMOVE : EXTFS_KEEP;
}

static enum extfs_verdict leases(const struct extfs_entry *entry)
{
    static const char *const names[] = {"*.lease",     "*.leases", "*.lease6",   "*.lease-*",
                                        "duid",        "secret",   "secret_key", "timestamps",
                                        "seen-bssids", NULL};

    return !entry->is_dir && is_one_of(entry->name, names) ? EXTFS_REMOVE : EXTFS_KEEP;
}

/* A link to /etc/machine-id stays. */
static enum extfs_verdict dbus_id(const struct extfs_entry *entry)
{
    return entry->is_file && strcmp(entry->name, "machine-id") == 0 ? EXTFS_REMOVE : EXTFS_KEEP;
}

static enum extfs_verdict net_rules(const struct extfs_entry *entry)
{
    static const char *const names[] = {"*-persistent-net.rules", NULL};

    return !entry->is_dir && is_one_of(entry->name, names) ? EXTFS_REMOVE : EXTFS_KEEP;
}

/* So that it does again what it does for a new machine, host keys among it. */
static enum extfs_verdict cloud_init(const struct extfs_entry *entry)
{
    static const char *const names[] = {"instance", "instances", "data", "sem", NULL};

    return is_one_of(entry->name, names) ? EXTFS_REMOVE : EXTFS_KEEP;
}

static const struct target {
    const char *dir;
    extfs_judge_fn judge;
} targets[] = {
    {"/etc/ssh", host_keys},
    {"/var/log", logs},
    {"/tmp", everything},
    {"/var/tmp", everything},
    {"/root", histories},
    {"/home", homes},
    {"/var/lib/systemd", seeds},
    {"/var/lib/systemd/coredump", everything},
    {"/var/lib/urandom", seeds},
    {"/loader", seeds},
    {"/boot/loader", seeds},
    {"/var/lib/dhcp", leases},
    {"/var/lib/dhclient", leases},
    {"/var/lib/dhcpcd", leases},
    {"/var/lib/dhcpcd5", leases},
    {"/var/lib/NetworkManager", leases},
    {"/var/lib/dbus", dbus_id},
    {"/var/lib/cloud", cloud_init},
    {"/etc/udev/rules.d", net_rules},
};

#define N_TARGETS (sizeof(targets) / sizeof(targets[0]))

/* ---- host name ------------------------------------------------------------------------------- */

/* The first word of /etc/hostname. */
static void read_hostname(struct extfs *fs, char *name, size_t size)
{
    char text[512], *start = text;

    name[0] = '\0';
    if (extfs_read_text(fs, "/etc/hostname", text, sizeof(text)) < 0)
        return;
    start += strspn(start, " \t\r\n");
    start[strcspn(start, " \t\r\n")] = '\0';
    snprintf(name, size, "%s", start);
}

static bool names_host(const char *line, size_t length, const char *hostname)
{
    size_t n = strlen(hostname);
    const char *end = line + length, *word = line;

    while (word < end) {
        size_t gap, word_length = 0;
        for (gap = 0; word + gap < end && isspace((unsigned char)word[gap]); gap++)
            ;
        word += gap;
        while (word + word_length < end && !isspace((unsigned char)word[word_length]))
            word_length++;
        if (n > 0 && word_length >= n && strncmp(word, hostname, n) == 0 &&
            (word_length == n || word[n] == '.'))
            return true;
        word += word_length;
    }
    return false;
}

/* Debian's installer gives the host name an address of its own, 127.0.1.1: that line goes. */
static void drop_host_line(char *text, const char *hostname)
{
    char *to = text;

    for (const char *line = text; *line;) {
        size_t length = strcspn(line, "\n");
        size_t whole = length + (line[length] == '\n');
        bool goes = strncmp(line, "127.0.1.1", 9) == 0 && isspace((unsigned char)line[9]) &&
                    names_host(line, length, hostname);
        if (!goes) {
            memmove(to, line, whole);
            to += whole;
        }
        line += whole;
    }
    *to = '\0';
}

static int clean_hosts(struct extfs *fs, const char *hostname)
{
    char *text = malloc(IMPORT_MAX_TEXT);
    size_t before;
    int r = text ? extfs_read_text(fs, "/etc/hosts", text, IMPORT_MAX_TEXT) : -ENOMEM;

    if (r == 0) {
        before = strlen(text);
        drop_host_line(text, hostname);
        if (before + 1 < IMPORT_MAX_TEXT && strlen(text) != before)
            r = extfs_set_text(fs, "/etc/hosts", text);
    }
    free(text);
    return r == -ENOMEM || r == -ENOSPC ? r : 0;
}

/* An empty /etc/machine-id has systemd make one at boot. A missing one, or "uninitialized", would
 * do that too, but count as the first boot ever, which resets what units are enabled. */
static int clean_etc(struct extfs *fs)
{
    char hostname[256];
    int r = extfs_set_text(fs, "/etc/machine-id", "");

    if (r == 0 || r == -ENOENT) {
        read_hostname(fs, hostname, sizeof(hostname));
        r = extfs_set_text(fs, "/etc/hostname", "localhost\n");
    }
    if (r == 0)
        r = clean_hosts(fs, hostname);
    return r == -ENOENT ? 0 : r;
}

/* ---- what is mounted where ------------------------------------------------------------------- */

static bool is_partition(const char *device, int number)
{
    static const char *const disks[] = {"/dev/vda", "/dev/sda", "/dev/xvda", "/dev/hda"};

    for (size_t i = 0; i < sizeof(disks) / sizeof(disks[0]); i++) {
        size_t n = strlen(disks[i]);
        if (strncmp(device, disks[i], n) == 0 && number > 0 && isdigit((unsigned char)device[n]))
            return atoi(device + n) == number;
    }
    return false;
}

static bool is_named(const struct volume *volume, const char *spec)
{
    static const struct {
        const char *prefix;
        size_t field;
    } by[] = {
        {"UUID=", offsetof(struct volume, uuid)},
        {"/dev/disk/by-uuid/", offsetof(struct volume, uuid)},
        {"PARTUUID=", offsetof(struct volume, partuuid)},
        {"/dev/disk/by-partuuid/", offsetof(struct volume, partuuid)},
        {"LABEL=", offsetof(struct volume, label)},
        {"/dev/disk/by-label/", offsetof(struct volume, label)},
    };

    for (size_t i = 0; i < sizeof(by) / sizeof(by[0]); i++) {
        size_t n = strlen(by[i].prefix), quote;
        const char *value = (const char *)volume + by[i].field;
        if (strncmp(spec, by[i].prefix, n) != 0)
            continue;
        quote = spec[n] == '"';
        return value[0] && strncasecmp(spec + n + quote, value, strlen(value)) == 0 &&
               strlen(spec) == n + strlen(value) + 2 * quote;
    }
    return is_partition(spec, volume->number);
}

static void add_mount(struct mounts *mounts, const struct layout *layout, const char *spec,
                      const char *at)
{
    size_t length = strlen(at);

    while (length > 0 && at[length - 1] == '/')
        length--;
    if (at[0] != '/' || length == 0 || length >= MOUNT_MAX || mounts->n == IMPORT_MAX_MOUNTS)
        return;
    for (size_t i = 0; i < layout->n_volumes; i++) {
        const struct volume *volume = &layout->volumes[i];
        if (volume == layout->root || !is_named(volume, spec))
            continue;
        mounts->mount[mounts->n].volume = volume;
        memcpy(mounts->mount[mounts->n].at, at, length);
        mounts->mount[mounts->n++].at[length] = '\0';
        return;
    }
}

static void read_fstab(struct extfs *fs, const struct layout *layout, struct mounts *mounts)
{
    char *text = malloc(IMPORT_MAX_TEXT), *rest = text;

    if (text && extfs_read_text(fs, "/etc/fstab", text, IMPORT_MAX_TEXT) == 0) {
        for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
            char spec[MOUNT_MAX], at[MOUNT_MAX];
            if (sscanf(line, " %127[^# \t] %127s", spec, at) == 2)
                add_mount(mounts, layout, spec, at);
        }
    }
    free(text);
}

static bool is_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Which mount a path is on. */
static const struct mount *mount_of(const struct mounts *mounts, const char *path)
{
    const struct mount *best = &mounts->mount[0];

    for (size_t i = 1; i < mounts->n; i++) {
        const struct mount *mount = &mounts->mount[i];
        if (is_below(path, mount->at) && strlen(mount->at) > strlen(best->at))
            best = mount;
    }
    return best;
}

/* What of a target lies on a mount: the directory there, and how deep in the target that is. NULL:
 * nothing. */
static const char *part_of(const struct mounts *mounts, const struct mount *mount,
                           const struct target *target, unsigned *ret_depth)
{
    *ret_depth = 0;
    if (mount_of(mounts, target->dir) == mount)
        return target->dir[strlen(mount->at)] ? target->dir + strlen(mount->at) : "/";
    if (!mount->at[0] || !is_below(mount->at, target->dir))
        return NULL;
    for (const char *c = mount->at + strlen(target->dir); *c; c++)
        *ret_depth += *c == '/';
    return "/";
}

/* ---- all of it ------------------------------------------------------------------------------- */

static int prune(struct extfs *fs, const struct mounts *mounts, const struct mount *mount)
{
    unsigned depth;
    int r = 0;

    for (size_t i = 0; i < N_TARGETS && r == 0; i++) {
        const char *dir = part_of(mounts, mount, &targets[i], &depth);
        if (dir)
            r = extfs_prune(fs, dir, depth, targets[i].judge);
    }
    return r;
}

static const char *describe(const struct mount *mount)
{
    return mount->at[0] ? mount->at : "/";
}

static int clean_mount(struct import *import, const struct mounts *mounts,
                       const struct mount *mount)
{
    const struct volume *volume = mount->volume;
    struct cow_error why = {{0}};
    struct extfs *fs;
    int r = extfs_open_to_edit(&fs, FD_DISK, volume->offset, volume->size, &why);

    if (r < 0) {
        cow_fail(&import->error, "the file system of %.64s %.80s%s", describe(mount), why.text,
                 r == -EBUSY
                     ? "; start the guest and shut it down, not by force, or keep its identity"
                     : "");
        return r;
    }
    r = mount->at[0] ? 0 : clean_etc(fs);
    if (r == 0)
        r = prune(fs, mounts, mount);
    if (r < 0)
        extfs_close(fs);
    else
        r = extfs_finish(fs);
    if (r == -EFBIG)
        cow_fail(&import->error, "%.64s has more than %u files to look at, or too deep",
                 describe(mount), IMPORT_MAX_PRUNED);
    else if (r < 0)
        cow_fail(&import->error, "removing the identity from %.64s: %s", describe(mount),
                 r == -EIO ? "the file system is damaged" : strerror(-r));
    return r;
}

/* Is anything to be removed where this is mounted? */
static bool matters(const struct mounts *mounts, const struct mount *mount)
{
    unsigned depth;

    for (size_t i = 0; i < N_TARGETS; i++) {
        if (part_of(mounts, mount, &targets[i], &depth))
            return true;
    }
    return false;
}

static int clean_mounts(struct import *import, const struct mounts *mounts)
{
    int r = 0;

    for (size_t i = 0; i < mounts->n && r == 0; i++) {
        const struct mount *mount = &mounts->mount[i];
        if (!matters(mounts, mount) || strcmp(mount->volume->type, "vfat") == 0)
            continue;
        if (volume_is_ext(mount->volume)) {
            r = clean_mount(import, mounts, mount);
            continue;
        }
        cow_fail(&import->error, "the identity cannot be removed from %.64s: it is %s, not ext4",
                 describe(mount), mount->volume->type[0] ? mount->volume->type : "of unknown type");
        r = -ENOTSUP;
    }
    return r;
}

/* What was swapped out is nobody's any more. */
static int clean_swap(const struct layout *layout)
{
    int r = 0;

    for (size_t i = 0; i < layout->n_volumes && r == 0; i++) {
        const struct volume *volume = &layout->volumes[i];
        if (strcmp(volume->type, LABEL_SWAP) == 0 && volume->size > SWAP_HEADER)
            r = extfs_wipe(FD_DISK, volume->offset + SWAP_HEADER, volume->size - SWAP_HEADER);
    }
    return r;
}

static int no_root(struct import *import, const struct layout *layout)
{
    const char *type = "none";

    for (size_t i = 0; i < layout->n_volumes; i++) {
        if (layout->volumes[i].type[0] && strcmp(layout->volumes[i].type, "vfat") != 0)
            type = layout->volumes[i].type;
    }
    cow_fail(&import->error,
             "the identity can be removed only from a root file system of ext2, ext3 or ext4, and "
             "none was found (found: %s)",
             type);
    return -ENOTSUP;
}

int import_remove_identity(struct import *import, const struct layout *layout)
{
    struct mounts *mounts;
    struct extfs *fs;
    int r;

    if (!layout->root)
        return no_root(import, layout);
    mounts = calloc(1, sizeof(*mounts));
    if (!mounts)
        return -ENOMEM;
    mounts->n = 1;
    mounts->mount[0].volume = layout->root;
    r = extfs_open(&fs, FD_DISK, layout->root->offset, layout->root->size);
    if (r == 0) {
        read_fstab(fs, layout, mounts);
        extfs_close(fs);
        r = clean_mounts(import, mounts);
    }
    if (r == 0)
        r = clean_swap(layout);
    free(mounts);
    return r;
}
