/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that runs out: what is read of the host and its cgroups, which level follows, what is done
 * with guests and undone again. The host is a directory of files.
 */
#include "tests/unit/test-daemon-util.h"
#include "vmmd/hostmem.h"
#include "vmmd/mapcount.h"
#include "vmmd/pressure.h"

/* ---- what is read ---- */

static struct hostmem read_host(const struct world *world)
{
    struct hostmem hostmem;

    assert_int_equal(hostmem_read(world->config.host_root, &hostmem), 0);
    return hostmem;
}

static void expect_host(const struct world *world, uint64_t total, uint64_t available,
                        const char *where)
{
    struct hostmem hostmem = read_host(world);

    assert_int_equal(hostmem.total / MIB, total);
    assert_int_equal(hostmem.available / MIB, available);
    assert_string_equal(hostmem.where, where);
}

static void write_size(const struct world *world, const char *path, uint64_t mib)
{
    char text[64];

    snprintf(text, sizeof(text), "%llu\n", (unsigned long long)(mib * MIB));
    world_host_file(world, path, text);
}

static void test_the_host(void **state)
{
    struct world *world = *state;
    struct hostmem hostmem = {.total = 77};
    char path[512];

    expect_host(world, 8192, 8000, "this host");
    world_host_file(world, "/proc/meminfo", "MemTotal: 1 kB\n");
    assert_true(hostmem_read(world->config.host_root, &hostmem) < 0);
    world_host_file(world, "/proc/meminfo", "MemTotal: 1 kB\nMemAvailable: 2 kB\n");
    assert_int_equal(hostmem_read(world->config.host_root, &hostmem), -EINVAL);
    world_host_file(world, "/proc/meminfo", "MemTotal: x kB\nMemAvailable: -2 kB\n");
    assert_true(hostmem_read(world->config.host_root, &hostmem) < 0);
    snprintf(path, sizeof(path), "%s/proc/meminfo", world->config.host_root);
    unlink(path);
    assert_int_equal(hostmem_read(world->config.host_root, &hostmem), -ENOENT);
    assert_int_equal(hostmem.total, 77);
}

#define V2_MOUNT \
    "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"

static void test_cgroup_v2(void **state)
{
    struct world *world = *state;

    world_host_file(world, "/proc/self/mountinfo", "20 1 0:1 / / rw - ext4 /dev/vda rw\n" V2_MOUNT);
    world_host_file(world, "/proc/self/cgroup", "0::/system.slice/vmmd.service\n");
    expect_host(world, 8192, 8000, "this host"); /* no files at all */
#define SERVICE "/sys/fs/cgroup/system.slice/vmmd.service/"
    world_host_file(world, SERVICE "memory.max", "max\n");
    write_size(world, SERVICE "memory.current", 700);
    expect_host(world, 8192, 8000, "this host");
    write_size(world, SERVICE "memory.max", 1024);
    expect_host(world, 1024, 324, "memory cgroup /system.slice/vmmd.service");
    world_host_file(world, SERVICE "memory.stat",
                    "anon 5\nfile 900000000\ninactive_anon 7\ninactive_file 104857600\n");
    expect_host(world, 1024, 424, "memory cgroup /system.slice/vmmd.service");
    write_size(world, SERVICE "memory.high", 800);
    expect_host(world, 800, 200, "memory cgroup /system.slice/vmmd.service");
    /* The parent ends sooner. */
    write_size(world, "/sys/fs/cgroup/system.slice/memory.max", 2000);
    write_size(world, "/sys/fs/cgroup/system.slice/memory.current", 1900);
    expect_host(world, 800, 100, "memory cgroup /system.slice");
    write_size(world, "/sys/fs/cgroup/system.slice/memory.current", 2100);
    expect_host(world, 800, 0, "memory cgroup /system.slice");
    world_set_memory(world, 512, 3); /* and the host before all of them */
    write_size(world, "/sys/fs/cgroup/system.slice/memory.current", 1900);
    expect_host(world, 512, 3, "this host");
}

