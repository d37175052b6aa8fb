/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon: beginning and end of everything, and the directories it stands on.
 *
 *   STATE/lock  STATE/templates/NAME/  STATE/guests/NAME/       survives reboots
 *   RUNTIME/lock  RUNTIME/guests/NAME.sock                      survives the daemon
 *
 * One daemon per directory: each has a lock file that is held as long as the daemon lives, so that
 * two can never write the same overlay or listen for the same guest.
 */
#include "vmmd/daemon.h"
#include "vmmd/create.h"
#include "vmmd/fileio.h"
#include "vmmd/guest.h"
#include "vmmd/import.h"
#include "vmmd/template-read.h"
#include "vmmd/log.h"
#include "vmmd/mapcount.h"
#include "vmmd/pressure.h"
#include "vmmd/share.h"
#include "vmmd/template.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define GUEST_USER    "vmmd-guest"
#define NOBODY        65534u
#define LOCK_TRIES    10
#define LOCK_PAUSE_NS 25000000

uint64_t now_usec(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000;
}

/* ---- directories ---- */

/* Makes a directory and those above it. */
static int make_path(const char *path)
{
    char *copy = strdup(path);
    int r = 0;

    if (!copy)
        return -ENOMEM;
    for (char *slash = strchr(copy + 1, '/'); r == 0; slash = strchr(slash + 1, '/')) {
        if (slash)
            *slash = '\0';
        if (mkdir(copy, slash ? 0755 : 0700) < 0 && errno != EEXIST)
            r = -errno;
        if (!slash)
            break;
        *slash = '/';
    }
    free(copy);
    return r;
}

/* Others must not be able to put things here: sockets and templates are trusted by their place. */
static int check_owner(const char *path, int fd, struct problem *problem)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return problem_errno(problem, -errno, "cannot examine %s", path);
    if (st.st_uid != geteuid())
        return problem_set(problem, PROBLEM_FAILED, "%s belongs to uid %u, not to uid %u", path,
                           (unsigned)st.st_uid, (unsigned)geteuid());
    if ((st.st_mode & 022) && fchmod(fd, 0700) < 0)
        return problem_errno(problem, -errno, "cannot make %s private", path);
    return 0;
}

static int take_lock(const char *path, int dir_fd, int *ret_lock, struct problem *problem)
{
    int fd = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return problem_errno(problem, -errno, "cannot open %s/lock", path);
    /* A daemon that was just killed may have left a child between fork and exec, which has the lock
     * for a moment longer. */
    r = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
    for (int i = 0; r == -EWOULDBLOCK && i < LOCK_TRIES; i++) {
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
        r = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
    }
    if (r < 0) {
        close(fd);
        if (r == -EWOULDBLOCK)
            return problem_set(problem, PROBLEM_IN_USE, "another vmmd uses %s", path);
        return problem_errno(problem, r, "cannot lock %s/lock", path);
    }
    *ret_lock = fd;
    return 0;
}

static int open_subdirectory(const char *path, int dir_fd, const char *name, int *ret_fd,
                             struct problem *problem)
{
    int fd = dir_open(dir_fd, name);

    if (fd < 0)
        return problem_errno(problem, fd, "cannot open %s/%s", path, name);
    *ret_fd = fd;
    return 0;
}

static int open_root(const char *path, int *ret_fd, int *ret_lock, char **ret_real,
                     struct problem *problem)
{
    int fd, r = make_path(path);

