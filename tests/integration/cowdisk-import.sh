#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# vmmd-import from end to end: images of every kind it reads, made here with an ext4 file system and a
# made-up kernel inside, and images it must refuse with a clear line. The runner below plays the
# daemon: it hands over the fds and prints what comes back.
set -u
BUILD=${BUILD:-build}
IMPORT=$BUILD/vmmd-import
fail() { echo "FAIL: $*" >&2; exit 1; }
for tool in mke2fs sfdisk qemu-img python3; do
    PATH=$PATH:/sbin:/usr/sbin command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
PATH=$PATH:/sbin:/usr/sbin
[ -x "$IMPORT" ] || { echo "skipped: $IMPORT is not built"; exit 77; }
W=$(mktemp -d "${TMPDIR:-/tmp}/cowdisk-import.XXXXXX") || exit 1
trap 'rm -rf "$W"' EXIT

cat > "$W/run.c" <<'C'
#define _GNU_SOURCE
#include "cowdisk/cowdisk.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
/* run IMPORT SOURCE OUTDIR [options]: KERNEL, INITRD and PASSPHRASE in the environment are given files. */
static int put(const char *dir, const char *name, const char *given, int to)
{
    char path[512];
    int fd;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = given ? open(given, O_RDONLY) : open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) { perror(given ? given : path); exit(3); }
    return fcntl(fd, F_DUPFD, 100 + to);
}
int main(int argc, char **argv)
{
    struct cow_import_msg msg;
    int pair[2], fds[10], status;
    ssize_t n;
    pid_t pid;
    if (argc < 4 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0) return 3;
    fds[3] = fcntl(pair[1], F_DUPFD, 103);
    fds[4] = put("", "", argv[2], 4);
    fds[5] = put(argv[3], "disk.raw", NULL, 5);
    fds[6] = put(argv[3], "hashes", NULL, 6);
    fds[7] = put(argv[3], "kernel", getenv("KERNEL"), 7);
    fds[8] = put(argv[3], "initrd", getenv("INITRD"), 8);
    fds[9] = getenv("PASSPHRASE") ? put("", "", getenv("PASSPHRASE"), 9) : -1;
    pid = fork();
    if (pid == 0) {
        for (int i = 3; i < 10; i++) if (fds[i] >= 0) dup2(fds[i], i);
        argv[3] = argv[1];
        execv(argv[1], argv + 3);
        _exit(3);
    }
    for (int i = 3; i < 10; i++) close(fds[i]);
    close(pair[1]);
    while ((n = recv(pair[0], &msg, sizeof(msg), 0)) == sizeof(msg)) {
        if (msg.type == COW_IMPORT_PROGRESS) continue;
        if (msg.type == COW_IMPORT_FAILED) printf("failed: %s\n", msg.error);
        else printf("done: bytes=%llu kernel=%u:%s initrd=%u os=%s cmdline=%s\n",
                    (unsigned long long)msg.disk_bytes, msg.has_kernel, msg.kernel_name,
                    msg.has_initrd, msg.os_name, msg.cmdline);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) { printf("killed: %d\n", WTERMSIG(status)); return 4; }
    return WEXITSTATUS(status);
}
C
${CC:-cc} -I. -o "$W/run" "$W/run.c" || fail "the runner does not compile"

import() { # SOURCE [options]: output in $W/out, files in $W/result
    local source=$1
    shift
    rm -rf "$W/result"; mkdir "$W/result"
    "$W/run" "$IMPORT" "$source" "$W/result" "$@" > "$W/out" 2>"$W/err"
}
good() { # WHAT PATTERN SOURCE [options]
    local what=$1 pattern=$2
    shift 2
    import "$@" || fail "$what: $(cat "$W/out" "$W/err")"
    grep -Eq -- "$pattern" "$W/out" || fail "$what: got '$(cat "$W/out")', expected '$pattern'"
    echo "ok: $what"
}
bad() { # WHAT PATTERN SOURCE [options]
    local what=$1 pattern=$2 status
    shift 2
    import "$@"; status=$?
    [ $status = 1 ] || fail "$what: exit $status: $(cat "$W/out" "$W/err")"
    grep -Eq -- "^failed: .*($pattern)" "$W/out" || fail "$what: got '$(cat "$W/out")', expected '$pattern'"
    echo "ok: $what: $(cat "$W/out")"
}

