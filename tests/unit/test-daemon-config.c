/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd.conf, names, sizes and texts: what is accepted and how the rest is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vmmd/config.h"
#include "vmmd/name.h"
#include "vmmd/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int load(const char *text, struct config *config, struct problem *problem)
{
    char path[] = "/tmp/test-config.XXXXXX";
    int fd = mkstemp(path), r;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    r = config_load(config, path, true, problem);
    unlink(path);
    return r;
}

static void test_defaults(void **state)
{
    struct problem problem;
    struct config config;

    (void)state;
    assert_int_equal(load("", &config, &problem), 0);
    assert_int_equal(config.scan_budget, 10);
    assert_int_equal(config.default_memory, 256 * MIB);
    assert_int_equal(config.default_engine, ENGINE_AUTO);
    assert_int_equal(config.cpu_model, CPU_MODEL_HOST);
    assert_int_equal(config.max_guests, 4096);
    assert_int_equal(config.pressure.low.percent, 10);
    assert_int_equal(config.pressure.critical.percent, 5);
    assert_int_equal(config.pressure.storm_reserve, 25);
    assert_true(config.pressure.pause_guests);
    assert_int_equal(config.raise_max_map_count, RAISE_AUTO);
    assert_int_equal(config_timing(&config, "any"), MS_TIMING_PLAIN);
    assert_string_equal(config.host_root, "");
    assert_int_equal(config_load(&config, "/nonexistent/vmmd.conf", false, &problem), 0);
    assert_true(config_load(&config, "/nonexistent/vmmd.conf", true, &problem) < 0);
    assert_non_null(strstr(problem.text, "/nonexistent/vmmd.conf"));
}

static void test_all_settings(void **state)
{
    struct problem problem;
    struct config config;

    (void)state;
    assert_int_equal(
        load("# a comment\n"
             "[sharing]\nscan_budget = 100\npool_max = 8G\n"
             "[guests]\ndefault_memory = 1G\ndefault_engine = soft\ncpu_model = x86-64-v3\n"
             "max_guests = 17\nstart_timeout = 90\n"
             "[pressure]\nlow = 20%\ncritical = 1G\nstorm_reserve = 0%\n"
             "pause_guests = no\n[host]\nroot = /tmp/host\n",
             &config, &problem),
        0);
    assert_int_equal(config.scan_budget, 100);
    assert_int_equal(config.pool_max, 8192 * MIB);
    assert_int_equal(config.default_memory, 1024 * MIB);
    assert_int_equal(config.default_engine, ENGINE_SOFT);
    assert_int_equal(config.cpu_model, CPU_MODEL_V3);
    assert_int_equal(config.max_guests, 17);
    assert_int_equal(config.start_timeout, 90);
    assert_int_equal(config.pressure.low.percent, 20);
    assert_int_equal(config.pressure.low.bytes, 0);
    assert_int_equal(config.pressure.critical.bytes, 1024 * MIB);
    assert_int_equal(config.pressure.storm_reserve, 0);
    assert_false(config.pressure.pause_guests);
    assert_string_equal(config.host_root, "/tmp/host");
}

static void test_bad_settings(void **state)
{
    static const struct {
        const char *text, *expected;
    } cases[] = {
        {"[sharing]\nscan_budget = 0\n", ":2: scan_budget = 0: expected a percentage"},
        {"[sharing]\nscan_budget = 101\n", ":2: scan_budget"},
        {"[sharing]\nscan_budget = -1\n", ":2: scan_budget"},
        {"[sharing]\nscan_budget = ten\n", ":2: scan_budget"},
        {"[sharing]\npool_max = 1X\n", ":2: pool_max"},
        {"[guests]\ndefault_memory = 0\n", ":2: default_memory"},
        {"[guests]\ndefault_memory = 16M\n", ":2: default_memory"},
        {"[guests]\ndefault_memory = 33554433\n", ":2: default_memory"},
        {"[guests]\ndefault_memory = 99999999999999999999G\n", ":2: default_memory"},
        {"[guests]\ndefault_engine = warp\n", ":2: default_engine = warp: expected auto"},
        {"[guests]\ncpu_model = 486\n", ":2: cpu_model = 486: expected host"},
        {"[guests]\nmax_guests = 4097\n", ":2: max_guests"},
        {"\n\n[guests]\ncolour = red\n", ":4: unknown setting [guests] colour"},
        {"[pressure]\nlow = 0%\n", ":2: low = 0%: expected a percentage"},
        {"[pressure]\nlow = 91%\n", ":2: low"},
        {"[pressure]\nlow = %\n", ":2: low"},
        {"[pressure]\nlow = 0\n", ":2: low"},
        {"[pressure]\ncritical = -5%\n", ":2: critical"},
        {"[pressure]\ncritical = 10%\n", "[pressure] critical must be less than low"},
        {"[pressure]\nlow = 1G\ncritical = 2G\n", "critical must be less than low"},
        {"[pressure]\nstorm_reserve = 5G\n", ":2: storm_reserve"},
        {"[pressure]\npause_guests = perhaps\n", ":2: pause_guests = perhaps: expected yes or no"},
        {"[sharing]\nraise_max_map_count = 5\n", ":2: raise_max_map_count"},
        {"[sharing]\ntiming = slow\n", ":2: timing = slow: expected plain or hide"},
        {"[group a]\ntiming = slow\n", ":2: timing = slow: expected plain or hide"},
        {"[group a]\npool_max = 1G\n", ":2: unknown setting [group a] pool_max"},
        {"[group a/b]\ntiming = hide\n", ":2: share group name \"a/b\""},
        {"[group none]\ntiming = hide\n", ":2: \"none\" is not"},
        {"[group aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]\ntiming = hide\n",
         "name is too long"},
        {"[host]\nroot = here\n", ":2: root = here: expected an absolute path"},
        {"scan_budget = 5\n", ":1: unknown setting [] scan_budget"},
        {"[guests]\nnonsense\n", ":2: not a setting"},
    };
    struct config config;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct problem problem = {0};

        memset(&config, 0x5a, sizeof(config));
        assert_true(load(cases[i].text, &config, &problem) < 0);
        if (!strstr(problem.text, cases[i].expected))
            fail_msg("expected \"%s\", got \"%s\"", cases[i].expected, problem.text);
        assert_int_equal(config.scan_budget, 0x5a5a5a5a); /* untouched */
    }
}

