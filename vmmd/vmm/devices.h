/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * devices: how worker.c creates each device. Every function adds the device to the machine, which
 * frees it. They return 0 or -errno; a returned handle is the machine's and lives as long as it.
 */
#ifndef VMM_DEVICES_H
#define VMM_DEVICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct machine;
struct console;
struct cow_disk;
struct serial;
struct acpi_pm;
struct virtio_console;
struct virtio_balloon;

/* 8250 at 0x3f8, IRQ 4: output to the console, input from it. */
int serial_add(struct machine *m, struct console *console, struct serial **ret_serial);
/* Takes what fits into the receiver; the number of bytes taken. Machine lock held. */
size_t serial_input(struct serial *s, const uint8_t *data, size_t bytes);

int rtc_add(struct machine *m);   /* CMOS clock: reads as UTC */
int i8042_add(struct machine *m); /* only what a reset needs */

/* ACPI fixed hardware: power button, timer, sleep, and the reset port. */
int acpi_pm_add(struct machine *m, struct acpi_pm **ret_pm);
void acpi_pm_power_button(struct acpi_pm *pm); /* machine lock held */

/* A disk; it becomes the device's, which closes it at the end. `serial` is what the guest sees as
 * its serial number, 20 characters at most. A disk that was opened for reading is `readonly`. */
int virtio_blk_add(struct machine *m, struct cow_disk *disk, const char *serial, bool readonly);
int virtio_rng_add(struct machine *m);

/* Ports: 0 a console (hvc0) if `with_console`, 1 org.qemu.guest_agent.0. */
int virtio_console_add(struct machine *m, struct console *console, bool with_console,
                       struct virtio_console **ret_console);
/* Machine lock held, inside a dma bracket; the number of bytes taken. */
size_t virtio_console_input(struct virtio_console *c, const uint8_t *data, size_t bytes);

int virtio_balloon_add(struct machine *m, struct virtio_balloon **ret_balloon);
/* Asks the guest to keep `bytes` of its memory. Machine lock held. */
void virtio_balloon_target(struct virtio_balloon *b, uint64_t bytes);
uint64_t virtio_balloon_bytes(const struct virtio_balloon *b); /* given back by now */

#endif
