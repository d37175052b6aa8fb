/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl top: what guests do, again and again.
 *
 * On a terminal it is a screen of its own that q or an interrupt leaves; the terminal is restored
 * on every way out. Elsewhere, and with -n, the tables follow each other. Rates come from the
 * difference of two looks, so the first has none.
 */
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DELAY_DEFAULT 2
#define BAR_MIN       10
#define BAR_MAX       40
#define HEAD_LINES    4  /* above the rows */
#define TABLE_WIDTH   80 /* of all columns but the bar, with a name of usual length */

/* A screen of its own without a cursor and without wrapping; and back. */
#define SCREEN_BEGIN "\033[?1049h\033[?25l\033[?7l"
#define SCREEN_END   "\033[?7h\033[?25h\033[?1049l"
#define SCREEN_CLEAR "\033[H\033[J"

struct top {
    struct cli *cli;
    bool screen; /* stdout is a terminal that we draw on */
    bool keys;   /* stdin is one, too */
    struct termios saved;
    struct cli_ledger *before; /* of the last look */
    size_t n_before;
    int64_t looked_ms;
    bool titled; /* CSV: the titles are printed */
};

static const struct cli_column columns[] = {
    {"time", NULL, KIND_TIME},
    {"name", "NAME", KIND_TEXT},
    {"state", "STATE", KIND_TEXT},
    {"cpu_percent", "CPU", KIND_PERCENT},
    {"resident", "RESIDENT", KIND_SIZE},
    {"saved", "SAVED", KIND_SIZE},
    {"merges_per_second", "MERGES/S", KIND_RATE},
    {"splits_per_second", "SPLITS/S", KIND_RATE},
    {"memory", "MEMORY", KIND_TEXT}, /* the bar; tables only */
    {0},
};

/* The same for programs, without the bar. */
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))
static void plain_columns(struct cli_column plain[N_COLUMNS])
{
    memcpy(plain, columns, sizeof(columns));
    plain[N_COLUMNS - 2] = (struct cli_column){0};
}

/* ---- the terminal ---- */

static int screen_begin(struct top *top)
{
    struct termios quiet;

    top->keys = isatty(STDIN_FILENO);
    if (top->keys) {
        if (tcgetattr(STDIN_FILENO, &top->saved) < 0) {
            cli_tell("cannot read the terminal's settings: %m");
            return -1;
        }
        quiet = top->saved;
        quiet.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        if (tcsetattr(STDIN_FILENO, TCSADRAIN, &quiet) < 0) {
            cli_tell("cannot set the terminal: %m");
            return -1;
        }
        top->cli->input_fd = STDIN_FILENO;
    }
    fputs(SCREEN_BEGIN, stdout);
    return 0;
}

static void screen_end(struct top *top)
{
    fputs(SCREEN_END, stdout);
    fflush(stdout);
    if (top->keys)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &top->saved);
    top->cli->input_fd = -1;
}

/* ---- one look ---- */

static const struct cli_ledger *find(const struct cli_ledger *ledgers, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(ledgers[i].name, name))
            return &ledgers[i];
    return NULL;
}

/* What came to a counter in each second; null if that is not known. */
static json_t *rate(double now, double before, bool known, double seconds)
{
    return known && seconds > 0 && now >= before ? json_real((now - before) / seconds)
                                                 : json_null();
}

static json_t *make_row(const struct top *top, const struct cli_guest *guest,
                        const struct cli_ledger *now, double seconds, int bar_width)
{
    const struct cli_ledger *before = find(top->before, top->n_before, guest->name);
    const struct cli_ledger none = {0};
    bool known = now && before;
    char *bar = now && bar_width ? cli_bar(now, bar_width, cli_is_utf8()) : NULL;
    json_t *row = json_pack("{s:s, s:s}", "name", guest->name, "state", guest->state);

    if (!now)
        now = &none;
    if (!before)
        before = &none;
    json_object_set_new(
        row, "cpu_percent",
        rate(100 * now->process_cpu_seconds, 100 * before->process_cpu_seconds, known, seconds));
    json_object_set_new(row, "resident", json_integer((json_int_t)now->resident));
    json_object_set_new(row, "saved", json_integer((json_int_t)now->saved));
    json_object_set_new(row, "merges_per_second",
                        rate((double)now->merges, (double)before->merges, known, seconds));
    json_object_set_new(row, "splits_per_second",
                        rate((double)now->splits, (double)before->splits, known, seconds));
    if (bar_width)
        json_object_set_new(row, "memory", json_string(bar ? bar : ""));
    free(bar);
    return row;
}

