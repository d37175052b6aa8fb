#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images of QEMU's that are unlike our own are written to: with internal snapshots, refcounts of any
# width, version 2, bitmaps. Clean and equal through QEMU at every stop, the snapshots as they were;
# also after kill -9 at random instants. KILL_ROUNDS=1000 for a long run.
set -u
BUILD=${BUILD:-build}
command -v qemu-img >/dev/null || { echo "skipped: no qemu-img"; exit 77; }
W=$(mktemp -d "${TMPDIR:-/tmp}/cowdisk-writes.XXXXXX") || exit 1
trap 'rm -rf "$W"' EXIT
fail() { echo "FAIL: $* ($what)" >&2; exit 1; }
what=tool
"${CC:-cc}" -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -O2 -I. -o "$W/tool" \
    tests/integration/cowdisk-tool.c "$BUILD/libcowdisk.a" -lxxhash -ldeflate -lz -lzstd || fail "does not compile"
T=$W/tool
cd "$W" || exit 1
n=0

clean() {
    qemu-img check -q -f qcow2 "$1" >check.log 2>&1 || { head -n 20 check.log >&2; fail "qemu-img check: $1"; }
}

truncate -s $((5 * 1048576 + 512 * 5)) base.raw
for at in 0 2 3 4; do
    { head -c 300000 /dev/urandom; yes "line $at" | head -c 400000; } | dd of=base.raw bs=1M seek=$at conv=notrunc status=none
done

# change IMAGE: random changes in three rounds, with a snapshot of ours to compare and one of QEMU's after each
change() {
    local seed snapshot
    qemu-img convert -f qcow2 -O raw "$1" model.raw || fail convert
    for seed in 1 2 3; do
        "$T" random "$1" chain model.raw $seed 60 || fail "random $seed"
        clean "$1"
        qemu-img compare -q -f qcow2 -F raw "$1" model.raw || fail "compare $seed"
        for snapshot in snap-*; do
            [ ! -e "$snapshot" ] || "$T" equal "$1" "$snapshot" "${snapshot#snap-}" || fail "snapshot $snapshot changed"
        done
        [ $seed = 3 ] && break
        qemu-io -f qcow2 -c "write -P $seed 777k 300k" -c "discard 1M 256k" "$1" >/dev/null || fail qemu-io
        qemu-img convert -f qcow2 -O raw "$1" model.raw || fail convert
        [ $2 = - ] || { qemu-img snapshot -c "s$seed" "$1" && cp model.raw "snap-s$seed"; } || fail "qemu-img snapshot"
    done
    rm -f snap-*
    n=$((n + 1))
}

for bits in 1 2 4 8 16 32 64; do
    for size in 512 4k 64k; do
        what="refcounts of $bits bits, clusters of $size"
        qemu-img convert -f raw -O qcow2 -o "refcount_bits=$bits,cluster_size=$size" base.raw x.qcow2 || fail convert
        change x.qcow2 $([ $bits = 1 ] && echo - || echo snapshots)
    done
done
for options in "compat=0.10" "compat=0.10,cluster_size=4k" "compat=0.10,cluster_size=2M" "lazy_refcounts=on" "compression_type=zstd"; do
    what="$options"
    qemu-img convert -f raw -O qcow2 -o "$options" base.raw x.qcow2 || fail convert
    change x.qcow2 snapshots
    what="$options, compressed"
    qemu-img convert -c -f raw -O qcow2 -o "$options" base.raw x.qcow2 || fail convert
    qemu-img snapshot -c first x.qcow2 && cp base.raw snap-first || fail snapshot
    change x.qcow2 snapshots
    what="$options, over a backing file"
    qemu-img create -q -f qcow2 -F raw -b base.raw -o "$options" x.qcow2 7M || fail create
    change x.qcow2 snapshots
done

# ---- bitmaps: given up by the first change, clean at once; the file has no stale ones afterwards
for kind in small large none; do
    what="bitmaps, $kind"
    qemu-img create -q -f qcow2 -o cluster_size=4k x.qcow2 6M
    [ $kind = none ] || qemu-img bitmap --add -g 512 x.qcow2 b0 || fail bitmap
    [ $kind != large ] || { qemu-img bitmap --add x.qcow2 b1 && qemu-img bitmap --add x.qcow2 b2; } || fail bitmap
    qemu-io -f qcow2 -c "write -P 1 0 3M" x.qcow2 >/dev/null
    clean x.qcow2
    change x.qcow2 -
    qemu-img info x.qcow2 --output=json | jq -e '."format-specific".data.bitmaps == null' >/dev/null || fail "bitmaps are left"
done
what="a bitmap, killed after one write in place"
qemu-img create -q -f qcow2 -o preallocation=full x.qcow2 1M && qemu-img bitmap --add x.qcow2 b0 || fail bitmap
"$T" die x.qcow2 || fail die
clean x.qcow2
qemu-img info x.qcow2 --output=json | jq -e '."format-specific".data.bitmaps == null' >/dev/null || fail "a stale bitmap"

# ---- kill -9
"$T" base kill.raw $((16 << 20))
for options in "cluster_size=64k" "cluster_size=4k,refcount_bits=64" "compat=0.10" "cluster_size=4k,refcount_bits=2"; do
    what="kill, $options"
    qemu-img convert -f raw -O qcow2 -o "$options" kill.raw x.qcow2 && qemu-img snapshot -c first x.qcow2 || fail convert
    "$T" kill x.qcow2 - 7 "${KILL_ROUNDS:-25}" || fail kill
    "$T" equal x.qcow2 kill.raw first || fail "the snapshot changed"
    n=$((n + 1))
done

# ---- refused
for options in "extended_l2=on" "data_file=d.raw"; do
    what="$options"
    qemu-img create -q -f qcow2 -o "$options" y.qcow2 6M
    "$T" random y.qcow2 chain model.raw 1 1 2>&1 | grep -q "can only be read: it" || fail "is written to"
done
echo "ok: $n kinds of images written to, clean each time, their snapshots unchanged"
