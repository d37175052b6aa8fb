/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line: parsing it by the tables, and the help that comes from the same tables.
 *
 * Options may stand anywhere after vmctl, "--" ends them. Whatever is wrong is told in one line and
 * ends with status 2.
 */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct option_spec {
    const char *name;
    char letter;
    const char *argument; /* NULL: none */
    const char *help;
};

static const struct option_spec specs[OPT_N] = {
    [OPT_HELP] = {"help", 'h', NULL, "show this, or the help of a command"},
    [OPT_VERSION] = {"version", 0, NULL, "print the version"},
    [OPT_BUS_ADDRESS] = {"bus-address", 0, "A",
                         "the bus: system, session or an address ($VMMD_BUS_ADDRESS)"},
    [OPT_FORMAT] = {"format", 0, "F", "table, json or csv"},
    [OPT_DISK] = {"disk", 0, "FILE", "disk image, raw or qcow2"},
    [OPT_FROM] = {"from", 0, "GUEST", "the guest, stopped"},
    [OPT_KEEP_IDENTITY] = {"keep-identity", 0, NULL,
                           "keep machine ID, host keys, host name, logs, ..."},
    [OPT_FILE] = {"file", 0, "IMAGE", "an image that exists, raw or qcow2, instead of a new disk"},
    [OPT_READONLY] = {"readonly", 0, NULL, "the guest cannot write to it"},
    [OPT_DELETE] = {"delete", 0, NULL, "delete the disk with its data"},
    [OPT_KERNEL] = {"kernel", 0, "FILE", "kernel to boot (default: found in the image)"},
    [OPT_INITRD] = {"initrd", 0, "FILE", "initial RAM disk (default: found in the image)"},
    [OPT_PASSPHRASE] = {"passphrase", 0, "FILE", "its first line opens an encrypted image"},
    [OPT_CMDLINE] = {"cmdline", 0, "S", "kernel command line (default: found in the image)"},
    [OPT_NAME] = {"name", 0, "NAME", "name of the guest"},
    [OPT_COUNT] = {"count", 0, "K", "K guests, NAME-1 to NAME-K"},
    [OPT_MEMORY] = {"memory", 'm', "SIZE", "memory of each guest (256M, 1G, bytes)"},
    [OPT_VCPUS] = {"vcpus", 0, "N", "processors of each guest"},
    [OPT_ENGINE] = {"engine", 0, "E", "auto, soft or kvm"},
    [OPT_SHARE_GROUP] = {"share-group", 0, "G",
                         "guests to share memory with (default: the template's), or none"},
    [OPT_PRIORITY] = {"priority", 0, "N",
                      "-100 to 100: lower ones are paused first when memory runs out"},
    [OPT_SHARES] = {"shares", 0, "N", "processor time against other guests (1 to 10000; 100)"},
    [OPT_CPU_LIMIT] = {"cpu-limit", 0, "P", "percent of one core at most, or none"},
    [OPT_CPU_RESERVE] = {"cpu-reserve", 0, "P", "percent of one core at least, or none"},
    [OPT_WAIT] = {"wait", 'w', NULL, "wait for the login prompt"},
    [OPT_FORCE] = {"force", 'f', NULL, "end a running guest at once"},
    [OPT_FOR] = {"for", 0, "WHAT", "login or stopped"},
    [OPT_TIMEOUT] = {"timeout", 't', "S", "give up after S seconds"},
    [OPT_FOLLOW] = {"follow", 'f', NULL, "go on as the guest writes more"},
    [OPT_LINGER] = {"linger", 0, "S", "after the end of input, leave when silent for S seconds"},
    [OPT_SETTLE] = {"settle", 0, NULL, "wait until nothing more is found to share"},
    [OPT_HISTORY] = {"history", 0, NULL, "show the last hour: of these guests, or of all together"},
    [OPT_DELAY] = {"delay", 'd', "SECONDS", "between two looks (default: 2)"},
    [OPT_ITERATIONS] = {"iterations", 'n', "N", "end after N looks; needs no terminal"},
    [OPT_SIZE] = {"size", 0, "SIZE", "size of the disk (10G, 512M, bytes)"},
    [OPT_BACKING] = {"backing", 0, "FILE", "backing file, relative to the image's directory"},
    [OPT_BACKING_FORMAT] = {"backing-format", 0, "F", "its format: raw or qcow2 (default: asked)"},
    [OPT_IMAGE_FORMAT] = {"image-format", 0, "F", "format of FILE: raw or qcow2 (default: asked)"},
    [OPT_CLUSTER_SIZE] = {"cluster-size", 0, "SIZE", "512 to 2M, a power of two (default: 64K)"},
    [OPT_OUTPUT] = {"output", 0, "FILE", "the new image"},
    [OPT_TO] = {"to", 0, "F", "format of the new image: qcow2 (default) or raw"},
    [OPT_COMPRESS] = {"compress", 0, NULL, "compress the clusters of the new image"},
    [OPT_SNAPSHOT] = {"snapshot", 0, "S", "an internal snapshot instead of the current state"},
    [OPT_REPLACE] = {"replace", 0, NULL, "replace a file that exists"},
    [OPT_KEEP] = {"keep", 0, NULL, "do not empty the image afterwards"},
    [OPT_UNSAFE] = {"unsafe", 0, NULL, "only change the name: the contents are known to be equal"},
    [OPT_SHRINK] = {"shrink", 0, NULL, "a smaller size may cut data off"},
    [OPT_REPAIR] = {"repair", 0, "WHAT", "leaks or all"},
    [OPT_FORCE_SHARE] = {"force-share", 0, NULL, "also while another program writes to it"},
};