static void test_cgroup_v1(void **state)
{
    struct world *world = *state;
    char text[64];

    world_host_file(world, "/proc/self/mountinfo",
                    "31 23 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
                    "32 23 0:29 /outer /sys/fs/cg\\040mem rw - cgroup cgroup rw,memory\n"
                    "33 23 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    world_host_file(world, "/proc/self/cgroup", "9:cpu:/x\n4:hugetlb,memory:/outer/a\n0::/\n");
    snprintf(text, sizeof(text), "%llu\n", 9223372036854771712ull); /* no limit */
    world_host_file(world, "/sys/fs/cg mem/a/memory.limit_in_bytes", text);
    write_size(world, "/sys/fs/cg mem/a/memory.usage_in_bytes", 100);
    expect_host(world, 8192, 8000, "this host");
    write_size(world, "/sys/fs/cg mem/a/memory.limit_in_bytes", 256);
    expect_host(world, 256, 156, "memory cgroup /a");
    world_host_file(world, "/sys/fs/cg mem/a/memory.stat",
                    "inactive_file 1\ntotal_inactive_file 10485760\n");
    expect_host(world, 256, 166, "memory cgroup /a");
    write_size(world, "/sys/fs/cg mem/memory.limit_in_bytes", 120);
    write_size(world, "/sys/fs/cg mem/memory.usage_in_bytes", 110);
    expect_host(world, 120, 10, "memory cgroup /");
    world_host_file(world, "/proc/self/cgroup", "4:memory:/../elsewhere\n");
    expect_host(world, 8192, 8000, "this host");
    world_host_file(world, "/proc/self/cgroup", "nonsense\n4:memory\n::::\n\n");
    expect_host(world, 8192, 8000, "this host");
    world_host_file(world, "/proc/self/mountinfo", "- \n - cgroup\nx - cgroup2 x y\n");
    world_host_file(world, "/proc/self/cgroup", "4:memory:/a\n0::/a\n");
    expect_host(world, 8192, 8000, "this host");
}

/* Files that hold anything: nothing but a figure or an error may come of them. */
static void test_garbage(void **state)
{
    static const char *const paths[] = {
        "/proc/self/mountinfo",         "/proc/self/cgroup",
        "/sys/fs/cgroup/a/memory.max",  "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/a/memory.stat", "/sys/fs/cgroup/a/memory.current"};
    static const char *const words[] = {V2_MOUNT,
                                        "0::/a\n",
                                        "4:memory:/a\n",
                                        " ",
                                        "\n",
                                        ":",
                                        "/",
                                        "\\040",
                                        "\\",
                                        "- cgroup2 ",
                                        " - cgroup x rw,memory",
                                        "max",
                                        "-1",
                                        "18446744073709551616",
                                        "4096",
                                        "inactive_file ",
                                        "..",
                                        "%n%s",
                                        "\xff\xfe"};
    struct world *world = *state;
    struct hostmem hostmem;
    char text[512];

    srand(1);
    for (int i = 0; i < 3000; i++) {
        text[0] = '\0';
        for (int n = rand() % 8; n > 0; n--)
            strcat(text, words[(size_t)rand() % (sizeof(words) / sizeof(words[0]))]);
        world_host_file(world, paths[(size_t)rand() % (sizeof(paths) / sizeof(paths[0]))], text);
        assert_int_equal(hostmem_read(world->config.host_root, &hostmem), 0);
        assert_true(hostmem.available <= hostmem.total);
    }
}

static void test_stalls(void **state)
{
    struct world *world = *state;
    int trigger = -1;

    assert_true(hostmem_stall(world->config.host_root) < 0);
    world_host_file(world, "/proc/pressure/memory",
                    "some avg10=12.34 avg60=0.00 avg300=0.00 total=5\n");
    assert_true(hostmem_stall(world->config.host_root) > 12);
    /* A file that is not the kernel's is not written to. */
    assert_int_equal(hostmem_stall_watch(world->config.host_root, &trigger), -ENOENT);
    assert_true(hostmem_stall(world->config.host_root) > 12);
    assert_int_equal(trigger, -1);
}

/* ---- the judgement ---- */

static struct pressure_limits limits_of(uint64_t total_mib, uint64_t at_risk_mib, bool stalls)
{
    struct pressure_view view = {
        .memory = {.total = total_mib * MIB}, .at_risk = at_risk_mib * MIB, .stalls = stalls};
    struct config config;

    config_init(&config);
    return pressure_limits(&config.pressure, &view);
}

static void expect_limits(struct pressure_limits limits, uint64_t low, uint64_t critical)
{
    /* A percentage of bytes is not whole MiB. */
    if (llabs((long long)(limits.low / MIB) - (long long)low) > 1 ||
        llabs((long long)(limits.critical / MIB) - (long long)critical) > 1)
        fail_msg("expected %llu and %llu MiB, got %llu and %llu", (unsigned long long)low,
                 (unsigned long long)critical, (unsigned long long)(limits.low / MIB),
                 (unsigned long long)(limits.critical / MIB));
}

static void test_limits(void **state)
{
    struct pressure_view view = {.memory = {.total = 8000 * MIB}};
    struct config config;

    (void)state;
    expect_limits(limits_of(8000, 0, false), 800, 400);
    expect_limits(limits_of(8000, 400, false), 900, 450);
    expect_limits(limits_of(8000, 100000, false), 1600, 800); /* never more than doubled */
    expect_limits(limits_of(8000, 0, true), 1600, 800);
    expect_limits(limits_of(400, 0, false), 64, 32);           /* not less */
    expect_limits(limits_of(100, 0, false), 25, 12);           /* but not most of it */
    expect_limits(limits_of(1u << 24, 0, false), 16384, 8192); /* not more */
    config_init(&config);
    config.pressure.low = (struct pressure_limit){.bytes = 10 * MIB};
    expect_limits(pressure_limits(&config.pressure, &view), 10, 10); /* critical is not above low */
    config.pressure.critical = (struct pressure_limit){.bytes = 5 * MIB};
    expect_limits(pressure_limits(&config.pressure, &view), 10, 5);
}

static void test_hysteresis(void **state)
{
    struct pressure_limits limits = {.low = 100, .critical = 40};
    static const struct {
        uint64_t available;
        enum pressure_level level;
    } steps[] = {
        {500, PRESSURE_NONE},    {100, PRESSURE_NONE},    {99, PRESSURE_LOW},
        {100, PRESSURE_LOW},     {124, PRESSURE_LOW},     {125, PRESSURE_NONE},
        {110, PRESSURE_NONE},    {39, PRESSURE_CRITICAL}, {40, PRESSURE_CRITICAL},
        {49, PRESSURE_CRITICAL}, {50, PRESSURE_LOW},      {45, PRESSURE_LOW},
        {0, PRESSURE_CRITICAL},  {124, PRESSURE_LOW},     {10, PRESSURE_CRITICAL},
        {125, PRESSURE_NONE},
    };
    enum pressure_level level = PRESSURE_NONE;

    (void)state;
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        level = pressure_judge(level, steps[i].available, &limits);
        assert_int_equal(level, steps[i].level);
    }
}

