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
        .pressure = {.low = {.percent = 10},
                     .critical = {.percent = 5},
                     .storm_reserve = 25,
                     .pause_guests = true,
                     .pause_interval = 5000},
        .raise_max_map_count = RAISE_AUTO,
        .timing = MS_TIMING_PLAIN,
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

static int set_cpu_model(struct config *config, const char *value)
{
    return cpu_model_parse(value, &config->cpu_model);
}

static int set_max_guests(struct config *config, const char *value)
{
    return parse_number(value, 1, MAX_GUESTS_LIMIT, &config->max_guests);
}

static int set_start_timeout(struct config *config, const char *value)
{
    return parse_number(value, 1, START_TIMEOUT_LIMIT, &config->start_timeout);
}

static int parse_timing(const char *value, enum ms_timing *ret)
{
    if (strcmp(value, "plain") != 0 && strcmp(value, "hide") != 0)
        return -EINVAL;
    *ret = value[0] == 'h' ? MS_TIMING_HIDE : MS_TIMING_PLAIN;
    return 0;
}

static int set_timing(struct config *config, const char *value)
{
    return parse_timing(value, &config->timing);
}

static int set_raise_max_map_count(struct config *config, const char *value)
{
    static const char *const words[] = {"auto", "yes", "no"};

    for (int i = RAISE_AUTO; i <= RAISE_NO; i++) {
        if (strcmp(value, words[i]) == 0) {
            config->raise_max_map_count = (enum raise_choice)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* "10%", or a size. */
static int parse_limit(const char *value, struct pressure_limit *ret)
{
    struct pressure_limit limit = {0};
    char number[16];
    size_t n = strlen(value);

    if (n > 1 && n < sizeof(number) && value[n - 1] == '%') {
        memcpy(number, value, n - 1);
        number[n - 1] = '\0';
        if (parse_number(number, 1, 90, &limit.percent) < 0)
            return -EINVAL;
    } else if (size_parse(value, &limit.bytes) < 0 || limit.bytes == 0) {
        return -EINVAL;
    }
    *ret = limit;
    return 0;
}

static int set_low(struct config *config, const char *value)
{
    return parse_limit(value, &config->pressure.low);
}

static int set_critical(struct config *config, const char *value)
{
    return parse_limit(value, &config->pressure.critical);
}

static int set_storm_reserve(struct config *config, const char *value)
{
    struct pressure_limit limit;

    if (strcmp(value, "0") != 0 && strcmp(value, "0%") != 0) {
        if (parse_limit(value, &limit) < 0 || limit.percent == 0)
            return -EINVAL;
        config->pressure.storm_reserve = limit.percent;
    } else {
        config->pressure.storm_reserve = 0;
    }
    return 0;
}

static int set_pause_guests(struct config *config, const char *value)
{
    if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
        return -EINVAL;
    config->pressure.pause_guests = value[0] == 'y';
    return 0;
}

static int set_root(struct config *config, const char *value)
{
    if (value[0] != '/' || strlen(value) >= sizeof(config->host_root))
        return -EINVAL;
    strcpy(config->host_root, value);
    return 0;
}

static const struct {
    const char *section, *key;
    int (*set)(struct config *config, const char *value);
    const char *expected;
} keys[] = {
    {"sharing", "scan_budget", set_scan_budget, "a percentage from 1 to 100"},
    {"sharing", "pool_max", set_pool_max, "a size such as 8G, or 0"},
    {"sharing", "timing", set_timing, "plain or hide"},
    {"sharing", "raise_max_map_count", set_raise_max_map_count, "auto, yes or no"},
    {"pressure", "low", set_low, "a percentage from 1% to 90%, or a size"},
    {"pressure", "critical", set_critical, "a percentage from 1% to 90%, or a size"},
    {"pressure", "storm_reserve", set_storm_reserve, "a percentage from 0% to 90%"},
    {"pressure", "pause_guests", set_pause_guests, "yes or no"},
    {"host", "root", set_root, "an absolute path"},
    {"guests", "default_memory", set_default_memory, "whole MiB, at least 32M"},
    {"guests", "default_engine", set_default_engine, "auto, soft or kvm"},
    {"guests", "cpu_model", set_cpu_model, "host, x86-64-v2 or x86-64-v3"},
    {"guests", "max_guests", set_max_guests, "a number from 1 to 4096"},
    {"guests", "start_timeout", set_start_timeout, "seconds from 1 to 3600"},
};

struct reading {
    struct config config;
    char text[256]; /* the first thing that is wrong */
};

/* ---- [group NAME] ---- */

#define GROUP_PREFIX "group "
/* libinih cuts longer ones off without a word: they are refused, so that no other group is meant.
 */
#define SECTION_MAX 49

static struct group_config *group_get(struct config *config, const char *name)
{
    struct group_config *group;

    for (unsigned i = 0; i < config->n_groups; i++)
        if (strcmp(config->groups[i].name, name) == 0)
            return &config->groups[i];
    if (config->n_groups == GROUPS_MAX)
        return NULL;
    group = &config->groups[config->n_groups++];
    strcpy(group->name, name);
    group->timing = config->timing;
    return group;
}

static int on_group_entry(struct reading *reading, const char *section, const char *key,
                          const char *value)
{
    const char *name = section + strlen(GROUP_PREFIX);
    struct group_config *group;
    struct problem problem;

    if (strlen(section) >= SECTION_MAX) {
        snprintf(reading->text, sizeof(reading->text), "[%.48s...]: the section's name is too long",
                 section);
    } else if (name_check("share group", name, &problem) < 0) {
        snprintf(reading->text, sizeof(reading->text), "%.250s", problem.text);
    } else if (strcmp(key, "timing") != 0) {
        snprintf(reading->text, sizeof(reading->text), "unknown setting [%.48s] %.60s", section,
                 key);
    } else if (!(group = group_get(&reading->config, name))) {
        snprintf(reading->text, sizeof(reading->text), "[%.48s]: more than %u groups", section,
                 GROUPS_MAX);
    } else if (parse_timing(value, &group->timing) < 0) {
        snprintf(reading->text, sizeof(reading->text), "timing = %.60s: expected plain or hide",
                 value);
    } else {
        return 1;
    }
    return 0;
}

enum ms_timing config_timing(const struct config *config, const char *group)
{
    for (unsigned i = 0; i < config->n_groups; i++)
        if (strcmp(config->groups[i].name, group) == 0)
            return config->groups[i].timing;
    return config->timing;
}

/* ---- the file ---- */

static int on_entry(void *opaque, const char *section, const char *key, const char *value)
{
    struct reading *reading = opaque;

    if (reading->text[0])
        return 0; /* the first failure is the one to report */
    if (strncmp(section, GROUP_PREFIX, strlen(GROUP_PREFIX)) == 0)
        return on_group_entry(reading, section, key, value);
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

/* A percentage and a size can only be compared where the total is known: see pressure_limits(). */
static bool limits_ordered(const struct pressure_config *pressure)
{
    const struct pressure_limit *low = &pressure->low, *critical = &pressure->critical;

    if (low->bytes && critical->bytes)
        return critical->bytes < low->bytes;
    return low->bytes || critical->bytes || critical->percent < low->percent;
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
    if (!limits_ordered(&reading.config.pressure))
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "%s: [pressure] critical must be less than low", path);
    *config = reading.config;
    return 0;
}
