#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The instructions that show or change the state of a machine act on the guest's own, in ring 0 and ring 3: tests/guest/fidelity.c on the
# software engine, and on KVM where the host runs guests in hardware. (make check-lab runs it on an emulated host that does.)
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_built vmctl vmmd-guest vmmd-import
[ -f "$BUILD/guests/fidelity" ] || skip "$BUILD/guests/fidelity is not built"
start_bus
start_vmmd
truncate -s 1M "$TMP/empty.raw"

on_engine() # ENGINE
{
    vmctl template import "on-$1" --disk "$TMP/empty.raw" --kernel "$BUILD/guests/fidelity" --cmdline "fidelity=$1" || fail "import"
    vmctl run "on-$1" --name "$1" --engine "$1" --memory 64M || fail "it does not start"
    vmctl wait "$1" --for stopped --timeout 60 || fail "it does not end: $(vmctl logs "$1" | tail -n 3)"
    vmctl logs "$1" >"$TMP/out"
    grep -a 'DEVIATES\|WRONG\|fidelity: [0-9]* checks' "$TMP/out" || fail "it did not get to its end: $(tail -n 3 "$TMP/out")"
    grep -aq '^fidelity: [0-9]* checks, [0-9]* ok, [0-9]* known deviations, 0 wrong' "$TMP/out" || fail "not as the manuals say"
    [ "$(grep -ac ' ok' "$TMP/out")" -gt 600 ] || fail "too few checks were made"
}

on_engine soft
if can_kvm; then
    on_engine kvm
else
    say "not on KVM: this host runs no guests in hardware, and where its KVM emulates ring 0 it lacks INT ($(vmctl host | grep "^Host"))"
fi
pass
