/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ACPI namespace of a vmmd guest: one PCI root bridge with its windows and interrupt routing, COM1, the RTC, and S5.
 * Numbers agree with acpi.h and pci.h.
 */
DefinitionBlock ("", "DSDT", 2, "VMMD  ", "VMMDDSDT", 1)
{
    Name (\_S5, Package () { 5, 5, 0, 0 })              // ACPI_S5_TYPE

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, Zero)
            Name (_BBN, Zero)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
                IO (Decode16, 0x0cf8, 0x0cf8, 1, 8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                        0, 0x1000, 0xffff, 0, 0xf000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                             0, 0xc0000000, 0xdfffffff, 0, 0x20000000)
            })
            Name (_PRT, Package ()                      // INTA of slot n is GSI 16 + n % 8
            {
                Package () { 0x0001ffff, 0, Zero, 17 }, Package () { 0x0002ffff, 0, Zero, 18 },
                Package () { 0x0003ffff, 0, Zero, 19 }, Package () { 0x0004ffff, 0, Zero, 20 },
                Package () { 0x0005ffff, 0, Zero, 21 }, Package () { 0x0006ffff, 0, Zero, 22 },
                Package () { 0x0007ffff, 0, Zero, 23 }, Package () { 0x0008ffff, 0, Zero, 16 },
                Package () { 0x0009ffff, 0, Zero, 17 }, Package () { 0x000affff, 0, Zero, 18 },
                Package () { 0x000bffff, 0, Zero, 19 }, Package () { 0x000cffff, 0, Zero, 20 },
                Package () { 0x000dffff, 0, Zero, 21 }, Package () { 0x000effff, 0, Zero, 22 },
                Package () { 0x000fffff, 0, Zero, 23 }
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, One)
            Name (_CRS, ResourceTemplate () { IO (Decode16, 0x03f8, 0x03f8, 1, 8) IRQNoFlags () { 4 } })
        }

        Device (RTC0)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate () { IO (Decode16, 0x0070, 0x0070, 1, 2) IRQNoFlags () { 8 } })
        }
    }
}
