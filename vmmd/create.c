/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * create: making guests from a template, all or none.
 *
 * Each overlay is synced to the disk, and a thousand of them take seconds: so a batch makes one
 * guest a turn of the loop, under temporary names, and renames them all at the end. The guest
 * objects exist from the beginning, unpublished: they keep their names and their template taken.
 */
#include "vmmd/create.h"
#include "vmmd/fileio.h"

#include <errno.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

struct batch {
    LIST_ENTRY(batch) link;
    struct daemon *daemon;
    struct event *event;
    create_done_fn done;
    void *opaque;
    unsigned n;                     /* guests wanted */
    unsigned made;                  /* of them, under temporary names */
    struct guest **guests;          /* [n] */
    char (*temps)[FILEIO_NAME_MAX]; /* [n] */
};

/* ---- checks ---- */

static bool name_taken(const struct daemon *daemon, const char *name)
{
    const struct guest *guest;

    TAILQ_FOREACH(guest, &daemon->guests, link)
    if (strcmp(guest->config.name, name) == 0)
        return true;
    return false;
}

static int check_count(const struct daemon *daemon, const struct create_request *request,
                       struct problem *problem)
{
    uint32_t count = request->has_count ? request->count : 1;

    if (count == 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "a count of 0 guests");
    if (count > daemon->config.max_guests || daemon->n_guests + count > daemon->config.max_guests)
        return problem_set(problem, PROBLEM_LIMIT_EXCEEDED,
                           "%u more guests: there are %u and may be %u", count, daemon->n_guests,
                           daemon->config.max_guests);
    return 0;
}

/* Everything of the request but the name; `ret_config` is what the guests have in common. */
static int check(const struct daemon *daemon, const struct create_request *request,
                 struct guest_config *ret_config, struct problem *problem)
{
    const char *group = request->share_group ? request->share_group : request->tmpl;
    int r;

    *ret_config = (struct guest_config){
        .memory = request->has_memory ? request->memory : daemon->config.default_memory,
        .vcpus = request->has_vcpus ? request->vcpus : 1,
        .engine = request->has_engine ? request->engine : daemon->config.default_engine,
        .created = now_usec(),
        .priority = request->has_priority ? request->priority : 0,
        .cpu = request->cpu,
    };
    if (!request->has_cpu_shares)
        ret_config->cpu.shares = CPU_SHARES_DEFAULT;
    r = name_check("guest", request->name, problem);
    if (r == 0 && strcmp(group, GUEST_SHARE_NONE) != 0)
        r = name_check("share group", group, problem);
    if (r == 0)
        r = guest_check_memory(daemon, ret_config->memory, problem);
    if (r == 0)
        r = guest_check_vcpus(daemon, ret_config->engine, ret_config->vcpus, problem);
    if (r == 0)
        r = guest_check_priority(ret_config->priority, problem);
    if (r == 0)
        r = cpu_check(&daemon->cpu, &ret_config->cpu, ret_config->vcpus, problem);
    if (r == 0)
        r = check_count(daemon, request, problem);
    if (r < 0)
        return r;
    snprintf(ret_config->tmpl, sizeof(ret_config->tmpl), "%s", request->tmpl);
    snprintf(ret_config->share_group, sizeof(ret_config->share_group), "%s", group);
    return 0;
}

/* ---- the batch ---- */

static void batch_free(struct batch *batch)
{
    LIST_REMOVE(batch, link);
    if (batch->event)
        event_free(batch->event);
    free(batch->guests);
    free(batch->temps);
    free(batch);
}

/* Takes back everything: the objects, the files made so far. */
static void fail(struct batch *batch, const struct problem *problem)
{
    create_done_fn done = batch->done;
    void *opaque = batch->opaque;

    for (unsigned i = 0; i < batch->made; i++)
        dir_remove(batch->daemon->guests_fd, batch->temps[i]);
    for (unsigned i = 0; i < batch->n; i++)
        if (batch->guests[i])
            guest_free(batch->guests[i]);
    batch_free(batch);
    done(opaque, NULL, 0, problem);
}

static int publish_files(struct batch *batch, struct problem *problem)
{
    int dir_fd = batch->daemon->guests_fd;
    unsigned n;
    int r = 0;

    for (n = 0; n < batch->n && r == 0; n++)
        r = dir_publish(dir_fd, batch->temps[n], batch->guests[n]->config.name);
    if (r == 0)
        r = dir_sync(dir_fd);
    if (r == 0)
        return 0;
    problem_errno(problem, r, "guest %s: cannot make %s/guests/%s",
                  batch->guests[n - 1]->config.name, batch->daemon->state_dir,
                  batch->guests[n - 1]->config.name);
    while (n-- > 0)
        if (dir_publish(dir_fd, batch->guests[n]->config.name, batch->temps[n]) < 0)
            continue; /* the one that failed was never renamed */
    return r;
}

