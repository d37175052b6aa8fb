#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# vmctl image beside qemu-img: whatever ours makes, theirs finds clean, equal and as described.
. "$(dirname "$0")/functions.sh"
need qemu-img qemu-io qemu-nbd jq script "${CC:-cc}"
need_built vmctl vmmd-image
cd "$TMP"
export VMMD_BUS_ADDRESS=unix:path=/nowhere # no vmmd is needed, and none is there
V="$BUILD/vmctl image"

clean() { qemu-img check -q -f qcow2 "$1" || fail "qemu-img check $1"; }
same() { qemu-img compare -q "$1" "$2" || fail "$1 and $2 differ"; }
# refused STATUS TEXT ARGUMENT...
refused()
{
    local wanted=$1 text=$2 status=0
    shift 2
    $V "$@" >out 2>&1 || status=$?
    [ "$status" = "$wanted" ] || fail "vmctl image $*: exit $status, not $wanted: $(cat out)"
    grep -q -e "$text" out || fail "vmctl image $*: no \"$text\" in: $(cat out)"
}
field() { $V info --format json "$1" | jq -r ".$2"; }

head -c 3M /dev/urandom >base.raw
truncate -s 8M base.raw
cp base.raw base.copy

# ---- create
mkdir sub
$V create sub/over.qcow2 --backing ../base.raw
clean sub/over.qcow2
same sub/over.qcow2 base.raw
qemu-img info --output=json sub/over.qcow2 |
    jq -e '."backing-filename" == "../base.raw" and ."backing-filename-format" == "raw" and ."virtual-size" == 8388608' >/dev/null ||
    fail "a new overlay: $(qemu-img info sub/over.qcow2)"
[ "$(field sub/over.qcow2 backing_format)" = raw ] || fail "info: backing format"
[ "$(field sub/over.qcow2 size)" = 8388608 ] || fail "info: size"
[ "$(field base.raw image_format)" = raw ] || fail "info of a raw image"
$V create alone.qcow2 --size 10G --cluster-size 4K
clean alone.qcow2
[ "$(qemu-img info --output=json alone.qcow2 | jq '."virtual-size", ."cluster-size"' | tr '\n' ' ')" = "10737418240 4096 " ] || fail "create --size"
refused 1 "exists already.*--replace" create alone.qcow2 --size 1G
$V create alone.qcow2 --size 1G --replace
[ "$(field alone.qcow2 size)" = 1073741824 ] || fail "--replace"
refused 1 "a size is missing" create none.qcow2
refused 1 "nowhere.raw: No such file" create none.qcow2 --backing nowhere.raw
refused 2 "wants a size" create none.qcow2 --size 1x
refused 2 "wants a size" create none.qcow2 --size 1000
refused 2 "power of two" create none.qcow2 --size 1G --cluster-size 3K
[ ! -e none.qcow2 ] || fail "a file that was not made is there"
refused 1 "cannot create .*/no/where" create "$TMP/no/where" --size 1G
refused 2 "unknown option" info base.raw --shrink
refused 2 "something is missing" info

# ---- a chain of three, with all kinds of clusters
qemu-io -f qcow2 -c "write -P 1 100k 500k" -c "write -z 2M 300k" -c "write -P 2 7M 1M" sub/over.qcow2 >/dev/null
$V create top.qcow2 --backing sub/over.qcow2 --size 11M
[ "$(field top.qcow2 backing_format)" = qcow2 ] || fail "the backing file's format was not recognised"
qemu-io -f qcow2 -c "write -P 3 0 200k" -c "write -z 7500k 300k" -c "write -P 4 9M 70k" top.qcow2 >/dev/null
qemu-img convert -O raw top.qcow2 model.raw

# ---- convert
for options in "" "--to raw" "--compress" "--cluster-size 512" "--cluster-size 2M --compress"; do
    # shellcheck disable=SC2086
    $V convert top.qcow2 --output new --replace $options || fail "convert $options"
    [ "$options" = "--to raw" ] || clean new
    same new model.raw
    qemu-img info new | grep -q backing && fail "convert $options: not alone"
done
$V convert top.qcow2 --output sparse.raw --to raw
[ "$(du -k sparse.raw | cut -f 1)" -lt 6000 ] || fail "convert --to raw fills holes"
yes "much the same" | head -c 4M >text.raw
$V convert text.raw --output text.qcow2 --compress
clean text.qcow2
same text.qcow2 text.raw
[ "$(stat -c %s text.qcow2)" -lt 1000000 ] || fail "--compress does not compress"
for options in "-o extended_l2=on" "-c -o compression_type=zstd" "-o compat=0.10" "-c -o cluster_size=512"; do
    # shellcheck disable=SC2086
    qemu-img convert -O qcow2 $options model.raw foreign.qcow2
    $V convert foreign.qcow2 --output new --replace || fail "convert of $options"
    clean new
    same new model.raw
    $V check foreign.qcow2 >/dev/null || fail "check of $options"
