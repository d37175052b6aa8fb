/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd-image: commands on image files, without vmmd and without a guest. `vmctl image` runs it with
 * the user's own rights. Images are hostile: they are read in a sandbox that has the files and
 * nothing else. It never runs with more rights than its caller.
 */
#include "cowdisk/image/image.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cowdisk/sandbox/sandbox.h"

/* Letters are only names of options here, on the command line there are none. */
static const struct option options[] = {
    {"format", required_argument, NULL, 'f'},
    {"image-format", required_argument, NULL, 'i'},
    {"backing", required_argument, NULL, 'b'},
    {"backing-format", required_argument, NULL, 'B'},
    {"output", required_argument, NULL, 'o'},
    {"to", required_argument, NULL, 't'},
    {"size", required_argument, NULL, 's'},
    {"cluster-size", required_argument, NULL, 'c'},
    {"snapshot", required_argument, NULL, 'n'},
    {"repair", required_argument, NULL, 'r'},
    {"compress", no_argument, NULL, 'z'},
    {"keep", no_argument, NULL, 'k'},
    {"unsafe", no_argument, NULL, 'u'},
    {"shrink", no_argument, NULL, 'h'},
    {"force-share", no_argument, NULL, 'U'},
    {"replace", no_argument, NULL, 'R'},
    {0},
};

const struct image_command image_commands[] = {
    {"info", image_prepare_reading, image_info, "iU", ""},
    {"check", image_prepare_check, image_check, "rU", ""},
    {"create", image_prepare_create, image_create, "sbBcR", ""},
    {"convert", image_prepare_convert, image_convert, "iotcznUR", "o"},
    {"commit", image_prepare_commit, image_commit, "k", ""},
    {"rebase", image_prepare_rebase, image_rebase, "bBu", "b"},
    {"resize", image_prepare_resize, image_resize, "ish", "s"},
    {"chain", image_prepare_chain, image_chain_files, "iU", ""},
    {"snapshots", image_prepare_reading, image_snapshots, "U", ""},
    {0},
};

static void tell(const struct image *image, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void tell(const struct image *image, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "%s: ", image->program);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Bytes, or with a suffix: 512M, 10G. */
static bool parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    const char *unit;
    unsigned long long number;
    unsigned shift = 0;
    char *end;

    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    number = strtoull(text, &end, 10);
    unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
        if (*end == 'i')
            end++;
    }
    if (*end == 'B')
        end++;
    if (errno || *end || number > UINT64_MAX >> shift)
        return false;
    *ret_bytes = (uint64_t)number << shift;
    return true;
}

static bool parse_format(const char *text, enum cow_format *ret_format)
{
    if (strcmp(text, "raw") == 0)
        *ret_format = COW_FORMAT_RAW;
    else if (strcmp(text, "qcow2") == 0)
        *ret_format = COW_FORMAT_QCOW2;
    else
        return false;
    return true;
}

static bool parse_output(const char *text, enum image_output *ret_output)
{
    static const char *const names[] = {"table", "json", "csv"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret_output = (enum image_output)i;
            return true;
        }
    }
    return false;
}

static bool parse_repair(const char *text, unsigned *ret_flags)
{
    if (strcmp(text, "leaks") == 0)
        *ret_flags = COW_REPAIR_LEAKS;
    else if (strcmp(text, "all") == 0)
        *ret_flags = COW_REPAIR_ALL;
    else
        return false;
    return true;
}

static bool parse_disk_size(const char *text, uint64_t *ret_bytes)
{
    return parse_size(text, ret_bytes) && *ret_bytes > 0 && *ret_bytes % 512 == 0 &&
           *ret_bytes <= COW_MAX_VIRTUAL_SIZE;
}

static bool parse_cluster(const char *text, unsigned *ret_bits)
{
    uint64_t bytes;

    if (!parse_size(text, &bytes) || bytes < 512 || bytes > 2u << 20 || bytes & (bytes - 1))
        return false;
    *ret_bits = (unsigned)__builtin_ctzll(bytes);
    return true;
}

/* ---- command line ---------------------------------------------------------------------------- */

/* NULL, or what the option wants. */
static const char *take_option(struct image_options *o, int option, const char *value)
{
    static const char formats[] = "raw or qcow2";

    switch (option) {
    case 'f': return parse_output(value, &o->output) ? NULL : "table, json or csv";
    case 'i': return parse_format(value, &o->image_format) ? NULL : formats;
    case 'b': o->backing = value; return NULL;
    case 'B': return parse_format(value, &o->backing_format) ? NULL : formats;
    case 'o': o->target = value; return *value ? NULL : "a file name";
    case 't': return parse_format(value, &o->target_format) ? NULL : formats;
    case 's':
        return parse_disk_size(value, &o->size) ? NULL
                                                : "a size in whole sectors up to 64T (10G, 512M)";
    case 'c': return parse_cluster(value, &o->cluster_bits) ? NULL : "a power of two, 512 to 2M";
    case 'n': o->snapshot = value; return NULL;
    case 'r': return parse_repair(value, &o->repair) ? NULL : "leaks or all";
    case 'z': o->compress = true; return NULL;
    case 'k': o->keep = true; return NULL;
    case 'u': o->unsafe = true; return NULL;
    case 'h': o->shrink = true; return NULL;
    case 'U': o->force_share = true; return NULL;
    case 'R': o->replace = true; return NULL;
    default: return "to be known";
    }
}

static const char *option_name(int letter)
{
    for (const struct option *option = options; option->name; option++) {
        if (option->val == letter)
            return option->name;
    }
    return "?";
}

