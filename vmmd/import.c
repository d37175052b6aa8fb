/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * import: making a template from an image or a guest, in three processes one after the other:
 *
 *   copy    copies the caller's kernel and initrd (if given) into the template's directory
 *   import  vmmd-import: reads the foreign image, writes disk.raw and hashes, may find a kernel
 *   seal    makes the files read-only and durable
 *
 * Everything that may take long or block (the caller's fds may be on a network, or worse) happens
 * in a child, so that the loop never waits. The directory has a temporary name until all is done;
 * any failure and any cancellation removes it.
 */
#include "vmmd/import.h"
#include "cowdisk/cowdisk.h"
#include "vmmd/child.h"
#include "vmmd/fileio.h"
#include "vmmd/guest.h"
#include "vmmd/import-child.h"
#include "vmmd/template.h"
#include "vmmd/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_CHUNK (1024 * 1024)

enum import_file { FILE_DISK, FILE_HASHES, FILE_KERNEL, FILE_INITRD, N_FILES };
enum import_stage { STAGE_COPY, STAGE_IMPORT, STAGE_SEAL };

static const char *const file_names[N_FILES] = {TEMPLATE_DISK, TEMPLATE_HASHES, TEMPLATE_KERNEL,
                                                TEMPLATE_INITRD};

struct import {
    LIST_ENTRY(import) link;
    struct daemon *daemon;
    struct job *job;
    char name[NAME_LENGTH_MAX + 1];
    char temp[FILEIO_NAME_MAX]; /* the directory; "" before it exists */
    int dir_fd;
    int files[N_FILES];
    int source, kernel, initrd, passphrase; /* the caller's, duplicated */
    int below[COW_IMPORT_MAX_BELOW], below_hashes;
    unsigned n_below;
    char below_option[24];
    bool remove_identity;
    char guest[NAME_LENGTH_MAX + 1]; /* whose disk is read, and kept still meanwhile; or "" */
    char *cmdline, *snapshot;
    enum import_stage stage;
    struct child *child;           /* of the stages copy and seal */
    struct import_child *importer; /* of the stage between */
    bool cancelled;                /* `error` says so, the child is being killed */
    char error[PROBLEM_TEXT_MAX];
    struct template_info info;
};

static void on_child_exited(void *opaque, const siginfo_t *info);
static void next_stage(struct import *import);

/* ---- work done in children ---- */

static int copy_fd(int from, int to, uint64_t limit)
{
    static char buffer[COPY_CHUNK]; /* in a child of one thread */
    off_t offset = 0;

    for (;;) {
        ssize_t n = pread(from, buffer, sizeof(buffer), offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            return 0;
        if ((uint64_t)offset + (uint64_t)n > limit)
            return EFBIG;
        for (ssize_t done = 0; done < n;) {
            ssize_t w = pwrite(to, buffer + done, (size_t)(n - done), offset + done);

            if (w < 0 && errno != EINTR)
                return errno;
            done += w > 0 ? w : 0;
        }
        offset += n;
    }
}

/* fds: 0 kernel (caller's), 1 kernel (ours), 2 initrd (caller's), 3 initrd (ours); /dev/null for
 * one not given. The exit status is an errno. */
static int copy_in_child(const void *data)
{
    int r;

    (void)data;
    r = copy_fd(0, 1, IMPORT_KERNEL_MAX);
    return r ? r : copy_fd(2, 3, IMPORT_INITRD_MAX);
}

/* fds: 0..N_FILES-1 the files, then the directory. */
static int seal_in_child(const void *data)
{
    (void)data;
    for (int fd = 0; fd <= N_FILES; fd++) {
        if (fd < N_FILES && fchmod(fd, 0444) < 0)
            return errno;
        if (fsync(fd) < 0)
            return errno;
    }
    return 0;
}

/* ---- the end ---- */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* From then on the guest may start again. */
static void let_go(struct import *import)
{
    struct guest *guest = import->guest[0] ? guest_find(import->daemon, import->guest) : NULL;

    if (guest)
        guest->readers--;
}

static void import_free(struct import *import)
{
    LIST_REMOVE(import, link);
    let_go(import);
    for (int i = 0; i < N_FILES; i++)
        close_fd(&import->files[i]);
    close_fd(&import->source);
    close_fd(&import->kernel);
    close_fd(&import->initrd);
    close_fd(&import->passphrase);
    close_fd(&import->below_hashes);
    for (unsigned i = 0; i < import->n_below; i++)
        close_fd(&import->below[i]);
    close_fd(&import->dir_fd);
    if (import->temp[0])
        dir_remove(import->daemon->templates_fd, import->temp);
    child_free(import->child);
    import_child_free(import->importer);
    free(import->cmdline);
    free(import->snapshot);
    free(import);
}

/* Ends a job whose child is gone. */
static void fail(struct import *import)
{
    struct job *job = import->job;
    char error[PROBLEM_TEXT_MAX];
    bool cancelled = import->cancelled;

    memcpy(error, import->error, sizeof(error));
    if (!cancelled)
        daemon_happened(import->daemon, "import-failed", import->name, "%s", error);
    import_free(import);
    job_finish(job, cancelled ? JOB_CANCELLED : JOB_FAILED, error, NULL);
}

__attribute__((format(printf, 2, 3))) static void fail_because(struct import *import,
                                                               const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(import->error, sizeof(import->error), format, args);
    va_end(args);
    fail(import);
}

static void on_cancel(void *opaque)
{
    struct import *import = opaque;

    import->cancelled = true;
    snprintf(import->error, sizeof(import->error), "cancelled");
    import->job->cancel = NULL;
    if (import->importer) /* the rest happens when it is gone */
        import_child_cancel(import->importer);
    else
        child_kill(import->child);
}

static void publish(struct import *import)
{
    struct daemon *daemon = import->daemon;
    struct job *job = import->job;
    struct template_info info = import->info;
    char name[NAME_LENGTH_MAX + 1];
    int r;

    memcpy(name, import->name, sizeof(name));
    info.created = now_usec();
    info.own_kernel = import->kernel >= 0;
    info.own_initrd = import->initrd >= 0;
    info.own_cmdline = import->cmdline != NULL;
    if (!info.has_initrd)
        unlinkat(import->dir_fd, TEMPLATE_INITRD, 0);
    r = template_save(import->dir_fd, &info);
    if (r == 0)
        r = dir_publish(daemon->templates_fd, import->temp, name);
    if (r == 0) {
        import->temp[0] = '\0'; /* it is not ours to remove any more */
        r = dir_sync(daemon->templates_fd);
    }
    if (r == 0)
        r = template_add(daemon, name, &info);
    if (r < 0) {
        fail_because(import, "template %s: cannot put %s/templates/%s into place: %s", name,
                     daemon->state_dir, name, strerror(-r));
        return;
    }
    import_free(import);
    daemon_happened(daemon, "template-added", name, "%s", info.os_name);
    job_finish(job, JOB_DONE, NULL, name);
}

/* ---- stages ---- */

static int start_child(struct import *import, const struct child_spec *spec,
                       struct problem *problem)
{
    int r =
        child_spawn(&import->child, import->daemon->base, spec, on_child_exited, import, problem);

    if (r == 0)
        child_release(import->child);
    return r;
}

static int start_copy(struct import *import, struct problem *problem)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct child_spec spec = {.function = copy_in_child, .n_fds = 4};
    int r;

    if (null_fd < 0)
        return problem_errno(problem, -errno, "cannot open /dev/null");
    import->stage = STAGE_COPY;
    spec.fds[0] = import->kernel >= 0 ? import->kernel : null_fd;
    spec.fds[1] = import->kernel >= 0 ? import->files[FILE_KERNEL] : null_fd;
    spec.fds[2] = import->initrd >= 0 ? import->initrd : null_fd;
    spec.fds[3] = import->initrd >= 0 ? import->files[FILE_INITRD] : null_fd;
    r = start_child(import, &spec, problem);
    close(null_fd);
    return r;
}

static int start_seal(struct import *import, struct problem *problem)
{
    struct child_spec spec = {.function = seal_in_child, .n_fds = N_FILES + 1};

    import->stage = STAGE_SEAL;
    for (int i = 0; i < N_FILES; i++)
        spec.fds[i] = import->files[i];
    spec.fds[N_FILES] = import->dir_fd;
    return start_child(import, &spec, problem);
}

/* What was found. -ENOENT: there is nothing to boot. */
static int take_done(struct import *import, const struct cow_import_msg *msg)
{
    if (!msg->has_kernel) {
        snprintf(import->error, sizeof(import->error),
                 "template %s: no kernel was found in the image and none was given", import->name);
        return -ENOENT;
    }
    import->info.has_initrd = msg->has_initrd;
    text_copy(import->info.os_name, sizeof(import->info.os_name), msg->os_name);
    text_copy(import->info.kernel_name, sizeof(import->info.kernel_name), msg->kernel_name);
    text_copy(import->info.cmdline, sizeof(import->info.cmdline), msg->cmdline);
    return 0;
}

static void on_progress(void *opaque, double fraction)
{
    job_set_progress(((struct import *)opaque)->job, fraction);
}

static void on_imported(void *opaque, int result, const struct cow_import_msg *msg, const char *why)
{
    struct import *import = opaque;

    if (result == 0)
        result = take_done(import, msg);
    else if (!import->error[0])
        snprintf(import->error, sizeof(import->error), "template %s: %.400s", import->name, why);
    import_child_free(import->importer);
    import->importer = NULL;
    if (result == 0 && !import->cancelled)
        next_stage(import);
    else
        fail(import);
}

static void make_options(struct import *import, const char **options)
{
    int n = 0;

    if (import->kernel >= 0)
        options[n++] = "--kernel";
    if (import->initrd >= 0)
        options[n++] = "--initrd";
    if (import->cmdline) {
        options[n++] = "--cmdline";
        options[n++] = import->cmdline;
    }
    if (import->passphrase >= 0)
        options[n++] = "--passphrase";
    if (import->snapshot) {
        options[n++] = "--snapshot";
        options[n++] = import->snapshot;
    }
    if (import->n_below > 0) {
        snprintf(import->below_option, sizeof(import->below_option), "--below=%u", import->n_below);
        options[n++] = import->below_option;
    }
    if (import->below_hashes >= 0)
        options[n++] = "--below-hashes";
    if (import->remove_identity)
        options[n++] = "--remove-identity";
}

static int start_import(struct import *import, struct problem *problem)
{
    struct import_child_spec spec = {
        .fds = {import->source},
        .n_fds = 1,
        .progress = on_progress,
        .ended = on_imported,
        .opaque = import,
    };
    int r;

    import->stage = STAGE_IMPORT;
    make_options(import, spec.options);
    for (int i = 0; i < N_FILES; i++)
        spec.fds[spec.n_fds++] = import->files[i];
    spec.fds[spec.n_fds++] = import->passphrase;
    for (unsigned i = 0; i < import->n_below; i++)
        spec.fds[spec.n_fds++] = import->below[i];
    if (import->below_hashes >= 0)
        spec.fds[spec.n_fds++] = import->below_hashes;
    r = import_child_new(&import->importer, import->daemon, &spec, problem);
    if (r == 0)
        import_child_go(import->importer);
    return r;
}

/* A child ended well: on to the next stage. */
static void next_stage(struct import *import)
{
    struct problem problem;
    int r;

    if (import->stage == STAGE_SEAL) {
        publish(import);
        return;
    }
    r = import->stage == STAGE_COPY ? start_import(import, &problem) : start_seal(import, &problem);
    if (r < 0)
        fail_because(import, "%s", problem.text);
}

/* The child of a stage fails without a word: its exit status is the reason. */
static void explain(struct import *import, const siginfo_t *info)
{
    char how[128];

    if (import->error[0])
        return;
    if (info && info->si_code == CLD_EXITED)
        snprintf(how, sizeof(how), "%s", strerror(info->si_status));
    else
        child_describe_end(info, how, sizeof(how));
    snprintf(import->error, sizeof(import->error), "template %s: %s: %s", import->name,
             import->stage == STAGE_COPY ? "copying kernel and initrd" : "writing the files", how);
}

static void on_child_exited(void *opaque, const siginfo_t *info)
{
    struct import *import = opaque;
    bool ok = info && info->si_code == CLD_EXITED && info->si_status == 0;

    child_free(import->child);
    import->child = NULL;
    if (ok && !import->cancelled) {
        next_stage(import);
        return;
    }
    explain(import, info);
    fail(import);
}

/* ---- the beginning ---- */

static int check_readable(const char *what, int fd, struct problem *problem)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY || (flags & O_PATH))
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "the %s is not open for reading",
                           what);
    return 0;
}

