/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl inside: what its files share.
 *
 *   main.c      command line to command      table.c   rows as table, JSON or CSV
 *   commands.c  the table of commands        size.c    sizes and times for people
 *   options.c   parsing and help             watch.c   waiting for guests by their signals
 *   connect.c   the bus, calls, errors       draw.c    bars and sparklines
 *   objects.c   what vmmd has, as structs    ledger.c  where the memory of a guest is
 *   history.c   the last hour                progress.c
 *   new-file.c  output that is whole or not there
 *   *-cmd.c     the commands, by group
 *
 * vmctl speaks only D-Bus; image-cmd.c starts vmmd-image instead. Each failure is told once, in one
 * line on stderr, where it is noticed; functions that have told return -1. Exit codes: 0 done, 1
 * failed, 2 usage.
 */
#ifndef CLI_H
#define CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "dbus/bus.h"

#define CLI_NAME         "org.vmmd1"
#define CLI_ROOT         "/org/vmmd1"
#define CLI_MANAGER      "org.vmmd1.Manager"
#define CLI_GUEST        "org.vmmd1.Guest"
#define CLI_TEMPLATE     "org.vmmd1.Template"
#define CLI_JOB          "org.vmmd1.Job"
#define CLI_VERSION      "0.1"
#define CLI_STOP_SECONDS 90

enum cli_exit { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };
enum cli_format { FORMAT_TABLE, FORMAT_JSON, FORMAT_CSV };

struct cli {
    struct bus *bus;
    const char *bus_address; /* as given; NULL: find out */
    enum cli_format format;
    int input_fd;   /* that cli_wait() shall watch, too; -1: none */
    int signal_fd;  /* SIGINT, SIGTERM and SIGHUP once cli_catch_signals() was called; else -1 */
    bool vmmd_lost; /* vmmd left the bus while we waited */
};

/* ---- command line ---- */

enum cli_option {
    OPT_END, /* ends a list of options */
    OPT_HELP,
    OPT_VERSION,
    OPT_BUS_ADDRESS,
    OPT_FORMAT,
    OPT_DISK,
    OPT_FILE,
    OPT_READONLY,
    OPT_DELETE,
    OPT_FROM,
    OPT_KEEP_IDENTITY,
    OPT_KERNEL,
    OPT_INITRD,
    OPT_CMDLINE,
    OPT_PASSPHRASE,
    OPT_NAME,
    OPT_COUNT,
    OPT_MEMORY,
    OPT_VCPUS,
    OPT_ENGINE,
    OPT_SHARE_GROUP,
    OPT_PRIORITY,
    OPT_SHARES,
    OPT_CPU_LIMIT,
    OPT_CPU_RESERVE,
    OPT_WAIT,
    OPT_FORCE,
    OPT_FOR,
    OPT_TIMEOUT,
    OPT_FOLLOW,
    OPT_LINGER,
    OPT_SETTLE,
    OPT_HISTORY,
    OPT_DELAY,
    OPT_ITERATIONS,
    OPT_SIZE,
    OPT_BACKING,
    OPT_BACKING_FORMAT,
    OPT_IMAGE_FORMAT,
    OPT_CLUSTER_SIZE,
    OPT_OUTPUT,
    OPT_TO,
    OPT_COMPRESS,
    OPT_SNAPSHOT,
    OPT_REPLACE,
    OPT_KEEP,
    OPT_UNSAFE,
    OPT_SHRINK,
    OPT_REPAIR,
    OPT_FORCE_SHARE,
    OPT_N,
};

struct cli_command;

struct cli_args {
    const struct cli_command *command;
    const char *value[OPT_N]; /* NULL: not given; "" for one without an argument */
    const char **name;        /* positional; ends with NULL */
    int n_names;
};

#define CLI_MAX_OPTIONS 16

struct cli_command {
    const char *words; /* "template import" */
    /* Positional arguments: "", "NAME", "NAME..." (one or more), "[NAME...]", "GUEST [NAME]" */
    const char *names;
    enum cli_option required[3], optional[CLI_MAX_OPTIONS];
    const char *help; /* one line */
    int (*run)(struct cli *cli, const struct cli_args *args);
};

extern const struct cli_command cli_commands[]; /* ends with words NULL */

/*
 * Splits the command line. On CLI_DONE *ret_command is the command, or NULL if help or version was
 * asked for without one. Tells what is wrong and returns CLI_USAGE.
 */
