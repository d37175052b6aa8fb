#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmctl against a real vmmd whose guest processes run no guest: every command, its formats, its
# exit status, and one clear line for whatever is wrong.
. "$(dirname "$0")/functions.sh"
need jq script
need_built vmctl
use_fakes
start_bus
PATH=$BUILD:$PATH

# status WANTED TEXT COMMAND...: exit status and (part of) the only line on stderr.
status()
{
    wanted=$1 text=$2
    shift 2
    got=0
    "$@" >"$TMP/out" 2>"$TMP/err" </dev/null || got=$?
    [ "$got" = "$wanted" ] || fail "status $got, not $wanted: $* -> $(cat "$TMP/err")"
    grep -q -F -e "$text" "$TMP/err" || fail "expected \"$text\" of: $* -> $(cat "$TMP/err")"
    [ "$wanted" != 1 ] || [ "$(wc -l <"$TMP/err")" = 1 ] || fail "not one line: $* -> $(cat "$TMP/err")"
}

jq_is()
{
    filter=$1
    shift
    "$@" >"$TMP/json" || fail "failed: $*"
    jq -e "$filter" "$TMP/json" >/dev/null || fail "not $filter: $* -> $(cat "$TMP/json")"
}

# ---- without vmmd ----
status 1 'cannot reach org.vmmd1 on' vmctl list
status 1 'start it with "vmmd --session' vmctl list
status 1 'cannot connect to the bus at unix:path=/nonexistent' vmctl --bus-address unix:path=/nonexistent list
status 2 'a command is missing' vmctl
status 2 'unknown command: frob' vmctl frob
start_vmmd

# ---- templates ----
head -c 300000 /dev/urandom >"$TMP/image"
echo fail >"$TMP/bad-image"
status 1 "cannot open $TMP/missing" vmctl template import deb --disk "$TMP/missing"
status 1 "cannot open $TMP/no-kernel" vmctl template import deb --disk "$TMP/image" --kernel "$TMP/no-kernel"
status 1 "is a directory" vmctl template import deb --disk "$TMP"
status 1 'the import failed: ' vmctl template import deb --disk "$TMP/bad-image"
status 1 'template name' vmctl template import a/b --disk "$TMP/image"
status 2 'an option is missing: --disk' vmctl template import deb
jq_is '. == []' vmctl template list --format json
vmctl template import deb --disk "$TMP/image" --cmdline 'quiet "x", y'
status 1 'exists' vmctl template import deb --disk "$TMP/image"
jq_is 'length == 1 and .[0].name == "deb" and .[0].guests == []' vmctl template list --format json
status 2 'an option is missing: --from' vmctl template create golden
status 1 'guest "nobody" does not exist' vmctl template create golden --from nobody
jq_is '.name == "deb" and .size == 300000 and .cmdline == "quiet \"x\", y"' vmctl template info deb --format json
vmctl template info deb --format csv | grep -q -F '"quiet ""x"", y"' || fail "CSV is not quoted"
status 1 'there is no template nix' vmctl template info nix

# An interrupted import is cancelled.
jobs_there() # earlier ones stay for a minute
{
    gdbus introspect --address "$VMMD_BUS_ADDRESS" --dest org.vmmd1 --object-path /org/vmmd1/job 2>/dev/null |
        grep -c 'node [0-9]'
}
echo hang >"$TMP/hanging"
before=$(jobs_there || :)
vmctl template import slow --disk "$TMP/hanging" 2>"$TMP/err" &
pid=$!
until [ "$(jobs_there || :)" -gt "$before" ]; do
    kill -0 $pid || fail "the import ended"
done
kill -TERM $pid
got=0
wait $pid || got=$?
[ $got = 1 ] && grep -q 'cancelling' "$TMP/err" || fail "interrupted import: status $got, $(cat "$TMP/err")"
jq_is 'length == 1' vmctl template list --format json

# ---- creating and running ----
jq_is '. == []' vmctl list --format json
status 2 '--memory wants a size' vmctl create deb --name a --memory 1X
status 2 '--count wants at least 1' vmctl run deb --name a --count 0
jq_is '(.engine == "soft" or .engine == "kvm") and (.reason | length > 0) and (.features | length == 7) and
    all(.features[]; .good == (.cost == ""))' vmctl host --format json
