/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config: reading vmmd.conf.
 *
 * A table of keys; an unknown key or a value out of range stops the daemon with the line number,
 * because a daemon that runs with settings other than written is worse than none.
 */
#include "vmmd/config.h"
#include "vmmd/name.h"

#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>

void config_init(struct config *config)
{
    *config = (struct config){
        .scan_budget = 10,
        .default_memory = 256 * MIB,
        .default_engine = ENGINE_AUTO,
        .max_guests = MAX_GUESTS_LIMIT,
        .start_timeout = 30,
    };
}

static int parse_number(const char *value, unsigned min, unsigned max, unsigned *ret)
{
    uint64_t number;

    if (size_parse(value, &number) < 0 || number < min || number > max)
        return -EINVAL;
    *ret = (unsigned)number;
    return 0;
}

static int set_scan_budget(struct config *config, const char *value)
{
    return parse_number(value, 1, SCAN_BUDGET_MAX, &config->scan_budget);
}

static int set_pool_max(struct config *config, const char *value)
{
    return size_parse(value, &config->pool_max);
}

static int set_default_memory(struct config *config, const char *value)
{
    uint64_t bytes;

    if (size_parse(value, &bytes) < 0 || bytes < GUEST_MEMORY_MIN || bytes % MIB)
        return -EINVAL;
    config->default_memory = bytes;
    return 0;
}

static int set_default_engine(struct config *config, const char *value)
{
    return engine_parse(value, &config->default_engine);
}

static int set_max_guests(struct config *config, const char *value)
{
    return parse_number(value, 1, MAX_GUESTS_LIMIT, &config->max_guests);
}

static int set_start_timeout(struct config *config, const char *value)
{
    return parse_number(value, 1, START_TIMEOUT_LIMIT, &config->start_timeout);
}

static const struct {
    const char *section, *key;
    int (*set)(struct config *config, const char *value);
    const char *expected;
} keys[] = {
    {"sharing", "scan_budget", set_scan_budget, "a percentage from 1 to 100"},
    {"sharing", "pool_max", set_pool_max, "a size such as 8G, or 0"},
    {"guests", "default_memory", set_default_memory, "whole MiB, at least 32M"},
    {"guests", "default_engine", set_default_engine, "auto, soft or kvm"},
    {"guests", "max_guests", set_max_guests, "a number from 1 to 4096"},
    {"guests", "start_timeout", set_start_timeout, "seconds from 1 to 3600"},
};

struct reading {
    struct config config;
    char text[256]; /* the first thing that is wrong */
};

static int on_entry(void *opaque, const char *section, const char *key, const char *value)
{
    struct reading *reading = opaque;

    if (reading->text[0])
        return 0; /* the first failure is the one to report */
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (strcmp(keys[i].section, section) != 0 || strcmp(keys[i].key, key) != 0)
            continue;
        if (keys[i].set(&reading->config, value) == 0)
            return 1;
        snprintf(reading->text, sizeof(reading->text), "%s = %.60s: expected %s", key, value,
                 keys[i].expected);
        return 0;
    }
    snprintf(reading->text, sizeof(reading->text), "unknown setting [%.40s] %.60s", section, key);
    return 0;
}

int config_load(struct config *config, const char *path, bool required, struct problem *problem)
{
    struct reading reading = {0};
    FILE *file;
    int line;

    file = fopen(path, "re");
    if (!file && errno == ENOENT && !required) {
        config_init(config);
        return 0;
    }
    if (!file)
        return problem_errno(problem, -errno, "cannot read %s", path);
    config_init(&reading.config);
    line = ini_parse_file(file, on_entry, &reading);
    fclose(file);
    if (line != 0)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT, "%s:%d: %s", path, line,
                           reading.text[0] ? reading.text : "not a setting");
    *config = reading.config;
    return 0;
}
