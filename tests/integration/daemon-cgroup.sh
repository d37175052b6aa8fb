#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmmd in a real memory cgroup (version 1 or 2) of 192 MiB: what is left in it decides, also when the
# limit is that of the parent. Memory is taken by a file in /dev/shm. Guests run no guest.
. "$(dirname "$0")/functions.sh"
need gdbus jq
need_built vmctl
[ "$(id -u)" = 0 ] || skip "needs root, to make a memory cgroup"
PATH=$BUILD:$PATH

# Where our memory cgroup is, and the names of its files.
own=$(sed -n 's/^[0-9]*:\([^:]*,\)*memory\(,[^:]*\)*://p' /proc/self/cgroup)
if [ -n "$own" ]; then
    top=$(awk '$(NF - 2) == "cgroup" && $NF ~ /(^|,)memory(,|$)/ { print $5; exit }' /proc/self/mountinfo)
    limit=memory.limit_in_bytes
else
    top=$(awk '$(NF - 2) == "cgroup2" { print $5; exit }' /proc/self/mountinfo)
    own=$(sed -n 's/^0:://p' /proc/self/cgroup)
    limit=memory.max
fi
[ -n "$top" ] && mkdir "$top/vmmd-test-$$" 2>/dev/null || skip "no memory cgroup can be made here"
GROUP=$top/vmmd-test-$$
FILL=/dev/shm/vmmd-test-$$
before_removal()
{
    echo $$ >"$top$own/cgroup.procs" || echo $$ >"$top/cgroup.procs"
    rm -f "$FILL"
    # What is in our cgroup was started here; it cannot be removed before they are gone.
    while grep -q . "$GROUP/in/cgroup.procs"; do
        kill -9 $(cat "$GROUP/in/cgroup.procs") 2>/dev/null
    done
    rmdir "$GROUP/in" "$GROUP"
}
if [ $limit = memory.max ]; then
    echo +memory >"$top/cgroup.subtree_control" && echo +memory >"$GROUP/cgroup.subtree_control" ||
        { rmdir "$GROUP"; trap - EXIT; skip "the memory controller is not to be had"; }
fi
mkdir "$GROUP/in"
echo 201326592 >"$GROUP/$limit" || { rmdir "$GROUP/in" "$GROUP"; trap - EXIT; skip "no limit can be set"; }

echo $$ >"$GROUP/in/cgroup.procs"
use_fakes
start_bus
printf '[pressure]\nlow = 64M\ncritical = 24M\n' >"$TMP/vmmd.conf"
start_vmmd --debug --config "$TMP/vmmd.conf"
grep 'reports no memory stalls' "$LOG" >&2 || say "the kernel reports memory stalls"
expect 'uint64 201326592' property /org/vmmd1 org.vmmd1.Manager MemoryTotal
head -c 300000 /dev/urandom >"$TMP/image"
vmctl template import deb --disk "$TMP/image"
vmctl run deb --name web --memory 64M
vmctl create deb --name late --memory 64M
available=$(property /org/vmmd1 org.vmmd1.Manager MemoryAvailable)
[ "${available#uint64 }" -lt 201326592 ] || fail "$available are available in 192 MiB"

head -c $((${available#uint64 } - 48 * 1024 * 1024)) /dev/zero >"$FILL"
expect_error org.vmmd1.Error.NoMemory "of 192 MiB are available (memory cgroup " guest late Start
expect_error '' "/vmmd-test-$$)" vmctl start late
expect "'low'" property /org/vmmd1 org.vmmd1.Manager MemoryPressure
expect "'running'" guest_property web State

head -c $((32 * 1024 * 1024)) /dev/zero >>"$FILL"
wait_for_line "$LOG" 'guest-state web: paused: paused by vmmd: memory is critical' "$VMMD_PID"

rm "$FILL"
wait_for_line "$LOG" 'memory-pressure none' "$VMMD_PID"
until [ "$(grep -c 'guest-state web: running' "$LOG")" = 2 ]; do # it goes on
    kill -0 "$VMMD_PID" && [ -f "$LOG" ] || fail "vmmd ended"
done
expect "'none'" property /org/vmmd1 org.vmmd1.Manager MemoryPressure
expect '()' guest late Start
stop_vmmd TERM || fail "vmmd does not end with status 0"
pass
