/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel says of a process. Pss of guest RAM is the process's sum (smaps_rollup, exact)
 * less that of everything else: per mapping the kernel rounds down to KiB, and guest RAM has tens
 * of thousands of mappings.
 */
#include "tests/bench/memshare/bench.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

uint64_t now_ns(clockid_t clock)
{
    struct timespec ts = {0};

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void ending(sigset_t *ret_set)
{
    sigemptyset(ret_set);
    sigaddset(ret_set, SIGINT);
    sigaddset(ret_set, SIGTERM);
    sigaddset(ret_set, SIGHUP);
}

/* From now on these signals are only noticed in nap_ns: so that settings are always restored. */
int proc_block_signals(void)
{
    sigset_t set;

    ending(&set);
    return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
}

int nap_ns(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    sigset_t set;

    ending(&set);
    return sigtimedwait(&set, NULL, &ts) > 0 ? -EINTR : 0;
}

static int read_rollup(pid_t pid, struct memory *memory)
{
    unsigned long kib;
    char line[512];
    FILE *file;

    snprintf(line, sizeof(line), "/proc/%d/smaps_rollup", pid);
    file = fopen(line, "re");
    if (!file)
        return -errno;
    while (fgets(line, sizeof(line), file)) {
        if (sscanf(line, "Pss: %lu kB", &kib) == 1)
            memory->pss = kib * 1024;
        else if (sscanf(line, "Pss_Shmem: %lu kB", &kib) == 1)
            memory->shmem_pss = kib * 1024;
    }
    fclose(file);
    return 0;
}

static bool is_shmem(const char *name)
{
    return strstr(name, "/memfd:") || strstr(name, "/dev/zero");
}

/* Takes what is not guest RAM away from the sums. */
static void subtract_others(FILE *file, uintptr_t from, uintptr_t to, struct memory *memory)
{
    bool inside = false, shmem = false, writable = false;
    char line[512];

    while (fgets(line, sizeof(line), file)) {
        unsigned long low, high, kib;
        char mode[8];

        if (line[0] >= 'A' && line[0] <= 'Z') {
            if (inside || strncmp(line, "Pss:", 4) != 0 || sscanf(line, "Pss: %lu", &kib) != 1)
                continue;
            memory->pss -= kib * 1024;
            memory->shmem_pss -= shmem ? kib * 1024 : 0;
            memory->other_pss += writable && !shmem ? kib * 1024 : 0;
        } else if (sscanf(line, "%lx-%lx %7s", &low, &high, mode) == 3) {
            inside = low >= from && high <= to;
            shmem = is_shmem(line);
            writable = mode[1] == 'w';
            memory->mappings += inside;
        }
    }
}

int proc_memory(pid_t pid, uintptr_t ram, uint64_t ram_bytes, struct memory *ret_memory)
{
    struct memory memory = {0};
    char path[64];
    int r = read_rollup(pid, &memory);
    FILE *file;

    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
    file = fopen(path, "re");
    if (!file)
        return -errno;
    subtract_others(file, ram, ram + ram_bytes, &memory);
    fclose(file);
    *ret_memory = memory;
    return 0;
}

static bool is_called(const char *pid, const char *comm)
{
    char path[300], name[64] = "";
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%s/comm", pid);
    file = fopen(path, "re");
    if (!file)
        return false;
    if (!fgets(name, sizeof(name), file))
        name[0] = '\0';
    fclose(file);
    name[strcspn(name, "\n")] = '\0';
    return strcmp(name, comm) == 0;
}

pid_t proc_find(const char *comm)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    pid_t found = -ESRCH;

    if (!dir)
        return -errno;
    while (found < 0 && (entry = readdir(dir)))
        if (entry->d_name[0] > '0' && entry->d_name[0] <= '9' && is_called(entry->d_name, comm))
            found = (pid_t)atoi(entry->d_name);
    closedir(dir);
    return found;
}

uint64_t proc_cpu_ns(pid_t pid)
{
    unsigned long long ns = 0;
    char path[64];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%llu", &ns) != 1)
        ns = 0;
    fclose(file);
    return ns;
}

static void cpu_model(char *ret_model, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[512];

    snprintf(ret_model, size, "unknown processor");
    while (file && fgets(line, sizeof(line), file)) {
        char *value = strchr(line, ':');

        if (strncmp(line, "model name", 10) != 0 || !value)
            continue;
        snprintf(ret_model, size, "%s", value + 2);
        ret_model[strcspn(ret_model, "\n")] = '\0';
        break;
    }
    if (file)
        fclose(file);
}

json_t *proc_machine(void)
{
    char model[200], date[32] = "";
    struct utsname uts = {0};
    time_t now = time(NULL);
    double load = 0;
    struct tm tm;

    cpu_model(model, sizeof(model));
    uname(&uts);
    if (gmtime_r(&now, &tm))
        strftime(date, sizeof(date), "%Y-%m-%d", &tm);
    (void)getloadavg(&load, 1);
    return json_pack("{s:s, s:I, s:s, s:s, s:f}", "cpu", model, "cores",
                     (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "kernel", uts.release, "date", date,
                     "load", load);
}
