/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * child: starting processes and noticing their end.
 *
 * Every process is watched through a pidfd, which cannot come to mean another process as a pid can.
 * A child has the fds it was given, an empty environment, "/" as its directory, and nothing
 * inherited: no signal handlers, no signal mask, no other fd. It must never run a line of the
 * daemon's own code after the fork but what is in this file (and a spec's function).
 */
#include "vmmd/child.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef VMMD_LIBEXECDIR
#define VMMD_LIBEXECDIR "/usr/local/libexec/vmmd"
#endif

#define HIGH_FD      64 /* sources are moved above every target first */
#define EXIT_NO_EXEC 127

struct child {
    pid_t pid;
    int pidfd;
    int gate; /* write end; -1: released or adopted */
    uint64_t start_ticks;
    struct event *event;
    child_exited_fn exited;
    void *opaque;
};

/* ---- in the child ---- */

static void reset_signals(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &action, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/*
 * Makes the child's fds 0..n-1 of spec->fds and n the gate, and closes all others: at once, not
 * when the gate opens, because among them is the daemon's lock on its directories.
 */
static int arrange_fds(const struct child_spec *spec, int gate)
{
    int high[CHILD_FDS_MAX + 1];

    for (int i = 0; i <= spec->n_fds; i++) {
        high[i] = fcntl(i < spec->n_fds ? spec->fds[i] : gate, F_DUPFD, HIGH_FD);
        if (high[i] < 0)
            return -errno;
    }
    for (int i = 0; i < spec->n_fds; i++)
        if (dup2(high[i], i) < 0)
            return -errno;
    if (dup3(high[spec->n_fds], spec->n_fds, O_CLOEXEC) < 0)
        return -errno;
    return close_range((unsigned)spec->n_fds + 1, ~0u, 0) < 0 ? -errno : 0;
}

static bool wait_at_gate(int gate)
{
    ssize_t n;
    char go;

    do
        n = read(gate, &go, 1);
    while (n < 0 && errno == EINTR);
    return n == 1;
}

static _Noreturn void run_child(const struct child_spec *spec, int gate)
{
    char *const no_environment[] = {NULL};

    reset_signals();
    if (spec->detached)
        setsid();
    else
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (chdir("/") < 0 || arrange_fds(spec, gate) < 0 || !wait_at_gate(spec->n_fds))
        _exit(EXIT_NO_EXEC);
    close(spec->n_fds);
    if (!spec->argv)
        _exit(spec->function(spec->data));
    execve(spec->argv[0], spec->argv, no_environment);
    _exit(EXIT_NO_EXEC);
}

/* ---- in the daemon ---- */

static void on_pidfd(evutil_socket_t fd, short what, void *opaque)
{
    struct child *child = opaque;
    siginfo_t info = {0};
    int r;

    (void)what;
    do
        r = waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG);
    while (r < 0 && errno == EINTR);
    if (r == 0 && info.si_pid == 0)
        return; /* not yet */
    event_del(child->event);
    child->exited(child->opaque, r == 0 ? &info : NULL);
}

static int watch(struct child *child, struct event_base *base)
{
    child->event = event_new(base, child->pidfd, EV_READ | EV_PERSIST, on_pidfd, child);
    if (!child->event || event_add(child->event, NULL) < 0)
        return -ENOMEM;
    return 0;
}

/* Reads /proc/PID/stat up to field `number` (from 1; not 1 or 2); the command name before it may
 * hold anything, even ')'. NULL: there is no such process. */
static const char *read_stat(pid_t pid, int number, char *text, size_t size)
{
    char path[64], *field;
    size_t n;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (!file)
        return NULL;
    n = fread(text, 1, size - 1, file);
    fclose(file);
    text[n] = '\0';
    field = strrchr(text, ')');
    for (int i = 2; field && i < number; i++)
        field = strchr(field + 1, ' ');
    return field;
}

static uint64_t read_start_ticks(pid_t pid)
{
    char text[1024];
    const char *field = read_stat(pid, 22, text, sizeof(text));
    uint64_t ticks;

    return field && sscanf(field, "%" SCNu64, &ticks) == 1 ? ticks : 0;
}

static struct child *child_new(child_exited_fn exited, void *opaque)
{
    struct child *child = calloc(1, sizeof(*child));

    if (child)
        *child =
            (struct child){.pid = -1, .pidfd = -1, .gate = -1, .exited = exited, .opaque = opaque};
    return child;
}

/* Forks; the child waits at the gate. */
static int fork_child(struct child *child, const struct child_spec *spec)
{
    int gate[2];

    if (pipe2(gate, O_CLOEXEC) < 0)
        return -errno;
    child->pid = fork();
    if (child->pid == 0) {
        close(gate[1]); /* else its own end would keep the gate from ever closing */
        run_child(spec, gate[0]);
    }
    close(gate[0]);
    child->gate = gate[1];
    return child->pid < 0 ? -errno : 0;
}

