/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of guests: start, stop, survival of the daemon, and guest processes that die, hang or
 * lie. None of them may hurt the daemon or another guest, and each leaves a reason.
 */
#include "vmmd/child.h"
#include "tests/unit/test-daemon-util.h"

static bool is_idle(void *opaque)
{
    return ((struct guest *)opaque)->phase == PHASE_IDLE;
}

static bool has_login(void *opaque)
{
    return ((struct guest *)opaque)->login;
}

static void stop_guest(struct world *world, struct guest *guest, bool force)
{
    struct outcome outcome = {0};

    assert_int_equal(guest_stop(guest, force, on_outcome, &outcome, &outcome.problem), 0);
    run_until(world, &outcome.done);
    assert_true(outcome.ok);
    run_while_not(world, is_idle, guest);
}

static void test_start_and_stop(void **state)
{
    struct world *world = *state;
    struct outcome outcome = {0};
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    assert_int_equal(guest->state, GUEST_CREATED);
    start_guest(world, guest);
    assert_int_equal(guest->state, GUEST_RUNNING);
    assert_int_equal(guest->ram_address, RAM_ADDRESS);
    run_while_not(world, has_login, guest);
    assert_true(guest_start(guest, NULL, NULL, &outcome.problem) < 0);
    assert_int_equal(outcome.problem.kind, PROBLEM_WRONG_STATE);
    assert_true(guest_delete(guest, &outcome.problem) < 0);
    assert_int_equal(outcome.problem.kind, PROBLEM_WRONG_STATE);
    stop_guest(world, guest, false);
    assert_int_equal(guest->state, GUEST_STOPPED);
    assert_string_equal(guest->reason, "powered off");
    start_guest(world, guest);
    stop_guest(world, guest, true);
    assert_int_equal(guest->state, GUEST_STOPPED);
    assert_true(guest_stop(guest, true, NULL, NULL, &outcome.problem) < 0);
    assert_int_equal(outcome.problem.kind, PROBLEM_WRONG_STATE);
    assert_int_equal(guest_delete(guest, &outcome.problem), 0);
    assert_null(guest_find(world->daemon, "web"));
}

static void test_pause_and_memory(void **state)
{
    struct world *world = *state;
    struct outcome paused = {0}, resumed = {0}, memory = {0};
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    start_guest(world, guest);
    assert_int_equal(guest_pause(guest, on_outcome, &paused, &paused.problem), 0);
    run_until(world, &paused.done);
    assert_true(paused.ok);
    assert_int_equal(guest->state, GUEST_PAUSED);
    assert_true(guest_stop(guest, false, NULL, NULL, &paused.problem) < 0);
    assert_int_equal(guest_resume(guest, on_outcome, &resumed, &resumed.problem), 0);
    run_until(world, &resumed.done);
    assert_int_equal(guest->state, GUEST_RUNNING);
    assert_int_equal(guest_query_memory(guest, on_outcome, &memory, &memory.problem), 0);
    run_until(world, &memory.done);
    assert_true(memory.ok);
    assert_int_equal(guest->memory.nominal, 64 * MIB);
}

static void test_console(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;
    char text[64] = "";
    int fd = -1;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    start_guest(world, guest);
    assert_int_equal(guest_open_console(guest, &fd, &problem), 0);
    assert_true(read(fd, text, sizeof(text) - 1) > 0);
    assert_string_equal(text, "web login: ");
    close(fd);
    assert_int_equal(guest_open_log(guest, &fd, &problem), 0);
    assert_true(read(fd, text, sizeof(text) - 1) > 0);
    assert_non_null(strstr(text, "fake console of web"));
    close(fd);
}

static void test_reboot_starts_again(void **state)
{
    struct world *world = *state;
    struct outcome outcome = {0};
    struct guest *guest;
    pid_t first;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "reboot-1");
    assert_int_equal(guest_start(guest, on_outcome, &outcome, &outcome.problem), 0);
    first = child_pid(guest->process); /* it may be gone before we hear that it has run */
    run_until(world, &outcome.done);
    run_while_not(world, has_login, guest);
    while (!guest->process || child_pid(guest->process) == first || guest->phase != PHASE_UP)
        event_base_loop(world->base, EVLOOP_ONCE);
    assert_int_equal(guest->state, GUEST_RUNNING);
}

