#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# vmctl --help, the man page and bash completion say the same: every command with its options, and
# every option with a text, both ways.
. "$(dirname "$0")/functions.sh"
need_built vmctl
PATH=$BUILD:$PATH
MAN=$ROOT/man/vmctl.1

# Lines "COMMAND: --OPTION ..." from usage lines on stdin.
commands()
{
    while read -r line; do
        words=$(sed 's/ [^a-z].*//' <<<"$line")
        options=$(grep -o -e '--[a-z][a-z-]*' <<<"$line" | sort | tr '\n' ' ')
        echo "$words: $options"
    done | sort
}

plain_man()
{
    sed 's/\\f[A-Z]//g; s/\\-/-/g' "$MAN"
}

vmctl --help | sed -n '/^commands:/,/^options/s/^  vmctl //p' | commands >"$TMP/help"
plain_man | sed -n 's/^\.SS vmctl //p' | commands >"$TMP/man"
[ "$(wc -l <"$TMP/help")" -ge 22 ] || fail "vmctl --help shows only $(wc -l <"$TMP/help") commands"
diff "$TMP/help" "$TMP/man" >&2 || fail "commands: vmctl --help (<) and vmctl.1 (>) differ"

# Options: those of all commands and of every single one against the section OPTIONS.
vmctl --help | grep -o -e '--[a-z][a-z-]*' | sort -u >"$TMP/help-options"
plain_man | sed -n '/^\.SH OPTIONS/,/^\.SH MEMORY/p' | grep -A 1 '^\.TP' | grep -o -e '--[a-z][a-z-]*' |
    sort -u >"$TMP/man-options"
diff "$TMP/help-options" "$TMP/man-options" >&2 || fail "options: vmctl --help (<) and vmctl.1 (>) differ"

# Each command has help of its own that names its options.
while IFS=: read -r words options; do
    # shellcheck disable=SC2086 # words are separate arguments
    vmctl $words --help >"$TMP/one" || fail "vmctl $words --help fails"
    # shellcheck disable=SC2086
    vmctl help $words | cmp -s - "$TMP/one" || fail "vmctl help $words differs from vmctl $words --help"
    for option in $options; do
        grep -q -e "^  .*$option" "$TMP/one" || fail "vmctl $words --help does not explain $option"
    done
done <"$TMP/help"

# Completion: commands, options, and values.
# shellcheck source=/dev/null
. "$ROOT/cli/vmctl.bash"
complete_line()
{
    COMP_WORDS=("$@")
    COMP_CWORD=$(($# - 1))
    COMPREPLY=()
    _vmctl_complete
    printf '%s\n' "${COMPREPLY[@]}"
}
expect 'memory' complete_line vmctl mem
expect 'import' complete_line vmctl template im
expect '--settle' complete_line vmctl memory --se
expect '--iterations' complete_line vmctl top --it
expect '--priority' complete_line vmctl set a --prio
expect '--follow' complete_line vmctl logs --fol
expect '--kernel' complete_line vmctl template import --k
expect 'csv' complete_line vmctl --format c
expect 'stopped' complete_line vmctl wait a --for s
expect 'convert' complete_line vmctl image con
expect '--shrink' complete_line vmctl image resize --sh
expect 'leaks' complete_line vmctl image check --repair l
cut -d : -f 1 "$TMP/help" | cut -d ' ' -f 1 | sort -u >"$TMP/first"
complete_line vmctl '' | grep -v -e '^--' -e '^help$' | sort -u | diff "$TMP/first" - >&2 ||
    fail "commands: vmctl --help (<) and completion (>) differ"

expect "vmctl $(sed -n 's/.*CLI_VERSION  *"\(.*\)"/\1/p' "$ROOT/cli/cli.h")" vmctl --version
# vmmd --help and vmmd.8 name the same options.
if [ -x "$BUILD/vmmd" ]; then
    "$BUILD/vmmd" --help | grep -o -e '--[a-z][a-z-]*' | sort -u >"$TMP/help"
    sed -n 's/.*Fl -\([a-z-]*\).*/--\1/p' "$ROOT/man/vmmd.8" | sort -u >"$TMP/man"
    diff "$TMP/help" "$TMP/man" >&2 || fail "options: vmmd --help (<) and vmmd.8 (>) differ"
fi
pass
