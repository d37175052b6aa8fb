/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * guest-store: the files of a guest: STATE/guests/NAME/
 *
 *   guest.json     what it was created with, and what can be set; durable
 *   state.json     its state and process; rewritten at every change without waiting for the disk.
 *                  Losing it in a power loss costs nothing: then no guest process is left either
 *   overlay.qcow2  its root disk, over the template's
 *   disk-*.qcow2   more disks of its own
 *   console.log    what its serial console printed
 *   vmm.log        what its guest process had to say
 */
#include "cowdisk/cowdisk.h"
#include "vmmd/child.h"
#include "vmmd/fileio.h"
#include "vmmd/guest.h"
#include "vmmd/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_NAME "guest.json"
#define STATE_NAME  "state.json"
#define SECTOR      512u

/* ---- guest.json ---- */

static void uuid_to_text(const uint8_t uuid[16], char text[33])
{
    for (int i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", uuid[i]);
}

static bool uuid_from_text(const char *text, uint8_t uuid[16])
{
    if (strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32)
        return false;
    for (int i = 0; i < 16; i++) {
        const char byte[3] = {text[2 * i], text[2 * i + 1], '\0'};

        uuid[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return true;
}

json_t *guest_config_to_json(const struct guest_config *config)
{
    char uuid[33];

    uuid_to_text(config->uuid, uuid);
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:I, s:o}", "name",
        config->name, "template", config->tmpl, "share_group", config->share_group, "memory",
        (json_int_t)config->memory, "vcpus", (json_int_t)config->vcpus, "engine",
        engine_name(config->engine), "uuid", uuid, "created", (json_int_t)config->created,
        "priority", (int)config->priority, "cpu_shares", (int)config->cpu.shares, "cpu_limit",
        (int)config->cpu.limit, "cpu_reserve", (int)config->cpu.reserve, "root_size",
        (json_int_t)config->disks.root_size, "disks", guest_disks_to_json(&config->disks));
}

/* Guests of earlier versions have none: 0. */
static bool read_priority(const json_t *json, int32_t *ret)
{
    const json_t *value = json_object_get(json, "priority");
    json_int_t number = json_integer_value(value);

    if (!value)
        return true;
    if (!json_is_integer(value) || number < -GUEST_PRIORITY_MAX || number > GUEST_PRIORITY_MAX)
        return false;
    *ret = (int32_t)number;
    return true;
}

/* Likewise; the defaults. */
static bool read_cpu(const json_t *json, struct cpu_settings *ret)
{
    struct {
        const char *key;
        uint32_t *value;
    } fields[] = {
        {"cpu_shares", &ret->shares}, {"cpu_limit", &ret->limit}, {"cpu_reserve", &ret->reserve}};

    *ret = (struct cpu_settings){.shares = CPU_SHARES_DEFAULT};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        uint64_t number;

        if (!json_object_get(json, fields[i].key))
            continue;
        if (!json_read_u64(json, fields[i].key, &number) || number > UINT32_MAX)
            return false;
        *fields[i].value = (uint32_t)number;
    }
    return cpu_settings_sane(ret);
}

/* Likewise; none. */
static bool read_disks(const json_t *json, struct guest_disks *ret)
{
    const json_t *disks = json_object_get(json, "disks");

    if (json_object_get(json, "root_size") && (!json_read_u64(json, "root_size", &ret->root_size) ||
                                               ret->root_size > COW_MAX_VIRTUAL_SIZE))
        return false;
    return !disks || guest_disks_from_json(disks, ret) == 0;
}

static bool share_group_ok(const char *group)
{
    return strcmp(group, GUEST_SHARE_NONE) == 0 || name_check("share group", group, NULL) == 0;
}

int guest_config_from_json(const json_t *json, struct guest_config *ret_config)
{
    struct guest_config config = {0};
    char engine[16], uuid[33];
    uint64_t vcpus;

    if (!json_read_string(json, "name", config.name, sizeof(config.name)) ||
        !json_read_string(json, "template", config.tmpl, sizeof(config.tmpl)) ||
        !json_read_string(json, "share_group", config.share_group, sizeof(config.share_group)) ||
        !json_read_string(json, "engine", engine, sizeof(engine)) ||
        !json_read_string(json, "uuid", uuid, sizeof(uuid)) ||
        !json_read_u64(json, "memory", &config.memory) || !json_read_u64(json, "vcpus", &vcpus) ||
        !json_read_u64(json, "created", &config.created) ||
        !read_priority(json, &config.priority) || !read_cpu(json, &config.cpu) ||
        !read_disks(json, &config.disks))
        return -EINVAL;
    if (name_check("guest", config.name, NULL) < 0 ||
        name_check("template", config.tmpl, NULL) < 0 || !share_group_ok(config.share_group) ||
        engine_parse(engine, &config.engine) < 0 || !uuid_from_text(uuid, config.uuid))
        return -EINVAL;
    if (config.memory < GUEST_MEMORY_MIN || config.memory % MIB || vcpus < 1 ||
        vcpus > GUEST_VCPUS_MAX)
        return -EINVAL;
    config.vcpus = (uint32_t)vcpus;
    *ret_config = config;
    return 0;
}

