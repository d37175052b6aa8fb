#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Every kind of qcow2 image that qemu-img makes reads byte for byte as `qemu-img convert -O raw` reads
# it, whole and in random pieces; what is refused is refused with the reason.
set -u
BUILD=${BUILD:-build}
command -v qemu-img >/dev/null || { echo "skipped: no qemu-img"; exit 77; }
W=$(mktemp -d "${TMPDIR:-/tmp}/cowdisk-variants.XXXXXX") || exit 1
trap 'rm -rf "$W"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }
"${CC:-cc}" -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -O2 -I. -o "$W/tool" \
    tests/integration/cowdisk-tool.c "$BUILD/libcowdisk.a" -lxxhash -ldeflate -lz -lzstd || fail "the tool does not compile"
T=$W/tool
cd "$W" || exit 1
n=0

# equal IMAGE [SNAPSHOT]: as qemu-img reads it
equal() {
    local options=()
    [ $# -lt 2 ] || options=(-l "snapshot.name=$2")
    qemu-img convert -U -f qcow2 -O raw "${options[@]}" "$1" theirs.raw || fail "qemu-img convert $1 ($what)"
    [ $# -lt 2 ] || truncate -s "$(stat -c %s plain.raw)" theirs.raw # theirs is as long as the active state
    "$T" equal "$1" theirs.raw "${2:--}" || fail "$1 reads differently ($what)"
    n=$((n + 1))
}

# refused IMAGE WORDS: cannot be opened, and the error holds the words
refused() {
    local said
    said=$("$T" equal "$1" theirs.raw - 2>&1) && fail "$1 opens ($what)"
    case $said in *"$2"*) ;; *) fail "$1: \"$said\" lacks \"$2\"" ;; esac
    n=$((n + 1))
}

# touch_image IMAGE: data, zero clusters of both kinds, discarded ones, data over them
touch_image() {
    qemu-io -f qcow2 -c "write -P 1 0 100k" -c "write -z 64k 256k" -c "discard 1M 512k" -c "write -P 7 1100k 100k" \
        -c "write -z -u 3M 128k" -c "write -P 9 3080k 3k" -c "write -P 11 4095k 5k" -c "discard 4M 64k" \
        -c "write -P 3 4999k 600" "$1" >/dev/null || fail "qemu-io $1 ($what)"
}

truncate -s $((5 * 1048576 + 512 * 5)) plain.raw
for at in 0 2 3 4; do
    { head -c 300000 /dev/urandom; yes "line $at" | head -c 400000; } | dd of=plain.raw bs=1M seek=$at conv=notrunc status=none
done

# ---- one file
for size in 512 4k 16k 64k 2M; do
    for options in "" "compat=0.10" "lazy_refcounts=on" "preallocation=metadata" "extended_l2=on" "compression_type=zstd" \
        "extended_l2=on,compression_type=zstd"; do
        case $size,$options in 512,extended*|4k,extended*) continue ;; esac
        what="$size $options"
        for compress in "" -c; do
            case $compress,$options in -c,preallocation*) continue ;; esac
            qemu-img convert -f raw -O qcow2 $compress -o "cluster_size=$size${options:+,$options}" plain.raw x.qcow2 || fail "convert $what"
            equal x.qcow2
            touch_image x.qcow2
            equal x.qcow2
        done
    done
done
for bits in 1 2 4 8 16 32 64; do
    what="refcounts of $bits bits"
    qemu-img convert -f raw -O qcow2 -o "refcount_bits=$bits,cluster_size=4k" plain.raw x.qcow2 || fail "$what"
    touch_image x.qcow2
    equal x.qcow2
done

# ---- external data file. QEMU takes its name from where it is started, we from where the image is.
mkdir ext
for options in "" "data_file_raw=on" "extended_l2=on" "cluster_size=4k" "preallocation=metadata"; do
    what="external data $options"
    rm -f x.qcow2 data.raw
    qemu-img create -q -f qcow2 -o "data_file=data.raw${options:+,$options}" x.qcow2 6M || fail "$what"
    equal x.qcow2
    qemu-io -f qcow2 -c "write -P 5 0 200k" -c "write -P 6 5M 1M" x.qcow2 >/dev/null || fail "$what"
    equal x.qcow2
    touch_image x.qcow2
    equal x.qcow2