static void test_restart_by_force(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;
    pid_t first;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    start_guest(world, guest);
    first = child_pid(guest->process);
    assert_int_equal(guest_restart(guest, true, &problem), 0);
    while (!guest->process || child_pid(guest->process) == first || guest->phase != PHASE_UP)
        event_base_loop(world->base, EVLOOP_ONCE);
    assert_int_equal(guest->state, GUEST_RUNNING);
}

/* ---- survival ---- */

static void test_guests_survive_the_daemon(void **state)
{
    struct world *world = *state;
    struct guest *guest;
    pid_t pid;

    import_template(world, "deb");
    start_guest(world, create_guest(world, "deb", "web"));
    guest = create_guest(world, "deb", "wrongname-1");
    start_guest(world, guest);
    pid = child_pid(guest_find(world->daemon, "web")->process);
    create_guest(world, "deb", "idle");
    reopen_daemon(world);
    guest = guest_find(world->daemon, "web");
    assert_int_equal(guest->state, GUEST_RUNNING);
    assert_int_equal(child_pid(guest->process), pid);
    assert_true(guest->login);
    assert_int_equal(guest_find(world->daemon, "idle")->state, GUEST_CREATED);
    guest = guest_find(world->daemon, "wrongname-1");
    run_while_not(world, is_idle, guest);
    assert_int_equal(guest->state, GUEST_FAILED);
    assert_non_null(strstr(guest->reason, "name of another guest"));
}

static void test_a_guest_that_died_meanwhile(void **state)
{
    struct world *world = *state;
    struct guest *guest;
    pid_t pid;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    start_guest(world, guest);
    pid = child_pid(guest->process);
    daemon_free(world->daemon);
    world->daemon = NULL;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    world_open_daemon(world);
    guest = guest_find(world->daemon, "web");
    assert_int_equal(guest->state, GUEST_FAILED);
    assert_string_equal(guest->reason, "guest process ended while vmmd was not running");
    start_guest(world, guest);
    assert_int_equal(guest->state, GUEST_RUNNING);
}

/* A pid in the record that now belongs to another process must not be touched. */
static void test_a_recycled_pid_is_left_alone(void **state)
{
    struct world *world = *state;
    char path[128];
    json_t *json;
    int dir;

    import_template(world, "deb");
    create_guest(world, "deb", "web");
    snprintf(path, sizeof(path), "%s/state/guests/web", world->dir);
    dir = open(path, O_RDONLY | O_DIRECTORY);
    json =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:s}", "state", "running", "reason", "", "pid",
                  (int)getpid(), "start_ticks", 1, "started", 1, "boot_id", world->daemon->boot_id);
    assert_int_equal(json_save(dir, "state.json", json, false), 0);
    json_decref(json);
    close(dir);
    reopen_daemon(world);
    assert_int_equal(guest_find(world->daemon, "web")->state, GUEST_FAILED);
}

static void test_the_host_was_restarted(void **state)
{
    struct world *world = *state;
    char path[128];
    json_t *json;
    int dir;

    import_template(world, "deb");
    create_guest(world, "deb", "web");
    snprintf(path, sizeof(path), "%s/state/guests/web", world->dir);
    dir = open(path, O_RDONLY | O_DIRECTORY);
    json = json_pack("{s:s, s:s, s:i, s:i, s:i, s:s}", "state", "running", "reason", "", "pid", 77,
                     "start_ticks", 1, "started", 1, "boot_id", "another boot");
    assert_int_equal(json_save(dir, "state.json", json, false), 0);
    json_decref(json);
    close(dir);
    reopen_daemon(world);
    assert_int_equal(guest_find(world->daemon, "web")->state, GUEST_STOPPED);
    assert_string_equal(guest_find(world->daemon, "web")->reason, "the host was restarted");
}

