#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bench-tcg.sh KERNEL INITRD RAW_DISK [ROUNDS] - the software engine beside qemu-system-x86_64 -accel tcg: the same kernel, initrd
# and disk to the login prompt, in turn in one run. vmmd runs with its page scanner at the default budget, and without it. Prints
# wall and user CPU seconds and the ratios of the medians to QEMU's (below 1: vmmd is faster).
set -eu
kernel=$1 initrd=$2 disk=$3 rounds=${4:-5}
build=${BUILD:-build}
command -v qemu-system-x86_64 >/dev/null || { echo "bench-tcg: skipped: qemu-system-x86_64 is missing" >&2; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmdline="root=/dev/vda rw console=ttyS0"

vmmd() { # SCAN_BUDGET -> "wall user"
    "$build/guest-run" -q -m 256 -b "$1" "$kernel" "$initrd" "$disk" "$cmdline" </dev/null 2>&1 >/dev/null |
        awk '$1 == "wall" { print $2, $4 }'
}

qemu() {
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

median() { awk -v c="$2" '{ print $c }' "$work/$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

for round in $(seq "$rounds"); do
    vmmd 10 >>"$work/scanning"
    qemu >>"$work/qemu"
    vmmd 0 >>"$work/plain"
    [ ! -t 2 ] || printf '\rround %d of %d' "$round" "$rounds" >&2
done
[ ! -t 2 ] || printf '\r\033[K' >&2
printf '%-34s %8s %8s %8s %8s\n' "to the login prompt, median of $rounds" wall ratio user ratio
for who in qemu plain scanning; do
    case $who in
    qemu) name="qemu-system-x86_64 -accel tcg" ;;
    plain) name="vmmd, not scanning" ;;
    scanning) name="vmmd, scan budget 10 %" ;;
    esac
    awk -v n="$name" -v w="$(median $who 1)" -v u="$(median $who 2)" -v qw="$(median qemu 1)" -v qu="$(median qemu 2)" \
        'BEGIN { printf "%-34s %6.2f s %8.2f %6.2f s %8.2f\n", n, w, w / qw, u, u / qu }'
done