# ---- a tree with two kernels, and images of it
kernel() { # FILE MARK: the header of a bzImage, 3 setup sectors, 64 KiB
    python3 - "$1" "$2" <<'P'
import struct, sys
setup = 3
body = bytearray((setup + 1) * 512 + 65536)
body[0x1f1] = setup
struct.pack_into('<I', body, 0x1f4, 65536 // 16)
struct.pack_into('<H', body, 0x1fe, 0xaa55)
body[0x202:0x206] = b'HdrS'
struct.pack_into('<H', body, 0x206, 0x20f)
body[0x211] = 1
struct.pack_into('<H', body, 0x236, 0x3f)
body[0x400:0x400 + len(sys.argv[2])] = sys.argv[2].encode()
open(sys.argv[1], 'wb').write(body)
P
}
T=$W/tree
mkdir -p "$T"/{boot,etc,usr/lib/systemd,usr/sbin,usr/bin}
ln -s usr/sbin "$T/sbin"; ln -s usr/lib "$T/lib"
ln -s /lib/systemd/systemd "$T/usr/sbin/init"; echo x > "$T/usr/lib/systemd/systemd"
printf 'NAME="Test"\nPRETTY_NAME="Test OS 12 (bookworm)"\n' > "$T/usr/lib/os-release"
ln -s ../usr/lib/os-release "$T/etc/os-release"
kernel "$T/boot/vmlinuz-6.1.0-9-cloud-amd64" old
kernel "$T/boot/vmlinuz-6.1.0-30-cloud-amd64" new
kernel "$T/boot/vmlinuz-6.1.0-40-cloud-amd64.old" never
echo broken > "$T/boot/vmlinuz-6.1.0-35-cloud-amd64"
echo old-initrd > "$T/boot/initrd.img-6.1.0-9-cloud-amd64"
echo new-initrd > "$T/boot/initrd.img-6.1.0-30-cloud-amd64"
head -c 3000000 /dev/urandom > "$T/usr/bin/something"
U=11111111-2222-3333-4444-555555555555
mke2fs -q -t ext4 -U $U -d "$T" "$W/whole.raw" 40M || fail mke2fs
NEW='kernel=1:vmlinuz-6.1.0-30-cloud-amd64 initrd=1 os=Test OS 12 \(bookworm\) cmdline=root=UUID='$U' ro console=ttyS0$'

same_disk() { cmp "$1" "$W/result/disk.raw" || fail "$2: the disk differs"; }
good "raw, whole-disk ext4" "^done: bytes=41943040 $NEW" "$W/whole.raw"
same_disk "$W/whole.raw" raw
cmp "$T/boot/vmlinuz-6.1.0-30-cloud-amd64" "$W/result/kernel" || fail "the wrong kernel"
cmp "$T/boot/initrd.img-6.1.0-30-cloud-amd64" "$W/result/initrd" || fail "the wrong initrd"
[ "$(stat -c %s "$W/result/hashes")" -gt 100000 ] || fail "no hashes"
[ "$(du -k "$W/result/disk.raw" | cut -f1)" -lt 20000 ] || fail "the disk is not sparse"

for v in "" "-o compat=0.10" "-c" "-o cluster_size=512" "-o cluster_size=2M" "-o refcount_bits=1" \
         "-o lazy_refcounts=on" "-c -o cluster_size=4k"; do
    qemu-img convert -f raw -O qcow2 $v "$W/whole.raw" "$W/whole.qcow2" || fail qemu-img
    good "qcow2 $v" "$NEW" "$W/whole.qcow2"
    same_disk "$W/whole.raw" "qcow2 $v"
done

# ---- partitions: GPT and MBR, an ESP in front
partitions() { # LABEL FILE
    truncate -s 64M "$2"
    printf 'label: %s\nlabel-id: %s\nstart=2048,size=8192,type=%s\nstart=10240,size=90000,type=%s\n' \
        "$1" "$3" "$4" "$5" | sfdisk -q "$2" || fail sfdisk
    dd if="$W/whole.raw" of="$2" bs=1M seek=5 conv=notrunc,sparse status=none
}
partitions gpt "$W/gpt.raw" 22222222-2222-3333-4444-555555555555 U L
good "GPT" "$NEW" "$W/gpt.raw"
partitions dos "$W/mbr.raw" 0xcafe1234 ef 83
good "MBR" "$NEW" "$W/mbr.raw"

# ---- a separate /boot; no initrd
cp -a "$T" "$W/noboot"; rm -rf "$W"/noboot/boot/*
mke2fs -q -t ext4 -U $U -d "$W/noboot" "$W/root.raw" 40M; mke2fs -q -t ext2 -d "$T/boot" "$W/boot.raw" 4M
truncate -s 64M "$W/split.raw"
printf 'label: gpt\nstart=2048,size=8192\nstart=10240,size=90000\n' | sfdisk -q "$W/split.raw"
dd if="$W/boot.raw" of="$W/split.raw" bs=1M seek=1 conv=notrunc status=none
dd if="$W/root.raw" of="$W/split.raw" bs=1M seek=5 conv=notrunc status=none
good "separate /boot" "$NEW" "$W/split.raw"
cp -a "$T" "$W/noinitrd"; rm "$W"/noinitrd/boot/initrd*
mke2fs -q -t ext4 -U $U -d "$W/noinitrd" "$W/noinitrd.raw" 40M
good "no initrd, whole disk" "initrd=0 .*cmdline=root=/dev/vda ro" "$W/noinitrd.raw"
cp "$W/mbr.raw" "$W/mbr2.raw"; dd if="$W/noinitrd.raw" of="$W/mbr2.raw" bs=1M seek=5 conv=notrunc status=none
good "no initrd, partition" "initrd=0 .*cmdline=root=PARTUUID=cafe1234-02 ro" "$W/mbr2.raw"
rm "$W"/noinitrd/boot/vmlinuz*; kernel "$W/noinitrd/boot/kern" link; ln -s boot/kern "$W/noinitrd/vmlinuz"
mke2fs -q -t ext4 -U $U -d "$W/noinitrd" "$W/link.raw" 40M
good "/vmlinuz link" "kernel=1:vmlinuz initrd=0" "$W/link.raw"
rm "$W/noinitrd/vmlinuz"; ln -s vmlinuz "$W/noinitrd/vmlinuz"
mke2fs -q -t ext4 -U $U -d "$W/noinitrd" "$W/loop.raw" 40M
bad "a link to itself" "no kernel found" "$W/loop.raw"

# ---- kinds of qcow2
qemu-img convert -f raw -O qcow2 -o extended_l2=on "$W/whole.raw" "$W/x.qcow2" && good "extended L2" "$NEW" "$W/x.qcow2"
qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd "$W/whole.raw" "$W/x.qcow2" && good "zstd" "$NEW" "$W/x.qcow2"

qemu-img convert -f raw -O qcow2 "$W/whole.raw" "$W/x.qcow2" && qemu-img snapshot -c first "$W/x.qcow2" && qemu-io -f qcow2 -c "write -z 0 40M" "$W/x.qcow2" >/dev/null
bad "the current state" "no root file system" "$W/x.qcow2"
good "a snapshot" "$NEW" "$W/x.qcow2" --snapshot first
good "a snapshot, by id" "$NEW" "$W/x.qcow2" --snapshot 1
bad "no such snapshot" 'no snapshot .second' "$W/x.qcow2" --snapshot second
bad "a snapshot of a raw image" "has no snapshots" "$W/whole.raw" --snapshot first

# ---- through libqcow: version 1, AES
same() { cmp "$W/whole.raw" "$W/result/disk.raw" || fail "$1: the disk differs"; }
qemu-img convert -f raw -O qcow "$W/whole.raw" "$W/v1.qcow" && good "qcow version 1" "$NEW" "$W/v1.qcow" && same "version 1"
qemu-img convert -c -f raw -O qcow "$W/whole.raw" "$W/v1c.qcow" # fails at its very end without a word: the image is whole
qemu-img compare -q -f raw -F qcow "$W/whole.raw" "$W/v1c.qcow" || fail "qemu-img makes no compressed image of version 1"
good "qcow version 1, compressed" "$NEW" "$W/v1c.qcow" && same "version 1, compressed"
echo "correct horse" > "$W/passphrase"; echo "battery staple" > "$W/wrong"
aes() { # FORMAT FILE [option]
    qemu-img convert --object secret,id=s,data="correct horse" -f raw -O "$1" -o "encrypt.format=aes,encrypt.key-secret=s${3:-}" "$W/whole.raw" "$2" 2>/dev/null ||
        fail "qemu-img makes no $1 with AES"
}
aes qcow "$W/aes1.qcow"; aes qcow2 "$W/aes2.qcow2" ",compat=0.10"; aes qcow2 "$W/aes3.qcow2" ",cluster_size=4k"
for image in aes1.qcow aes2.qcow2 aes3.qcow2; do
    PASSPHRASE=$W/passphrase good "AES: $image" "$NEW" "$W/$image" --passphrase && same "$image"
    PASSPHRASE=$W/wrong bad "$image, wrong passphrase" "or the passphrase is wrong" "$W/$image" --passphrase
    bad "$image, no passphrase" "passphrase is needed" "$W/$image"
done
PASSPHRASE=$W/passphrase good "a passphrase that is not needed" "$NEW" "$W/v1.qcow" --passphrase
# What libqcow gets wrong never gets to it.
qemu-io --object secret,id=s,data="correct horse" --image-opts -c "write -z 1M 1M" "driver=qcow2,file.filename=$W/aes3.qcow2,encrypt.format=aes,encrypt.key-secret=s" >/dev/null
PASSPHRASE=$W/passphrase bad "AES and zero clusters" "zero clusters" "$W/aes3.qcow2" --passphrase
head -c 700000 "$W/aes2.qcow2" > "$W/cut.qcow2"; PASSPHRASE=$W/passphrase bad "AES, truncated" "damaged or truncated" "$W/cut.qcow2" --passphrase
head -c 700100 "$W/v1.qcow" > "$W/cut.qcow"; bad "version 1, truncated" "damaged or truncated" "$W/cut.qcow"
qemu-img create -q -f qcow -b "$W/whole.raw" -F raw "$W/child.qcow"; bad "version 1 over a backing file" "needs a backing file" "$W/child.qcow"
python3 - "$W/v1c.qcow" "$W" <<'P'
import random, struct, sys
data = open(sys.argv[1], 'rb').read()
l1 = struct.unpack('>Q', data[40:48])[0]
l2 = next(e for e in struct.unpack('>16Q', data[l1:l1 + 128]) if e)
at = next(i for i in range(0, 4096, 8) if data[l2 + i] >> 7)
entry = struct.unpack('>Q', data[l2 + at:l2 + at + 8])[0]
offset = entry & (1 << (63 - data[32])) - 1
short = bytearray(data)
short[offset:offset + 3] = b'\x03\0\0' # deflate: the end, at once
open(sys.argv[2] + '/short.qcow', 'wb').write(short)
P
bad "version 1, a deflate stream that ends early" "not a whole one" "$W/short.qcow"
theirs() { # FILE: as QEMU reads it
    case $1 in
    *.aes) timeout 20 qemu-img convert --object secret,id=s,data="correct horse" --image-opts -O raw \
        "driver=qcow2,file.filename=$1,encrypt.format=aes,encrypt.key-secret=s" "$W/theirs.raw" ;;
    *) timeout 20 qemu-img convert -f qcow -O raw "$1" "$W/theirs.raw" ;;
    esac 2>/dev/null
}
damage() { # SOURCE KIND COUNT: what was copied of damaged images is what QEMU reads, if QEMU reads it
    local i status read_well=0 mutant
    python3 - "$1" "$W" "$2" "$3" "${MUTANT_SEED:-2}" <<'P'
import random, struct, sys
data = open(sys.argv[1], 'rb').read()
l1 = struct.unpack('>Q', data[40:48])[0]
l2 = next(e for e in struct.unpack('>16Q', data[l1:l1 + 128]) if e) & 0xffffffffffff
r = random.Random(int(sys.argv[5]))
for i in range(int(sys.argv[4])):
    m = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 8))):
        at = r.choice((r.randrange(72), l1 + r.randrange(16), l2 + r.randrange(4096), r.randrange(len(m))))
        m[at] = r.choice((0, 1, 255, r.randrange(256), m[at] ^ 1 << r.randrange(8)))
    open(f'{sys.argv[2]}/mutant-{i}.{sys.argv[3]}', 'wb').write(m)
P
    for ((i = 0; i < $3; i++)); do
        mutant=$W/mutant-$i.$2
        PASSPHRASE=$W/passphrase import "$mutant" --passphrase; status=$?
        case $status in
        0|1) ;;
        *) fail "damaged $2, mutant $i: $status: $(cat "$W/out" "$W/err")" ;;
        esac
        if [ -s "$W/result/disk.raw" ] && ! grep -Eq "^failed: (the image|.*cannot be imported)" "$W/out" && theirs "$mutant"; then
            cmp "$W/theirs.raw" "$W/result/disk.raw" || fail "damaged $2, mutant $i reads differently"
            read_well=$((read_well + 1))
        fi
        rm "$mutant"
    done
    [ $((read_well * 10)) -gt "$3" ] || fail "only $read_well mutants were read"
    echo "ok: $3 damaged images ($2): $read_well read as QEMU reads them, the others refused"
}
damage "$W/v1c.qcow" qcow "${MUTANTS:-50}"
damage "$W/v1.qcow" qcow "${MUTANTS:-20}"
damage "$W/aes2.qcow2" aes "${MUTANTS:-30}"

# ---- given kernels
export KERNEL=$T/boot/vmlinuz-6.1.0-9-cloud-amd64
good "given kernel" "kernel=1: initrd=0 .*cmdline=root=/dev/vda ro" "$W/root.raw" --kernel
INITRD=$T/boot/initrd.img-6.1.0-9-cloud-amd64 \
    good "given kernel and initrd" "kernel=1: initrd=1 .*root=UUID=$U" "$W/root.raw" --kernel --initrd
head -c 1000000 /dev/urandom > "$W/noise.raw"
good "anything with kernel and command line" "cmdline=quiet root=/dev/vda$" "$W/noise.raw" --kernel --cmdline "quiet root=/dev/vda"
head -c 40000 "$KERNEL" > "$W/short"; : > "$W/empty"
KERNEL=$W/short bad "truncated kernel" "truncated" "$W/root.raw" --kernel
KERNEL=$W/empty bad "empty kernel" "kernel has 0 bytes" "$W/root.raw" --kernel
KERNEL=$W/noise.raw bad "noise as kernel" "not a bzImage" "$W/root.raw" --kernel
INITRD=$W/empty bad "empty initrd" "initrd has 0 bytes" "$W/root.raw" --kernel --initrd
unset KERNEL

# ---- refused
bad "no kernel" "no kernel found" "$W/root.raw"
bad "noise" "no root file system" "$W/noise.raw"
: > "$W/nothing"; bad "empty file" "disk of 0 bytes" "$W/nothing"
bad "a directory" "." "$W"
head -c 300000 "$W/whole.qcow2" > "$W/cut.qcow2"; bad "truncated qcow2" "truncated|not inside the file" "$W/cut.qcow2"
qemu-img create -q -f qcow2 -b "$W/whole.raw" -F raw "$W/child.qcow2"
bad "backing file" "backing file .*qemu-img convert" "$W/child.qcow2"
qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s "$W/luks.qcow2" 1M &&
    bad "LUKS" "LUKS" "$W/luks.qcow2"
qemu-img create -q -f qcow2 -o data_file="$W/data",data_file_raw=on "$W/x.qcow2" 1M; bad "external data" "external data" "$W/x.qcow2"
qemu-img convert -f raw -O vmdk "$W/whole.raw" "$W/x.vmdk"; bad "VMDK" "VMDK" "$W/x.vmdk"

# ---- hostile file systems: whatever happens, it ends, and soon
python3 - "$W/whole.raw" "$W" <<'P'
import random, sys
data = open(sys.argv[1], 'rb').read()
r = random.Random(1)
spots = [i for i in range(0, 600 * 1024, 16) if any(data[i:i + 16])]
for n in range(40):
    d = bytearray(data)
    for _ in range(r.choice([1, 4, 30, 400])):
        i = r.choice(spots) + r.randrange(16)
        d[i] = r.choice([0, 1, 0x7f, 0x80, 0xff, r.randrange(256)])
    f = open(f'{sys.argv[2]}/mutant{n}.raw', 'wb')
    for at in range(0, len(d), 4096):
        if any(d[at:at + 4096]):
            f.seek(at); f.write(d[at:at + 4096])
    f.truncate(len(d)); f.close()
P
declare -A ends=()
for m in "$W"/mutant*.raw; do
    import "$m"; s=$?
    case $s in 0 | 1 | 4) ;; *) fail "$m: exit $s: $(cat "$W/out" "$W/err")" ;; esac
    ends[$s]=$((${ends[$s]:-0} + 1))
done
echo "ok: 40 damaged file systems: ${ends[0]:-0} imported, ${ends[1]:-0} refused, ${ends[4]:-0} died"
