#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# One unmodified Debian guest through its life: boot to the login prompt, work, power button, start again, reboot from inside,
# pause, forced stop. Its overlay is clean after each stop and keeps what was written.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_debian
start_bus
start_vmmd
import_debian debian

vmctl run debian --name one --memory 256M --wait || fail "no login prompt: $(vmctl logs one | tail -n 5)"
expect_state one running
vmctl logs one | grep -q 'login:' || fail "the log lacks the login prompt"
case $(inside one 'uname -r') in 6.*) ;; *) fail "no shell in the guest" ;; esac
[ "$(inside one 'cat /sys/class/misc/hw_random/rng_current; nproc; systemctl is-system-running')" = "virtio_rng.0
1
running" ] || fail "the guest is not well: $(inside one 'cat /sys/class/misc/hw_random/rng_*; systemctl --failed')"
inside one 'ls /dev/virtio-ports' | grep -q org.qemu.guest_agent.0 || fail "no guest agent port"
inside one 'echo kept >/root/kept; sync' || fail "cannot write in the guest"

say "power button"
vmctl stop one || fail "the power button does not stop it"
expect_state one stopped
vmctl logs one | grep -q 'Power down' || fail "it did not shut down properly"
check_overlay one

say "start again"
vmctl start one --wait || fail "does not start again"
[ "$(inside one 'cat /root/kept')" = kept ] || fail "what was written is gone"

say "pause and resume"
vmctl pause one
expect_state one paused
cpu() { awk '{ print $14 + $15 }' "/proc/$(field_of one pid)/stat"; }
before=$(cpu)
expect_state one paused
[ "$(cpu)" -le $((before + 5)) ] || fail "a paused guest runs"
vmctl resume one
expect_state one running
[ "$(inside one 'echo awake')" = awake ] || fail "it does not answer after resume"

say "reboot from inside"
vmctl events >"$TMP/events" 2>&1 &
events=$!
inside one '(sleep 1; systemctl reboot) >/dev/null 2>&1 &'
vmctl wait one --for login --timeout 120 --again 2>/dev/null || timeout 120 sh -c "tail -n +1 -f '$TMP/events' | grep -q -m 1 'guest-login'" ||
    fail "no login prompt after a reboot: $(cat "$TMP/events")"
kill "$events" 2>/dev/null || true
expect_state one running
[ "$(inside one 'cat /root/kept')" = kept ] || fail "what was written is gone after a reboot"

say "power-off while no vmmd runs; the next one hears of it"
inside one '(sleep 3; systemctl poweroff) >/dev/null 2>&1 &'
stop_vmmd KILL || true
mkfifo "$TMP/new-lines"
tail -n 0 -f "$STATE/guests/one/console.log" >"$TMP/new-lines" &
tail=$!
timeout 120 grep -a -q -m 1 'Power down' "$TMP/new-lines" || fail "it does not power off"
kill "$tail" 2>/dev/null || true
start_vmmd
vmctl wait one --for stopped --timeout 30 || fail "vmmd does not hear of the end"
expect_state one stopped
case $(field_of one reason) in *"powered off"*) ;; *) fail "reason: $(field_of one reason)" ;; esac
check_overlay one
vmctl start one --wait || fail "does not start again"

say "forced stop"
vmctl stop -f one || fail "stop -f"
expect_state one stopped
check_overlay one
vmctl delete one || fail "delete"
vmctl template delete debian || fail "template delete"
[ -z "$(ls "$STATE/guests" "$STATE/templates" | grep -v :)" ] || fail "something is left in $STATE: $(ls "$STATE"/*)"
pass
