/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-disk: attaching, detaching and resizing disks of a guest that is stopped.
 *
 * A vmmd-import process looks at the image, or changes its size; when it is done, guest.json is
 * written. A daemon that dies in between has changed nothing, or a size that the next look at the
 * image corrects (the image is right, guest.json only repeats what it says).
 */
#include "vmmd/guest-disk.h"
#include "vmmd/guest.h"
#include "vmmd/import-child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512u

enum work_kind { WORK_ATTACH, WORK_RESIZE };

struct disk_work {
    LIST_ENTRY(disk_work) link;
    struct daemon *daemon;
    enum work_kind kind;
    char guest[NAME_LENGTH_MAX + 1]; /* it stays still until the end */
    struct guest_disk disk;          /* of a resize: only the name */
    char size_text[24];
    struct import_child *child;
    guest_disk_done_fn done;
    void *opaque;
};

static struct guest_disk *find_disk(struct guest *guest, const char *name)
{
    struct guest_disks *disks = &guest->config.disks;

    for (unsigned i = 0; i < disks->n; i++)
        if (strcmp(disks->disk[i].name, name) == 0)
            return &disks->disk[i];
    return NULL;
}

static int no_disk(const struct guest *guest, const char *name, struct problem *problem)
{
    return problem_set(problem, PROBLEM_NOT_FOUND, "guest %s has no disk \"%.32s\"",
                       guest->config.name, name);
}

/* Writes guest.json; on failure it is as `before`. */
static int store(struct guest *guest, const struct guest_disks *before, struct problem *problem)
{
    int r = guest_store_config(guest, problem);

    if (r < 0)
        guest->config.disks = *before;
    else
        guest_changed(guest, GUEST_CHANGE_CONFIG);
    return r;
}

/* ---- the end of work ---- */

static void work_free(struct disk_work *work)
{
    struct guest *guest = guest_find(work->daemon, work->guest);

    if (guest)
        guest->readers--;
    LIST_REMOVE(work, link);
    import_child_free(work->child);
    free(work);
}

static int finish_attach(struct guest *guest, struct disk_work *work, uint64_t size,
                         struct problem *problem)
{
    struct guest_disks before = guest->config.disks;

    work->disk.size = size;
    guest->config.disks.disk[guest->config.disks.n++] = work->disk;
    return store(guest, &before, problem);
}

static int finish_resize(struct guest *guest, const struct disk_work *work, uint64_t size,
                         struct problem *problem)
{
    struct guest_disks before = guest->config.disks;
    struct guest_disk *disk = find_disk(guest, work->disk.name);

    if (disk)
        disk->size = size;
    else
        guest->config.disks.root_size = size;
    return store(guest, &before, problem);
}

static void on_ended(void *opaque, int result, const struct cow_import_msg *msg, const char *why)
{
    struct disk_work *work = opaque;
    struct guest *guest = guest_find(work->daemon, work->guest);
    guest_disk_done_fn done = work->done;
    void *done_opaque = work->opaque;
    struct problem problem;
    int r = result;

    if (r < 0)
        problem_set(&problem, PROBLEM_BAD_IMAGE, "guest %s: disk %s: %.400s", work->guest,
                    work->disk.name, why);
    else if (!guest)
        r = problem_set(&problem, PROBLEM_NOT_FOUND, "guest %s is gone", work->guest);
    else if (work->kind == WORK_ATTACH)
        r = finish_attach(guest, work, msg->disk_bytes, &problem);
    else
        r = finish_resize(guest, work, msg->disk_bytes, &problem);
    work_free(work);
    if (done)
        done(done_opaque, r < 0 ? &problem : NULL);
}

/* ---- the beginning of work ---- */

static struct disk_work *work_new(struct guest *guest, enum work_kind kind, guest_disk_done_fn done,
                                  void *opaque)
{
    struct disk_work *work = calloc(1, sizeof(*work));

    if (!work)
        return NULL;
    work->daemon = guest->daemon;
    work->kind = kind;
    work->done = done;
    work->opaque = opaque;
    memcpy(work->guest, guest->config.name, sizeof(work->guest));
    guest->readers++;
    LIST_INSERT_HEAD(&guest->daemon->disk_works, work, link);
    return work;
}

/* `below`: what lies under the image, or -1. */
static int start(struct disk_work *work, const char *const *options, int image, int below,
                 struct problem *problem)
{
    struct import_child_spec spec = {
        .fds = {image, -1, -1, -1, -1, -1, below},
        .n_fds = below >= 0 ? 7 : 6,
        .ended = on_ended,
        .opaque = work,
    };
    int r;

