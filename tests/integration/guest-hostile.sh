#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A guest with malformed virtqueues on every device: the devices fail, the guest runs on, and so does vmmd with its other guest.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3
need_built vmctl vmmd-guest vmmd-import
start_bus
start_vmmd
import_guest hostile hostile
import_guest good checksum
vmctl run good --name good --memory 64M --wait || fail "the other guest does not start"
vmctl run hostile --name hostile --memory 128M || fail "the hostile guest does not start"
vmctl wait hostile --for stopped --timeout 60 || fail "the hostile guest does not end: $(vmctl logs hostile | tail -n 3)"
vmctl logs hostile >"$TMP/out"
grep -q '^DONE' "$TMP/out" || fail "it did not get to its end: $(tail -n 3 "$TMP/out")"
! grep -E 'STUCK|BAD|NOT FOUND' "$TMP/out" || fail "a device did not answer as it should"
[ "$(grep -c 'device failed' "$TMP/out")" = 44 ] || fail "not every case failed its device: $(cat "$TMP/out")"
[ -n "$(field_of hostile device_error)" ] || fail "vmctl info does not show the device's failure"
expect_state good running
kill -0 "$VMMD_PID" || fail "vmmd is gone"
vmctl stop -f good
pass