static void test_falling(void **state)
{
    (void)state;
    assert_true(pressure_falling(46 * MIB, 2 * MIB, 200, 5000));
    assert_false(pressure_falling(46 * MIB, 2 * MIB, 1000, 5000));
    assert_false(pressure_falling(46 * MIB, 2 * MIB, 200, 0));
    assert_false(pressure_falling(46 * MIB, 0, 200, UINT64_MAX));
    assert_false(pressure_falling(46 * MIB, MIB, 0, 1000)); /* too short to tell: as if in 100 ms */
    assert_true(pressure_falling(46 * MIB, 3 * MIB, 0, 1000));
    assert_true(pressure_falling(0, 0, 100, 100)); /* there is nothing left to fall */
    assert_true(pressure_falling(46 * MIB, UINT64_MAX, 1, UINT64_MAX));
}

/* ---- what is done ---- */

static bool has_reported(void *opaque)
{
    return ((struct guest *)opaque)->memory.nominal > 0;
}

static struct guest *running_guest(struct world *world, const char *name, int32_t priority)
{
    struct guest *guest = create_guest(world, "deb", name);
    struct problem problem;

    start_guest(world, guest);
    run_while_not(world, has_reported, guest);
    assert_int_equal(guest_set_priority(guest, priority, &problem), 0);
    return guest;
}

static bool is_paused(void *opaque)
{
    return ((struct guest *)opaque)->state == GUEST_PAUSED;
}

static bool is_running(void *opaque)
{
    return ((struct guest *)opaque)->state == GUEST_RUNNING;
}

static void look(struct world *world, unsigned available)
{
    world_set_memory(world, 8192, available);
    pressure_check(world->daemon->pressure);
}

static enum pressure_level level_of(const struct world *world)
{
    return pressure_level(world->daemon->pressure);
}

