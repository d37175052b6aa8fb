#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A full file system under vmmd-image: convert leaves no file, commit and rebase leave an image that
# is clean and shows what it showed, and all of them work once there is room. Needs root for a tmpfs.
. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io
need_built vmmd-image
IMAGE=$BUILD/vmmd-image
small=$TMP/small
mkdir "$small"
mount -t tmpfs -o size=6m none "$small" 2>/dev/null || skip "cannot mount a tmpfs"
before_removal()
{
    umount "$small"
}
cd "$TMP"
head -c 7M /dev/urandom >base.raw
truncate -s 12M base.raw
qemu-img create -q -f qcow2 -b "$TMP/base.raw" -F raw over.qcow2
qemu-io -f qcow2 -c "write -P 1 7M 3M" -c "write -P 2 10M 2M" over.qcow2 >/dev/null
qemu-img convert -O raw over.qcow2 model.raw

no_room()
{
    "$IMAGE" "$@" >out 2>&1 && fail "$1 on a full file system"
    grep -q "No space left.*make room" out || fail "$1 says: $(cat out)"
}

# convert: 12 MiB, 7 of them noise, of data do not fit
for options in "" "--to=raw" "--compress"; do
    # shellcheck disable=SC2086
    no_room convert over.qcow2 --output="$small/new" $options
    [ -z "$(ls -A "$small")" ] || fail "convert left $(ls -A "$small")"
    qemu-img check -q -f qcow2 over.qcow2 && qemu-img compare -q over.qcow2 model.raw || fail "convert changed its source"
done

# commit into a backing file that cannot grow
mount -o remount,size=8m "$small"
cp --sparse=always base.raw "$small/base.raw"
cp over.qcow2 c.qcow2
qemu-img rebase -q -u -b "$small/base.raw" -F raw c.qcow2
no_room commit c.qcow2
qemu-img check -q -f qcow2 c.qcow2 || fail "check after a commit without room"
qemu-img compare -q -f qcow2 -F raw c.qcow2 model.raw || fail "a commit without room changed the overlay"
mount -o remount,size=60m "$small"
"$IMAGE" commit c.qcow2 || fail "commit with room"
qemu-img compare -q -f qcow2 -F raw c.qcow2 model.raw && cmp "$small/base.raw" model.raw || fail "commit with room is wrong"
rm "$small/base.raw"
mount -o remount,size=6m "$small"

# rebase and commit of an overlay that cannot grow itself
cp --sparse=always over.qcow2 "$small/r.qcow2"
no_room rebase "$small/r.qcow2" --backing=
qemu-img check -q -f qcow2 "$small/r.qcow2" || fail "check after a rebase without room"
qemu-img compare -q -f qcow2 -F raw "$small/r.qcow2" model.raw || fail "a rebase without room changed the overlay"
qemu-img info "$small/r.qcow2" | grep -q "backing file: $TMP/base.raw" || fail "a rebase without room changed the name"
mount -o remount,size=60m "$small"
"$IMAGE" rebase "$small/r.qcow2" --backing= || fail "rebase with room"
qemu-img check -q -f qcow2 "$small/r.qcow2" && qemu-img compare -q -f qcow2 -F raw "$small/r.qcow2" model.raw || fail "rebase with room is wrong"
pass