    for (int i = 0; i < IMPORT_CHILD_OPTIONS_MAX - 1 && options[i]; i++)
        spec.options[i] = options[i];
    r = import_child_new(&work->child, work->daemon, &spec, problem);
    if (r < 0)
        work_free(work);
    else
        import_child_go(work->child);
    return r;
}

void guest_disks_abort_all(struct daemon *daemon)
{
    struct problem problem;

    problem_set(&problem, PROBLEM_BUSY, "vmmd is ending");
    while (!LIST_EMPTY(&daemon->disk_works)) {
        struct disk_work *work = LIST_FIRST(&daemon->disk_works);
        guest_disk_done_fn done = work->done;
        void *opaque = work->opaque;

        work_free(work);
        if (done)
            done(opaque, &problem);
    }
}

/* ---- attach ---- */

static int check_size(uint64_t size, struct problem *problem)
{
    if (size > 0 && size % SECTOR == 0 && size <= COW_MAX_VIRTUAL_SIZE)
        return 0;
    return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                       "a disk of %llu bytes: must be whole sectors of %u bytes, at most 64 TiB",
                       (unsigned long long)size, SECTOR);
}

static int check_name(struct guest *guest, const char *name, struct problem *problem)
{
    int r = name_check("disk", name, problem);

    if (r < 0)
        return r;
    if (strlen(name) > GUEST_DISK_NAME_MAX)
        return problem_set(problem, PROBLEM_INVALID_NAME,
                           "disk name %s is longer than %d characters, which is all that a guest "
                           "could see of it",
                           name, GUEST_DISK_NAME_MAX);
    if (strcmp(name, GUEST_ROOT_DISK) == 0 || find_disk(guest, name))
        return problem_set(problem, PROBLEM_EXISTS, "guest %s has a disk %s already",
                           guest->config.name, name);
    if (guest->config.disks.n == GUEST_DISKS_MAX)
        return problem_set(problem, PROBLEM_LIMIT_EXCEEDED,
                           "guest %s has %d disks, the most that are possible", guest->config.name,
                           PROTO_DISKS_MAX);
    return 0;
}

/* Is there a file for a disk of its own? */
static bool has_file(const struct guest *guest, const char *disk)
{
    char path[3 * NAME_LENGTH_MAX];

    snprintf(path, sizeof(path), "%s/" GUEST_DISK_FILE, guest->config.name, disk);
    return faccessat(guest->daemon->guests_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A new one; an old one of that name is not touched. */
static int make_own(const struct guest *guest, const struct guest_disk *disk, uint64_t size,
                    struct problem *problem)
{
    const struct cow_create_options options = {.size = size};
    char name[sizeof(GUEST_DISK_FILE) + GUEST_DISK_NAME_MAX];
    char path[2 * NAME_LENGTH_MAX];
    struct cow_error err = {{0}};
    int fd, r;

    snprintf(name, sizeof(name), GUEST_DISK_FILE, disk->name);
    snprintf(path, sizeof(path), "%s/%s", guest->config.name, name);
    if (has_file(guest, disk->name))
        return problem_set(
            problem, PROBLEM_EXISTS,
            "guest %s: %s/guests/%s is kept from a disk that was detached: attach it "
            "without a size, or detach it then with its data",
            guest->config.name, guest->daemon->state_dir, path);
    fd = guest_store_open(guest, name, O_RDWR | O_CREAT | O_EXCL, problem);
    if (fd < 0)
        return fd;
    r = cow_create(fd, &options, &err);
    close(fd);
    if (r < 0) {
        unlinkat(guest->daemon->guests_fd, path, 0);
        return problem_errno(problem, r, "guest %s: cannot make %s/guests/%s%s%s",
                             guest->config.name, guest->daemon->state_dir, path,
                             err.text[0] ? ": " : "", err.text);
    }
    return 0;
}

/* Somebody's file: what it is, and where. */
static int take_foreign(struct guest_disk *disk, int fd, struct problem *problem)
{
    int flags = fcntl(fd, F_GETFL), access = flags & O_ACCMODE;
    char link[64];
    ssize_t n;

    if (flags < 0 || flags & O_PATH || (access != O_RDWR && !disk->readonly) || access == O_WRONLY)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the image is not open for reading%s",
                           disk->readonly ? "" : " and writing");
    if (guest_disk_identify(fd, &disk->identity) < 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the image is not a regular file");
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, disk->path, sizeof(disk->path));
    if (n < 0)
        return problem_errno(problem, -errno, "cannot tell the path of the image");
    if (n >= (ssize_t)sizeof(disk->path) || disk->path[0] != '/')
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "the path of the image is longer than %d bytes, or none",
                           GUEST_DISK_PATH_MAX - 1);
    disk->path[n] = '\0';
    return 0;
}

