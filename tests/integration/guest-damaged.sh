#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# One flipped bit in a template below a running guest: reads of that block fail inside with an I/O error, those of its neighbours
# do not, and template and offset are told once. Mended, the block can be read again.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
need_debian
start_bus
start_vmmd

# Behind the image there is room that nobody reads on his own.
cp --sparse=always "$DEBIAN/disk.raw" "$TMP/disk.raw"
size=$(stat -c %s "$TMP/disk.raw")
head -c 1M /dev/urandom >>"$TMP/disk.raw"
vmctl template import debian --disk "$TMP/disk.raw" || fail "import"
disk=$STATE/templates/debian/disk.raw
chmod u+w "$disk"
block=$((size / 4096 + 100))
offset=$((block * 4096))

vmctl run debian --name one --memory 256M --wait || fail "no login prompt: $(vmctl logs one | tail -n 5)"
vmctl events >"$TMP/events" 2>&1 &
events=$!

put_byte() # OCTAL
{
    printf "\\$1" | dd of="$disk" bs=1 seek=$((offset + 77)) conv=notrunc status=none
}
old=$(dd if="$disk" bs=1 skip=$((offset + 77)) count=1 status=none | od -An -to1 | tr -d ' ')
new=$(printf '%03o' $((8#$old ^ 4)))
read_block() # NUMBER: its checksum, or the error of dd
{
    inside one "dd if=/dev/vda bs=4096 skip=$1 count=1 iflag=direct 2>/tmp/error | md5sum; grep -o 'Input/output error' /tmp/error"
}
sum_of() { dd if="$disk" bs=4096 skip="$1" count=1 status=none | md5sum; }

put_byte "$new"
read_block "$block" | grep -q 'Input/output error' || fail "the damaged block is read: $(read_block "$block")"
read_block "$block" | grep -q 'Input/output error' || fail "the damaged block is read the second time"
for near in $((block - 1)) $((block + 1)); do
    [ "$(read_block $near)" = "$(sum_of $near)" ] || fail "block $near is not read: $(read_block $near)"
done
wait_for_line "$TMP/events" "template-damaged.*debian.*byte $offset of .*guest one" "$events" ||
    fail "not told: $(cat "$TMP/events")"
grep -q "template-damaged debian: the block at byte $offset" "$LOG" || fail "not in the log"
[ "$(grep -c template-damaged "$LOG")" = 1 ] || fail "told more than once"

say "mended"
put_byte "$old"
[ "$(read_block "$block")" = "$(sum_of "$block")" ] || fail "not read when it is good again"
kill "$events"
vmctl stop -f one || fail "stop"
check_overlay one
pass
