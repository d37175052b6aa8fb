#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Four Debian guests from one template: their pages are merged and the ledger agrees with what the kernel says; a guest killed
# takes nobody with it; vmmd killed and started again finds its guests; nothing in use can be deleted.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_debian
start_bus
start_vmmd
import_debian debian
vmctl run debian --name g --count 4 --memory 256M --wait || fail "guests do not reach their login prompt"
vmctl memory --settle --timeout 120 || fail "does not settle"

say "the ledger against smaps"
cat >"$TMP/compare.py" <<'PY'
import json, re, subprocess, sys
vmctl = sys.argv[1]
def js(*args):
    return json.loads(subprocess.check_output([vmctl, *args, "--format", "json"]))
def smaps(pid, start, end):
    rss = pss = 0
    inside = False
    for line in open(f"/proc/{pid}/smaps"):
        m = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if m:
            inside = start <= int(m[1], 16) < end
        elif inside and line.startswith("Rss:"):
            rss += int(line.split()[1]) * 1024
        elif inside and line.startswith("Pss:"):
            pss += int(line.split()[1]) * 1024
    return rss, rss - pss
guests = js("list")
for g in guests: # still, so that both look at the same moment
    subprocess.check_call([vmctl, "pause", g["name"]])
memory = js("memory")
kernel = {}
for g in guests:
    info = js("info", g["name"])
    start = int(info["ram_address"])
    kernel[g["name"]] = smaps(g["pid"], start, start + g["memory"])
bad = False
total = [0, 0, 0, 0]
for m in memory["guests"]:
    rss, saved = kernel[m["name"]]
    print(f'{m["name"]}: resident {m["resident"]} smaps {rss}; saved {m["saved"]} smaps {saved}')
    for i, v in enumerate((m["resident"], rss, m["saved"], saved)):
        total[i] += v
    bad |= abs(m["resident"] - rss) > 0.03 * rss
    parts = sum(m[k] for k in ("zero", "lineage", "template", "pool", "private"))
    bad |= parts != m["nominal"]
    bad |= m["resident"] != m["nominal"] - m["zero"]
t = memory["total"]
bad |= t["resident"] != total[0] or t["saved"] != total[2]
bad |= abs(total[2] - total[3]) > 0.03 * total[3]
bad |= total[2] < 0.2 * total[0]
print(f'total: resident {total[0]} smaps {total[1]}; saved {total[2]} smaps {total[3]}')
for g in guests:
    subprocess.check_call([vmctl, "resume", g["name"]])
sys.exit(bad)
PY
python3 "$TMP/compare.py" "$VMCTL" || fail "the ledger and smaps disagree"

say "kill -9 of one guest process"
kill -9 "$(field_of g-2 pid)"
vmctl wait g-2 --for stopped --timeout 10 2>/dev/null || true
expect_state g-2 failed
case $(field_of g-2 reason) in *"signal 9"*) ;; *) fail "reason: $(field_of g-2 reason)" ;; esac
for g in g-1 g-3 g-4; do
    expect_state $g running
    [ "$(inside $g 'echo alive')" = alive ] || fail "$g does not answer"
done
check_overlay g-2

say "kill -9 of vmmd; a new one finds the guests"
pid=$(field_of g-1 pid)
stop_vmmd KILL || true
start_vmmd
for g in g-1 g-3 g-4; do
    expect_state $g running
done
expect_state g-2 failed
[ "$(field_of g-1 pid)" = "$pid" ] || fail "g-1 is not the same process"
[ "$(inside g-1 'echo alive')" = alive ] || fail "g-1 does not answer the new vmmd"
vmctl memory --settle --timeout 120 || fail "does not settle under the new vmmd"
saved=$(vmctl memory --format json | python3 -c 'import json, sys; t = json.load(sys.stdin)["total"]; print(t["saved"] * 100 // t["resident"])')
[ "$saved" -ge 20 ] || fail "the new vmmd shares only $saved %"

say "what is in use cannot be deleted"
expect_error "" "g-1" vmctl template delete debian
expect_error "" "g-1" vmctl delete g-1
vmctl stop -f g-1 g-3 g-4 || fail "stop"
for g in g-1 g-2 g-3 g-4; do check_overlay $g; done
vmctl start g-2 || fail "a failed guest starts again"
vmctl stop -f g-2
vmctl delete g-1 g-2 g-3 g-4 || fail "delete"
vmctl template delete debian || fail "template delete"
pass
