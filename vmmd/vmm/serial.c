/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * serial: a 16550A at 0x3f8. Output is instant: the transmitter is always empty. Its FIFO of
 * received bytes is larger than the chip's 16, so that pasted text is not lost. Source: PC16550D
 * data sheet.
 */
#include "vmmd/vmm/devices.h"

#include "vmmd/vmm/console.h"
#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PORT   0x3f8
#define IRQ    4
#define RX_MAX 256u

enum { R_DATA, R_IER, R_IIR_FCR, R_LCR, R_MCR, R_LSR, R_MSR, R_SCRATCH };

#define IER_RX     1u
#define IER_THRE   2u
#define IIR_NONE   1u
#define IIR_THRE   2u
#define IIR_RX     4u
#define IIR_FIFO   0xc0u
#define LCR_DLAB   0x80u
#define MCR_LOOP   0x10u
#define LSR_RX     1u
#define LSR_EMPTY  0x60u
#define MSR_ONLINE 0xb0u /* CTS, DSR, DCD */

struct serial {
    struct machine *machine;
    struct console *console;
    uint8_t ier, lcr, mcr, scratch, divisor[2], fcr;
    bool thre; /* the guest was not told yet that the transmitter is empty */
    uint8_t rx[RX_MAX];
    uint32_t rx_head, rx_tail;
    bool irq;
};

static void update(struct serial *s)
{
    bool level =
        ((s->ier & IER_RX) && s->rx_head != s->rx_tail) || ((s->ier & IER_THRE) && s->thre);

    if (level != s->irq) {
        s->irq = level;
        machine_irq(s->machine, IRQ, level);
    }
}

static void receive(struct serial *s, uint8_t byte)
{
    if (s->rx_head - s->rx_tail < RX_MAX)
        s->rx[s->rx_head++ % RX_MAX] = byte;
}

size_t serial_input(struct serial *s, const uint8_t *data, size_t bytes)
{
    size_t n = 0;

    while (n < bytes && s->rx_head - s->rx_tail < RX_MAX)
        receive(s, data[n++]);
    update(s);
    return n;
}

static void transmit(struct serial *s, uint8_t byte)
{
    char c = (char)byte;

    if (s->mcr & MCR_LOOP)
        receive(s, byte);
    else
        console_output(s->console, &c, 1);
    if (s->thre) { /* the interrupt is an edge: let it fall and rise again */
        s->thre = false;
        update(s);
    }
    s->thre = true;
}

static void serial_write(void *opaque, uint16_t port, unsigned size, uint32_t value)
{
    struct serial *s = opaque;
    uint8_t v = (uint8_t)value;
    unsigned reg = port - PORT;
    bool dlab = s->lcr & LCR_DLAB;

    if (size != 1)
        return;
    switch (reg) {
    case R_DATA:
        if (dlab)
            s->divisor[0] = v;
        else
            transmit(s, v);
        break;
    case R_IER:
        if (dlab) {
            s->divisor[1] = v;
            break;
        }
        if (!(s->ier & IER_THRE) && (v & IER_THRE))
            s->thre = true;
        s->ier = v & 15;
        break;
    case R_IIR_FCR:
        s->fcr = v;
        if (v & 2)
            s->rx_tail = s->rx_head;
        break;
    case R_LCR: s->lcr = v; break;
    case R_MCR: s->mcr = v & 0x1f; break;
    case R_SCRATCH: s->scratch = v; break;
    }
    update(s);
}

static uint8_t read_data(struct serial *s)
{
    uint8_t v = 0;

    if (s->rx_head != s->rx_tail)
        v = s->rx[s->rx_tail++ % RX_MAX];
    update(s);
    if (s->rx_head == s->rx_tail && s->console->input_bytes > 0)
        console_wake_input(s->console);
    return v;
}

static uint8_t read_iir(struct serial *s)
{
    uint8_t fifo = s->fcr & 1 ? IIR_FIFO : 0;

    if ((s->ier & IER_RX) && s->rx_head != s->rx_tail)
        return fifo | IIR_RX;
    if ((s->ier & IER_THRE) && s->thre) {
        s->thre = false;
        update(s);
        return fifo | IIR_THRE;
    }
    return fifo | IIR_NONE;
}

static uint8_t read_msr(const struct serial *s)
{
    if (!(s->mcr & MCR_LOOP))
        return MSR_ONLINE;
    return (uint8_t)((s->mcr & 2) << 3 | (s->mcr & 1) << 5 | (s->mcr & 4) << 4 | (s->mcr & 8) << 4);
}

static uint32_t serial_read(void *opaque, uint16_t port, unsigned size)
{
    struct serial *s = opaque;
    bool dlab = s->lcr & LCR_DLAB;

    if (size != 1)
        return 0xffffffff;
    switch (port - PORT) {
    case R_DATA: return dlab ? s->divisor[0] : read_data(s);
    case R_IER: return dlab ? s->divisor[1] : s->ier;
    case R_IIR_FCR: return read_iir(s);
    case R_LCR: return s->lcr;
    case R_MCR: return s->mcr;
    case R_LSR: return LSR_EMPTY | (s->rx_head != s->rx_tail ? LSR_RX : 0);
    case R_MSR: return read_msr(s);
    default: return s->scratch;
    }
}

static void serial_reset(void *self)
{
    struct serial *s = self;

    s->ier = s->lcr = s->mcr = s->scratch = s->fcr = 0;
    s->divisor[0] = 1;
    s->divisor[1] = 0;
    s->thre = false;
    s->rx_head = s->rx_tail = 0;
    update(s);
}

static void serial_save(void *self, struct state *st)
{
    struct serial *s = self;
    uint8_t thre = s->thre;

    state_begin(st, "serial", 1);
    state_put_field(st, s->ier);
    state_put_field(st, s->lcr);
    state_put_field(st, s->mcr);
    state_put_field(st, s->scratch);
    state_put_field(st, s->divisor);
    state_put_field(st, s->fcr);
    state_put_field(st, thre);
    state_put_field(st, s->rx);
    state_put_field(st, s->rx_head);
    state_put_field(st, s->rx_tail);
    state_end(st);
}

static void serial_load(void *self, struct state *st)
{
    struct serial *s = self;
    uint8_t thre = 0;

    if (state_open(st, "serial") != 1) {
        state_close(st); /* another version: bytes are left over */
        return;
    }
    state_get_field(st, s->ier);
    state_get_field(st, s->lcr);
    state_get_field(st, s->mcr);
    state_get_field(st, s->scratch);
    state_get_field(st, s->divisor);
    state_get_field(st, s->fcr);
    state_get_field(st, thre);
    state_get_field(st, s->rx);
    state_get_field(st, s->rx_head);
    state_get_field(st, s->rx_tail);
    state_close(st);
    s->thre = thre;
    if (s->rx_head - s->rx_tail > RX_MAX)
        s->rx_tail = s->rx_head;
    update(s);
}

static const struct device_ops ops = {"serial", serial_reset, serial_save, serial_load, free};

int serial_add(struct machine *m, struct console *console, struct serial **ret_serial)
{
    struct serial *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->machine = m;
    s->console = console;
    s->divisor[0] = 1;
    struct iobus_range range = {PORT, 8, 1, s, serial_read, serial_write};
    r = iobus_claim(&m->ports, &range);
    if (r == 0)
        r = machine_add_device(m, &ops, s);
    if (r < 0)
        free(s);
    else
        *ret_serial = s;
    return r;
}