static void test_no_start_when_low(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    world_set_memory(world, 8192, 700); /* nobody looked yet: the start does */
    assert_int_equal(guest_start(guest, NULL, NULL, &problem), -ENOMEM);
    assert_int_equal(problem.kind, PROBLEM_NO_MEMORY);
    assert_string_equal(problem.text,
                        "guest web is not started: memory is low: 700 of 8192 MiB are available "
                        "(this host); guests start again from 1024 MiB: stop some, or give vmmd "
                        "more memory");
    assert_int_equal(guest->phase, PHASE_IDLE);
    assert_int_equal(guest->state, GUEST_CREATED);
    assert_int_equal(level_of(world), PRESSURE_LOW);
    world_set_memory(world, 8192, 8000);
    start_guest(world, guest);
    assert_int_equal(level_of(world), PRESSURE_NONE);
}

static bool runs_again(void *opaque)
{
    const struct guest *guest = opaque;

    return guest->phase == PHASE_UP && guest->login && guest->memory.nominal > 0;
}

/* A reboot gives back what it takes: it is no start. */
static void test_a_reboot_when_low(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;
    pid_t first;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "reboot-1");
    assert_int_equal(guest_start(guest, NULL, NULL, &problem), 0);
    first = child_pid(guest->process);
    world_set_memory(world, 8192, 100);
    pressure_check(world->daemon->pressure);
    assert_int_equal(level_of(world), PRESSURE_CRITICAL);
    world->daemon->config.pressure.pause_guests = false;
    while (!guest->process || child_pid(guest->process) == first)
        event_base_loop(world->base, EVLOOP_ONCE);
    run_while_not(world, runs_again, guest);
    assert_int_equal(guest->state, GUEST_RUNNING);
}

static bool told_budget(struct guest *guest, const char *text)
{
    return strcmp(guest->device_error, text) == 0;
}

static bool budget_is_0(void *opaque)
{
    return told_budget(opaque, "budget 0");
}

static bool budget_is_10(void *opaque)
{
    return told_budget(opaque, "budget 10");
}

static bool budget_is_33(void *opaque)
{
    return told_budget(opaque, "budget 33");
}

static void test_merging_stops_when_low(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;

    import_template(world, "deb");
    guest = running_guest(world, "budget-1", 0);
    run_while_not(world, budget_is_10, guest);
    look(world, 700);
    run_while_not(world, budget_is_0, guest);
    assert_int_equal(guest->state, GUEST_RUNNING);
    assert_int_equal(daemon_set_scan_budget(world->daemon, 33, &problem), 0);
    reopen_daemon(world); /* what an earlier daemon wanted is not what counts */
    world->daemon->config.scan_budget = 33;
    guest = guest_find(world->daemon, "budget-1");
    run_while_not(world, budget_is_0, guest);
    look(world, 8000);
    run_while_not(world, budget_is_33, guest);
}

static void test_priorities(void **state)
{
    struct world *world = *state;
    struct guest *high, *low, *busy, *calm;

    import_template(world, "deb");
    high = running_guest(world, "high", 100);
    low = running_guest(world, "low", -100);
    busy = running_guest(world, "busy", 5);
    calm = running_guest(world, "calm", 5);
    busy->memory.splits = calm->memory.splits + 1;
    world->daemon->config.pressure.pause_interval = 0;
    look(world, 100);
    assert_int_equal(level_of(world), PRESSURE_CRITICAL);
    run_while_not(world, is_paused, low);
    assert_string_equal(low->reason, "paused by vmmd: memory is critical: 100 of 8192 MiB are "
                                     "available (this host)");
    assert_int_equal(busy->state, GUEST_RUNNING);
    look(world, 100);
    run_while_not(world, is_paused, busy);
    assert_int_equal(calm->state, GUEST_RUNNING);
    look(world, 100);
    run_while_not(world, is_paused, calm);
    look(world, 700); /* low: nobody else, and nobody goes on */
    assert_int_equal(high->state, GUEST_RUNNING);
    assert_int_equal(calm->state, GUEST_PAUSED);
    look(world, 8000);
    run_while_not(world, is_running, calm); /* the last one first */
    assert_string_equal(calm->reason, "");
    pressure_check(world->daemon->pressure);
    run_while_not(world, is_running, busy);
    pressure_check(world->daemon->pressure);
    run_while_not(world, is_running, low);
}

