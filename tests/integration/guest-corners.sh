#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Corners of the engine that were wrong once: watchpoints hit by an interrupt's own writes, and wake-ups lost between a guest's last
# look and its HLT. The guest is typed to in the moment in which it halts, while it is paused and resumed: each byte is answered. An endless loop of #DB (as in
# CVE-2015-8104) holds up nobody else.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need python3
need_built vmctl vmmd-guest vmmd-import
start_bus
start_vmmd
import_guest corners corners
vmctl run corners --name c --memory 64M --wait --timeout 60 || fail "it hangs: $(vmctl logs c | tail -n 1)"
vmctl logs c | grep -a ': '
! vmctl logs c | grep -qa BAD || fail "not as it should be"
for what in watchpoint 'watched stack' halting; do
    vmctl logs c | grep -qa "^$what: good" || fail "$what: no word"
done

cat >"$TMP/type.py" <<'PY'
import os, selectors, subprocess, sys, threading
vmctl, rounds, pauses = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
console = subprocess.Popen([vmctl, "console", "c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
selector = selectors.DefaultSelector()
selector.register(console.stdout, selectors.EVENT_READ)

def pause_and_resume():
    for _ in range(pauses):
        subprocess.check_call([vmctl, "pause", "c"], timeout=60)
        subprocess.check_call([vmctl, "resume", "c"], timeout=60)

pauser = threading.Thread(target=pause_and_resume)
pauser.start()
for i in range(rounds):
    letter = chr(97 + i % 26)
    console.stdin.write(letter.encode())
    if not selector.select(60):
        sys.exit(f"byte {i} was not answered")
    answer = os.read(console.stdout.fileno(), 64)
    if answer != letter.upper().encode():
        sys.exit(f"byte {i}, {letter}, was answered by {answer!r}")
pauser.join()
console.terminate()
console.wait(60)
print(f"{rounds} bytes answered")
PY
python3 "$TMP/type.py" "$VMCTL" 5000 40 || fail "a wake-up was lost"
printf . | vmctl console c --linger 0 >/dev/null || true
vmctl wait c --for stopped --timeout 30 || fail "it does not end"
vmctl logs c | grep -qa 'DONE' || fail "it did not get to its end"

say "a guest that can only be stopped by force can be"
vmctl start c --wait --timeout 60 || fail "it does not start again"
printf '!' | vmctl console c --linger 0 >/dev/null || fail "cannot type"
wait_for_line "$STATE/guests/c/console.log" '^endless' "$(field_of c pid)" || fail "it did not begin"
for command in pause resume "stop -f"; do
    timeout 60 "$VMCTL" $command c || fail "$command does not come through to it"
done
expect_state c stopped
! vmctl logs c | grep -qa BAD || fail "not as it should be"
pass
