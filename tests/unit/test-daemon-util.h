/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the tests of the daemon share: a temporary directory, a daemon in this process whose guest
 * and import processes are this very program under other names, and a private message bus.
 */
#ifndef TEST_DAEMON_UTIL_H
#define TEST_DAEMON_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmmd/child.h"
#include "vmmd/create.h"
#include "vmmd/daemon.h"
#include "vmmd/fileio.h"
#include "vmmd/guest.h"
#include "vmmd/import.h"
#include "vmmd/log.h"
#include "vmmd/template.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAKE_GUEST_MAIN  fake_guest_main
#define FAKE_IMPORT_MAIN fake_import_main
#include "tests/unit/fake-guest.c"
#include "tests/unit/fake-guest-import.c"

#define TEST_LIMIT_SECS 60 /* no wait of a test is longer: then it fails */

struct world {
    char dir[64];
    struct event_base *base;
    struct config config;
    struct daemon *daemon;
    struct daemon_listener listener;
    unsigned events[32]; /* calls of the listener, by whatever the test counts */
    char last_event[1024];
};

/* To be called first in main(): runs the fakes when this program was started as one of them. */
static inline void be_a_fake_if_asked(int argc, char **argv)
{
    const char *name = strrchr(argv[0], '/');

    if (name && strcmp(name, "/vmmd-guest") == 0)
        _exit(fake_guest_main());
    if (name && strcmp(name, "/vmmd-import") == 0)
        _exit(fake_import_main(argc, argv));
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void make_link(const struct world *world, const char *name)
{
    char self[4096], path[4200];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    assert_true(n > 0);
    self[n] = '\0';
    snprintf(path, sizeof(path), "%s/%s", world->dir, name);
    assert_int_equal(symlink(self, path), 0);
}

static inline void world_open_daemon(struct world *world)
{
    char state[128], runtime[128];
    struct problem problem = {0};
    int r;

    snprintf(state, sizeof(state), "%s/state", world->dir);
    snprintf(runtime, sizeof(runtime), "%s/run", world->dir);
    r = daemon_new(&world->daemon, world->base, &world->config, state, runtime, &problem);
    if (r < 0)
        fail_msg("daemon_new: %s", problem.text);
}

/* Writes a file of the host that the daemon sees; its folders are made. */
static inline void world_host_file(const struct world *world, const char *path, const char *text)
{
    char full[512];
    FILE *file;

    snprintf(full, sizeof(full), "%s%s", world->config.host_root, path);
    for (char *slash = strchr(full + strlen(world->dir) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* The memory of the host that the daemon sees, in MiB. */
static inline void world_set_memory(const struct world *world, unsigned total, unsigned available)
{
    char text[128];

    snprintf(text, sizeof(text), "MemTotal: %u kB\nMemFree: 1 kB\nMemAvailable: %u kB\n",
             total * 1024, available * 1024);
    world_host_file(world, "/proc/meminfo", text);
}

static inline int world_setup(void **state)
{
    struct world *world = calloc(1, sizeof(*world));

    assert_non_null(world);
    log_set_level(getenv("TEST_LOG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
    snprintf(world->dir, sizeof(world->dir), "/tmp/test-daemon.XXXXXX");
    assert_non_null(mkdtemp(world->dir));
    make_link(world, "vmmd-guest");
    make_link(world, "vmmd-import");
    setenv("VMMD_LIBEXEC", world->dir, 1);
    world->base = event_base_new();
    config_init(&world->config);
    snprintf(world->config.host_root, sizeof(world->config.host_root), "%s/host", world->dir);
    world_set_memory(world, 8192, 8000);
    world_open_daemon(world);
    *state = world;
    return 0;
}

static inline void kill_guests(struct daemon *daemon)
{
    struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (guest->process)
        child_kill(guest->process);
}

static inline int world_teardown(void **state)
{
    struct world *world = *state;

    if (world->daemon)
        kill_guests(world->daemon);
    daemon_free(world->daemon);
    event_base_free(world->base);
    nftw(world->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(world);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
    return 0;
}

static inline void on_limit(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    *(bool *)opaque = true;
}

/* Runs the loop until *flag, or fails. */
static inline void run_until(struct world *world, const bool *flag)
{
    struct timeval limit = {.tv_sec = TEST_LIMIT_SECS};
    bool late = false;
    struct event *timer = event_new(world->base, -1, 0, on_limit, &late);

    event_add(timer, &limit);
    while (!*flag && !late)
        event_base_loop(world->base, EVLOOP_ONCE);
    event_free(timer);
    assert_false(late);
}

/* Runs the loop until `check(world, opaque)`, looking after every turn. */
static inline void run_while_not(struct world *world, bool (*check)(void *opaque), void *opaque)
{
    struct timeval limit = {.tv_sec = TEST_LIMIT_SECS};
    bool late = false;
    struct event *timer = event_new(world->base, -1, 0, on_limit, &late);

    event_add(timer, &limit);
    while (!check(opaque) && !late)
        event_base_loop(world->base, EVLOOP_ONCE);
    event_free(timer);
    assert_false(late);
}

struct outcome {
    bool done, ok;
    struct problem problem;
};

static inline void on_outcome(void *opaque, const struct problem *problem)
{
    struct outcome *outcome = opaque;

    outcome->done = true;
    outcome->ok = !problem;
    if (problem)
        outcome->problem = *problem;
}

static inline void on_outcome_created(void *opaque, struct guest *const *guests, unsigned n,
                                      const struct problem *problem)
{
    (void)guests;
    (void)n;
    on_outcome(opaque, problem);
}

/* An image file that begins with `word`. */
static inline int make_image(const struct world *world, const char *word, size_t size)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/image", world->dir);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, word, strlen(word), 0), (ssize_t)strlen(word));
    return fd;
}

static inline bool job_ended(void *opaque)
{
    return ((struct job *)opaque)->state != JOB_RUNNING;
}

static inline struct job *import_image(struct world *world, const char *name, const char *word)
{
    int fd = make_image(world, word, 100000);
    struct import_request request;
    struct problem problem = {0};
    struct job *job = NULL;
    int r;

    import_request_init(&request);
    request.name = name;
    request.disk = fd;
    r = import_start(world->daemon, &request, &job, &problem);
    close(fd);
    if (r < 0)
        fail_msg("import_start: %s", problem.text);
    return job;
}

static inline void import_template(struct world *world, const char *name)
{
    struct job *job = import_image(world, name, "good");

    run_while_not(world, job_ended, job);
    if (job->state != JOB_DONE)
        fail_msg("import: %s", job->error);
}

static inline struct guest *create_guest(struct world *world, const char *tmpl, const char *name)
{
    struct create_request request = {
        .tmpl = tmpl, .name = name, .has_memory = true, .memory = 64 * MIB};
    struct outcome outcome = {0};

    if (create_guests(world->daemon, &request, on_outcome_created, &outcome, &outcome.problem) < 0)
        fail_msg("create: %s", outcome.problem.text);
    run_until(world, &outcome.done);
    if (!outcome.ok)
        fail_msg("create: %s", outcome.problem.text);
    return guest_find(world->daemon, name);
}

static inline void start_guest(struct world *world, struct guest *guest)
{
    struct outcome outcome = {0};

    if (guest_start(guest, on_outcome, &outcome, &outcome.problem) < 0)
        fail_msg("start: %s", outcome.problem.text);
    run_until(world, &outcome.done);
    if (!outcome.ok)
        fail_msg("start: %s", outcome.problem.text);
}

/* Is there such a file in the state directory? */
static inline bool exists(const struct world *world, const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/state/%s", world->dir, name);
    return access(path, F_OK) == 0;
}

static inline bool none_adopting(void *opaque)
{
    return !daemon_adopting(opaque);
}

/* vmmd ends and starts again, and finds its guests. */
static inline void reopen_daemon(struct world *world)
{
    daemon_free(world->daemon);
    world->daemon = NULL;
    world_open_daemon(world);
    run_while_not(world, none_adopting, world->daemon);
}

#endif
