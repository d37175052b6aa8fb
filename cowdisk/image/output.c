/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What people and programs read: lines or a table with units, JSON and CSV with bytes, and a bar on
 * a terminal's stderr.
 */
#include "cowdisk/image/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CELL 1200 /* the longest name, and more */
#define BAR  30

/* ---- cells ----------------------------------------------------------------------------------- */

static void size_text(uint64_t bytes, char *text)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    snprintf(text, CELL, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

static void time_text(json_int_t microseconds, char *text)
{
    time_t seconds = (time_t)(microseconds / 1000000);
    struct tm tm;

    if (!localtime_r(&seconds, &tm) || !strftime(text, CELL, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(text, CELL, "-");
}

static void join(const json_t *list, char *text)
{
    size_t used = 0, i;
    json_t *item;

    text[0] = '\0';
    json_array_foreach(list, i, item)
    {
        int n = snprintf(text + used, CELL - used, "%s%s", i ? "; " : "", json_string_value(item));
        if (n < 0 || (size_t)n >= CELL - used)
            return;
        used += (size_t)n;
    }
}

/* As it is. */
static void raw_cell(const json_t *value, char *text)
{
    text[0] = '\0';
    if (json_is_string(value))
        snprintf(text, CELL, "%s", json_string_value(value));
    else if (json_is_boolean(value))
        snprintf(text, CELL, "%s", json_is_true(value) ? "true" : "false");
    else if (json_is_integer(value))
        snprintf(text, CELL, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_array(value))
        join(value, text);
}

static void cell(const json_t *value, enum image_kind kind, char *text)
{
    if (json_is_integer(value) && kind == KIND_SIZE)
        size_text((uint64_t)json_integer_value(value), text);
    else if (json_is_integer(value) && kind == KIND_TIME)
        time_text(json_integer_value(value), text);
    else if (json_is_boolean(value))
        snprintf(text, CELL, "%s", json_is_true(value) ? "yes" : "no");
    else
        raw_cell(value, text);
    if (!text[0])
        snprintf(text, CELL, "-");
}

/* ---- CSV ------------------------------------------------------------------------------------- */

static void csv_text(const char *text)
{
    if (!text[strcspn(text, ",\"\n\r")]) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static void csv_titles(const struct image_column *columns)
{
    for (const struct image_column *column = columns; column->key; column++)
        printf("%s%c", column->key, column[1].key ? ',' : '\n');
}

static void csv_row(const json_t *row, const struct image_column *columns)
{
    char text[CELL];

    for (const struct image_column *column = columns; column->key; column++) {
        raw_cell(json_object_get(row, column->key), text);
        csv_text(text);
        putchar(column[1].key ? ',' : '\n');
    }
}

/* ---- for people ------------------------------------------------------------------------------ */

static void print_lines(const json_t *row, const struct image_column *columns)
{
    int width = 0;
    char text[CELL];

    for (const struct image_column *column = columns; column->key; column++) {
        if (column->title && (int)strlen(column->title) > width)
            width = (int)strlen(column->title);
    }
    for (const struct image_column *column = columns; column->key; column++) {
        if (!column->title)
            continue;
        cell(json_object_get(row, column->key), column->kind, text);
        printf("%s:%*s %s\n", column->title, width - (int)strlen(column->title), "", text);
    }
}

static int column_width(const json_t *rows, const struct image_column *column)
{
    size_t width = strlen(column->title), i;
    char text[CELL];
    json_t *row;

    json_array_foreach(rows, i, row)
    {
        cell(json_object_get(row, column->key), column->kind, text);
        if (strlen(text) > width)
            width = strlen(text);
    }
    return (int)width;
}

/* Numbers to the right; the last column is not padded. */
static void print_cell(const struct image_column *column, const char *text, int width)
{
    bool right = column->kind == KIND_NUMBER || column->kind == KIND_SIZE;

    if (!column[1].key)
        printf("%*s\n", right ? width : 0, text);
    else
        printf("%*s  ", right ? width : -width, text);
}

static void print_table(const json_t *rows, const struct image_column *columns)
{
    char text[CELL];
    json_t *row;
    size_t i;

    for (const struct image_column *column = columns; column->key; column++)
        print_cell(column, column->title, column_width(rows, column));
    json_array_foreach(rows, i, row)
    {
        for (const struct image_column *column = columns; column->key; column++) {
            cell(json_object_get(row, column->key), column->kind, text);
            print_cell(column, text, column_width(rows, column));
        }
    }
}

/* ---- all formats ----------------------------------------------------------------------------- */

void image_print_object(const struct image *image, json_t *row, const struct image_column *columns)
{
    if (image->o.output == OUTPUT_JSON) {
        json_dumpf(row, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (image->o.output == OUTPUT_CSV) {
        csv_titles(columns);
        csv_row(row, columns);
    } else {
        print_lines(row, columns);
    }
    json_decref(row);
}

void image_print_rows(const struct image *image, json_t *rows, const struct image_column *columns)
{
    json_t *row;
    size_t i;

    if (image->o.output == OUTPUT_JSON) {
        json_dumpf(rows, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (image->o.output == OUTPUT_CSV) {
        csv_titles(columns);
        json_array_foreach(rows, i, row)
        {
            csv_row(row, columns);
        }
    } else {
        print_table(rows, columns);
    }
    json_decref(rows);
}

/* ---- progress -------------------------------------------------------------------------------- */

int image_progress(void *opaque, uint64_t done, uint64_t total)
{
    struct image *image = opaque;
    int now = total ? (int)((double)done / (double)total * 1000) : 1000;
    char bar[BAR + 1];

    if (!image->terminal || now == image->shown)
        return 0;
    image->shown = now;
    memset(bar, '.', BAR);
    memset(bar, '#', (size_t)(now * BAR / 1000));
    bar[BAR] = '\0';
    fprintf(stderr, "\r%s [%s] %3d %%", image->o.file, bar, now / 10);
    fflush(stderr);
    return 0;
}

void image_progress_end(struct image *image)
{
    if (image->terminal && image->shown >= 0)
        fputs("\r\033[K", stderr);
    image->shown = -1;
}
