/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sizes and times: read from people, written for people.
 */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool cli_size_parse(const char *text, uint64_t *ret_bytes)
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
    if (errno)
        return false;
    unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit) {
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
        if (*end == 'i')
            end++;
    }
    if (*end == 'B')
        end++;
    if (*end || number > UINT64_MAX >> shift)
        return false;
    *ret_bytes = (uint64_t)number << shift;
    return true;
}

const char *cli_size_text(uint64_t bytes, char text[CLI_TEXT_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    if (unit == 0 || value >= 100)
        snprintf(text, CLI_TEXT_MAX, "%.0f %s", value, units[unit]);
    else
        snprintf(text, CLI_TEXT_MAX, "%.1f %s", value, units[unit]);
    return text;
}

const char *cli_time_text(uint64_t microseconds, char text[CLI_TEXT_MAX])
{
    time_t seconds = (time_t)(microseconds / 1000000);
    struct tm tm;

    if (!microseconds || !localtime_r(&seconds, &tm) ||
        !strftime(text, CLI_TEXT_MAX, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(text, CLI_TEXT_MAX, "-");
    return text;
}