/* The next one is not waited for when memory would be gone by then. */
static void test_fast_fall(void **state)
{
    struct world *world = *state;
    struct guest *a, *b, *c;

    import_template(world, "deb");
    a = running_guest(world, "a", 1);
    b = running_guest(world, "b", 2);
    c = running_guest(world, "c", 3);
    world->daemon->config.pressure.pause_interval = 3600 * 1000;
    look(world, 300);
    run_while_not(world, is_paused, a);
    look(world, 200);
    run_while_not(world, is_paused, b);
    look(world, 200); /* it falls no more */
    assert_false(c->held);
}

static void test_one_at_a_time(void **state)
{
    struct world *world = *state;
    struct guest *a, *b;

    import_template(world, "deb");
    a = running_guest(world, "a", 1);
    b = running_guest(world, "b", 2);
    world->daemon->config.pressure.pause_interval = 3600 * 1000;
    look(world, 100);
    look(world, 100);
    look(world, 110);
    run_while_not(world, is_paused, a);
    assert_int_equal(b->state, GUEST_RUNNING);
    assert_false(b->held);
}

static void test_pausing_can_be_switched_off(void **state)
{
    struct world *world = *state;
    struct guest *guest;

    import_template(world, "deb");
    guest = running_guest(world, "a", 1);
    world->daemon->config.pressure.pause_guests = false;
    look(world, 100);
    assert_int_equal(level_of(world), PRESSURE_CRITICAL);
    assert_false(guest->held);
}

/* What a person paused stays so, what a person resumed is not paused again. */
static void test_a_person_comes_first(void **state)
{
    struct world *world = *state;
    struct outcome pause = {0}, resume = {0}, take = {0};
    struct guest *mine, *taken, *resumed;

    import_template(world, "deb");
    mine = running_guest(world, "mine", 0);
    taken = running_guest(world, "taken", -5);
    resumed = running_guest(world, "resumed", -10);
    world->daemon->config.pressure.pause_interval = 0;
    assert_int_equal(guest_pause(mine, on_outcome, &pause, &pause.problem), 0);
    run_until(world, &pause.done);
    look(world, 100);
    run_while_not(world, is_paused, resumed);
    look(world, 100);
    run_while_not(world, is_paused, taken);
    assert_int_equal(guest_pause(taken, on_outcome, &take, &take.problem), 0);
    assert_true(take.done && take.ok);
    assert_string_equal(taken->reason, "");
    assert_true(guest_pause(taken, NULL, NULL, &take.problem) < 0);
    assert_int_equal(guest_resume(resumed, on_outcome, &resume, &resume.problem), 0);
    run_until(world, &resume.done);
    look(world, 100);
    assert_false(resumed->held);
    look(world, 8000);
    look(world, 8000);
    assert_int_equal(resumed->state, GUEST_RUNNING);
    assert_int_equal(mine->state, GUEST_PAUSED);
    assert_int_equal(taken->state, GUEST_PAUSED);
    look(world, 100); /* the next time counts anew */
    run_while_not(world, is_paused, resumed);
}

static void test_a_held_guest_survives_the_daemon(void **state)
{
    struct world *world = *state;
    struct outcome pause = {0};
    struct guest *held, *mine;

    import_template(world, "deb");
    held = running_guest(world, "held", -1);
    mine = running_guest(world, "mine", 1);
    assert_int_equal(guest_pause(mine, on_outcome, &pause, &pause.problem), 0);
    run_until(world, &pause.done);
    look(world, 100);
    run_while_not(world, is_paused, held);
    reopen_daemon(world);
    held = guest_find(world->daemon, "held");
    mine = guest_find(world->daemon, "mine");
    assert_int_equal(held->config.priority, -1);
    assert_int_equal(held->state, GUEST_PAUSED);
    assert_non_null(strstr(held->reason, "paused by vmmd: memory is critical"));
    look(world, 8000);
    run_while_not(world, is_running, held);
    assert_int_equal(mine->state, GUEST_PAUSED);
}

static bool is_given_up(void *opaque)
{
    return ((struct guest *)opaque)->hold_never;
}

static void test_a_deaf_guest_is_skipped(void **state)
{
    struct world *world = *state;
    struct guest *deaf, *other;

    import_template(world, "deb");
    other = running_guest(world, "other", 1);
    deaf = running_guest(world, "deaf-1", -1);
    world->daemon->config.pressure.pause_interval = 0;
    look(world, 100);
    run_while_not(world, is_given_up, deaf);
    assert_false(deaf->held);
    run_while_not(world, is_paused, other);
}

