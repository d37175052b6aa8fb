/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of commands: names, arguments, help, functions. Help, usage and parsing come from it;
 * man/vmctl.1 and vmctl.bash are compared with it by tests.
 */
#include "cli/cli.h"

/* clang-format off */
const struct cli_command cli_commands[] = {
    {"template import", "NAME", {OPT_DISK}, {OPT_KERNEL, OPT_INITRD, OPT_CMDLINE},
     "make a template of a disk image", cli_template_import},
    {"template list", "", {0}, {0}, "list templates", cli_template_list},
    {"template info", "NAME...", {0}, {0}, "tell all about templates", cli_template_info},
    {"template delete", "NAME...", {0}, {0},
     "delete templates that no guest depends on", cli_template_delete},
    {"create", "TEMPLATE", {OPT_NAME},
     {OPT_COUNT, OPT_MEMORY, OPT_VCPUS, OPT_ENGINE, OPT_SHARE_GROUP, OPT_PRIORITY},
     "create guests from a template", cli_create},
    {"run", "TEMPLATE", {OPT_NAME},
     {OPT_COUNT, OPT_MEMORY, OPT_VCPUS, OPT_ENGINE, OPT_SHARE_GROUP, OPT_PRIORITY, OPT_WAIT,
      OPT_TIMEOUT},
     "create guests and start them", cli_run},
    {"start", "NAME...", {0}, {OPT_COUNT, OPT_WAIT, OPT_TIMEOUT}, "start guests", cli_start},
    {"stop", "NAME...", {0}, {OPT_FORCE, OPT_TIMEOUT},
     "shut guests down and wait until they have stopped", cli_stop},
    {"restart", "NAME...", {0}, {OPT_FORCE, OPT_WAIT, OPT_TIMEOUT},
     "shut guests down and start them again", cli_restart},
    {"pause", "NAME...", {0}, {0}, "hold guests where they are", cli_pause},
    {"resume", "NAME...", {0}, {0}, "let paused guests go on", cli_resume},
    {"set", "NAME...", {OPT_PRIORITY}, {0}, "change settings of guests", cli_set},
    {"delete", "NAME...", {0}, {OPT_FORCE}, "delete guests with their disks", cli_delete},
    {"list", "", {0}, {0}, "list guests", cli_list},
    {"info", "NAME...", {0}, {0}, "tell all about guests", cli_info},
    {"wait", "NAME...", {OPT_FOR}, {OPT_TIMEOUT},
     "wait until guests show their login prompt or have stopped", cli_wait_cmd},
    {"console", "NAME", {0}, {OPT_LINGER}, "connect to a guest's console; ^] leaves", cli_console},
    {"logs", "NAME", {0}, {OPT_FOLLOW}, "print what a guest wrote to its console", cli_logs},
    {"memory", "[NAME...]", {0}, {OPT_SETTLE, OPT_TIMEOUT, OPT_HISTORY},
     "show where guests' memory is and what sharing saves", cli_memory},
    {"top", "", {0}, {OPT_DELAY, OPT_ITERATIONS},
     "show what guests do, again and again; q leaves", cli_top},
    {"metrics", "", {0}, {0}, "print all figures as OpenMetrics text", cli_metrics},
    {"events", "", {0}, {0}, "print what happens, as it happens", cli_events},
    {0},
};
/* clang-format on */
