/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the daemon keeps on disk: guests and templates come back as they were; damaged and hostile
 * files are skipped and hurt nothing else; nothing half-made stays.
 */
#include "tests/unit/test-daemon-util.h"

#include "vmmd/template-read.h"

static struct guest_config sample(void)
{
    struct guest_config config = {
        .name = "web-1",
        .tmpl = "deb",
        .share_group = "none",
        .memory = 512 * MIB,
        .vcpus = 1,
        .engine = ENGINE_AUTO,
        .created = 1234567890123456,
        .priority = -7,
        .cpu = {.shares = 400, .limit = 50, .reserve = 25},
    };

    for (int i = 0; i < 16; i++)
        config.uuid[i] = (uint8_t)(i * 17);
    return config;
}

static void test_guest_json_round_trip(void **state)
{
    struct guest_config in = sample(), out = {0};
    json_t *json = guest_config_to_json(&in);

    (void)state;
    assert_non_null(json);
    assert_int_equal(guest_config_from_json(json, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    json_decref(json);
}

static void test_bad_guest_json(void **state)
{
    static const struct {
        const char *key, *value; /* JSON */
    } cases[] = {
        {"name", "\"a/b\""},
        {"name", "\"\""},
        {"name", "7"},
        {"name", "\"a\\u0000b\""},
        {"template", "\"..\""},
        {"template", "null"},
        {"share_group", "\"/\""},
        {"memory", "0"},
        {"memory", "-1"},
        {"memory", "33554433"},
        {"memory", "\"1G\""},
        {"memory", "1.5"},
        {"vcpus", "0"},
        {"vcpus", "4294967297"},
        {"vcpus", "1000"},
        {"engine", "\"warp\""},
        {"uuid", "\"00\""},
        {"created", "-5"},
        {"priority", "101"},
        {"priority", "-101"},
        {"priority", "\"5\""},
        {"cpu_shares", "0"},
        {"cpu_shares", "10001"},
        {"cpu_shares", "\"100\""},
        {"cpu_limit", "-1"},
        {"cpu_limit", "24"}, /* below the reserve */
        {"cpu_limit", "6401"},
        {"cpu_reserve", "51"}, /* above the limit */
        {"cpu_reserve", "1.5"},
        {"uuid", "\"zz112233445566778899aabbccddeeff\""},
    };
    struct guest_config in = sample(), out;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *json = guest_config_to_json(&in);
        json_t *value = json_loads(cases[i].value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

        assert_non_null(value);
        json_object_set_new(json, cases[i].key, value);
        if (guest_config_from_json(json, &out) == 0)
            fail_msg("accepted %s: %s", cases[i].key, cases[i].value);
        json_object_del(json, cases[i].key);
        if (strcmp(cases[i].key, "priority") == 0 ||
            strncmp(cases[i].key, "cpu_", 4) == 0) /* earlier versions wrote none */
            assert_int_equal(guest_config_from_json(json, &out), 0);
        else
            assert_true(guest_config_from_json(json, &out) < 0);
        json_decref(json);
    }
}

static void write_file(const struct world *world, const char *name, const char *text)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/state/%s", world->dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void make_dir(const struct world *world, const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/state/%s", world->dir, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void test_damaged_entries_are_skipped(void **state)
{
    struct world *world = *state;

    import_template(world, "deb");
    create_guest(world, "deb", "web");
    make_dir(world, "guests/empty");
    make_dir(world, "guests/garbage");
    write_file(world, "guests/garbage/guest.json", "{\"name\":");
    make_dir(world, "guests/array");
    write_file(world, "guests/array/guest.json", "[]");
    make_dir(world, "guests/moved"); /* says that it is another */
    write_file(world, "guests/moved/guest.json", "{\"name\":\"web\"}");
    make_dir(world, "guests/bad name");
    write_file(world, "guests/file", "x");
    make_dir(world, "templates/garbage");
    write_file(world, "templates/garbage/template.json", "\xff\xfe");
    make_dir(world, "guests/.tmp-123");
    write_file(world, "guests/.tmp-123/overlay.qcow2", "x");
    make_dir(world, "templates/.tmp-123");
    write_file(world, "guests/web/state.json", "garbage");
    daemon_free(world->daemon);
    world_open_daemon(world);
    assert_int_equal(world->daemon->n_guests, 1);
    assert_int_equal(guest_find(world->daemon, "web")->state, GUEST_CREATED);
    assert_non_null(template_find(world->daemon, "deb"));
    assert_null(template_find(world->daemon, "garbage"));
    assert_false(exists(world, "guests/.tmp-123"));
    assert_false(exists(world, "templates/.tmp-123"));
    assert_true(exists(world, "guests/garbage")); /* skipped, not thrown away */
}

static void test_creation_is_all_or_none(void **state)
{
    struct world *world = *state;
    struct create_request request = {.tmpl = "deb", .name = "n", .has_count = true, .count = 5};
    struct outcome outcome = {0};

    import_template(world, "deb");
    make_dir(world, "guests/n-4"); /* unknown to the daemon: the last rename but one fails */
    assert_int_equal(
        create_guests(world->daemon, &request, on_outcome_created, &outcome, &outcome.problem), 0);
    assert_null(guest_find(world->daemon, "n-1")); /* not before all are there */
    /* Names and template are taken while it is busy. */
    request.has_count = false;
    request.name = "n-2";
    assert_int_equal(
        create_guests(world->daemon, &request, on_outcome_created, &outcome, &outcome.problem),
        -EEXIST);
    assert_true(template_delete(template_find(world->daemon, "deb"), &outcome.problem) < 0);
    assert_int_equal(outcome.problem.kind, PROBLEM_IN_USE);
    run_until(world, &outcome.done);
    assert_false(outcome.ok);
    assert_non_null(strstr(outcome.problem.text, "n-4"));
    assert_int_equal(world->daemon->n_guests, 0);
    assert_false(exists(world, "guests/n-1"));
    assert_true(exists(world, "guests/n-4"));
    dir_clean(world->daemon->guests_fd);
}

static void test_the_daemon_ends_in_between(void **state)
{
    struct world *world = *state;
    struct create_request request = {.tmpl = "deb", .name = "n", .has_count = true, .count = 50};
    struct outcome outcome = {0};

    import_template(world, "deb");
    assert_int_equal(
        create_guests(world->daemon, &request, on_outcome_created, &outcome, &outcome.problem), 0);
    import_image(world, "hanging", "hang");
    for (int i = 0; i < 5; i++)
        event_base_loop(world->base, EVLOOP_ONCE);
    daemon_free(world->daemon);
    assert_true(outcome.done);
    assert_false(outcome.ok);
    world_open_daemon(world);
    assert_int_equal(world->daemon->n_guests, 0);
    assert_null(template_find(world->daemon, "hanging"));
}

static void test_too_many_guests(void **state)
{
    struct world *world = *state;
    struct create_request request = {.tmpl = "deb", .name = "n", .has_count = true};
    struct outcome outcome = {0};

    world->daemon->config.max_guests = 3;
    import_template(world, "deb");
    create_guest(world, "deb", "web");
    request.count = 3;
    assert_true(
        create_guests(world->daemon, &request, on_outcome_created, &outcome, &outcome.problem) < 0);
    assert_int_equal(outcome.problem.kind, PROBLEM_LIMIT_EXCEEDED);
    assert_int_equal(world->daemon->n_guests, 1);
}

/* ---- imports ---- */

static void expect_import_failure(struct world *world, const char *word, const char *error)
{
    struct job *job = import_image(world, "bad", word);

    run_while_not(world, job_ended, job);
    assert_int_equal(job->state, JOB_FAILED);
    if (!strstr(job->error, error))
        fail_msg("%s: expected \"%s\", got \"%s\"", word, error, job->error);
    assert_null(template_find(world->daemon, "bad"));
}

static void test_failing_imports(void **state)
{
    struct world *world = *state;

    expect_import_failure(world, "fail", "this is?no image");
    expect_import_failure(world, "crash", "vmmd-import: killed by signal 9");
    expect_import_failure(world, "lie", "sent nonsense");
    expect_import_failure(world, "nokernel", "no kernel was found");
    import_template(world, "bad"); /* the name is free again */
}

static void test_cancelled_import(void **state)
{
    struct world *world = *state;
    struct job *job = import_image(world, "slow", "hang");
    struct problem problem;

    assert_int_equal(job_cancel(job, &problem), 0);
    assert_true(job_cancel(job, &problem) < 0);
    run_while_not(world, job_ended, job);
    assert_int_equal(job->state, JOB_CANCELLED);
    assert_true(job_cancel(job, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_WRONG_STATE);
}

static void test_import_with_kernel(void **state)
{
    struct world *world = *state;
    int disk = make_image(world, "good", 8192), kernel = make_image(world, "a kernel", 3000000);
    struct import_request request;
    struct problem problem;
    struct job *job;
    struct stat st;
    char path[256];

    import_request_init(&request);
    request.name = "deb";
    request.disk = disk;
    request.kernel = kernel;
    lseek(kernel, 0, SEEK_END); /* the caller's offset must not matter */
    assert_int_equal(import_start(world->daemon, &request, &job, &problem), 0);
    close(disk);
    close(kernel);
    run_while_not(world, job_ended, job);
    assert_int_equal(job->state, JOB_DONE);
    snprintf(path, sizeof(path), "%s/state/templates/deb/kernel", world->dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 3000000);
    assert_int_equal(st.st_mode & 0777, 0444);
    assert_false(exists(world, "templates/deb/initrd"));
}

static void test_too_many_jobs(void **state)
{
    struct world *world = *state;
    struct import_request request;
    struct problem problem;
    struct job *job;
    char name[32];

    for (int i = 0; i < JOBS_RUNNING_MAX; i++) {
        snprintf(name, sizeof(name), "slow-%d", i);
        import_image(world, name, "hang");
    }
    import_request_init(&request);
    request.name = "last";
    request.disk = make_image(world, "good", 8192);
    assert_true(import_start(world->daemon, &request, &job, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_LIMIT_EXCEEDED);
    close(request.disk);
}

/* While its disk is read a guest is neither started nor deleted; then it is as free as before. */
static void test_template_of_a_guest(void **state)
{
    struct world *world = *state;
    struct outcome outcome = {0};
    struct problem problem;
    struct guest *guest;
    struct job *job;

    import_template(world, "deb");
    guest = create_guest(world, "deb", "web");
    assert_int_equal(import_from_guest(guest, "golden", false, &job, &problem), 0);
    assert_int_equal(guest->readers, 1);
    assert_true(guest_start(guest, on_outcome, &outcome, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BUSY);
    assert_true(guest_delete(guest, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BUSY);
    assert_true(import_from_guest(guest, "golden", false, &job, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BUSY);
    run_while_not(world, job_ended, job);
    assert_int_equal(job->state, JOB_DONE);
    assert_string_equal(job->kind, "create");
    assert_non_null(template_find(world->daemon, "golden"));
    assert_int_equal(guest->readers, 0);
    assert_int_equal(import_from_guest(guest, "again", false, &job, &problem), 0);
    assert_int_equal(job_cancel(job, &problem), 0);
    run_while_not(world, job_ended, job);
    assert_int_equal(guest->readers, 0);
    assert_int_equal(guest_start(guest, on_outcome, &outcome, &problem), 0);
    run_until(world, &outcome.done);
    assert_true(outcome.ok);
    assert_true(import_from_guest(guest, "late", false, &job, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_WRONG_STATE);
}

/* What was given at an import is given again. */
static void test_template_keeps_what_was_given(void **state)
{
    struct world *world = *state;
    struct import_request request;
    struct problem problem;
    struct job *job;

    import_request_init(&request);
    request.name = "deb";
    request.disk = make_image(world, "good", 8192);
    request.cmdline = "console=ttyS0 own";
    assert_int_equal(import_start(world->daemon, &request, &job, &problem), 0);
    close(request.disk);
    run_while_not(world, job_ended, job);
    assert_int_equal(
        import_from_guest(create_guest(world, "deb", "web"), "golden", true, &job, &problem), 0);
    run_while_not(world, job_ended, job);
    assert_int_equal(job->state, JOB_DONE);
    reopen_daemon(world);
    assert_true(template_find(world->daemon, "golden")->info.own_cmdline);
    assert_false(template_find(world->daemon, "golden")->info.own_kernel);
}

/* Somebody's descriptor is looked at before it is written to. */
static void test_export(void **state)
{
    static const int bad[] = {O_RDONLY, O_WRONLY, O_RDWR | O_APPEND};
    struct world *world = *state;
    struct export_request request = {.output = -1};
    struct problem problem;
    struct template *tmpl;
    char path[128];
    struct job *job;

    import_template(world, "deb");
    tmpl = template_find(world->daemon, "deb");
    snprintf(path, sizeof(path), "%s/out", world->dir);
    close(open(path, O_CREAT | O_RDWR, 0600));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        request.output = open(path, bad[i]);
        assert_true(template_export(tmpl, &request, &job, &problem) < 0);
        assert_int_equal(problem.kind, PROBLEM_INVALID_ARGUMENT);
        close(request.output);
    }
    request.output = open(path, O_RDWR);
    request.format = "vmdk";
    assert_true(template_export(tmpl, &request, &job, &problem) < 0);
    request.format = "raw";
    request.compress = true;
    assert_true(template_export(tmpl, &request, &job, &problem) < 0);
    request.compress = false;
    assert_int_equal(template_export(tmpl, &request, &job, &problem), 0);
    run_while_not(world, job_ended, job);
    assert_int_equal(job->state, JOB_DONE);
    assert_string_equal(job->result, "deb");
    assert_true(template_export(tmpl, &request, &job, &problem) < 0); /* not empty any more */
    close(request.output);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guest_json_round_trip),
        cmocka_unit_test(test_bad_guest_json),
        CASE(test_damaged_entries_are_skipped),
        CASE(test_creation_is_all_or_none),
        CASE(test_the_daemon_ends_in_between),
        CASE(test_too_many_guests),
        CASE(test_failing_imports),
        CASE(test_cancelled_import),
        CASE(test_import_with_kernel),
        CASE(test_too_many_jobs),
        CASE(test_export),
        CASE(test_template_of_a_guest),
        CASE(test_template_keeps_what_was_given),
    };

    be_a_fake_if_asked(argc, argv);
    alarm(10 * TEST_LIMIT_SECS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