static void test_groups(void **state)
{
    char text[8192] =
        "[group a]\ntiming = hide\n[sharing]\ntiming = plain\n[group b]\ntiming = plain\n";
    struct problem problem;
    struct config config;

    (void)state;
    assert_int_equal(load(text, &config, &problem), 0);
    assert_int_equal(config_timing(&config, "a"), MS_TIMING_HIDE);
    assert_int_equal(config_timing(&config, "b"), MS_TIMING_PLAIN);
    assert_int_equal(config_timing(&config, "c"), MS_TIMING_PLAIN);
    assert_int_equal(
        load("[sharing]\ntiming = hide\n[group b]\ntiming = plain\n", &config, &problem), 0);
    assert_int_equal(config_timing(&config, "a"), MS_TIMING_HIDE);
    assert_int_equal(config_timing(&config, "b"), MS_TIMING_PLAIN);
    text[0] = '\0';
    for (unsigned i = 0; i <= GROUPS_MAX; i++)
        sprintf(text + strlen(text), "[group g%u]\ntiming = hide\n", i);
    assert_true(load(text, &config, &problem) < 0);
    assert_non_null(strstr(problem.text, "more than 64 groups"));
}

static void test_names(void **state)
{
    static const char *const good[] = {"a", "0", "web-1", "Debian_12.5", "nonesuch", "None"};
    static const char *const bad[] = {"",    ".",    "..",   "-a",     "_a",    "a/b", "a b",
                                      "a\n", "\xc3", "none", "a\x1b[", "a%s%n", "~"};
    char name[NAME_LENGTH_MAX + 2];
    struct problem problem;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(name_check("guest", good[i], &problem), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_true(name_check("guest", bad[i], &problem) < 0);
        assert_int_equal(problem.kind, PROBLEM_INVALID_NAME);
    }
    memset(name, 'a', sizeof(name));
    name[NAME_LENGTH_MAX] = '\0';
    assert_int_equal(name_check("guest", name, &problem), 0);
    name[NAME_LENGTH_MAX] = 'a';
    name[NAME_LENGTH_MAX + 1] = '\0';
    assert_true(name_check("guest", name, &problem) < 0);
}

static void test_sizes(void **state)
{
    static const char *const bad[] = {"",         " 1",   "-1", "+1",  "M",  "1MM",
                                      "1 M",      "1.5G", "1m", "0x1", "1B", "18446744073709551616",
                                      "16777216T"};
    uint64_t bytes;

    (void)state;
    assert_int_equal(size_parse("0", &bytes), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(size_parse("4096", &bytes), 0);
    assert_int_equal(bytes, 4096);
    assert_int_equal(size_parse("1K", &bytes), 0);
    assert_int_equal(bytes, 1024);
    assert_int_equal(size_parse("16777215T", &bytes), 0);
    assert_true(bytes == UINT64_C(16777215) << 40);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        bytes = 77;
        if (size_parse(bad[i], &bytes) == 0)
            fail_msg("accepted \"%s\"", bad[i]);
        assert_int_equal(bytes, 77);
    }
}

static void test_texts(void **state)
{
    char text[8];

    (void)state;
    text_copy(text, sizeof(text), "a\nb\x1b\x7f\xff");
    assert_string_equal(text, "a?b???");
    text_copy(text, sizeof(text), "longer than it");
    assert_string_equal(text, "longer ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),     cmocka_unit_test(test_all_settings),
        cmocka_unit_test(test_bad_settings), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_names),        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
