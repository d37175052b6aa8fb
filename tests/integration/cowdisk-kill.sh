#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# kill -9 of a process that writes to an overlay, at random instants, again and again on the same
# image: `qemu-img check` finds it clean each time (no leak either), no flushed byte is lost.
# 500 times; KILL_ROUNDS=5000 (each of two images) for a long run.
set -u
BUILD=${BUILD:-build}
command -v qemu-img >/dev/null || { echo "skipped: no qemu-img"; exit 77; }
W=$(mktemp -d "${TMPDIR:-/tmp}/cowdisk-kill.XXXXXX") || exit 1
trap 'rm -rf "$W"' EXIT
"${CC:-cc}" -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -O2 -I. -o "$W/tool" \
    tests/integration/cowdisk-tool.c "$BUILD/libcowdisk.a" -lxxhash -ldeflate -lz -lzstd || exit 1
"$W/tool" base "$W/base.raw" $((64 << 20)) &&
    "$W/tool" create "$W/overlay.qcow2" "$W/base.raw" $((64 << 20)) 16 &&
    "$W/tool" kill "$W/overlay.qcow2" "$W/base.raw" "${KILL_SEED:-1}" "${KILL_ROUNDS:-300}" &&
    "$W/tool" create "$W/small.qcow2" "$W/base.raw" $((64 << 20)) 12 &&
    "$W/tool" kill "$W/small.qcow2" "$W/base.raw" "${KILL_SEED:-2}" "${KILL_ROUNDS:-200}"
