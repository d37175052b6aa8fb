/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-console: ports (virtio 1.2, section 5.3, with MULTIPORT): 0 a console, there only when the
 * kernel command line asks for hvc0 (a guest would otherwise put a second login on it), 1 the guest
 * agent's, whose host side is closed.
 */
#include "vmmd/vmm/devices.h"

#include "vmmd/vmm/console.h"
#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"
#include "vmmd/vmm/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define F_MULTIPORT  (1ull << 1)
#define PORT_CONSOLE 0u
#define PORT_AGENT   1u
#define N_PORTS      2u
#define AGENT_NAME   "org.qemu.guest_agent.0"

enum {
    Q_CONSOLE_IN,
    Q_CONSOLE_OUT,
    Q_CONTROL_IN,
    Q_CONTROL_OUT,
    Q_AGENT_IN,
    Q_AGENT_OUT,
    N_QUEUES
};
enum {
    DEVICE_READY,
    PORT_ADD,
    PORT_REMOVE,
    PORT_READY,
    CONSOLE_PORT,
    RESIZE,
    PORT_OPEN,
    PORT_NAME
};

struct console_config {
    uint16_t columns, rows;
    uint32_t max_ports, emergency_write;
} __attribute__((packed));

struct control {
    uint32_t port;
    uint16_t event, value;
} __attribute__((packed));

#define CONTROL_MAX    (sizeof(struct control) + sizeof(AGENT_NAME))
#define CONTROL_QUEUED 16u
#define OUTPUT_MAX     65536u /* bytes of one chain that are printed; drivers send up to 32 KiB */

struct pending {
    uint8_t data[CONTROL_MAX];
    uint32_t bytes;
};

struct virtio_console {
    struct virtio v;
    struct console *console;
    bool with_console;
    struct pending pending[CONTROL_QUEUED]; /* control messages that found no buffer yet */
    uint32_t n_pending;
    struct virtq_chain chain;
};

static struct virtio_console *of_virtio(struct virtio *v)
{
    return (struct virtio_console *)((char *)v - offsetof(struct virtio_console, v));
}

/* The next buffer for what we have to say; when there is none, the guest is asked to kick once it
 * adds one. */
static bool next_buffer(struct virtio_console *c, unsigned queue)
{
    return virtio_pop(&c->v, queue, &c->chain) > 0 ||
           (virtio_ready(&c->v) && virtq_enable_notify(&c->v.queues[queue]) &&
            virtio_pop(&c->v, queue, &c->chain) > 0);
}

/* ---- control queue
 * ------------------------------------------------------------------------------------------ */

static void send_pending(struct virtio_console *c)
{
    struct virtq *q = &c->v.queues[Q_CONTROL_IN];
    uint32_t n = 0;

    while (n < c->n_pending && next_buffer(c, Q_CONTROL_IN)) {
        struct pending *p = &c->pending[n++];
        virtq_push(q, &c->chain, virtq_chain_write(q, &c->chain, 0, p->data, p->bytes));
    }
    memmove(c->pending, c->pending + n, (c->n_pending - n) * sizeof(c->pending[0]));
    c->n_pending -= n;
    virtio_signal(&c->v, Q_CONTROL_IN);
}

static void queue_control(struct virtio_console *c, uint32_t port, uint16_t event, uint16_t value,
                          const char *text)
{
    struct control control = {port, event, value};
    struct pending *p = &c->pending[c->n_pending];
    size_t bytes = text ? strlen(text) : 0;

    if (c->n_pending == CONTROL_QUEUED) /* a guest that asks without taking answers gets none */
        return;
    memcpy(p->data, &control, sizeof(control));
    if (bytes > 0)
        memcpy(p->data + sizeof(control), text, bytes);
    p->bytes = (uint32_t)(sizeof(control) + bytes);
    c->n_pending++;
}

static void handle_control(struct virtio_console *c, const struct control *m)
{
    switch (m->event) {
    case DEVICE_READY:
        if (!m->value)
            break;
        if (c->with_console)
            queue_control(c, PORT_CONSOLE, PORT_ADD, 1, NULL);
        queue_control(c, PORT_AGENT, PORT_ADD, 1, NULL);
        break;
    case PORT_READY:
        if (!m->value)
            break;
        if (m->port == PORT_CONSOLE && c->with_console) {
            queue_control(c, PORT_CONSOLE, CONSOLE_PORT, 1, NULL);
            queue_control(c, PORT_CONSOLE, PORT_OPEN, 1, NULL);
        } else if (m->port == PORT_AGENT) {
            queue_control(c, PORT_AGENT, PORT_NAME, 1, AGENT_NAME);
        }
        break;
    }
}

