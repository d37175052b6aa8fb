/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vmmd-guest: one virtual machine. Started by vmmd with a listening socket as fd 3 and nothing
 * else; people do not start it.
 */
#include "vmmd/vmm/worker.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#ifndef VMMD_VERSION
#define VMMD_VERSION "unknown"
#endif

static bool is_listening(int fd)
{
    int listening = 0;
    socklen_t bytes = sizeof(listening);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &bytes) == 0 && listening;
}

static int usage(FILE *out, int status)
{
    fputs("vmmd-guest runs one guest for vmmd(8), which starts it; see vmctl(1) to run a guest.\n"
          "\n"
          "  --help     this text\n"
          "  --version  print the version\n",
          out);
    return status;
}

int main(int argc, char **argv)
{
    struct worker *w;
    int status;

    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return usage(stdout, 0);
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return printf("vmmd-guest %s\n", VMMD_VERSION) < 0;
    if (argc > 1)
        return usage(stderr, 2);
    if (!is_listening(PROTO_LISTEN_FD)) {
        fprintf(stderr, "vmmd-guest: fd %d is not a listening socket; vmmd starts this program\n",
                PROTO_LISTEN_FD);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    mallopt(M_ARENA_MAX, 1); /* less memory; and arenas of threads open a file to shrink, which the
                                sandbox forbids */
    w = calloc(1, sizeof(*w));
    if (!w)
        return 1;
    w->listen_fd = PROTO_LISTEN_FD;
    status = worker_run(w);
    free(w);
    return status;
}
