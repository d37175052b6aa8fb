/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl image: commands on image files. They need no vmmd: vmmd-image does them, with the caller's
 * own rights. It takes this process over, so its output, its signals and its exit status are those
 * of vmctl.
 */
#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRAM    "vmmd-image"
#define LIBEXECDIR "/usr/local/libexec/vmmd"

static bool program_in(const char *directory, char path[PATH_MAX])
{
    int n = snprintf(path, PATH_MAX, "%s/%s", directory, PROGRAM);

    return n > 0 && n < PATH_MAX && access(path, X_OK) == 0;
}

/* Where $VMMD_LIBEXEC says, beside vmctl, or where it is installed: PREFIX/bin, PREFIX/libexec. */
static bool find_program(char path[PATH_MAX])
{
    const char *override = getenv("VMMD_LIBEXEC");
    char self[PATH_MAX];
    ssize_t n;

    if (override && override[0] == '/')
        return program_in(override, path);
    n = readlink("/proc/self/exe", self, sizeof(self) - sizeof("/../libexec/vmmd"));
    if (n > 0) {
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
        if (program_in(self, path))
            return true;
        strcat(self, "/../libexec/vmmd");
        if (program_in(self, path))
            return true;
    }
    return program_in(LIBEXECDIR, path);
}

/* The options that were given, as long options with "="; ends with NULL. */
static char **make_arguments(const struct cli_args *args)
{
    char **argv = calloc(OPT_N + 5, sizeof(*argv));
    int n = 0;

    if (!argv)
        return NULL;
    argv[n++] = strdup("vmctl");
    argv[n++] = strdup(strchr(args->command->words, ' ') + 1);
    for (int option = OPT_END + 1; option < OPT_N; option++) {
        if (!args->value[option] || option == OPT_BUS_ADDRESS)
            continue;
        if (asprintf(&argv[n], "--%s%s%s", cli_option_name((enum cli_option)option),
                     cli_option_has_value((enum cli_option)option) ? "=" : "",
                     args->value[option]) < 0)
            argv[n] = NULL;
        n++;
    }
    argv[n++] = strdup("--");
    argv[n++] = strdup(args->name[0]);
    for (int i = 0; i < n; i++) {
        if (!argv[i]) {
            cli_names_free(argv);
            return NULL;
        }
    }
    return argv;
}

int cli_image(struct cli *cli, const struct cli_args *args)
{
    char path[PATH_MAX];
    char **argv;

    (void)cli;
    if (!find_program(path)) {
        cli_tell("cannot run %s: %m", path);
        return CLI_FAILED;
    }
    argv = make_arguments(args);
    if (!argv) {
        cli_tell("out of memory");
        return CLI_FAILED;
    }
    execv(path, argv);
    cli_tell("cannot run %s: %m", path);
    cli_names_free(argv);
    return CLI_FAILED;
}
