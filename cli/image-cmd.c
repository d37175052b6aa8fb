/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl image: commands on image files. They need no vmmd: vmmd-image does them, with the caller's
 * own rights. It takes this process over, so its output, its signals and its exit status are those
 * of vmctl. Images are never read here: which files one needs is asked of vmmd-image, too.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
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

/* ---- what an image needs ---- */

/* Its standard output, for reading; what is wrong it tells on ours. */
static FILE *run(char *const *argv, pid_t *ret_pid)
{
    char path[PATH_MAX];
    int pipe_fds[2];
    FILE *output;
    pid_t pid;

    if (!find_program(path) || pipe2(pipe_fds, O_CLOEXEC) < 0) {
        cli_tell("cannot run %s: %m", path);
        return NULL;
    }
    pid = fork();
    if (pid == 0) {
        dup2(pipe_fds[1], STDOUT_FILENO);
        execv(path, argv);
        _exit(127);
    }
    close(pipe_fds[1]);
    output = pid < 0 ? NULL : fdopen(pipe_fds[0], "r");
    if (!output) {
        cli_tell("cannot run %s: %m", path);
        close(pipe_fds[0]);
        return NULL;
    }
    *ret_pid = pid;
    return output;
}

static char **files_of(const json_t *rows)
{
    size_t n = json_array_size(rows);
    char **files = n > 0 ? calloc(n, sizeof(*files)) : NULL;

    for (size_t i = 1; i < n && files; i++) { /* the first is the image itself */
        const char *file = json_string_value(json_object_get(json_array_get(rows, i), "file"));

        files[i - 1] = file ? strdup(file) : NULL;
        if (!files[i - 1]) {
            cli_names_free(files);
            files = NULL;
        }
    }
    return files;
}

char **cli_image_needs(const char *path)
{
    char *argv[] = {"vmctl", "chain", "--force-share", "--format=json", "--", (char *)path, NULL};
    char **files;
    json_t *rows;
    FILE *output;
    pid_t pid;
    int status;

    output = run(argv, &pid);
    if (!output)
        return NULL;
    rows = json_loadf(output, 0, NULL);
    fclose(output);
    if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        json_decref(rows); /* it has told why */
        return NULL;
    }
    files = files_of(rows);
    json_decref(rows);
    if (!files)
        cli_tell("cannot tell what %s needs", path);
    return files;
}
