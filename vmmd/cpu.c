/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cpu: shares, limits and reserves of processor time by cgroups or by nice.
 *
 * Version 2 has a rule: a cgroup with processes of its own may have children with controllers only
 * if they are threaded. So the guests' cgroups are: vmmd stays where it was put, which also lets a
 * service manager start it again there while its guests run on.
 *
 * It must never touch a cgroup that is not called vmmd.NAME.UUID, but for enabling the controller,
 * nor any process but the one it is given.
 */
#include "vmmd/cpu.h"

#include "vmmd/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PERIOD_USEC   100000u /* of a limit: 1 % of it is the shortest time the kernel accepts */
#define V1_DEFAULT    1024u   /* what version 1 calls a weight of 100 */
#define NICE_STEP     1.25    /* of the scheduler: one step of nice is so much in weight */
#define THREAD_PASSES 3 /* over threads: those that begin meanwhile inherit or are seen then */

/* ---- small files ---- */

static int make_path(const struct cpu_control *control, const char *directory, const char *name,
                     char path[PATH_MAX])
{
    int n = snprintf(path, PATH_MAX, "%s%s/%s", control->root, directory, name);

    return n > 0 && n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int write_text(const struct cpu_control *control, const char *directory, const char *name,
                      const char *text)
{
    char path[PATH_MAX];
    size_t n = strlen(text);
    int fd, r = make_path(control, directory, name, path);

    if (r < 0)
        return r;
    fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, n) != (ssize_t)n)
        r = errno ? -errno : -EIO;
    close(fd);
    return r;
}

static bool list_has(const struct cpu_control *control, const char *directory, const char *name,
                     const char *word)
{
    char path[PATH_MAX], text[512];
    FILE *file;
    bool has;

    if (make_path(control, directory, name, path) < 0 || !(file = fopen(path, "re")))
        return false;
    has = fgets(text, sizeof(text), file) && cgroup_has_word(text, word);
    fclose(file);
    return has;
}

static bool may_write(const struct cpu_control *control, const char *directory, const char *name)
{
    char path[PATH_MAX];

    return make_path(control, directory, name, path) == 0 &&
           faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0;
}

/* ---- what there is ---- */

const char *cpu_means_name(enum cpu_means means)
{
    static const char *const names[] = {"scheduler priority", "cgroup v1", "cgroup v2"};

    return names[means];
}

/* Takes the cgroup if guests can be put below it; else says why not. */
static bool take_cgroup(struct cpu_control *control, const struct cgroup *cgroup,
                        enum cpu_means means)
{
    char directory[2 * PATH_MAX];
    int r;

    snprintf(directory, sizeof(directory), "%s%s", cgroup->mount, cgroup->path);
    if (strlen(directory) >= sizeof(control->directory))
        return false;
    if (means == CPU_CGROUP2 && !list_has(control, directory, "cgroup.controllers", "cpu")) {
        snprintf(control->why, sizeof(control->why), "no cpu controller in %.180s", directory);
        return false;
    }
    if (!may_write(control, directory, "") || !may_write(control, directory, "cgroup.procs")) {
        snprintf(control->why, sizeof(control->why), "cannot write in %.180s: %s", directory,
                 strerror(errno));
        return false;
    }
    if (means == CPU_CGROUP2 && !list_has(control, directory, "cgroup.subtree_control", "cpu")) {
        r = write_text(control, directory, "cgroup.subtree_control", "+cpu");
        if (r < 0) {
            snprintf(control->why, sizeof(control->why),
                     "cannot enable the cpu controller in %.180s: %s", directory, strerror(-r));
            return false;
        }
    }
    memcpy(control->directory, directory, strlen(directory) + 1);
    control->means = means;
    control->why[0] = '\0';
    return true;
}

/* Whether the scheduler counts us to the top: there, and only there, it groups by session. */
static bool is_at_top(const struct cpu_control *control, struct cgroup *cgroup)
{
    char directory[2 * PATH_MAX];

    if (cgroup_find(cgroup, control->root, "cpu"))
        return cgroup->path[0] == '\0';
    if (!cgroup_find(cgroup, control->root, NULL))
        return true;
    while (cgroup->path[0]) {
        snprintf(directory, sizeof(directory), "%s%s", cgroup->mount, cgroup->path);
        if (list_has(control, directory, "cgroup.controllers", "cpu"))
            return false;
        *strrchr(cgroup->path, '/') = '\0';
    }
    return true;
}

void cpu_control_find(struct cpu_control *ret, const char *root)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    struct cgroup *cgroup = malloc(sizeof(*cgroup));

    *ret = (struct cpu_control){.means = CPU_NICE, .n_cpus = n > 0 ? (unsigned)n : 1};
    snprintf(ret->root, sizeof(ret->root), "%s", root);
    snprintf(ret->why, sizeof(ret->why), "no cgroup is mounted");
    if (!cgroup)
        return;
    if (!(cgroup_find(cgroup, root, "cpu") && take_cgroup(ret, cgroup, CPU_CGROUP1)) &&
        !(cgroup_find(cgroup, root, NULL) && take_cgroup(ret, cgroup, CPU_CGROUP2)))
        ret->autogroup = list_has(ret, "/proc/sys/kernel", "sched_autogroup_enabled", "1") &&
                         is_at_top(ret, cgroup);
    free(cgroup);
}

