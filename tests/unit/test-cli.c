/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl's command line and its sizes. What it does with them is tested in tests/integration/cli-*.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/draw.c"
#include "cli/options.c"
#include "cli/size.c"

/* Of vmctl only these are here: a table of our own, and no stderr. */
const struct cli_command cli_commands[] = {
    {"template import", "NAME", {OPT_DISK}, {OPT_KERNEL}, "x", NULL},
    {"stop", "NAME...", {0}, {OPT_FORCE, OPT_TIMEOUT}, "x", NULL},
    {"logs", "NAME", {0}, {OPT_FOLLOW}, "x", NULL},
    {"memory", "[NAME...]", {0}, {OPT_SETTLE}, "x", NULL},
    {"list", "", {0}, {0}, "x", NULL},
    {"set", "NAME...", {OPT_PRIORITY}, {0}, "x", NULL},
    {0},
};

void cli_tell(const char *format, ...)
{
    (void)format;
}

struct parsed {
    const struct cli_command *command;
    struct cli_args args;
    enum cli_exit status;
};

/* Parses words separated by spaces. */
static struct parsed parse(const char *line)
{
    static char copy[256];
    char *argv[20] = {(char *)"vmctl"};
    struct parsed parsed = {0};
    int argc = 1;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    parsed.status = cli_parse(argc, argv, &parsed.command, &parsed.args);
    return parsed;
}

static void expect_usage(const char *line)
{
    struct parsed parsed = parse(line);

    if (parsed.status != CLI_USAGE)
        fail_msg("\"%s\" was accepted", line);
    free(parsed.args.name);
}

static void expect_command(const char *line, const char *words, int n_names)
{
    struct parsed parsed = parse(line);

    if (parsed.status != CLI_DONE)
        fail_msg("\"%s\" was not accepted", line);
    assert_string_equal(parsed.command->words, words);
    assert_int_equal(parsed.args.n_names, n_names);
    assert_null(parsed.args.name[n_names]);
    free(parsed.args.name);
}

static void test_commands(void **state)
{
    (void)state;
    expect_command("list", "list", 0);
    expect_command("stop a", "stop", 1);
    expect_command("stop -f a b c", "stop", 3);
    expect_command("stop a -f -t 5 b", "stop", 2);
    expect_command("--format json stop a", "stop", 1);
    expect_command("stop --format=json a", "stop", 1);
    expect_command("stop -- -f", "stop", 1);
    expect_command("template import a --disk f", "template import", 1);
    expect_command("template --format csv import --disk f a", "template import", 1);
    expect_command("memory", "memory", 0);
    expect_command("memory a b", "memory", 2);
}

static void test_wrong_usage(void **state)
{
    (void)state;
    expect_usage("");
    expect_usage("frob");
    expect_usage("template");
    expect_usage("template frob");
    expect_usage("stop");
    expect_usage("list a");
    expect_usage("logs a b");
    expect_usage("template import a");
    expect_usage("template import --disk f");
    expect_usage("template import a --disk");
    expect_usage("stop --follow a");
    expect_usage("stop --force=yes a");
    expect_usage("stop --frob a");
    expect_usage("--frob");
    expect_usage("-t 5 stop a"); /* before the command only what all commands have */
    expect_usage("frob --help");
}

static void test_values(void **state)
{
    struct parsed parsed = parse("stop a -t5 --format csv --bus-address=x=y");

    (void)state;
    assert_string_equal(parsed.args.value[OPT_TIMEOUT], "5");
    assert_string_equal(parsed.args.value[OPT_FORMAT], "csv");
    assert_string_equal(parsed.args.value[OPT_BUS_ADDRESS], "x=y");
    assert_null(parsed.args.value[OPT_FORCE]);
    free(parsed.args.name);
    parsed = parse("logs -f a"); /* the letter means another option here */
    assert_non_null(parsed.args.value[OPT_FOLLOW]);
    assert_null(parsed.args.value[OPT_FORCE]);
    free(parsed.args.name);
}

static void test_help_needs_nothing_else(void **state)
{
    struct parsed parsed = parse("help stop");

    (void)state;
    assert_int_equal(parsed.status, CLI_DONE);
    assert_string_equal(parsed.command->words, "stop");
    assert_non_null(parsed.args.value[OPT_HELP]);
    free(parsed.args.name);
    expect_command("stop --help", "stop", 0);
    parsed = parse("help");
    assert_int_equal(parsed.status, CLI_DONE);
    assert_null(parsed.command);
    free(parsed.args.name);
    expect_usage("help frob");
}

static void test_numbers(void **state)
{
    struct parsed parsed = parse("stop a -t 12");
    uint64_t number;

    (void)state;
    assert_int_equal(cli_number(&parsed.args, OPT_TIMEOUT, 100, 7, &number), 0);
    assert_int_equal(number, 12);
    assert_int_equal(cli_number(&parsed.args, OPT_TIMEOUT, 11, 7, &number), -1);
    assert_int_equal(cli_number(&parsed.args, OPT_COUNT, 11, 7, &number), 0);
    assert_int_equal(number, 7);
    for (size_t i = 0; i < 4; i++) {
        parsed.args.value[OPT_TIMEOUT] =
            (const char *[]){"-1", "5x", "", "99999999999999999999999"}[i];
        assert_int_equal(cli_number(&parsed.args, OPT_TIMEOUT, UINT64_MAX, 7, &number), -1);
    }
    free(parsed.args.name);
}

