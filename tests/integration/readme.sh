#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The README's first tour, pasted: every command of it works. What builds and installs is left out, and the bus is a private one.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_debian
start_bus
export DBUS_SESSION_BUS_ADDRESS=$VMMD_BUS_ADDRESS XDG_STATE_HOME=$TMP/home XDG_RUNTIME_DIR=$TMP/xdg
STATE=$TMP/home/vmmd
unset VMMD_BUS_ADDRESS
mkdir -m 700 "$TMP/home" "$TMP/xdg"
cd "$ROOT"
export PATH=$BUILD:$PATH

awk '/^## A first tour/ { tour = 1 } /^The manual/ { tour = 0 }
     /^```/ { code = /^```sh/ && !code; next } tour && code' README.md |
    grep -v -e '^tests/' -e '^make$' -e '^export PATH' -e '^dbus-run-session' >"$TMP/tour"
[ "$(grep -c '^vmctl' "$TMP/tour")" -ge 14 ] || fail "the tour has only $(grep -c '^vmctl' "$TMP/tour") commands"
sed -i "s|^vmmd --session &|&\nVMMD_PID=\$!; until vmctl list >/dev/null 2>\&1; do kill -0 \$VMMD_PID \|\| exit 1; done|" "$TMP/tour"
while read -r line; do
    say "$line"
    # The daemon of the tour is ours to end: functions.sh does it by VMMD_PID.
    eval "$line" || fail "this command of the README does not work: $line"
done <"$TMP/tour"
[ "$(vmctl list --format json)" = "[]" ] || fail "something is left: $(vmctl list)"
pass
