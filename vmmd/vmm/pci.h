/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pci: one bus, configuration mechanism #1 (ports 0xcf8, 0xcfc), memory BARs below 4 GiB, MSI-X,
 * INTx.
 *
 * BARs are assigned before the guest starts, as firmware would, and may be moved by the guest.
 * Functions are called with the machine lock held. Source: PCI Local Bus Specification 3.0.
 */
#ifndef VMM_PCI_H
#define VMM_PCI_H

#include <stdbool.h>
#include <stdint.h>

struct machine;
struct state;

#define PCI_MAX_SLOTS    16 /* slot 0 is the host bridge */
#define PCI_MAX_VECTORS  16
#define PCI_WINDOW_START 0xc0000000u /* as the DSDT says */
#define PCI_WINDOW_END   0xe0000000u
#define PCI_FIRST_GSI    16u
#define PCI_GSIS         8u /* INTA of slot n is GSI 16 + n % 8 */

struct pci_device;

struct pci_bar_ops {
    uint64_t (*read)(struct pci_device *dev, uint64_t offset, unsigned size);
    void (*write)(struct pci_device *dev, uint64_t offset, unsigned size, uint64_t value);
};

struct pci_bar {
    const struct pci_bar_ops *ops;
    uint32_t size; /* power of two, >= 4096 */
};

struct pci_msix_entry {
    uint64_t address;
    uint32_t data, control;
};

struct pci_device {
    struct machine *machine;
    const char *name;
    unsigned slot;
    uint8_t config[256];
    uint8_t writable[256]; /* bits of config that the guest may write */
    struct pci_bar bars[2];
    uint8_t msix_at;               /* offset of the MSI-X capability, 0: none */
    unsigned n_vectors, first_msi; /* of msi.h */
    struct pci_msix_entry msix[PCI_MAX_VECTORS];
    uint32_t pending;                      /* MSI-X pending bits */
    bool intx;                             /* the device asserts its line */
    void (*moved)(struct pci_device *dev); /* BARs or decoding may have changed; or NULL */
};

struct pci_bus {
    struct machine *machine;
    uint32_t address; /* 0xcf8 */
    uint32_t next_bar;
    struct pci_device bridge;
    struct pci_device *slots[PCI_MAX_SLOTS];
};

struct pci_id {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits */
    uint8_t revision;
};

int pci_bus_init(struct pci_bus *bus, struct machine *m);
void pci_bus_save(struct pci_bus *bus, struct state *s);
void pci_bus_load(struct pci_bus *bus, struct state *s);

/* Puts a device into the next free slot; bar 0 is the device's, bar 1 holds the MSI-X table.
 * -ENOSPC. */
int pci_add(struct pci_bus *bus, struct pci_device *dev, const struct pci_id *id,
            const struct pci_bar *bar0, unsigned n_vectors);

/* Appends a capability of `length` bytes (id and next pointer are set here); its offset, or 0 when
 * full. */
uint8_t pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, uint8_t length);

/* Where a BAR is in guest physical memory, 0: nowhere. */
uint64_t pci_bar_address(const struct pci_device *dev, unsigned bar);

bool pci_msix_enabled(const struct pci_device *dev);
void pci_msix_fire(struct pci_device *dev, unsigned vector);
void pci_intx(struct pci_device *dev, bool level);
void pci_reset(struct pci_device *dev); /* interrupt state only; configuration stays */

void pci_save(const struct pci_device *dev, struct state *s);
void pci_load(struct pci_device *dev, struct state *s);

uint64_t pci_mmio_read(struct pci_bus *bus, uint64_t gpa, unsigned size);
void pci_mmio_write(struct pci_bus *bus, uint64_t gpa, unsigned size, uint64_t value);

#endif
