/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which engine a guest gets, the probe on the host at hand (whatever it is), and the features.
 */
#include "tests/unit/test-daemon-util.h"
#include "vmmd/engine.h"
#include "vmmd/features.h"
#include "vmmd/mapcount.h"
#include "vmmd/probe.h"

#include <sys/prctl.h>
#include <time.h>

static void test_probe(void **state)
{
    char text[200] = "";
    enum probe_result result = probe_kvm("", text, sizeof(text));

    (void)state;
    print_message("%s\n", text);
    assert_non_null(strstr(text, "/dev/kvm"));
    assert_int_equal(result == PROBE_NONE, access("/dev/kvm", R_OK | W_OK) != 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* its child is gone */
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void hang(const char *root, struct probe_answer *ret)
{
    (void)root, (void)ret;
    signal(SIGTERM, SIG_IGN);
    for (;;)
        pause();
}

static void crash(const char *root, struct probe_answer *ret)
{
    (void)root, (void)ret;
    raise(SIGKILL);
}

/* Somebody goes on holding what it had open. */
static void leave_another(const char *root, struct probe_answer *ret)
{
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        hang(root, ret);
    }
    hang(root, ret);
}

static void be_slow(const char *root, struct probe_answer *ret)
{
    (void)root;
    ret->took_ns = 20000000;
}

/* Whatever examining the device does: an answer comes, and no process stays. */
static void test_strange_devices(void **state)
{
    static const struct {
        void (*examine)(const char *root, struct probe_answer *ret);
        enum probe_result result;
        const char *text;
    } cases[] = {
        {hang, PROBE_BROKEN, "/dev/kvm did not run a small guest within 700 ms"},
        {leave_another, PROBE_BROKEN, "/dev/kvm did not run a small guest within 700 ms"},
        {crash, PROBE_BROKEN, "/dev/kvm: the probe failed: "},
        {be_slow, PROBE_EMULATED, "20000 loop turns took 20.0 ms"},
    };
    char text[200];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t began = now_ms();

        assert_int_equal(probe_with(cases[i].examine, "", text, sizeof(text)), cases[i].result);
        print_message("%llu ms: %s\n", (unsigned long long)(now_ms() - began), text);
        assert_non_null(strstr(text, cases[i].text));
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
        assert_int_equal(errno, ECHILD);
    }
}

/* Opening this file hangs for as long as we do not give the lease back, or the kernel's patience.
 */
static int hold_device(struct world *world)
{
    char path[512];
    int fd;

    world_host_file(world, "/dev/kvm", "");
    snprintf(path, sizeof(path), "%s/dev/kvm", world->config.host_root);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    signal(SIGIO, SIG_IGN); /* how the kernel asks for it back */
    if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0)
        return fd;
    print_message("no leases on this file system: %s\n", strerror(errno));
    close(fd);
    skip();
    return -1;
}

/* A daemon whose /dev/kvm hangs when it is opened: it starts within a second and runs guests, and
 * refuses those that must have KVM at once, with the reason. */
static void test_hanging_device(void **state)
{
    struct world *world = *state;
    struct problem problem = {0};
    struct outcome outcome = {0};
    struct create_request request = {.tmpl = "deb",
                                     .name = "k",
                                     .has_engine = true,
                                     .engine = ENGINE_KVM,
                                     .has_memory = true,
                                     .memory = 64 * MIB};
    struct guest *guest;
    uint64_t began;
    int fd;

    import_template(world, "deb");
    daemon_free(world->daemon);
    world->daemon = NULL;
    fd = hold_device(world);
    began = now_ms();
    world_open_daemon(world);
    print_message("started in %llu ms: %s\n", (unsigned long long)(now_ms() - began),
                  world->daemon->engine.reason);
    assert_int_not_equal(fcntl(fd, F_GETLEASE), F_WRLCK); /* somebody did want it */
    assert_int_equal(world->daemon->engine.best, ENGINE_SOFT);
    assert_string_equal(world->daemon->engine.host, "none");
    assert_true(create_guests(world->daemon, &request, on_outcome_created, &outcome, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_NOT_SUPPORTED);
    assert_string_equal(problem.text,
                        "engine kvm is not available: software engine: /dev/kvm did not run a "
                        "small guest within 700 ms");
    guest = create_guest(world, "deb", "web");
    assert_int_equal(guest_start(guest, on_outcome, &outcome, &problem), 0);
    run_until(world, &outcome.done);
    assert_true(outcome.ok);
    assert_int_equal(guest->running_engine, ENGINE_SOFT);
    close(fd);
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

static void write_host_file(const char *root, const char *path, const char *text)
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
    write_host_file(root, "/sys/fs/cgroup/cgroup.controllers", "memory\n");
    write_host_file(root, "/sys/kernel/mm/ksm/run", "1\n");
    write_host_file(root, "/proc/sys/vm/max_map_count", "1048576\n");
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_strange_devices),
        cmocka_unit_test_setup_teardown(test_hanging_device, world_setup, world_teardown),
        cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_features),
    };

    be_a_fake_if_asked(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
