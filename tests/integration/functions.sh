# SPDX-License-Identifier: GPL-2.0-or-later
# What integration tests share: a private bus and a private vmmd in a temporary directory, and their
# certain end. Source it from a POSIX shell script that lies beside it:
#
#     . "$(dirname "$0")/functions.sh"
#     need busctl qemu-img            # exit 77 if one is missing
#     start_bus; start_vmmd
#     ...                             # VMMD_BUS_ADDRESS (exported), STATE, RUN, LOG, VMMD_PID
#     pass                            # or simply end: a failed command ends the test (set -e)
#
# A script may define before_removal: called last, before the temporary directory is removed.
# BUILD names the directory of the programs (default: build). Everything started here ends when the
# script does, in whatever way: stop_all is its exit trap.

set -eu

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
BUILD=$(cd "$ROOT" && cd "${BUILD:-build}" && pwd)
TMP=$(mktemp -d "${TMPDIR:-/tmp}/vmmd-test.XXXXXX")
STATE=$TMP/state
RUN=$TMP/run
LOG=$TMP/vmmd.log
BUS_PID=
VMMD_PID=
TEST_NAME=$(basename "$0" .sh)

say()
{
    printf '%s: %s\n' "$TEST_NAME" "$*" >&2
}

skip()
{
    say "skipped: $*"
    exit 77
}

# fail TEXT: ends the test, showing the end of vmmd's log.
fail()
{
    say "FAILED: $*"
    if [ -s "$LOG" ]; then
        tail -n 30 "$LOG" | sed 's/^/    /' >&2
    fi
    exit 1
}

pass()
{
    say "passed"
    exit 0
}

need()
{
    for program; do
        command -v "$program" >/dev/null || skip "$program is not installed"
    done
}

need_built()
{
    for program; do
        [ -x "$BUILD/$program" ] || skip "$BUILD/$program is not built"
    done
}

# A message bus of our own: sets and exports VMMD_BUS_ADDRESS.
start_bus()
{
    need dbus-daemon
    cat >"$TMP/bus.conf" <<END
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=$TMP/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
END
    mkfifo "$TMP/address"
    dbus-daemon --config-file="$TMP/bus.conf" --nofork --nosyslog --print-address \
        >"$TMP/address" 2>"$TMP/bus.log" &
    BUS_PID=$!
    read -r VMMD_BUS_ADDRESS <"$TMP/address" || fail "dbus-daemon does not start: $(cat "$TMP/bus.log")"
    export VMMD_BUS_ADDRESS
}

# wait_for_line FILE PATTERN PID: until a line of FILE matches, or the process ended. The shell that
# starts the process may not have made the file yet.
wait_for_line()
{
    : >>"$1"
    tail -n +1 -f --pid="$3" "$1" 2>/dev/null | grep -q -m 1 -e "$2"
}

# start_vmmd [OPTION...]: vmmd --session on the private bus; returns when it has its name.
start_vmmd()
{
    need_built vmmd
    : >"$LOG"
    "$BUILD/vmmd" --session --state-dir "$STATE" --runtime-dir "$RUN" \
        --bus-address "$VMMD_BUS_ADDRESS" "$@" >>"$LOG" 2>&1 &
    VMMD_PID=$!
    wait_for_line "$LOG" 'serving org.vmmd1' "$VMMD_PID" || fail "vmmd does not start"
}

# stop_vmmd [SIGNAL]: ends the daemon (TERM) and waits for it; guests run on. Its exit status.
stop_vmmd()
{
    [ -n "$VMMD_PID" ] || return 0
    kill -s "${1:-TERM}" "$VMMD_PID"
    status=0
    wait "$VMMD_PID" 2>/dev/null || status=$?
    VMMD_PID=
    return $status
}

