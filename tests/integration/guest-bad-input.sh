#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What people get wrong, with the real programs: one clear line that names the thing and the reason, exit status 1, and nothing
# half-made left behind.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3 qemu-img
need_built vmctl vmmd-guest vmmd-import
[ -f "$BUILD/guests/checksum" ] || skip "$BUILD/guests/checksum is not built"
start_bus
start_vmmd

refused_cleanly() # TEXT COMMAND...: refused, and nothing is left behind
{
    refused "$@"
    shift
    left=$(ls -A "$STATE/templates" "$STATE/guests" | grep -vE ':|^$|^good$|^one$' || true)
    [ -z "$left" ] || fail "left behind by $*: $left"
}

kernel=$BUILD/guests/checksum
truncate -s 1M "$TMP/disk.raw"; echo data | dd of="$TMP/disk.raw" bs=4k seek=9 conv=notrunc status=none
head -c 200 "$kernel" >"$TMP/short-kernel"
head -c 1500 "$kernel" >"$TMP/truncated-kernel"
head -c 4096 /dev/urandom >"$TMP/no-kernel"
import() { vmctl template import "$@" --cmdline x; }

refused_cleanly "$TMP/missing" vmctl template import good --disk "$TMP/missing"
refused_cleanly "kernel" import good --disk "$TMP/disk.raw" --kernel "$TMP/short-kernel"
refused_cleanly "truncated" import good --disk "$TMP/disk.raw" --kernel "$TMP/truncated-kernel"
refused_cleanly "kernel" import good --disk "$TMP/disk.raw" --kernel "$TMP/no-kernel"
refused_cleanly "kernel" vmctl template import good --disk "$TMP/disk.raw" # nothing bootable inside
: >"$TMP/empty"
refused_cleanly "empty" import good --disk "$TMP/empty" --kernel "$kernel"
qemu-img create -q -f qcow2 "$TMP/base.qcow2" 1M
qemu-img create -q -f qcow2 -b "$TMP/gone.qcow2" -F qcow2 -u "$TMP/overlay.qcow2" 1M
refused_cleanly "gone.qcow2" import good --disk "$TMP/overlay.qcow2" --kernel "$kernel"
head -c 1000 "$TMP/base.qcow2" >"$TMP/cut.qcow2"
refused_cleanly "" import good --disk "$TMP/cut.qcow2" --kernel "$kernel"
qemu-img create -q -f vmdk "$TMP/image.vmdk" 1M
refused_cleanly "VMDK" import good --disk "$TMP/image.vmdk" --kernel "$kernel"
qemu-img convert --object secret,id=s,data=sesame -f raw -O qcow2 -o encrypt.format=aes,encrypt.key-secret=s \
    "$TMP/disk.raw" "$TMP/aes.qcow2" 2>/dev/null || fail "qemu-img makes no image with AES"
refused_cleanly "passphrase is needed" import good --disk "$TMP/aes.qcow2" --kernel "$kernel"
echo sesame >"$TMP/passphrase"
refused_cleanly "passphrase has 0 bytes" import good --disk "$TMP/aes.qcow2" --kernel "$kernel" --passphrase "$TMP/empty"
refused_cleanly "passphrase is wrong" vmctl template import good --disk "$TMP/aes.qcow2" --passphrase "$TMP/passphrase" # nothing inside
import good --disk "$TMP/aes.qcow2" --kernel "$kernel" --passphrase "$TMP/passphrase" || fail "an encrypted image"
cmp "$TMP/disk.raw" "$STATE/templates/good/disk.raw" || fail "an encrypted image differs"
vmctl template delete good || fail "its deletion"
qemu-img snapshot -c first "$TMP/base.qcow2"
refused_cleanly 'no snapshot "second"' import good --disk "$TMP/base.qcow2" --kernel "$kernel" --snapshot second
import good --disk "$TMP/base.qcow2" --kernel "$kernel" --snapshot first || fail "a snapshot"
vmctl template delete good || fail "its deletion"
refused_cleanly "a/b" import a/b --disk "$TMP/disk.raw" --kernel "$kernel"

import good --disk "$TMP/disk.raw" --kernel "$kernel" || fail "a good import"
refused_cleanly "good" import good --disk "$TMP/disk.raw" --kernel "$kernel"
refused_cleanly "memory" vmctl create good --name one --memory 0
refused_cleanly "memory" vmctl create good --name one --memory 100T
refused_cleanly "whole MiB" vmctl create good --name one --memory 33554433
can_kvm || refused_cleanly "kvm" vmctl create good --name one --memory 64M --engine kvm
refused_cleanly "vCPU" vmctl create good --name one --memory 64M --vcpus 1000
refused_cleanly "nix" vmctl create nix --name one
vmctl create good --name one --memory 64M || fail "a good guest"
refused_cleanly "one" vmctl create good --name one --memory 64M
refused_cleanly "one" vmctl template delete good
refused_cleanly "not running" vmctl stop one
refused_cleanly "nobody" vmctl start nobody

say "a second daemon on the same state directory"
status=0
"$BUILD/vmmd" --session --state-dir "$STATE" --runtime-dir "$TMP/run2" --bus-address "$VMMD_BUS_ADDRESS" 2>"$TMP/err" || status=$?
[ $status = 1 ] && grep -qF "$STATE" "$TMP/err" || fail "a second daemon: status $status, $(cat "$TMP/err")"

say "a template that was changed is not booted"
path=$(vmctl template info good --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["path"])')
chmod u+w "$path/disk.raw" && printf x | dd of="$path/disk.raw" bs=1 seek=5000 conv=notrunc 2>/dev/null
refused_cleanly "good" vmctl start one
vmctl list >/dev/null || fail "vmmd is gone"
pass
