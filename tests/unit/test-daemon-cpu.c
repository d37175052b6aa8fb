/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processor time: what weights shares and reserves come to; what is written where, on hosts made of
 * files with cgroup version 1, version 2 and none; and a guest's settings on the daemon. Whether
 * the kernel then divides time so is tested with real guests: tests/integration/guest-cpu.sh.
 */
#include "tests/unit/test-daemon-util.h"
#include "vmmd/cpu.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/resource.h>

static const uint8_t uuid[16] = {0xab, 1};
#define GUEST_DIR "vmmd.web.ab010000000000000000000000000000"
#define MOUNTS                                                                   \
    "30 1 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" \
    "31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
#define V1 "/sys/fs/cgroup/cpu,cpuacct/vm/mmd/"
#define V2 "/sys/fs/cgroup/unified/system.slice/vmmd.service/"

/* ---- a host of files ---- */

struct host {
    char root[64];
    struct cpu_control cpu;
};

static void put(const struct host *host, const char *path, const char *text)
{
    char full[512];
    FILE *file;

    snprintf(full, sizeof(full), "%s%s", host->root, path);
    for (char *slash = strchr(full + strlen(host->root) + 1, '/'); slash;
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

static const char *get(const struct host *host, const char *path)
{
    static char text[256];
    char full[512];
    FILE *file;

    snprintf(full, sizeof(full), "%s%s", host->root, path);
    file = fopen(full, "r");
    if (!file)
        fail_msg("no %s", full);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

static int host_setup(void **state)
{
    struct host *host = calloc(1, sizeof(*host));

    assert_non_null(host);
    snprintf(host->root, sizeof(host->root), "/tmp/test-cpu.XXXXXX");
    assert_non_null(mkdtemp(host->root));
    *state = host;
    return 0;
}

static int host_teardown(void **state)
{
    struct host *host = *state;

    nftw(host->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(host);
    return 0;
}

static void host_v1(struct host *host)
{
    put(host, "/proc/self/cgroup", "4:memory:/other\n1:cpu,cpuacct:/vm/mmd\n0::/x\n");
    put(host, "/proc/self/mountinfo", MOUNTS);
    put(host, V1 "cgroup.procs", "");
    put(host, V1 GUEST_DIR "/cgroup.procs", "");
    put(host, V1 GUEST_DIR "/cpu.shares", "1024\n");
    put(host, V1 GUEST_DIR "/cpu.cfs_quota_us", "-1\n");
}

static void host_v2(struct host *host, const char *controllers)
{
    put(host, "/proc/self/cgroup", "0::/system.slice/vmmd.service\n");
    put(host, "/proc/self/mountinfo", MOUNTS);
    put(host, V2 "cgroup.controllers", controllers);
    put(host, V2 "cgroup.subtree_control", "");
    put(host, V2 "cgroup.procs", "");
    put(host, V2 GUEST_DIR "/cgroup.type", "domain\n");
    put(host, V2 GUEST_DIR "/cgroup.procs", "");
    put(host, V2 GUEST_DIR "/cpu.weight", "100\n");
    put(host, V2 GUEST_DIR "/cpu.max", "max 100000\n");
}

static const struct cpu_place place = {.name = "web", .uuid = uuid, .pid = 4711};

static void apply(struct host *host, struct cpu_settings settings, uint32_t weight, char *text)
{
    struct problem problem = {0};

    if (cpu_apply(&host->cpu, &place, &settings, weight, text, &problem) < 0)
        fail_msg("%s", problem.text);
}

static void test_v1(void **state)
{
    struct host *host = *state;
    struct problem problem;
    char text[CPU_TEXT_MAX];

    host_v1(host);
    cpu_control_find(&host->cpu, host->root);
    assert_int_equal(host->cpu.means, CPU_CGROUP1);
    assert_string_equal(host->cpu.why, "");
    assert_int_equal(cpu_enter(&host->cpu, &place, &problem), 0);
    assert_string_equal(get(host, V1 GUEST_DIR "/cgroup.procs"), "4711");
    apply(host, (struct cpu_settings){100, 0, 0}, 100, text);
    assert_string_equal(get(host, V1 GUEST_DIR "/cpu.shares"), "1024");
    assert_string_equal(get(host, V1 GUEST_DIR "/cpu.cfs_quota_us"), "-1");
    assert_string_equal(text, "cgroup v1, weight 100, " V1 GUEST_DIR);
    apply(host, (struct cpu_settings){400, 25, 0}, 400, text);
    assert_string_equal(get(host, V1 GUEST_DIR "/cpu.shares"), "4096");
    assert_string_equal(get(host, V1 GUEST_DIR "/cpu.cfs_quota_us"), "25000");
    apply(host, (struct cpu_settings){1, 6400, 0}, 10000, text);
    assert_string_equal(get(host, V1 GUEST_DIR "/cpu.shares"), "102400");
    assert_string_equal(get(host, V1 GUEST_DIR "/cpu.cfs_quota_us"), "6400000");
    apply(host, (struct cpu_settings){1, 0, 0}, 1, text);
    assert_string_equal(get(host, V1 GUEST_DIR "/cpu.shares"), "10");
}

static void test_v2(void **state)
{
    struct host *host = *state;
    struct problem problem;
    char text[CPU_TEXT_MAX];

    host_v2(host, "cpuset cpu io memory pids\n");
    cpu_control_find(&host->cpu, host->root);
    assert_int_equal(host->cpu.means, CPU_CGROUP2);
    assert_string_equal(get(host, V2 "cgroup.subtree_control"), "+cpu");
    assert_int_equal(cpu_enter(&host->cpu, &place, &problem), 0);
    assert_string_equal(get(host, V2 GUEST_DIR "/cgroup.type"), "threaded");
    assert_string_equal(get(host, V2 GUEST_DIR "/cgroup.procs"), "4711");
    apply(host, (struct cpu_settings){400, 150, 0}, 400, text);
    assert_string_equal(get(host, V2 GUEST_DIR "/cpu.weight"), "400");
    assert_string_equal(get(host, V2 GUEST_DIR "/cpu.max"), "150000 100000");
    assert_string_equal(text, "cgroup v2, weight 400, " V2 GUEST_DIR);
    apply(host, (struct cpu_settings){1, 0, 0}, 1, text);
    assert_string_equal(get(host, V2 GUEST_DIR "/cpu.weight"), "1");
    assert_string_equal(get(host, V2 GUEST_DIR "/cpu.max"), "max 100000");
}

/* It is enabled already: not written again, for that may be refused. */
static void test_v2_enabled(void **state)
{
    struct host *host = *state;

    host_v2(host, "cpu\n");
    put(host, V2 "cgroup.subtree_control", "memory cpu\n");
    cpu_control_find(&host->cpu, host->root);
    assert_int_equal(host->cpu.means, CPU_CGROUP2);
    assert_string_equal(get(host, V2 "cgroup.subtree_control"), "memory cpu\n");
}

static void expect_nice(struct host *host, const char *why, bool autogroup)
{
    cpu_control_find(&host->cpu, host->root);
    assert_int_equal(host->cpu.means, CPU_NICE);
    if (!strstr(host->cpu.why, why))
        fail_msg("\"%s\" and not \"%s\"", host->cpu.why, why);
    assert_int_equal(host->cpu.autogroup, autogroup);
}

static void test_no_cgroup(void **state)
{
    struct host *host = *state;
    char path[256];

    expect_nice(host, "no cgroup is mounted", false);
    put(host, "/proc/sys/kernel/sched_autogroup_enabled", "1\n");
    expect_nice(host, "no cgroup is mounted", true);
    host_v2(host, "cpuset memory pids\n"); /* words that only look like it */
    expect_nice(host, "no cpu controller in /sys/fs/cgroup/unified/system.slice/vmmd.service",
                true);
    put(host, "/sys/fs/cgroup/unified/system.slice/cgroup.controllers", "cpu\n");
    expect_nice(host, "no cpu controller", false); /* the slice is what competes */
    put(host, V2 "cgroup.controllers", "cpu\n");
    snprintf(path, sizeof(path), "%s" V2 "cgroup.subtree_control", host->root);
    unlink(path);
    expect_nice(host, "cannot enable the cpu controller in /sys/", false);
    snprintf(path, sizeof(path), "%s" V2 "cgroup.procs", host->root);
    unlink(path);
    expect_nice(host, "cannot write in /sys/", false);
}

/* What cannot be written is told with its name. */
static void test_refused(void **state)
{
    struct host *host = *state;
    struct cpu_settings settings = {100, 0, 0};
    struct problem problem;
    char path[256], text[CPU_TEXT_MAX];

    host_v1(host);
    cpu_control_find(&host->cpu, host->root);
    snprintf(path, sizeof(path), "%s" V1 GUEST_DIR "/cpu.cfs_quota_us", host->root);
    unlink(path);
    assert_int_equal(cpu_apply(&host->cpu, &place, &settings, 100, text, &problem), -ENOENT);
    assert_non_null(strstr(problem.text, "guest web: cannot write " V1 GUEST_DIR
                                         "/cpu.cfs_quota_us: No such file"));
    snprintf(path, sizeof(path), "%s" V1 GUEST_DIR "/cgroup.procs", host->root);
    unlink(path);
    assert_true(cpu_enter(&host->cpu, &place, &problem) < 0);
    assert_non_null(strstr(problem.text, "cgroup.procs"));
}

/* ---- weights ---- */

static void expect_weights(unsigned n_cpus, size_t n, const struct cpu_settings *settings,
                           const uint32_t *wanted)
{
    const struct cpu_control control = {.n_cpus = n_cpus};
    const struct cpu_settings *pointers[8] = {NULL};
    uint32_t weights[8];

    for (size_t i = 0; i < n; i++)
        pointers[i] = &settings[i];
    cpu_weights(&control, pointers, n, weights);
    for (size_t i = 0; i < n; i++)
        if (weights[i] != wanted[i])
            fail_msg("weight %zu is %u, should be %u", i, weights[i], wanted[i]);
}

static void test_weights(void **state)
{
    (void)state;
    expect_weights(2, 0, NULL, NULL);
    expect_weights(2, 2, (const struct cpu_settings[]){{400, 0, 0}, {100, 0, 0}},
                   (const uint32_t[]){400, 100});
    /* Half of two cores: as much as the others together. */
    expect_weights(2, 3, (const struct cpu_settings[]){{100, 0, 100}, {100, 0, 0}, {200, 0, 0}},
                   (const uint32_t[]){300, 100, 200});
    /* Its shares are more than its reserve. */
    expect_weights(4, 2, (const struct cpu_settings[]){{300, 0, 100}, {100, 0, 0}},
                   (const uint32_t[]){300, 100});
    /* The first is raised, and only by that the second falls below its reserve, too. */
    expect_weights(1, 3, (const struct cpu_settings[]){{100, 0, 50}, {300, 0, 20}, {1000, 0, 0}},
                   (const uint32_t[]){1667, 667, 1000});
    /* Too large: all are scaled. */
    expect_weights(1, 2, (const struct cpu_settings[]){{1, 0, 90}, {10000, 0, 0}},
                   (const uint32_t[]){10000, 1111});
    /* All are promised something and nobody else competes. */
    expect_weights(1, 2, (const struct cpu_settings[]){{100, 0, 60}, {100, 0, 30}},
                   (const uint32_t[]){150, 100});
    /* More than there is: no sense, but an end. */
    expect_weights(1, 2, (const struct cpu_settings[]){{100, 0, 100}, {100, 0, 100}},
                   (const uint32_t[]){200, 200});
}

/* Whatever is promised is kept: of any mix that fits, nobody's part is less than its reserve. */
static void test_reserves_are_kept(void **state)
{
    const struct cpu_control control = {.n_cpus = 4};
    const struct cpu_settings *pointers[8] = {NULL};
    struct cpu_settings settings[8];
    uint32_t weights[8];

    (void)state;
    srandom(1);
    for (int round = 0; round < 20000; round++) {
        uint32_t left = control.n_cpus * CPU_RESERVE_PER_CENT;
        double sum = 0;

        for (int i = 0; i < 8; i++) {
            settings[i].shares = 1 + (uint32_t)random() % (random() % 2 ? 10000 : 200);
            settings[i].reserve = (uint32_t)random() % (left / 2 + 1);
            settings[i].limit = 0;
            left -= settings[i].reserve;
            pointers[i] = &settings[i];
        }
        cpu_weights(&control, pointers, 8, weights);
        for (int i = 0; i < 8; i++) {
            assert_in_range(weights[i], 1, CPU_SHARES_MAX);
            sum += weights[i];
        }
        for (int i = 0; i < 8; i++) /* weights are whole numbers */
            if ((weights[i] + 1.0) / (sum - 8) * 400 < settings[i].reserve)
                fail_msg("round %d: weight %u of %.0f for a reserve of %u", round, weights[i], sum,
                         settings[i].reserve);
    }
}

/* ---- settings ---- */

static void expect_bad(const struct cpu_control *control, struct cpu_settings settings,
                       uint32_t vcpus, enum problem_kind kind, const char *text)
{
    struct problem problem = {0};

    assert_true(cpu_check(control, &settings, vcpus, &problem) < 0);
    assert_int_equal(problem.kind, kind);
    if (!strstr(problem.text, text))
        fail_msg("\"%s\" and not \"%s\"", problem.text, text);
}

static void test_check(void **state)
{
    const struct cpu_control cgroup = {.means = CPU_CGROUP2}, none = {.why = "it is Tuesday"};
    const struct cpu_settings good[] = {{1, 0, 0}, {10000, 200, 200}, {100, 1, 1}, {100, 0, 200}};

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(cpu_check(&cgroup, &good[i], 2, NULL), 0);
    assert_int_equal(cpu_check(&none, &good[0], 2, NULL), 0);
    expect_bad(&cgroup, (struct cpu_settings){0, 0, 0}, 1, PROBLEM_INVALID_ARGUMENT,
               "CPU shares are 1 to 10000 (100 by default), not 0");
    expect_bad(&cgroup, (struct cpu_settings){10001, 0, 0}, 1, PROBLEM_INVALID_ARGUMENT, "shares");
    expect_bad(&cgroup, (struct cpu_settings){100, 101, 0}, 1, PROBLEM_INVALID_ARGUMENT,
               "a CPU limit is in percent of one core: 0 (none) to 100 for a guest with 1 vCPU, "
               "not 101");
    expect_bad(&cgroup, (struct cpu_settings){100, 0, 201}, 2, PROBLEM_INVALID_ARGUMENT,
               "0 (none) to 200 for a guest with 2 vCPUs, not 201");
    expect_bad(&cgroup, (struct cpu_settings){100, UINT32_MAX, 0}, 64, PROBLEM_INVALID_ARGUMENT,
               "not 4294967295");
    expect_bad(&cgroup, (struct cpu_settings){100, 20, 21}, 1, PROBLEM_INVALID_ARGUMENT,
               "a CPU reserve of 21 % is more than the limit of 20 %");
    expect_bad(&none, (struct cpu_settings){100, 20, 0}, 1, PROBLEM_NOT_SUPPORTED,
               "a CPU limit needs a cgroup that vmmd may write to, and there is none: it is Tues");
    expect_bad(&none, (struct cpu_settings){100, 0, 20}, 1, PROBLEM_NOT_SUPPORTED, "a CPU reserve");
}

/* ---- nice ---- */

static void *second_thread(void *opaque)
{
    int *fds = opaque;
    char byte;

    if (write(fds[1], "x", 1) == 1)
        (void)!read(fds[2], &byte, 1); /* until we are killed */
    return NULL;
}

/* A process with two threads, waited for until both are there. */
static pid_t start_threads(int fds[4])
{
    char byte;
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(pipe(fds + 2), 0);
    pid = fork();
    if (pid == 0) {
        pthread_t thread;

        pthread_create(&thread, NULL, second_thread, fds);
        pthread_join(thread, NULL);
        _exit(0);
    }
    assert_true(pid > 0);
    assert_int_equal(read(fds[0], &byte, 1), 1);
    return pid;
}

static unsigned count_threads_of_nice(pid_t pid, int nice)
{
    char path[64];
    DIR *dir;
    unsigned n = 0;
    const struct dirent *entry;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir)))
        if (atoi(entry->d_name) > 0)
            n += getpriority(PRIO_PROCESS, (id_t)atoi(entry->d_name)) == nice;
    closedir(dir);
    return n;
}

static void test_nice(void **state)
{
    static const struct {
        uint32_t weight;
        int nice;
    } cases[] = {{100, 0}, {80, 1}, {25, 6}, {1, 19}, {2, 18}};
    struct cpu_control control = {.means = CPU_NICE, .why = "none is here"};
    const struct cpu_settings settings = {.shares = 100};
    struct cpu_place self = {.name = "web", .uuid = uuid};
    struct problem problem = {0};
    char text[CPU_TEXT_MAX];
    int fds[4];

    (void)state;
    self.pid = start_threads(fds);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (i > 0 && cases[i].nice < cases[i - 1].nice && geteuid() != 0)
            continue;
        if (cpu_apply(&control, &self, &settings, cases[i].weight, text, &problem) < 0)
            fail_msg("%s", problem.text);
        assert_int_equal(count_threads_of_nice(self.pid, cases[i].nice), 2);
    }
    assert_non_null(strstr(text, "scheduler priority: nice 18"));
    kill(self.pid, SIGKILL);
    waitpid(self.pid, NULL, 0);
    assert_int_equal(cpu_apply(&control, &self, &settings, 50, text, &problem), -ENOENT);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
}