done
mv x.qcow2 data.raw ext
what="external data elsewhere"
mv theirs.raw want.raw
"$T" equal ext/x.qcow2 want.raw - || fail "$what"
qemu-img create -q -f qcow2 -F qcow2 -b ext/x.qcow2 x.qcow2 8M
(cd ext && qemu-img convert -f qcow2 -O raw ../x.qcow2 ../theirs.raw) || fail "$what"
"$T" equal x.qcow2 theirs.raw - || fail "$what"
mv ext/data.raw ext/elsewhere.raw
what="no data file"
refused ext/x.qcow2 "data.raw: No such file"
what="truncated data file"
cp ext/elsewhere.raw ext/data.raw
truncate -s 64k ext/data.raw
"$T" equal ext/x.qcow2 want.raw - 2>&1 | grep -q "read: Input/output error" || fail "$what reads without an error"
what="data in the image itself"
rm ext/data.raw; ln ext/x.qcow2 ext/data.raw
refused ext/x.qcow2 "lies under itself"

# ---- killed writers: the dirty bit stays
for options in "lazy_refcounts=on" "lazy_refcounts=on,cluster_size=4k"; do
    what="dirty $options"
    qemu-img create -q -f qcow2 -o "$options" x.qcow2 6M
    qemu-io -f qcow2 -c "write -P 1 0 1M" -c "write -P 2 3M 700k" -c flush -c "sigraise 9" x.qcow2 >/dev/null 2>&1
    qemu-img info -U x.qcow2 --output=json | jq -e '."dirty-flag"' >/dev/null || fail "$what: not dirty"
    equal x.qcow2
    "$T" random x.qcow2 chain theirs.raw 1 1 2>&1 | grep -q "out of date" || fail "$what: written to"
done

# ---- snapshots
for options in "cluster_size=4k" "cluster_size=64k" "compat=0.10" "extended_l2=on" "refcount_bits=8" "compression_type=zstd"; do
    what="snapshots, $options"
    qemu-img convert -f raw -O qcow2 -c -o "$options" plain.raw x.qcow2 || fail "$what"
    qemu-img snapshot -c first x.qcow2 && touch_image x.qcow2 && qemu-img snapshot -c second x.qcow2 || fail "$what"
    qemu-io -f qcow2 -c "write -P 99 2M 1M" x.qcow2 >/dev/null
    qemu-img resize -q x.qcow2 7M 2>/dev/null
    equal x.qcow2
    equal x.qcow2 first
    equal x.qcow2 second
    "$T" equal x.qcow2 theirs.raw 2 || fail "$what: by id"
    [ "$("$T" snapshots x.qcow2 | tr '\n' ' ')" = "1 first 5245440 2 second 5245440 " ] || fail "$what: list: $("$T" snapshots x.qcow2)"
done
said=$("$T" equal x.qcow2 theirs.raw third 2>&1) && fail "a snapshot that is not there opens"
case $said in *'no snapshot "third"'*) ;; *) fail "no such snapshot: $said" ;; esac

# ---- chains
# chain DEPTH TOP: images of several kinds over plain.raw, each with something of its own
chain() {
    local below=plain.raw format=raw i
    local kinds=("cluster_size=64k" "cluster_size=4k" "compat=0.10" "cluster_size=2M" "extended_l2=on" "cluster_size=512" "lazy_refcounts=on")
    for ((i = 1; i <= $1; i++)); do
        qemu-img create -q -f qcow2 -F $format -b "$below" -o "${kinds[i % ${#kinds[@]}]}" "c$i.qcow2" || fail "chain"
        qemu-io -f qcow2 -c "write -P $i $((i * 97 % 5000))k 30k" "c$i.qcow2" >/dev/null || fail "chain: qemu-io"
        [ $((i % 3)) != 0 ] || qemu-io -f qcow2 -c "write -z $((i * 131 % 5000))k 90k" "c$i.qcow2" >/dev/null
        below=c$i.qcow2 format=qcow2
    done
}
chain 50
for depth in 1 2 8 50; do
    what="a chain of $depth"
    equal c$depth.qcow2
