/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pit: the 8254 timer: channel 0 raises IRQ 0, channel 2 can be polled at port 0x61 (kernels
 * calibrate with it). Channel 1 counts and does nothing. Source: Intel 8254 data sheet.
 */
#include "vmmd/vmm/engine-soft/irqchip.h"

#define PIT_HZ 1193182ull
#define NS     1000000000ull

static uint64_t to_ns(uint32_t count)
{
    return count * NS / PIT_HZ;
}

static uint64_t ticks(const struct pit_channel *ch, uint64_t now)
{
    return (uint64_t)((unsigned __int128)(now - ch->start) * PIT_HZ / NS);
}

static bool periodic(const struct pit_channel *ch)
{
    return ch->mode == 2 || ch->mode == 3;
}

static void load_count(struct pit *p, unsigned i, uint32_t count, uint64_t now)
{
    struct pit_channel *ch = &p->channel[i];

    ch->count = count ? count : 65536;
    ch->start = now;
    if (i == 0)
        ch->next = now + to_ns(ch->count);
}

static uint16_t counter(const struct pit_channel *ch, uint64_t now)
{
    uint64_t t = ticks(ch, now);
    uint32_t n = ch->count ? ch->count : 65536;

    return (uint16_t)(periodic(ch) ? n - t % n : n - t);
}

static bool output(const struct pit_channel *ch, uint64_t now)
{
    return ch->mode > 1 || (ch->count && ticks(ch, now) >= ch->count);
}

static void latch(struct pit_channel *ch, uint64_t now)
{
    if (ch->latched)
        return;
    ch->latch = counter(ch, now);
    ch->latched = 1;
    ch->latch_state = 0;
}

static void write_control(struct pit *p, uint8_t value, uint64_t now)
{
    unsigned i = value >> 6, access = value >> 4 & 3;

    if (i == 3) { /* read-back command: counts only */
        for (unsigned k = 0; k < 3; k++)
            if ((value & (2u << k)) && !(value & 0x20))
                latch(&p->channel[k], now);
        return;
    }
    struct pit_channel *ch = &p->channel[i];
    if (access == 0) {
        latch(ch, now);
        return;
    }
    *ch = (struct pit_channel){.access = (uint8_t)access, .mode = value >> 1 & 7, .start = now};
    if (ch->mode > 5)
        ch->mode &= 3;
}

static void write_count(struct pit *p, unsigned i, uint8_t value, uint64_t now)
{
    struct pit_channel *ch = &p->channel[i];

    if (ch->access == 1) {
        load_count(p, i, value, now);
    } else if (ch->access == 2) {
        load_count(p, i, (uint32_t)value << 8, now);
    } else if (!ch->write_state) {
        ch->write_low = value;
        ch->write_state = 1;
    } else {
        ch->write_state = 0;
        load_count(p, i, ch->write_low | (uint32_t)value << 8, now);
    }
}

void pit_write(struct pit *p, uint16_t port, uint8_t value, uint64_t now)
{
    if (port == 0x61) {
        if ((value & 1) && !(p->port61 & 1)) /* the gate of channel 2 opens: it counts from here */
            p->channel[2].start = now;
        p->port61 = value;
    } else if (port == 0x43) {
        write_control(p, value, now);
    } else {
        write_count(p, port & 3, value, now);
    }
}

static uint8_t read_count(struct pit_channel *ch, uint64_t now)
{
    uint16_t n;

    if (ch->latched) {
        if (ch->access == 3 && !ch->latch_state) {
            ch->latch_state = 1;
            return ch->latch & 0xff;
        }
        ch->latched = 0;
        return (uint8_t)(ch->access == 1 ? ch->latch : ch->latch >> 8);
    }
    n = counter(ch, now);
    if (ch->access == 3) {
        ch->read_state ^= 1;
        return (uint8_t)(ch->read_state ? n : n >> 8);
    }
    return (uint8_t)(ch->access == 2 ? n >> 8 : n);
}

uint8_t pit_read(struct pit *p, uint16_t port, uint64_t now)
{
    if (port == 0x61) {
        unsigned refresh = now / 15000 & 1; /* the refresh bit toggles every 15 us */
        return (uint8_t)((p->port61 & 3) | refresh << 4 |
                         (unsigned)output(&p->channel[2], now) << 5);
    }
    return port == 0x43 ? 0 : read_count(&p->channel[port & 3], now);
}

void pit_run_timer(struct irqchip *c, uint64_t now)
{
    struct pit_channel *ch = &c->pit.channel[0];

    if (!ch->next || now < ch->next)
        return;
    irqchip_line(c, 0, false);
    irqchip_line(c, 0, true);
    if (!periodic(ch)) {
        ch->next = 0;
        return;
    }
    ch->next += to_ns(ch->count);
    if (ch->next < now)
        ch->next = now + to_ns(ch->count);
}
