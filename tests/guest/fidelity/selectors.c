/* SPDX-License-Identifier: GPL-2.0-or-later */
/* selectors: LAR LSL VERR VERW: what each ring may know of which descriptor. */
#include "fidelity.h"

#define NO     0x5555555555555555ull /* ZF clear, the register as it was */
#define ACCESS 0xf0ff00              /* what LAR gives but for four undefined bits */

CODE(run_lar, "mov $0x5555555555555555, %rax; lar %edi, %eax; jnz 1f; and $0xf0ff00, %eax; 1:");
CODE(run_lsl, "mov $0x5555555555555555, %rax; lsl %edi, %eax");
CODE(run_verr, "verr %di; setz %al; movzbl %al, %eax");
CODE(run_verw, "verw %di; setz %al; movzbl %al, %eax");
CODE32(run_lar_32, "mov $0x55555555, %eax; lar %edi, %eax; jnz 1f; and $0xf0ff00, %eax; 1:");
CODE32(run_lsl_32, "mov $0x55555555, %eax; lsl %edi, %eax");
/* How many selectors lar, lsl find valid; edi is their RPL. */
CODE(count_lar, "xor %eax, %eax; 1: lar %edi, %edx; jnz 2f; inc %eax; 2: add $4, %edi; "
                "cmp $0x10000, %edi; jb 1b");
CODE(count_lsl, "xor %eax, %eax; 1: lsl %edi, %edx; jnz 2f; inc %eax; 2: add $4, %edi; "
                "cmp $0x10000, %edi; jb 1b");

/* How a ring sees a selector. */
struct view {
    uint64_t lar, lsl;
    uint8_t verr, verw;
};

static const struct row {
    const char *name;
    uint32_t selector;
    struct view ring0, ring3;
} rows[] = {
    {"no selector", 0, {NO, NO, 0, 0}, {NO, NO, 0, 0}},
    {"code, DPL 0", SEL_CODE0, {0xa09b00, ~0u, 1, 0}, {NO, NO, 0, 0}},
    {"code, DPL 0, RPL 3", SEL_CODE0 | 3, {NO, NO, 0, 0}, {NO, NO, 0, 0}},
    {"data, DPL 0", SEL_DATA0, {0xc09300, ~0u, 1, 1}, {NO, NO, 0, 0}},
    {"code, DPL 3", SEL_CODE3, {0xa0fb00, ~0u, 1, 0}, {0xa0fb00, ~0u, 1, 0}},
    {"32-bit code, DPL 3", SEL_CODE3_32, {0xc0fb00, ~0u, 1, 0}, {0xc0fb00, ~0u, 1, 0}},
    {"data, DPL 3", SEL_DATA3, {0xc0f300, ~0u, 1, 1}, {0xc0f300, ~0u, 1, 1}},
    {"busy TSS", SEL_TSS, {0x008b00, sizeof(struct tss) - 1, 0, 0}, {NO, NO, 0, 0}},
    {"LDT", SEL_LDT, {0x008200, SEL_LDT_END - 1, 0, 0}, {NO, NO, 0, 0}},
    {"call gate, DPL 3", SEL_GATE3, {0x00ec00, NO, 0, 0}, {0x00ec00, NO, 0, 0}},
    {"call gate, DPL 0", SEL_GATE0, {0x008c00, NO, 0, 0}, {NO, NO, 0, 0}},
    {"conforming code", SEL_CONFORMING, {0xa09f00, ~0u, 1, 0}, {0xa09f00, ~0u, 1, 0}},
    {"absent data", SEL_ABSENT, {0xc07300, ~0u, 1, 1}, {0xc07300, ~0u, 1, 1}},
    {"execute-only code", SEL_EXECUTE_ONLY, {0xa0f900, ~0u, 0, 0}, {0xa0f900, ~0u, 0, 0}},
    {"read-only data", SEL_READ_ONLY, {0xc0f100, ~0u, 1, 0}, {0xc0f100, ~0u, 1, 0}},
    {"small data", SEL_SMALL, {0x40f300, 7, 1, 1}, {0x40f300, 7, 1, 1}},
    {"data in the LDT", SEL_LDT_DATA, {0xc0f300, ~0u, 1, 1}, {0xc0f300, ~0u, 1, 1}},
    {"code in the LDT, DPL 0", SEL_LDT_CODE0, {0xa09b00, ~0u, 1, 0}, {NO, NO, 0, 0}},
    {"beyond the LDT", SEL_LDT_END | 4, {NO, NO, 0, 0}, {NO, NO, 0, 0}},
    {"beyond the GDT", SEL_END, {NO, NO, 0, 0}, {NO, NO, 0, 0}},
};

static void check_row(const struct row *r, enum mode mode, const struct view *v)
{
    static const char *const names[] = {"lar of ", "lsl of ", "verr of ", "verw of "};
    const void *codes[] = {mode == COMPAT3 ? run_lar_32 : run_lar,
                           mode == COMPAT3 ? run_lsl_32 : run_lsl, run_verr, run_verw};
    uint64_t values[] = {v->lar, v->lsl, v->verr, v->verw};

    for (unsigned i = 0; i < (mode == COMPAT3 ? 2 : 4); i++) {
        char name[64];
        unsigned n = 0;
        for (const char *at = names[i]; *at; at++)
            name[n++] = *at;
        for (const char *at = r->name; *at; at++)
            name[n++] = *at;
        name[n] = '\0';
        check_value(name, mode, codes[i], r->selector, values[i]);
    }
}

/* Descriptors of a table that exist for a ring: present or not does not matter. */
static unsigned count(const uint64_t *table, unsigned n, bool ring3, bool lsl)
{
    unsigned found = 0;

    for (unsigned i = 0; i < n; i++) {
        unsigned access = table[i] >> 40 & 0xff, dpl = access >> 5 & 3, type = access & 15;
        bool system = !(access & 0x10), conforming = !system && (type & 12) == 12;
        bool known = !system || type == 2 || type == 9 || type == 11 || (type == 12 && !lsl);
        found += known && (!ring3 || dpl == 3 || conforming);
    }
    return found;
}

void check_selectors(void)
{
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check_row(&rows[i], RING0, &rows[i].ring0);
        check_row(&rows[i], RING3, &rows[i].ring3);
        check_row(&rows[i], COMPAT3, &rows[i].ring3);
    }
    for (unsigned ring3 = 0; ring3 < 2; ring3++) {
        enum mode mode = ring3 ? RING3 : RING0;
        for (unsigned lsl = 0; lsl < 2; lsl++)
            check_value(lsl ? "lsl finds this guest's selectors only"
                            : "lar finds this guest's selectors only",
                        mode, lsl ? count_lsl : count_lar, ring3 ? 3 : 0,
                        count(rings_gdt, SEL_END / 8, ring3, lsl) +
                            count(rings_ldt, SEL_LDT_END / 8, ring3, lsl));
    }
}
