# SPDX-License-Identifier: GPL-2.0-or-later
# What tests with real guests share, on top of functions.sh: the cached Debian image, a shell inside a guest, waiting, checks.

DEBIAN=$ROOT/build/cache/bookworm
export VMCTL=$BUILD/vmctl

vmctl() { "$VMCTL" "$@"; }

refused() # TEXT COMMAND...: exit status 1 and one line on stderr that has TEXT
{
    text=$1
    shift
    status=0
    "$@" >"$TMP/out" 2>"$TMP/err" || status=$?
    [ $status = 1 ] || fail "status $status: $* -> $(cat "$TMP/err")"
    [ "$(wc -l <"$TMP/err")" = 1 ] || fail "not one line: $* -> $(cat "$TMP/err")"
    grep -qF -e "$text" "$TMP/err" || fail "\"$text\" is missing: $* -> $(cat "$TMP/err")"
}

need_debian()
{
    need python3 qemu-img
    need_built vmctl vmmd-guest vmmd-import
    [ -f "$DEBIAN/done" ] || skip "no Debian image: run tests/rootfs.sh build/cache/bookworm as root"
}

import_debian() # NAME
{
    vmctl template import "$1" --disk "$DEBIAN/disk.raw" || fail "import"
}

# A template around one of our own test guests.
import_guest() # NAME GUEST
{
    [ -f "$BUILD/guests/$2" ] || skip "$BUILD/guests/$2 is not built"
    truncate -s 1M "$TMP/$1.raw"
    vmctl template import "$1" --disk "$TMP/$1.raw" --kernel "$BUILD/guests/$2" --cmdline "console=ttyS0" || fail "import"
}

inside() # NAME COMMAND: runs it in the guest's shell; prints its output
{
    "$ROOT/tests/guest-shell.py" "$1" "$2"
}

state_of() # NAME
{
    vmctl list --format json | python3 -c 'import json, sys
print([g["state"] for g in json.load(sys.stdin) if g["name"] == sys.argv[1]][0])' "$1"
}

field_of() # NAME FIELD: of vmctl info
{
    vmctl info "$1" --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

expect_state() # NAME STATE
{
    state=$(state_of "$1")
    [ "$state" = "$2" ] || fail "$1 is $state, should be $2 ($(field_of "$1" reason))"
}

check_overlay() # NAME: qemu-img finds nothing wrong with it
{
    output=$(qemu-img check "$STATE/guests/$1/overlay.qcow2" 2>&1) || fail "qemu-img check of $1: $output"
}