static void test_nice_of_session(void **state)
{
    struct host *host = *state;
    char text[CPU_TEXT_MAX];

    put(host, "/proc/sys/kernel/sched_autogroup_enabled", "1\n");
    put(host, "/proc/4711/autogroup", "/autogroup-5 nice 0\n");
    expect_nice(host, "no cgroup", true);
    apply(host, (struct cpu_settings){400, 0, 0}, 400, text);
    assert_string_equal(get(host, "/proc/4711/autogroup"), "-6");
    assert_string_equal(text, "scheduler priority: nice -6 as a session");
}

/* ---- on the daemon ---- */

static bool is_up(void *opaque)
{
    return ((struct guest *)opaque)->phase == PHASE_UP;
}

static bool is_idle(void *opaque)
{
    return ((struct guest *)opaque)->phase == PHASE_IDLE;
}

static struct guest *running_guest(struct world *world, const char *name)
{
    struct guest *guest = create_guest(world, "deb", name);

    assert_int_equal(guest_start(guest, NULL, NULL, NULL), 0);
    run_while_not(world, is_up, guest);
    return guest;
}

static void test_guest(void **state)
{
    struct world *world = *state;
    struct cpu_settings settings = {.shares = 50};
    struct problem problem = {0};
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    assert_int_equal(guest->config.cpu.shares, CPU_SHARES_DEFAULT);
    assert_int_equal(guest_set_cpu(guest, &settings, &problem), 0); /* before it runs */
    assert_string_equal(guest->cpu.text, "");
    assert_int_equal(guest_start(guest, NULL, NULL, NULL), 0);
    run_while_not(world, is_up, guest);
    assert_string_equal(guest->cpu.text, "scheduler priority: nice 3");
    assert_int_equal(getpriority(PRIO_PROCESS, (id_t)child_pid(guest->process)), 3);
    settings.shares = 10; /* while it runs */
    assert_int_equal(guest_set_cpu(guest, &settings, &problem), 0);
    assert_int_equal(getpriority(PRIO_PROCESS, (id_t)child_pid(guest->process)), 10);
    settings.limit = 50;
    assert_true(guest_set_cpu(guest, &settings, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_NOT_SUPPORTED);
    assert_int_equal(guest->config.cpu.limit, 0);
    reopen_daemon(world);
    guest = guest_find(world->daemon, "web");
    assert_int_equal(guest->config.cpu.shares, 10);
    assert_string_equal(guest->cpu.text, "scheduler priority: nice 10");
    assert_int_equal(guest_stop(guest, true, NULL, NULL, NULL), 0);
    run_while_not(world, is_idle, guest);
    assert_string_equal(guest->cpu.text, "");
}

/* What is promised is refused when it does not fit: at once, and at a start. */
static void test_reserves(void **state)
{
    struct world *world = *state;
    struct cpu_settings settings = {.shares = 100, .reserve = 80};
    struct problem problem = {0};
    struct guest *a, *b, *c;

    import_template(world, "deb");
    a = running_guest(world, "a");
    b = running_guest(world, "b");
    c = create_guest(world, "deb", "c");
    /* A controller of files: not there for guests, so what is written fails and is told. */
    world->daemon->cpu.means = CPU_CGROUP2;
    world->daemon->cpu.n_cpus = 1;
    a->cpu.entered = b->cpu.entered = false;
    assert_int_equal(guest_set_cpu(a, &settings, &problem), 0);
    settings.reserve = 20;
    assert_true(guest_set_cpu(b, &settings, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_LIMIT_EXCEEDED);
    assert_string_equal(problem.text,
                        "guest b: a CPU reserve of 20 %: 80 % are promised to running "
                        "guests, and no more than 90 % of this host can be");
    assert_int_equal(guest_set_cpu(c, &settings, &problem), 0); /* it does not run */
    assert_true(guest_start(c, NULL, NULL, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_LIMIT_EXCEEDED);
    settings.reserve = 10;
    assert_int_equal(guest_set_cpu(c, &settings, &problem), 0);
    assert_int_equal(guest_start(c, NULL, NULL, &problem), 0);
    run_while_not(world, is_up, c);
    assert_non_null(strstr(c->cpu.text, "not in effect: guest c: cannot write "));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_v1, host_setup, host_teardown),
        cmocka_unit_test_setup_teardown(test_v2, host_setup, host_teardown),
        cmocka_unit_test_setup_teardown(test_v2_enabled, host_setup, host_teardown),
        cmocka_unit_test_setup_teardown(test_no_cgroup, host_setup, host_teardown),
        cmocka_unit_test_setup_teardown(test_refused, host_setup, host_teardown),
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_reserves_are_kept),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_nice),
        cmocka_unit_test_setup_teardown(test_nice_of_session, host_setup, host_teardown),
        cmocka_unit_test_setup_teardown(test_guest, world_setup, world_teardown),
        cmocka_unit_test_setup_teardown(test_reserves, world_setup, world_teardown),
    };

    be_a_fake_if_asked(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
