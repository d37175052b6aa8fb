#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# vmmd as its callers see it, on a real bus, with guest processes that run no guest: what works,
# what bad callers and bad input get, what one daemon does beside another, and that guests survive
# kill -9 of the daemon.
. "$(dirname "$0")/functions.sh"

need gdbus dbus-daemon dbus-send qemu-img
use_fakes
start_bus
start_vmmd
ERROR=org.vmmd1.Error
IMAGE=$TMP/image
: >"$TMP/empty"
head -c 300000 /dev/urandom >"$IMAGE"

# ---- introspection and the standard interfaces ----
bus_call /org/vmmd1 org.freedesktop.DBus.Introspectable.Introspect >"$TMP/xml"
for name in org.vmmd1.Manager org.freedesktop.DBus.ObjectManager org.freedesktop.DBus.Properties \
    org.freedesktop.DBus.Peer; do
    grep -q "interface name=\"$name\"" "$TMP/xml" || fail "introspection lacks $name"
done
expect '()' bus_call /org/vmmd1 org.freedesktop.DBus.Peer.Ping
expect '(@a{oa{sa{sv}}} {},)' bus_call /org/vmmd1 org.freedesktop.DBus.ObjectManager.GetManagedObjects
expect "'$STATE'" property /org/vmmd1 org.vmmd1.Manager StateDirectory
expect "'soft'" property /org/vmmd1 org.vmmd1.Manager Engine

# ---- hostile calls ----
DBUS=org.freedesktop.DBus
# gdbus looks up the types and converts; dbus-send sends what it is told.
raw()
{
    dbus-send --bus="$VMMD_BUS_ADDRESS" --print-reply --dest=org.vmmd1 "$@"
}
expect_error $DBUS.Error.InvalidArgs 'takes arguments of type (s)' \
    raw /org/vmmd1 org.vmmd1.Manager.GetGuest uint32:7
expect_error $DBUS.Error.InvalidArgs 'takes arguments of type (s)' \
    raw /org/vmmd1 org.vmmd1.Manager.GetGuest
expect_error $DBUS.Error.InvalidArgs '(ssa{sv}), got (s)' \
    raw /org/vmmd1 org.vmmd1.Manager.CreateGuests string:deb
expect_error $DBUS.Error.InvalidArgs '(ssa{sv}), got (ssa{ss})' \
    raw /org/vmmd1 org.vmmd1.Manager.CreateGuests string:deb string:x dict:string:string:memory,1G
expect_error $DBUS.Error.InvalidArgs '' raw /org/vmmd1 $DBUS.Properties.Get string:org.vmmd1.Manager
expect_error $DBUS.Error.InvalidArgs '' raw /org/vmmd1 $DBUS.Introspectable.Introspect int32:1
expect_error $DBUS.Error.InvalidArgs '' raw /org/vmmd1 $DBUS.ObjectManager.GetManagedObjects int32:1
expect_error $DBUS.Error.UnknownMethod '' manager NoSuchMethod
expect_error $DBUS.Error.UnknownMethod '' bus_call /org/vmmd1 org.vmmd1.Nothing.Start
expect_error $DBUS.Error.Unknown '' bus_call /org/vmmd1/guest/nobody org.vmmd1.Guest.Start
expect_error $DBUS.Error.UnknownProperty Nothing \
    bus_call /org/vmmd1 $DBUS.Properties.Get org.vmmd1.Manager Nothing
expect_error $DBUS.Error.UnknownInterface org.vmmd1.Nothing \
    bus_call /org/vmmd1 $DBUS.Properties.GetAll org.vmmd1.Nothing
expect_error $DBUS.Error.PropertyReadOnly Version \
    bus_call /org/vmmd1 $DBUS.Properties.Set org.vmmd1.Manager Version '<"2">'
expect_error $DBUS.Error.InvalidArgs 'wrong type' \
    bus_call /org/vmmd1 $DBUS.Properties.Set org.vmmd1.Manager ScanBudget '<"ten">'
expect_error $ERROR.InvalidArgument 'not 0' \
    bus_call /org/vmmd1 $DBUS.Properties.Set org.vmmd1.Manager ScanBudget '<uint32 0>'
expect '()' bus_call /org/vmmd1 $DBUS.Properties.Set org.vmmd1.Manager ScanBudget '<uint32 25>'
expect 'uint32 25' property /org/vmmd1 org.vmmd1.Manager ScanBudget

# ---- templates ----
expect_error $ERROR.InvalidName 'must not be empty' manager ImportTemplate '' 4 '{}' 4<"$IMAGE"
expect_error $ERROR.InvalidName 'a/b' manager ImportTemplate a/b 4 '{}' 4<"$IMAGE"
expect_error $ERROR.InvalidName 'must begin with' manager ImportTemplate ..  4 '{}' 4<"$IMAGE"
expect_error $ERROR.BadImage 'the disk is empty' manager ImportTemplate deb 4 '{}' 4<"$TMP/empty"
expect_error $ERROR.BadImage 'neither a regular file' manager ImportTemplate deb 4 '{}' 4</dev/null
expect_error $ERROR.InvalidArgument 'unknown option "colour"' \
    manager ImportTemplate deb 4 '{"colour": <"red">}' 4<"$IMAGE"
