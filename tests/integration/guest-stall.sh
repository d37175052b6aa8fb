#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# How long merging holds guests up. Guests that time their own turns rewrite shared memory, first with content that nobody else has
# while hardly anything is scanned, then with content that all of them write while scanners may use a core each. Prints what the guests
# saw and what the guest processes counted; asserts that merging took place and that every byte is right. --markdown: one table
# row only: guests, budget, merged pages, p99 and longest of the steps' CPU time, of their wall time, p99 of stalls before and with.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3 gdbus
need_built vmctl vmmd-guest vmmd-import
guests=${STALL_GUESTS:-2} budget=${STALL_BUDGET:-100} markdown=${1:-}

scan_budget() # PERCENT
{
    bus_call /org/vmmd1 org.freedesktop.DBus.Properties.Set org.vmmd1.Manager ScanBudget "<uint32 $1>" >/dev/null
}

type_to_all() # LETTER
{
    for i in $(seq "$guests"); do
        printf '%s' "$1" | vmctl console "s-$i" --linger 0 >/dev/null &
    done
    for job in $(jobs -p); do
        [ "$job" = "$VMMD_PID" ] || [ "$job" = "$BUS_PID" ] || wait "$job" || fail "cannot type to a guest"
    done
}

phase() # LETTER: in all guests at once, to its end
{
    type_to_all "$1"
    for i in $(seq "$guests"); do
        wait_for_line "$STATE/guests/s-$i/console.log" "^end of $1" "$(field_of "s-$i" pid)" || fail "s-$i: no end of phase $1"
    done
}

start_bus
start_vmmd
import_guest stall stall
scan_budget 100
vmctl run stall --name s --count "$guests" --memory 96M --wait || fail "guests do not start"
vmctl memory --settle --timeout 60 >/dev/null || fail "does not settle"
scan_budget 1
phase u
vmctl memory --format json >"$TMP/before.json"
scan_budget "$budget"
phase c
vmctl memory --format json >"$TMP/after.json"
type_to_all q
for i in $(seq "$guests"); do
    vmctl wait "s-$i" --for stopped --timeout 30 || fail "s-$i does not end"
    grep -aq '^RIGHT' "$STATE/guests/s-$i/console.log" || fail "s-$i: $(tail -n 1 "$STATE/guests/s-$i/console.log")"
done

cat >"$TMP/report.py" <<'PY'
import json, re, sys
state, guests, budget, markdown = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "--markdown"
before, after = (json.load(open(f"{sys.argv[5]}/{name}.json"))["total"] for name in ("before", "after"))
merges = after["merges"] - before["merges"]
stalls, steps = {}, {}
fields = lambda text: dict(zip(text.split()[::2], map(int, text.split()[1::2])))
for i in range(1, guests + 1):
    console = open(f"{state}/guests/s-{i}/console.log", errors="replace").read()
    log = open(f"{state}/guests/s-{i}/vmm.log", errors="replace").read()
    for what, phase, values in re.findall(r"^(gaps|stalls) ([uc]) (.*?)\r?$", console, re.M):
        stalls.setdefault((i, phase), {}).update({f"{what} {k}": v for k, v in fields(values).items()})
    for what, n, values in re.findall(r"merging, (wall|CPU) time: (\d+) times, us: (.*)$", log, re.M):
        steps[i, what] = dict(fields(values), n=int(n))
if merges < 5000 or len(steps) < 2 * guests or len(stalls) < 2 * guests:
    sys.exit(f'{merges} merges: the figures say nothing')
worst = lambda table, key, field: max(v[field] for (_, k), v in table.items() if k == key)
if markdown:
    print(f'| {guests} | {budget} % | {merges} | {worst(steps, "CPU", "p99")} us | {worst(steps, "CPU", "max")} us | '
          f'{worst(steps, "wall", "p99")} us | {worst(steps, "wall", "max")} us | '
          f'{worst(stalls, "u", "stalls p99")} us | {worst(stalls, "c", "stalls p99")} us |')
    sys.exit()
names = {"u": "not merging", "c": f"scan budget {budget} %"}
for (i, phase), v in sorted(stalls.items(), key=lambda item: (item[0][0], item[0][1] == "c")):
    print(f's-{i} {names[phase]:18} turns, us: p50 {v["gaps p50"]} p99 {v["gaps p99"]} p99.9 {v["gaps p999"]} max {v["gaps max"]}; '
          f'stalls (more than 64 us): {v["stalls count"]}, together {v["stalls together"] / 1000:.0f} ms, '
          f'p50 {v["stalls p50"]} p99 {v["stalls p99"]} p99.9 {v["stalls p999"]}')
for i in range(1, guests + 1):
    u, c = stalls[i, "u"], stalls[i, "c"]
    print(f's-{i} beyond the baseline: {c["stalls count"] - u["stalls count"]:+d} stalls, '
          f'together {(c["stalls together"] - u["stalls together"]) / 1000:+.0f} ms, p99 {c["stalls p99"] - u["stalls p99"]:+d} us, '
          f'max {c["gaps max"] - u["gaps max"]:+d} us')
for (i, what), v in sorted(steps.items()):
    print(f's-{i} steps of merging, {what} time: {v["n"]}, us: p50 {v["p50"]} p99 {v["p99"]} max {v["max"]}')
print(f'merged meanwhile: {merges} pages; p99 of what one step of merging costs a guest: '
      f'{worst(steps, "CPU", "p99")} us of CPU (goal: 1000), {worst(steps, "wall", "p99")} us when it must wait for a CPU meanwhile')
PY
python3 "$TMP/report.py" "$STATE" "$guests" "$budget" "$markdown" "$TMP" || fail "no report"
[ -n "$markdown" ] || pass