static void test_one_daemon_per_directory(void **state)
{
    struct world *world = *state;
    char dir[128], other[128];
    struct problem problem;
    struct daemon *second;

    snprintf(dir, sizeof(dir), "%s/state", world->dir);
    snprintf(other, sizeof(other), "%s/other", world->dir);
    assert_true(daemon_new(&second, world->base, &world->config, dir, other, &problem) < 0);
    assert_non_null(strstr(problem.text, "another vmmd uses"));
    snprintf(dir, sizeof(dir), "%s/run", world->dir);
    assert_true(daemon_new(&second, world->base, &world->config, other, dir, &problem) < 0);
    assert_non_null(strstr(problem.text, "another vmmd uses"));
}

/* ---- dying and lying ---- */

static void expect_failure(struct world *world, const char *name, const char *reason)
{
    struct outcome outcome = {0};
    struct guest *guest = create_guest(world, "deb", name);

    assert_int_equal(guest_start(guest, on_outcome, &outcome, &outcome.problem), 0);
    run_until(world, &outcome.done);
    run_while_not(world, is_idle, guest);
    assert_int_equal(guest->state, GUEST_FAILED);
    if (!strstr(guest->reason, reason))
        fail_msg("%s: expected \"%s\", got \"%s\"", name, reason, guest->reason);
    assert_int_equal(guest_delete(guest, &outcome.problem), 0);
}

static void test_bad_guest_processes(void **state)
{
    static const struct {
        const char *name, *reason;
    } cases[] = {
        {"failed-1", "the kernel is not one"},
        {"exit-1", "guest process exited with status 3"},
        {"killed-1", "guest process killed by signal 9"},
        {"wrongpid-1", "a pid that is not its own"},
        {"early-1", "it runs something before its setup"},
        {"badmagic-1", "a malformed message"},
        {"badversion-1", "another version"},
        {"unterminated-1", "a malformed message"},
        {"fds-1", "a malformed message"},
        {"twice-1", "a second greeting"},
        {"short-1", "a malformed message"},
        {"huge-1", "a malformed message"},
        {"direction-1", "a message of the wrong direction"},
        {"badstate-1", "an unknown state"},
        {"faroff-1", "a damaged block that its template cannot have"},
        {"unaligned-1", "a damaged block that its template cannot have"},
        {"ruins-1", "a damaged block that its template cannot have"},
        {"flood-1", "a flood of messages"},
        {"poollie-1", "lied to the memory pool"},
    };
    struct world *world = *state;
    struct guest *good;
    pid_t pid;

    import_template(world, "deb");
    good = create_guest(world, "deb", "good");
    start_guest(world, good);
    pid = child_pid(good->process);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_failure(world, cases[i].name, cases[i].reason);
    assert_int_equal(good->state, GUEST_RUNNING);
    assert_int_equal(child_pid(good->process), pid);
}

static void test_slow_guest_processes(void **state)
{
    struct world *world = *state;

    world->daemon->config.start_timeout = 1;
    import_template(world, "deb");
    expect_failure(world, "silent-1", "did not start within 1 s");
    expect_failure(world, "never-1", "did not start within 1 s");
}

static void test_a_deaf_guest_process(void **state)
{
    struct world *world = *state;
    struct outcome pause = {0}, memory = {0};
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "deaf-1");
    start_guest(world, guest);
    assert_int_equal(guest_pause(guest, on_outcome, &pause, &pause.problem), 0);
    assert_int_equal(guest_query_memory(guest, on_outcome, &memory, &memory.problem), 0);
    run_until(world, &pause.done);
    run_until(world, &memory.done);
    assert_false(pause.ok);
    assert_int_equal(pause.problem.kind, PROBLEM_BUSY);
    assert_false(memory.ok);
    assert_int_equal(memory.problem.kind, PROBLEM_BUSY);
    stop_guest(world, guest, true); /* is killed in the end */
    assert_int_equal(guest->state, GUEST_STOPPED);
}