static int usage(const struct image *image)
{
    fprintf(stderr, "usage: %s COMMAND FILE [OPTION...]\ncommands:", image->program);
    for (const struct image_command *command = image_commands; command->name; command++)
        fprintf(stderr, " %s", command->name);
    fprintf(stderr, "\n(started by vmctl image; see vmctl(1))\n");
    return IMAGE_USAGE;
}

/* What does not go together. */
static const char *contradiction(const struct image_options *o)
{
    if (o->repair && o->force_share)
        return "an image that is in use cannot be repaired";
    if (o->target_format == COW_FORMAT_RAW && (o->compress || o->cluster_bits))
        return "a raw image has no clusters";
    if (o->backing_format && (!o->backing || !*o->backing))
        return "--backing-format goes with --backing";
    return NULL;
}

static int parse_options(struct image *image, const struct image_command *command, int argc,
                         char **argv)
{
    char given[64] = "";
    const char *problem;
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (option != 'f' && !strchr(command->options, option)) {
            tell(image, "%s: option %s is unknown or lacks its argument", command->name,
                 argv[optind - 1]);
            return IMAGE_USAGE;
        }
        problem = take_option(&image->o, option, optarg);
        if (problem) {
            tell(image, "--%s wants %s, not \"%s\"", option_name(option), problem, optarg);
            return IMAGE_USAGE;
        }
        if (!strchr(given, option) && strlen(given) + 1 < sizeof(given))
            given[strlen(given)] = (char)option;
    }
    for (const char *letter = command->required; *letter; letter++) {
        if (!strchr(given, *letter)) {
            tell(image, "an option is missing: --%s", option_name(*letter));
            return IMAGE_USAGE;
        }
    }
    problem = contradiction(&image->o);
    if (problem)
        tell(image, "%s", problem);
    if (problem || optind != argc - 1 || !argv[optind][0])
        return problem ? IMAGE_USAGE : usage(image);
    image->o.file = argv[optind];
    return IMAGE_DONE;
}

static const struct image_command *find_command(const char *name)
{
    for (const struct image_command *command = image_commands; command->name; command++) {
        if (strcmp(command->name, name) == 0)
            return command;
    }
    return NULL;
}

/* ---- work ------------------------------------------------------------------------------------ */

static const char *hint(int r, const char *text)
{
    switch (r) {
    case -ENOTSUP:
        return strstr(text, "can only be read") && !strstr(text, "repair")
                   ? ": make one that can be written with vmctl image convert"
                   : "";
    case -EBUSY: return ": stop the guest or the program that uses it first";
    case -ENOSPC: return ": nothing is lost; make room and try again";
    case -EACCES:
    case -EPERM: return ": run this as somebody who may";
    default: return "";
    }
}

static int failed(const struct image *image, int r)
{
    const char *file = image->o.file, *text = image->err.text;
    bool named = strstr(text, file) != NULL;

    if (!text[0])
        text = strerror(-r);
    tell(image, "%s%s%s%s", named ? "" : file, named ? "" : ": ", text, hint(r, text));
    return IMAGE_FAILED;
}

/* In the sandbox, for good. */
static int work(struct image *image, const struct image_command *command)
{
    const struct sandbox_limits limits = {
        .max_files = IMAGE_MAX_FILES,
        .memory = IMAGE_MEMORY,
        .max_memory = IMAGE_MEMORY,
    };
    int r = sandbox_enter(&limits, &image->err);

    if (r == 0)
        r = command->work(image);
    image_progress_end(image);
    if (r < 0)
        return failed(image, r);
    if (fflush(stdout) != 0) {
        tell(image, "writing the output: %s", strerror(errno));
        return IMAGE_FAILED;
    }
    return image->status;
}

/* A new file is made by a child, so that somebody is left outside of the sandbox to name it. */
static int work_in_child(struct image *image, const struct image_command *command)
{
    pid_t parent = getpid(), pid = fork();
    int status, r;

    if (pid < 0)
        return failed(image, -errno);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(getppid() == parent ? work(image, command) : IMAGE_FAILED);
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return failed(image, -errno);
    }
    if (!WIFEXITED(status)) {
        tell(image, "%s: the process that read it was ended by signal %d (%s)", image->o.file,
             WTERMSIG(status), strsignal(WTERMSIG(status)));
        return IMAGE_FAILED;
    }
    if (WEXITSTATUS(status) != IMAGE_DONE)
        return WEXITSTATUS(status);
    r = image_publish(image);
    return r < 0 ? failed(image, r) : IMAGE_DONE;
}

static int run(struct image *image, const struct image_command *command)
{
    int r;

    if (strcmp(command->name, "create") == 0)
        image->o.target = image->o.file;
    r = command->prepare(image);
    if (r < 0)
        return failed(image, r);
    return image->o.target ? work_in_child(image, command) : work(image, command);
}

int main(int argc, char **argv)
{
    const char *slash = argc ? strrchr(argv[0], '/') : NULL;
    struct image image = {.program = slash  ? slash + 1
                                     : argc ? argv[0]
                                            : "vmmd-image",
                          .new_fd = -1,
                          .shown = -1,
                          .terminal = isatty(STDERR_FILENO)};
    const struct image_command *command = argc > 1 ? find_command(argv[1]) : NULL;
    int status;

    tzset(); /* reads a file */
    if (!command)
        return usage(&image);
    status = parse_options(&image, command, argc - 1, argv + 1);
    if (status == IMAGE_DONE)
        status = run(&image, command);
    image_drop_new_file(&image);
    image_close_files(&image);
    free(image.below);
    return status;
}