static void test_integers(void **state)
{
    static const struct {
        const char *text;
        int32_t number; /* 1000: not one */
    } cases[] = {{"5", 5},       {"-5", -5},    {"0", 0},
                 {"-100", -100}, {"100", 100},  {"101", 1000},
                 {"-101", 1000}, {"", 1000},    {"-", 1000},
                 {"+5", 1000},   {" 5", 1000},  {"5x", 1000},
                 {"--5", 1000},  {"1.5", 1000}, {"99999999999999999999", 1000}};
    struct parsed parsed = parse("set a b --priority -7");
    int32_t number;

    (void)state;
    assert_int_equal(parsed.status, CLI_DONE);
    assert_int_equal(cli_integer(&parsed.args, OPT_PRIORITY, 100, 3, &number), 0);
    assert_int_equal(number, -7);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        parsed.args.value[OPT_PRIORITY] = cases[i].text;
        if (cli_integer(&parsed.args, OPT_PRIORITY, 100, 3, &number) < 0)
            number = 1000;
        if (number != cases[i].number)
            fail_msg("\"%s\" is %d, not %d", cases[i].text, number, cases[i].number);
    }
    parsed.args.value[OPT_PRIORITY] = NULL;
    assert_int_equal(cli_integer(&parsed.args, OPT_PRIORITY, 100, 3, &number), 0);
    assert_int_equal(number, 3);
    free(parsed.args.name);
}

static void expect_bar(struct cli_ledger ledger, int width, bool utf8, const char *wanted)
{
    char *bar = cli_bar(&ledger, width, utf8);

    assert_string_equal(bar, wanted);
    free(bar);
}

static void test_bars(void **state)
{
    const uint64_t whole = UINT64_C(1) << 40;

    (void)state;
    expect_bar((struct cli_ledger){0}, 5, false, ".....");
    expect_bar((struct cli_ledger){.nominal = 100, .private = 100}, 5, false, "#####");
    expect_bar(
        (struct cli_ledger){.nominal = 100, .pool = 20, .tmpl = 10, .lineage = 10, .private = 40},
        10, false, "####====..");
    expect_bar((struct cli_ledger){.nominal = whole, .private = whole / 2, .pool = whole / 2}, 4,
               true, "██▒▒");
    expect_bar((struct cli_ledger){.nominal = 100, .private = 300, .pool = 300}, 3, false, "###");
    expect_bar((struct cli_ledger){.nominal = 100, .private = 1}, 3, true, "···");
}

static void expect_sparkline(const double *values, size_t n, int width, bool utf8,
                             const char *wanted)
{
    char *line = cli_sparkline(values, n, width, utf8);

    assert_string_equal(line, wanted);
    free(line);
}

static void test_sparklines(void **state)
{
    const double values[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 0};

    (void)state;
    expect_sparkline(values, 0, 10, false, "");
    expect_sparkline(values, 1, 10, false, "_");
    expect_sparkline(values, 10, 10, true, "▁▁▂▃▄▅▆▇█▁");
    expect_sparkline(values, 10, 5, false, "_-=*#"); /* the largest of each pair */
    expect_sparkline(values, 10, 3, true, "▂▅█");
}

static void test_counted_names(void **state)
{
    struct cli_args args = {.value = {[OPT_COUNT] = "3"}};
    char **names = cli_counted_names(&args, "a");

    (void)state;
    assert_string_equal(names[0], "a-1");
    assert_string_equal(names[2], "a-3");
    assert_null(names[3]);
    cli_names_free(names);
    args.value[OPT_COUNT] = NULL;
    names = cli_counted_names(&args, "a");
    assert_string_equal(names[0], "a");
    assert_null(names[1]);
    cli_names_free(names);
    args.value[OPT_COUNT] = "0";
    assert_null(cli_counted_names(&args, "a"));
}

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"256M", 256u << 20},
        {"1G", 1u << 30},
        {"1g", 1u << 30},
        {"2GiB", 2ull << 30},
        {"1K", 1024},
        {"3T", 3ull << 40},
        {"10B", 10},
        {"16777215T", 16777215ull << 40},
    };
    static const char *const bad[] = {
        "",   "M",    "-1", "1Q", "1.5G", "1GG", "1 G", "16777216T", "99999999999999999999",
        "+1", "0x10", "1i"};
    char text[CLI_TEXT_MAX];
    uint64_t bytes;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(cli_size_parse(good[i].text, &bytes));
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (cli_size_parse(bad[i], &bytes))
            fail_msg("\"%s\" is not a size", bad[i]);
    assert_string_equal(cli_size_text(0, text), "0 B");
    assert_string_equal(cli_size_text(1023, text), "1023 B");
    assert_string_equal(cli_size_text(1536, text), "1.5 KiB");
    assert_string_equal(cli_size_text(256u << 20, text), "256 MiB");
    assert_string_equal(cli_size_text(UINT64_MAX, text), "16384 PiB");
    assert_string_equal(cli_time_text(0, text), "-");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands), cmocka_unit_test(test_wrong_usage),
        cmocka_unit_test(test_values),   cmocka_unit_test(test_help_needs_nothing_else),
        cmocka_unit_test(test_numbers),  cmocka_unit_test(test_counted_names),
        cmocka_unit_test(test_sizes),    cmocka_unit_test(test_integers),
        cmocka_unit_test(test_bars),     cmocka_unit_test(test_sparklines),
    };

    if (!freopen("/dev/null", "w", stderr)) /* the usage lines of what is wrong */
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