enum cli_exit cli_parse(int argc, char **argv, const struct cli_command **ret_command,
                        struct cli_args *ret_args);
void cli_help(void);
void cli_help_command(const struct cli_command *command);

const char *cli_option_name(enum cli_option option);
bool cli_option_has_value(enum cli_option option);

/* A number of an option (0..max), or `otherwise` if not given. Tells and returns -1 (usage). */
int cli_number(const struct cli_args *args, enum cli_option option, uint64_t max,
               uint64_t otherwise, uint64_t *ret_number);
/* The same for an integer from -max to max. */
int cli_integer(const struct cli_args *args, enum cli_option option, int32_t max, int32_t otherwise,
                int32_t *ret_number);
/* --shares, --cpu-limit or --cpu-reserve as vmmd takes it: "none" is 0, "%" may follow. If it is
 * not given *ret_number stays. Tells and returns -1 (usage). */
int cli_cpu_number(const struct cli_args *args, enum cli_option option, uint32_t *ret_number);
/* NAME, or NAME-1..NAME-K for --count K: an array that ends with NULL. Tells; NULL on failure. */
char **cli_counted_names(const struct cli_args *args, const char *name);
void cli_names_free(char **names);

/* ---- connect.c ---- */

void cli_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Connects and makes sure that vmmd is there. Tells and returns -1. */
int cli_connect(struct cli *cli);

/* Sends and waits; tells of an error. 0 or -1. `ret_reply` may be NULL. */
int cli_send(struct cli *cli, DBusMessage *message, DBusMessage **ret_reply);
/* The same, with arguments as for dbus_message_append_args(). */
int cli_call(struct cli *cli, DBusMessage **ret_reply, const char *path, const char *interface,
             const char *method, int first_type, ...);
/* Calls a method that returns one value of a type (a string or path is malloc'ed). */
int cli_call_for(struct cli *cli, const char *path, const char *interface, const char *method,
                 const char *argument, int type, void *ret_value);
/* The object path of a guest or template; malloc'ed. Tells; NULL on failure. */
char *cli_guest_path(struct cli *cli, const char *name);
char *cli_template_path(struct cli *cli, const char *name);

/* From now on signals that end us are read by cli_wait() instead. */
int cli_catch_signals(struct cli *cli);
/*
 * Waits for messages (until `deadline_ms` of cli_now_ms(), -1: for ever) and dispatches them. 0;
 * 1: input_fd is readable; -ETIMEDOUT; -EINTR: a signal asks us to end; -ECONNRESET: the bus or
 * vmmd is gone (told).
 */
int cli_wait(struct cli *cli, int64_t deadline_ms);
int64_t cli_now_ms(void);

/* ---- size.c ---- */

#define CLI_TEXT_MAX 64

/* 4096, 256M, 1G ... false if it is not a size. */
bool cli_size_parse(const char *text, uint64_t *ret_bytes);
const char *cli_size_text(uint64_t bytes, char text[CLI_TEXT_MAX]);
const char *cli_time_text(uint64_t microseconds, char text[CLI_TEXT_MAX]);

/* ---- objects.c ---- */

struct cli_guest {
    char *path, *name, *state, *reason, *engine, *tmpl, *share_group, *share_timing, *uuid,
        *overlay, *device_error, *cpu_control;
    int32_t priority;
    uint32_t pid, vcpus, cpu_shares, cpu_limit, cpu_reserve;
    uint64_t memory, created, started, ram_address, resident, saved;
    dbus_bool_t login, settled;
};

struct cli_template {
    char *path, *name, *os_name, *kernel_name, *cmdline, *directory;
    uint64_t size, disk_usage, created;
    dbus_bool_t has_initrd;
    char **guests; /* ends with NULL */
    size_t n_guests;
};

struct cli_objects {
    struct cli_guest *guest; /* sorted by name, numbers in them by value */
    size_t n_guests;
    struct cli_template *tmpl;
    size_t n_templates;
};

struct cli_manager {
    char *version, *engine, *engine_reason, *host, *pressure, *pressure_reason;
    uint32_t scan_budget;
    uint64_t available, total, at_risk, low, critical, max_mappings;
};

int cli_manager_get(struct cli *cli, struct cli_manager *ret_manager);
void cli_manager_free(struct cli_manager *manager);
int cli_objects_get(struct cli *cli, struct cli_objects *ret_objects);
void cli_objects_free(struct cli_objects *objects);
const struct cli_guest *cli_find_guest(const struct cli_objects *objects, const char *name);
bool cli_guest_is_up(const struct cli_guest *guest); /* running or paused */