vmctl host | grep -q '^Engine  ' || fail "vmctl host names no engine"
status 2 '--engine is auto, soft or kvm' vmctl create deb --name a --engine fast
status 1 'memory' vmctl create deb --name a --memory 0
status 1 'nix' vmctl create nix --name a
vmctl create deb --name g --count 3 --memory 256M --share-group none
status 1 'exists' vmctl create deb --name g --count 9
jq_is 'map([.name, .state, .engine, .pid, .template, .memory, .vcpus]) | length == 3 and
    .[0] == ["g-1", "created", "soft", 0, "deb", 268435456, 1]' vmctl list --format json
jq_is 'all(keys == ["engine", "memory", "name", "pid", "state", "template", "vcpus"])' vmctl list --format json
status 2 'set what' vmctl set g-1
status 2 '--memory wants a size' vmctl set g-1 --memory much
status 1 'whole MiB' vmctl set g-1 --memory 33554433
status 1 'at least one vCPU' vmctl set g-1 --vcpus 0
vmctl set g-1 g-2 --memory 128M --vcpus 1 --priority 3
jq_is 'map(.memory) == [134217728, 134217728, 268435456]' vmctl list --format json
vmctl set g-1 g-2 --memory 256M --priority 0
status 2 '--shares wants a number from 1 to 10000, not "many"' vmctl set g-1 --shares many
status 2 '--shares wants a number' vmctl create deb --name x --shares none
status 2 '--cpu-limit wants percent of one core (100 is all of it), or none, not "-1"' vmctl set g-1 --cpu-limit=-1
status 2 '--cpu-reserve wants percent' vmctl set g-1 --cpu-reserve 10%%
status 1 'CPU shares are 1 to 10000 (100 by default), not 10001' vmctl set g-1 --shares 10001
status 1 'CPU shares are 1' vmctl create deb --name x --shares 0
status 1 'percent of one core: 0 (none) to 100 for a guest with 1 vCPU, not 200' vmctl set g-1 --cpu-limit 200
status 1 'a CPU reserve of 50 % is more than the limit of 20 %' vmctl create deb --name x --cpu-limit 20% --cpu-reserve 50%
vmctl set g-1 --shares 10000 --cpu-limit none --cpu-reserve 0
jq_is '[.cpu_shares, .cpu_limit, .cpu_reserve, .cpu_control] == [10000, 0, 0, ""]' vmctl info g-1 --format json
vmctl info g-1 | grep -q '^CPU limit: *none$' || fail "no limit is not told as none"
vmctl set g-1 --shares 100
vmctl run deb --name h --memory 64M --wait --timeout 60
status 1 'can be changed when it is stopped' vmctl set h --memory 128M
vmctl set h --memory 64M --priority 1 # as it is already
status 1 'the kernel is not one' vmctl run deb --name failed --memory 64M
jq_is 'map(.name) == ["g-1", "g-2", "g-3", "h"]' vmctl list --format json # nothing half-made is left
status 1 'is not running' vmctl wait g-1 --for login
vmctl start g --count 3 --wait
jq_is 'all(.state == "running" and .pid > 0)' vmctl list --format json
status 1 'guest "nix" does not exist' vmctl start nix
[ "$(vmctl list --format csv | head -n 2)" = "name,state,engine,pid,memory,vcpus,template
g-1,running,soft,$(vmctl info g-1 --format json | jq .pid),268435456,1,deb" ] || fail "CSV of list"
vmctl list | head -n 1 | grep -q '^NAME  STATE ' || fail "table of list"
[ "$(vmctl list | wc -l)" = 5 ] || fail "table of list"

jq_is '.name == "h" and .login and .state == "running" and .share_group == "deb"' vmctl info h --format json
jq_is '.share_group == "none"' vmctl info g-1 --format json
jq_is 'map(.name) == ["h", "g-2"]' vmctl info h g-2 --format json
vmctl info h | grep -q '^State: *running$' || fail "info: $(vmctl info h)"
status 1 'there is no guest nix' vmctl info nix

# ---- memory ----
jq_is '(.guests | length == 4) and (.guests[0] | keys == ["balloon", "cpu_seconds", "freezes",
    "lineage", "longest_freeze_seconds", "mappings", "mappings_skipped", "merges", "name", "nominal",
    "passes", "pool", "private", "process_cpu_seconds", "repacked", "resident", "saved",
    "splits", "template", "zero"]) and (.total | has("name") | not) and
    .total.freezes == 15 * 4 and .total.longest_freeze_seconds == 0.00025 and .guests[0].repacked == 5 and
    .total.nominal == ([.guests[].nominal] | add) and .total.resident == ([.guests[].resident] | add) and
    all(.guests[]; .nominal == .zero + .lineage + .template + .pool + .private)' \
    vmctl memory --settle --timeout 60 --format json
