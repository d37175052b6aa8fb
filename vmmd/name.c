/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * name: what a name and a size may look like.
 *
 * A name becomes a file name, part of an object path and part of a command line: the alphabet is
 * small so that none of them needs quoting, and no name begins with a dot, because such entries of
 * the state directory are temporary.
 */
#include "vmmd/name.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* isalnum() would depend on the locale. */
static bool is_alnum(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

int name_check(const char *what, const char *name, struct problem *problem)
{
    if (!name[0])
        return problem_set(problem, PROBLEM_INVALID_NAME, "a %s name must not be empty", what);
    if (strlen(name) > NAME_LENGTH_MAX)
        return problem_set(problem, PROBLEM_INVALID_NAME,
                           "%s name %.20s... is longer than %d bytes", what, name, NAME_LENGTH_MAX);
    if (!is_alnum(name[0]))
        return problem_set(problem, PROBLEM_INVALID_NAME,
                           "%s name \"%s\" must begin with a letter or a digit", what, name);
    for (const char *c = name; *c; c++)
        if (!is_alnum(*c) && !strchr("._-", *c))
            return problem_set(problem, PROBLEM_INVALID_NAME,
                               "%s name \"%s\" may hold letters, digits, '.', '_' and '-' only",
                               what, name);
    if (strcmp(name, "none") == 0)
        return problem_set(problem, PROBLEM_INVALID_NAME, "\"none\" is not a %s name", what);
    return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    unsigned shift = 0;
    uintmax_t value;
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    errno = 0;
    value = strtoumax(text, &end, 10);
    if (errno)
        return -EINVAL;
    if (*end) {
        const char *unit = strchr(units, *end);

        if (!unit || end[1])
            return -EINVAL;
        shift = 10 * (unsigned)(unit - units + 1);
    }
    if (value > (UINT64_MAX >> shift))
        return -EINVAL;
    *ret_bytes = (uint64_t)value << shift;
    return 0;
}