expect_error $ERROR.InvalidArgument 'not open for reading' \
    manager ImportTemplate deb 4 '{}' 4>>"$IMAGE"
manager ImportTemplate deb 4 '{"cmdline": <"root=/dev/vda ro">}' 4<"$IMAGE" >/dev/null
wait_for_line "$LOG" 'template-added deb' "$VMMD_PID"
expect_error $ERROR.Exists 'template deb exists already' manager ImportTemplate deb 4 '{}' 4<"$IMAGE"
expect "'root=/dev/vda ro'" property /org/vmmd1/template/deb org.vmmd1.Template Cmdline
expect 'uint64 300000' property /org/vmmd1/template/deb org.vmmd1.Template Size
cmp "$IMAGE" "$STATE/templates/deb/disk.raw" || fail "disk.raw differs from the image"
[ "$(stat -c %a "$STATE/templates/deb/disk.raw")" = 444 ] || fail "disk.raw is writable"

for word in fail crash lie nokernel; do
    echo $word >"$TMP/bad"
    manager ImportTemplate bad-$word 4 '{}' 4<"$TMP/bad" >/dev/null
    wait_for_line "$LOG" "import-failed bad-$word" "$VMMD_PID"
done
echo hang >"$TMP/bad"
job=$(manager ImportTemplate hanging 4 '{}' 4<"$TMP/bad" | sed "s/.*'\(.*\)'.*/\1/")
expect_error $ERROR.Exists 'being imported' manager ImportTemplate hanging 4 '{}' 4<"$TMP/bad"
expect '()' bus_call "$job" org.vmmd1.Job.Cancel
while [ "$(property "$job" org.vmmd1.Job State)" = "'running'" ]; do :; done
expect "'cancelled'" property "$job" org.vmmd1.Job State
expect_error $ERROR.WrongState 'cancelled' bus_call "$job" org.vmmd1.Job.Cancel
[ "$(ls -A "$STATE/templates")" = deb ] || fail "failed imports left something: $(ls -A "$STATE/templates")"

# ---- creation ----
expect_error $ERROR.NotFound nope manager CreateGuests nope x '{}'
expect_error $ERROR.InvalidName 'a b' manager CreateGuests deb 'a b' '{}'
expect_error $ERROR.InvalidArgument 'needs memory' manager CreateGuests deb x '{"memory": <uint64 0>}'
expect_error $ERROR.InvalidArgument 'whole MiB' manager CreateGuests deb x '{"memory": <uint64 33554433>}'
expect_error $ERROR.InvalidArgument 'more than this host has' \
    manager CreateGuests deb x '{"memory": <uint64 1099511627776000>}'
expect_error $ERROR.InvalidArgument 'D-Bus type t' manager CreateGuests deb x '{"memory": <"1G">}'
expect_error $ERROR.InvalidArgument 'count of 0' manager CreateGuests deb x '{"count": <uint32 0>}'
expect_error $ERROR.LimitExceeded 'may be' manager CreateGuests deb x '{"count": <uint32 4294967295>}'
expect_error $ERROR.InvalidArgument 'at least one vCPU' manager CreateGuests deb x '{"vcpus": <uint32 0>}'
can_kvm || expect_error $ERROR.NotSupported 'engine kvm' manager CreateGuests deb x '{"engine": <"kvm">}'
expect_error $ERROR.InvalidArgument 'auto, soft or kvm' manager CreateGuests deb x '{"engine": <"warp">}'
expect "([objectpath '/org/vmmd1/guest/web_2d1', '/org/vmmd1/guest/web_2d2'],)" \
    manager CreateGuests deb web '{"count": <uint32 2>, "memory": <uint64 67108864>}'
expect "([objectpath '/org/vmmd1/guest/alone'],)" manager CreateGuests deb alone '{"share_group": <"none">}'
# All or none: web-2 is taken, so web-3 is not made either.
expect_error $ERROR.Exists 'guest web-1 exists' manager CreateGuests deb web '{"count": <uint32 3>}'
[ "$(ls -A "$STATE/guests" | tr '\n' ' ')" = "alone web-1 web-2 " ] || fail "half-made guests are left"
expect "(objectpath '/org/vmmd1/guest/web_2d1',)" manager GetGuest web-1
expect_error $ERROR.NotFound web-9 manager GetGuest web-9
expect_error $ERROR.InUse 'alone' bus_call /org/vmmd1/template/deb org.vmmd1.Template.Delete
qemu-img check -q "$STATE/guests/web-1/overlay.qcow2" || fail "the overlay is not clean"
qemu-img info --backing-chain "$STATE/guests/web-1/overlay.qcow2" | grep -q '^image: .*disk.raw' ||
    fail "the overlay's backing file is not found"