static int check_disk(int fd, struct problem *problem)
{
    struct stat st;
    uint64_t size;
    int r = check_readable("disk", fd, problem);

    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return problem_errno(problem, -errno, "cannot examine the disk");
    size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size) < 0)
        return problem_errno(problem, -errno, "cannot tell the size of the disk");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return problem_set(problem, PROBLEM_BAD_IMAGE,
                           "the disk is neither a regular file nor a block device");
    if (size == 0)
        return problem_set(problem, PROBLEM_BAD_IMAGE, "the disk is empty");
    return 0;
}

static int check_file(const char *what, int fd, uint64_t limit, struct problem *problem)
{
    struct stat st;
    int r = fd < 0 ? 0 : check_readable(what, fd, problem);

    if (fd < 0 || r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return problem_errno(problem, -errno, "cannot examine the %s", what);
    if (!S_ISREG(st.st_mode))
        return problem_set(problem, PROBLEM_BAD_IMAGE, "the %s is not a regular file", what);
    if (st.st_size == 0 || (uint64_t)st.st_size > limit)
        return problem_set(problem, PROBLEM_BAD_IMAGE, "the %s has %lld bytes: 1 to %llu are fine",
                           what, (long long)st.st_size, (unsigned long long)limit);
    return 0;
}

static int check(struct daemon *daemon, const struct import_request *request,
                 struct problem *problem)
{
    const struct import *other;
    int r = name_check("template", request->name, problem);

    if (r < 0)
        return r;
    if (template_find(daemon, request->name))
        return problem_set(problem, PROBLEM_EXISTS, "template %s exists already", request->name);
    LIST_FOREACH(other, &daemon->imports, link)
    if (strcmp(other->name, request->name) == 0)
        return problem_set(problem, PROBLEM_EXISTS, "template %s is being imported already",
                           request->name);
    if (request->cmdline && strlen(request->cmdline) >= TEMPLATE_CMDLINE_MAX)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "the kernel command line is longer than %d bytes",
                           TEMPLATE_CMDLINE_MAX - 1);
    for (const char *c = request->cmdline; c && *c; c++)
        if (*c < 0x20 || *c >= 0x7f)
            return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                               "the kernel command line may hold printable ASCII only");
    if (request->snapshot && strlen(request->snapshot) >= IMPORT_SNAPSHOT_MAX)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "the name of a snapshot is no longer than %d bytes",
                           IMPORT_SNAPSHOT_MAX - 1);
    r = check_disk(request->disk, problem);
    for (unsigned i = 0; i < request->n_below && r == 0; i++)
        r = check_disk(request->below[i], problem);
    if (r == 0)
        r = check_file("kernel", request->kernel, IMPORT_KERNEL_MAX, problem);
    if (r == 0)
        r = check_file("initrd", request->initrd, IMPORT_INITRD_MAX, problem);
    if (r == 0)
        r = check_file("passphrase", request->passphrase, IMPORT_PASSPHRASE_MAX, problem);
    return r;
}

