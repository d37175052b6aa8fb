#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The init of an initramfs for a kernel that has its drivers as modules: loads them and goes on with the init of the disk.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir /disk
mount -t devtmpfs none /dev
while read -r module; do insmod "/modules/$module"; done </modules/list
mount -t ext4 /dev/vda /disk
umount /dev
exec switch_root /disk /sbin/init
