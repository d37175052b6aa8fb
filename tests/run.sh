#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# run.sh TEST... - runs each test program or script and counts. Exit status 77 of a test: skipped, it said why. The output of a
# test (its beginning, its errors and its end) is shown when it fails or is skipped. The last line counts: "N passed, N failed, N skipped".
set -u
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for test in "$@"; do
    name=$(basename "$test")
    start=$SECONDS
    timeout -k 10 "${TEST_TIMEOUT:-600}" "$test" >"$log" 2>&1 </dev/null
    status=$?
    case $status in
    0) passed=$((passed + 1)); printf '  ok    %s (%d s)\n' "$name" $((SECONDS - start)) ;;
    77) skipped=$((skipped + 1)); printf '  SKIP  %s: %s\n' "$name" "$(tail -n 1 "$log")" ;;
    *) failed=$((failed + 1)); printf '  FAIL  %s (status %d)\n' "$name" $status; awk 'NR <= 20 || /ERROR|LINE|FAILED/' "$log" | sed 's/^/        /' | head -n 60
        echo "        ..."; sed 's/^/        /' "$log" | tail -n 30 ;;
    esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
