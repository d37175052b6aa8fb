/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rtc: the CMOS clock at 0x70 and 0x71. Reads as the host's UTC in BCD; no alarm, no writing: a
 * guest that sets its clock keeps it in its own time offset. Source: Motorola MC146818A.
 */
#include "vmmd/vmm/devices.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define PORT     0x70
#define STATUS_A 0x26 /* 32 kHz divider; never updating */
#define STATUS_B 0x02 /* 24 hours, BCD */
#define STATUS_D 0x80 /* battery good */

struct rtc {
    uint8_t index;
};

static uint8_t bcd(int v)
{
    return (uint8_t)(v / 10 << 4 | v % 10);
}

static uint8_t cmos(unsigned index)
{
    time_t now = time(NULL);
    struct tm t;

    gmtime_r(&now, &t);
    switch (index) {
    case 0x00: return bcd(t.tm_sec);
    case 0x02: return bcd(t.tm_min);
    case 0x04: return bcd(t.tm_hour);
    case 0x06: return bcd(t.tm_wday + 1);
    case 0x07: return bcd(t.tm_mday);
    case 0x08: return bcd(t.tm_mon + 1);
    case 0x09: return bcd(t.tm_year % 100);
    case 0x0a: return STATUS_A;
    case 0x0b: return STATUS_B;
    case 0x0d: return STATUS_D;
    case 0x32: return bcd((t.tm_year + 1900) / 100);
    default: return 0;
    }
}

static uint32_t rtc_read(void *opaque, uint16_t port, unsigned size)
{
    struct rtc *rtc = opaque;

    if (size != 1)
        return 0xffffffff;
    return port == PORT ? rtc->index : cmos(rtc->index & 0x7f);
}

static void rtc_write(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    if (size == 1 && port == PORT)
        ((struct rtc *)opaque)->index = (uint8_t)value;
}

static void rtc_reset(void *self)
{
    ((struct rtc *)self)->index = 0;
}

static void rtc_save(void *self, struct state *s)
{
    state_begin(s, "rtc", 1);
    state_put_field(s, ((struct rtc *)self)->index);
    state_end(s);
}

static void rtc_load(void *self, struct state *s)
{
    if (state_open(s, "rtc") == 1)
        state_get_field(s, ((struct rtc *)self)->index);
    state_close(s);
}

static const struct device_ops ops = {"rtc", rtc_reset, rtc_save, rtc_load, free};

int rtc_add(struct machine *m)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    struct iobus_range range = {PORT, 2, 1, rtc, rtc_read, rtc_write};
    int r;

    if (!rtc)
        return -ENOMEM;
    tzset(); /* gmtime_r() would look for a file the first time, which the sandbox forbids */
    r = iobus_claim(&m->ports, &range);
    if (r == 0)
        r = machine_add_device(m, &ops, rtc);
    if (r < 0)
        free(rtc);
    return r;
}
