#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Guests with the same memory, in a memory cgroup that holds it once but not four times. Two of them write to all of it. vmmd says
# on the bus that memory runs out, refuses a new guest, and pauses the writers, the lower priority first; when one of them is gone
# the other goes on to its end. Nobody is killed for want of memory, and no byte is wrong.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3 gdbus
need_built vmctl vmmd-guest vmmd-import
MIB=1048576
ROOM=$((120 * MIB)) # left in the cgroup when all is merged: for less than two of the four guests
CGROUP=

# A memory cgroup below our own (version 1) or at the top (version 2, where one with processes in it can have no children).
make_cgroup()
{
    mount=$(awk '$3 == "cgroup" && ("," $4 ",") ~ /,memory,/ { print $2; exit }' /proc/mounts)
    if [ -n "$mount" ]; then
        OURS=$mount$(sed -n 's/^[0-9]*:[^:]*memory[^:]*://p' /proc/self/cgroup)
        CGROUP=$OURS/vmmd-storm-$$
        LIMIT=memory.limit_in_bytes USAGE=memory.usage_in_bytes KILLS=memory.oom_control
    else
        mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
        grep -qw memory "$mount/cgroup.controllers" 2>/dev/null || skip "no memory cgroup: neither version 1 nor 2 has the memory controller"
        echo +memory 2>/dev/null >"$mount/cgroup.subtree_control" || skip "cannot give out the memory controller in $mount"
        OURS=$mount$(sed -n 's/^0:://p' /proc/self/cgroup)
        CGROUP=$mount/vmmd-storm-$$
        LIMIT=memory.max USAGE=memory.current KILLS=memory.events
    fi
    mkdir "$CGROUP" 2>/dev/null || { made=$CGROUP CGROUP=; skip "cannot make the memory cgroup $made (not root?)"; }
}

before_removal()
{
    [ -n "$CGROUP" ] || return 0
    echo $$ >"$OURS/cgroup.procs"
    for pid in $(cat "$CGROUP/cgroup.procs"); do
        tail -f --pid="$pid" /dev/null # until it has ended
    done
    rmdir "$CGROUP"
}

in_cgroup() # COMMAND...: the shell's own children are in it meanwhile
{
    echo $$ >"$CGROUP/cgroup.procs"
    "$@"
    echo $$ >"$OURS/cgroup.procs"
}

usage() # of the cgroup, without files that are only cached
{
    cache=$(sed -n 's/^\(total_\)\?inactive_file //p' "$CGROUP/memory.stat" | tail -n 1)
    echo $(($(cat "$CGROUP/$USAGE") - cache))
}

type_to() # GUEST LETTER
{
    printf '%s' "$2" | vmctl console "$1" --linger 0 >/dev/null || fail "cannot type to $1"
}

wait_console() # GUEST PATTERN
{
    wait_for_line "$STATE/guests/$1/console.log" "$2" "$(field_of "$1" pid)" || fail "$1 does not say $2"
}

wait_log() # PATTERN
{
    wait_for_line "$LOG" "$1" "$VMMD_PID" || fail "vmmd's log lacks $1"
}

make_cgroup
start_bus
cat >"$TMP/vmmd.conf" <<END
[sharing]
scan_budget = 100
[pressure]
low = 61M
critical = 48M
storm_reserve = 0
END
in_cgroup start_vmmd --config "$TMP/vmmd.conf"
import_guest storm storm
vmctl run storm --name s --count 4 --memory 96M --wait || fail "guests do not start"
vmctl create storm --name late --memory 96M
vmctl set s-4 --priority -20
vmctl set s-3 --priority -10
vmctl memory --settle --timeout 60 || fail "does not settle"
saved=$(vmctl memory --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["total"]["saved"])')
merged=$(usage)
echo $((merged + ROOM)) >"$CGROUP/$LIMIT"
say "merged the guests take $((merged / MIB)) MiB, limit $(((merged + ROOM) / MIB)) MiB, and unmerged $(((merged + saved) / MIB)) MiB"
[ "$saved" -gt $((ROOM + 48 * MIB)) ] || fail "not merged"
expect "'none'" property /org/vmmd1 org.vmmd1.Manager MemoryPressure

say "two guests write to everything"
type_to s-3 s
type_to s-4 s
wait_log 'memory-pressure low'
expect_error '' 'memory is ' vmctl start late
expect_error org.vmmd1.Error.NoMemory 'memory cgroup' guest late Start
case $(property /org/vmmd1 org.vmmd1.Manager MemoryPressureReason) in
*"memory is "*"MiB are available (memory cgroup "*) ;;
*) fail "reason: $(property /org/vmmd1 org.vmmd1.Manager MemoryPressureReason)" ;;
esac
wait_log 'guest-state s-4: paused'
grep -q 'memory-pressure critical' "$LOG" || fail "paused before it was critical"
! grep -q 'guest-state s-[123]: paused' "$LOG" || fail "the lowest priority was not the first"
case $(field_of s-4 reason) in "paused by vmmd: memory is critical"*) ;; *) fail "reason: $(field_of s-4 reason)" ;; esac
say "$(grep 'memory-pressure\|: paused' "$LOG" | tail -n 3)"

say "memory comes back"
vmctl stop -f s-3
wait_console s-4 '^stormed' # it goes on
# It may have become low once more while s-4 went on writing.
wait_until_none() { until [ "$(property /org/vmmd1 org.vmmd1.Manager MemoryPressure)" = "'none'" ]; do :; done; }
export -f wait_until_none property bus_call
timeout 60 bash -c wait_until_none || fail "memory does not come back: $(property /org/vmmd1 org.vmmd1.Manager MemoryPressure)"
for g in s-1 s-2 s-4; do
    [ "$(state_of $g)" = running ] || vmctl wait $g --for running --timeout 30 || fail "$g does not go on"
    type_to $g q
    vmctl wait $g --for stopped --timeout 60 || fail "$g does not end"
    line=$(grep -a 'RIGHT\|WRONG' "$STATE/guests/$g/console.log")
    say "$g: $line"
    case $line in RIGHT*) ;; *) fail "$g: a wrong byte" ;; esac
    expect_state $g stopped
done
grep -q '^RIGHT, wrote to 16384 of 16384' "$STATE/guests/s-4/console.log" || fail "s-4 did not write to everything"
[ "$(sed -n 's/^oom_kill //p' "$CGROUP/$KILLS")" = 0 ] || fail "somebody was killed: $(cat "$CGROUP/$KILLS")"
vmctl start late || fail "a new guest is still refused"
vmctl stop -f late
pass