done
qemu-img convert -O qcow2 model.raw snap.qcow2
qemu-img snapshot -c "before it" snap.qcow2
qemu-io -f qcow2 -c "write -P 9 0 1M" snap.qcow2 >/dev/null
$V convert snap.qcow2 --snapshot "before it" --output new --replace
same new model.raw
[ "$($V snapshots --format csv snap.qcow2 | cut -d , -f 1-3)" = "id,name,size
1,before it,11534336" ] || fail "snapshots: $($V snapshots --format csv snap.qcow2)"
refused 1 "no snapshot\|snapshot" convert snap.qcow2 --snapshot other --output new2
[ ! -e new2 ] || fail "convert left a file"
refused 2 "raw image has no clusters" convert top.qcow2 --output new2 --to raw --compress
refused 1 "exists already" convert top.qcow2 --output new

qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=on outer.qcow2 4M
qemu-io -f qcow2 -c "write -P 1 1M 1M" outer.qcow2 >/dev/null
(cd sub && $V convert ../outer.qcow2 --output ../inner.qcow2) || fail "convert of an image with a data file"
same outer.qcow2 inner.qcow2
refused 1 "external file.*image convert" resize outer.qcow2 --size 8M

# ---- resize
cp top.qcow2 r.qcow2
for size in 20M 5000192 30G 11M; do
    $V resize r.qcow2 --size "$size" --shrink || fail "resize to $size"
    clean r.qcow2
    truncate -s "${size/G/GiB}" model2.raw
done
cp model.raw model2.raw
truncate -s 5000192 model2.raw
truncate -s 11M model2.raw
same r.qcow2 model2.raw
refused 1 "--shrink cuts it off" resize r.qcow2 --size 1M
cp base.raw r.raw
$V resize r.raw --size 9M
[ "$(stat -c %s r.raw)" = 9437184 ] || fail "resize of a raw image"

# ---- rebase
head -c 6M base.raw >other.raw
printf x | dd of=other.raw bs=1 seek=2500000 conv=notrunc status=none
cp top.qcow2 b.qcow2
$V rebase b.qcow2 --backing other.raw
clean b.qcow2
same b.qcow2 model.raw
[ "$(field b.qcow2 backing),$(field b.qcow2 backing_format)" = other.raw,raw ] || fail "rebase: the name"
$V rebase b.qcow2 --backing sub/over.qcow2
same b.qcow2 model.raw
$V rebase b.qcow2 --backing ""
clean b.qcow2
same b.qcow2 model.raw
[ "$(field b.qcow2 backing)" = "" ] || fail "rebase to nothing"
cp top.qcow2 b.qcow2
mv sub/over.qcow2 sub/moved.qcow2
refused 1 "over.qcow2" convert b.qcow2 --output new3
$V rebase b.qcow2 --backing sub/moved.qcow2 --backing-format qcow2 --unsafe
same b.qcow2 model.raw
mv sub/moved.qcow2 sub/over.qcow2
cp top.qcow2 b.qcow2
refused 1 "under itself" rebase b.qcow2 --backing b.qcow2
refused 2 "an option is missing" rebase b.qcow2

# ---- commit
cp top.qcow2 c.qcow2
cp sub/over.qcow2 sub/keep.qcow2
$V commit c.qcow2 --keep
same c.qcow2 model.raw
same sub/over.qcow2 model.raw
clean sub/over.qcow2
$V commit c.qcow2
clean c.qcow2
same c.qcow2 model.raw
[ "$(qemu-img map --output=json c.qcow2 | jq '[.[] | select(.depth == 0 and .present)] | length')" = 0 ] || fail "commit does not empty"
$V commit sub/over.qcow2
same base.raw model.raw
same c.qcow2 model.raw
refused 1 "no backing file" commit alone.qcow2
cmp -s base.raw base.copy && fail "the commit changed nothing"

# ---- check
$V check top.qcow2 >/dev/null || fail "check of a clean image"
cp alone.qcow2 broken.qcow2
qemu-io -f qcow2 -c "write 0 256k" broken.qcow2 >/dev/null
number_at() { od -A n -t u8 --endian=big -j "$2" -N 8 "$1" | tr -d ' '; }
block=$(number_at broken.qcow2 "$(number_at broken.qcow2 48)")
printf '\0\1' | dd of=broken.qcow2 bs=1 seek=$((block + 200)) conv=notrunc status=none
truncate -s 7M broken.qcow2
refused 3 "Result: *leaks" check broken.qcow2
$V check broken.qcow2 --repair leaks >/dev/null || fail "repair of a leak"
clean broken.qcow2
printf '\0\0' | dd of=broken.qcow2 bs=1 seek=$((block + 8)) conv=notrunc status=none
refused 1 "its refcount is 0" check broken.qcow2
$V check broken.qcow2 --format json 2>/dev/null | jq -e '.result == "errors" and .corruptions > 0 and (.problems | length > 0)' >/dev/null || fail "check in JSON"
$V check broken.qcow2 --repair all >/dev/null || fail "repair"
clean broken.qcow2
refused 1 "not a qcow2 image" check base.raw

# ---- what the README shows
mkdir readme
cd readme
head -c 1M /dev/urandom >base.raw
{ cat base.raw; head -c 1M /dev/urandom; } >newer.raw
awk '/^## Disk images/ { here = 1 } /^## When/ { here = 0 }
     /^```/ { code = /^```sh/ && !code; next } here && code' "$ROOT/README.md" >commands