const char *cli_option_name(enum cli_option option)
{
    return specs[option].name;
}

bool cli_option_has_value(enum cli_option option)
{
    return specs[option].argument != NULL;
}

static const enum cli_option global_options[] = {OPT_HELP, OPT_VERSION, OPT_BUS_ADDRESS, OPT_FORMAT,
                                                 OPT_END};

/* ---- help ---- */

static void print_option(FILE *out, enum cli_option option, bool optional)
{
    const struct option_spec *spec = &specs[option];

    fprintf(out, optional ? " [" : " ");
    if (spec->letter)
        fprintf(out, "-%c|", spec->letter);
    fprintf(out, "--%s", spec->name);
    if (spec->argument)
        fprintf(out, " %s", spec->argument);
    if (optional)
        fputc(']', out);
}

static void print_usage(FILE *out, const struct cli_command *command)
{
    fprintf(out, "vmctl %s%s%s", command->words, *command->names ? " " : "", command->names);
    for (const enum cli_option *option = command->required; *option; option++)
        print_option(out, *option, false);
    for (const enum cli_option *option = command->optional; *option; option++)
        print_option(out, *option, true);
    fputc('\n', out);
}

static void print_option_help(enum cli_option option)
{
    const struct option_spec *spec = &specs[option];
    char left[48];

    snprintf(left, sizeof(left), "%c%c%s--%s%s%s", spec->letter ? '-' : ' ',
             spec->letter ? spec->letter : ' ', spec->letter ? ", " : "  ", spec->name,
             spec->argument ? " " : "", spec->argument ? spec->argument : "");
    printf("  %-24s %s\n", left, spec->help);
}

void cli_help_command(const struct cli_command *command)
{
    printf("usage: ");
    print_usage(stdout, command);
    printf("\n%c%s.\n\n", toupper((unsigned char)command->help[0]), command->help + 1);
    for (const enum cli_option *option = command->required; *option; option++)
        print_option_help(*option);
    for (const enum cli_option *option = command->optional; *option; option++)
        print_option_help(*option);
    for (const enum cli_option *option = global_options; *option; option++)
        print_option_help(*option);
}

void cli_help(void)
{
    printf("usage: vmctl COMMAND [ARGUMENTS]\n\ncommands:\n");
    for (const struct cli_command *command = cli_commands; command->words; command++) {
        printf("  ");
        print_usage(stdout, command);
        printf("      %s\n", command->help);
    }
    printf("\noptions of every command:\n");
    for (const enum cli_option *option = global_options; *option; option++)
        print_option_help(*option);
    printf("\nExit status: 0 done, 1 failed, 2 wrong usage. See vmctl(1).\n");
}

/* ---- parsing ---- */

static enum cli_exit usage(const struct cli_command *command, const char *what, const char *which)
{
    if (which)
        cli_tell("%s: %s", what, which);
    else
        cli_tell("%s", what);
    if (command) {
        fprintf(stderr, "usage: ");
        print_usage(stderr, command);
    } else {
        fprintf(stderr, "Try \"vmctl --help\".\n");
    }
    return CLI_USAGE;
}

static bool is_in(const enum cli_option *list, enum cli_option option)
{
    for (; *list; list++)
        if (*list == option)
            return true;
    return false;
}

