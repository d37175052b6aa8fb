#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# kill -9 in the middle of what vmmd-image does, at every call that changes a file: image-kill.py.
# KILL_SEED; KILL_MOST kills for each operation (all of them if there are not more).
. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io python3 "${CC:-cc}"
need_built vmmd-image
"${CC:-cc}" -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Wall -Wextra -Werror -O2 -shared -fPIC -o "$TMP/kill-at.so" \
    "$ROOT/tests/integration/kill-at.c"
seed=${KILL_SEED:-1}
say "seed $seed"
mkdir "$TMP/kill"
python3 "$ROOT/tests/integration/image-kill.py" "$BUILD/vmmd-image" "$TMP/kill-at.so" "$TMP/kill" "$seed" "${KILL_MOST:-100}" ||
    fail "KILL_SEED=$seed"
pass
