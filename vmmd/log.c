/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log: one line a message on stderr.
 *
 * A line is written with one write, so that lines of several processes on one file never mix.
 * Control characters (texts may come from guests) become '?', so that a guest can forge no line.
 */
#include "vmmd/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static enum log_level max_level = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    max_level = level;
}

void log_message(enum log_level level, const char *format, ...)
{
    static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
    char line[LINE_MAX_BYTES];
    va_list args;
    size_t n;

    if (level > max_level)
        return;
    n = (size_t)snprintf(line, sizeof(line), "vmmd: %s", names[level]);
    va_start(args, format);
    vsnprintf(line + n, sizeof(line) - n - 1, format, args);
    va_end(args);
    for (n = 0; line[n]; n++)
        if ((unsigned char)line[n] < 0x20 || line[n] == 0x7f)
            line[n] = '?';
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0)
        return; /* nowhere left to say so */
}
