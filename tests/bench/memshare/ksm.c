/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's KSM on the same content in the same kind of processes. Each run begins with nothing
 * merged (run = 2, new processes). KSM belongs to the whole machine: its settings are noted and put
 * back. Its CPU time is that of ksmd, to the nanosecond. ksmd has a nice value of 5: beside other
 * work it takes longer, so its times (not its CPU time) mean something on an idle machine only.
 */
#include "tests/bench/memshare/bench.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define KSM       "/sys/kernel/mm/ksm/"
#define SAMPLE_NS 5000000ull
#define STEPS     500
#define LONGEST   200 /* seconds */
#define SETTINGS  5

static const char *const setting[SETTINGS] = {"run", "pages_to_scan", "sleep_millisecs",
                                              "smart_scan", "use_zero_pages"};

struct ksm {
    const struct options *options;
    pid_t ksmd;
    int lock, sharing, full_scans; /* fds */
    long before[SETTINGS];         /* -1: this kernel has no such setting */
    struct guests guests;
    struct guest_reply reply[MAX_GUESTS];
    uint64_t start_ns, start_cpu_ns, captured, step;
    unsigned n_points;
    struct point point[MAX_POINTS];
    struct run run;
};

/* ---- settings ---- */

static long read_fd(int fd)
{
    char text[32] = "";

    if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
        return -1;
    return atol(text);
}

static int open_file(const char *name, int flags)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), KSM "%s", name);
    fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static long get(const char *name)
{
    int fd = open_file(name, O_RDONLY);
    long value = fd < 0 ? -1 : read_fd(fd);

    if (fd >= 0)
        close(fd);
    return value;
}

static int set(const char *name, long value)
{
    int fd = open_file(name, O_WRONLY), r = 0;
    char text[32];

    if (fd < 0)
        return fd;
    snprintf(text, sizeof(text), "%ld", value);
    if (write(fd, text, strlen(text)) < 0)
        r = -errno;
    close(fd);
    return r;
}

int ksm_open(struct ksm **ret_ksm, const struct options *options)
{
    struct ksm *ksm = calloc(1, sizeof(*ksm));

    if (!ksm)
        return -ENOMEM;
    ksm->options = options;
    ksm->ksmd = proc_find("ksmd");
    ksm->lock = open_file("run", O_RDONLY);
    if (ksm->lock >= 0)
        (void)flock(ksm->lock, LOCK_EX); /* one benchmark at a time */
    ksm->sharing = open_file("pages_sharing", O_RDONLY);
    ksm->full_scans = open_file("full_scans", O_RDONLY);
    for (int i = 0; i < SETTINGS; i++)
        ksm->before[i] = get(setting[i]);
    if (ksm->ksmd < 0 || ksm->sharing < 0 || ksm->full_scans < 0) {
        ksm_close(ksm);
        return -ENOSYS;
    }
    *ret_ksm = ksm;
    return 0;
}

void ksm_close(struct ksm *ksm)
{
    if (!ksm)
        return;
    for (int i = 0; i < SETTINGS; i++)
        if (ksm->before[i] >= 0)
            (void)set(setting[i], ksm->before[i]);
    if (ksm->lock >= 0)
        close(ksm->lock);
    if (ksm->sharing >= 0)
        close(ksm->sharing);
    if (ksm->full_scans >= 0)
        close(ksm->full_scans);
    free(ksm);
}

json_t *ksm_settings(const struct ksm *ksm)
{
    json_t *all = json_object();

    for (int i = 0; i < SETTINGS; i++)
        json_object_set_new(all, setting[i], json_integer(ksm->before[i]));
    return all;
}

/* ---- a run ---- */

static int resident_now(struct ksm *ksm, uint64_t *ret_bytes)
{
    uint64_t pss = 0, mappings = 0;

    for (unsigned i = 0; i < ksm->guests.n; i++) {
        const struct guest *guest = &ksm->guests.guest[i];
        struct memory memory;
        int r = proc_memory(guest->pid, guest->ram, guest->ram_bytes, &memory);

        if (r < 0)
            return r;
        pss += memory.pss;
        mappings += memory.mappings;
    }
    ksm->run.mappings = mappings;
    *ret_bytes = pss;
    return 0;
}

static double elapsed(const struct ksm *ksm)
{
    return (double)(now_ns(CLOCK_MONOTONIC) - ksm->start_ns) / 1e9;
}

static double cpu_now(const struct ksm *ksm)
{
    return (double)(proc_cpu_ns(ksm->ksmd) - ksm->start_cpu_ns) / 1e9;
}

