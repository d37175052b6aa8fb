/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which engine a guest gets, the probe on the host at hand (whatever it is), and the features.
 */
#include "vmmd/engine.h"
#include "vmmd/features.h"
#include "vmmd/mapcount.h"
#include "vmmd/probe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static void test_probe(void **state)
{
    char text[200] = "";
    enum probe_result result = probe_kvm(text, sizeof(text));

    (void)state;
    print_message("%s\n", text);
    assert_non_null(strstr(text, "/dev/kvm"));
    assert_int_equal(result == PROBE_NONE, access("/dev/kvm", R_OK | W_OK) != 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* its child is gone */
}

static void test_resolve(void **state)
{
    const struct engine_info hardware = {ENGINE_KVM, "svm", "KVM engine: it runs"};
    const struct engine_info none = {ENGINE_SOFT, "none", "software engine: no such file"};
    enum engine_choice engine;
    struct problem problem;

    (void)state;
    assert_int_equal(engine_resolve(&hardware, ENGINE_AUTO, 64, &engine, &problem), 0);
    assert_int_equal(engine, ENGINE_KVM);
    assert_int_equal(engine_resolve(&hardware, ENGINE_SOFT, 1, &engine, &problem), 0);
    assert_int_equal(engine, ENGINE_SOFT);
    assert_true(engine_resolve(&hardware, ENGINE_SOFT, 2, &engine, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_NOT_SUPPORTED);
    assert_int_equal(engine_resolve(&none, ENGINE_AUTO, 1, &engine, &problem), 0);
    assert_int_equal(engine, ENGINE_SOFT);
    assert_true(engine_resolve(&none, ENGINE_KVM, 1, &engine, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_NOT_SUPPORTED);
    assert_non_null(strstr(problem.text, "no such file")); /* the reason */
    assert_true(engine_resolve(&none, ENGINE_AUTO, 0, &engine, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_INVALID_ARGUMENT);
}

static void write_file(const char *root, const char *path, const char *text)
{
    char name[300];
    FILE *file;

    snprintf(name, sizeof(name), "mkdir -p $(dirname %s%s)", root, path);
    assert_int_equal(system(name), 0);
    snprintf(name, sizeof(name), "%s%s", root, path);
    file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static const struct feature *find(const struct features *f, const char *name)
{
    for (unsigned i = 0; i < f->n; i++)
        if (strcmp(f->item[i].name, name) == 0)
            return &f->item[i];
    fail_msg("no feature %s", name);
    return NULL;
}

static void test_features(void **state)
{
    char root[] = "/tmp/test-engine.XXXXXX", remove[64];
    struct cpu_control cpu = {.means = CPU_NICE};
    struct features f;

    (void)state;
    assert_non_null(mkdtemp(root));
    features_find(&f, root, 1000, &cpu);
    assert_false(find(&f, "CPU control")->good);
    assert_string_equal(find(&f, "CPU control")->value, "scheduler priority");
    assert_false(find(&f, "cgroup v2")->good);
    assert_true(find(&f, "cgroup v2")->cost[0] != '\0');
    assert_true(find(&f, "KSM")->good); /* a kernel without it is fine */
    assert_false(find(&f, "max_map_count")->good);
    write_file(root, "/sys/fs/cgroup/cgroup.controllers", "memory\n");
    write_file(root, "/sys/kernel/mm/ksm/run", "1\n");
    write_file(root, "/proc/sys/vm/max_map_count", "1048576\n");
    cpu.means = CPU_CGROUP2;
    features_find(&f, root, 786432, &cpu);
    assert_true(find(&f, "CPU control")->good);
    assert_true(find(&f, "cgroup v2")->good);
    assert_string_equal(find(&f, "cgroup v2")->cost, "");
    assert_false(find(&f, "KSM")->good);
    assert_string_equal(find(&f, "max_map_count")->value, "1048576, 786432 a guest");
    assert_true(find(&f, "max_map_count")->good);
    snprintf(remove, sizeof(remove), "rm -r %s", root);
    assert_int_equal(system(remove), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_features),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
