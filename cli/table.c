/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rows for people (a table whose columns line up) and for programs (JSON, CSV).
 *
 * A row is a JSON object; columns say which of its keys are shown and how. Programs get bytes,
 * seconds and microseconds as they are, people get units.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- cells ---- */

static bool is_right(enum cli_kind kind)
{
    return kind == KIND_NUMBER || kind == KIND_PID || kind == KIND_SIZE || kind == KIND_SECONDS ||
           kind == KIND_PERCENT || kind == KIND_RATE;
}

/* A list of texts on one line; malloc'ed. */
static char *join(const json_t *list)
{
    char *text = NULL;
    size_t size, i;
    json_t *item;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    json_array_foreach(list, i, item)
    {
        if (json_is_string(item))
            fprintf(out, "%s%s", i ? " " : "", json_string_value(item));
    }
    fclose(out);
    return text;
}

/* As it is; malloc'ed. */
static char *raw_cell(const json_t *value)
{
    char *text = NULL;
    int n = 0;

    if (json_is_string(value))
        return strdup(json_string_value(value));
    if (json_is_array(value))
        return join(value);
    if (json_is_boolean(value))
        return strdup(json_is_true(value) ? "true" : "false");
    if (json_is_integer(value))
        n = asprintf(&text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        n = asprintf(&text, "%.3f", json_real_value(value));
    else
        return strdup("");
    return n < 0 ? NULL : text;
}

static char *cell(const json_t *value, enum cli_kind kind)
{
    char text[CLI_TEXT_MAX];

    if (kind == KIND_SIZE && json_is_integer(value))
        return strdup(cli_size_text((uint64_t)json_integer_value(value), text));
    if (kind == KIND_TIME && json_is_integer(value))
        return strdup(cli_time_text((uint64_t)json_integer_value(value), text));
    if (kind == KIND_SECONDS && json_is_number(value)) {
        snprintf(text, sizeof(text), "%.2f s", json_number_value(value));
        return strdup(text);
    }
    if ((kind == KIND_PERCENT || kind == KIND_RATE) && json_is_number(value)) {
        snprintf(text, sizeof(text), kind == KIND_RATE ? "%.0f" : "%.1f %%",
                 json_number_value(value));
        return strdup(text);
    }
    if (kind == KIND_CPU && json_is_integer(value)) {
        if (!json_integer_value(value))
            return strdup("none");
        snprintf(text, sizeof(text), "%lld %% of a core", (long long)json_integer_value(value));
        return strdup(text);
    }
    if (json_is_null(value))
        return strdup("-"); /* not known */
    if (json_is_boolean(value))
        return strdup(json_is_true(value) ? "yes" : "no");
    if ((json_is_string(value) && !*json_string_value(value)) ||
        (json_is_array(value) && !json_array_size(value)) ||
        (kind == KIND_PID && !json_integer_value(value)))
        return strdup("-");
    return raw_cell(value);
}

/* ---- tables ---- */

static int column_width(const json_t *rows, const struct cli_column *column)
{
    size_t width = strlen(column->title), i;
    json_t *row;

    json_array_foreach(rows, i, row)
    {
        char *text = cell(json_object_get(row, column->key), column->kind);

        if (text && strlen(text) > width)
            width = strlen(text);
        free(text);
    }
    return (int)width;
}

/* The last column is not padded: no line ends with spaces. */
static void print_cell(const char *text, const struct cli_column *column, int width, bool last)
{
    if (is_right(column->kind))
        printf("%*s", width, text);
    else if (last)
        fputs(text, stdout);
    else
        printf("%-*s", width, text);
    fputs(last ? "\n" : "  ", stdout);
}

static bool is_last(const struct cli_column *column)
{
    for (column++; column->key; column++)
        if (column->title)
            return false;
    return true;
}

void cli_print_table(const json_t *rows, const struct cli_column *columns)
{
    size_t n = 0, i;
    json_t *row;
    int *width;

    while (columns[n].key)
        n++;
    width = calloc(n, sizeof(*width));
    if (!width)
        return;
    for (size_t c = 0; c < n; c++)
        if (columns[c].title)
            width[c] = column_width(rows, &columns[c]);
    for (size_t c = 0; c < n; c++)
        if (columns[c].title)
            print_cell(columns[c].title, &columns[c], width[c], is_last(&columns[c]));
    json_array_foreach(rows, i, row)
    {
        for (size_t c = 0; c < n; c++) {
            char *text;

            if (!columns[c].title)
                continue;
            text = cell(json_object_get(row, columns[c].key), columns[c].kind);
            print_cell(text ? text : "", &columns[c], width[c], is_last(&columns[c]));
            free(text);
        }
    }
    free(width);
}

/* ---- CSV (RFC 4180, with plain line ends) ---- */

static void print_csv_text(const char *text)
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

void cli_print_csv_titles(const struct cli_column *columns)
{
    for (const struct cli_column *column = columns; column->key; column++) {
        fputs(column->key, stdout);
        putchar(column[1].key ? ',' : '\n');
    }
}

void cli_print_csv_row(const json_t *row, const struct cli_column *columns)
{
    for (const struct cli_column *column = columns; column->key; column++) {
        char *text = raw_cell(json_object_get(row, column->key));

        print_csv_text(text ? text : "");
        free(text);
        putchar(column[1].key ? ',' : '\n');
    }
}

/* ---- all formats ---- */

void cli_print_json(const json_t *value, size_t flags)
{
    json_dumpf(value, stdout, flags | JSON_REAL_PRECISION(12));
    putchar('\n');
}

void cli_print_rows(const struct cli *cli, const json_t *rows, const struct cli_column *columns)
{
    json_t *row;
    size_t i;

    switch (cli->format) {
    case FORMAT_JSON: cli_print_json(rows, JSON_INDENT(2)); break;
    case FORMAT_TABLE: cli_print_table(rows, columns); break;
    case FORMAT_CSV:
        cli_print_csv_titles(columns);
        json_array_foreach(rows, i, row)
        {
            cli_print_csv_row(row, columns);
        }
        break;
    }
}

static void print_lines(const json_t *object, const struct cli_column *columns)
{
    int width = 0;

    for (const struct cli_column *column = columns; column->key; column++)
        if (column->title && (int)strlen(column->title) > width)
            width = (int)strlen(column->title);
    for (const struct cli_column *column = columns; column->key; column++) {
        char *text;

        if (!column->title)
            continue;
        text = cell(json_object_get(object, column->key), column->kind);
        printf("%s:%*s %s\n", column->title, width - (int)strlen(column->title), "",
               text ? text : "");
        free(text);
    }
}

void cli_print_objects(const struct cli *cli, const json_t *rows, const struct cli_column *columns,
                       bool many)
{
    json_t *row;
    size_t i;

    if (cli->format == FORMAT_JSON && many) {
        cli_print_json(rows, JSON_INDENT(2));
        return;
    }
    if (cli->format == FORMAT_CSV)
        cli_print_csv_titles(columns);
    json_array_foreach(rows, i, row)
    {
        if (cli->format == FORMAT_JSON) {
            cli_print_json(row, JSON_INDENT(2));
        } else if (cli->format == FORMAT_CSV) {
            cli_print_csv_row(row, columns);
        } else {
            if (i)
                putchar('\n');
            print_lines(row, columns);
        }
    }
}

int cli_print_named(struct cli *cli, const struct cli_args *args, const struct cli_column *columns,
                    json_t *(*row_of)(const struct cli_objects *objects, const char *name))
{
    struct cli_objects objects;
    int status = CLI_DONE;
    json_t *rows;

    if (cli_objects_get(cli, &objects) < 0)
        return CLI_FAILED;
    rows = json_array();
    for (int i = 0; i < args->n_names; i++) {
        json_t *row = row_of(&objects, args->name[i]);

        if (row)
            json_array_append_new(rows, row);
        else
            status = CLI_FAILED;
    }
    cli_print_objects(cli, rows, columns, args->n_names > 1);
    json_decref(rows);
    cli_objects_free(&objects);
    return status;
}
