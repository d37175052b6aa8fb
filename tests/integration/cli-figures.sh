#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What vmctl shows of figures: bars on a terminal and nowhere else, top and how it leaves the
# terminal, the last hour, and OpenMetrics text that a strict parser takes. Guests run no guest.
. "$(dirname "$0")/functions.sh"
need jq script python3
need_built vmctl
use_fakes
start_bus
PATH=$BUILD:$PATH
mkdir -p "$TMP/host/proc"
printf 'MemTotal: 8388608 kB\nMemAvailable: 8192000 kB\n' >"$TMP/host/proc/meminfo"
printf '[host]\nroot = %s\n' "$TMP/host" >"$TMP/vmmd.conf"
start_vmmd --config "$TMP/vmmd.conf"
head -c 300000 /dev/urandom >"$TMP/image"
vmctl template import deb --disk "$TMP/image"
vmctl run deb --name web --count 2 --memory 64M
vmctl create deb --name idle --memory 64M --priority -9

# on_terminal COMMAND...: its output on a terminal of 100 columns.
on_terminal()
{
    script -q -e -c "stty cols 100 rows 24; $*" /dev/null </dev/null | tr -d '\r'
}

# ---- bars: of a fake three quarters are private, the rest is zero ----
LC_ALL=C on_terminal vmctl memory >"$TMP/out"
bar=$(printf '#%.0s' $(seq 45); printf '.%.0s' $(seq 15))
grep -q -F "web-1  $bar" "$TMP/out" || fail "bars in ASCII: $(cat "$TMP/out")"
grep -q -F '# private  = shared: template, pool, lineage  . zero' "$TMP/out" || fail "legend: $(cat "$TMP/out")"
grep -q '[^ -~]' "$TMP/out" && fail "not ASCII: $(cat "$TMP/out")"
LC_ALL=C.UTF-8 on_terminal vmctl memory web-2 >"$TMP/out"
grep -q -F 'web-2  ████████' "$TMP/out" || fail "bars in UTF-8: $(cat "$TMP/out")"
vmctl memory | grep -q private && fail "bars where there is no terminal"
LC_ALL=C on_terminal vmctl memory --format csv | grep -q '##' && fail "bars in CSV"
LC_ALL=C on_terminal vmctl memory --format json | jq -e '.guests | length == 2' >/dev/null || fail "bars in JSON"

# ---- top ----
vmctl top -n 2 -d 1 >"$TMP/out"
[ "$(grep -c '^NAME ' "$TMP/out")" = 2 ] || fail "top -n 2: $(cat "$TMP/out")"
[ "$(grep -c '^web-1  *running' "$TMP/out")" = 2 ] || fail "top: $(cat "$TMP/out")"
grep -q '^memory pressure none, 7.8 GiB of 8.0 GiB available$' "$TMP/out" || fail "top: $(cat "$TMP/out")"
grep -q '^web-1  *running  *- ' "$TMP/out" || fail "the first look has no rates: $(cat "$TMP/out")"
grep -q '^web-1  *running  *0.0 % ' "$TMP/out" || fail "the second look has rates: $(cat "$TMP/out")"
grep -q "$(printf '\033')" "$TMP/out" && fail "top draws where there is no terminal"
vmctl top -n 1 --format json | jq -e '(.time > 0) and (.guests | length == 3) and
    (.guests[] | select(.name == "web-1") | .state == "running" and .resident == 50331648 and .cpu_percent == null)' \
    >/dev/null || fail "top --format json"
vmctl top -n 2 -d 1 --format csv >"$TMP/out"
[ "$(wc -l <"$TMP/out")" = 7 ] && [ "$(head -n 1 "$TMP/out")" = \
    time,name,state,cpu_percent,resident,saved,merges_per_second,splits_per_second ] || fail "CSV: $(cat "$TMP/out")"