/* ---- creation and removal ---- */

static int create_overlay(int dir_fd, const struct guest_config *config,
                          const struct template *tmpl, struct problem *problem)
{
    char backing[4096];
    struct cow_error err = {0};
    struct cow_create_options options = {
        .size = (tmpl->info.size + SECTOR - 1) / SECTOR * SECTOR,
        .backing_name = backing,
        .backing_format = COW_FORMAT_RAW,
    };
    struct cow_identity identity;
    int fd, r;

    r = template_identity(tmpl, &identity, problem);
    if (r < 0)
        return r;
    options.backing_identity = &identity;
    snprintf(backing, sizeof(backing), "%s/" TEMPLATE_DISK, tmpl->path);
    fd = openat(dir_fd, GUEST_OVERLAY, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return problem_errno(problem, -errno, "guest %s: cannot make its overlay", config->name);
    r = cow_create(fd, &options, &err);
    close(fd);
    if (r < 0)
        return problem_errno(problem, r, "guest %s: cannot make %s/guests/%s/" GUEST_OVERLAY "%s%s",
                             config->name, tmpl->daemon->state_dir, config->name,
                             err.text[0] ? ": " : "", err.text);
    return 0;
}

static int create_config(int dir_fd, const struct daemon *daemon, const struct guest_config *config,
                         struct problem *problem)
{
    json_t *json = guest_config_to_json(config);
    int r = json ? json_save(dir_fd, CONFIG_NAME, json, true) : -ENOMEM;

    json_decref(json);
    if (r < 0)
        return problem_errno(problem, r, "guest %s: cannot write %s/guests/%s/" CONFIG_NAME,
                             config->name, daemon->state_dir, config->name);
    return 0;
}

int guest_store_create(struct daemon *daemon, const struct guest_config *config,
                       const struct template *tmpl, char *ret_temp, struct problem *problem)
{
    char temp[FILEIO_NAME_MAX];
    int dir_fd = dir_make_temp(daemon->guests_fd, temp);
    int r;

    if (dir_fd < 0)
        return problem_errno(problem, dir_fd, "guest %s: cannot make a directory in %s/guests",
                             config->name, daemon->state_dir);
    r = create_overlay(dir_fd, config, tmpl, problem);
    if (r == 0)
        r = create_config(dir_fd, daemon, config, problem);
    close(dir_fd);
    if (r < 0) {
        dir_remove(daemon->guests_fd, temp);
        return r;
    }
    memcpy(ret_temp, temp, sizeof(temp));
    return 0;
}

int guest_store_config(const struct guest *guest, struct problem *problem)
{
    int dir_fd = openat(guest->daemon->guests_fd, guest->config.name,
                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r;

    if (dir_fd < 0)
        return problem_errno(problem, -errno, "guest %s: cannot open %s/guests/%s",
                             guest->config.name, guest->daemon->state_dir, guest->config.name);
    r = create_config(dir_fd, guest->daemon, &guest->config, problem);
    close(dir_fd);
    return r;
}

int guest_store_remove(struct daemon *daemon, const char *name, struct problem *problem)
{
    int r = dir_discard(daemon->guests_fd, name);

    if (r < 0)
        return problem_errno(problem, r, "guest %s: cannot remove %s/guests/%s", name,
                             daemon->state_dir, name);
    return 0;
}

int guest_store_open_template(const struct guest *guest, const struct template **ret_tmpl,
                              struct template_fds *ret_fds, struct problem *problem)
{
    const struct template *tmpl = template_find(guest->daemon, guest->config.tmpl);
    int r;

    if (!tmpl)
        return problem_set(problem, PROBLEM_NOT_FOUND, "guest %s: its template %s does not exist",
                           guest->config.name, guest->config.tmpl);
    r = template_open(tmpl, ret_fds, problem);
    if (r == 0 && ret_tmpl)
        *ret_tmpl = tmpl;
    return r;
}

int guest_store_open(const struct guest *guest, const char *file, int flags,
                     struct problem *problem)
{
    char path[2 * NAME_LENGTH_MAX];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", guest->config.name, file);
    fd = openat(guest->daemon->guests_fd, path, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return problem_errno(problem, -errno, "guest %s: cannot open %s/guests/%s",
                             guest->config.name, guest->daemon->state_dir, path);
    return fd;
}

/* ---- state.json ---- */

static int write_record(const struct guest *guest, int dir_fd)
{
    uint64_t ticks = guest->process ? child_start_ticks(guest->process) : 0;
    int32_t pid = guest->process ? child_pid(guest->process) : 0;
    json_t *json =
        json_pack("{s:s, s:s%, s:I, s:I, s:I, s:s, s:b}", "state", guest_state_name(guest->state),
                  "reason", guest->reason, strlen(guest->reason), "pid", (json_int_t)pid,
                  "start_ticks", (json_int_t)ticks, "started", (json_int_t)guest->started,
                  "boot_id", guest->daemon->boot_id, "held", (int)guest->held);
    int r = json ? json_save(dir_fd, STATE_NAME, json, false) : -EINVAL;

    json_decref(json);
    return r;
}

int guest_store_record(const struct guest *guest)
{
    int dir_fd = openat(guest->daemon->guests_fd, guest->config.name,
                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r = dir_fd < 0 ? -errno : write_record(guest, dir_fd);

    if (dir_fd >= 0)
        close(dir_fd);
    if (r < 0)
        log_warning("guest %s: cannot write %s/guests/%s/" STATE_NAME ": %s", guest->config.name,
                    guest->daemon->state_dir, guest->config.name, strerror(-r));
    return r;
}

static bool parse_state(const json_t *json, enum guest_state *ret_state)
{
    char text[16];

    if (!json_read_string(json, "state", text, sizeof(text)))
        return false;
    for (int i = GUEST_CREATED; i <= GUEST_FAILED; i++) {
        if (strcmp(text, guest_state_name((enum guest_state)i)) == 0) {
            *ret_state = (enum guest_state)i;
            return true;
        }
    }
    return false;
}

/* A missing or damaged record is no reason to lose a guest: it reads as "created, no process". */
static void read_record(struct daemon *daemon, const char *name, struct guest_record *record)
{
    char path[NAME_LENGTH_MAX + sizeof("/" STATE_NAME)];
    struct guest_record found = {0};
    uint64_t pid;
    json_t *json;

    *record = (struct guest_record){.state = GUEST_CREATED};
    snprintf(path, sizeof(path), "%s/" STATE_NAME, name);
    if (json_load(daemon->guests_fd, path, &json) < 0)
        return;
    if (parse_state(json, &found.state) && json_read_u64(json, "pid", &pid) && pid <= INT32_MAX &&
        json_read_string(json, "reason", found.reason, sizeof(found.reason)) &&
        json_read_u64(json, "start_ticks", &found.start_ticks) &&
        json_read_u64(json, "started", &found.started) &&
        json_read_string(json, "boot_id", found.boot_id, sizeof(found.boot_id))) {
        found.pid = (int32_t)pid;
        found.held = json_is_true(json_object_get(json, "held"));
        *record = found;
    }
    json_decref(json);
}

/* ---- loading ---- */

static int load_config(struct daemon *daemon, const char *name, struct guest_config *config)
{
    char path[NAME_LENGTH_MAX + sizeof("/" CONFIG_NAME)];
    json_t *json;
    int r;

    snprintf(path, sizeof(path), "%s/" CONFIG_NAME, name);
    r = json_load(daemon->guests_fd, path, &json);
    if (r < 0)
        return r;
    r = guest_config_from_json(json, config);
    json_decref(json);
    if (r == 0 && strcmp(config->name, name) != 0)
        r = -EINVAL;
    return r;
}

struct loading {
    struct daemon *daemon;
    void (*each)(struct guest *guest, const struct guest_record *record);
};

static void load_one(void *opaque, const char *name)
{
    struct loading *loading = opaque;
    struct daemon *daemon = loading->daemon;
    struct guest_config config;
    struct guest_record record;
    struct problem problem;
    struct guest *guest;
    int r;

    if (name_check("guest", name, &problem) < 0) {
        log_warning("ignoring %s/guests/%s: %s", daemon->state_dir, name, problem.text);
        return;
    }
    r = load_config(daemon, name, &config);
    if (r < 0) {
        log_warning("ignoring guest %s: cannot read its " CONFIG_NAME ": %s", name, strerror(-r));
        return;
    }
    guest = guest_new(daemon, &config);
    if (!guest) {
        log_warning("ignoring guest %s: out of memory", name);
        return;
    }
    read_record(daemon, name, &record);
    loading->each(guest, &record);
}

void guests_load(struct daemon *daemon,
                 void (*each)(struct guest *guest, const struct guest_record *record))
{
    struct loading loading = {daemon, each};
    int r = dir_each(daemon->guests_fd, load_one, &loading);

    if (r < 0)
        log_warning("cannot list %s/guests: %s", daemon->state_dir, strerror(-r));
}
