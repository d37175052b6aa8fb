#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Three guests that know what every byte of their memory must be keep writing and verifying for STRESS_SECONDS (60), while their
# pages are merged at full speed and split again. Not one byte may be wrong.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3
need_built vmctl vmmd-guest vmmd-import
seconds=${STRESS_SECONDS:-60}
start_bus
printf '[sharing]\nscan_budget = 100\n' >"$TMP/vmmd.conf"
start_vmmd --config "$TMP/vmmd.conf"
import_guest checksum checksum
vmctl run checksum --name c --count 3 --memory 96M --wait || fail "guests do not start"
end=$((SECONDS + seconds))
while [ $SECONDS -lt $end ]; do
    for g in c-1 c-2 c-3; do expect_state $g running; done
    timeout 5 "$VMCTL" events >/dev/null 2>&1 || true # watches the bus for five seconds
done
vmctl memory
vmctl memory --format json >"$TMP/memory.json"
for g in c-1 c-2 c-3; do
    echo x | timeout 20 "$VMCTL" console $g >/dev/null 2>&1 || true
    vmctl wait $g --for stopped --timeout 60 || fail "$g does not end"
    vmctl logs $g | grep -a 'RIGHT\|WRONG' | tail -n 1
    ! vmctl logs $g | grep -qa WRONG || fail "$g: a wrong byte"
    vmctl logs $g | grep -qa RIGHT || fail "$g: did not say that all is right: $(vmctl logs $g | tail -n 3)"
done
python3 - "$TMP/memory.json" <<'PY' || fail "merging hardly took place: the test proved nothing"
import json, sys
t = json.load(open(sys.argv[1]))["total"]
print(f'merges {t["merges"]}, splits {t["splits"]}')
sys.exit(t["merges"] < 20000 or t["splits"] < 5000)
PY
pass