static bool accepts(const struct cli_command *command, enum cli_option option)
{
    return is_in(global_options, option) ||
           (command && (is_in(command->required, option) || is_in(command->optional, option)));
}

/* The option a word names; a letter may mean different options of different commands. */
static enum cli_option find_option(const struct cli_command *command, const char *word,
                                   const char **ret_value)
{
    const char *name = word + (word[1] == '-' ? 2 : 1);
    bool is_long = word[1] == '-';
    size_t length = is_long ? strcspn(name, "=") : 1;

    for (int option = OPT_END + 1; option < OPT_N; option++) {
        const struct option_spec *spec = &specs[option];
        bool same = is_long ? strlen(spec->name) == length && !strncmp(spec->name, name, length)
                            : spec->letter && spec->letter == *name;

        if (!same || !accepts(command, (enum cli_option)option))
            continue;
        *ret_value = NULL;
        if (is_long && name[length] == '=')
            *ret_value = name + length + 1;
        else if (!is_long && name[1])
            *ret_value = name + 1;
        return (enum cli_option)option;
    }
    return OPT_END;
}

/* How many words of argv (which hold no options) name this command; 0: they do not. */
static int command_length(const struct cli_command *command, char **word, int n)
{
    const char *rest = command->words;
    int used = 0;

    while (*rest) {
        size_t length = strcspn(rest, " ");

        if (used == n || strlen(word[used]) != length || strncmp(word[used], rest, length))
            return 0;
        used++;
        rest += length + (rest[length] == ' ');
    }
    return used;
}

static const struct cli_command *find_command(char **word, int n, int *ret_used)
{
    for (const struct cli_command *command = cli_commands; command->words; command++) {
        *ret_used = command_length(command, word, n);
        if (*ret_used)
            return command;
    }
    return NULL;
}

/* The first two words that are not options or their arguments: enough to name a command. */
static const struct cli_command *guess_command(int argc, char **argv)
{
    char *word[2];
    int n = 0, used;

    for (int i = 1; i < argc && n < 2; i++) {
        const char *value;
        enum cli_option option;

        if (argv[i][0] != '-') {
            word[n++] = argv[i];
            continue;
        }
        option = argv[i][1] ? find_option(NULL, argv[i], &value) : OPT_END;
        if (option && specs[option].argument && !value)
            i++;
        else if (!option && n)
            break;
    }
    return find_command(word, n, &used);
}

static enum cli_exit take_option(const struct cli_command *command, int argc, char **argv, int *i,
                                 struct cli_args *args)
{
    const char *value;
    enum cli_option option = find_option(command, argv[*i], &value);

    if (!option)
        return usage(command, "unknown option", argv[*i]);
    if (specs[option].argument && !value) {
        if (*i + 1 >= argc)
            return usage(command, "option needs an argument", argv[*i]);
        value = argv[++*i];
    } else if (!specs[option].argument && value) {
        return usage(command, "option takes no argument", argv[*i]);
    }
    args->value[option] = value ? value : "";
    return CLI_DONE;
}

/* How many names a command takes is in its usage: see cli.h. */
static void count_names(const char *names, int *ret_min, int *ret_max)
{
    *ret_min = *ret_max = 0;
    while (*names) {
        (*ret_max)++;
        *ret_min += *names != '[';
        names += strcspn(names, " ");
        names += strspn(names, " ");
    }
}

static enum cli_exit check_names(const struct cli_command *command, const struct cli_args *args)
{
    int min, max;

    count_names(command->names, &min, &max);
    if (args->n_names < min)
        return usage(command, "something is missing", command->names);
    if (!strstr(command->names, "...") && args->n_names > max)
        return usage(command, "too many arguments", args->name[max]);
    for (int i = 0; i < args->n_names; i++)
        if (!*args->name[i])
            return usage(command, "a name must not be empty", NULL);
    return CLI_DONE;
}

static enum cli_exit check(const struct cli_command *command, const struct cli_args *args)
{
    for (const enum cli_option *option = command->required; *option; option++) {
        char text[64];

        if (args->value[*option])
            continue;
        snprintf(text, sizeof(text), "--%s", specs[*option].name);
        return usage(command, "an option is missing", text);
    }
    return check_names(command, args);
}

enum cli_exit cli_parse(int argc, char **argv, const struct cli_command **ret_command,
                        struct cli_args *ret_args)
{
    const struct cli_command *command = guess_command(argc, argv);
    bool only_names = false;
    int words = 0, skip;

