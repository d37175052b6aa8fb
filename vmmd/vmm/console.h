/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * console: what the guest prints goes to a log file and to every attached client; what clients type
 * goes to the guest.
 *
 * The guest's side (console_output) is called by vCPU threads and only fills a buffer; the main
 * thread writes it out when `wake_fd` says so. The log is bounded: beyond CONSOLE_LOG_MAX its
 * oldest part becomes a hole, offsets stay. A client that does not read loses output, never the
 * guest. Watches for a login prompt.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONSOLE_LOG_MAX     (8u << 20)
#define CONSOLE_MAX_CLIENTS 8
#define CONSOLE_BUFFER      16384
#define CONSOLE_INPUT       4096
#define CONSOLE_POLLFDS     (CONSOLE_MAX_CLIENTS + 2)

struct console {
    pthread_mutex_t lock; /* guards out, out_bytes, timer_armed; a leaf */
    char out[CONSOLE_BUFFER];
    size_t out_bytes;
    bool timer_armed;
    int wake_fd, timer_fd,
        log_fd; /* eventfd: look now; timerfd: a line without an end waits; the log */
    uint64_t log_end;
    int clients[CONSOLE_MAX_CLIENTS];
    uint8_t input[CONSOLE_INPUT]; /* typed, not yet taken by the guest */
    size_t input_bytes;
    char tail[16]; /* end of the output, for the prompt */
    bool login;
};

/* `log_fd` becomes the console's. -errno of eventfd or timerfd. */
int console_init(struct console *c, int log_fd);
void console_destroy(struct console *c);

void console_output(struct console *c, const char *data, size_t bytes); /* any thread */
void console_wake(struct console *c);       /* any thread: write out what is there */
void console_wake_input(struct console *c); /* any thread: the guest can take input again */

/* ---- main thread */
int console_attach(struct console *c, int fd); /* becomes the console's; -ENOSPC: it is closed */
unsigned console_pollfds(const struct console *c, struct pollfd fds[CONSOLE_POLLFDS]);
/* Handles what poll() found. true: a login prompt was seen for the first time since
 * console_init(). */
bool console_serve(struct console *c, const struct pollfd *fds, unsigned n);
void console_taken(struct console *c, size_t bytes); /* the guest took so much of input */

#endif
