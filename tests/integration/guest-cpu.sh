#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Processor time while guests run. Two guests with equal loads compete for one host CPU (vmmd, and so its guests, is bound to it).
#
# How a preference is measured: the loads do not end, and count pieces of work. From one moment on, both have to do N more pieces; what
# is compared is when each of them has. So both compete all the time, and with shares 4:1 the preferred one should need 1/4 of the
# other's time; 0.45 is the most that is accepted. (If the other's load came to run alone once the preferred one has ended, as two jobs
# of fixed length do, the best that any scheduler could show is 0.625.) All are ratios of two things in one run.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3 taskset
need_built vmctl vmmd-guest vmmd-import
start_bus
cpu=$(python3 -c 'import os; print(min(os.sched_getaffinity(0)))')
taskset -cp "$cpu" $$ >/dev/null || skip "cannot bind to a CPU"
start_vmmd
import_guest spin spin
vmctl run spin --name a --memory 64M --shares 400 --engine soft --share-group none --wait || fail "a does not start"
vmctl run spin --name b --memory 64M --engine soft --share-group none --wait || fail "b does not start"
case $(field_of a cpu_control) in "not in effect"*) skip "$(field_of a cpu_control)" ;; esac
say "by $(field_of a cpu_control); $(field_of b cpu_control)"

cat >"$TMP/race.py" <<'PY'
# race.py PIECES LOG...: when each log has that many more lines, as the first one's time divided by the second's (or the time alone).
import selectors, subprocess, sys, time
pieces, logs = int(sys.argv[1]), sys.argv[2:]
tails = [subprocess.Popen(["tail", "-n", "0", "-f", log], stdout=subprocess.PIPE) for log in logs]
selector = selectors.DefaultSelector()
count, took = {}, {}
for tail in tails:
    tail.stdout.read1()  # it follows: the common beginning is when all do
    selector.register(tail.stdout, selectors.EVENT_READ, tail)
    count[tail] = 0
for tail in tails[:-1]:
    tail.stdout.read1()
began = time.monotonic()
while len(took) < len(tails):
    events = selector.select(120)
    if not events:
        sys.exit("a guest does not get on")
    for key, _ in events:
        count[key.data] += key.fileobj.read1().count(b"\n")
        if count[key.data] >= pieces and key.data not in took:
            took[key.data] = time.monotonic() - began
for tail in tails:
    tail.kill()
print("%.3f" % (took[tails[0]] / (took[tails[1]] if len(tails) > 1 else 1)))
PY
log() { echo "$STATE/guests/$1/console.log"; }
race() { python3 "$TMP/race.py" "$@" || fail "no race"; }
is() { python3 -c "import sys; sys.exit(not ($1))"; }

r=$(race 100 "$(log a)" "$(log b)")
say "shares 400:100, time of the preferred one / the other's: $r (at best 0.25)"
is "$r <= 0.45" || fail "the preferred one is not preferred enough"

vmctl set a --shares 100
vmctl set b --shares 400
r=$(race 100 "$(log b)" "$(log a)")
say "changed while they run to 100:400: $r"
is "$r <= 0.45" || fail "a change has no effect on guests that run"
[ "$(field_of b cpu_shares)" = 400 ] || fail "shares are not told"

vmctl set b --shares 100
r=$(race 100 "$(log b)" "$(log a)")
say "equal again: $r"
is "0.55 <= $r <= 1.8" || fail "equal guests are not treated equally"

case $(field_of a cpu_control) in
cgroup*)
    if [ "$(nproc --all)" = 2 ]; then
        vmctl set a --shares 1000
        vmctl set b --cpu-reserve 100 # half of this host: as much as the other one
        r=$(race 100 "$(log b)" "$(log a)")
        say "shares 100:1000, half of the host reserved for the first: $r"
        is "0.55 <= $r <= 1.8" || fail "a reserve is not kept"
        vmctl set b --cpu-reserve none
    fi
    vmctl pause b
    for attempt in 1 2 3; do # others use this CPU, too, and may come and go
        free=$(race 100 "$(log a)")
        vmctl set a --cpu-limit 25
        limited=$(race 100 "$(log a)")
        vmctl set a --cpu-limit none
        r=$(python3 -c "print('%.3f' % ($free / $limited))")
        say "without a limit / limited to a quarter of a core: $r (alone on its CPU: 0.25)"
        is "0.2 <= $r <= 0.45" && break
        [ $attempt != 3 ] || fail "a limit of a quarter is not kept"
    done
    say "settings survive the daemon, and hold again"
    vmctl set a --cpu-limit 50 --cpu-reserve 20%
    stop_vmmd KILL || true
    start_vmmd
    [ "$(field_of a cpu_limit) $(field_of a cpu_reserve)" = "50 20" ] || fail "the settings are lost"
    case $(field_of a cpu_control) in cgroup*) ;; *) fail "no control after a restart: $(field_of a cpu_control)" ;; esac
    group=$(field_of a cpu_control | sed 's/.*, //')
    grep -q "$(field_of a pid)" "$group/cgroup.procs" || fail "the process is not in $group"
    ;;
*)
    say "no cgroup here: limits and reserves are refused"
    expect_error "" "a CPU limit needs a cgroup" vmctl set a --cpu-limit 25
    group=
    ;;
esac
vmctl stop -f a b
[ ! -d "$group" ] || fail "$group is still there"
[ -z "$(field_of a cpu_control | tr -d -)" ] || fail "control of a stopped guest: $(field_of a cpu_control)"

[ "$(id -u)" = 0 ] || { say "not root: no priority can be raised"; pass; }
say "a host without cgroups: by priority"
stop_vmmd TERM
mkdir "$TMP/host" && ln -s /proc "$TMP/host/proc"
printf '[host]\nroot = %s\n' "$TMP/host" >"$TMP/vmmd.conf"
start_vmmd --config "$TMP/vmmd.conf"
vmctl set a --shares 400 --cpu-limit none --cpu-reserve none || fail "a host without cgroups cannot do without limits"
vmctl start a b --wait
case $(field_of a cpu_control) in "scheduler priority: nice -6"*) ;; *) fail "control: $(field_of a cpu_control)" ;; esac
r=$(race 100 "$(log a)" "$(log b)")
say "shares 400:100 by $(field_of a cpu_control): $r"
is "$r <= 0.45" || fail "priority has no effect"
expect_error "" "a CPU limit needs a cgroup" vmctl set b --cpu-limit 25
pass