static bool is_utf8(const char *text)
{
    json_t *json = json_string(text);

    json_decref(json);
    return json != NULL;
}

/* The format is told by the first bytes, this once: the caller says that it is an image. */
static int probe(struct guest_disk *disk, int fd, struct problem *problem)
{
    struct cow_error err = {{0}};
    enum cow_format format;
    int r = cow_probe(fd, &format, &err);

    if (r < 0)
        return problem_errno(problem, r, "cannot read %s", disk->path);
    disk->raw = format == COW_FORMAT_RAW;
    return 0;
}

/* Is this file a disk of some guest already? Only readers may share. */
static int check_unshared(const struct guest *guest, const struct guest_disk *disk,
                          struct problem *problem)
{
    const struct guest *other;

    TAILQ_FOREACH(other, &guest->daemon->guests, link)
    {
        for (unsigned i = 0; i < other->config.disks.n; i++) {
            const struct guest_disk *theirs = &other->config.disks.disk[i];

            if (!theirs->own && !(theirs->readonly && disk->readonly) &&
                memcmp(&theirs->identity, &disk->identity, sizeof(disk->identity)) == 0)
                return problem_set(problem, PROBLEM_IN_USE, "%s is disk %s of guest %s already",
                                   disk->path, theirs->name, other->config.name);
        }
    }
    return 0;
}

static int prepare(struct guest *guest, const struct attach_request *request,
                   struct guest_disk *disk, struct problem *problem)
{
    int r;

    snprintf(disk->name, sizeof(disk->name), "%s", request->name);
    disk->readonly = request->readonly;
    disk->own = request->file < 0;
    if (disk->own && request->size)
        return make_own(guest, disk, request->size, problem);
    if (disk->own && !has_file(guest, disk->name))
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "disk %s needs a size, or a file: guest %s keeps none of that name",
                           disk->name, guest->config.name);
    if (disk->own)
        return 0;
    r = take_foreign(disk, request->file, problem);
    if (r == 0 && !is_utf8(disk->path))
        r = problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the path of the image is not UTF-8");
    if (r == 0)
        r = check_unshared(guest, disk, problem);
    if (r == 0)
        r = probe(disk, request->file, problem);
    return r;
}

static const char *format_name(const struct guest_disk *disk)
{
    return disk->raw ? "raw" : "qcow2";
}

static int remove_own(const struct guest *guest, const char *name, struct problem *problem)
{
    char path[3 * NAME_LENGTH_MAX];

    snprintf(path, sizeof(path), "%s/" GUEST_DISK_FILE, guest->config.name, name);
    if (unlinkat(guest->daemon->guests_fd, path, 0) == 0 || errno == ENOENT)
        return 0;
    return problem_errno(problem, -errno, "guest %s: cannot remove %s/guests/%s",
                         guest->config.name, guest->daemon->state_dir, path);
}

/* One that we made needs no look at it. */
static int add_new(struct guest *guest, struct guest_disk *disk, uint64_t size,
                   guest_disk_done_fn done, void *opaque, struct problem *problem)
{
    struct guest_disks before = guest->config.disks;
    int r;

    disk->size = size;
    guest->config.disks.disk[guest->config.disks.n++] = *disk;
    r = store(guest, &before, problem);
    if (r < 0)
        remove_own(guest, disk->name, NULL);
    else if (done)
        done(opaque, NULL);
    return r;
}

int guest_disk_attach(struct guest *guest, const struct attach_request *request,
                      guest_disk_done_fn done, void *opaque, struct problem *problem)
{
    struct guest_disk disk = {0};
    struct disk_work *work;
    int fd, r = guest_check_still(guest, problem);

    if (r == 0)
        r = check_name(guest, request->name, problem);
    if (r == 0 && request->file >= 0 && request->size)
        r = problem_set(problem, PROBLEM_INVALID_ARGUMENT, "a file has its size");
    if (r == 0 && request->size)
        r = check_size(request->size, problem);
    if (r == 0)
        r = prepare(guest, request, &disk, problem);
    if (r < 0)
        return r;
    if (request->size)
        return add_new(guest, &disk, request->size, done, opaque, problem);
    fd = guest_disk_open(guest, &disk, problem); /* as every start will */
    if (fd < 0)
        return fd;
    work = work_new(guest, WORK_ATTACH, done, opaque);
    if (!work) {
        close(fd);
        return problem_errno(problem, -ENOMEM, "guest %s", guest->config.name);
    }
    work->disk = disk;
    r = start(work, (const char *[]){"--disk", format_name(&disk), NULL}, fd, -1, problem);
    close(fd);
    return r;
}

