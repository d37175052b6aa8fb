/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cgroup: where this process is in a hierarchy, by /proc/self/cgroup and /proc/self/mountinfo. Only
 * reads; what is found may be outdated at once, for others may move us.
 */
#include "vmmd/cgroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *open_text(const char *root, const char *path)
{
    char full[PATH_MAX];

    if ((size_t)snprintf(full, sizeof(full), "%s%s", root, path) >= sizeof(full))
        return NULL;
    return fopen(full, "re");
}

bool cgroup_has_word(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = list; (at = strstr(at, word)); at++)
        if ((at == list || at[-1] == ',' || at[-1] == ' ') && strchr(",\n ", at[n]))
            return true;
    return false;
}

/* Our path in one hierarchy as /proc/self/cgroup tells it: "4:memory:/a/b" or "0::/a/b". */
static bool own_path(const char *root, const char *controller, char *path, size_t size)
{
    FILE *file = open_text(root, "/proc/self/cgroup");
    char line[PATH_MAX + 256];
    bool found = false;

    if (!file)
        return false;
    while (!found && fgets(line, sizeof(line), file)) {
        char *controllers = strchr(line, ':');
        char *at = controllers ? strchr(controllers + 1, ':') : NULL;

        if (!at)
            continue;
        *at++ = '\0';
        at[strcspn(at, "\n")] = '\0';
        found = controller ? cgroup_has_word(controllers + 1, controller)
                           : strncmp(line, "0:", 2) == 0 && !controllers[1];
        found = found && (size_t)snprintf(path, size, "%s", at) < size;
    }
    fclose(file);
    return found;
}

/* \040 and the like, as mountinfo writes spaces. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; to++) {
        unsigned value;

        if (from[0] == '\\' && sscanf(from + 1, "%3o", &value) == 1 && strlen(from) >= 4) {
            *to = (char)value;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* One line of mountinfo: "31 23 0:28 ROOT MOUNT options - TYPE source superoptions". */
static bool parse_mount(char *line, const char *controller, char **ret_root, char **ret_mount)
{
    char *field[5] = {0}, *rest, *tail = strstr(line, " - ");
    char type[32], options[256] = "";

    if (!tail || sscanf(tail, " - %31s %*s %255s", type, options) < 1)
        return false;
    if (controller ? strcmp(type, "cgroup") != 0 || !cgroup_has_word(options, controller)
                   : strcmp(type, "cgroup2") != 0)
        return false;
    rest = line;
    for (int i = 0; i < 5; i++)
        field[i] = strsep(&rest, " ");
    if (!field[4])
        return false;
    unescape(field[3]);
    unescape(field[4]);
    *ret_root = field[3];
    *ret_mount = field[4];
    return true;
}

/* A container may see its hierarchy from somewhere below the top: what is above is cut off. */
static const char *below(const char *path, const char *top)
{
    size_t n = strlen(top);

    if (strcmp(top, "/") == 0)
        return strcmp(path, "/") == 0 ? "" : path;
    if (strncmp(path, top, n) == 0 && (path[n] == '/' || !path[n]))
        return path + n;
    return "";
}

bool cgroup_find(struct cgroup *ret, const char *root, const char *controller)
{
    FILE *file;
    char *line = NULL, *top, *mount, path[PATH_MAX];
    bool found = false;
    size_t size = 0;

    if (!own_path(root, controller, path, sizeof(path)) || strstr(path, ".."))
        return false;
    file = open_text(root, "/proc/self/mountinfo");
    if (!file)
        return false;
    while (!found && getline(&line, &size, file) > 0) {
        if (!parse_mount(line, controller, &top, &mount))
            continue;
        snprintf(ret->mount, sizeof(ret->mount), "%s", mount);
        snprintf(ret->path, sizeof(ret->path), "%s", below(path, top));
        ret->unified = !controller;
        found = true;
    }
    free(line);
    fclose(file);
    return found;
}
