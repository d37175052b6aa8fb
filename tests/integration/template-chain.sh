#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmctl template import of images that are more than one file: backing files, external data files, by relative names.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3 qemu-img qemu-io
need_built vmctl vmmd-guest vmmd-import vmmd-image
[ -f "$BUILD/guests/checksum" ] || skip "$BUILD/guests/checksum is not built"
start_bus
start_vmmd
mkdir "$TMP/i" "$TMP/i/below"
cd "$TMP/i"

import() { vmctl template import "$1" --disk "$2" --kernel "$BUILD/guests/checksum" --cmdline console=ttyS0; }
good() # FILE
{
    import t "$1" || fail "import $1"
    qemu-img compare -f raw -F qcow2 "$STATE/templates/t/disk.raw" "$1" >/dev/null || fail "$1 differs"
    vmctl template delete t || fail "delete"
}
quiet_io() { qemu-io "$@" >/dev/null || fail "qemu-io $*"; }

head -c 3145728 /dev/urandom >below/base.raw
(cd below && qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2 4M)
quiet_io -f qcow2 -c 'write -P 1 1M 64k' -c 'write -z 0 64k' below/mid.qcow2
qemu-img create -q -f qcow2 -b below/mid.qcow2 -F qcow2 top.qcow2 5M
quiet_io -f qcow2 -c 'write -P 2 4M 128k' top.qcow2
good below/mid.qcow2
good top.qcow2
good "$PWD/top.qcow2"
expect "role,file
image,top.qcow2
backing,below/mid.qcow2
backing,below/base.raw" vmctl image chain top.qcow2 --format csv

say "external data files"
qemu-img create -q -f qcow2 -o data_file=outside.data x.qcow2 1M
quiet_io -f qcow2 -c 'write -P 3 64k 64k' x.qcow2
good x.qcow2
qemu-img create -q -f qcow2 -b x.qcow2 -F qcow2 -o data_file=more.data y.qcow2 2M
quiet_io -f qcow2 -c 'write -P 4 256k 64k' y.qcow2
good y.qcow2
expect "image y.qcow2 data more.data backing x.qcow2 data outside.data" sh -c "'$VMCTL' image chain y.qcow2 --format csv | sed 1d | tr ',\n' '  ' | sed 's/ \$//'"

say "refusals"
rm outside.data
expect_error "outside.data" "No such file" import t x.qcow2
before=top.qcow2
for n in 1 2 3 4 5 6; do
    qemu-img create -q -f qcow2 -b "$before" -F qcow2 "$n.qcow2" 5M
    before=$n.qcow2
done
good 6.qcow2
qemu-img create -q -f qcow2 -b 6.qcow2 -F qcow2 7.qcow2
expect_error "more than 9 files" "vmctl image convert" import t 7.qcow2
vmctl image convert 7.qcow2 --output alone.qcow2 || fail "convert"
good alone.qcow2
qemu-img create -q -f qcow2 -u -b there.qcow2 -F qcow2 here.qcow2 1M
qemu-img create -q -f qcow2 -u -b here.qcow2 -F qcow2 there.qcow2 1M
expect_error "more than 9 files" "" import t here.qcow2
qemu-img convert -f qcow2 -O qcow alone.qcow2 v1.qcow 2>/dev/null
import old v1.qcow || fail "qcow version 1"
[ "$(ls "$STATE/templates")" = old ] || fail "left behind: $(ls "$STATE/templates")"
pass
