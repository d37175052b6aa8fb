/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spin: a guest that wants all processor time it can get, and counts: every line is the number of
 * pieces of work done so far, all of the same size. It never ends by itself.
 */
#include "runtime.h"

#define PIECE 4000000u /* turns of a loop */

void guest_main(uint8_t *boot_params)
{
    (void)boot_params;
    print("ready login: \n");
    for (uint64_t done = 1;; done++) {
        for (uint32_t i = 0; i < PIECE; i++)
            __asm__ volatile("");
        print_number(done);
        print("\n");
    }
}
