/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * acpi: builds the tables in guest memory before the first instruction. Fixed hardware is already
 * in ACPI mode (SMI_CMD 0); the hardware behind it is acpi-pm.c. The DSDT is compiled from dsdt.dsl
 * by iasl. Source: ACPI 6.4, chapter 5.
 */
#include "vmmd/vmm/acpi.h"

#include "vmmd/vmm/memory.h"

#include <errno.h>
#include <string.h>

#include "gen/dsdt.hex" /* dsdt_aml_code[] */

#define HEADER     36
#define FADT_BYTES 244
#define FACS_BYTES 64
#define RSDP_BYTES 36

struct builder {
    struct memory *memory;
    uint64_t at; /* GPA of the next table */
    uint64_t end;
};

static void put32(uint8_t *p, size_t at, uint32_t v)
{
    memcpy(p + at, &v, sizeof(v));
}

static void put64(uint8_t *p, size_t at, uint64_t v)
{
    memcpy(p + at, &v, sizeof(v));
}

static void checksum(uint8_t *p, size_t bytes, size_t at)
{
    uint8_t sum = 0;

    p[at] = 0;
    for (size_t i = 0; i < bytes; i++)
        sum = (uint8_t)(sum + p[i]);
    p[at] = (uint8_t)-sum;
}

/* Reserves zeroed guest memory; NULL when the area is full. */
static uint8_t *reserve(struct builder *b, size_t bytes, uint64_t *ret_gpa)
{
    uint8_t *p;

    b->at = (b->at + 63) & ~63ull;
    if (bytes > b->end - b->at)
        return NULL;
    p = memory_at(b->memory, b->at, bytes);
    if (!p)
        return NULL;
    memset(p, 0, bytes);
    *ret_gpa = b->at;
    b->at += bytes;
    return p;
}

static uint8_t *table(struct builder *b, const char *signature, uint8_t revision, size_t bytes,
                      uint64_t *ret_gpa)
{
    uint8_t *t = reserve(b, bytes, ret_gpa);

    if (!t)
        return NULL;
    memcpy(t, signature, 4);
    put32(t, 4, (uint32_t)bytes);
    t[8] = revision;
    memcpy(t + 10, "VMMD  VMMDTABL", 14);
    put32(t, 24, 1);
    memcpy(t + 28, "VMMD", 4);
    put32(t, 32, 1);
    return t;
}

static void io_address(uint8_t *t, size_t at, uint8_t bits, uint8_t access, uint64_t port)
{
    t[at] = 1; /* system I/O space */
    t[at + 1] = bits;
    t[at + 3] = access;
    put64(t, at + 4, port);
}

static int build_fadt(struct builder *b, uint64_t facs, uint64_t dsdt, uint64_t *ret_gpa)
{
    uint8_t *t = table(b, "FACP", 4, FADT_BYTES, ret_gpa);

    if (!t)
        return -ENOSPC;
    put32(t, 36, (uint32_t)facs);
    put32(t, 40, (uint32_t)dsdt);
    t[46] = ACPI_SCI;
    put32(t, 56, ACPI_PM1_EVENT);
    put32(t, 64, ACPI_PM1_CONTROL);
    put32(t, 76, ACPI_PM_TIMER);
    t[88] = 4, t[89] = 2, t[91] = 4;                        /* lengths of the three */
    t[96] = 0xff, t[97] = 0x0f, t[98] = 0xff, t[99] = 0x0f; /* C2, C3 latency beyond use */
    t[108] = 0x32;                                          /* CMOS century */
    t[109] = 1 | 4;                                         /* legacy devices, no VGA, no 8042 */
    /* WBINVD, C1, no sleep button, no RTC wake in fixed hardware, 32-bit timer, reset register */
    put32(t, 112, 1u | 1u << 2 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 10);
    io_address(t, 116, 8, 1, ACPI_RESET_PORT);
    t[128] = 6;
    put64(t, 132, facs);
    put64(t, 140, dsdt);
    io_address(t, 148, 32, 2, ACPI_PM1_EVENT);
    io_address(t, 172, 16, 2, ACPI_PM1_CONTROL);
    io_address(t, 208, 32, 3, ACPI_PM_TIMER);
    checksum(t, FADT_BYTES, 9);
    return 0;
}

static uint8_t *add_override(uint8_t *e, uint8_t source, uint32_t gsi, uint8_t flags)
{
    e[0] = 2, e[1] = 10, e[3] = source;
    put32(e, 4, gsi);
    e[8] = flags;
    return e + 10;
}

static int build_madt(struct builder *b, unsigned vcpus, uint64_t *ret_gpa)
{
    size_t bytes = HEADER + 8 + 8 * vcpus + 12 + 2 * 10 + 6;
    uint8_t *t = table(b, "APIC", 3, bytes, ret_gpa), *e;

    if (!t)
        return -ENOSPC;
    put32(t, 36, 0xfee00000);
    put32(t, 40, 1); /* there are 8259s */
    e = t + HEADER + 8;
    for (unsigned i = 0; i < vcpus; i++, e += 8) {
        e[0] = 0, e[1] = 8, e[2] = e[3] = (uint8_t)i;
        put32(e, 4, 1); /* enabled */
    }
    e[0] = 1, e[1] = 12, e[2] = 0xfe; /* an IOAPIC id beyond the CPUs' */
    put32(e, 4, 0xfec00000);
    e = add_override(e + 12, 0, 2, 0);             /* ISA IRQ 0 is GSI 2 */
    e = add_override(e, ACPI_SCI, ACPI_SCI, 0x0d); /* level, active high */
    e[0] = 4, e[1] = 6, e[2] = 0xff, e[5] = 1;     /* LINT1 is NMI on all CPUs */
    checksum(t, bytes, 9);
    return 0;
}

static int build_xsdt(struct builder *b, const uint64_t *tables, size_t n, uint64_t *ret_gpa)
{
    size_t bytes = HEADER + 8 * n;
    uint8_t *t = table(b, "XSDT", 1, bytes, ret_gpa);

    if (!t)
        return -ENOSPC;
    for (size_t i = 0; i < n; i++)
        put64(t, HEADER + 8 * i, tables[i]);
    checksum(t, bytes, 9);
    return 0;
}

int acpi_build(struct memory *m, unsigned vcpus, uint64_t *ret_rsdp)
{
    struct builder b = {m, ACPI_START, ACPI_END};
    uint64_t rsdp, dsdt, facs, xsdt, tables[2];
    uint8_t *r = reserve(&b, RSDP_BYTES, &rsdp), *t;

    t = reserve(&b, sizeof(dsdt_aml_code), &dsdt);
    if (!r || !t)
        return -ENOSPC;
    memcpy(t, dsdt_aml_code, sizeof(dsdt_aml_code));
    t = reserve(&b, FACS_BYTES, &facs);
    if (!t)
        return -ENOSPC;
    memcpy(t, "FACS", 4);
    put32(t, 4, FACS_BYTES);
    t[32] = 2;
    if (build_fadt(&b, facs, dsdt, &tables[0]) < 0 || build_madt(&b, vcpus, &tables[1]) < 0 ||
        build_xsdt(&b, tables, 2, &xsdt) < 0)
        return -ENOSPC;
    memcpy(r, "RSD PTR ", 8);
    memcpy(r + 9, "VMMD  ", 6);
    r[15] = 2;
    put32(r, 20, RSDP_BYTES);
    put64(r, 24, xsdt);
    checksum(r, 20, 8);
    checksum(r, RSDP_BYTES, 32);
    *ret_rsdp = rsdp;
    return 0;
}
