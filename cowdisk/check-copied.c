/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The COPIED flags of the active L1 and L2 tables: an entry has it exactly if its cluster is used
 * once, and only then may be written in place. A flag too many lets a write reach somebody else's
 * data; one too few costs a copy.
 */
#include "cowdisk/check.h"

#include <errno.h>

/* What an entry points to: how often that is used, and how often the file says so. */
struct target {
    uint64_t offset;
    bool is_l2;
    bool has_data; /* some of it is not zeroes */
    uint32_t refs, count;
};

/* What the entry shall be. */
typedef uint64_t (*visit_fn)(struct check *c, uint64_t entry, const struct target *target);

/* Fills in the numbers; false: not the business of this window. Data in an external file has no
 * refcounts, it is used once; what is outside of the file may be counted, but not used. */
static bool find_numbers(const struct check *c, struct target *target)
{
    uint64_t cluster = target->offset >> c->header.cluster_bits;

    target->refs = target->count = 0;
    if (!target->is_l2 && c->header.incompatible & QCOW_INCOMPAT_EXTERNAL_DATA) {
        target->refs = target->count = 1;
        return c->first == 0;
    }
    if (cluster >= c->n_clusters) {
        target->count = c->first == 0 ? check_count_of(c, cluster) : 0;
        return c->first == 0;
    }
    if (cluster < c->first || cluster >= c->first + c->n)
        return false;
    target->refs = c->refs[cluster - c->first];
    target->count = c->counts[cluster - c->first];
    return true;
}

static int visit(struct check *c, uint64_t entry, struct target *target, uint64_t at, visit_fn fn)
{
    uint64_t wanted;

    target->offset = entry & QCOW_OFFSET_MASK;
    if (!find_numbers(c, target))
        return 0;
    wanted = fn(c, entry, target);
    if (wanted == entry)
        return 0;
    wanted = htobe64(wanted);
    return cow_write_full(c->fd, &wanted, sizeof(wanted), at);
}

static int visit_table(struct check *c, uint64_t entry, uint64_t at, visit_fn fn)
{
    uint64_t n = c->cluster_size / 8 / c->entry_words, offset;
    struct target table = {.is_l2 = true, .has_data = true};
    int r = entry & QCOW_OFFSET_MASK ? visit(c, entry, &table, at, fn) : 0;

    if (r < 0 || !check_l2_place(c, entry, &offset))
        return r;
    r = cow_read_full(c->fd, c->l2, c->cluster_size, offset);
    for (uint64_t i = 0; i < n && r == 0; i++) {
        uint64_t place = i * c->entry_words, value = be64toh(c->l2[place]);
        struct target target = {.has_data = !(value & QCOW_ZERO) || c->header.version < 3};
        if (c->entry_words == 2)
            target.has_data = (uint32_t)be64toh(c->l2[place + 1]);
        if (check_entry_kind(c, value) == CHECK_ALLOCATED)
            r = visit(c, value, &target, offset + place * 8, fn);
    }
    return r;
}

/* ---- what is done with an entry -------------------------------------------------------------- */

static uint64_t look(struct check *c, uint64_t entry, const struct target *target)
{
    bool single = target->count == 1;

    if (single != !!(entry & QCOW_COPIED))
        check_note(c, "the %s at 0x%llx %s the COPIED flag",
                   target->is_l2 ? "L2 table" : "data cluster", (unsigned long long)target->offset,
                   single ? "lacks" : "must not have");
    return entry;
}

static int look_at_table(struct check *c, uint64_t index, uint64_t entry, uint64_t at)
{
    (void)index;
    return visit_table(c, entry, at, look);
}

int check_copied(struct check *c)
{
    return check_each_l1(c, look_at_table);
}

/* Zeroes that have no valid place are zeroes without a place. */
static uint64_t clear(struct check *c, uint64_t entry, const struct target *target)
{
    bool misplaced =
        target->offset % c->cluster_size || target->offset >= c->n_clusters * c->cluster_size;

    if (!target->has_data && misplaced)
        return c->entry_words == 1 ? QCOW_ZERO : 0;
    return target->refs == 1 ? entry : entry & ~QCOW_COPIED;
}

/* An L1 entry without a table has no flags, either. */
static int clear_in_table(struct check *c, uint64_t index, uint64_t entry, uint64_t at)
{
    const uint64_t empty = 0;

    (void)index;
    if (!(entry & QCOW_OFFSET_MASK))
        return cow_write_full(c->fd, &empty, sizeof(empty), at);
    return visit_table(c, entry, at, clear);
}

int check_clear_copied(struct check *c)
{
    return check_each_l1(c, clear_in_table);
}

static uint64_t set(struct check *c, uint64_t entry, const struct target *target)
{
    (void)c;
    return target->refs == 1 && target->count == 1 ? entry | QCOW_COPIED : entry;
}

static int set_in_table(struct check *c, uint64_t index, uint64_t entry, uint64_t at)
{
    (void)index;
    return visit_table(c, entry, at, set);
}

int check_set_copied(struct check *c)
{
    return check_each_l1(c, set_in_table);
}
