/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * i8042: the keyboard controller's one remaining use: pulling the reset line. There is no keyboard;
 * the status port reads as ready, because a kernel that polls it would otherwise wait.
 */
#include "vmmd/vmm/devices.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#define STATUS_PORT   0x64
#define COMMAND_RESET 0xfe
#define STATUS_READY  0x1c /* self-test passed, last write was a command, not locked */

static uint32_t i8042_read(void *opaque, uint16_t port, unsigned size)
{
    (void)opaque, (void)port, (void)size;
    return STATUS_READY;
}

static void i8042_write(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    (void)port;
    if (size == 1 && value == COMMAND_RESET)
        machine_finish(opaque, MACHINE_RESET, "keyboard controller reset");
}

int i8042_add(struct machine *m)
{
    struct iobus_range range = {STATUS_PORT, 1, 1, m, i8042_read, i8042_write};

    return iobus_claim(&m->ports, &range); /* it has no state of its own */
}
