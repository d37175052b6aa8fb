/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state: a growing byte buffer that devices save themselves into and load themselves from.
 *
 * Each device writes a section (name, version, length) of plain fields in a fixed order; a reader
 * that asks for more than a section holds, or for another section, sets the error and gets zeroes:
 * callers check once, at the end. Little-endian, same machine family on both sides. Not
 * thread-safe.
 */
#ifndef VMM_STATE_H
#define VMM_STATE_H

#include <stddef.h>
#include <stdint.h>

#define STATE_MAX_BYTES (16u << 20)

struct state {
    uint8_t *data;
    size_t size, capacity; /* bytes written, bytes allocated */
    size_t at, end;        /* reading: position, end of the open section */
    size_t section;        /* writing: where the open section's length field is */
    int error;             /* 0, -ENOMEM, -EPROTO */
};

void state_init(struct state *s);
void state_free(struct state *s);

void state_begin(struct state *s, const char *name, uint32_t version);
void state_end(struct state *s);
void state_put(struct state *s, const void *data, size_t bytes);

/* Opens the next section, which must have this name; its version (or 0 with the error set). */
uint32_t state_open(struct state *s, const char *name);
void state_close(struct state *s); /* -EPROTO if bytes are left over */
void state_get(struct state *s, void *data, size_t bytes);

#define state_put_field(s, field) state_put((s), &(field), sizeof(field))
#define state_get_field(s, field) state_get((s), &(field), sizeof(field))

#endif