/* ---- ledger.c ---- */

struct cli_ledger {
    char *name, *path;
    uint64_t nominal, resident, zero, lineage, tmpl, pool, private, saved, balloon;
    uint64_t merges, splits, repacked, passes, freezes, mappings, mappings_skipped;
    double cpu_seconds, process_cpu_seconds, longest_freeze_seconds;
    dbus_bool_t settled;
};

struct cli_ledger_field {
    const char *property; /* of GetMemory */
    const char *key;      /* in a row; NULL: not there */
    int type;
    size_t offset;
};

extern const struct cli_ledger_field cli_ledger_fields[]; /* ends with property NULL */

/* Asks for the ledger of ledger->path. -1; tells unless `quiet`. */
int cli_ledger_get(struct cli *cli, struct cli_ledger *ledger, bool quiet);
/* The ledgers of all guests that are up and answer. NULL: no memory. */
struct cli_ledger *cli_ledgers_of(struct cli *cli, const struct cli_objects *objects,
                                  size_t *ret_n);
void cli_ledgers_free(struct cli_ledger *ledgers, size_t n);
double cli_ledger_number(const struct cli_ledger *ledger, const struct cli_ledger_field *field);
json_t *cli_ledger_row(const struct cli_ledger *ledger, bool named);
struct cli_ledger cli_ledger_total(const struct cli_ledger *ledgers, size_t n);

/* ---- draw.c ---- */

bool cli_is_utf8(void); /* what the locale says */
void cli_terminal_size(int *ret_columns, int *ret_lines);
/* What of a guest's memory is private, shared and zero, `width` places wide; malloc'ed. */
char *cli_bar(const struct cli_ledger *ledger, int width, bool utf8);
void cli_print_legend(bool utf8);
/* At most `width` places, from 0 to the largest value; malloc'ed. */
char *cli_sparkline(const double *values, size_t n, int width, bool utf8);

/* ---- history.c ---- */

int cli_history(struct cli *cli, const struct cli_args *args);

/* ---- table.c ---- */

enum cli_kind {
    KIND_TEXT,
    KIND_NUMBER,
    KIND_PID,
    KIND_SIZE,
    KIND_TIME,
    KIND_SECONDS,
    KIND_PERCENT,
    KIND_RATE,
    KIND_CPU, /* percent of one core, 0: none */
};

struct cli_column {
    const char *key;   /* of the row's JSON object */
    const char *title; /* in a table; NULL: not shown there */
    enum cli_kind kind;
};

/* Prints rows (a JSON array of objects) in the format asked for. Columns end with key NULL. */
void cli_print_rows(const struct cli *cli, const json_t *rows, const struct cli_column *columns);
void cli_print_table(const json_t *rows, const struct cli_column *columns);
/* Prints each row by itself: a line for each column, JSON (an array if `many`), or a CSV row. */
void cli_print_objects(const struct cli *cli, const json_t *rows, const struct cli_column *columns,
                       bool many);
/* Asks `row_of` for each name of the arguments and prints what it found as above; a name it does
 * not know (it tells) makes the status CLI_FAILED. */
int cli_print_named(struct cli *cli, const struct cli_args *args, const struct cli_column *columns,
                    json_t *(*row_of)(const struct cli_objects *objects, const char *name));
void cli_print_csv_titles(const struct cli_column *columns);
void cli_print_csv_row(const json_t *row, const struct cli_column *columns);
void cli_print_json(const json_t *value, size_t flags);

/* ---- progress.c: a bar on a terminal's stderr, nothing elsewhere ---- */

struct cli_progress {
    bool on;
    int shown; /* per mille, -1: nothing yet */
    char what[128];
};

