#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# kill -9 of a guest process that is busy writing, KILL_ROUNDS times (4): the overlay is clean each time, what the guest had synced
# before is there, and the guest boots again.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_debian
start_bus
start_vmmd
import_debian debian
vmctl create debian --name busy --memory 256M || fail "create"
for round in $(seq "${KILL_ROUNDS:-4}"); do
    vmctl start busy --wait || fail "round $round: does not boot: $(vmctl logs busy | tail -n 5)"
    if [ "$round" -gt 1 ]; then
        [ "$(inside busy 'cat /root/round')" = $((round - 1)) ] || fail "round $round: what was synced is gone"
    fi
    inside busy "echo $round >/root/round; sync; (while :; do dd if=/dev/urandom of=/root/junk bs=64k count=\$((RANDOM % 200 + 1)) conv=fsync; rm -f /root/junk; fstrim /; done) >/dev/null 2>&1 & sleep 2" || fail "round $round: shell"
    kill -9 "$(field_of busy pid)"
    vmctl wait busy --for stopped --timeout 10 2>/dev/null || true
    expect_state busy failed
    check_overlay busy
done
vmctl delete busy || fail "delete"
pass
