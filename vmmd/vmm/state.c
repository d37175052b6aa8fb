/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state: sections of plain fields. Reading never goes beyond the open section, so a damaged or
 * hostile state can at worst load zeroes with the error set.
 */
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 16

struct section_header {
    char name[NAME_BYTES];
    uint32_t version;
    uint32_t length;
};

void state_init(struct state *s)
{
    memset(s, 0, sizeof(*s));
}

void state_free(struct state *s)
{
    free(s->data);
    state_init(s);
}

void state_put(struct state *s, const void *data, size_t bytes)
{
    if (s->error)
        return;
    if (bytes > STATE_MAX_BYTES - s->size) {
        s->error = -ENOMEM;
        return;
    }
    if (s->size + bytes > s->capacity) {
        size_t capacity = (s->size + bytes) * 2;
        uint8_t *grown = realloc(s->data, capacity);
        if (!grown) {
            s->error = -ENOMEM;
            return;
        }
        s->data = grown;
        s->capacity = capacity;
    }
    memcpy(s->data + s->size, data, bytes);
    s->size += bytes;
}

void state_begin(struct state *s, const char *name, uint32_t version)
{
    struct section_header h = {.version = version};

    strncpy(h.name, name, NAME_BYTES - 1);
    s->section = s->size;
    state_put(s, &h, sizeof(h));
}

void state_end(struct state *s)
{
    if (s->error)
        return;
    uint32_t length = (uint32_t)(s->size - s->section - sizeof(struct section_header));
    memcpy(s->data + s->section + offsetof(struct section_header, length), &length, sizeof(length));
}

uint32_t state_open(struct state *s, const char *name)
{
    struct section_header h;

    if (s->error)
        return 0;
    if (s->size - s->at < sizeof(h)) {
        s->error = -EPROTO;
        return 0;
    }
    memcpy(&h, s->data + s->at, sizeof(h));
    s->at += sizeof(h);
    if (strncmp(h.name, name, NAME_BYTES) != 0 || h.length > s->size - s->at) {
        s->error = -EPROTO;
        return 0;
    }
    s->end = s->at + h.length;
    return h.version;
}

void state_get(struct state *s, void *data, size_t bytes)
{
    if (!s->error && bytes > s->end - s->at)
        s->error = -EPROTO;
    if (s->error) {
        memset(data, 0, bytes);
        return;
    }
    memcpy(data, s->data + s->at, bytes);
    s->at += bytes;
}

void state_close(struct state *s)
{
    if (!s->error && s->at != s->end)
        s->error = -EPROTO;
}
