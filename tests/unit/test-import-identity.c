/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Removing the identity of a machine: what is judged how, what is mounted where, and a small ext4
 * from which all of it is gone. The files under test belong to a program, not to a library, so they
 * are compiled in here. tests/integration/import-identity.py goes through all kinds of file
 * systems.
 */
#include "tests/unit/test-cowdisk-util.h"

#include <sys/wait.h>

#include "cowdisk/import/extfs.c"
#include "cowdisk/import/extfs-edit.c"
#include "cowdisk/import/volumes.c"
#include "cowdisk/import/identity.c"

#define MARK "5ecre7-mark"

/* ---- what is judged how ---------------------------------------------------------------------- */

static enum extfs_verdict judged(extfs_judge_fn judge, const char *name, char kind, unsigned depth)
{
    const struct extfs_entry entry = {name, depth, kind == 'd', kind == 'f'};

    return judge(&entry);
}

static void test_judges(void **state)
{
    static const struct {
        extfs_judge_fn judge;
        const char *name;
        char kind;
        enum extfs_verdict verdict;
    } cases[] = {
        {host_keys, "ssh_host_ed25519_key", 'f', EXTFS_REMOVE},
        {host_keys, "ssh_host_rsa_key.pub", 'f', EXTFS_REMOVE},
        {host_keys, "ssh_host_rsa_key", 'd', EXTFS_KEEP},
        {host_keys, "sshd_config", 'f', EXTFS_KEEP},
        {host_keys, "my_ssh_host_rsa_key", 'f', EXTFS_KEEP},
        {logs, "syslog", 'f', EXTFS_EMPTY},
        {logs, "syslog.1", 'f', EXTFS_REMOVE},
        {logs, "syslog.2.gz", 'f', EXTFS_REMOVE},
        {logs, "messages-20240101", 'f', EXTFS_REMOVE},
        {logs, "apt", 'd', EXTFS_ENTER},
        {logs, "0123456789abcdef0123456789abcdef", 'd', EXTFS_REMOVE},
        {logs, "0123456789abcdef0123456789abcdef.web", 'd', EXTFS_REMOVE},
        {logs, "link", 'l', EXTFS_KEEP},
        {histories, ".bash_history", 'f', EXTFS_REMOVE},
        {histories, ".bashrc", 'f', EXTFS_KEEP},
        {histories, ".local", 'd', EXTFS_ENTER},
        {histories, ".ssh", 'd', EXTFS_KEEP},
        {seeds, "random-seed", 'f', EXTFS_REMOVE},
        {seeds, "catalog", 'd', EXTFS_KEEP},
        {dbus_id, "machine-id", 'f', EXTFS_REMOVE},
        {dbus_id, "machine-id", 'l', EXTFS_KEEP},
        {leases, "dhclient.ens3.leases", 'f', EXTFS_REMOVE},
        {cloud_init, "instances", 'd', EXTFS_REMOVE},
        {cloud_init, "seed", 'd', EXTFS_KEEP},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (judged(cases[i].judge, cases[i].name, cases[i].kind, 1) != cases[i].verdict)
            fail_msg("%s", cases[i].name);
    assert_int_equal(judged(homes, "anna", 'd', 0), EXTFS_ENTER);
    assert_int_equal(judged(homes, "anna", 'd', 1), EXTFS_KEEP);
}

static void test_host_line(void **state)
{
    static const struct {
        const char *before, *after;
    } cases[] = {
        {"127.0.0.1 localhost\n127.0.1.1 web\n", "127.0.0.1 localhost\n"},
        {"127.0.1.1\tweb.example.org web", ""},
        {"127.0.1.1 other\n", "127.0.1.1 other\n"},
        {"127.0.1.1 website\n", "127.0.1.1 website\n"},
        {"127.0.1.10 web\n", "127.0.1.10 web\n"},
        {"10.0.0.1 web\n\n127.0.1.1 web\n# web\n", "10.0.0.1 web\n\n# web\n"},
        {"", ""},
    };
    char text[128];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        strcpy(text, cases[i].before);
        drop_host_line(text, "web");
        assert_string_equal(text, cases[i].after);
        drop_host_line(text, ""); /* no name: names nothing */
        assert_string_equal(text, cases[i].after);
    }
}

/* ---- what is mounted where ------------------------------------------------------------------- */

