/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * acpi: the tables that a stock kernel needs: RSDP, XSDT, FADT, FACS, MADT, DSDT; and the numbers
 * that tables and devices share.
 */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#include <stdint.h>

#define ACPI_PM1_EVENT   0x600 /* 4 bytes */
#define ACPI_PM1_CONTROL 0x604 /* 2 bytes */
#define ACPI_PM_TIMER    0x608 /* 4 bytes */
#define ACPI_RESET_PORT  0xcf9
#define ACPI_SCI         9
#define ACPI_S5_TYPE     5u         /* as \_S5 in dsdt.dsl */
#define ACPI_START       0xe0000ull /* GPA: reserved in the memory map up to 1 MiB */
#define ACPI_END         0x100000ull

struct memory;

/* Writes the tables for `vcpus` CPUs at ACPI_START; the GPA of the RSDP. -ENOSPC if they do not
 * fit. */
int acpi_build(struct memory *m, unsigned vcpus, uint64_t *ret_rsdp);

#endif