/* Our own read-only open of the caller's file, if that is possible: the caller's one may be
 * writable, and moves with the caller's file offset. */
static int take_fd(int fd)
{
    char path[64];
    int own;

    if (fd < 0)
        return -1;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    own = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int make_files(struct import *import, struct problem *problem)
{
    struct daemon *daemon = import->daemon;
    int r = import->dir_fd = dir_make_temp(daemon->templates_fd, import->temp);

    if (r < 0) {
        import->temp[0] = '\0';
        return problem_errno(problem, r, "template %s: cannot make a directory in %s/templates",
                             import->name, daemon->state_dir);
    }
    for (int i = 0; i < N_FILES; i++) {
        import->files[i] =
            openat(import->dir_fd, file_names[i], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (import->files[i] < 0)
            return problem_errno(problem, -errno, "template %s: cannot make %s in %s/templates",
                                 import->name, file_names[i], daemon->state_dir);
    }
    return 0;
}

static struct import *import_new(struct daemon *daemon, const struct import_request *request)
{
    struct import *import = calloc(1, sizeof(*import));

    if (!import)
        return NULL;
    import->daemon = daemon;
    import->dir_fd = import->below_hashes = -1;
    for (int i = 0; i < N_FILES; i++)
        import->files[i] = -1;
    memcpy(import->name, request->name, strlen(request->name) + 1);
    import->source = take_fd(request->disk);
    import->kernel = take_fd(request->kernel);
    import->initrd = take_fd(request->initrd);
    import->passphrase = take_fd(request->passphrase);
    import->cmdline = request->cmdline ? strdup(request->cmdline) : NULL;
    import->snapshot = request->snapshot ? strdup(request->snapshot) : NULL;
    import->remove_identity = request->remove_identity;
    import->below_hashes = take_fd(request->below_hashes);
    import->n_below = request->n_below;
    for (unsigned i = 0; i < request->n_below; i++)
        import->below[i] = take_fd(request->below[i]);
    if (request->guest) {
        memcpy(import->guest, request->guest->config.name, sizeof(import->guest));
        request->guest->readers++;
    }
    LIST_INSERT_HEAD(&daemon->imports, import, link);
    return import;
}

void import_request_init(struct import_request *request)
{
    *request = (struct import_request){
        .disk = -1, .kernel = -1, .initrd = -1, .passphrase = -1, .below_hashes = -1};
    for (unsigned i = 0; i < COW_IMPORT_MAX_BELOW; i++)
        request->below[i] = -1;
}

int import_start(struct daemon *daemon, const struct import_request *request, struct job **ret_job,
                 struct problem *problem)
{
    struct import *import;
    int r = check(daemon, request, problem);

    if (r == 0)
        r = job_room(daemon, problem);
    if (r < 0)
        return r;
    import = import_new(daemon, request);
    if (!import || (request->cmdline && !import->cmdline) ||
        (request->snapshot && !import->snapshot)) {
        if (import)
            import_free(import);
        return problem_errno(problem, -ENOMEM, "template %s", request->name);
    }
    r = make_files(import, problem);
    if (r == 0)
        r = import->kernel >= 0 || import->initrd >= 0 ? start_copy(import, problem)
                                                       : start_import(import, problem);
    if (r == 0)
        r = job_new(&import->job, daemon, request->guest ? "create" : "import", request->name,
                    on_cancel, import, problem);
    if (r < 0) {
        if (import->child)
            child_kill(import->child);
        import_free(import);
        return r;
    }
    *ret_job = import->job;
    return 0;
}

int import_from_guest(struct guest *guest, const char *name, bool keep_identity,
                      struct job **ret_job, struct problem *problem)
{
    const struct template *tmpl;
    struct import_request request;
    struct template_fds fds;
    int overlay, r = guest_check_still(guest, problem);

    if (r == 0)
        r = guest_store_open_template(guest, &tmpl, &fds, problem);
    if (r < 0)
        return r;
    r = overlay = guest_store_open(guest, GUEST_OVERLAY, O_RDONLY, problem);
    if (r >= 0) {
        import_request_init(&request);
        request.name = name;
        request.disk = overlay;
        request.below[request.n_below++] = fds.disk;
        request.below_hashes = fds.hashes;
        request.kernel = tmpl->info.own_kernel ? fds.kernel : -1;
        request.initrd = tmpl->info.own_initrd ? fds.initrd : -1;
        request.cmdline = tmpl->info.own_cmdline ? tmpl->info.cmdline : NULL;
        request.remove_identity = !keep_identity;
        request.guest = guest;
        r = import_start(guest->daemon, &request, ret_job, problem);
        close(overlay);
    }
    template_close(&fds);
    return r;
}

void import_abort_all(struct daemon *daemon)
{
    while (!LIST_EMPTY(&daemon->imports)) {
        struct import *import = LIST_FIRST(&daemon->imports);

        if (import->child)
            child_kill(import->child);
        import_free(import);
    }
}