static void test_names_of_volumes(void **state)
{
    const struct volume volume = {
        .number = 3, .uuid = "12ab-34", .partuuid = "cafe-03", .label = "var"};
    static const char *const good[] = {"UUID=12ab-34",     "UUID=\"12AB-34\"",
                                       "PARTUUID=cafe-03", "LABEL=var",
                                       "/dev/vda3",        "/dev/disk/by-uuid/12ab-34"};
    static const char *const bad[] = {"UUID=12ab-345", "UUID=",    "LABEL=va", "/dev/vda30",
                                      "/dev/vdb3",     "/dev/vda", "tmpfs",    ""};

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(is_named(&volume, good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(is_named(&volume, bad[i]));
    assert_false(is_named(&(struct volume){.number = 0}, "/dev/vda0"));
}

static void test_parts_of_targets(void **state)
{
    static struct layout layout = {.n_volumes = 4};
    const struct target log = {"/var/log", logs}, home = {"/home", homes},
                        root = {"/root", histories};
    struct mounts mounts = {.n = 1};
    unsigned depth;

    (void)state;
    for (int i = 0; i < 4; i++)
        layout.volumes[i].number = i + 1;
    layout.root = &layout.volumes[0];
    mounts.mount[0].volume = layout.root;
    add_mount(&mounts, &layout, "/dev/vda1", "/");
    add_mount(&mounts, &layout, "/dev/vda2", "/var/");
    add_mount(&mounts, &layout, "/dev/vda3", "/home/anna");
    add_mount(&mounts, &layout, "/dev/vda4", "none");
    assert_int_equal(mounts.n, 3);
    assert_string_equal(part_of(&mounts, &mounts.mount[1], &log, &depth), "/log");
    assert_null(part_of(&mounts, &mounts.mount[0], &log, &depth));
    assert_string_equal(part_of(&mounts, &mounts.mount[0], &home, &depth), "/home");
    assert_int_equal(depth, 0);
    assert_string_equal(part_of(&mounts, &mounts.mount[2], &home, &depth), "/");
    assert_int_equal(depth, 1);
    assert_null(part_of(&mounts, &mounts.mount[2], &root, &depth));
    assert_true(matters(&mounts, &mounts.mount[2]));
    for (int i = 0; i < 100; i++)
        add_mount(&mounts, &layout, "/dev/vda4", "/srv");
    assert_int_equal(mounts.n, IMPORT_MAX_MOUNTS);
    assert_false(matters(&mounts, &mounts.mount[5]));
}

/* ---- an ext4 --------------------------------------------------------------------------------- */

static const char make_image[] =
    "set -e; PATH=$PATH:/sbin:/usr/sbin; command -v mke2fs >/dev/null || exit 77\n"
    "d=$(mktemp -d); trap 'rm -rf \"$d\"' EXIT; mkdir -p $d/etc/ssh $d/var/log/a $d/tmp $d/root\n"
    "for f in etc/machine-id etc/ssh/ssh_host_rsa_key var/log/a/b tmp/" MARK " root/.bash_history\n"
    "do echo " MARK " >$d/$f; done; echo kept >$d/root/kept; echo web >$d/etc/hostname\n"
    "mke2fs -q -F -t ext4 -b 4096 -d $d \"$0\" 16M";

static int make_ext4(void)
{
    char path[] = "/tmp/test-import-identity.XXXXXX";
    int fd = mkstemp(path), status;
    pid_t pid = fork();

    assert_true(fd >= 0);
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", make_image, path, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    unlink(path);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return fd;
}

static bool has_mark(int fd)
{
    static char data[16u << 20];

    assert_int_equal(cow_read_full(fd, data, sizeof(data), 0), 0);
    return memmem(data, sizeof(data), MARK, strlen(MARK)) != NULL;
}

static void test_ext4(void **state)
{
    static struct layout layout = {.n_volumes = 1};
    static struct import import;
    struct extfs *fs;
    char text[64];
    int fd = make_ext4();

    (void)state;
    assert_true(has_mark(fd));
    assert_int_equal(dup2(fd, FD_DISK), FD_DISK);
    layout.volumes[0] = (struct volume){.size = 16u << 20, .type = "ext4"};
    layout.root = &layout.volumes[0];
    if (import_remove_identity(&import, &layout) < 0)
        fail_msg("%s", import.error.text);
    assert_false(has_mark(fd));
    assert_int_equal(extfs_open(&fs, FD_DISK, 0, 16u << 20), 0);
    assert_int_equal(extfs_read_text(fs, "/root/kept", text, sizeof(text)), 0);
    assert_string_equal(text, "kept\n");
    assert_int_equal(extfs_read_text(fs, "/etc/hostname", text, sizeof(text)), 0);
    assert_string_equal(text, "localhost\n");
    assert_int_equal(extfs_read_text(fs, "/etc/machine-id", text, sizeof(text)), 0);
    assert_string_equal(text, "");
    assert_true(extfs_exists(fs, "/var/log/a/b"));
    assert_false(extfs_exists(fs, "/etc/ssh/ssh_host_rsa_key"));
    assert_false(extfs_exists(fs, "/tmp/" MARK));
    extfs_close(fs);
    /* Again: nothing to do, nothing wrong. */
    assert_int_equal(import_remove_identity(&import, &layout), 0);
    layout.volumes[0].type[0] = 'x';
    assert_int_equal(import_remove_identity(&import, &layout), -ENOTSUP);
    layout.root = NULL;
    assert_int_equal(import_remove_identity(&import, &layout), -ENOTSUP);
    close(FD_DISK);
    close(fd);
}

/* A file system that was not unmounted cleanly is not touched. */
static void test_dirty(void **state)
{
    static const uint32_t incompat_at = 1024 + 96, recover = 4;
    struct cow_error err = {{0}};
    struct extfs *fs;
    uint32_t incompat;
    int fd = make_ext4();

    (void)state;
    assert_int_equal(cow_read_full(fd, &incompat, sizeof(incompat), incompat_at), 0);
    incompat |= recover;
    assert_int_equal(cow_write_full(fd, &incompat, sizeof(incompat), incompat_at), 0);
    assert_true(extfs_open_to_edit(&fs, fd, 0, 16u << 20, &err) < 0);
    assert_true(err.text[0] != '\0');
    assert_true(has_mark(fd));
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_judges),
        cmocka_unit_test(test_host_line),
        cmocka_unit_test(test_names_of_volumes),
        cmocka_unit_test(test_parts_of_targets),
        cmocka_unit_test(test_ext4),
        cmocka_unit_test(test_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