    if (r < 0)
        return problem_errno(problem, r, "cannot make %s", path);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return problem_errno(problem, -errno, "cannot open %s", path);
    r = check_owner(path, fd, problem);
    if (r == 0)
        r = take_lock(path, fd, ret_lock, problem);
    if (r == 0) {
        *ret_real = realpath(path, NULL);
        if (!*ret_real)
            r = problem_errno(problem, -errno, "cannot resolve %s", path);
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int open_directories(struct daemon *daemon, const char *state_dir, const char *runtime_dir,
                            struct problem *problem)
{
    int state_fd = -1, runtime_fd = -1, r;

    r = open_root(state_dir, &state_fd, &daemon->state_lock, &daemon->state_dir, problem);
    if (r == 0)
        r = open_root(runtime_dir, &runtime_fd, &daemon->runtime_lock, &daemon->runtime_dir,
                      problem);
    if (r == 0)
        r = open_subdirectory(state_dir, state_fd, "templates", &daemon->templates_fd, problem);
    if (r == 0)
        r = open_subdirectory(state_dir, state_fd, "guests", &daemon->guests_fd, problem);
    if (r == 0)
        r = open_subdirectory(runtime_dir, runtime_fd, "guests", &daemon->sockets_fd, problem);
    if (state_fd >= 0)
        close(state_fd);
    if (runtime_fd >= 0)
        close(runtime_fd);
    return r;
}

/* ---- the host ---- */

static void read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");

    line[0] = '\0';
    if (!file)
        return;
    if (fgets(line, (int)size, file))
        line[strcspn(line, "\n")] = '\0';
    fclose(file);
}

static void look_at_host(struct daemon *daemon)
{
    const struct passwd *user;
    struct sysinfo info;

    read_line("/proc/sys/kernel/random/boot_id", daemon->boot_id, sizeof(daemon->boot_id));
    if (sysinfo(&info) == 0)
        daemon->host_memory = (uint64_t)info.totalram * info.mem_unit;
    if (geteuid() == 0) {
        user = getpwnam(GUEST_USER);
        daemon->drop_uid = user ? user->pw_uid : NOBODY;
        daemon->drop_gid = user ? user->pw_gid : NOBODY;
    }
    engine_probe(&daemon->engine, daemon->config.host_root);
}

/* ---- life ---- */

static void on_memory_timer(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    guest_memory_flush(opaque);
}

static void on_history_timer(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    history_tick(opaque, now_usec());
}

static void on_saved_timer(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    guests_measure_saved(opaque);
    guests_cpu_again(opaque);
}

static int add_timers(struct daemon *daemon)
{
    daemon->memory_timer = event_new(daemon->base, -1, 0, on_memory_timer, daemon);
    daemon->saved_timer = event_new(daemon->base, -1, EV_PERSIST, on_saved_timer, daemon);
    daemon->history_timer = event_new(daemon->base, -1, EV_PERSIST, on_history_timer, daemon);
    if (!daemon->memory_timer || !daemon->saved_timer || !daemon->history_timer ||
        event_add(daemon->saved_timer, &(struct timeval){.tv_sec = 1}) < 0 ||
        event_add(daemon->history_timer, &(struct timeval){.tv_sec = HISTORY_SECONDS}) < 0)
        return -ENOMEM;
    return 0;
}

static void load_guest(struct guest *guest, const struct guest_record *record)
{
    guest->published = true;
    guest_process_adopt(guest, record);
}

static void load(struct daemon *daemon)
{
    struct guest *guest;
    unsigned n = 0;

    dir_clean(daemon->templates_fd);
    dir_clean(daemon->guests_fd);
    templates_load(daemon);
    guests_load(daemon, load_guest);
    guest_sockets_clean(daemon);
    TAILQ_FOREACH(guest, &daemon->guests, link)
    n += guest->phase != PHASE_IDLE;
    if (n > 0)
        log_info("finding %u running %s again", n, n == 1 ? "guest" : "guests");
}

int daemon_new(struct daemon **ret_daemon, struct event_base *base, const struct config *config,
               const char *state_dir, const char *runtime_dir, struct problem *problem)
{
    struct daemon *daemon = calloc(1, sizeof(*daemon));
    int r;

    if (!daemon)
        return problem_errno(problem, -ENOMEM, "cannot start");
    *daemon = (struct daemon){.base = base, .config = *config};
    daemon->state_lock = daemon->runtime_lock = -1;
    daemon->guests_fd = daemon->templates_fd = daemon->sockets_fd = -1;
    TAILQ_INIT(&daemon->guests);
    TAILQ_INIT(&daemon->templates);
    TAILQ_INIT(&daemon->jobs);
    LIST_INIT(&daemon->batches);
    LIST_INIT(&daemon->imports);
    LIST_INIT(&daemon->readings);
    LIST_INIT(&daemon->disk_works);
    look_at_host(daemon);
    daemon->shares = shares_new(base, config->pool_max);
    if (!daemon->shares || add_timers(daemon) < 0)
        r = problem_errno(problem, -ENOMEM, "cannot start");
    else
        r = open_directories(daemon, state_dir, runtime_dir, problem);
    if (r == 0 && !(daemon->pressure = pressure_new(daemon)))
        r = problem_errno(problem, -ENOMEM, "cannot start");
    if (r < 0) {
        daemon_free(daemon);
        return r;
    }
    daemon->max_mappings = mapcount_settle(&daemon->config);
    cpu_control_find(&daemon->cpu, daemon->config.host_root);
    features_find(&daemon->features, daemon->config.host_root, daemon->max_mappings, &daemon->cpu);
    load(daemon);
    *ret_daemon = daemon;
    return 0;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void daemon_free(struct daemon *daemon)
{
    if (!daemon)
        return;
    create_abort_all(daemon);
    import_abort_all(daemon);
    template_readings_abort_all(daemon);
    guest_disks_abort_all(daemon);
    while (!TAILQ_EMPTY(&daemon->jobs))
        job_free(TAILQ_FIRST(&daemon->jobs));
    while (!TAILQ_EMPTY(&daemon->guests))
        guest_free(TAILQ_FIRST(&daemon->guests));
    while (!TAILQ_EMPTY(&daemon->templates))
        template_free(TAILQ_FIRST(&daemon->templates));
    shares_free(daemon->shares);
    pressure_free(daemon->pressure);
    if (daemon->memory_timer)
        event_free(daemon->memory_timer);
    if (daemon->saved_timer)
        event_free(daemon->saved_timer);
    if (daemon->history_timer)
        event_free(daemon->history_timer);
    history_free(&daemon->history);
    close_fd(daemon->guests_fd);
    close_fd(daemon->templates_fd);
    close_fd(daemon->sockets_fd);
    close_fd(daemon->runtime_lock);
    close_fd(daemon->state_lock);
    free(daemon->state_dir);
    free(daemon->runtime_dir);
    free(daemon);
}

bool daemon_adopting(const struct daemon *daemon)
{
    const struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->phase == PHASE_ADOPTING)
        return true;
    return false;
}

void daemon_happened(struct daemon *daemon, const char *kind, const char *name, const char *format,
                     ...)
{
    char text[PROBLEM_TEXT_MAX];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_info("%s %s%s%s", kind, name, text[0] ? ": " : "", text);
    if (daemon->listener)
        daemon->listener->happened(daemon->listener_opaque, kind, name, text);
}

uint32_t daemon_scan_budget(const struct daemon *daemon)
{
    bool low = daemon->pressure && pressure_level(daemon->pressure) != PRESSURE_NONE;

    return low ? 0 : daemon->config.scan_budget;
}

void daemon_send_scan_budget(struct daemon *daemon)
{
    struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->phase == PHASE_UP)
        guest_send_scan_budget(guest);
}

int daemon_set_scan_budget(struct daemon *daemon, uint32_t percent, struct problem *problem)
{
    if (percent < 1 || percent > SCAN_BUDGET_MAX)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "a scan budget is 1 to %u percent of one core, not %u", SCAN_BUDGET_MAX,
                           percent);
    daemon->config.scan_budget = percent;
    daemon_send_scan_budget(daemon);
    return 0;
}