[ "$(grep -c "^vmctl image" commands)" -ge 7 ] || fail "the README shows only $(wc -l <commands) commands"
while read -r line; do
    PATH="$BUILD:$PATH" eval "$line" >/dev/null || fail "this command of the README does not work: $line"
done <commands
[ "$(stat -c %s newer.raw)" = 21474836480 ] || fail "the README's commit"
cd ..

# ---- in use
qemu-nbd -f qcow2 -k "$TMP/nbd.sock" --fork --pid-file="$TMP/nbd.pid" -t c.qcow2
before_removal() { kill "$(cat "$TMP/nbd.pid")" 2>/dev/null || true; }
for command in "info" "check" "commit" "resize --size 30M" "rebase --backing base.raw" "snapshots" "check --repair all" "convert --output new4"; do
    # shellcheck disable=SC2086
    refused 1 "in use by another process.*stop" ${command%% *} c.qcow2 ${command#"${command%% *}"}
done
$V info c.qcow2 --force-share >/dev/null || fail "info --force-share"
$V check c.qcow2 --force-share >/dev/null || fail "check --force-share"
refused 2 "cannot be repaired" check c.qcow2 --repair all --force-share
[ ! -e new4 ] || fail "convert of an image in use left a file"

# ---- the sandbox: when it writes, it can open nothing any more
cat >probe.c <<'END'
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset);
ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    dprintf(2, open("/etc/passwd", O_RDONLY) < 0 && errno == EPERM ? "shut\n" : "OPEN\n");
    return syscall(SYS_pwrite64, fd, data, length, offset);
}
END
"${CC:-cc}" -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -shared -fPIC -o probe.so probe.c
qemu-img create -q -f qcow2 p.qcow2 8M
qemu-io -f qcow2 -c "write 0 64k" p.qcow2 >/dev/null
for command in "create new6 --size 1M" "convert p.qcow2 --output new7" "resize p.qcow2 --size 9M" "rebase p.qcow2 --backing base.raw"; do
    # shellcheck disable=SC2086
    LD_PRELOAD=$TMP/probe.so $V $command 2>out || fail "$command with the probe: $(cat out)"
    [ "$(sort -u out)" = shut ] || fail "$command is not in the sandbox: $(sort -u out)"
done

# ---- without any rights, if we can be somebody else
chmod 711 "$TMP"
mkdir -m 777 open
nobody="setpriv --reuid=65534 --regid=65534 --clear-groups"
if [ "$(id -u)" = 0 ] && $nobody test -x "$BUILD/vmmd-image"; then
    cd open
    $nobody $V create a.qcow2 --backing ../model.raw && $nobody $V convert a.qcow2 --output b.qcow2 &&
        $nobody $V resize a.qcow2 --size 20M && $nobody $V check a.qcow2 >/dev/null &&
        $nobody $V rebase a.qcow2 --backing b.qcow2 && $nobody $V commit a.qcow2 || fail "without rights"
    cd ..
    same open/a.qcow2 open/b.qcow2
    cp base.raw locked.raw
    chmod 644 locked.raw
    $nobody $V rebase open/a.qcow2 --backing ../locked.raw || fail "a backing file that can be read"
    $nobody $V commit open/a.qcow2 2>out && fail "a commit to a file that cannot be written"
    grep -q "locked.raw: Permission denied" out || fail "commit without rights: $(cat out)"
fi

# ---- a bar on a terminal, nothing elsewhere
$V convert model.raw --output new8 2>out
[ ! -s out ] || fail "convert writes to a stderr that is no terminal: $(cat out)"
script -qec "$V convert model.raw --output new9" /dev/null >out
grep -q "model.raw \[#* *\.*\] *[0-9]* %" out || fail "no bar: $(cat out)"

# ---- what is no image
mkfifo fifo
refused 1 "fifo" info fifo
refused 1 "directory\|regular file" info sub
: >empty
refused 1 "." convert empty --output new5
echo not | $V info /dev/stdin >out 2>&1 && fail "info of a pipe"
pass
