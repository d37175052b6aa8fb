#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# ram-images.sh DIR KERNEL INITRD RAW_DISK [GUESTS [MIB]] - raw RAM images of guests at their login prompt, made once:
# DIR/guest-1.raw, guest-2.raw ... (4 of 512 MiB). Each is a boot of its own in qemu-system-x86_64 -accel tcg, whose RAM is a
# file; the QEMU process is stopped at the prompt, and the file copied. Sparse: zero pages take no room.
set -eu
dir=$1 kernel=$2 initrd=$3 disk=$4 guests=${5:-4} mib=${6:-512}
[ -f "$dir/done" ] && exit 0
command -v qemu-system-x86_64 >/dev/null || { echo "ram-images: skipped: qemu-system-x86_64 is missing" >&2; exit 77; }
mkdir -p "$dir"
work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

boot() { # NUMBER
    python3 - "$work/ram-$1" "$work/guest-$1.raw" "$mib" "$kernel" "$initrd" "$disk" <<'PY'
import os, signal, subprocess, sys
ram, image, mib, kernel, initrd, disk = sys.argv[1:]
q = subprocess.Popen(["qemu-system-x86_64", "-accel", "tcg", "-m", mib, "-nodefaults", "-display", "none",
    "-object", f"memory-backend-file,id=m,size={mib}M,mem-path={ram},share=on", "-machine", "q35,memory-backend=m",
    "-serial", "stdio", "-no-reboot", "-device", "virtio-rng-pci",
    "-drive", f"file={disk},format=raw,if=virtio,snapshot=on",
    "-kernel", kernel, "-initrd", initrd, "-append", "root=/dev/vda rw console=ttyS0"],
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
signal.signal(signal.SIGALRM, lambda *_: sys.exit("ram-images: no login prompt within ten minutes"))
signal.alarm(600)
seen = b""
try:
    while b"login: " not in seen:
        data = os.read(q.stdout.fileno(), 65536)
        if not data:
            sys.exit("ram-images: the guest ended before its login prompt:\n" + seen.decode(errors="replace"))
        seen = seen[-2000:] + data
    q.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, q.pid, os.WSTOPPED | os.WNOWAIT)
    subprocess.run(["cp", "--sparse=always", ram, image], check=True)
finally:
    q.kill()
    q.wait()
    os.unlink(ram)
PY
}

for i in $(seq "$guests"); do # two at a time
    boot "$i" &
    [ $((i % 2)) = 1 ] && [ "$i" != "$guests" ] || for job in $(jobs -p); do wait "$job"; done
done
mv "$work"/guest-*.raw "$dir/"
: >"$dir/done"
