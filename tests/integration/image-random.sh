#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# commit, rebase, convert on random chains of images: image-random.py. CHAINS_SEED, CHAINS.
. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io python3
need_built vmmd-image
seed=${CHAINS_SEED:-1}
say "seed $seed"
mkdir "$TMP/chains"
python3 "$ROOT/tests/integration/image-random.py" "$BUILD/vmmd-image" "$TMP/chains" "$seed" "${CHAINS:-120}" || fail "CHAINS_SEED=$seed"
pass