static void succeed(struct batch *batch)
{
    for (unsigned i = 0; i < batch->n; i++)
        guest_publish(batch->guests[i]);
    batch->done(batch->opaque, batch->guests, batch->n, NULL);
    batch_free(batch);
}

static void on_turn(evutil_socket_t fd, short what, void *opaque)
{
    struct batch *batch = opaque;
    struct guest *guest = batch->guests[batch->made];
    const struct template *tmpl = template_find(batch->daemon, guest->config.tmpl);
    struct problem problem;

    (void)fd;
    (void)what;
    if (guest_store_create(batch->daemon, &guest->config, tmpl, batch->temps[batch->made],
                           &problem) < 0) {
        fail(batch, &problem);
        return;
    }
    batch->made++;
    if (batch->made < batch->n)
        event_add(batch->event, &(struct timeval){0});
    else if (publish_files(batch, &problem) < 0)
        fail(batch, &problem);
    else
        succeed(batch);
}

static struct batch *batch_new(struct daemon *daemon, unsigned n)
{
    struct batch *batch = calloc(1, sizeof(*batch));

    if (!batch)
        return NULL;
    batch->daemon = daemon;
    batch->n = n;
    LIST_INSERT_HEAD(&daemon->batches, batch, link);
    batch->event = event_new(daemon->base, -1, 0, on_turn, batch);
    batch->guests = calloc(n, sizeof(*batch->guests));
    batch->temps = calloc(n, sizeof(*batch->temps));
    if (!batch->event || !batch->guests || !batch->temps) {
        batch_free(batch);
        return NULL;
    }
    return batch;
}

/* Makes the object of guest number i (from 0). */
static int add_guest(struct batch *batch, const struct create_request *request,
                     struct guest_config *config, unsigned i, struct problem *problem)
{
    char name[2 * NAME_LENGTH_MAX];
    int r;

    if (request->has_count)
        snprintf(name, sizeof(name), "%.64s-%u", request->name, i + 1);
    else
        snprintf(name, sizeof(name), "%.64s", request->name);
    r = name_check("guest", name, problem);
    if (r < 0)
        return r;
    if (name_taken(batch->daemon, name))
        return problem_set(problem, PROBLEM_EXISTS, "guest %s exists already", name);
    memcpy(config->name, name, strlen(name) + 1);
    if (getrandom(config->uuid, sizeof(config->uuid), 0) != sizeof(config->uuid))
        return problem_errno(problem, -errno, "cannot make a UUID");
    config->uuid[6] = (uint8_t)((config->uuid[6] & 0x0f) | 0x40); /* version 4, RFC 4122 */
    config->uuid[8] = (uint8_t)((config->uuid[8] & 0x3f) | 0x80);
    batch->guests[i] = guest_new(batch->daemon, config);
    return batch->guests[i] ? 0 : problem_errno(problem, -ENOMEM, "guest %s", name);
}

static void forget(void *opaque, struct guest *const *guests, unsigned n,
                   const struct problem *problem)
{
    (void)opaque;
    (void)guests;
    (void)n;
    (void)problem;
}

int create_guests(struct daemon *daemon, const struct create_request *request, create_done_fn done,
                  void *opaque, struct problem *problem)
{
    struct guest_config config;
    struct batch *batch;
    int r = 0;

    if (!template_find(daemon, request->tmpl))
        return problem_set(problem, PROBLEM_NOT_FOUND, "template \"%.64s\" does not exist",
                           request->tmpl);
    r = check(daemon, request, &config, problem);
    if (r < 0)
        return r;
    batch = batch_new(daemon, request->has_count ? request->count : 1);
    if (!batch)
        return problem_errno(problem, -ENOMEM, "cannot create guests");
    batch->done = forget; /* until it is certain that we return 0 */
    for (unsigned i = 0; i < batch->n && r == 0; i++)
        r = add_guest(batch, request, &config, i, problem);
    if (r < 0) {
        fail(batch, problem);
        return r;
    }
    batch->done = done;
    batch->opaque = opaque;
    event_add(batch->event, &(struct timeval){0});
    return 0;
}

void create_abort_all(struct daemon *daemon)
{
    struct problem problem;

    problem_set(&problem, PROBLEM_BUSY, "vmmd is ending");
    while (!LIST_EMPTY(&daemon->batches))
        fail(LIST_FIRST(&daemon->batches), &problem);
}
