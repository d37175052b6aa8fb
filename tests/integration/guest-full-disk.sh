#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The host's disk fills up while a guest writes: the guest gets an I/O error, the overlay stays clean, and with room again the guest
# writes again.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_debian
[ "$(id -u)" = 0 ] || skip "only root can mount a small file system"
mkdir "$STATE"
mount -t tmpfs -o size=1000M tmpfs "$STATE" 2>/dev/null || skip "cannot mount a tmpfs"
trap 'umount -l "$STATE" 2>/dev/null; stop_all' EXIT
start_bus
start_vmmd
import_debian debian
vmctl run debian --name full --memory 256M --wait || fail "no login prompt"
free=$(df --output=avail -B1M "$STATE" | tail -n 1)
[ "$free" -gt 40 ] && fallocate -l $((free - 40))M "$STATE/filler"
say "$((free > 40 ? 40 : free)) MiB left"
# Direct: with buffered writes the guest's kernel would take the error and let dd wait for ever.
inside full 'dd if=/dev/urandom of=/root/big bs=1M count=200 oflag=direct; echo dd-status-$?' >"$TMP/dd" || true
grep -q 'dd-status-1' "$TMP/dd" && grep -qi 'error\|no space' "$TMP/dd" || fail "the guest wrote 200 MiB into 40: $(cat "$TMP/dd")"
expect_state full running
vmctl stop -f full || fail "stop"
check_overlay full
rm -f "$STATE/filler"
vmctl start full --wait || fail "does not boot with room again: $(vmctl logs full | tail -n 5)"
inside full 'rm -f /root/big; dd if=/dev/urandom of=/root/small bs=1M count=20 conv=fsync && sync' >/dev/null || fail "cannot write with room again"
vmctl stop -f full
check_overlay full
pass