# Pids of the guest processes that vmmd wrote down and that are really ours: their log lies in STATE.
guest_pids()
{
    for record in "$STATE"/guests/*/state.json; do
        [ -f "$record" ] || continue
        pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$record")
        case $(readlink "/proc/$pid/fd/1" 2>/dev/null) in
        "$STATE"/*) echo "$pid" ;;
        esac
    done
}

stop_all()
{
    status=$?
    trap - EXIT INT TERM HUP
    set +e
    [ -n "$VMMD_PID" ] && kill -9 "$VMMD_PID" 2>/dev/null && wait "$VMMD_PID" 2>/dev/null
    for pid in $(guest_pids); do
        kill -9 "$pid" 2>/dev/null
    done
    # cgroups of guests whose daemon was killed, too
    for config in "$STATE"/guests/*/guest.json; do
        uuid=$(sed -n 's/.*"uuid": "\([0-9a-f]*\)".*/\1/p' "$config" 2>/dev/null)
        [ -z "$uuid" ] || find /sys/fs/cgroup -depth -type d -name "vmmd.*.$uuid" -exec rmdir {} + 2>/dev/null
    done
    [ -n "$BUS_PID" ] && kill "$BUS_PID" 2>/dev/null && wait "$BUS_PID" 2>/dev/null
    command -v before_removal >/dev/null && before_removal
    if [ -n "${KEEP:-}" ]; then
        say "kept $TMP"
    else
        rm -rf "$TMP"
    fi
    exit $status
}
trap stop_all EXIT
trap 'exit 130' INT TERM HUP

# expect_error NAME TEXT COMMAND...: the command fails, its output names both.
expect_error()
{
    name=$1 text=$2
    shift 2
    if output=$("$@" 2>&1); then
        fail "succeeded, but should not: $* -> $output"
    fi
    case $output in
    *"$name"*) ;;
    *) fail "expected error $name of: $* -> $output" ;;
    esac
    case $output in
    *"$text"*) ;;
    *) fail "expected \"$text\" of: $* -> $output" ;;
    esac
}

# expect VALUE COMMAND...: the command prints exactly this.
expect()
{
    wanted=$1
    shift
    got=$("$@" 2>&1) || fail "failed: $* -> $got"
    [ "$got" = "$wanted" ] || fail "expected \"$wanted\" of: $* -> \"$got\""
}

# Lets vmmd run tests/unit/fake-guest.c and fake-guest-import.c in place of the real programs; before
# start_vmmd. (A fake's behaviour is told by its guest's name, an import's by the image's first word.)
use_fakes()
{
    need_built tests/fake-guest tests/fake-guest-import
    mkdir "$TMP/libexec"
    ln -s "$BUILD/tests/fake-guest" "$TMP/libexec/vmmd-guest"
    ln -s "$BUILD/tests/fake-guest-import" "$TMP/libexec/vmmd-import"
    export VMMD_LIBEXEC="$TMP/libexec"
}

# ---- calls of the bare bus (gdbus) ----

# bus_call PATH INTERFACE.METHOD ARGUMENT...
bus_call()
{
    path=$1 method=$2
    shift 2
    DBUS_SESSION_BUS_ADDRESS=$VMMD_BUS_ADDRESS gdbus call --session --dest org.vmmd1 \
        --object-path "$path" --method "$method" "$@"
}

manager()
{
    method=$1
    shift
    bus_call /org/vmmd1 "org.vmmd1.Manager.$method" "$@"
}

# Whether vmmd found that this host runs guests in hardware.
can_kvm()
{
    [ "$(property /org/vmmd1 org.vmmd1.Manager Engine)" = "'kvm'" ]
}

# guest LABEL METHOD ARGUMENT...: LABEL is the name with every byte outside [A-Za-z0-9] as _xx.
guest()
{
    label=$1 method=$2
    shift 2
    bus_call "/org/vmmd1/guest/$label" "org.vmmd1.Guest.$method" "$@"
}

# property PATH INTERFACE NAME: its value as GVariant text.
property()
{
    bus_call "$1" org.freedesktop.DBus.Properties.Get "$2" "$3" | sed 's/^(<\(.*\)>,)$/\1/'
}

guest_property()
{
    property "/org/vmmd1/guest/$1" org.vmmd1.Guest "$2"
}