/* ---- settings ---- */

bool cpu_settings_sane(const struct cpu_settings *settings)
{
    return settings->shares >= 1 && settings->shares <= CPU_SHARES_MAX &&
           settings->limit <= CPU_CORE * CPU_VCPUS_MAX &&
           settings->reserve <= CPU_CORE * CPU_VCPUS_MAX &&
           (!settings->limit || settings->reserve <= settings->limit);
}

static int check_percent(const char *what, uint32_t percent, uint32_t vcpus,
                         struct problem *problem)
{
    if (percent <= CPU_CORE * (uint64_t)vcpus)
        return 0;
    return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                       "a CPU %s is in percent of one core: 0 (none) to %llu for a guest with %u "
                       "vCPU%s, not %u",
                       what, (unsigned long long)CPU_CORE * vcpus, vcpus, vcpus == 1 ? "" : "s",
                       percent);
}

int cpu_check(const struct cpu_control *control, const struct cpu_settings *settings,
              uint32_t vcpus, struct problem *problem)
{
    int r;

    if (settings->shares < 1 || settings->shares > CPU_SHARES_MAX)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "CPU shares are 1 to %u (%u by default), not %u", CPU_SHARES_MAX,
                           CPU_SHARES_DEFAULT, settings->shares);
    r = check_percent("limit", settings->limit, vcpus, problem);
    if (r == 0)
        r = check_percent("reserve", settings->reserve, vcpus, problem);
    if (r < 0)
        return r;
    if (settings->limit && settings->reserve > settings->limit)
        return problem_set(problem, PROBLEM_INVALID_ARGUMENT,
                           "a CPU reserve of %u %% is more than the limit of %u %%",
                           settings->reserve, settings->limit);
    if ((settings->limit || settings->reserve) && control->means == CPU_NICE)
        return problem_set(problem, PROBLEM_NOT_SUPPORTED,
                           "a CPU %s needs a cgroup that vmmd may write to, and there is none: %s",
                           settings->limit ? "limit" : "reserve", control->why);
    return 0;
}

/*
 * Whoever has less than its reserve by its shares is given exactly its reserve's part; that makes
 * the others' parts smaller, so it is looked again until nobody falls short. The sum of all weights
 * follows from the shares of the others, who have what the reserves leave.
 */
void cpu_weights(const struct cpu_control *control, const struct cpu_settings *const *settings,
                 size_t n, uint32_t *ret_weights)
{
    double host = (double)control->n_cpus * CPU_CORE, sum = 0, most = 0, before = -1;

    for (size_t i = 0; i < n; i++)
        sum += settings[i]->shares;
    while (sum > before) { /* at most n times: each time one more is raised */
        double others = 0, promised = 0;

        before = sum;
        for (size_t i = 0; i < n; i++) {
            double part = settings[i]->reserve / host;

            if (settings[i]->shares < part * sum)
                promised += part;
            else
                others += settings[i]->shares;
        }
        if (promised > 0 && promised < 1)
            sum = others > 0 ? others / (1 - promised) : sum;
        if (sum < before)
            sum = before;
    }
    for (size_t i = 0; i < n; i++) {
        double weight = fmax(settings[i]->shares, settings[i]->reserve / host * sum);

        most = fmax(most, weight);
    }
    for (size_t i = 0; i < n; i++) {
        double weight = fmax(settings[i]->shares, settings[i]->reserve / host * sum);

        if (most > CPU_SHARES_MAX)
            weight = weight * CPU_SHARES_MAX / most;
        ret_weights[i] = weight < 1 ? 1 : (uint32_t)lround(weight);
    }
}

/* ---- cgroups ---- */

