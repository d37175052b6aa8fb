/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd: the daemon. Options, signals, the order of beginning and end.
 *
 * The name on the bus is taken last, when guests of an earlier daemon have been found again, so
 * that whoever sees the name sees the truth. It must never block on a guest; the only things waited
 * for are the bus daemon and the disk.
 */
#include "dbus/bus.h"
#include "vmmd/adapter.h"
#include "vmmd/config.h"
#include "vmmd/daemon.h"
#include "vmmd/log.h"
#include "vmmd/version.h"

#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define ADOPTION_SECONDS 5 /* then the name is taken even if a guest has not answered yet */
#define EXIT_USAGE       2

struct options {
    bool session, debug;
    const char *state_dir, *runtime_dir, *bus_address, *config;
};

struct program {
    struct event_base *base;
    struct event *terminate[3], *patience;
    struct bus *bus;
    struct daemon *daemon;
    struct adapter *adapter;
    bool patience_over, failed;
};

/* ---- options ---- */

static const char help_text[] =
    "Usage: vmmd [OPTION]...\n"
    "Runs virtual machines from shared templates and merges their identical memory.\n"
    "\n"
    "  --session          serve the session bus, as an ordinary user\n"
    "  --state-dir D      templates and guests live in D\n"
    "                     (default /var/lib/vmmd; session: ~/.local/state/vmmd)\n"
    "  --runtime-dir D    sockets live in D (default /run/vmmd; session: $XDG_RUNTIME_DIR/vmmd)\n"
    "  --bus-address A    serve the bus at the D-Bus address A\n"
    "  --config F         read settings from F\n"
    "                     (default /etc/vmmd/vmmd.conf; session: ~/.config/vmmd/vmmd.conf)\n"
    "  --debug            log more\n"
    "  --help             print this text and exit\n"
    "  --version          print the version and exit\n";

static const struct option long_options[] = {
    {"session", no_argument, NULL, 's'},
    {"state-dir", required_argument, NULL, 'd'},
    {"runtime-dir", required_argument, NULL, 'r'},
    {"bus-address", required_argument, NULL, 'a'},
    {"config", required_argument, NULL, 'c'},
    {"debug", no_argument, NULL, 'D'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'v'},
    {0},
};

/* -1: go on; otherwise the exit status. */
static int parse_options(int argc, char **argv, struct options *options)
{
    int c;

    while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        switch (c) {
        case 's': options->session = true; break;
        case 'd': options->state_dir = optarg; break;
        case 'r': options->runtime_dir = optarg; break;
        case 'a': options->bus_address = optarg; break;
        case 'c': options->config = optarg; break;
        case 'D': options->debug = true; break;
        case 'h': fputs(help_text, stdout); return EXIT_SUCCESS;
        case 'v': puts("vmmd " VMMD_VERSION); return EXIT_SUCCESS;
        default: fputs("Try 'vmmd --help'.\n", stderr); return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "vmmd: unexpected argument %s\nTry 'vmmd --help'.\n", argv[optind]);
        return EXIT_USAGE;
    }
    return -1;
}

/* ---- default places ---- */

/* $VARIABLE/vmmd, else $HOME/`fallback`/vmmd. False: neither is set. */
static bool user_path(const char *variable, const char *fallback, const char *end, char *path,
                      size_t size)
{
    const char *base = getenv(variable), *home = getenv("HOME");

    if (base && base[0] == '/')
        snprintf(path, size, "%s/%s", base, end);
    else if (fallback && home && home[0] == '/')
        snprintf(path, size, "%s/%s/%s", home, fallback, end);
    else
        return false;
    return true;
}

struct places {
    char state[PATH_MAX], runtime[PATH_MAX], config[PATH_MAX];
    const char *bus;
};

static int find_places(const struct options *options, struct places *places)
{
    snprintf(places->state, sizeof(places->state), "/var/lib/vmmd");
    snprintf(places->runtime, sizeof(places->runtime), "/run/vmmd");
    snprintf(places->config, sizeof(places->config), "/etc/vmmd/vmmd.conf");
    places->bus = options->session ? "session" : "system";
    if (options->session) {
        if (!user_path("XDG_STATE_HOME", ".local/state", "vmmd", places->state,
                       sizeof(places->state)) &&
            !options->state_dir) {
            log_error("cannot tell where state belongs: neither XDG_STATE_HOME nor HOME is set");
            return -ENOENT;
        }
        /* A directory in /tmp is made private, and refused if somebody else owns it. */
        if (!user_path("XDG_RUNTIME_DIR", NULL, "vmmd", places->runtime, sizeof(places->runtime)))
            snprintf(places->runtime, sizeof(places->runtime), "/tmp/vmmd-%u", (unsigned)geteuid());
        if (!user_path("XDG_CONFIG_HOME", ".config", "vmmd/vmmd.conf", places->config,
                       sizeof(places->config)))
            places->config[0] = '\0';
    }
    if (options->state_dir)
        snprintf(places->state, sizeof(places->state), "%s", options->state_dir);
    if (options->runtime_dir)
        snprintf(places->runtime, sizeof(places->runtime), "%s", options->runtime_dir);
    if (options->config)
        snprintf(places->config, sizeof(places->config), "%s", options->config);
    if (options->bus_address)
        places->bus = options->bus_address;
    return 0;
}

