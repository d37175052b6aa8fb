#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bench-tcg.sh KERNEL INITRD RAW_DISK [ROUNDS] - the software engine beside qemu-system-x86_64 -accel tcg: the same kernel, initrd
# and disk to the login prompt, in turn in one run. Prints wall and user CPU seconds of each and the ratio of the medians
# (below 1: vmmd is faster).
set -eu
kernel=$1 initrd=$2 disk=$3 rounds=${4:-3}
build=${BUILD:-build}
command -v qemu-system-x86_64 >/dev/null || { echo "bench-tcg: skipped: qemu-system-x86_64 is missing" >&2; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmdline="root=/dev/vda rw console=ttyS0"

ours() { # -> "wall user"
    "$build/guest-run" -q -m 256 "$kernel" "$initrd" "$disk" "$cmdline" </dev/null 2>&1 >/dev/null |
        awk '$1 == "wall" { print $2, $4 }'
}

qemus() {
    python3 - "$kernel" "$initrd" "$disk" "$cmdline" <<'PY'
import os, resource, subprocess, sys, time
kernel, initrd, disk, cmdline = sys.argv[1:]
start = time.monotonic()
q = subprocess.Popen(["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none",
    "-serial", "stdio", "-no-reboot", "-device", "virtio-rng-pci",
    "-drive", f"file={disk},format=raw,if=virtio,snapshot=on",
    "-kernel", kernel, "-initrd", initrd, "-append", cmdline],
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
seen = b""
while b"login: " not in seen:
    data = os.read(q.stdout.fileno(), 65536)
    if not data:
        break
    seen = seen[-64:] + data
wall = time.monotonic() - start
q.kill()
q.wait()
print("%.2f %.2f" % (wall, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime))
PY
}

for round in $(seq "$rounds"); do
    o=$(ours) q=$(qemus)
    echo "$o" >>"$work/ours"
    echo "$q" >>"$work/qemu"
    echo "round $round: vmmd wall/user $o   qemu wall/user $q"
done
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
for column in 1 2; do
    name=$([ $column = 1 ] && echo "wall time" || echo "user CPU")
    a=$(awk -v c=$column '{ print $c }' "$work/ours" | median) b=$(awk -v c=$column '{ print $c }' "$work/qemu" | median)
    awk -v a="$a" -v b="$b" -v n="$name" 'BEGIN { printf "%s to the login prompt: vmmd %.2f s, qemu tcg %.2f s, ratio %.2f\n", n, a, b, a / b }'
done