static int sample(struct ksm *ksm)
{
    uint64_t last = ksm->n_points ? ksm->point[ksm->n_points - 1].captured : 0;
    long sharing = read_fd(ksm->sharing);

    if (sharing < 0)
        return -EIO;
    ksm->captured = (uint64_t)sharing;
    if (ksm->captured >= last + ksm->step && ksm->n_points < MAX_POINTS)
        ksm->point[ksm->n_points++] = (struct point){
            .seconds = elapsed(ksm), .cpu_seconds = cpu_now(ksm), .captured = ksm->captured};
    return 0;
}

/* Done: two whole scans without progress worth noting, once there was some. */
static int until_done(struct ksm *ksm)
{
    unsigned seen = 0;
    long scans = read_fd(ksm->full_scans);
    int r = 0;

    do {
        r = nap_ns(SAMPLE_NS);
        if (r == 0)
            r = sample(ksm);
        if (ksm->n_points != seen) {
            seen = ksm->n_points;
            scans = read_fd(ksm->full_scans);
        }
        ksm->run.settled = seen && read_fd(ksm->full_scans) > scans + 2;
    } while (r == 0 && !ksm->run.settled && elapsed(ksm) < LONGEST);
    ksm->run.seconds = elapsed(ksm);
    ksm->run.cpu_seconds = cpu_now(ksm);
    return r;
}

static int result(struct ksm *ksm)
{
    struct run *run = &ksm->run;
    int r = resident_now(ksm, &run->resident_after);

    if (r < 0)
        return r;
    run->captured_counted = ksm->captured;
    run->resident_claimed = run->resident_before - ksm->captured * MS_PAGE_SIZE;
    run->goal = when_reached(ksm->point, ksm->n_points, GOAL * (double)run->possible);
    run->end = when_reached(ksm->point, ksm->n_points,
                            MOST * (double)run->captured_counted - (double)ksm->step);
    if (run->resident_before > run->resident_after && run->possible)
        run->captured = (double)(run->resident_before - run->resident_after) / MS_PAGE_SIZE /
                        (double)run->possible;
    return 0;
}

static int start(struct ksm *ksm, unsigned pages_to_scan, unsigned sleep_ms)
{
    const struct options *options = ksm->options;
    int r = set("run", 2);

    if (r == 0)
        r = set("pages_to_scan", pages_to_scan);
    if (r == 0)
        r = set("sleep_millisecs", sleep_ms);
    if (r == 0)
        r = guests_start(&ksm->guests, options->image, options->n_images, NULL,
                         options->zero_resident);
    if (r == 0)
        r = resident_now(ksm, &ksm->run.resident_before);
    if (r == 0)
        r = guests_ask(&ksm->guests, &(struct guest_request){.command = GUEST_MERGEABLE}, NULL);
    if (r < 0)
        return r;
    ksm->start_cpu_ns = proc_cpu_ns(ksm->ksmd);
    ksm->start_ns = now_ns(CLOCK_MONOTONIC);
    return set("run", 1);
}

static int steady(struct ksm *ksm, unsigned changes)
{
    const struct options *options = ksm->options;
    struct guest_request request = {
        .command = GUEST_CHANGE, .value = changes / ksm->guests.n, .seconds = options->steady};
    double start_at = elapsed(ksm), cpu = cpu_now(ksm);
    struct steady *steady = &ksm->run.steady[ksm->run.n_steady];
    int r;

    if (changes)
        r = guests_ask(&ksm->guests, &request, ksm->reply);
    else
        r = nap_ns((uint64_t)options->steady * 1000000000);
    if (r < 0)
        return r;
    steady->cpu_percent = (cpu_now(ksm) - cpu) / (elapsed(ksm) - start_at) * 100;
    for (unsigned i = 0; changes && i < ksm->guests.n; i++)
        steady->changes += (double)ksm->reply[i].changed / options->steady;
    ksm->run.n_steady++;
    return 0;
}

int ksm_run(struct ksm *ksm, unsigned pages_to_scan, unsigned sleep_ms, bool with_steady,
            struct run *ret_run)
{
    int r;

    memset(&ksm->run, 0, sizeof(ksm->run));
    ksm->n_points = 0;
    ksm->run.possible = ksm->options->oracle->possible;
    ksm->run.pages_to_scan = pages_to_scan;
    ksm->run.sleep_ms = sleep_ms;
    ksm->step = ksm->run.possible / STEPS + 1;
    snprintf(ksm->run.name, sizeof(ksm->run.name), "KSM %u pages / %u ms", pages_to_scan, sleep_ms);
    r = start(ksm, pages_to_scan, sleep_ms);
    if (r == 0)
        r = until_done(ksm);
    if (r == 0)
        r = result(ksm);
    if (r == 0 && with_steady)
        r = steady(ksm, 0);
    if (r == 0 && with_steady && ksm->options->changes)
        r = steady(ksm, ksm->options->changes);
    (void)set("run", 2);
    guests_end(&ksm->guests);
    *ret_run = ksm->run;
    return r;
}
