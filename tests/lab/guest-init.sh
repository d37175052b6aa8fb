#!/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The init of the guest in the lab: its devices, what it is, and a shell on the serial line for whoever asks.
/bin/busybox --install -s /bin
export PATH=/bin PS1=
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
while read -r module; do insmod "/modules/$module"; done </modules/list
stty -echo -F /dev/ttyS0
echo "guest: $(nproc) CPUs, $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
printf 'lab login: '
exec setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