struct order {
    double cpu;
    size_t i;
};

/* The busiest first; among equals the order of names. */
static int compare(const void *left, const void *right)
{
    const struct order *a = left, *b = right;

    if (a->cpu != b->cpu)
        return a->cpu < b->cpu ? 1 : -1;
    return a->i < b->i ? -1 : 1;
}

static json_t *sort_rows(json_t *rows)
{
    size_t n = json_array_size(rows);
    struct order *order = calloc(n + 1, sizeof(*order));
    json_t *sorted = json_array();

    for (size_t i = 0; order && i < n; i++)
        order[i] = (struct order){
            json_number_value(json_object_get(json_array_get(rows, i), "cpu_percent")), i};
    if (order)
        qsort(order, n, sizeof(*order), compare);
    for (size_t i = 0; i < n; i++)
        json_array_append(sorted, json_array_get(rows, order ? order[i].i : i));
    free(order);
    json_decref(rows);
    return sorted;
}

static json_t *look(struct top *top, const struct cli_objects *objects, int bar_width)
{
    int64_t now_ms = cli_now_ms();
    double seconds = (double)(now_ms - top->looked_ms) / 1000;
    json_t *rows = json_array();
    size_t n = 0;
    struct cli_ledger *ledgers = cli_ledgers_of(top->cli, objects, &n);

    for (size_t i = 0; i < objects->n_guests; i++) {
        const struct cli_guest *guest = &objects->guest[i];

        json_array_append_new(
            rows, make_row(top, guest, find(ledgers, n, guest->name), seconds, bar_width));
    }
    cli_ledgers_free(top->before, top->n_before);
    top->before = ledgers;
    top->n_before = n;
    top->looked_ms = now_ms;
    return sort_rows(rows);
}

/* ---- showing ---- */

static void print_head(const struct top *top, const struct cli_manager *manager,
                       const struct cli_objects *objects, uint64_t time)
{
    char when[CLI_TEXT_MAX], available[CLI_TEXT_MAX], total[CLI_TEXT_MAX], saved[CLI_TEXT_MAX];
    size_t up = 0;

    for (size_t i = 0; i < objects->n_guests; i++)
        up += cli_guest_is_up(&objects->guest[i]);
    printf("vmctl top  %s  %zu guest%s, %zu up, %s saved\n", cli_time_text(time, when),
           objects->n_guests, objects->n_guests == 1 ? "" : "s", up,
           cli_size_text(cli_ledger_total(top->before, top->n_before).saved, saved));
    printf("memory pressure %s, %s of %s available%s%s\n",
           *manager->pressure ? manager->pressure : "unknown",
           cli_size_text(manager->available, available), cli_size_text(manager->total, total),
           *manager->pressure_reason ? ": " : "", manager->pressure_reason);
}

static void print_table(const struct top *top, const struct cli_manager *manager,
                        const struct cli_objects *objects, json_t *rows, uint64_t time)
{
    size_t n = json_array_size(rows), hidden = 0;
    int width, lines;

    cli_terminal_size(&width, &lines);
    if (top->screen)
        fputs(SCREEN_CLEAR, stdout);
    while (top->screen && n > 1 && n + HEAD_LINES + 1 > (size_t)lines) {
        json_array_remove(rows, --n);
        hidden++;
    }
    print_head(top, manager, objects, time);
    cli_print_legend(cli_is_utf8());
    cli_print_table(rows, columns);
    if (hidden)
        printf("%zu more", hidden);
}

