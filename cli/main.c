/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl: from the command line to a command, and its result to an exit status.
 */
#include "cli/cli.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int set_format(struct cli *cli, const char *text)
{
    static const char *const formats[] = {"table", "json", "csv"};

    for (size_t i = 0; text && i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (!strcmp(text, formats[i])) {
            cli->format = (enum cli_format)i;
            return 0;
        }
    }
    if (!text)
        return 0;
    cli_tell("--format is table, json or csv, not \"%s\"", text);
    return -1;
}

static int run(const struct cli_command *command, const struct cli_args *args)
{
    struct cli cli = {.bus_address = args->value[OPT_BUS_ADDRESS], .input_fd = -1, .signal_fd = -1};
    int status = CLI_FAILED;

    if (set_format(&cli, args->value[OPT_FORMAT]) < 0)
        return CLI_USAGE;
    /* Commands on files need no vmmd. */
    if (command->run == cli_image || cli_connect(&cli) == 0)
        status = command->run(&cli, args);
    bus_free(cli.bus);
    if (cli.signal_fd >= 0)
        close(cli.signal_fd);
    return status;
}

int main(int argc, char **argv)
{
    const struct cli_command *command = NULL;
    struct cli_args args;
    int status;

    setlocale(LC_TIME, "");
    setlocale(LC_CTYPE, "");
    status = cli_parse(argc, argv, &command, &args);
    if (status != CLI_DONE) {
        free(args.name);
        return status;
    }
    if (args.value[OPT_VERSION])
        printf("vmctl " CLI_VERSION "\n");
    else if (args.value[OPT_HELP] && command)
        cli_help_command(command);
    else if (args.value[OPT_HELP])
        cli_help();
    else
        status = run(command, &args);
    free(args.name);
    if (fflush(stdout) != 0 && status == CLI_DONE) {
        cli_tell("cannot write: %m");
        status = CLI_FAILED;
    }
    return status;
}