/* ---- detach ---- */

int guest_disk_detach(struct guest *guest, const char *name, bool remove, char **ret_kept,
                      struct problem *problem)
{
    struct guest_disks before = guest->config.disks;
    struct guest_disk *disk = find_disk(guest, name);
    struct guest_disk gone;
    char *kept = NULL;
    int r = guest_check_still(guest, problem);

    if (r < 0)
        return r;
    if (strcmp(name, GUEST_ROOT_DISK) == 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "the root disk of guest %s goes with the guest", guest->config.name);
    if (!disk)
        return no_disk(guest, name, problem);
    if (remove && !disk->own)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "%s is not vmmd's to delete: detach it without that", disk->path);
    gone = *disk;
    memmove(disk, disk + 1,
            (size_t)(&guest->config.disks.disk[guest->config.disks.n] - (disk + 1)) *
                sizeof(*disk));
    memset(&guest->config.disks.disk[--guest->config.disks.n], 0, sizeof(*disk));
    r = store(guest, &before, problem);
    if (r == 0 && remove)
        r = remove_own(guest, gone.name, problem);
    if (r == 0 && gone.own && !remove)
        kept = guest_disk_path(guest, &gone);
    if (r == 0)
        *ret_kept = kept;
    return r;
}

/* ---- resize ---- */

static int open_root(struct guest *guest, int *ret_image, int *ret_below, struct problem *problem)
{
    const struct template *tmpl = template_find(guest->daemon, guest->config.tmpl);
    struct template_fds fds;
    int image, r;

    if (!tmpl)
        return problem_set(problem, PROBLEM_NOT_FOUND, "guest %s: its template %s does not exist",
                           guest->config.name, guest->config.tmpl);
    r = template_open(tmpl, &fds, problem);
    if (r < 0)
        return r;
    image = guest_store_open(guest, GUEST_OVERLAY, O_RDWR, problem);
    if (image >= 0) {
        *ret_image = image;
        *ret_below = fds.disk;
        fds.disk = -1;
    }
    template_close(&fds);
    return image < 0 ? image : 0;
}

static int check_resize(const struct guest *guest, const char *name, uint64_t now, uint64_t size,
                        bool shrink, struct problem *problem)
{
    int r = check_size(size, problem);

    if (r == 0 && size < now && !shrink)
        r = problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                        "disk %s of guest %s has %llu bytes: to make it smaller cuts off what lies "
                        "behind, and is done only if asked for (--shrink)",
                        name, guest->config.name, (unsigned long long)now);
    return r;
}

static int start_resize(struct guest *guest, const char *name, const char *format, int image,
                        int below, uint64_t size, bool shrink, guest_disk_done_fn done,
                        void *opaque, struct problem *problem)
{
    const char *options[IMPORT_CHILD_OPTIONS_MAX] = {"--disk", format, "--resize", NULL};
    struct disk_work *work = work_new(guest, WORK_RESIZE, done, opaque);
    int n = 4;

    if (!work)
        return problem_errno(problem, -ENOMEM, "guest %s", guest->config.name);
    snprintf(work->disk.name, sizeof(work->disk.name), "%s", name);
    snprintf(work->size_text, sizeof(work->size_text), "%llu", (unsigned long long)size);
    if (shrink)
        options[n++] = "--shrink";
    if (below >= 0)
        options[n++] = "--below=1";
    options[3] = work->size_text;
    return start(work, options, image, below, problem);
}

int guest_disk_resize(struct guest *guest, const char *name, uint64_t size, bool shrink,
                      guest_disk_done_fn done, void *opaque, struct problem *problem)
{
    const struct guest_disk *disk = find_disk(guest, name);
    bool root = strcmp(name, GUEST_ROOT_DISK) == 0;
    int image = -1, below = -1, r = guest_check_still(guest, problem);

    if (r < 0)
        return r;
    if (!root && !disk)
        return no_disk(guest, name, problem);
    if (disk && disk->readonly)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "disk %s of guest %s is attached read-only", name, guest->config.name);
    r = check_resize(guest, name, root ? guest_root_size(guest) : disk->size, size, shrink,
                     problem);
    if (r == 0 && root)
        r = open_root(guest, &image, &below, problem);
    else if (r == 0)
        r = image = guest_disk_open(guest, disk, problem);
    if (r < 0)
        return r;
    r = start_resize(guest, name, root ? "qcow2" : format_name(disk), image, below, size, shrink,
                     done, opaque, problem);
    close(image);
    if (below >= 0)
        close(below);
    return r;
}
