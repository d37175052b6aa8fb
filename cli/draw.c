/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Bars and sparklines. Plain ASCII where the locale is not UTF-8.
 */
#include "cli/cli.h"

#include <langinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SYMBOL_BYTES 4 /* at most, of one place on the screen */

bool cli_is_utf8(void)
{
    return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

void cli_terminal_size(int *ret_columns, int *ret_lines)
{
    struct winsize size;

    *ret_columns = 80;
    *ret_lines = 24;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row) {
        *ret_columns = size.ws_col;
        *ret_lines = size.ws_row;
    }
}

/* private, shared, zero */
static const char *const bar_symbols[2][3] = {{"#", "=", "."}, {"█", "▒", "·"}};

char *cli_bar(const struct cli_ledger *ledger, int width, bool utf8)
{
    uint64_t shared = ledger->pool + ledger->tmpl + ledger->lineage;
    double nominal = ledger->nominal ? (double)ledger->nominal : 1;
    int end_private = (int)((double)ledger->private / nominal * width + 0.5);
    int end_shared = (int)((double)(ledger->private + shared) / nominal * width + 0.5);
    char *text = malloc((size_t)width * SYMBOL_BYTES + 1), *at = text;

    if (!text)
        return NULL;
    *at = '\0';
    for (int i = 0; i < width; i++)
        at = stpcpy(at, bar_symbols[utf8][i < end_private ? 0 : i < end_shared ? 1 : 2]);
    return text;
}

void cli_print_legend(bool utf8)
{
    const char *const *symbol = bar_symbols[utf8];

    printf("%s private  %s shared: template, pool, lineage  %s zero\n", symbol[0], symbol[1],
           symbol[2]);
}

char *cli_sparkline(const double *values, size_t n, int width, bool utf8)
{
    static const char *const levels[2][8] = {{"_", ".", "-", "~", "=", "+", "*", "#"},
                                             {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}};
    size_t places = n < (size_t)width ? n : (size_t)width;
    char *text = malloc(places * SYMBOL_BYTES + 1), *at = text;
    double top = 0;

    if (!text)
        return NULL;
    for (size_t i = 0; i < n; i++)
        top = values[i] > top ? values[i] : top;
    *at = '\0';
    for (size_t i = 0; i < places; i++) {
        double most = 0; /* of the values that share this place */

        for (size_t k = i * n / places; k < (i + 1) * n / places; k++)
            most = values[k] > most ? values[k] : most;
        at = stpcpy(at, levels[utf8][top > 0 ? (int)(most / top * 7.999) : 0]);
    }
    return text;
}
