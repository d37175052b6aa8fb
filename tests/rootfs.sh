#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# rootfs.sh DIR [SUITE [KERNEL_PACKAGE]] - a raw disk image with an ordinary Debian root file system and kernel, made once:
# DIR/disk.raw, and beside it the kernel and initrd that lie in the image, DIR/vmlinuz and DIR/initrd. Root has no password.
# Packages come from the sources that this machine's apt uses. Needs root and mmdebstrap.
set -eu
dir=$1 suite=${2:-bookworm} kernel=${3:-linux-image-cloud-amd64}
[ -f "$dir/done" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "rootfs.sh: only root can make a Debian root file system" >&2; exit 1; }
PATH=$PATH:/usr/sbin:/sbin

mkdir -p "$dir"
work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

sources() { # apt's own sources, in whichever of the two formats, for the wanted suite
    host=$(. /etc/os-release; echo "$VERSION_CODENAME")
    if [ -f /etc/apt/sources.list.d/debian.sources ]; then
        cat /etc/apt/sources.list.d/debian.sources
    else
        grep -h '^deb ' /etc/apt/sources.list
    fi | sed "s/\\b$host\\b/$suite/g"
}

packages=systemd,systemd-sysv,udev,dbus,login,util-linux,e2fsprogs,kmod,procps,initramfs-tools,zstd,$kernel
sources | mmdebstrap --quiet --variant=minbase --include="$packages" \
    --customize-hook='passwd --root "$1" -d root >/dev/null' \
    --customize-hook='echo debian >"$1/etc/hostname"; : >"$1/etc/machine-id"' \
    --customize-hook='echo "/dev/vda / ext4 defaults 0 1" >"$1/etc/fstab"' \
    --customize-hook='rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*' \
    "$suite" "$work/root.tar" - 2>"$work/log" || { tail -n 20 "$work/log" >&2; exit 1; }

mkdir "$work/root"
tar -C "$work/root" --exclude='./dev/*' -xf "$work/root.tar"
truncate -s 1536M "$work/disk.raw"
mke2fs -q -F -t ext4 -d "$work/root" "$work/disk.raw"
cp "$work"/root/boot/vmlinuz-* "$work/vmlinuz"
cp "$work"/root/boot/initrd.img-* "$work/initrd"
mv "$work/disk.raw" "$work/vmlinuz" "$work/initrd" "$dir/"
: >"$dir/done"