static void test_texts_are_made_presentable(void **state)
{
    struct world *world = *state;
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "device-1");
    start_guest(world, guest);
    while (!guest->device_error[0])
        event_base_loop(world->base, EVLOOP_ONCE);
    assert_string_equal(guest->device_error, "virtio-blk:?bad?[2J queue ?");
    assert_int_equal(guest->state, GUEST_RUNNING);
}

static void test_damage_is_heard_of(void **state)
{
    struct world *world = *state;
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "damaged-1");
    start_guest(world, guest);
    while (guest->n_damaged < 2)
        event_base_loop(world->base, EVLOOP_ONCE);
    assert_int_equal(guest->state, GUEST_RUNNING);
}

static void test_too_many_waiters(void **state)
{
    struct world *world = *state;
    struct outcome outcomes[GUEST_WAITERS_MAX + 1] = {0};
    struct problem problem;
    struct guest *guest;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "deaf-1");
    start_guest(world, guest);
    for (int i = 0; i < GUEST_WAITERS_MAX; i++)
        assert_int_equal(guest_query_memory(guest, on_outcome, &outcomes[i], &problem), 0);
    assert_true(guest_query_memory(guest, on_outcome, &outcomes[GUEST_WAITERS_MAX], &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BUSY);
    child_kill(guest->process);
    run_while_not(world, is_idle, guest);
    for (int i = 0; i < GUEST_WAITERS_MAX; i++)
        assert_true(outcomes[i].done);
}

/* ---- templates that change, programs that are missing ---- */

static void test_a_changed_template_is_refused(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;
    char path[128];
    int fd;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    snprintf(path, sizeof(path), "%s/state/templates/deb/disk.raw", world->dir);
    assert_int_equal(chmod(path, 0600), 0);
    fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "x", 1, 5000), 1);
    close(fd);
    assert_true(guest_start(guest, NULL, NULL, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BAD_IMAGE);
    assert_non_null(strstr(problem.text, "was changed since its import"));
    assert_int_equal(guest->state, GUEST_CREATED);
}

static void test_a_missing_program(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;
    char path[128];

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    snprintf(path, sizeof(path), "%s/vmmd-guest", world->dir);
    unlink(path);
    assert_true(guest_start(guest, NULL, NULL, &problem) < 0);
    assert_non_null(strstr(problem.text, "vmmd-guest: No such file"));
}

/* A guest that a restarted daemon would not find again must not run. */
static void test_no_start_without_a_record(void **state)
{
    struct world *world = *state;
    struct problem problem;
    struct guest *guest;
    char path[128];

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    snprintf(path, sizeof(path), "%s/state/guests/web/.tmp-state.json", world->dir);
    assert_int_equal(mkdir(path, 0700), 0); /* in the way */
    assert_true(guest_start(guest, NULL, NULL, &problem) < 0);
    assert_non_null(strstr(problem.text, "guests/web"));
    assert_int_equal(guest->phase, PHASE_IDLE);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
    assert_int_equal(rmdir(path), 0);
    start_guest(world, guest);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(test_start_and_stop),
        CASE(test_pause_and_memory),
        CASE(test_console),
        CASE(test_reboot_starts_again),
        CASE(test_restart_by_force),
        CASE(test_guests_survive_the_daemon),
        CASE(test_a_guest_that_died_meanwhile),
        CASE(test_a_recycled_pid_is_left_alone),
        CASE(test_the_host_was_restarted),
        CASE(test_one_daemon_per_directory),
        CASE(test_bad_guest_processes),
        CASE(test_slow_guest_processes),
        CASE(test_a_deaf_guest_process),
        CASE(test_texts_are_made_presentable),
        CASE(test_damage_is_heard_of),
        CASE(test_too_many_waiters),
        CASE(test_a_changed_template_is_refused),
        CASE(test_a_missing_program),
        CASE(test_no_start_without_a_record),
    };

    be_a_fake_if_asked(argc, argv);
    alarm(10 * TEST_LIMIT_SECS); /* a loop that never ends is a failure, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
