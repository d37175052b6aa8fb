/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disks of a guest, as the daemon sees them: what is accepted, what is remembered, and that no
 * other file is ever used in place of the one that was attached.
 */
#include "tests/unit/test-daemon-util.h"

#include "vmmd/guest-disk.h"

static struct guest *one_guest(struct world *world)
{
    import_template(world, "deb");
    return create_guest(world, "deb", "web");
}

static int make_file(const struct world *world, const char *name, char path[128])
{
    int fd;

    snprintf(path, 128, "%s/%s", world->dir, name);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, MIB), 0);
    return fd;
}

/* -errno, or 0 when it is done well. */
static int attach(struct world *world, struct guest *guest, const struct attach_request *request,
                  struct problem *problem)
{
    struct outcome outcome = {0};
    int r = guest_disk_attach(guest, request, on_outcome, &outcome, problem);

    if (r < 0)
        return r;
    run_until(world, &outcome.done);
    *problem = outcome.problem;
    return outcome.ok ? 0 : -EIO;
}

static int attach_file(struct world *world, struct guest *guest, const char *name, int fd,
                       bool readonly, struct problem *problem)
{
    const struct attach_request request = {.name = name, .file = fd, .readonly = readonly};

    return attach(world, guest, &request, problem);
}

static int attach_new(struct world *world, struct guest *guest, const char *name, uint64_t size,
                      struct problem *problem)
{
    const struct attach_request request = {.name = name, .file = -1, .size = size};

    return attach(world, guest, &request, problem);
}

static void stop(struct world *world, struct guest *guest)
{
    struct outcome outcome = {0};

    assert_int_equal(guest_stop(guest, true, on_outcome, &outcome, &outcome.problem), 0);
    run_until(world, &outcome.done);
}

