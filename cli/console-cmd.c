/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmctl console: stdin and stdout become the guest's serial console.
 *
 * A terminal is put into raw mode and restored on every way out: signals that would end us are read
 * from a descriptor instead. ^] leaves. When stdin is a file or a pipe, its end does not end the
 * guest's answer: we leave when the guest has been silent for --linger seconds.
 */
#include "cli/cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE         0x1d /* ^] */
#define LINGER_SECONDS 1

struct console {
    int sock;
    int signal_fd;
    bool tty;
    bool input_ended;
    int linger_ms;
    struct termios saved;
    char pending[4096]; /* typed, not yet taken by the guest */
    size_t n_pending;
};

/* ---- the terminal ---- */

static int make_raw(struct console *console)
{
    struct termios raw;

    console->tty = isatty(STDIN_FILENO);
    if (!console->tty)
        return 0;
    if (tcgetattr(STDIN_FILENO, &console->saved) < 0) {
        cli_tell("cannot read the terminal's settings: %m");
        return -1;
    }
    raw = console->saved;
    cfmakeraw(&raw);
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0) {
        cli_tell("cannot set the terminal: %m");
        return -1;
    }
    return 0;
}

static void restore(struct console *console)
{
    if (console->tty)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &console->saved);
}

/* ---- moving bytes; each returns 1 to go on, 0 to leave, -1 on failure ---- */

static int from_user(struct console *console)
{
    char *room = console->pending + console->n_pending;
    ssize_t n = read(STDIN_FILENO, room, sizeof(console->pending) - console->n_pending);
    char *escape;

    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : -1;
    if (n == 0) {
        console->input_ended = true;
        return 1;
    }
    escape = console->tty ? memchr(room, ESCAPE, (size_t)n) : NULL;
    if (escape)
        return 0;
    console->n_pending += (size_t)n;
    return 1;
}

static int to_guest(struct console *console)
{
    ssize_t n = write(console->sock, console->pending, console->n_pending);

    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : 0;
    console->n_pending -= (size_t)n;
    memmove(console->pending, console->pending + n, console->n_pending);
    return 1;
}

static int from_guest(const struct console *console)
{
    char chunk[4096];
    ssize_t n = read(console->sock, chunk, sizeof(chunk));

    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 1 : 0;
    if (n == 0)
        return 0;
    for (ssize_t done = 0; done < n;) {
        ssize_t written = write(STDOUT_FILENO, chunk + done, (size_t)(n - done));

        if (written < 0 && errno != EINTR)
            return -1;
        if (written > 0)
            done += written;
    }
    return 1;
}

static int step(struct console *console)
{
    bool room = console->n_pending < sizeof(console->pending);
    struct pollfd fds[3] = {
        {.fd = console->input_ended || !room ? -1 : STDIN_FILENO, .events = POLLIN},
        {.fd = console->sock, .events = (short)(POLLIN | (console->n_pending ? POLLOUT : 0))},
        {.fd = console->signal_fd, .events = POLLIN},
    };
    bool silence_ends = console->input_ended && !console->n_pending;
    int n = poll(fds, 3, silence_ends ? console->linger_ms : -1), r = 1;

    if (n < 0)
        return errno == EINTR ? 1 : -1;
    if (n == 0 || fds[2].revents)
        return 0;
    if (fds[1].revents & (POLLIN | POLLHUP | POLLERR))
        r = from_guest(console);
    if (r == 1 && (fds[1].revents & POLLOUT))
        r = to_guest(console);
    if (r == 1 && fds[0].revents)
        r = from_user(console);
    return r;
}

/* ---- the command ---- */

static int talk(struct cli *cli, struct console *console, const char *name)
{
    int r;

    /* A reader of our output that goes away must not leave the terminal raw. */
    signal(SIGPIPE, SIG_IGN);
    if (cli_catch_signals(cli) < 0)
        return -1;
    console->signal_fd = cli->signal_fd;
    fcntl(console->sock, F_SETFL, O_NONBLOCK);
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "Connected to %s. Press ^] to leave.\n", name);
    if (make_raw(console) < 0)
        return -1;
    do {
        r = step(console);
    } while (r > 0);
    restore(console);
    if (console->tty)
        fprintf(stderr, "\nLeft %s.\n", name);
    return r;
}

int cli_console(struct cli *cli, const struct cli_args *args)
{
    struct console console = {.sock = -1};
    char *path;
    uint64_t linger;
    int r = -1;

    if (cli_number(args, OPT_LINGER, 1u << 20, LINGER_SECONDS, &linger) < 0)
        return CLI_USAGE;
    console.linger_ms = (int)linger * 1000;
    path = cli_guest_path(cli, args->name[0]);
    if (path)
        r = cli_call_for(cli, path, CLI_GUEST, "OpenConsole", NULL, DBUS_TYPE_UNIX_FD,
                         &console.sock);
    free(path);
    if (r < 0)
        return CLI_FAILED;
    r = talk(cli, &console, args->name[0]);
    close(console.sock);
    return r < 0 ? CLI_FAILED : CLI_DONE;
}
