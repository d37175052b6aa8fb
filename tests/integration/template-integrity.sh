#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Templates that are not what was imported: template verify names the damaged blocks; a guest does not start over a template that
# took the place of its own. A verification can be cancelled.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3 qemu-img gdbus
need_built vmctl vmmd-guest vmmd-import
[ -f "$BUILD/guests/checksum" ] || skip "$BUILD/guests/checksum is not built"
start_bus
start_vmmd
kernel=$BUILD/guests/checksum

import() { vmctl template import "$1" --disk "$2" --kernel "$kernel" --cmdline console=ttyS0 || fail "import $1"; }
flip() # FILE BYTE: its lowest bit
{
    old=$(dd if="$1" bs=1 skip="$2" count=1 status=none | od -An -tu1 | tr -d ' ')
    # shellcheck disable=SC2059 # the number is the format
    printf "\\$(printf %03o $((old ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

{ echo slow; head -c 3000000 /dev/urandom; } >"$TMP/a.raw" # not whole blocks
truncate -s 3000320 "$TMP/a.raw"
head -c 3000320 /dev/urandom >"$TMP/b.raw"
import a "$TMP/a.raw"
import b "$TMP/b.raw"
disk=$STATE/templates/a/disk.raw
chmod u+w "$disk"

say "verify"
vmctl template verify a || fail "a good template"
refused "nix" vmctl template verify nix
flip "$disk" 1000000
flip "$disk" 3000319
refused "2 of 733 blocks are damaged, at byte 999424, 2998272" vmctl template verify a
grep -q "template-damaged a: template a: 2 of 733 blocks" "$LOG" || fail "not in the log: $(cat "$LOG")"
for block in 10 20 30 40; do flip "$disk" $((block * 4096)); done
refused "6 of 733 blocks are damaged, at byte 40960, 81920, 122880, 163840, 999424, ..." vmctl template verify a
for block in 10 20 30 40; do flip "$disk" $((block * 4096)); done
flip "$disk" 1000000
flip "$disk" 3000319
vmctl template verify a || fail "a template that is good again"
truncate -s 3000000 "$disk"
refused "another size" vmctl template verify a
truncate -s 3000320 "$disk"
cp "$STATE/templates/a/hashes" "$TMP/hashes"
chmod u+w "$STATE/templates/a/hashes"
flip "$STATE/templates/a/hashes" 100
refused "hash file is damaged" vmctl template verify a
cat "$TMP/hashes" >"$STATE/templates/a/hashes"

say "a template that took the place of another"
vmctl create b --name one --memory 64M || fail "create"
qemu-img check -q "$STATE/guests/one/overlay.qcow2" || fail "qemu-img check of an overlay with an identity"
vmctl start one || fail "start"
vmctl stop -f one || fail "stop"
import c "$TMP/a.raw"
stop_vmmd || fail "stop vmmd"
mv "$STATE/templates/b" "$STATE/b"
mv "$STATE/templates/c" "$STATE/templates/b"
start_vmmd
refused "is not the one that the image was made over" vmctl start one
stop_vmmd || fail "stop vmmd"
mv "$STATE/templates/b" "$STATE/templates/c"
mv "$STATE/b" "$STATE/templates/b"
start_vmmd
vmctl start one || fail "start over its own template again"
vmctl stop -f one || fail "stop"
refused "one" vmctl template delete b

say "a restored copy: another file with the same bytes"
cp --no-preserve=all "$STATE/templates/b/disk.raw" "$TMP/copy"
mv -f "$TMP/copy" "$STATE/templates/b/disk.raw"
refused "before \"vmctl template verify b\" finds it good" vmctl start one
vmctl template verify b || fail "a good copy"
vmctl start one || fail "start over a copy that was found good"
vmctl stop -f one || fail "stop"
stop_vmmd || fail "stop vmmd"
start_vmmd
vmctl start one || fail "that is forgotten"
vmctl stop -f one || fail "stop"

say "cancel"
stop_vmmd || fail "stop vmmd"
use_fakes
start_vmmd
job=$(bus_call /org/vmmd1/template/a org.vmmd1.Template.Verify | sed "s/.*'\(.*\)'.*/\1/")
expect_error InUse "being verified already" bus_call /org/vmmd1/template/a org.vmmd1.Template.Verify
expect "'verify'" property "$job" org.vmmd1.Job Kind
expect "'running'" property "$job" org.vmmd1.Job State
vmctl template verify b || fail "another one meanwhile"
bus_call "$job" org.vmmd1.Job.Cancel >/dev/null || fail "cancel"
wait_for_state() { until [ "$(property "$job" org.vmmd1.Job State)" = "$1" ]; do :; done; }
export -f property bus_call wait_for_state
export job
timeout 30 bash -c "wait_for_state \"'cancelled'\"" || fail "not cancelled: $(property "$job" org.vmmd1.Job State)"
"$VMCTL" template verify a 2>"$TMP/err" &
client=$!
timeout 30 sh -c "until vmctl_jobs=\$(DBUS_SESSION_BUS_ADDRESS=$VMMD_BUS_ADDRESS gdbus introspect --session --dest org.vmmd1 \
    --object-path /org/vmmd1/job --recurse 2>/dev/null) && echo \"\$vmctl_jobs\" | grep -q \"State = 'running'\"; do :; done" ||
    fail "no job"
kill -TERM $client
status=0
wait $client || status=$?
[ $status = 1 ] && grep -q "cancelling the verification" "$TMP/err" || fail "interrupt: status $status, $(cat "$TMP/err")"
vmctl template delete a || fail "delete"
stop_vmmd || fail "vmmd does not end well"
pass