static void print_rows(struct top *top, json_t *rows, uint64_t time)
{
    struct cli_column plain[N_COLUMNS];
    json_t *row, *frame;
    size_t i;

    if (top->cli->format == FORMAT_JSON) {
        frame = json_pack("{s:I, s:O}", "time", (json_int_t)time, "guests", rows);
        cli_print_json(frame, JSON_COMPACT);
        json_decref(frame);
        return;
    }
    plain_columns(plain);
    if (!top->titled)
        cli_print_csv_titles(plain);
    top->titled = true;
    json_array_foreach(rows, i, row)
    {
        json_object_set_new(row, "time", json_integer((json_int_t)time));
        cli_print_csv_row(row, plain);
    }
}

static int bar_width(const struct top *top)
{
    int width, lines;

    if (top->cli->format != FORMAT_TABLE)
        return 0;
    cli_terminal_size(&width, &lines);
    width -= TABLE_WIDTH;
    return width < BAR_MIN ? BAR_MIN : width > BAR_MAX ? BAR_MAX : width;
}

static int show(struct top *top)
{
    uint64_t time_us = (uint64_t)time(NULL) * 1000000;
    struct cli_manager manager;
    struct cli_objects objects;
    json_t *rows;

    if (cli_manager_get(top->cli, &manager) < 0)
        return -1;
    if (cli_objects_get(top->cli, &objects) < 0) {
        cli_manager_free(&manager);
        return -1;
    }
    rows = look(top, &objects, bar_width(top));
    if (top->cli->format == FORMAT_TABLE)
        print_table(top, &manager, &objects, rows, time_us);
    else
        print_rows(top, rows, time_us);
    fflush(stdout);
    json_decref(rows);
    cli_objects_free(&objects);
    cli_manager_free(&manager);
    return 0;
}

/* ---- again and again ---- */

static bool asks_to_leave(struct cli *cli)
{
    char keys[64];
    ssize_t n = read(STDIN_FILENO, keys, sizeof(keys));

    if (n <= 0)
        cli->input_fd = -1; /* nobody types there any more */
    return n > 0 && (memchr(keys, 'q', (size_t)n) || memchr(keys, 'Q', (size_t)n));
}

/* 0: it is time for the next look; 1: leave; -1: vmmd went away (told). */
static int wait_for_next(struct cli *cli, int64_t deadline)
{
    for (;;) {
        int r = cli_wait(cli, deadline);

        if (r == -ETIMEDOUT)
            return 0;
        if (r == -EINTR || (r == 1 && asks_to_leave(cli)))
            return 1;
        if (r < 0)
            return -1;
    }
}

static int run(struct top *top, uint64_t delay_s, uint64_t iterations)
{
    for (uint64_t i = 1;; i++) {
        int r = show(top);

        if (r < 0 || ferror(stdout))
            return -1;
        if (i == iterations)
            return 0;
        r = wait_for_next(top->cli, top->looked_ms + (int64_t)delay_s * 1000);
        if (r != 0)
            return r < 0 ? -1 : 0;
        if (!top->screen && top->cli->format == FORMAT_TABLE)
            putchar('\n');
    }
}

int cli_top(struct cli *cli, const struct cli_args *args)
{
    struct top top = {.cli = cli};
    uint64_t delay, iterations;
    int r;

    if (cli_number(args, OPT_DELAY, 3600, DELAY_DEFAULT, &delay) < 0 ||
        cli_number(args, OPT_ITERATIONS, 1u << 30, 0, &iterations) < 0)
        return CLI_USAGE;
    if (!delay || (args->value[OPT_ITERATIONS] && !iterations)) {
        cli_tell("--%s wants at least 1", delay ? "iterations" : "delay");
        return CLI_USAGE;
    }
    if (cli_catch_signals(cli) < 0)
        return CLI_FAILED;
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away must not leave the terminal quiet */
    top.screen = cli->format == FORMAT_TABLE && isatty(STDOUT_FILENO) && !iterations;
    if (top.screen && screen_begin(&top) < 0)
        return CLI_FAILED;
    r = run(&top, delay, iterations);
    if (top.screen)
        screen_end(&top);
    cli_ledgers_free(top.before, top.n_before);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}
