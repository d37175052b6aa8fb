#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# cowdisk against qemu-img: images that QEMU made read as QEMU reads them; overlays that we wrote are
# clean and equal through QEMU, can be committed and converted, and QEMU's writes read back.
set -u
BUILD=${BUILD:-build}
command -v qemu-img >/dev/null || { echo "skipped: no qemu-img"; exit 77; }
W=$(mktemp -d "${TMPDIR:-/tmp}/cowdisk-qemu.XXXXXX") || exit 1
trap 'rm -rf "$W"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }
"${CC:-cc}" -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -O2 -I. -o "$W/tool" \
    tests/integration/cowdisk-tool.c "$BUILD/libcowdisk.a" -lxxhash -ldeflate -lz -lzstd || fail "the tool does not compile"
T=$W/tool

# ---- their images, our reader
truncate -s 20M "$W/plain.raw"
for at in 0 1 3 9 14; do
    { head -c 500000 /dev/urandom; yes "line $at" | head -c 600000; } |
        dd of="$W/plain.raw" bs=1M seek=$at conv=notrunc status=none
done
truncate -s $((20 * 1048576 + 512 * 5)) "$W/plain.raw"
n=0
for bits in 512 4k 64k 2M; do
    for options in "" "-o compat=0.10" "-c" "-c -o compat=0.10" "-o lazy_refcounts=on" "-o preallocation=metadata" "-o refcount_bits=1" "-S 64k"; do
        qemu-img convert -f raw -O qcow2 $options -o cluster_size=$bits "$W/plain.raw" "$W/x.qcow2" || fail "qemu-img convert $options $bits"
        if [ "$options" = "" ]; then # zero clusters, discarded clusters, then data again
            qemu-io -f qcow2 -c "write -z 64k 256k" -c "discard 1M 512k" -c "write -P 7 1100k 100k" -c "write -z -u 3M 128k" "$W/x.qcow2" >/dev/null || fail qemu-io
        fi
        qemu-img convert -f qcow2 -O raw "$W/x.qcow2" "$W/theirs.raw" || fail "qemu-img convert back"
        "$T" dump "$W/x.qcow2" qcow2 - "$W/ours.raw" || fail "reading $bits $options"
        cmp "$W/theirs.raw" "$W/ours.raw" || fail "$bits $options reads differently"
        n=$((n + 1))
    done
done
qemu-img snapshot -c first "$W/x.qcow2" && "$T" dump "$W/x.qcow2" qcow2 - "$W/ours.raw" && cmp "$W/theirs.raw" "$W/ours.raw" || fail "an image with a snapshot"
echo "ok: $n kinds of images read as QEMU reads them"

# ---- our overlays, their tools
n=0
for bits in 9 12 16 18 21; do
    for base in "$W/plain.raw" -; do
        size=$((22 << 20))
        rm -f "$W/model.raw"
        if [ "$base" = - ]; then truncate -s $size "$W/model.raw"; else cp "$base" "$W/model.raw"; truncate -s $size "$W/model.raw"; fi
        "$T" create "$W/o.qcow2" "$base" $size $bits || fail create
        for seed in 1 2 3; do
            "$T" random "$W/o.qcow2" "$base" "$W/model.raw" $seed 60 || fail "random $bits $seed"
            qemu-img check -q -f qcow2 "$W/o.qcow2" || fail "check: $bits, seed $seed"
            qemu-img compare -q -f qcow2 -F raw "$W/o.qcow2" "$W/model.raw" || fail "compare: $bits, seed $seed"
        done
        # QEMU writes to it, we read and write on.
        qemu-io -f qcow2 -c "write -P 9 777k 300k" -c "write -z 5M 1M" -c "discard 9M 2M" "$W/o.qcow2" >/dev/null || fail qemu-io
        qemu-img convert -f qcow2 -O raw "$W/o.qcow2" "$W/model.raw"
        "$T" dump "$W/o.qcow2" qcow2 "$base" "$W/ours.raw" || fail "reading after QEMU"
        cmp "$W/model.raw" "$W/ours.raw" || fail "QEMU's writes read differently ($bits)"
        "$T" random "$W/o.qcow2" "$base" "$W/model.raw" 4 60 || fail "random after QEMU"
        qemu-img check -q -f qcow2 "$W/o.qcow2" || fail "check after QEMU and us: $bits"
        qemu-img compare -q -f qcow2 -F raw "$W/o.qcow2" "$W/model.raw" || fail "compare after QEMU and us: $bits"
        n=$((n + 1))
    done
done

# ---- their images, our writer: compressed, preallocated, zero clusters of both kinds
for options in "-c" "-c -o cluster_size=4k" "-o preallocation=metadata" "-o cluster_size=512"; do
    qemu-img convert -f raw -O qcow2 $options "$W/plain.raw" "$W/x.qcow2"
    qemu-io -f qcow2 -c "write -z 2M 1M" -c "write -z -u 6M 512k" "$W/x.qcow2" >/dev/null
    qemu-img convert -f qcow2 -O raw "$W/x.qcow2" "$W/model.raw"
    for seed in 1 2 3; do
        "$T" random "$W/x.qcow2" - "$W/model.raw" $seed 80 || fail "random over $options"
        qemu-img check -q -f qcow2 "$W/x.qcow2" || fail "check: over $options, seed $seed"
        qemu-img compare -q -f qcow2 -F raw "$W/x.qcow2" "$W/model.raw" || fail "compare: over $options, seed $seed"
    done
done
echo "ok: wrote over images of QEMU's"

# ---- commit, rebase
cp "$W/plain.raw" "$W/template.raw"; cp "$W/plain.raw" "$W/model.raw"
"$T" create "$W/c.qcow2" "$W/template.raw" $((20 * 1048576 + 2560)) 16 && "$T" random "$W/c.qcow2" "$W/template.raw" "$W/model.raw" 5 200 || fail "commit: preparation"
qemu-img info "$W/c.qcow2" | grep -q "backing file format: raw" || fail "info"
qemu-img commit -q -f qcow2 "$W/c.qcow2" && cmp "$W/template.raw" "$W/model.raw" || fail "qemu-img commit"
cp "$W/plain.raw" "$W/other.raw"
qemu-img rebase -q -f qcow2 -F raw -b "$W/other.raw" "$W/c.qcow2" || fail "qemu-img rebase"
qemu-img check -q -f qcow2 "$W/c.qcow2" || fail "check after rebase"
echo "ok: $n overlays clean and equal through QEMU; commit, rebase"
