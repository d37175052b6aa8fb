/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fidelity: executes the instructions that show or change the state of the machine, in ring 0 and
 * ring 3, and checks that they act on this guest's state and on nothing else. "fidelity: NAME ok"
 * for each check, a count at the end.
 *
 * fidelity=ENGINE on the command line (soft, lab) names a list of known deviations: such a check
 * must still deviate, or the list is wrong.
 */
#include "fidelity/fidelity.h"

struct deviation {
    const char *engine, *name, *reason;
    bool fatal; /* not to be tried: it ends the machine */
};

/* What QEMU's translator does not do, in the library and in the lab's emulated hardware alike. */
#define NO_LIMITS "the translator does not check segment limits and types on access"
#define NO_SS     "IRET raises #NP for #SS"
#define DOUBLED   "the emulated CPU counts 16 for a gate, not 8"
#define DROPPED   "the emulated CPU takes it, without the bit"
#define NO_MSRS   "the library reads 0 from MSRs that it does not know and drops writes"
#define ABORTS    "the emulated CPU takes it and aborts at the next interrupt"

static const struct deviation deviations[] = {
    {"soft", "a limit in 32-bit code, 32-bit ring 3", NO_LIMITS, false},
    {"soft", "read-only data in 32-bit code, 32-bit ring 3", NO_LIMITS, false},
    {"soft", "a null selector in 32-bit code, 32-bit ring 3", NO_LIMITS, false},
    {"soft", "iret to an absent stack, ring 3", NO_SS, false},
    {"soft", "rdmsr of an MSR that no CPU has, ring 0", NO_MSRS, false},
    {"soft", "wrmsr of an MSR that no CPU has, ring 0", NO_MSRS, false},
    {"lab", "a limit in 32-bit code, 32-bit ring 3", NO_LIMITS, false},
    {"lab", "read-only data in 32-bit code, 32-bit ring 3", NO_LIMITS, false},
    {"lab", "a null selector in 32-bit code, 32-bit ring 3", NO_LIMITS, false},
    {"lab", "iret to an absent stack, ring 3", NO_SS, false},
    {"lab", "int3 through a gate of DPL 0, ring 3", DOUBLED, false},
    {"lab", "into through a gate of DPL 0, 32-bit ring 3", DOUBLED, false},
    {"lab", "int through a gate of DPL 0, ring 3", DOUBLED, false},
    {"lab", "int through an absent gate, ring 3", DOUBLED, false},
    {"lab", "int through a task gate, ring 3", DOUBLED, false},
    {"lab", "int beyond the IDT, ring 3", DOUBLED, false},
    {"lab", "int beyond the IDT, ring 0", DOUBLED, false},
    {"lab", "int beyond the IDT, 32-bit ring 3", DOUBLED, false},
    {"lab", "cr0 with an upper bit, ring 0", DROPPED, false},
    {"lab", "cr4 with an upper bit, ring 0", DROPPED, false},
    {"lab", "cr8 above 15, ring 0", DROPPED, false},
    {"lab", "a page table entry with a reserved bit, ring 3",
     "the emulated CPU says RSVD and not P", false},
    {"lab", "ltr of nothing, ring 0", ABORTS, true},
    {"lab", "cr3 with a reserved bit, ring 0", "the emulated CPU takes it, and VMRUN does not",
     true},
};

static const char *const mode_names[MODES] = {
    "ring 0", "ring 3", "ring 3 with IOPL 3", "32-bit ring 0", "32-bit ring 3",
};

static const char *engine = "";
static unsigned n_ok, n_known, n_wrong;

