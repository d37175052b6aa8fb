#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bench-guests.sh [--markdown] [--why SECONDS] - real guests: how much of what sharing can free is free how soon after the login
# prompt, and what the scanners cost then and once they have settled. As root, on vmmd and a bus of its own; bench-guests.py
# beside it measures. GUESTS (4), MEMORY (256M), TIMES (0,0.5,1,2,5: seconds after the last guest's login prompt; each has a
# round of its own, with guests that boot afresh), STEADY (60: seconds), BUDGET (100: scan budget in percent).
. "$(dirname "$0")/../integration/functions.sh"
. "$ROOT/tests/integration/guest-functions.sh"
[ "$(id -u)" = 0 ] || skip "only root may read which pages guests have (/proc/PID/pagemap)"
need_debian
BUDGET=${BUDGET:-100}
printf '[sharing]\nscan_budget = %s\n' "$BUDGET" >"$TMP/vmmd.conf"
start_bus
start_vmmd --config "$TMP/vmmd.conf"
import_debian debian >/dev/null
export STATE VMMD_PID BUDGET
"$ROOT/tests/bench/bench-guests.py" debian --guests "${GUESTS:-4}" --memory "${MEMORY:-256M}" \
    --times "${TIMES:-0,0.5,1,2,5}" --steady "${STEADY:-60}" "$@" || exit $?
vmctl template delete debian
