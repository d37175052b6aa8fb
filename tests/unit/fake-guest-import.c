/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fake-guest-import: a vmmd-import that understands nothing, to test the daemon with: it copies the
 * image byte by byte and makes up the rest. The image's first word says what it does: "fail",
 * "crash", "lie", "hang", "nokernel", or anything else: a good import. With --verify all is good,
 * but "slow" never ends.
 */
#include "cowdisk/cowdisk.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STATUS = 3, SOURCE, DISK, HASHES, KERNEL };

static void import_say(const struct cow_import_msg *msg)
{
    if (send(STATUS, msg, sizeof(*msg), MSG_NOSIGNAL) < 0)
        exit(9);
}

static void import_fail(const char *why)
{
    struct cow_import_msg msg = {.type = COW_IMPORT_FAILED};

    snprintf(msg.error, sizeof(msg.error), "%s", why);
    import_say(&msg);
    exit(1);
}

static uint64_t import_copy(void)
{
    struct cow_import_msg msg = {.type = COW_IMPORT_PROGRESS, .total = 100};
    static char buffer[65536];
    off_t offset = 0;
    ssize_t n;

    while ((n = pread(SOURCE, buffer, sizeof(buffer), offset)) > 0) {
        if (pwrite(DISK, buffer, (size_t)n, offset) != n)
            import_fail("cannot write");
        offset += n;
        msg.done = 50;
        import_say(&msg);
    }
    return (uint64_t)offset;
}

static void import_misbehave(const char *word)
{
    if (strncmp(word, "fail", 4) == 0)
        import_fail("this is\nno image");
    if (strncmp(word, "crash", 5) == 0)
        raise(SIGKILL);
    if (strncmp(word, "lie", 3) == 0 && send(STATUS, "lie", 3, MSG_NOSIGNAL) == 3)
        pause();
    if (strncmp(word, "hang", 4) == 0)
        pause();
}

#ifndef FAKE_IMPORT_MAIN
#define FAKE_IMPORT_MAIN main
#endif
int FAKE_IMPORT_MAIN(int argc, char **argv);
int FAKE_IMPORT_MAIN(int argc, char **argv)
{
    struct cow_import_msg msg = {.type = COW_IMPORT_DONE};
    bool kernel = false, initrd = false, verify = false, export = false, disk = false;
    const char *cmdline = "root=/dev/vda1 ro console=ttyS0";
    char word[16] = "";

    for (int i = 1; i < argc; i++) {
        kernel = kernel || strcmp(argv[i], "--kernel") == 0;
        initrd = initrd || strcmp(argv[i], "--initrd") == 0;
        verify = verify || strcmp(argv[i], "--verify") == 0;
        disk = disk || strcmp(argv[i], "--disk") == 0;
        export = export || strcmp(argv[i], "--export") == 0;
        if (strcmp(argv[i], "--cmdline") == 0 && i + 1 < argc)
            cmdline = argv[++i];
    }
    if (pread(SOURCE, word, sizeof(word) - 1, 0) < 0)
        import_fail("cannot read");
    import_misbehave(word);
    msg.disk_bytes = 1u << 20;
    if (verify || disk) {
        if (strncmp(word, "slow", 4) == 0)
            pause();
        import_say(&msg);
        return 0;
    }
    msg.disk_bytes = import_copy();
    if (export) {
        import_say(&msg);
        return 0;
    }
    if (cow_hashes_write(DISK, HASHES, NULL, NULL) < 0)
        import_fail("cannot hash");
    if (!kernel && write(KERNEL, "kernel", 6) != 6)
        import_fail("cannot write");
    msg.has_kernel = strncmp(word, "nokernel", 8) != 0;
    msg.has_initrd = initrd;
    snprintf(msg.os_name, sizeof(msg.os_name), "Fake OS 1");
    snprintf(msg.kernel_name, sizeof(msg.kernel_name), "vmlinuz-fake");
    snprintf(msg.cmdline, sizeof(msg.cmdline), "%s", cmdline);
    import_say(&msg);
    return 0;
}
