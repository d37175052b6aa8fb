#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# vmmd-image check against qemu-img check on damaged images: image-check.py. CHECK_SEED, CHECK_MUTANTS.
. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io python3
need_built vmmd-image
seed=${CHECK_SEED:-1}
say "seed $seed"
python3 "$ROOT/tests/integration/image-check.py" "$BUILD/vmmd-image" "$TMP" "$seed" "${CHECK_MUTANTS:-120}" ||
    fail "CHECK_SEED=$seed"
pass
