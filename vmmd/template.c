/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * template: an imported image, and the check that nobody changed it.
 *
 * Overlays are differences to a template's disk: one changed byte below them is silent corruption
 * of every guest. So a template is written once, and size, modification time and inode of its disk
 * are recorded; a guest does not start on a disk that differs from the record.
 */
#include "vmmd/template.h"
#include "vmmd/fileio.h"
#include "vmmd/guest.h"
#include "vmmd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define JSON_NAME      "template.json"
#define NAMED_IN_ERROR 3 /* guests that an InUse error names */

struct template *template_find(struct daemon *daemon, const char *name)
{
    struct template *tmpl;

    TAILQ_FOREACH(tmpl, &daemon->templates, link)
    if (strcmp(tmpl->name, name) == 0)
        return tmpl;
    return NULL;
}

static uint64_t mtime_ns(const struct stat *st)
{
    return (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
}

int template_save(int dir_fd, struct template_info *info)
{
    struct stat st;
    json_t *json;
    int r;

    if (fstatat(dir_fd, TEMPLATE_DISK, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    info->size = (uint64_t)st.st_size;
    info->mtime = mtime_ns(&st);
    info->inode = st.st_ino;
    json = json_pack("{s:I, s:I, s:I, s:I, s:b, s:s, s:s, s:s, s:b, s:b, s:b}", "size",
                     (json_int_t)info->size, "mtime_ns", (json_int_t)info->mtime, "inode",
                     (json_int_t)info->inode, "created", (json_int_t)info->created, "has_initrd",
                     info->has_initrd, "os_name", info->os_name, "kernel_name", info->kernel_name,
                     "cmdline", info->cmdline, "own_kernel", info->own_kernel, "own_initrd",
                     info->own_initrd, "own_cmdline", info->own_cmdline);
    if (!json)
        return -EINVAL; /* a text is not UTF-8 */
    r = json_save(dir_fd, JSON_NAME, json, true);
    json_decref(json);
    return r;
}

static bool read_info(const json_t *json, struct template_info *info)
{
    const json_t *has_initrd = json_object_get(json, "has_initrd");

    info->has_initrd = json_is_true(has_initrd);
    /* Templates of earlier versions do not say. */
    info->own_kernel = json_is_true(json_object_get(json, "own_kernel"));
    info->own_initrd = json_is_true(json_object_get(json, "own_initrd"));
    info->own_cmdline = json_is_true(json_object_get(json, "own_cmdline"));
    return json_is_boolean(has_initrd) && json_read_u64(json, "size", &info->size) &&
           json_read_u64(json, "mtime_ns", &info->mtime) &&
           json_read_u64(json, "inode", &info->inode) &&
           json_read_u64(json, "created", &info->created) &&
           json_read_string(json, "os_name", info->os_name, sizeof(info->os_name)) &&
           json_read_string(json, "kernel_name", info->kernel_name, sizeof(info->kernel_name)) &&
           json_read_string(json, "cmdline", info->cmdline, sizeof(info->cmdline));
}

static int load_info(struct daemon *daemon, const char *name, struct template_info *info)
{
    char path[NAME_LENGTH_MAX + sizeof("/" JSON_NAME)];
    json_t *json;
    int r;

    snprintf(path, sizeof(path), "%s/" JSON_NAME, name);
    r = json_load(daemon->templates_fd, path, &json);
    if (r < 0)
        return r;
    r = read_info(json, info) ? 0 : -EINVAL;
    json_decref(json);
    return r;
}

static void load_one(void *opaque, const char *name)
{
    struct daemon *daemon = opaque;
    struct template_info info = {0};
    struct problem problem;
    int r;

    if (name_check("template", name, &problem) < 0) {
        log_warning("ignoring %s/templates/%s: %s", daemon->state_dir, name, problem.text);
        return;
    }
    r = load_info(daemon, name, &info);
    if (r == 0)
        r = template_add(daemon, name, &info);
    if (r < 0)
        log_warning("ignoring template %s: cannot read its " JSON_NAME ": %s", name, strerror(-r));
}

void templates_load(struct daemon *daemon)
{
    int r = dir_each(daemon->templates_fd, load_one, daemon);

    if (r < 0)
        log_warning("cannot list %s/templates: %s", daemon->state_dir, strerror(-r));
}

int template_add(struct daemon *daemon, const char *name, const struct template_info *info)
{
    struct template *tmpl = calloc(1, sizeof(*tmpl));

    if (!tmpl)
        return -ENOMEM;
    if (asprintf(&tmpl->path, "%s/templates/%s", daemon->state_dir, name) < 0) {
        free(tmpl);
        return -ENOMEM;
    }
    tmpl->daemon = daemon;
    snprintf(tmpl->name, sizeof(tmpl->name), "%s", name);
    tmpl->info = *info;
    TAILQ_INSERT_TAIL(&daemon->templates, tmpl, link);
    if (daemon->listener)
        daemon->listener->template_added(daemon->listener_opaque, tmpl);
    return 0;
}

/* ---- opening ---- */

static int open_file(const struct template *tmpl, int dir_fd, const char *name, int *ret_fd,
                     struct problem *problem)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return problem_errno(problem, -errno, "template %s: cannot open %s/%s", tmpl->name,
                             tmpl->path, name);
    *ret_fd = fd;
    return 0;
}

static bool is_as_recorded(const struct template *tmpl, const struct stat *st)
{
    return (uint64_t)st->st_size == tmpl->info.size && mtime_ns(st) == tmpl->info.mtime &&
           st->st_ino == tmpl->info.inode;
}

static int check_unchanged(const struct template *tmpl, int disk, struct problem *problem)
{
    struct stat st;

    if (fstat(disk, &st) < 0)
        return problem_errno(problem, -errno, "template %s: cannot examine its disk", tmpl->name);
    if (!is_as_recorded(tmpl, &st))
        return problem_set(
            problem, PROBLEM_BAD_IMAGE,
            "template %s: %s/" TEMPLATE_DISK " was changed since its import; guests "
            "that depend on it cannot be started before \"vmctl template verify %s\" "
            "finds it good",
            tmpl->name, tmpl->path, tmpl->name);
    return 0;
}

void template_accept(struct template *tmpl, const struct stat *seen)
{
    struct template_info info = tmpl->info;
    int dir = open(tmpl->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    struct stat now;

    if (dir < 0 || fstatat(dir, TEMPLATE_DISK, &now, AT_SYMLINK_NOFOLLOW) < 0)
        r = -errno;
    else if (is_as_recorded(tmpl, &now) || now.st_ino != seen->st_ino ||
             now.st_size != seen->st_size || mtime_ns(&now) != mtime_ns(seen))
        goto out;
    if (r == 0)
        r = template_save(dir, &info);
    if (r == 0) {
        tmpl->info = info;
        log_info("template %s: its disk was changed since the import, but is good", tmpl->name);
    } else {
        log_warning("template %s: cannot record that its disk is good: %s", tmpl->name,
                    strerror(-r));
    }
out:
    if (dir >= 0)
        close(dir);
}

/* To start a guest from: all of it, unchanged. To look at: the disk, be it changed, and its hashes.
 */
static int open_parts(const struct template *tmpl, bool to_start, struct template_fds *ret_fds,
                      struct problem *problem)
{
    struct template_fds fds = {-1, -1, -1, -1};
    int dir = open(tmpl->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r;

    if (dir < 0)
        return problem_errno(problem, -errno, "template %s: cannot open %s", tmpl->name,
                             tmpl->path);
    r = open_file(tmpl, dir, TEMPLATE_DISK, &fds.disk, problem);
    if (r == 0 && to_start)
        r = check_unchanged(tmpl, fds.disk, problem);
    if (r == 0)
        r = open_file(tmpl, dir, TEMPLATE_HASHES, &fds.hashes, problem);
    if (r == 0 && to_start)
        r = open_file(tmpl, dir, TEMPLATE_KERNEL, &fds.kernel, problem);
    if (r == 0 && to_start && tmpl->info.has_initrd)
        r = open_file(tmpl, dir, TEMPLATE_INITRD, &fds.initrd, problem);
    close(dir);
    if (r < 0) {
        template_close(&fds);
        return r;
    }
    *ret_fds = fds;
    return 0;
}

int template_open(const struct template *tmpl, struct template_fds *ret_fds,
                  struct problem *problem)
{
    return open_parts(tmpl, true, ret_fds, problem);
}

int template_open_changed(const struct template *tmpl, struct template_fds *ret_fds,
                          struct problem *problem)
{
    return open_parts(tmpl, false, ret_fds, problem);
}

void template_close(struct template_fds *fds)
{
    int *all[] = {&fds->kernel, &fds->initrd, &fds->disk, &fds->hashes};

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (*all[i] >= 0)
            close(*all[i]);
        *all[i] = -1;
    }
}

int template_identity(const struct template *tmpl, struct cow_identity *ret_identity,
                      struct problem *problem)
{
    int dir = open(tmpl->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, r;
    struct cow_error err = {{0}};

    if (dir < 0)
        return problem_errno(problem, -errno, "template %s: cannot open %s", tmpl->name,
                             tmpl->path);
    r = open_file(tmpl, dir, TEMPLATE_HASHES, &fd, problem);
    close(dir);
    if (r < 0)
        return r;
    r = cow_hashes_identity(fd, tmpl->info.size, ret_identity, &err);
    close(fd);
    if (r < 0)
        return problem_set(problem, PROBLEM_BAD_IMAGE, "template %s: %s/" TEMPLATE_HASHES ": %s",
                           tmpl->name, tmpl->path, err.text);
    return 0;
}

uint64_t template_disk_usage(const struct template *tmpl)
{
    static const char *const files[] = {TEMPLATE_DISK, TEMPLATE_HASHES, TEMPLATE_KERNEL,
                                        TEMPLATE_INITRD};
    int dir = open(tmpl->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint64_t bytes = 0;
    struct stat st;

    if (dir < 0)
        return 0;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        if (fstatat(dir, files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
            bytes += (uint64_t)st.st_blocks * 512;
    close(dir);
    return bytes;
}

/* ---- removal ---- */

static int check_unused(const struct template *tmpl, struct problem *problem)
{
    const struct guest *guest;
    unsigned n = 0;
    char names[NAMED_IN_ERROR * (NAME_LENGTH_MAX + 3)] = "";

    TAILQ_FOREACH(guest, &tmpl->daemon->guests, link)
    {
        if (strcmp(guest->config.tmpl, tmpl->name) != 0)
            continue;
        if (n++ < NAMED_IN_ERROR)
            snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s",
                     n > 1 ? ", " : "", guest->config.name);
    }
    if (n == 0)
        return 0;
    if (n > NAMED_IN_ERROR)
        return problem_set(problem, PROBLEM_IN_USE,
                           "template %s is used by %u guests: %s and %u more", tmpl->name, n, names,
                           n - NAMED_IN_ERROR);
    return problem_set(problem, PROBLEM_IN_USE, "template %s is used by %s %s", tmpl->name,
                       n == 1 ? "guest" : "guests", names);
}

int template_delete(struct template *tmpl, struct problem *problem)
{
    struct daemon *daemon = tmpl->daemon;
    char name[NAME_LENGTH_MAX + 1];
    int r = check_unused(tmpl, problem);

    if (r < 0)
        return r;
    r = dir_discard(daemon->templates_fd, tmpl->name);
    if (r < 0)
        return problem_errno(problem, r, "cannot remove %s", tmpl->path);
    memcpy(name, tmpl->name, sizeof(name));
    template_free(tmpl);
    daemon_happened(daemon, "template-deleted", name, "%s", "");
    return 0;
}

void template_free(struct template *tmpl)
{
    struct daemon *daemon = tmpl->daemon;

    TAILQ_REMOVE(&daemon->templates, tmpl, link);
    if (daemon->listener)
        daemon->listener->template_removed(daemon->listener_opaque, tmpl);
    free(tmpl->path);
    free(tmpl);
}