# ---- life ----
expect_error $ERROR.WrongState 'is not running' guest web_2d1 Stop true
expect_error $ERROR.WrongState 'is not running' guest web_2d1 GetMemory
expect '()' guest web_2d1 Start
expect '()' guest web_2d2 Start
expect '()' guest alone Start
expect "'running'" guest_property web_2d1 State
expect_error $ERROR.WrongState 'running already' guest web_2d1 Start
expect_error $ERROR.WrongState 'stop it first' guest web_2d1 Delete
guest web_2d1 GetMemory | grep -q "'Nominal': <uint64 67108864>" || fail "GetMemory lacks Nominal"
expect '()' guest web_2d1 Pause
expect "'paused'" guest_property web_2d1 State
expect '()' guest web_2d1 Resume
expect_error $ERROR.WrongState 'is not paused' guest web_2d1 Resume
expect_error $ERROR.InvalidArgument 'balloon target' guest web_2d1 SetBalloon 0
expect_error $ERROR.InvalidArgument 'CPU shares are 1 to' guest web_2d1 SetCpu '{"shares": <uint32 0>}'
expect_error $ERROR.InvalidArgument 'unknown option "weight"' guest web_2d1 SetCpu '{"weight": <uint32 1>}'
expect_error $ERROR.InvalidArgument 'D-Bus type u' guest web_2d1 SetCpu '{"limit": <"none">}'
expect_error $ERROR.InvalidArgument 'not 4294967295' guest web_2d1 SetCpu '{"reserve": <uint32 4294967295>}'
expect_error $ERROR.InvalidArgument 'more than the limit' guest web_2d1 SetCpu '{"limit": <uint32 10>, "reserve": <uint32 11>}'
expect '()' guest web_2d1 SetCpu '{"shares": <uint32 50>}'
expect '()' guest web_2d1 SetCpu '{}'
expect 'uint32 50' guest_property web_2d1 CpuShares
expect_error PropertyReadOnly 'CpuShares' bus_call /org/vmmd1/guest/web_2d1 org.freedesktop.DBus.Properties.Set org.vmmd1.Guest CpuShares '<uint32 1>'

# ---- a lying, a dying and a failing one beside them ----
for name in badmagic killed failed; do
    manager CreateGuests deb $name '{}' >/dev/null
    guest $name Start >/dev/null 2>&1 || :
    wait_for_line "$LOG" "guest-state $name: failed" "$VMMD_PID"
    expect "'failed'" guest_property $name State
    expect '()' guest $name Delete
done
expect "'running'" guest_property web_2d1 State

# ---- a second daemon ----
if "$BUILD/vmmd" --session --state-dir "$STATE" --runtime-dir "$TMP/run2" \
    --bus-address "$VMMD_BUS_ADDRESS" 2>"$TMP/second"; then
    fail "a second daemon on the same state directory started"
fi
grep -q "another vmmd uses $STATE" "$TMP/second" || fail "no clear line: $(cat "$TMP/second")"
[ "$(wc -l <"$TMP/second")" = 1 ] || fail "more than one line: $(cat "$TMP/second")"
if "$BUILD/vmmd" --session --state-dir "$TMP/state2" --runtime-dir "$TMP/run2" \
    --bus-address "$VMMD_BUS_ADDRESS" 2>"$TMP/second"; then
    fail "a second daemon on the same bus started"
fi
grep -q 'the name org.vmmd1 is taken' "$TMP/second" || fail "no clear line: $(cat "$TMP/second")"

# ---- kill -9 of the daemon; one guest dies while nobody looks ----
pid1=$(guest_property web_2d1 Pid)
pid2=$(guest_property web_2d2 Pid)
stop_vmmd KILL || :
kill -9 "${pid2#uint32 }"
tail --pid="${pid2#uint32 }" -f /dev/null
start_vmmd
expect "$pid1" guest_property web_2d1 Pid
expect "'running'" guest_property web_2d1 State
expect "'failed'" guest_property web_2d2 State
expect "'guest process ended while vmmd was not running'" guest_property web_2d2 Reason
guest web_2d1 GetMemory >/dev/null
expect 'true' guest_property alone Login

# ---- and an orderly end ----
stop_vmmd TERM || fail "vmmd does not end with status 0"
[ -d "/proc/${pid1#uint32 }" ] || fail "the guest ended with the daemon"
start_vmmd
expect "$pid1" guest_property web_2d1 Pid
expect '()' guest web_2d1 Stop false
wait_for_line "$LOG" 'guest-state web-1: stopped' "$VMMD_PID"
expect '()' guest alone Stop true
expect "'stopped'" guest_property alone State
for name in web_2d1 web_2d2 alone; do
    expect '()' guest $name Delete
done
expect '()' bus_call /org/vmmd1/template/deb org.vmmd1.Template.Delete
[ -z "$(ls -A "$STATE/templates" "$STATE/guests" | grep -v :)" ] || fail "something is left"
pass