static bool same_text(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static void print_hex(uint64_t n)
{
    char digits[19] = "0x", *at = digits + 2;
    int shift = 60;

    while (shift > 0 && !(n >> shift))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        *at++ = "0123456789abcdef"[n >> shift & 15];
    *at = '\0';
    print(digits);
}

static void print_outcome(struct outcome o)
{
    if (o.vector == TRAP_DONE) {
        print_hex(o.value);
        return;
    }
    print("exception ");
    print_number(o.vector);
    print(" error ");
    print_hex(o.error);
}

static const struct deviation *find_deviation(const char *name)
{
    for (unsigned i = 0; i < sizeof(deviations) / sizeof(deviations[0]); i++)
        if (same_text(deviations[i].engine, engine) && same_text(deviations[i].name, name))
            return &deviations[i];
    return NULL;
}

static bool same_outcome(struct outcome a, struct outcome b)
{
    if (a.vector != b.vector)
        return false;
    return a.vector == TRAP_DONE ? a.value == b.value : a.error == b.error;
}

static void append(char *to, unsigned size, const char *text)
{
    unsigned n = 0;

    while (to[n])
        n++;
    while (*text && n + 1 < size)
        to[n++] = *text++;
    to[n] = '\0';
}

static void full_name(char *ret_name, unsigned size, const char *what, enum mode mode)
{
    ret_name[0] = '\0';
    append(ret_name, size, what);
    append(ret_name, size, ", ");
    append(ret_name, size, mode_names[mode]);
}

void verdict(const char *what, enum mode mode, struct outcome got, struct outcome want)
{
    char name[128];
    const struct deviation *known;
    bool good = same_outcome(got, want);

    full_name(name, sizeof(name), what, mode);
    known = find_deviation(name);
    print("fidelity: ");
    print(name);
    n_ok += good && !known;
    n_known += !good && known;
    n_wrong += good == !!known;
    if (good) {
        print(known ? " WRONG: no longer a deviation\n" : " ok\n");
        return;
    }
    print(known ? " DEVIATES got " : " WRONG got ");
    print_outcome(got);
    print(" want ");
    print_outcome(want);
    print(known ? " because " : "");
    print(known ? known->reason : "");
    print("\n");
}

/* Counts a check that may not even be tried. */
static bool cannot_try(const char *what, enum mode mode)
{
    char name[128];
    const struct deviation *known;

    full_name(name, sizeof(name), what, mode);
    known = find_deviation(name);
    if (!known || !known->fatal)
        return false;
    n_known++;
    print("fidelity: ");
    print(name);
    print(" DEVIATES, not tried, because ");
    print(known->reason);
    print("\n");
    return true;
}

static struct outcome run(enum mode mode, const void *code, uint64_t argument)
{
    const struct trap *t = rings_run(mode, code, argument);
    uint64_t mask = mode == COMPAT0 || mode == COMPAT3 ? 0xffffffff : ~0ull;

    return (struct outcome){t->vector, t->error, t->rax & mask};
}

void check_value(const char *name, enum mode mode, const void *code, uint64_t argument,
                 uint64_t want)
{
    uint64_t mask = mode == COMPAT0 || mode == COMPAT3 ? 0xffffffff : ~0ull;

    if (!cannot_try(name, mode))
        verdict(name, mode, run(mode, code, argument), (struct outcome){TRAP_DONE, 0, want & mask});
}

void check_trap(const char *name, enum mode mode, const void *code, uint64_t argument,
                unsigned vector, uint64_t error)
{
    if (!cannot_try(name, mode))
        verdict(name, mode, run(mode, code, argument), (struct outcome){vector, error, 0});
}

void check_same(const char *name, uint64_t got, uint64_t want)
{
    verdict(name, RING0, (struct outcome){TRAP_DONE, 0, got}, (struct outcome){TRAP_DONE, 0, want});
}

/* The word behind "fidelity=" on the command line. */
static const char *find_engine(const uint8_t *boot_params)
{
    static const char key[] = "fidelity=";
    static char word[16];
    const char *line = (const char *)(uint64_t) * (const uint32_t *)(boot_params + 0x228);
    unsigned i = 0, n = 0;

    for (; *line && key[i]; line++)
        i = *line == key[i] ? i + 1 : *line == key[0];
    while (!key[i] && *line > ' ' && n + 1 < sizeof(word))
        word[n++] = *line++;
    return word;
}

void guest_main(uint8_t *boot_params)
{
    engine = find_engine(boot_params);
    rings_start();
    prepare_gates();
    check_tables();
    check_selectors();
    check_flags();
    check_segments();
    check_far();
    check_calls();
    check_control();
    check_identity();
    print("fidelity: ");
    print_number(n_ok + n_known + n_wrong);
    print(" checks, ");
    print_number(n_ok);
    print(" ok, ");
    print_number(n_known);
    print(" known deviations, ");
    print_number(n_wrong);
    print(" wrong\n");
    power_off();
}
