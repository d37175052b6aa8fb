#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A full disk under the state directory: imports, creations and starts are refused with the reason
# and leave nothing half-made; what exists goes on.
[ "$(id -u)" = 0 ] || { echo "needs root, to mount a small file system" >&2; exit 77; }
command -v unshare >/dev/null || { echo "unshare is not installed" >&2; exit 77; }
if [ -z "${IN_NAMESPACE:-}" ]; then
    unshare -m true 2>/dev/null || { echo "no mount namespaces here" >&2; exit 77; }
    IN_NAMESPACE=1 exec unshare -m "$0" # whatever is mounted ends with us
fi
. "$(dirname "$0")/functions.sh"

need gdbus dbus-daemon mount
use_fakes
mkdir "$STATE"
mount -t tmpfs -o size=1m,mode=0700 tmpfs "$STATE" || skip "cannot mount a tmpfs"
before_removal()
{
    umount "$STATE"
}
start_bus
start_vmmd

head -c 3000000 /dev/urandom >"$TMP/big"
head -c 100000 /dev/urandom >"$TMP/small"
manager ImportTemplate big 4 '{}' 4<"$TMP/big" >/dev/null
wait_for_line "$LOG" 'import-failed big' "$VMMD_PID"
[ -z "$(ls -A "$STATE/templates")" ] || fail "a failed import left something"
manager ImportTemplate deb 4 '{}' 4<"$TMP/small" >/dev/null
wait_for_line "$LOG" 'template-added deb' "$VMMD_PID"
manager CreateGuests deb first '{}' >/dev/null
guest first Start >/dev/null
expect_error org.vmmd1.Error.NoSpace 'No space left' \
    manager CreateGuests deb many '{"count": <uint32 500>}'
[ "$(ls -A "$STATE/guests")" = first ] || fail "half-made guests are left: $(ls -A "$STATE/guests")"
expect "'running'" guest_property first State

manager CreateGuests deb second '{}' >/dev/null
head -c 2000000 /dev/zero >"$STATE/fill" 2>/dev/null || :
expect_error org.vmmd1.Error.NoSpace "$STATE/guests/second" guest second Start
expect "'created'" guest_property second State
expect '()' guest first Stop true
rm "$STATE/fill"
expect '()' guest second Start
pass
