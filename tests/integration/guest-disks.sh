#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Disks beside the root disk in a Debian guest: its own and somebody's files, seen by name and size, written, resized, locked
# while it runs, found again by a restarted vmmd; what cannot be is refused with the reason.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_debian
need qemu-io jq
start_bus
start_vmmd
import_debian debian
cd "$TMP"
vmctl create debian --name one --memory 256M || fail "create"

say "attach"
qemu-img create -q -f qcow2 mine.qcow2 64M
qemu-img create -q -f raw plain.raw 10M
qemu-io -f raw -c 'write -P 0x41 0 4k' plain.raw >/dev/null
vmctl disk attach one data --size 1G || fail "--size"
vmctl disk attach one mine --file mine.qcow2 || fail "--file qcow2"
vmctl disk attach one readonly --file plain.raw --readonly || fail "--file raw"
vmctl disk list one --format json | jq -e '[.[] | [.name, .kind, .format, .size, .readonly]] == [
    ["root", "root", "qcow2", .[0][3], false], ["data", "own", "qcow2", 1073741824, false],
    ["mine", "file", "qcow2", 67108864, false], ["readonly", "file", "raw", 10485760, true]]' >/dev/null 2>&1 ||
    [ "$(vmctl disk list one --format csv | cut -d, -f1-3,5 | tr '\n' ' ')" = \
      "name,kind,format,readonly root,root,qcow2,false data,own,qcow2,false mine,file,qcow2,false readonly,file,raw,true " ] ||
    fail "$(vmctl disk list one)"

say "refusals"
qemu-img create -q -f qcow2 -b plain.raw -F raw child.qcow2
qemu-img create -q -f vmdk x.vmdk 1M
: >empty
expect_error "needs its backing file" "" vmctl disk attach one x --file child.qcow2
expect_error "VMDK" "" vmctl disk attach one x --file x.vmdk
expect_error "empty" "" vmctl disk attach one x --file empty
expect_error "disk data already" "" vmctl disk attach one data --size 1G
expect_error "is disk mine of guest one" "" vmctl disk attach one x --file mine.qcow2
expect_error "whole sectors" "" vmctl disk attach one x --size 1000
expect_error "no disk" "" vmctl disk detach one nix
expect_error "not both" "" vmctl disk attach one x --size 1G --file plain.raw

vmctl start one --wait || fail "no login prompt: $(vmctl logs one | tail -n 5)"
expect_error "is running: stop it first" "" vmctl disk attach one x --size 1G
expect_error "is running: stop it first" "" vmctl disk resize one --size 8G
expect_error "is running: stop it first" "" vmctl disk detach one data
size_of() { inside one "blockdev --getsize64 /dev/disk/by-id/virtio-$1"; }
expect 1073741824 size_of data
expect 67108864 size_of mine
expect 10485760 size_of readonly
expect AAAA inside one 'head -c 4 /dev/disk/by-id/virtio-readonly; echo'
expect 1 inside one 'blockdev --getro /dev/disk/by-id/virtio-readonly'
expect 0 inside one 'blockdev --getro /dev/disk/by-id/virtio-mine'
inside one 'dd if=/dev/zero of=/dev/disk/by-id/virtio-readonly bs=4k count=1 conv=fsync 2>&1' >/dev/null && fail "a read-only disk was written"
inside one 'mkfs.ext4 -q /dev/disk/by-id/virtio-data && mount /dev/disk/by-id/virtio-data /mnt && echo written >/mnt/file && sync
head -c 8192 /dev/zero | tr "\0" B | dd of=/dev/disk/by-id/virtio-mine bs=4k conv=fsync 2>/dev/null' || fail "cannot write"
qemu-img info mine.qcow2 >/dev/null 2>&1 && fail "the file of a running guest is not locked"
restarted=$(field_of one pid)
stop_vmmd
start_vmmd
expect "$restarted" field_of one pid
expect written inside one 'cat /mnt/file'
vmctl stop one || fail "stop"
qemu-io -f qcow2 -c 'read -P 0x42 0 8k' mine.qcow2 | grep -q 'read 8192' || fail "what was written is not in the file"
for disk in "$STATE/guests/one/disk-data.qcow2" mine.qcow2; do qemu-img check -q "$disk" || fail "qemu-img check $disk"; done

say "resize"
root=$(vmctl disk list one --format csv | sed -n 's/^root,root,qcow2,\([0-9]*\),.*/\1/p')
vmctl disk resize one --size $((root + (1 << 30))) || fail "resize"
vmctl disk resize one data --size 2G || fail "resize data"
expect_error "--shrink" "" vmctl disk resize one mine --size 32M
vmctl disk resize one mine --size 32M --shrink || fail "shrink"
expect_error "attached read-only" "" vmctl disk resize one readonly --size 20M
check_overlay one
vmctl start one --wait || fail "no login prompt after a resize: $(vmctl logs one | tail -n 5)"
expect $((2 << 30)) size_of data
expect $((32 << 20)) size_of mine
expect $((root + (1 << 30))) inside one 'blockdev --getsize64 /dev/vda'
inside one 'e2fsck -fp /dev/disk/by-id/virtio-data >/dev/null; resize2fs /dev/disk/by-id/virtio-data >/dev/null 2>&1 && mount /dev/disk/by-id/virtio-data /mnt && [ $(df -k --output=size /mnt | tail -n 1) -gt 1900000 ] && cat /mnt/file' |
    grep -q written || fail "the file system does not grow"
inside one 'echo "/dev/disk/by-id/virtio-data /mnt ext4" >>/etc/fstab; dd if=/dev/urandom of=/mnt/more bs=1M count=20 2>/dev/null; sync' || fail "write"
vmctl stop one || fail "stop"

say "a template of it has the root disk only, of the new size"
vmctl template create golden --from one || fail "template create"
expect $((root + (1 << 30))) stat -c %s "$STATE/templates/golden/disk.raw"

say "detach"
expect "kept until guest one is deleted: $STATE/guests/one/disk-data.qcow2; \"vmctl disk attach one data\" attaches it again" vmctl disk detach one data
expect_error "is kept from a disk that was detached" "" vmctl disk attach one data --size 1G
vmctl disk attach one data || fail "attach again"
expect 2147483648 sh -c "'$VMCTL' disk list one --format csv | sed -n 's/^data,own,qcow2,\([0-9]*\),.*/\1/p'"
vmctl disk detach one data --delete || fail "--delete"
[ ! -e "$STATE/guests/one/disk-data.qcow2" ] || fail "its file is left"
expect "" vmctl disk detach one mine
mv plain.raw elsewhere.raw
expect_error "disk readonly: cannot open" "" vmctl start one
cp elsewhere.raw plain.raw
expect_error "is not the file that was attached" "" vmctl start one
vmctl delete one || fail "delete"
[ -e mine.qcow2 ] && [ -e plain.raw ] || fail "somebody's files are gone"
pass