void cli_progress_start(struct cli_progress *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void cli_progress_show(struct cli_progress *progress, double fraction); /* 0..1 */
void cli_progress_end(struct cli_progress *progress);

/* ---- image-cmd.c ---- */

/* The files that the qcow2 image `path` needs beside itself, as vmmd-image tells: an array that
 * ends with NULL, for cli_names_free(). A raw image needs none. Tells; NULL on failure. */
char **cli_image_needs(const char *path);

/* ---- new-file.c: a file that has no name before it is complete ---- */

struct cli_new_file {
    const char *path;
    bool replace; /* one that exists */
    char *hidden; /* its name meanwhile, where the file system knows no nameless files; or NULL */
    int fd;       /* open for reading and writing */
};

/* Tells and returns -1. */
int cli_new_file_open(struct cli_new_file *file, const char *path, bool replace);
/* Gives it its name. Tells and returns -1. */
int cli_new_file_publish(struct cli_new_file *file);
void cli_new_file_free(struct cli_new_file *file);

/* ---- job.c ---- */

/* A job of vmmd that is waited for. */
struct cli_job {
    const char *what; /* "import": for messages */
    char *path;       /* object path; NULL until vmmd has told it */
    struct cli_progress progress;
    bool finished;
    char *state, *error;
};

/* Listens for the end of jobs, and to signals; before the job is asked for. */
int cli_job_prepare(struct cli *cli, struct cli_job *job);
/* Takes the path of the job out of the reply, which it unrefs. */
int cli_job_take(struct cli_job *job, DBusMessage *reply);
/* Until it has ended; an interrupt cancels it. -1, and the reason was told, if not well. */
int cli_job_wait(struct cli *cli, struct cli_job *job);
void cli_job_free(struct cli_job *job);

/* ---- watch.c ---- */

struct cli_watched {
    char *path, *name;
    char *state, *reason;
    dbus_bool_t login, settled;
    uint64_t started;
    bool gone; /* deleted */
};

struct cli_watch {
    struct cli *cli;
    struct cli_watched *guest;
    size_t n;
};

/* Begins to follow guests by name; signals from here on are seen. Tells; -1. */
int cli_watch_start(struct cli *cli, struct cli_watch *watch, char *const *names);
void cli_watch_end(struct cli_watch *watch);
/* 1: this guest is where it should be; 0: not yet; -1: it will never be (told). */
typedef int (*cli_condition)(const struct cli_watched *guest, void *opaque);
/*
 * Waits until every guest is (or will never be) there; shows progress. 0 if all are. -1 otherwise,
 * told; `hint` ends the line about those that are late.
 */
int cli_watch_wait(struct cli_watch *watch, cli_condition condition, void *opaque, const char *what,
                   uint64_t timeout_s, const char *hint);
int cli_is_stopped(const struct cli_watched *guest, void *opaque);
int cli_is_at_login(const struct cli_watched *guest, void *opaque);

/* ---- commands ---- */

int cli_template_import(struct cli *cli, const struct cli_args *args);
int cli_template_create(struct cli *cli, const struct cli_args *args);
int cli_template_verify(struct cli *cli, const struct cli_args *args);
int cli_template_export(struct cli *cli, const struct cli_args *args);
int cli_template_list(struct cli *cli, const struct cli_args *args);
int cli_template_info(struct cli *cli, const struct cli_args *args);
int cli_template_delete(struct cli *cli, const struct cli_args *args);
int cli_disk_attach(struct cli *cli, const struct cli_args *args);
int cli_disk_detach(struct cli *cli, const struct cli_args *args);
int cli_disk_list(struct cli *cli, const struct cli_args *args);
int cli_disk_resize(struct cli *cli, const struct cli_args *args);
int cli_create(struct cli *cli, const struct cli_args *args);
int cli_run(struct cli *cli, const struct cli_args *args);
int cli_start(struct cli *cli, const struct cli_args *args);
int cli_stop(struct cli *cli, const struct cli_args *args);
int cli_restart(struct cli *cli, const struct cli_args *args);
int cli_pause(struct cli *cli, const struct cli_args *args);
int cli_resume(struct cli *cli, const struct cli_args *args);
int cli_set(struct cli *cli, const struct cli_args *args);
int cli_delete(struct cli *cli, const struct cli_args *args);
int cli_list(struct cli *cli, const struct cli_args *args);
int cli_info(struct cli *cli, const struct cli_args *args);
int cli_wait_cmd(struct cli *cli, const struct cli_args *args);
int cli_console(struct cli *cli, const struct cli_args *args);
int cli_logs(struct cli *cli, const struct cli_args *args);
int cli_memory(struct cli *cli, const struct cli_args *args);
int cli_top(struct cli *cli, const struct cli_args *args);
int cli_host(struct cli *cli, const struct cli_args *args);
int cli_metrics(struct cli *cli, const struct cli_args *args);
int cli_events(struct cli *cli, const struct cli_args *args);
int cli_image(struct cli *cli, const struct cli_args *args);
/* Starts guests and, if asked, waits for their login prompts. */
int cli_start_guests(struct cli *cli, char *const *names, bool wait, uint64_t timeout_s);

#endif
