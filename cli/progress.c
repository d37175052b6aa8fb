/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Progress on a terminal's stderr: one line that is drawn again and removed in the end. Where
 * stderr is no terminal nothing is printed.
 */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR 30

void cli_progress_start(struct cli_progress *progress, const char *format, ...)
{
    va_list args;

    progress->on = isatty(STDERR_FILENO);
    progress->shown = -1;
    va_start(args, format);
    vsnprintf(progress->what, sizeof(progress->what), format, args);
    va_end(args);
    cli_progress_show(progress, 0);
}

void cli_progress_show(struct cli_progress *progress, double fraction)
{
    int now = fraction <= 0 ? 0 : fraction >= 1 ? 1000 : (int)(fraction * 1000);
    char bar[BAR + 1];

    if (!progress->on || now == progress->shown)
        return;
    progress->shown = now;
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)(now * BAR / 1000));
    bar[BAR] = '\0';
    fprintf(stderr, "\r%s [%s] %3d %%", progress->what, bar, now / 10);
    fflush(stderr);
}

void cli_progress_end(struct cli_progress *progress)
{
    if (progress->on)
        fputs("\r\033[K", stderr);
    fflush(stderr);
    progress->on = false;
}
