#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A full file system: writes fail with an I/O error for the caller, what was accepted can still be
# flushed, the overlay is clean, and it works again once there is room. Needs root for a small tmpfs.
set -u
BUILD=${BUILD:-build}
command -v qemu-img >/dev/null || { echo "skipped: no qemu-img"; exit 77; }
W=$(mktemp -d "${TMPDIR:-/tmp}/cowdisk-full.XXXXXX") || exit 1
mkdir "$W/small"
mount -t tmpfs -o size=8m none "$W/small" 2>/dev/null || { rm -rf "$W"; echo "skipped: cannot mount a tmpfs"; exit 77; }
trap 'umount "$W/small"; rm -rf "$W"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }
"${CC:-cc}" -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -O2 -I. -o "$W/tool" \
    tests/integration/cowdisk-tool.c "$BUILD/libcowdisk.a" -lxxhash -ldeflate -lz -lzstd || fail "the tool does not compile"
I=$W/small/overlay.qcow2
truncate -s 16M "$W/base.raw"
"$W/tool" create "$I" "$W/base.raw" $((16 << 20)) 16 || fail create
first=$("$W/tool" fill "$I" "$W/base.raw") || fail "fill"
[ "$first" -gt 60 ] && [ "$first" -lt 128 ] || fail "$first clusters in 8 MiB"
qemu-img check -q -f qcow2 "$I" || fail "check on the full disk"
second=$("$W/tool" fill "$I" "$W/base.raw") || fail "again on the full disk"
qemu-img check -q -f qcow2 "$I" || fail "second check on the full disk"
mount -o remount,size=40m "$W/small" || fail remount
third=$("$W/tool" fill "$I" "$W/base.raw") || fail "with room"
[ "$third" = 256 ] || fail "$third clusters with room"
qemu-img check -q -f qcow2 "$I" || fail "check with room"
echo "ok: $first clusters until full, $second again, $third with room; clean each time"