static void test_json(void **state)
{
    struct guest_disks in = {.root_size = 1 << 30, .n = 2}, out = {.root_size = 1 << 30};
    json_t *json;

    (void)state;
    strcpy(in.disk[0].name, "data");
    in.disk[0].own = true;
    in.disk[0].size = 4096;
    strcpy(in.disk[1].name, "twenty-characters-xx");
    strcpy(in.disk[1].path, "/srv/image \"x\"");
    in.disk[1].raw = in.disk[1].readonly = true;
    in.disk[1].identity = (struct file_identity){1, 2, 3};
    json = guest_disks_to_json(&in);
    assert_int_equal(guest_disks_from_json(json, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    json_decref(json);
}

static void test_bad_json(void **state)
{
    static const struct {
        const char *key, *value;
    } cases[] = {
        {"name", "\"../x\""},
        {"name", "\"root\""},
        {"name", "\"twenty-one-characters\""},
        {"name", "\"other\""},
        {"name", "7"},
        {"path", "\"relative\""},
        {"path", "null"},
        {"own", "1"},
        {"raw", "\"yes\""},
        {"size", "-1"},
        {"inode", "\"5\""},
        {"born", "-1"},
        {"size", "999999999999999999"},
    };
    struct guest_disks in = {.n = 2}, out = {0};

    (void)state;
    strcpy(in.disk[0].name, "other");
    in.disk[0].own = true;
    strcpy(in.disk[1].name, "data");
    strcpy(in.disk[1].path, "/x");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        json_t *json = guest_disks_to_json(&in);

        json_object_set_new(json_array_get(json, 1), cases[i].key,
                            json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        if (guest_disks_from_json(json, &out) == 0)
            fail_msg("accepted %s: %s", cases[i].key, cases[i].value);
        json_decref(json);
    }
    json_t *many = json_array();
    for (int i = 0; i <= GUEST_DISKS_MAX; i++)
        json_array_append_new(many, json_object());
    assert_int_equal(guest_disks_from_json(many, &out), -EINVAL);
    json_decref(many);
}

static void test_own_disk(void **state)
{
    struct world *world = *state;
    struct guest *guest = one_guest(world);
    struct problem problem;
    char *kept = NULL;

    assert_int_equal(attach_new(world, guest, "data", MIB, &problem), 0);
    assert_true(exists(world, "guests/web/disk-data.qcow2"));
    assert_true(attach_new(world, guest, "data", MIB, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_EXISTS);
    reopen_daemon(world);
    guest = guest_find(world->daemon, "web");
    assert_int_equal(guest->config.disks.n, 1);
    assert_int_equal(guest->config.disks.disk[0].size, MIB);
    start_guest(world, guest);
    assert_true(attach_new(world, guest, "late", MIB, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_WRONG_STATE);
    assert_true(guest_disk_detach(guest, "data", false, &kept, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_WRONG_STATE);
    reopen_daemon(world); /* it is found again with its disk */
    guest = guest_find(world->daemon, "web");
    assert_int_equal(guest->phase, PHASE_UP);
    stop(world, guest);
    assert_int_equal(guest_disk_detach(guest, "data", false, &kept, &problem), 0);
    assert_non_null(strstr(kept, "/guests/web/disk-data.qcow2"));
    free(kept);
    kept = NULL;
    assert_int_equal(guest->config.disks.n, 0);
    assert_true(exists(world, "guests/web/disk-data.qcow2"));
    assert_true(attach_new(world, guest, "data", MIB, &problem) < 0); /* it would be lost */
    assert_int_equal(problem.kind, PROBLEM_EXISTS);
    assert_int_equal(attach_new(world, guest, "data", 0, &problem), 0);
    assert_int_equal(guest_disk_detach(guest, "data", true, &kept, &problem), 0);
    assert_null(kept);
    assert_false(exists(world, "guests/web/disk-data.qcow2"));
    assert_true(attach_new(world, guest, "data", 0, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_INVALID_ARGUMENT);
    assert_int_equal(attach_new(world, guest, "data", MIB, &problem), 0);
    assert_int_equal(guest_delete(guest, &problem), 0);
    assert_false(exists(world, "guests/web"));
}

static void test_names_and_numbers(void **state)
{
    static const char *const bad[] = {"", "a/b", "..", "twenty-one-characters", "root"};
    static const uint64_t sizes[] = {1, 513, COW_MAX_VIRTUAL_SIZE + 512};
    struct world *world = *state;
    struct guest *guest = one_guest(world);
    struct problem problem;
    char name[16], *kept;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_true(attach_new(world, guest, bad[i], MIB, &problem) < 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        assert_true(attach_new(world, guest, "data", sizes[i], &problem) < 0);
    for (int i = 0; i < GUEST_DISKS_MAX; i++) {
        snprintf(name, sizeof(name), "d%d", i);
        assert_int_equal(attach_new(world, guest, name, MIB, &problem), 0);
    }
    assert_true(attach_new(world, guest, "more", MIB, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_LIMIT_EXCEEDED);
    start_guest(world, guest);
    stop(world, guest);
    assert_int_equal(guest_disk_detach(guest, "d3", true, &kept, &problem), 0);
    assert_string_equal(guest->config.disks.disk[3].name, "d4");
    assert_true(guest_disk_detach(guest, "d3", true, &kept, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_NOT_FOUND);
    assert_true(guest_disk_detach(guest, "root", true, &kept, &problem) < 0);
    assert_true(guest_disk_resize(guest, "d3", MIB, false, NULL, NULL, &problem) < 0);
    assert_true(guest_disk_resize(guest, "d4", MIB / 2, false, NULL, NULL, &problem) < 0);
    assert_non_null(strstr(problem.text, "--shrink"));
}

/* What another file in its place is, a link or a copy, it is not used. */
static void test_replaced_file(void **state)
{
    struct world *world = *state;
    struct guest *guest = one_guest(world);
    struct outcome outcome = {0};
    struct problem problem;
    char path[128], aside[128], *kept;
    int fd = make_file(world, "disk.img", path), other;

    assert_int_equal(attach_file(world, guest, "data", fd, false, &problem), 0);
    assert_string_equal(guest->config.disks.disk[0].path, path);
    assert_true(guest->config.disks.disk[0].raw);
    start_guest(world, guest);
    stop(world, guest);
    snprintf(aside, sizeof(aside), "%s/aside", world->dir);
    assert_int_equal(rename(path, aside), 0);
    assert_true(guest_start(guest, on_outcome, &outcome, &problem) < 0); /* none there */
    assert_int_equal(symlink(aside, path), 0);
    assert_true(guest_start(guest, on_outcome, &outcome, &problem) < 0);
    unlink(path);
    other = make_file(world, "disk.img", path);
    assert_true(guest_start(guest, on_outcome, &outcome, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BAD_IMAGE);
    assert_non_null(strstr(problem.text, "is not the file that was attached"));
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_true(guest_start(guest, on_outcome, &outcome, &problem) < 0);
    unlink(path);
    assert_int_equal(rename(aside, path), 0);
    start_guest(world, guest);
    stop(world, guest);
    assert_true(guest_disk_detach(guest, "data", true, &kept, &problem) < 0); /* not ours */
    assert_int_equal(guest_disk_detach(guest, "data", false, &kept, &problem), 0);
    assert_null(kept);
    assert_int_equal(access(path, F_OK), 0);
    close(fd);
    close(other);
}

static void test_what_may_be_attached(void **state)
{
    struct world *world = *state;
    struct guest *guest = one_guest(world), *second = create_guest(world, "deb", "db");
    struct problem problem;
    char path[128];
    int fd = make_file(world, "disk.img", path), readonly = open(path, O_RDONLY),
        writeonly = open(path, O_WRONLY), nowhere = open(path, O_PATH),
        null_fd = open("/dev/null", O_RDWR), dir = open(world->dir, O_RDONLY);

    assert_true(attach_file(world, guest, "data", readonly, false, &problem) < 0);
    assert_true(attach_file(world, guest, "data", writeonly, false, &problem) < 0);
    assert_true(attach_file(world, guest, "data", nowhere, true, &problem) < 0);
    assert_true(attach_file(world, guest, "data", null_fd, false, &problem) < 0);
    assert_true(attach_file(world, guest, "data", dir, true, &problem) < 0);
    assert_int_equal(guest->config.disks.n, 0);
    assert_int_equal(attach_file(world, guest, "data", readonly, true, &problem), 0);
    assert_true(attach_file(world, second, "data", fd, false, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_IN_USE);
    assert_int_equal(attach_file(world, second, "data", fd, true, &problem), 0);
    assert_true(guest_disk_resize(second, "data", 2 * MIB, false, NULL, NULL, &problem) < 0);
    close(fd);
    close(readonly);
    close(writeonly);
    close(nowhere);
    close(null_fd);
    close(dir);
}

/* While vmmd-import looks at its disk a guest stays still; a daemon that ends answers. */
static void test_work_under_way(void **state)
{
    struct world *world = *state;
    struct guest *guest = one_guest(world);
    struct outcome outcome = {0}, never = {0};
    struct problem problem;
    char path[128];
    int fd = make_file(world, "disk.img", path);
    struct attach_request request = {.name = "data", .file = fd};

    assert_int_equal(guest_disk_attach(guest, &request, on_outcome, &outcome, &problem), 0);
    assert_true(guest_start(guest, on_outcome, &never, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BUSY);
    assert_true(guest_delete(guest, &problem) < 0);
    assert_true(guest_disk_resize(guest, "root", MIB, false, on_outcome, &never, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BUSY);
    run_until(world, &outcome.done);
    assert_true(outcome.ok);
    assert_int_equal(guest->readers, 0);
    outcome = (struct outcome){0};
    assert_int_equal(
        guest_disk_resize(guest, "data", 2 * MIB, false, on_outcome, &outcome, &problem), 0);
    daemon_free(world->daemon);
    world->daemon = NULL;
    assert_true(outcome.done);
    assert_false(outcome.ok);
    assert_int_equal(outcome.problem.kind, PROBLEM_BUSY);
    close(fd);
}

/* A file that vmmd-import does not like is not attached. */
static void test_bad_image(void **state)
{
    struct world *world = *state;
    struct guest *guest = one_guest(world);
    struct problem problem;
    char path[128];
    int fd = make_file(world, "disk.img", path);

    assert_int_equal(pwrite(fd, "fail", 4, 0), 4);
    assert_true(attach_file(world, guest, "data", fd, false, &problem) < 0);
    assert_int_equal(problem.kind, PROBLEM_BAD_IMAGE);
    assert_non_null(strstr(problem.text, "disk data: this is?no image"));
    assert_int_equal(guest->config.disks.n, 0);
    assert_int_equal(guest->readers, 0);
    close(fd);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, world_setup, world_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json), cmocka_unit_test(test_bad_json),
        CASE(test_own_disk),         CASE(test_names_and_numbers),
        CASE(test_replaced_file),    CASE(test_what_may_be_attached),
        CASE(test_work_under_way),   CASE(test_bad_image),
    };

    be_a_fake_if_asked(argc, argv);
    alarm(10 * TEST_LIMIT_SECS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
