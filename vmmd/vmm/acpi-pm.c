/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * acpi-pm: ACPI fixed hardware as the FADT (acpi.c) describes it: PM1a event and control blocks,
 * the 3.58 MHz timer, sleep state S5, the power button, and the reset register at 0xcf9. Source:
 * ACPI 6.4, section 4.8.
 */
#include "vmmd/vmm/devices.h"

#include "vmmd/vmm/acpi.h"
#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <stdlib.h>

#define PM_TIMER_HZ    3579545u
#define STS_PWRBTN     0x0100u
#define STS_SCI_MASK   0x0521u /* timer, global lock, power button, RTC */
#define CNT_SCI_EN     0x0001u
#define CNT_SLP_EN     0x2000u
#define CNT_SLP_TYP(v) ((v) >> 10 & 7u)
#define RESET_ON       0x04u

struct acpi_pm {
    struct machine *machine;
    uint16_t status, enable, control;
};

static void update_sci(struct acpi_pm *pm)
{
    machine_irq(pm->machine, ACPI_SCI, (pm->status & pm->enable & STS_SCI_MASK) != 0);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    pm->status |= STS_PWRBTN;
    update_sci(pm);
}

static uint32_t timer_now(const struct acpi_pm *pm)
{
    return (uint32_t)((unsigned __int128)machine_time(pm->machine) * PM_TIMER_HZ / 1000000000u);
}

static uint32_t pm_read(void *opaque, uint16_t port, unsigned size)
{
    const struct acpi_pm *pm = opaque;
    uint64_t block = pm->status | (uint64_t)pm->enable << 16 | (uint64_t)pm->control << 32;

    if (port >= ACPI_PM_TIMER)
        return size == 4 ? timer_now(pm) : 0xffffffff;
    return (uint32_t)(block >> 8 * (port - ACPI_PM1_EVENT));
}

static void write_control(struct acpi_pm *pm, uint32_t value)
{
    pm->control = (uint16_t)((value & ~CNT_SLP_EN) | CNT_SCI_EN);
    if ((value & CNT_SLP_EN) && CNT_SLP_TYP(value) == ACPI_S5_TYPE)
        machine_finish(pm->machine, MACHINE_POWERED_OFF, "powered off by the guest");
}

static void pm_write(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct acpi_pm *pm = opaque;

    switch (port) {
    case ACPI_PM1_EVENT:
        pm->status &= (uint16_t)~value; /* written ones clear */
        if (size == 4)
            pm->enable = (uint16_t)(value >> 16);
        break;
    case ACPI_PM1_EVENT + 2: pm->enable = (uint16_t)value; break;
    case ACPI_PM1_CONTROL: write_control(pm, value); break;
    }
    update_sci(pm);
}

static void reset_write(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct acpi_pm *pm = opaque;

    (void)port;
    if (size == 1 && (value & RESET_ON))
        machine_finish(pm->machine, MACHINE_RESET, "reset by the guest");
}

static void pm_reset(void *self)
{
    struct acpi_pm *pm = self;

    pm->status = pm->enable = 0;
    pm->control = CNT_SCI_EN;
    update_sci(pm);
}

static void pm_save(void *self, struct state *s)
{
    struct acpi_pm *pm = self;

    state_begin(s, "acpi-pm", 1);
    state_put_field(s, pm->status);
    state_put_field(s, pm->enable);
    state_put_field(s, pm->control);
    state_end(s);
}

static void pm_load(void *self, struct state *s)
{
    struct acpi_pm *pm = self;

    if (state_open(s, "acpi-pm") == 1) {
        state_get_field(s, pm->status);
        state_get_field(s, pm->enable);
        state_get_field(s, pm->control);
    }
    state_close(s);
    update_sci(pm);
}

static const struct device_ops ops = {"acpi-pm", pm_reset, pm_save, pm_load, free};

int acpi_pm_add(struct machine *m, struct acpi_pm **ret_pm)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    int r;

    if (!pm)
        return -ENOMEM;
    pm->machine = m;
    pm->control = CNT_SCI_EN;
    struct iobus_range block = {ACPI_PM1_EVENT, 12, 0, pm, pm_read, pm_write};
    struct iobus_range reset = {ACPI_RESET_PORT, 1, 1, pm, NULL, reset_write};
    r = iobus_claim(&m->ports, &block);
    if (r == 0)
        r = iobus_claim(&m->ports, &reset);
    if (r == 0)
        r = machine_add_device(m, &ops, pm);
    if (r < 0)
        free(pm);
    else
        *ret_pm = pm;
    return r;
}