done
what="images that grew"
qemu-img create -q -f qcow2 -F qcow2 -b c8.qcow2 g.qcow2 9M && qemu-io -f qcow2 -c "write -P 77 7M 300k" -c "write -P 78 5M 64k" g.qcow2 >/dev/null || fail "$what"
equal g.qcow2
qemu-img create -q -f qcow2 -F qcow2 -b g.qcow2 s.qcow2 3M
qemu-img create -q -f qcow2 -F qcow2 -b s.qcow2 t.qcow2 8M
what="a short one in the middle"
equal t.qcow2
mkdir sub sub/deep
what="names relative to the image that names them"
qemu-img create -q -f qcow2 -F raw -b ../plain.raw sub/a.qcow2 && qemu-img create -q -f qcow2 -F qcow2 -b ../a.qcow2 sub/deep/b.qcow2 || fail "$what"
equal sub/deep/b.qcow2
what="file:"
qemu-img rebase -u -f qcow2 -F raw -b "file:$W/plain.raw" sub/a.qcow2
equal sub/deep/b.qcow2
what="unknown format of the backing file"
cp c2.qcow2 p.qcow2
qemu-img rebase -u -f qcow2 -b c1.qcow2 p.qcow2 2>/dev/null || qemu-img rebase -u -f qcow2 -F "" -b c1.qcow2 p.qcow2 2>/dev/null
equal p.qcow2
what="a backing file of another format"
qemu-img rebase -u -f qcow2 -F vmdk -b c1.qcow2 p.qcow2
refused p.qcow2 "only raw and qcow2"
for name in 'json:{"driver":"file","filename":"plain.raw"}' nbd://localhost/x ssh:x; do
    what="backing name $name"
    qemu-img rebase -u -f qcow2 -F raw -b "$name" p.qcow2
    refused p.qcow2 "not a plain file"
done
what="no backing file"
qemu-img rebase -u -f qcow2 -F raw -b nowhere.raw p.qcow2
refused p.qcow2 "nowhere.raw: No such file"
what="a loop"
qemu-img create -q -f qcow2 -F qcow2 -u -b l2.qcow2 l1.qcow2 1M; qemu-img create -q -f qcow2 -F qcow2 -u -b l3.qcow2 l2.qcow2 1M
qemu-img create -q -f qcow2 -F qcow2 -u -b l1.qcow2 l3.qcow2 1M
refused l1.qcow2 "lies under itself"
what="too deep"
qemu-img create -q -f qcow2 d0.qcow2 1M
for ((i = 1; i <= 200; i++)); do
    qemu-img create -q -f qcow2 -F qcow2 -u -b d$((i - 1)).qcow2 -o cluster_size=512 d$i.qcow2 1M
done
equal d199.qcow2
refused d200.qcow2 "more than 200 images"

# ---- refused
for kind in 1:AES 2:LUKS; do
    what=${kind#*:}
    cp c1.qcow2 e.qcow2; printf "\\0\\0\\0\\${kind%:*}" | dd of=e.qcow2 bs=1 seek=32 conv=notrunc status=none
    refused e.qcow2 "encrypted ($what)"
done
what="version 1"
cp plain.raw e.qcow2; printf 'QFI\xfb\0\0\0\1' | dd of=e.qcow2 bs=1 conv=notrunc status=none
refused e.qcow2 "version 1"
what="unknown feature"
cp c1.qcow2 e.qcow2; printf '\x80' | dd of=e.qcow2 bs=1 seek=72 conv=notrunc status=none
refused e.qcow2 "unknown here"
what="corrupt bit"
qemu-img create -q -f qcow2 e.qcow2 1M; printf '\x02' | dd of=e.qcow2 bs=1 seek=79 conv=notrunc status=none
equal e.qcow2
"$T" random e.qcow2 chain theirs.raw 1 1 2>&1 | grep -q "marked corrupt" || fail "a corrupt image is written to"
echo "ok: $n images read as QEMU reads them, or are refused with the reason"
