#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmctl template export: what is written is what was imported, in every format, and is there only when it is whole.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3 qemu-img
need_built vmctl vmmd-guest vmmd-import
[ -f "$BUILD/guests/checksum" ] || skip "$BUILD/guests/checksum is not built"
start_bus
start_vmmd

python3 - "$TMP/a.raw" <<'P'
import random, sys
r = random.Random(3)
with open(sys.argv[1], 'wb') as f:
    for _ in range(60):
        f.seek(r.randrange(0, 60 << 20))
        f.write(r.randbytes(r.randrange(1, 200000)) if r.random() < .5 else b'text ' * r.randrange(1, 40000))
    f.truncate((60 << 20) + 1536)
P
vmctl template import a --disk "$TMP/a.raw" --kernel "$BUILD/guests/checksum" --cmdline console=ttyS0 || fail import
mkdir "$TMP/o"
cd "$TMP/o"
same() { qemu-img compare -f "$2" -F raw "$1" "$TMP/a.raw" >/dev/null || fail "$1 differs: $(qemu-img info "$1")"; }
vmctl template export a --output plain.qcow2 || fail "export"
same plain.qcow2 qcow2
qemu-img check -q plain.qcow2 || fail "check"
vmctl template export a --output "$TMP/o/a.raw" --to raw || fail "export --to raw"
cmp a.raw "$TMP/a.raw" || fail "raw"
[ "$(du -k a.raw | cut -f 1)" -lt 15000 ] || fail "not sparse: $(du -k a.raw)"
vmctl template export a --output packed.qcow2 --compress || fail "export --compress"
same packed.qcow2 qcow2
qemu-img check -q packed.qcow2 || fail "check"
[ "$(stat -c %s packed.qcow2)" -lt "$(stat -c %s plain.qcow2)" ] || fail "not smaller: $(ls -l)"
umask 077
vmctl template export a --output mine.raw --to raw || fail "export"
[ "$(stat -c %a mine.raw)" = 600 ] || fail "mode $(stat -c %a mine.raw)"
vmctl template import b --disk packed.qcow2 --kernel "$BUILD/guests/checksum" --cmdline console=ttyS0 || fail "import what was exported"
cmp "$STATE/templates/a/disk.raw" "$STATE/templates/b/disk.raw" || fail "there and back"

say "refusals"
files=$(ls -a)
refused "exists already; --replace" vmctl template export a --output mine.raw
refused "is not a file" vmctl template export a --output "$TMP/o" --replace
refused "cannot create" vmctl template export a --output "$TMP/none/x"
refused "nix" vmctl template export nix --output x
refused "not compressed" vmctl template export a --output x --to raw --compress
refused "must be raw or qcow2" vmctl template export a --output x --to vmdk
vmctl template export a --output mine.raw --replace || fail "--replace"
same mine.raw qcow2
disk=$STATE/templates/a/disk.raw
chmod u+w "$disk"
cp "$disk" "$TMP/copy"
printf x | dd of="$disk" bs=1 seek=4097 conv=notrunc status=none
refused "damaged at byte 4096" vmctl template export a --output x
grep -q "template-damaged a: " "$LOG" || fail "the damage is not in the log"
[ "$(ls -a)" = "$files" ] || fail "left behind: $(ls -a)"
pass
