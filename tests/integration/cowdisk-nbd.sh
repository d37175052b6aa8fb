#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# cowdisk behind nbdkit, tested by other people's tools: nbdcopy and qemu-img read what is there,
# random operations leave the same disk as QEMU's own driver and a flat file (cowdisk-nbd.py).
# NBD_SEED, NBD_STOPS.
. "$(dirname "$0")/functions.sh"
need nbdkit nbdcopy qemu-img qemu-io python3
need_built vmmd-image
PYTHON=/usr/bin/python3 # Debian's, which has the module
"$PYTHON" -c 'import nbd' 2>/dev/null || skip "python3-libnbd is not installed"
PLUGIN=$BUILD/nbdkit-cowdisk-plugin.so
[ -e "$PLUGIN" ] || skip "$PLUGIN is not built"
cd "$TMP"

# ---- what others read through it
head -c 3M /dev/urandom >base.raw
truncate -s 9M base.raw
qemu-img create -q -f qcow2 -b base.raw -F raw over.qcow2
qemu-io -f qcow2 -c "write -P 5 100k 1M" -c "write -z 2M 300k" over.qcow2 >/dev/null
qemu-img convert -O raw over.qcow2 flat.raw
qemu-img convert -c -O qcow2 over.qcow2 packed.qcow2
for image in over.qcow2 packed.qcow2 base.raw; do
    qemu-img convert -O raw "$image" want.raw
    # shellcheck disable=SC2016 # nbdkit sets $uri
    nbdkit -U - "$PLUGIN" file="$image" readonly=1 --run \
        'qemu-img compare -q -f raw -F raw "$uri" want.raw && nbdcopy "$uri" copy.raw && nbdinfo --map "$uri" >map' ||
        fail "$image through nbdkit"
    cmp copy.raw want.raw || fail "nbdcopy of $image"
    grep -q zero map || fail "no holes in the map of $image"
done
# shellcheck disable=SC2016
nbdkit -U - "$PLUGIN" file=over.qcow2 readonly=1 --run 'qemu-io -f raw -c "write 0 64k" "$uri"' >/dev/null 2>&1 &&
    fail "a write through readonly=1"
qemu-img compare -q -f qcow2 -F raw over.qcow2 flat.raw || fail "readonly=1 changed the image"

# ---- and random operations
seed=${NBD_SEED:-1}
say "seed $seed"
mkdir random
"$PYTHON" "$ROOT/tests/integration/cowdisk-nbd.py" "$PLUGIN" "$BUILD/vmmd-image" "$TMP/random" "$seed" "${NBD_STOPS:-60}" ||
    fail "NBD_SEED=$seed"
pass