/* Where the kernel reports no stalls they are read: the same memory is less worth then. */
static void test_stalls_count(void **state)
{
    struct world *world = *state;

    look(world, 1100);
    assert_int_equal(level_of(world), PRESSURE_NONE);
    world_host_file(world, "/proc/pressure/memory",
                    "some avg10=9.99 avg60=0.00 avg300=0.00 total=5\n");
    look(world, 1100);
    assert_int_equal(level_of(world), PRESSURE_NONE);
    world_host_file(world, "/proc/pressure/memory",
                    "some avg10=10.01 avg60=0.00 avg300=0.00 total=5\n");
    look(world, 1100);
    assert_int_equal(level_of(world), PRESSURE_LOW);
}

static void test_figures_that_cannot_be_read(void **state)
{
    struct world *world = *state;

    look(world, 700);
    world_host_file(world, "/proc/meminfo", "");
    pressure_check(world->daemon->pressure);
    assert_int_equal(level_of(world), PRESSURE_LOW); /* as it was when it last was known */
}

static void test_priorities_are_checked(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    assert_int_equal(guest_set_priority(guest, -100, &problem), 0);
    assert_true(guest_set_priority(guest, 101, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_INVALID_ARGUMENT);
    assert_string_equal(problem.text, "a priority is -100 to 100, not 101");
    assert_true(guest_set_priority(guest, INT32_MIN, &problem) < 0);
    assert_int_equal(guest->config.priority, -100);
    reopen_daemon(world);
    assert_int_equal(guest_find(world->daemon, "web")->config.priority, -100);
}

/* ---- vm.max_map_count ---- */

#define MAP_COUNT "/proc/sys/vm/max_map_count"

static unsigned long count_of(const struct world *world)
{
    char path[512];
    unsigned long count = 0;
    FILE *file;

    snprintf(path, sizeof(path), "%s" MAP_COUNT, world->config.host_root);
    file = fopen(path, "r");
    assert_int_equal(fscanf(file, "%lu", &count), 1);
    fclose(file);
    return count;
}

static void test_max_map_count(void **state)
{
    struct world *world = *state;
    struct config *config = &world->config;

    config->raise_max_map_count = RAISE_YES; /* of a file that is not there: the kernel's default */
    assert_int_equal(mapcount_settle(config), 65530 / 4 * 3);
    world_host_file(world, MAP_COUNT, "65530\n");
    config->raise_max_map_count = RAISE_NO;
    assert_int_equal(mapcount_settle(config), 65530 / 4 * 3);
    config->raise_max_map_count = RAISE_AUTO;
    config->session = true; /* a user's daemon does not change the host without being told */
    assert_int_equal(mapcount_settle(config), 65530 / 4 * 3);
    assert_int_equal(count_of(world), 65530);
    config->session = false;
    assert_int_equal(mapcount_settle(config), MAP_COUNT_WANTED / 4 * 3);
    assert_int_equal(count_of(world), MAP_COUNT_WANTED);
    world_host_file(world, MAP_COUNT, "2000000\n"); /* never lowered */
    assert_int_equal(mapcount_settle(config), 2000000 / 4 * 3);
    assert_int_equal(count_of(world), 2000000);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(test_the_host),
        CASE(test_cgroup_v2),
        CASE(test_cgroup_v1),
        CASE(test_garbage),
        CASE(test_stalls),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_hysteresis),
        cmocka_unit_test(test_falling),
        CASE(test_no_start_when_low),
        CASE(test_a_reboot_when_low),
        CASE(test_merging_stops_when_low),
        CASE(test_priorities),
        CASE(test_fast_fall),
        CASE(test_one_at_a_time),
        CASE(test_pausing_can_be_switched_off),
        CASE(test_a_person_comes_first),
        CASE(test_a_held_guest_survives_the_daemon),
        CASE(test_a_deaf_guest_is_skipped),
        CASE(test_stalls_count),
        CASE(test_figures_that_cannot_be_read),
        CASE(test_priorities_are_checked),
        CASE(test_max_map_count),
    };

    be_a_fake_if_asked(argc, argv);
    alarm(10 * TEST_LIMIT_SECS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