int child_spawn(struct child **ret_child, struct event_base *base, const struct child_spec *spec,
                child_exited_fn exited, void *opaque, struct problem *problem)
{
    struct child *child = child_new(exited, opaque);
    int r;

    if (!child)
        return problem_errno(problem, -ENOMEM, "cannot start a process");
    r = fork_child(child, spec);
    if (r == 0) {
        child->pidfd = pidfd_open(child->pid, 0);
        r = child->pidfd < 0 ? -errno : watch(child, base);
    }
    if (r < 0) {
        pid_t pid = child->pid;

        child_free(child); /* closes the gate: the child ends */
        if (pid > 0)
            waitpid(pid, NULL, 0);
        return problem_errno(problem, r, "cannot start a process");
    }
    child->start_ticks = read_start_ticks(child->pid);
    *ret_child = child;
    return 0;
}

void child_release(struct child *child)
{
    if (child->gate < 0)
        return;
    /* The pipe is empty, so this cannot block; if the child is dead already its pidfd says so. */
    if (write(child->gate, "", 1) < 0)
        child_kill(child);
    close(child->gate);
    child->gate = -1;
}

void child_abort(struct child *child)
{
    pid_t pid = child->pid;

    child_kill(child);
    child_free(child);
    waitpid(pid, NULL, 0);
}

int child_adopt(struct child **ret_child, struct event_base *base, pid_t pid, uint64_t start_ticks,
                child_exited_fn exited, void *opaque)
{
    struct child *child = child_new(exited, opaque);
    int r = 0;

    if (!child)
        return -ENOMEM;
    child->pid = pid;
    child->start_ticks = start_ticks;
    child->pidfd = pidfd_open(pid, 0);
    if (child->pidfd < 0)
        r = -errno;
    else if (start_ticks == 0 || read_start_ticks(pid) != start_ticks)
        r = -ESRCH; /* after pidfd_open: the pid cannot be recycled between the two any more */
    else
        r = watch(child, base);
    if (r < 0) {
        child_free(child);
        return r;
    }
    *ret_child = child;
    return 0;
}

pid_t child_pid(const struct child *child)
{
    return child->pid;
}

double child_cpu_seconds(const struct child *child)
{
    char text[1024];
    const char *field = read_stat(child->pid, 14, text, sizeof(text)); /* utime, stime */
    uint64_t user, kernel;

    if (!field || sscanf(field, "%" SCNu64 " %" SCNu64, &user, &kernel) != 2)
        return 0;
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

uint64_t child_start_ticks(const struct child *child)
{
    return child->start_ticks;
}

void child_kill(struct child *child)
{
    pidfd_send_signal(child->pidfd, SIGKILL, NULL, 0);
}

void child_free(struct child *child)
{
    if (!child)
        return;
    if (child->event)
        event_free(child->event);
    if (child->gate >= 0)
        close(child->gate);
    if (child->pidfd >= 0)
        close(child->pidfd);
    free(child);
}

void child_describe_end(const siginfo_t *info, char *text, size_t size)
{
    if (!info)
        snprintf(text, size, "ended, nobody saw how");
    else if (info->si_code == CLD_EXITED && info->si_status == EXIT_NO_EXEC)
        snprintf(text, size, "could not be executed");
    else if (info->si_code == CLD_EXITED)
        snprintf(text, size, "exited with status %d", info->si_status);
    else
        snprintf(text, size, "killed by signal %d (%s)", info->si_status,
                 strsignal(info->si_status));
}

/* ---- programs ---- */

static bool program_in(const char *directory, const char *name, char *path, size_t size)
{
    int n = snprintf(path, size, "%s/%s", directory, name);

    return n > 0 && (size_t)n < size && access(path, X_OK) == 0;
}

int child_find_program(const char *name, char *path, size_t size, struct problem *problem)
{
    const char *override = getenv("VMMD_LIBEXEC");
    char self[PATH_MAX];
    ssize_t n;

    if (override && override[0] == '/') {
        if (program_in(override, name, path, size))
            return 0;
        return problem_errno(problem, -errno, "cannot run %s/%s", override, name);
    }
    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n > 0) {
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
        if (program_in(self, name, path, size))
            return 0;
        /* Installed under some prefix: PREFIX/sbin/vmmd, PREFIX/libexec/vmmd/NAME. */
        strncat(self, "/../libexec/vmmd", sizeof(self) - strlen(self) - 1);
        if (program_in(self, name, path, size))
            return 0;
    }
    if (program_in(VMMD_LIBEXECDIR, name, path, size))
        return 0;
    return problem_errno(problem, -errno, "cannot run %s", path);
}