jq_is '.guests | map(.name) == ["h"]' vmctl memory h --format json
vmctl memory | head -n 1 | grep -q 'SAVED *COST' || fail "no COST column"
vmctl memory | tail -n 1 | grep -q '^total' || fail "no total"
[ "$(vmctl memory --format csv | wc -l)" = 6 ] || fail "CSV of memory"
status 1 'guest "nix" does not exist' vmctl memory h nix

# ---- pause, restart, stop ----
vmctl pause g-1 g-2
jq_is 'map(.state) == ["paused", "paused", "running", "running"]' vmctl list --format json
vmctl resume g-1 g-2
status 1 'is not paused' vmctl resume g-1
before=$(vmctl info g-1 --format json | jq .pid)
vmctl restart g-1 --wait
[ "$(vmctl info g-1 --format json | jq .pid)" != "$before" ] || fail "not restarted"
vmctl stop g-1 g-2
jq_is 'map(.state) == ["stopped", "stopped", "running", "running"]' vmctl list --format json
vmctl wait g-1 g-2 --for stopped
status 1 'g-1 has stopped before it showed a login prompt' vmctl wait g-1 --for login
status 1 'g-3 has not stopped after 1 s' vmctl wait g-3 --for stopped --timeout 1
status 2 '--for is login or stopped' vmctl wait g-3 --for dinner
vmctl run deb --name deaf --memory 64M
status 1 '"vmctl stop -f NAME" ends it at once' vmctl stop deaf --timeout 1
vmctl stop -f deaf
jq_is '.state == "stopped"' vmctl info deaf --format json
status 1 'stop it first' vmctl delete h
vmctl delete -f h deaf g-1

# ---- console: a pipe, and a terminal that is as it was afterwards ----
vmctl console g-3 --linger 1 </dev/null >"$TMP/out"
grep -q '^g-3 login: ' "$TMP/out" || fail "console: $(cat "$TMP/out")"
cat >"$TMP/terminal" <<END
echo; echo before \$(stty -g)
"$BUILD/vmctl" console g-3
echo status \$?
echo after \$(stty -g)
END
printf 'abc\035' | script -q -e -c "sh $TMP/terminal" /dev/null | tr -d '\r' >"$TMP/out"
grep -q '^status 0$' "$TMP/out" || fail "console on a terminal: $(cat "$TMP/out")"
[ -n "$(sed -n 's/^after //p' "$TMP/out")" ] &&
    [ "$(sed -n 's/^.*before //p' "$TMP/out")" = "$(sed -n 's/^after //p' "$TMP/out")" ] ||
    fail "the terminal was not restored: $(cat "$TMP/out")"
status 1 'not run' vmctl console g-2

# ---- logs: all of it, and as it grows, until the guest is deleted ----
vmctl logs g-3 | grep -q '^fake console of g-3' || fail "logs"
vmctl logs -f g-3 >"$TMP/follow" 2>"$TMP/err" &
pid=$!
wait_for_line "$TMP/follow" 'fake console' $pid
vmctl restart -f g-3
until [ "$(grep -c 'fake console' "$TMP/follow")" = 2 ]; do
    kill -0 $pid || fail "logs -f ended: $(cat "$TMP/err")"
done
vmctl delete -f g-3
wait $pid || fail "logs -f: $(cat "$TMP/err")"

# ---- events ----
vmctl events --format csv >"$TMP/events" &
pid=$!
wait_for_line "$TMP/events" '^time,kind,name,text$' $pid
vmctl start g-2
wait_for_line "$TMP/events" ',guest-state,g-2,' $pid
vmctl events --format json >"$TMP/events.json" &
json_pid=$!
kill -TERM $pid
wait $pid || fail "events: status $?"

# ---- deleting ----
status 1 'g-2' vmctl template delete deb
vmctl delete -f g-2
vmctl template delete deb
jq_is '. == []' vmctl template list --format json
[ -z "$(ls -A "$STATE/guests" "$STATE/templates" | grep -v :)" ] || fail "something is left in $STATE"

# ---- vmmd going away ends those who wait ----
stop_vmmd
got=0
wait $json_pid || got=$?
[ $got = 1 ] || fail "events went on without vmmd"
while read -r line; do
    jq -e 'has("time") and has("kind") and has("name") and has("text")' <<<"$line" >/dev/null ||
        fail "event: $line"
done <"$TMP/events.json"
pass
