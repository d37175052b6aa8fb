#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# demo.sh - what vmmd is for, on this machine, in a few minutes: a template from a Debian image, guests cloned from it, their
# identical pages merged, and each guest's disk its own. `make demo` runs it as root. DEMO_GUESTS (4), DEMO_MEMORY (256M).
set -eu
cd "$(dirname "$0")/.."
export BUILD=${BUILD:-build}
guests=${DEMO_GUESTS:-4} memory=${DEMO_MEMORY:-256M}
export VMCTL=$BUILD/vmctl
work=$(mktemp -d)
bus_pid= vmmd_pid=
began=$SECONDS

step() { printf '%s[%3d s] %s%s\n' "$([ -t 1 ] && printf '\033[1m')" $((SECONDS - began)) "$1" "$([ -t 1 ] && printf '\033[0m')"; }
die() { echo "demo: $1" >&2; [ -s "$work/vmmd.log" ] && tail -n 20 "$work/vmmd.log" >&2; exit 1; }

cleanup() {
    status=$?
    trap - EXIT
    if [ -n "$vmmd_pid" ]; then
        for name in $names; do "$VMCTL" stop -f "$name" >/dev/null 2>&1; done
        kill "$vmmd_pid" 2>/dev/null && wait "$vmmd_pid" 2>/dev/null
    fi
    [ -n "$bus_pid" ] && kill "$bus_pid" 2>/dev/null
    rm -rf "$work"
    exit $status
}
names=
trap cleanup EXIT
trap 'exit 130' INT TERM

step "building"
make --no-print-directory -s -j"$(nproc)" all >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }

step "a Debian root file system and kernel (cached in $BUILD/cache)"
tests/rootfs.sh "$BUILD/cache/bookworm"

step "a private message bus and vmmd --session"
cat >"$work/bus.conf" <<END
<busconfig><type>session</type><listen>unix:path=$work/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>
END
mkfifo "$work/address"
dbus-daemon --config-file="$work/bus.conf" --nofork --nosyslog --print-address >"$work/address" 2>"$work/bus.log" &
bus_pid=$!
read -r VMMD_BUS_ADDRESS <"$work/address"
export VMMD_BUS_ADDRESS
"$BUILD/vmmd" --session --state-dir "$work/state" --runtime-dir "$work/run" --bus-address "$VMMD_BUS_ADDRESS" 2>"$work/vmmd.log" &
vmmd_pid=$!
tail -n +1 -f --pid=$vmmd_pid "$work/vmmd.log" 2>/dev/null | grep -q -m 1 'serving org.vmmd1' || die "vmmd does not start"

step "importing the image as template debian"
"$VMCTL" template import debian --disk "$BUILD/cache/bookworm/disk.raw"
"$VMCTL" template list

step "starting $guests guests of $memory to their login prompt"
if [ "$guests" = 1 ]; then names=lab-1; else names=$(seq -f 'lab-%g' -s ' ' "$guests"); fi
"$VMCTL" run debian --name lab --count "$guests" --memory "$memory" --wait
"$VMCTL" list

step "letting the scanner settle"
"$VMCTL" memory --settle --timeout 120 >/dev/null

step "a different string inside each guest"
for name in $names; do
    tests/guest-shell.py "$name" "echo secret-of-$name-$RANDOM$RANDOM >/root/secret; sync; cat /root/secret" >"$work/$name.secret"
    echo "  $name wrote $(cat "$work/$name.secret")"
done
template=$("$VMCTL" template info debian --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["path"])')
for name in $names; do
    secret=$(cat "$work/$name.secret")
    grep -qF "$secret" "$work/state/guests/$name/overlay.qcow2" || die "$name: its own overlay lacks its string"
    for other in $names; do
        [ "$other" = "$name" ] && continue
        ! grep -qF "$secret" "$work/state/guests/$other/overlay.qcow2" || die "the string of $name is on the disk of $other"
        [ "$(tests/guest-shell.py "$other" 'cat /root/secret')" != "$secret" ] || die "$other reads the string of $name"
    done
    ! grep -qF "$secret" "$template/disk.raw" || die "the string of $name is in the template"
done
echo "  each string is in its own guest's overlay; in no other, and not in the template"

step "the memory table"
"$VMCTL" memory --settle --timeout 120

step "stopping everything"
"$VMCTL" stop $names
"$VMCTL" list
"$VMCTL" delete $names
"$VMCTL" template delete debian
names=
step "done"
