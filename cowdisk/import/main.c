/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd-import: from somebody's disk image to a template. Started by vmmd with the fds of cowdisk.h
 * and nothing else, it lives for one import. The image is hostile: whatever is in it, the worst
 * that may happen is a FAILED message or the death of this process.
 */
#include "cowdisk/import/import.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIND_CPU_SECONDS 60u

static int parse_arguments(struct import *import, int argc, char **argv)
{
    static const struct option options[] = {
        {"kernel", no_argument, NULL, 'k'},
        {"initrd", no_argument, NULL, 'i'},
        {"cmdline", required_argument, NULL, 'c'},
        {"passphrase", no_argument, NULL, 'p'},
        {"snapshot", required_argument, NULL, 's'},
        {"verify", no_argument, NULL, 'v'},
        {"export", required_argument, NULL, 'e'},
        {"compress", no_argument, NULL, 'z'},
        {"disk", required_argument, NULL, 'd'},
        {"resize", required_argument, NULL, 'r'},
        {"shrink", no_argument, NULL, 'S'},
        {"below", required_argument, NULL, 'b'},
        {"below-hashes", no_argument, NULL, 'h'},
        {"remove-identity", no_argument, NULL, 'a'},
        {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (option) {
        case 'k': import->own_kernel = true; break;
        case 'i': import->own_initrd = true; break;
        case 'c': import->cmdline = optarg; break;
        case 'p': import->has_passphrase = true; break;
        case 's': import->snapshot = optarg; break;
        case 'v': import->verify = true; break;
        case 'e': import->export = optarg; break;
        case 'z': import->compress = true; break;
        case 'd': import->disk = optarg; break;
        case 'r': import->resize = strtoull(optarg, NULL, 10); break;
        case 'S': import->shrink = true; break;
        case 'b': import->n_below = (unsigned)atoi(optarg); break;
        case 'h': import->below_hashes = true; break;
        case 'a': import->anonymous = true; break;
        default: return -EINVAL;
        }
    }
    if (optind != argc || import->n_below > COW_IMPORT_MAX_BELOW ||
        (import->below_hashes && import->n_below == 0))
        return -EINVAL;
    if (import->cmdline && strlen(import->cmdline) >= sizeof(import->result.cmdline)) {
        snprintf(import->error.text, sizeof(import->error.text),
                 "the command line has %zu characters, more than %zu", strlen(import->cmdline),
                 sizeof(import->result.cmdline) - 1);
        return -E2BIG;
    }
    return 0;
}

static int hash_progress(void *opaque, uint64_t done, uint64_t total)
{
    struct import *import = opaque;

    (void)total;
    return import_progress(import, import->disk_bytes + done);
}

static int write_hashes(struct import *import)
{
    int r = import_allow_hashes(import->disk_bytes);

    if (r == 0)
        r = cow_hashes_write(FD_DISK, FD_HASHES, hash_progress, import);
    if (r < 0)
        snprintf(import->error.text, sizeof(import->error.text), "writing the hashes: %s",
                 strerror(-r));
    return r;
}

static int look_inside(struct import *import)
{
    struct layout *layout = calloc(1, sizeof(*layout));
    int r = layout ? import_find_layout(import, layout) : -ENOMEM;

    if (r == 0 && import->anonymous)
        r = import_remove_identity(import, layout);
    if (r == 0)
        r = import_find_boot(import, layout);
    free(layout);
    return r;
}

/* Whoever decrypts with the wrong passphrase gets noise, and nothing tells so. */
static int use_disk(struct import *import)
{
    int r = look_inside(import);
    size_t used = strlen(import->error.text);

    if (r < 0 && import->encrypted)
        snprintf(import->error.text + used, sizeof(import->error.text) - used,
                 " (or the passphrase is wrong)");
    return r;
}

static int run(struct import *import)
{
    int r = import_enter_sandbox(import);

    if (r == 0 && import->verify)
        return import_verify(import);
    if (r == 0 && import->export)
        return import_export(import);
    if (r == 0 && import->disk)
        return import_disk(import);
    if (r == 0)
        r = import_copy(import);
    if (r == 0)
        r = import_limit_cpu(FIND_CPU_SECONDS);
    if (r == 0)
        r = use_disk(import);
    if (r == 0)
        r = import_limit_cpu(0);
    if (r == 0)
        r = write_hashes(import);
    return r;
}

static int fail(struct import *import, int error)
{
    struct cow_import_msg msg = {.type = COW_IMPORT_FAILED, .damaged = import->damaged};

    if (import->error.text[0] == '\0')
        snprintf(import->error.text, sizeof(import->error.text), "import failed: %s",
                 strerror(-error));
    snprintf(msg.error, sizeof(msg.error), "%s", import->error.text);
    import_send(&msg, true);
    return 1;
}

int main(int argc, char **argv)
{
    struct import import = {0};
    int r = parse_arguments(&import, argc, argv);

    if (r == -EINVAL) {
        fprintf(stderr,
                "usage: vmmd-import [--kernel] [--initrd] [--cmdline TEXT] [--passphrase] "
                "[--snapshot S]\n"
                "                   [--below N [--below-hashes]] [--remove-identity]\n"
                "       vmmd-import --verify\n"
                "       vmmd-import --export raw|qcow2 [--compress]\n"
                "       vmmd-import --disk raw|qcow2 [--resize BYTES [--shrink]] [--below N]\n"
                "(started by vmmd, with its files on fds 3 and up)\n");
        return 2;
    }
    if (r == 0)
        r = run(&import);
    if (r < 0)
        return fail(&import, r);
    import.result.type = COW_IMPORT_DONE;
    import.result.disk_bytes = import.disk_bytes;
    return import_send(&import.result, true) < 0 ? 1 : 0;
}
