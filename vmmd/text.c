/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * text: making text from outside presentable.
 */
#include "vmmd/text.h"

void text_copy(char *to, size_t size, const char *from)
{
    size_t n;

    for (n = 0; n + 1 < size && from[n]; n++)
        to[n] = from[n] >= 0x20 && from[n] < 0x7f ? from[n] : '?';
    to[n] = '\0';
}
