#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bench-engines.sh KERNEL|KERNELDIR [OPTION...] - the table of bench-engines.py for this host, with guests of KERNEL; or, with KERNELDIR
# (tests/lab/kernel.sh), for the emulated host of the lab. Options go to bench-engines.py.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-build}
kernel=$1
shift
work=$(mktemp -d "${TMPDIR:-/tmp}/vmmd-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ -d "$kernel" ]; then
    LAB_ONLY=bench LAB_MEMORY=2048 "$root/tests/lab/lab.sh" "$kernel" >"$work/log" || { tail -n 30 "$work/log" >&2; exit 1; }
    "$root/tests/bench/bench-engines.py" --lab "$work/log" "$@"
    exit
fi
mkdir -p "$work/initrd/dev"
cp "$build/nano-native" "$work/initrd/init"
(cd "$work/initrd" && find . | cpio -o -H newc --quiet) >"$work/initrd.cpio"
"$root/tests/bench/bench-engines.py" --build "$build" --kernel "$kernel" --initrd "$work/initrd.cpio" "$@"
