/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * text: making text from outside presentable.
 */
#ifndef VMMD_TEXT_H
#define VMMD_TEXT_H

#include <stddef.h>

/* Copies at most `size` - 1 bytes of `from`; bytes other than printable ASCII become '?', so that
 * the result is one line, valid in JSON and on the bus, and moves no terminal's cursor. */
void text_copy(char *to, size_t size, const char *from);

#endif
