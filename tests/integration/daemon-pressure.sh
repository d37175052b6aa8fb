#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Memory that runs out, as callers see it: the level on the bus, starts that are refused, guests that
# are paused by priority and go on again. The host is a directory of files; guests run no guest.
. "$(dirname "$0")/functions.sh"
need gdbus jq
need_built vmctl
use_fakes
start_bus
PATH=$BUILD:$PATH

HOST=$TMP/host
mkdir -p "$HOST/proc/self" "$HOST/proc/sys/vm" "$HOST/sys/fs/cgroup/vmmd"
# memory AVAILABLE: of a host of 8 GiB, in MiB; written whole.
memory()
{
    printf 'MemTotal: 8388608 kB\nMemAvailable: %d kB\n' $(($1 * 1024)) >"$HOST/proc/new"
    mv "$HOST/proc/new" "$HOST/proc/meminfo"
}
cat >"$TMP/vmmd.conf" <<END
[pressure]
low = 800M
critical = 400M
[sharing]
raise_max_map_count = yes
[group quiet]
timing = hide
[host]
root = $HOST
END
memory 8000
echo 65530 >"$HOST/proc/sys/vm/max_map_count"
start_vmmd --config "$TMP/vmmd.conf"
expect 1048576 cat "$HOST/proc/sys/vm/max_map_count"
grep -q 'raised vm.max_map_count from 65530 to 1048576' "$LOG" || fail "the log does not say it"
expect 'uint64 786432' property /org/vmmd1 org.vmmd1.Manager MaxMappings
expect "'none'" property /org/vmmd1 org.vmmd1.Manager MemoryPressure
expect "''" property /org/vmmd1 org.vmmd1.Manager MemoryPressureReason
expect 'uint64 8589934592' property /org/vmmd1 org.vmmd1.Manager MemoryTotal
expect 'uint64 8388608000' property /org/vmmd1 org.vmmd1.Manager MemoryAvailable
expect 'uint64 838860800' property /org/vmmd1 org.vmmd1.Manager MemoryLow

# ---- share groups that hide timing, priorities ----
head -c 300000 /dev/urandom >"$TMP/image"
vmctl template import deb --disk "$TMP/image"
vmctl run deb --name hidden --memory 64M --share-group quiet --priority 50
vmctl run deb --name alone --memory 64M --share-group none --priority -3
vmctl run deb --name web --memory 64M
[ "$(vmctl info hidden alone web --format json | jq -c 'map([.share_timing, .priority])')" = \
    '[["hide",50],["",-3],["plain",0]]' ] || fail "timing and priority: $(vmctl info hidden --format json)"
vmctl set web hidden --priority -7
vmctl set hidden --priority 50
expect '-7' guest_property web Priority
expect_error '' '--priority wants a number from -100 to 100' vmctl set web --priority 101
expect_error '' '--priority wants a number from -100 to 100' vmctl create deb --name x --priority=-1.5
expect_error '' 'guest "nix" does not exist' vmctl set nix --priority 1
expect_error org.vmmd1.Error.InvalidArgument 'a priority is -100 to 100' \
    bus_call /org/vmmd1/guest/web org.freedesktop.DBus.Properties.Set org.vmmd1.Guest Priority '<int32 1000>'
expect_error org.vmmd1.Error.InvalidArgument 'a priority is' \
    manager CreateGuests deb x '{"priority": <int32 -101>}'
expect '-7' jq .priority "$STATE/guests/web/guest.json"

# ---- low: the start itself looks ----
dbus-monitor --address "$VMMD_BUS_ADDRESS" \
    "type='signal',interface='org.freedesktop.DBus.Properties',path='/org/vmmd1'" >"$TMP/signals" &
monitor=$!
wait_for_line "$TMP/signals" 'member=NameAcquired' $monitor
vmctl create deb --name late --memory 64M
memory 700
expect_error org.vmmd1.Error.NoMemory 'memory is low: 700 of 8192 MiB are available (this host)' guest late Start
expect_error '' 'guests start again from 1000 MiB: stop some, or give vmmd more memory' vmctl start late
expect "'created'" guest_property late State
expect "'low'" property /org/vmmd1 org.vmmd1.Manager MemoryPressure
wait_for_line "$TMP/signals" 'string "low"' $monitor
kill $monitor
wait $monitor 2>/dev/null || :
expect "'running'" guest_property web State
expect '1' grep -c 'memory-pressure low' "$LOG"

# ---- a run that is refused leaves nothing behind ----
expect_error '' 'memory is low' vmctl run deb --name never --memory 64M
expect_error '' 'there is no guest never' vmctl info never

# ---- critical: the lowest priority is paused, and says why ----
memory 300
wait_for_line "$LOG" 'guest-state web: paused' "$VMMD_PID"
expect "'paused by vmmd: memory is critical: 300 of 8192 MiB are available (this host)'" guest_property web Reason
vmctl info web | grep -q '^Reason: *paused by vmmd: memory is critical' || fail "$(vmctl info web)"
wait_for_line "$LOG" 'guest-state alone: paused' "$VMMD_PID" # the next one, as it persists
vmctl resume alone                                           # a person knows better
expect "'running'" guest_property alone State

# ---- the daemon ends meanwhile; the next one lets go on what this one paused ----
vmctl pause hidden
stop_vmmd KILL || :
start_vmmd --config "$TMP/vmmd.conf"
expect "'paused'" guest_property web State
memory 8000
wait_for_line "$LOG" 'guest-state web: running' "$VMMD_PID"
expect "''" guest_property web Reason
expect "'paused'" guest_property hidden State
grep -q 'memory-pressure none' "$LOG" || fail "no event"

# ---- the limit of a memory cgroup counts, and can be lifted ----
echo "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw" >"$HOST/proc/self/mountinfo"
echo "0::/vmmd" >"$HOST/proc/self/cgroup"
echo 1073741824 >"$HOST/sys/fs/cgroup/vmmd/memory.max"
echo 536870912 >"$HOST/sys/fs/cgroup/vmmd/memory.current"
expect_error org.vmmd1.Error.NoMemory 'memory is low: 512 of 1024 MiB are available (memory cgroup /vmmd)' guest late Start
expect 'uint64 1073741824' property /org/vmmd1 org.vmmd1.Manager MemoryTotal
echo max >"$HOST/sys/fs/cgroup/vmmd/memory.max"
expect '()' guest late Start
stop_vmmd TERM || fail "vmmd does not end with status 0"
pass
