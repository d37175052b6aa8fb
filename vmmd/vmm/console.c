/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * console: see console.h. A short line that lacks its end is written out by a timer, so that the
 * guest's thread need not wake the main thread for every byte.
 */
#include "vmmd/vmm/console.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PARTIAL_LINE_NS 30000000l /* how long an unfinished line may wait */
#define HOLE_STEP       (1u << 20)
#define BLOCK           4096u

int console_init(struct console *c, int log_fd)
{
    struct stat st;
    int r = 0;

    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    for (unsigned i = 0; i < CONSOLE_MAX_CLIENTS; i++)
        c->clients[i] = -1;
    c->log_fd = log_fd;
    c->log_end = fstat(log_fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0)
        r = -errno;
    c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (c->timer_fd < 0)
        r = -errno;
    return r;
}

void console_destroy(struct console *c)
{
    for (unsigned i = 0; i < CONSOLE_MAX_CLIENTS; i++)
        if (c->clients[i] >= 0)
            close(c->clients[i]);
    close(c->wake_fd);
    close(c->timer_fd);
    close(c->log_fd);
    pthread_mutex_destroy(&c->lock);
}

void console_wake_input(struct console *c)
{
    uint64_t one = 1;

    if (write(c->wake_fd, &one, sizeof(one)) < 0) {
        /* EAGAIN: it is awake already */
    }
}

void console_wake(struct console *c)
{
    pthread_mutex_lock(&c->lock);
    bool any = c->out_bytes > 0;
    pthread_mutex_unlock(&c->lock);
    if (any)
        console_wake_input(c);
}

static void arm_timer(struct console *c)
{
    const struct itimerspec soon = {.it_value.tv_nsec = PARTIAL_LINE_NS};

    c->timer_armed = true;
    timerfd_settime(c->timer_fd, 0, &soon, NULL);
}

void console_output(struct console *c, const char *data, size_t bytes)
{
    bool now;

    pthread_mutex_lock(&c->lock);
    /* The main thread is far behind: the guest prints faster than the log can be written. Drop. */
    if (bytes > CONSOLE_BUFFER - c->out_bytes)
        bytes = CONSOLE_BUFFER - c->out_bytes;
    memcpy(c->out + c->out_bytes, data, bytes);
    c->out_bytes += bytes;
    now = memchr(data, '\n', bytes) || c->out_bytes > CONSOLE_BUFFER / 4;
    if (!now && !c->timer_armed)
        arm_timer(c);
    pthread_mutex_unlock(&c->lock);
    if (now)
        console_wake(c);
}

/* ---- main thread
 * ---------------------------------------------------------------------------------------- */

/* Keeps the last CONSOLE_LOG_MAX bytes: what is older becomes a hole, a megabyte at a time. */
static void bound_log(struct console *c, uint64_t before)
{
    if (c->log_end <= CONSOLE_LOG_MAX || before / HOLE_STEP == c->log_end / HOLE_STEP)
        return;
    uint64_t keep_from = (c->log_end - CONSOLE_LOG_MAX) & ~(uint64_t)(BLOCK - 1);
    fallocate(c->log_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)keep_from);
}

static void write_log(struct console *c, const char *data, size_t bytes)
{
    uint64_t before = c->log_end;

    while (bytes > 0) {
        ssize_t n = write(c->log_fd, data, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) /* a full disk loses log lines, not the guest */
            break;
        data += n;
        bytes -= (size_t)n;
        c->log_end += (uint64_t)n;
    }
    bound_log(c, before);
}

static bool watch_prompt(struct console *c, const char *data, size_t bytes)
{
    static const char prompt[] = "login: ";
    char joined[sizeof(c->tail) + CONSOLE_BUFFER];
    size_t tail = strlen(c->tail), all = tail + bytes, keep;
    bool seen;

    memcpy(joined, c->tail, tail);
    memcpy(joined + tail, data, bytes);
    seen = memmem(joined, all, prompt, sizeof(prompt) - 1) != NULL;
    keep = all < sizeof(c->tail) - 1 ? all : sizeof(c->tail) - 1;
    memcpy(c->tail, joined + all - keep, keep);
    c->tail[keep] = '\0';
    for (size_t i = 0; i < keep; i++) /* strlen above must see all of it */
        if (c->tail[i] == '\0')
            c->tail[i] = ' ';
    if (!seen || c->login)
        return false;
    c->login = true;
    return true;
}

static void drain(int fd)
{
    uint64_t ignored;

    if (read(fd, &ignored, sizeof(ignored)) < 0) {
        /* it had nothing to say */
    }
}

static bool write_out(struct console *c)
{
    char data[CONSOLE_BUFFER];
    size_t bytes;

    drain(c->wake_fd);
    drain(c->timer_fd);
    pthread_mutex_lock(&c->lock);
    bytes = c->out_bytes;
    memcpy(data, c->out, bytes);
    c->out_bytes = 0;
    c->timer_armed = false;
    pthread_mutex_unlock(&c->lock);
    if (bytes == 0)
        return false;
    write_log(c, data, bytes);
    for (unsigned i = 0; i < CONSOLE_MAX_CLIENTS; i++)
        if (c->clients[i] >= 0 &&
            send(c->clients[i], data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN &&
            errno != EINTR) {
            close(c->clients[i]);
            c->clients[i] = -1;
        }
    return watch_prompt(c, data, bytes);
}

int console_attach(struct console *c, int fd)
{
    for (unsigned i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
        if (c->clients[i] < 0) {
            c->clients[i] = fd;
            return 0;
        }
    }
    close(fd);
    return -ENOSPC;
}

unsigned console_pollfds(const struct console *c, struct pollfd fds[CONSOLE_POLLFDS])
{
    unsigned n = 0;

    fds[n++] = (struct pollfd){.fd = c->wake_fd, .events = POLLIN};
    fds[n++] = (struct pollfd){.fd = c->timer_fd, .events = POLLIN};
    /* A full input buffer lets typing wait in the socket; a hang-up too, which poll would report
     * again and again. */
    for (unsigned i = 0; i < CONSOLE_MAX_CLIENTS; i++)
        fds[n++] = (struct pollfd){.fd = c->input_bytes < CONSOLE_INPUT ? c->clients[i] : -1,
                                   .events = POLLIN};
    return n;
}

static void read_client(struct console *c, unsigned i)
{
    ssize_t n = recv(c->clients[i], c->input + c->input_bytes, CONSOLE_INPUT - c->input_bytes,
                     MSG_DONTWAIT);

    if (n > 0) {
        c->input_bytes += (size_t)n;
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(c->clients[i]);
        c->clients[i] = -1;
    }
}

bool console_serve(struct console *c, const struct pollfd *fds, unsigned n)
{
    bool login = false;

    if (n >= 2 && (fds[0].revents || fds[1].revents))
        login = write_out(c);
    for (unsigned i = 2; i < n; i++)
        if (fds[i].revents && c->clients[i - 2] == fds[i].fd && c->input_bytes < CONSOLE_INPUT)
            read_client(c, i - 2);
    return login;
}

void console_taken(struct console *c, size_t bytes)
{
    memmove(c->input, c->input + bytes, c->input_bytes - bytes);
    c->input_bytes -= bytes;
}