static int guest_directory(const struct cpu_control *control, const struct cpu_place *place,
                           char directory[PATH_MAX])
{
    char uuid[33];
    int n;

    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", place->uuid[i]);
    n = snprintf(directory, PATH_MAX, "%s/vmmd.%s.%s", control->directory, place->name, uuid);
    return n > 0 && n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int cannot(struct problem *problem, int error, const struct cpu_place *place,
                  const char *directory, const char *file)
{
    return problem_errno(problem, error, "guest %s: cannot write %.300s%s%s", place->name,
                         directory, *file ? "/" : "", file);
}

int cpu_enter(const struct cpu_control *control, const struct cpu_place *place,
              struct problem *problem)
{
    char directory[PATH_MAX], path[PATH_MAX], text[16];
    int r;

    if (control->means == CPU_NICE)
        return 0;
    r = guest_directory(control, place, directory);
    if (r == 0)
        r = make_path(control, directory, "", path);
    if (r == 0 && mkdir(path, 0755) < 0 && errno != EEXIST)
        r = -errno;
    if (r < 0)
        return cannot(problem, r, place, directory, "");
    /* Where it cannot be threaded it may still do as an ordinary one: then the next step says. */
    if (control->means == CPU_CGROUP2)
        write_text(control, directory, "cgroup.type", "threaded");
    snprintf(text, sizeof(text), "%d", (int)place->pid);
    r = write_text(control, directory, "cgroup.procs", text);
    if (r == 0)
        return 0;
    cpu_leave(control, place);
    return cannot(problem, r, place, directory, "cgroup.procs");
}

void cpu_leave(const struct cpu_control *control, const struct cpu_place *place)
{
    char directory[PATH_MAX], path[PATH_MAX];

    if (control->means != CPU_NICE && guest_directory(control, place, directory) == 0 &&
        make_path(control, directory, "", path) == 0)
        rmdir(path);
}

static int apply_cgroup(const struct cpu_control *control, const struct cpu_place *place,
                        const struct cpu_settings *settings, uint32_t weight,
                        char ret_text[CPU_TEXT_MAX], struct problem *problem)
{
    bool v2 = control->means == CPU_CGROUP2;
    const char *weight_file = v2 ? "cpu.weight" : "cpu.shares";
    const char *limit_file = v2 ? "cpu.max" : "cpu.cfs_quota_us";
    char directory[PATH_MAX], text[48];
    uint32_t quota = settings->limit * (PERIOD_USEC / 100);
    int r = guest_directory(control, place, directory);

    snprintf(text, sizeof(text), "%u", v2 ? weight : (weight * V1_DEFAULT + 50) / 100);
    if (r == 0)
        r = write_text(control, directory, weight_file, text);
    if (r < 0)
        return cannot(problem, r, place, directory, weight_file);
    if (v2 && settings->limit)
        snprintf(text, sizeof(text), "%u %u", quota, PERIOD_USEC);
    else if (v2)
        snprintf(text, sizeof(text), "max %u", PERIOD_USEC);
    else
        snprintf(text, sizeof(text), "%d", settings->limit ? (int)quota : -1);
    r = write_text(control, directory, limit_file, text);
    if (r < 0)
        return cannot(problem, r, place, directory, limit_file);
    snprintf(ret_text, CPU_TEXT_MAX, "%s, weight %u, %.200s", cpu_means_name(control->means),
             weight, directory);
    return 0;
}

/* ---- nice ---- */

static int nice_of(uint32_t weight)
{
    long nice = lround(-log(weight / (double)CPU_SHARES_DEFAULT) / log(NICE_STEP));

    return nice < -20 ? -20 : nice > 19 ? 19 : (int)nice;
}

/* Of every thread. How many were not as they should be, or -errno. */
static int nice_threads(pid_t pid, int nice)
{
    char path[PATH_MAX];
    const struct dirent *entry;
    int changed = 0, r = 0;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid); /* real, also in tests */
    dir = opendir(path);
    if (!dir)
        return -errno;
    while (r == 0 && (entry = readdir(dir))) {
        id_t tid = (id_t)strtoul(entry->d_name, NULL, 10);

        if (tid == 0 || getpriority(PRIO_PROCESS, tid) == nice)
            continue;
        if (setpriority(PRIO_PROCESS, tid, nice) == 0)
            changed++;
        else if (errno != ESRCH) /* that thread has ended */
            r = -errno;
    }
    closedir(dir);
    return r < 0 ? r : changed;
}

static int apply_nice(const struct cpu_control *control, const struct cpu_place *place,
                      uint32_t weight, char ret_text[CPU_TEXT_MAX], struct problem *problem)
{
    int nice = nice_of(weight), r = 1;
    char directory[64], text[16];

    if (control->autogroup) {
        snprintf(directory, sizeof(directory), "/proc/%d", (int)place->pid);
        snprintf(text, sizeof(text), "%d", nice);
        r = write_text(control, directory, "autogroup", text);
    } else {
        for (int i = 0; i < THREAD_PASSES && r > 0; i++)
            r = nice_threads(place->pid, nice);
    }
    if (r == -EAGAIN)
        return problem_set(problem, PROBLEM_BUSY,
                           "guest %s: the kernel takes few changes of priority a second",
                           place->name);
    if (r == -EACCES || r == -EPERM)
        return problem_set(problem, PROBLEM_NOT_SUPPORTED,
                           "guest %s: raising its priority to that of %u shares takes a cgroup "
                           "(%.200s) or CAP_SYS_NICE",
                           place->name, weight, control->why);
    if (r < 0)
        return problem_errno(problem, r, "guest %s: cannot set its priority", place->name);
    snprintf(ret_text, CPU_TEXT_MAX, "scheduler priority: nice %d%s", nice,
             control->autogroup ? " as a session" : "");
    return 0;
}

int cpu_apply(const struct cpu_control *control, const struct cpu_place *place,
              const struct cpu_settings *settings, uint32_t weight, char ret_text[CPU_TEXT_MAX],
              struct problem *problem)
{
    if (control->means == CPU_NICE)
        return apply_nice(control, place, weight, ret_text, problem);
    return apply_cgroup(control, place, settings, weight, ret_text, problem);
}