static void serve_control(struct virtio_console *c)
{
    struct virtq *q = &c->v.queues[Q_CONTROL_OUT];
    struct control m;

    while (virtio_pop(&c->v, Q_CONTROL_OUT, &c->chain) > 0) {
        if (virtq_chain_read(&c->chain, 0, &m, sizeof(m)) == sizeof(m))
            handle_control(c, &m);
        virtq_push(q, &c->chain, 0);
    }
    virtio_signal(&c->v, Q_CONTROL_OUT);
    send_pending(c);
}

/* ---- ports
 * ----------------------------------------------------------------------------------------------------
 */

static void serve_output(struct virtio_console *c, unsigned queue)
{
    struct virtq *q = &c->v.queues[queue];
    char data[512];

    while (virtio_pop(&c->v, queue, &c->chain) > 0) {
        uint64_t at = 0, n;
        /* What is beyond the limit is lost, like all output that comes too fast. */
        while (queue == Q_CONSOLE_OUT && at < OUTPUT_MAX &&
               (n = virtq_chain_read(&c->chain, at, data, sizeof(data))) > 0) {
            console_output(c->console, data, n);
            at += n;
        }
        virtq_push(q, &c->chain, 0);
    }
    virtio_signal(&c->v, queue);
}

size_t virtio_console_input(struct virtio_console *c, const uint8_t *data, size_t bytes)
{
    struct virtq *q = &c->v.queues[Q_CONSOLE_IN];
    size_t done = 0;

    while (done < bytes && next_buffer(c, Q_CONSOLE_IN)) {
        uint64_t n = virtq_chain_write(q, &c->chain, 0, data + done, bytes - done);
        virtq_push(q, &c->chain, n);
        done += n;
    }
    virtio_signal(&c->v, Q_CONSOLE_IN);
    return done;
}

static bool from_guest(unsigned queue)
{
    return queue == Q_CONSOLE_OUT || queue == Q_AGENT_OUT || queue == Q_CONTROL_OUT;
}

static void notify(struct virtio *v, unsigned queue)
{
    struct virtio_console *c = of_virtio(v);

    do {
        if (queue == Q_CONTROL_OUT)
            serve_control(c);
        else if (from_guest(queue))
            serve_output(c, queue);
        else if (queue == Q_CONTROL_IN)
            send_pending(c);
        else if (queue == Q_CONSOLE_IN && c->console->input_bytes > 0)
            console_wake_input(c->console);
    } while (from_guest(queue) && virtio_ready(v) && virtq_enable_notify(&v->queues[queue]));
}

static void forget(struct virtio *v)
{
    of_virtio(v)->n_pending = 0;
}

static const struct virtio_ops console_virtio = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .class_code = 0x078000,
    .n_queues = N_QUEUES,
    .features = F_MULTIPORT,
    .config_bytes = sizeof(struct console_config),
    .notify = notify,
    .reset = forget,
};

static void console_reset(void *self)
{
    virtio_reset(&((struct virtio_console *)self)->v);
}

static void console_save(void *self, struct state *s)
{
    struct virtio_console *c = self;

    state_begin(s, "virtio-console", 1);
    virtio_save(&c->v, s);
    state_put_field(s, c->n_pending);
    state_put_field(s, c->pending);
    state_end(s);
}

static void console_load(void *self, struct state *s)
{
    struct virtio_console *c = self;

    if (state_open(s, "virtio-console") == 1) {
        virtio_load(&c->v, s);
        state_get_field(s, c->n_pending);
        state_get_field(s, c->pending);
    }
    state_close(s);
    for (uint32_t i = 0; i < CONTROL_QUEUED; i++)
        if (c->pending[i].bytes > CONTROL_MAX)
            c->n_pending = 0;
    if (c->n_pending > CONTROL_QUEUED)
        c->n_pending = 0;
}

static const struct device_ops ops = {"virtio-console", console_reset, console_save, console_load,
                                      free};

int virtio_console_add(struct machine *m, struct console *console, bool with_console,
                       struct virtio_console **ret_console)
{
    struct virtio_console *c = calloc(1, sizeof(*c));
    const struct console_config config = {.columns = 80, .rows = 24, .max_ports = N_PORTS};
    int r;

    if (!c)
        return -ENOMEM;
    c->console = console;
    c->with_console = with_console;
    memcpy(c->v.config, &config, sizeof(config));
    r = virtio_init(&c->v, &console_virtio, m);
    if (r == 0)
        r = machine_add_device(m, &ops, c);
    if (r < 0)
        free(c);
    else
        *ret_console = c;
    return r;
}