/* ---- events ---- */

static void on_terminate(evutil_socket_t sig, short what, void *opaque)
{
    struct program *program = opaque;

    (void)what;
    log_info("ending on signal %d (%s); running guests go on", (int)sig, strsignal((int)sig));
    sd_notify(0, "STOPPING=1");
    event_base_loopbreak(program->base);
}

static void on_bus_closed(void *opaque)
{
    struct program *program = opaque;

    log_error("the bus went away; running guests go on");
    program->failed = true;
    event_base_loopbreak(program->base);
}

static void on_patience_over(evutil_socket_t fd, short what, void *opaque)
{
    (void)fd;
    (void)what;
    ((struct program *)opaque)->patience_over = true;
}

static int add_events(struct program *program)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};

    for (int i = 0; i < 3; i++) {
        program->terminate[i] = evsignal_new(program->base, signals[i], on_terminate, program);
        if (!program->terminate[i] || event_add(program->terminate[i], NULL) < 0)
            return -ENOMEM;
    }
    program->patience = event_new(program->base, -1, 0, on_patience_over, program);
    if (!program->patience ||
        event_add(program->patience, &(struct timeval){.tv_sec = ADOPTION_SECONDS}) < 0)
        return -ENOMEM;
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

/* ---- beginning and end ---- */

/* Thousands of guests need some fds each. */
static void raise_fd_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_warning("cannot raise the limit of open files: %s", strerror(errno));
}

static int set_up(struct program *program, const struct places *places, const struct config *config)
{
    struct problem problem;
    struct bus_error err;
    int r;

    program->base = event_base_new();
    if (!program->base || add_events(program) < 0) {
        log_error("cannot start: no event loop");
        return -ENOMEM;
    }
    r = bus_connect(&program->bus, program->base, places->bus, &err);
    if (r < 0) {
        log_error("%s", err.text);
        return r;
    }
    bus_on_closed(program->bus, on_bus_closed, program);
    r = daemon_new(&program->daemon, program->base, config, places->state, places->runtime,
                   &problem);
    if (r < 0) {
        log_error("%s", problem.text);
        return r;
    }
    r = adapter_new(&program->adapter, program->daemon, program->bus);
    if (r < 0)
        log_error("cannot put objects on the bus: %s", strerror(-r));
    return r;
}

static int take_name(struct program *program)
{
    struct bus_error err;
    int r = bus_request_name(program->bus, ADAPTER_BUS_NAME, &err);

    if (r < 0) {
        log_error("%s%s", err.text, r == -EEXIST ? ": another vmmd serves it" : "");
        return r;
    }
    log_info("serving %s; state in %s; %s", ADAPTER_BUS_NAME, program->daemon->state_dir,
             program->daemon->engine.reason);
    sd_notify(0, "READY=1");
    return 0;
}

static int run(struct program *program)
{
    while (daemon_adopting(program->daemon) && !program->patience_over) {
        event_base_loop(program->base, EVLOOP_ONCE);
        if (event_base_got_break(program->base))
            return program->failed ? -EIO : 0;
    }
    if (take_name(program) < 0)
        return -EIO;
    event_base_dispatch(program->base);
    return program->failed ? -EIO : 0;
}

static void tear_down(struct program *program)
{
    adapter_free(program->adapter);
    daemon_free(program->daemon); /* answers whoever waits */
    bus_free(program->bus);
    for (int i = 0; i < 3; i++)
        if (program->terminate[i])
            event_free(program->terminate[i]);
    if (program->patience)
        event_free(program->patience);
    if (program->base)
        event_base_free(program->base);
}

int main(int argc, char **argv)
{
    struct options options = {0};
    struct places places;
    struct program program = {0};
    struct problem problem;
    struct config config;
    int r = parse_options(argc, argv, &options);

    if (r >= 0)
        return r;
    if (options.debug)
        log_set_level(LOG_LEVEL_DEBUG);
    umask(077);
    raise_fd_limit();
    if (find_places(&options, &places) < 0)
        return EXIT_FAILURE;
    if (config_load(&config, places.config, options.config != NULL, &problem) < 0) {
        log_error("%s", problem.text);
        return EXIT_FAILURE;
    }
    config.session = options.session;
    r = set_up(&program, &places, &config);
    if (r == 0)
        r = run(&program);
    tear_down(&program);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
