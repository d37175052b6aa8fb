/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Daemon side: pools, and guest processes coming and going. Messages are served in serve.c.
 *
 * One thread, never blocks. A slot is freed only when no client holds a
 * reference. A client that is detached while its guest process lives becomes an orphan: nothing is
 * read from it any more, but its references stay until the process closes its end of the socket.
 */
#include "memshare/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int ms_pool_new(struct ms_pool **ret_pool, const char *group, uint64_t max_bytes,
                enum ms_timing timing)
{
    struct ms_pool *pool = calloc(1, sizeof(*pool));
    int r;

    if (!pool)
        return -ENOMEM;
    pool->timing = timing;
    r = ms_store_init(&pool->store, group, max_bytes, timing == MS_TIMING_HIDE);
    if (r < 0) {
        free(pool);
        return r;
    }
    r = ms_index_init(&pool->index);
    if (r < 0) {
        ms_store_free(&pool->store);
        free(pool);
        return r;
    }
    *ret_pool = pool;
    return 0;
}

int ms_pool_guest_fd(struct ms_pool *pool)
{
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", pool->store.fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static struct ms_template_refs *template_get(struct ms_pool *pool, const char *key)
{
    struct ms_template_refs *tmpl;

    for (tmpl = pool->templates; tmpl; tmpl = tmpl->next) {
        if (strcmp(tmpl->key, key) == 0) {
            tmpl->clients++;
            return tmpl;
        }
    }
    tmpl = calloc(1, sizeof(*tmpl));
    if (!tmpl)
        return NULL;
    tmpl->key = strdup(key);
    if (!tmpl->key) {
        free(tmpl);
        return NULL;
    }
    tmpl->clients = 1;
    tmpl->next = pool->templates;
    pool->templates = tmpl;
    return tmpl;
}

static void template_put(struct ms_pool *pool, struct ms_template_refs *tmpl)
{
    struct ms_template_refs **link = &pool->templates;

    if (--tmpl->clients)
        return;
    while (*link != tmpl)
        link = &(*link)->next;
    *link = tmpl->next;
    ms_refs_free(&tmpl->refs);
    free(tmpl->key);
    free(tmpl);
}

/* A free place in the table of clients, or -errno. */
static int64_t client_id(struct ms_pool *pool)
{
    struct ms_client **grown;
    uint32_t id;

    for (id = 0; id < pool->n_ids; id++)
        if (!pool->client[id])
            return id;
    if (pool->n_ids >= MS_MAX_CLIENTS)
        return -EMFILE;
    grown = realloc(pool->client, (pool->n_ids + 16) * sizeof(struct ms_client *));
    if (!grown)
        return -ENOMEM;
    memset(grown + pool->n_ids, 0, 16 * sizeof(*grown));
    pool->client = grown;
    pool->n_ids += 16;
    return id;
}

static int set_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

int ms_pool_attach(struct ms_pool *pool, int sock, const char *template_key,
                   uint64_t template_blocks, struct ms_client **ret_client)
{
    struct ms_client *client;
    int64_t id;
    int r = set_nonblock(sock);

    if (r < 0)
        return r;
    id = client_id(pool);
    if (id < 0)
        return (int)id;
    client = calloc(1, sizeof(*client));
    if (!client)
        return -ENOMEM;
    if (template_key && *template_key) {
        client->tmpl = template_get(pool, template_key);
        if (!client->tmpl) {
            free(client);
            return -ENOMEM;
        }
        client->template_blocks = template_blocks < MS_MAX_INDEX ? template_blocks : MS_MAX_INDEX;
    }
    client->pool = pool;
    client->sock = sock;
    client->id = (uint16_t)id;
    pool->client[id] = client;
    pool->n_clients++;
    *ret_client = client;
    return 0;
}

int ms_client_fd(const struct ms_client *client)
{
    return client->sock;
}

void ms_client_expect_ram(struct ms_client *client, uint64_t ram_bytes)
{
    client->expected_pages = ram_bytes / MS_PAGE_SIZE;
}

const char *ms_client_error(const struct ms_client *client)
{
    return client->error;
}

bool ms_client_count_slot(struct ms_client *client, uint32_t slot)
{
    if (ms_refs_add(&client->slots, slot) < 0)
        return false;
    client->pool->mapped_pages++;
    return true;
}

bool ms_client_ref_slot(struct ms_client *client, uint32_t slot)
{
    struct ms_store *store = &client->pool->store;

    if (ms_store_refs(store, slot) == MS_MAX_REFS || !ms_client_count_slot(client, slot))
        return false;
    store->refs[slot]++;
    return true;
}

void ms_client_unref_slot(struct ms_client *client, uint32_t slot)
{
    struct ms_pool *pool = client->pool;

    ms_refs_sub(&client->slots, slot);
    pool->mapped_pages--;
    if (ms_store_unref(&pool->store, slot) == 0)
        ms_fan_slot_freed(pool, slot);
}

static void drop_all(struct ms_client *client)
{
    for (uint32_t slot = 0; client->slots.total; slot++)
        while (ms_refs_get(&client->slots, slot))
            ms_client_unref_slot(client, slot);
    ms_store_punch(&client->pool->store);
    for (uint32_t block = 0; client->tmpl && client->blocks.total; block++) {
        while (ms_refs_get(&client->blocks, block)) {
            ms_refs_sub(&client->blocks, block);
            ms_refs_sub(&client->tmpl->refs, block);
        }
    }
}

void ms_pool_count_ram(struct ms_pool *pool, int64_t ram_pages)
{
    long host_pages = sysconf(_SC_PHYS_PAGES);
    uint64_t pages;

    pool->ram_pages += (uint64_t)ram_pages;
    pages = pool->ram_pages;
    if (host_pages > 0 && pages > (uint64_t)host_pages)
        pages = (uint64_t)host_pages; /* whatever they say */
    pages += (uint64_t)pool->n_clients * MS_REF_SLACK;
    pool->index.max_size = 4 * pages; /* offers and slots, at a load of at most 3/4 */
}

/* Frees the client's memory, not what it holds. */
static void client_free(struct ms_client *client)
{
    if (client->tmpl)
        template_put(client->pool, client->tmpl);
    ms_refs_free(&client->slots);
    ms_refs_free(&client->blocks);
    close(client->sock);
    free(client->look);
    free(client);
}

/* The guest process ended, or closed its socket because it maps nothing any more. */
static bool has_hung_up(const struct ms_client *client)
{
    struct pollfd fd = {.fd = client->sock};

    return poll(&fd, 1, 0) == 1 && (fd.revents & POLLHUP);
}

void ms_pool_reap(struct ms_pool *pool)
{
    struct ms_client **link = &pool->orphans;

    while (*link) {
        struct ms_client *client = *link;

        if (!has_hung_up(client)) {
            link = &client->next_orphan;
            continue;
        }
        *link = client->next_orphan;
        drop_all(client);
        client_free(client);
    }
}

void ms_client_detach(struct ms_client *client)
{
    struct ms_pool *pool = client->pool;

    if (client->hello)
        ms_pool_count_ram(pool, -(int64_t)client->ram_pages);
    ms_index_forget_client(&pool->index, client->id);
    pool->client[client->id] = NULL;
    pool->n_clients--;
    (void)shutdown(client->sock, SHUT_WR); /* it learns that nobody answers; its end stays open */
    client->next_orphan = pool->orphans;
    pool->orphans = client;
    ms_pool_reap(pool);
}

static void free_orphans(struct ms_pool *pool)
{
    while (pool->orphans) {
        struct ms_client *client = pool->orphans;

        pool->orphans = client->next_orphan;
        client_free(client);
    }
}

void ms_pool_free(struct ms_pool *pool)
{
    if (!pool)
        return;
    /* Nothing is punched out: guest processes that live on still map the store. */
    for (uint32_t id = 0; id < pool->n_ids; id++)
        if (pool->client[id])
            client_free(pool->client[id]);
    free_orphans(pool);
    ms_store_free(&pool->store);
    ms_index_free(&pool->index);
    free(pool->client);
    free(pool);
}

static uint32_t slot_refs(const void *context, uint32_t slot)
{
    const struct ms_store *store = context;

    return ms_store_refs(store, slot);
}

static uint32_t block_refs(const void *context, uint32_t block)
{
    return ms_refs_get(context, block);
}

uint64_t ms_client_saved(const struct ms_client *client)
{
    uint64_t saved = ms_refs_saved(&client->slots, slot_refs, &client->pool->store);

    if (client->tmpl)
        saved += ms_refs_saved(&client->blocks, block_refs, &client->tmpl->refs);
    return saved;
}

void ms_pool_get_stats(const struct ms_pool *pool, struct ms_pool_stats *ret_stats)
{
    uint64_t bytes = ms_index_bytes(&pool->index) + ms_store_table_bytes(&pool->store);

    for (uint32_t id = 0; id < pool->n_ids; id++)
        if (pool->client[id])
            bytes += sizeof(struct ms_client) + pool->client[id]->slots.bytes +
                     pool->client[id]->blocks.bytes +
                     pool->client[id]->look_size * sizeof(struct ms_look);
    for (const struct ms_template_refs *tmpl = pool->templates; tmpl; tmpl = tmpl->next)
        bytes += sizeof(*tmpl) + tmpl->refs.bytes;
    *ret_stats = (struct ms_pool_stats){
        .slots = pool->store.used,
        .store_bytes = (uint64_t)pool->store.used * MS_PAGE_SIZE,
        .index_bytes = bytes,
        .mapped_pages = pool->mapped_pages,
        .clients = pool->n_clients,
    };
}