expect_error '' '--iterations wants at least 1' vmctl top -n 0
expect_error '' '--delay wants at least 1' vmctl top -d 0

# The screen: q leaves it, so does a signal, and the terminal is as it was.
cat >"$TMP/terminal" <<END
echo; echo before \$(stty -g)
"$BUILD/vmctl" top -d 3600
status=\$?
echo; echo status \$status
echo after \$(stty -g)
END
check_screen()
{
    tr -d '\r' <"$TMP/typescript" >"$TMP/out"
    grep -q '^status 0$' "$TMP/out" || fail "top on a terminal: $(cat "$TMP/out")"
    [ -n "$(sed -n 's/^after //p' "$TMP/out")" ] &&
        [ "$(sed -n 's/^.*before //p' "$TMP/out")" = "$(sed -n 's/^.*after //p' "$TMP/out")" ] ||
        fail "the terminal was not restored: $(cat "$TMP/out")"
    grep -q "$(printf '\033')\[?1049h" "$TMP/out" && grep -q "$(printf '\033')\[?1049l" "$TMP/out" ||
        fail "no screen of its own: $(cat "$TMP/out")"
    grep -q '^web-1 ' "$TMP/out" || fail "nothing on the screen: $(cat "$TMP/out")"
}
mkfifo "$TMP/keys"
for key in xq '\003'; do # any other key does nothing; ^C is an interrupt
    : >"$TMP/typescript"
    script -q -f -e -c "sh $TMP/terminal" "$TMP/typescript" <"$TMP/keys" >/dev/null &
    pid=$!
    exec 5>"$TMP/keys"
    wait_for_line "$TMP/typescript" '^web-2 ' $pid
    # shellcheck disable=SC2059
    printf "$key" >&5
    wait $pid || fail "script: status $?"
    exec 5>&-
    check_screen
done
"$BUILD/vmctl" top -d 3600 --format csv >"$TMP/rows" & # elsewhere a signal ends it, too
pid=$!
wait_for_line "$TMP/rows" ',web-2,' $pid
kill -TERM $pid
wait $pid || fail "top: status $?"

# ---- the last hour: the first sample comes within ten seconds ----
until [ "$(vmctl memory --history web-1 --format json | jq length)" -gt 0 ]; do
    kill -0 "$VMMD_PID" || fail "vmmd ended"
done
vmctl memory --history web-1 idle --format json | jq -e 'all(.name == "web-1" and .time > 1700000000000000 and
    .resident == 50331648 and .saved == 0 and .cost == 50331648) and .[0].cpu_seconds == 1.5 and
    .[0].merges == 20 and .[0].splits == 10' >/dev/null || fail "history: $(vmctl memory --history web-1 --format json)"
vmctl memory --history --format json | jq -e '.[-1] | .name == "total" and .resident == 2 * 50331648' >/dev/null ||
    fail "history of all: $(vmctl memory --history --format json)"
vmctl memory --history --format csv | head -n 1 |
    grep -q '^name,time,resident,saved,cost,cpu_seconds,merges,splits$' || fail "history in CSV"
LC_ALL=C.UTF-8 on_terminal vmctl memory --history web-1 | grep -q '^resident  █* *up to 48.0 MiB' ||
    fail "no line of its course: $(LC_ALL=C.UTF-8 on_terminal vmctl memory --history web-1)"
vmctl memory --history web-1 | grep -q 'up to' && fail "such a line where there is no terminal"
expect_error '' 'does not go with --settle' vmctl memory --history --settle
expect_error '' 'guest "nix" does not exist' vmctl memory --history nix

