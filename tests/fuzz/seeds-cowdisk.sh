#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# seeds-cowdisk.sh DIR - small images of every kind for fuzz-cowdisk to start from, made with qemu-img. Nothing is done if they are there.
set -eu
mkdir -p "$1"
cd "$1"
[ ! -e done ] || exit 0
rm -f ./*
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
seeds=$PWD
cd "$work"
truncate -s 96k base.raw
for at in 0 20 60; do { head -c 3000 /dev/urandom; yes "at $at" | head -c 4000; } | dd of=base.raw bs=1k seek=$at conv=notrunc status=none; done

# image NAME OPTIONS: written to in every way
image() {
    qemu-img create -q -f qcow2 -o "$2" "$1.qcow2" 128k
    qemu-io -f qcow2 -c "write -P 1 0 9k" -c "write -z 20k 8k" -c "discard 24k 2k" -c "write -P 7 50k 3k" -c "write -z -u 60k 8k" \
        -c "write -P 9 63k 600" "$1.qcow2" >/dev/null
}

for size in 512 1k 4k; do
    image v3-$size cluster_size=$size
    image v2-$size cluster_size=$size,compat=0.10
    qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=$size base.raw zlib-$size.qcow2
    qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=$size,compression_type=zstd base.raw zstd-$size.qcow2
done
qemu-img convert -q -c -f raw -O qcow2 -o compat=0.10,cluster_size=4k base.raw zlib-v2.qcow2
for bits in 1 2 4 8 32 64; do image refcount-$bits cluster_size=512,refcount_bits=$bits; done
image extended cluster_size=16k,extended_l2=on
qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=16k,extended_l2=on,compression_type=zstd base.raw extended-zstd.qcow2
image data cluster_size=4k,data_file=a.raw
image data-raw cluster_size=4k,data_file=b.raw,data_file_raw=on
image data-extended cluster_size=16k,extended_l2=on,data_file=c.raw
image lazy cluster_size=4k,lazy_refcounts=on
image dirty cluster_size=4k,lazy_refcounts=on
{ qemu-io -f qcow2 -c "write -P 3 70k 9k" -c flush -c "sigraise 9" dirty.qcow2 >/dev/null; } 2>/dev/null || true
for size in 512 4k; do
    image snapshots-$size cluster_size=$size
    qemu-img snapshot -c first snapshots-$size.qcow2
    qemu-io -f qcow2 -c "write -P 4 1k 30k" snapshots-$size.qcow2 >/dev/null
    qemu-img snapshot -c second snapshots-$size.qcow2
done
cp zlib-1k.qcow2 snapshots-zlib.qcow2; qemu-img snapshot -c first snapshots-zlib.qcow2
qemu-img create -q -f qcow2 -F raw -b base.raw -o cluster_size=512 over.qcow2 128k
qemu-io -f qcow2 -c "write -P 1 3k 9k" -c "write -z 20k 8k" -c "write -P 2 110k 3k" over.qcow2 >/dev/null
image bitmaps cluster_size=1k; qemu-img bitmap --add -g 4k bitmaps.qcow2 b0
qemu-io -f qcow2 -c "write -P 4 1k 30k" bitmaps.qcow2 >/dev/null
cp v3-1k.qcow2 corrupt.qcow2; printf '\x02' | dd of=corrupt.qcow2 bs=1 seek=79 conv=notrunc status=none
qemu-img create -q -f qcow2 -o cluster_size=512 empty.qcow2 0
cp ./*.qcow2 "$seeds"
touch "$seeds/done"