    memset(ret_args, 0, sizeof(*ret_args));
    ret_args->name = calloc((size_t)argc + 1, sizeof(*ret_args->name));
    if (!ret_args->name)
        return CLI_FAILED;
    for (int i = 1; i < argc; i++) {
        if (!only_names && !strcmp(argv[i], "--")) {
            only_names = true;
        } else if (!only_names && argv[i][0] == '-' && argv[i][1]) {
            if (take_option(command, argc, argv, &i, ret_args) != CLI_DONE)
                return CLI_USAGE;
        } else {
            ret_args->name[words++] = argv[i];
        }
    }
    if (!command && words && !strcmp(ret_args->name[0], "help")) {
        command = find_command((char **)ret_args->name + 1, words - 1, &skip);
        ret_args->value[OPT_HELP] = "";
        words = command || words == 1 ? 0 : words;
    }
    *ret_command = ret_args->command = command;
    if (!command) {
        if (!words && (ret_args->value[OPT_HELP] || ret_args->value[OPT_VERSION]))
            return CLI_DONE;
        return words ? usage(NULL, "unknown command", ret_args->name[0])
                     : usage(NULL, "a command is missing", NULL);
    }
    if (ret_args->value[OPT_HELP] || ret_args->value[OPT_VERSION]) {
        ret_args->name[0] = NULL;
        return CLI_DONE;
    }
    skip = strchr(command->words, ' ') ? 2 : 1;
    ret_args->n_names = words - skip;
    memmove(ret_args->name, ret_args->name + skip,
            (size_t)ret_args->n_names * sizeof(*ret_args->name));
    ret_args->name[ret_args->n_names] = NULL;
    return check(command, ret_args);
}

/* ---- values ---- */

int cli_number(const struct cli_args *args, enum cli_option option, uint64_t max,
               uint64_t otherwise, uint64_t *ret_number)
{
    const char *text = args->value[option];
    unsigned long long number;
    char *end;

    *ret_number = otherwise;
    if (!text)
        return 0;
    errno = 0;
    number = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end || errno || number > max) {
        cli_tell("--%s wants a number up to %llu, not \"%s\"", specs[option].name,
                 (unsigned long long)max, text);
        return -1;
    }
    *ret_number = number;
    return 0;
}

int cli_integer(const struct cli_args *args, enum cli_option option, int32_t max, int32_t otherwise,
                int32_t *ret_number)
{
    const char *text = args->value[option];
    long number;
    char *end;

    *ret_number = otherwise;
    if (!text)
        return 0;
    errno = 0;
    number = strtol(text, &end, 10);
    if (!(isdigit((unsigned char)*text) || *text == '-') || end == text || *end || errno ||
        number < -max || number > max) {
        cli_tell("--%s wants a number from -%d to %d, not \"%s\"", specs[option].name, max, max,
                 text);
        return -1;
    }
    *ret_number = (int32_t)number;
    return 0;
}

int cli_cpu_number(const struct cli_args *args, enum cli_option option, uint32_t *ret_number)
{
    const char *text = args->value[option];
    bool percent = option != OPT_SHARES;
    unsigned long long number;
    char *end;

    if (!text)
        return 0;
    if (percent && !strcmp(text, "none")) {
        *ret_number = 0;
        return 0;
    }
    errno = 0;
    number = strtoull(text, &end, 10);
    if (percent && *end == '%')
        end++;
    if (!isdigit((unsigned char)*text) || *end || errno || number > UINT32_MAX) {
        cli_tell("--%s wants %s, not \"%s\"", specs[option].name,
                 percent ? "percent of one core (100 is all of it), or none"
                         : "a number from 1 to 10000",
                 text);
        return -1;
    }
    *ret_number = (uint32_t)number;
    return 0;
}

void cli_names_free(char **names)
{
    for (char **name = names; name && *name; name++)
        free(*name);
    free(names);
}

char **cli_counted_names(const struct cli_args *args, const char *name)
{
    uint64_t count;
    char **names;

    if (cli_number(args, OPT_COUNT, 10000, 0, &count) < 0)
        return NULL;
    if (args->value[OPT_COUNT] && !count) {
        cli_tell("--count wants at least 1");
        return NULL;
    }
    names = calloc(count + 2, sizeof(*names));
    if (!names)
        return NULL;
    if (!count)
        names[0] = strdup(name);
    for (uint64_t i = 0; i < count; i++)
        if (asprintf(&names[i], "%s-%llu", name, (unsigned long long)i + 1) < 0)
            names[i] = NULL;
    return names;
}