# ---- OpenMetrics ----
vmctl metrics >"$TMP/metrics"
expect_error '' '--format does not go with' vmctl metrics --format json
cat >"$TMP/parse.py" <<'END'
import re, sys
text = open(sys.argv[1], encoding="utf-8", newline="").read()
assert text.endswith("# EOF\n") and text.count("# EOF") == 1 and "\r" not in text
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)?\}})? (-?[0-9][0-9.eE+-]*)$")
TYPES = {"gauge": [""], "counter": ["_total"], "info": ["_info"], "stateset": [""]}
families, samples, now = {}, {}, None
for line in text[:-1].split("\n")[:-1]:
    if line.startswith("#"):
        word, kind, name, rest = line.split(" ", 3)
        assert word == "#" and kind in ("TYPE", "UNIT", "HELP") and re.fullmatch(NAME, name), line
        if name != now:
            assert name not in families, f"{name} comes twice"
            assert kind == "TYPE", f"TYPE does not come first: {line}"
            families[name], now = {"samples": 0}, name
        assert kind not in families[name] and not families[name]["samples"], line
        families[name][kind] = rest
        if kind == "TYPE":
            assert rest in TYPES, line
        if kind == "UNIT":
            assert name.endswith("_" + rest), f"{name} does not end with its unit {rest}"
        continue
    match = SAMPLE.fullmatch(line)
    assert match, f"not a sample: {line!r}"
    family = families[now]
    suffixes = TYPES[family["TYPE"]]
    assert match[1] in [now + s for s in suffixes], f"{line}: not of family {now}"
    labels = re.findall(LABEL, match[2] or "")
    assert len(dict(labels)) == len(labels), f"a label twice: {line}"
    key = (match[1], tuple(sorted(labels)))
    assert key not in samples, f"twice: {line}"
    samples[key] = value = float(match[match.lastindex])
    family["samples"] += 1
    if family["TYPE"] == "counter":
        assert value >= 0, line
    if family["TYPE"] in ("info", "stateset"):
        assert value in ((1,) if family["TYPE"] == "info" else (0, 1)), line
    if family["TYPE"] == "stateset":
        assert now in dict(labels), f"no state: {line}"
for name, family in families.items():
    assert family.get("HELP"), f"{name} has no HELP"
    assert not (name.endswith("_total") or name.endswith("_info")), name

def value(name, **labels):
    return samples[(name, tuple(sorted(labels.items())))]
assert value("vmmd_guest_private_bytes", guest="web-1") == 48 << 20
assert value("vmmd_guest_nominal_bytes", guest="web-2") == 64 << 20
assert value("vmmd_guest_repacked_pages_total", guest="web-1") == 5
assert value("vmmd_guest_freezes_total", guest="web-1") == 15
assert value("vmmd_guest_longest_freeze_seconds", guest="web-1") == 0.00025
assert value("vmmd_guest_scanner_cpu_seconds_total", guest="web-1") == 1.5
assert value("vmmd_guest_settled", guest="web-1") == 1
assert value("vmmd_guest_state", guest="idle", vmmd_guest_state="created") == 1
assert value("vmmd_guest_state", guest="idle", vmmd_guest_state="running") == 0
assert value("vmmd_guest_priority", guest="idle") == -9
assert value("vmmd_memory_pressure", vmmd_memory_pressure="none") == 1
assert value("vmmd_memory_pressure", vmmd_memory_pressure="critical") == 0
assert value("vmmd_host_memory_total_bytes") == 8 << 30
assert value("vmmd_host_memory_available_bytes") == 8192000 << 10
assert value("vmmd_scan_budget_ratio") == 0.1
assert ("vmmd_guest_nominal_bytes", (("guest", "idle"),)) not in samples
assert len(families) >= 30, len(families)
END
python3 "$TMP/parse.py" "$TMP/metrics" || fail "not OpenMetrics: $(cat "$TMP/metrics")"
vmctl delete -f web-1 web-2 idle
vmctl metrics >"$TMP/metrics" # without a guest the families are empty
tail -n 1 "$TMP/metrics" | grep -q '^# EOF$' || fail "no end: $(cat "$TMP/metrics")"
vmctl top -n 1 | grep -q '0 guests, 0 up' || fail "top without guests"
pass
