#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The system bus policy: root may own the name and call, another user may do neither.
. "$(dirname "$0")/functions.sh"

need dbus-daemon dbus-send setpriv
[ "$(id -u)" = 0 ] || skip "needs root, to be another user"
need_built vmmd

# A bus that denies as the system bus does, with our policy on top.
chmod 711 "$TMP"
cat >"$TMP/system.conf" <<END
<busconfig>
  <type>system</type>
  <listen>unix:path=$TMP/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>$ROOT/dbus/org.vmmd1.conf</include>
</busconfig>
END
mkfifo "$TMP/address"
dbus-daemon --config-file="$TMP/system.conf" --nofork --nosyslog --print-address \
    >"$TMP/address" 2>"$TMP/bus.log" &
BUS_PID=$!
read -r VMMD_BUS_ADDRESS <"$TMP/address" || fail "dbus-daemon does not start: $(cat "$TMP/bus.log")"
chmod 666 "$TMP/bus"
start_vmmd

nobody()
{
    setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
}
ping="dbus-send --bus=$VMMD_BUS_ADDRESS --print-reply --dest=org.vmmd1 /org/vmmd1"
$ping org.freedesktop.DBus.Peer.Ping >/dev/null || fail "root cannot call"
expect_error org.freedesktop.DBus.Error.AccessDenied '' \
    nobody $ping org.vmmd1.Manager.GetGuest string:x
expect_error org.freedesktop.DBus.Error.AccessDenied '' \
    nobody $ping org.freedesktop.DBus.ObjectManager.GetManagedObjects
stop_vmmd TERM
expect_error org.freedesktop.DBus.Error.AccessDenied '' \
    nobody dbus-send --bus="$VMMD_BUS_ADDRESS" --print-reply --dest=org.freedesktop.DBus \
    /org/freedesktop/DBus org.freedesktop.DBus.RequestName string:org.vmmd1 uint32:0
pass
