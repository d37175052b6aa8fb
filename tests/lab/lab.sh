#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# lab.sh KERNELDIR [DEBIANDIR [GUESTKERNELDIR]] - runs inside.sh on a machine with SVM: QEMU's software emulation of one, with the kernel of KERNELDIR (kernel.sh)
# and kvm-amd. In it vmmd, vmmd-guest and vmctl of this build run guests with the same kernel on a real /dev/kvm. Exit status 0 if all of
# it passed. BUILD names the directory of the programs, LAB_MEMORY the machine's memory, LAB_SECONDS its longest life,
# LAB_ONLY the scenarios of inside.sh to run (separated by commas; all). With GUESTKERNELDIR (kernel.sh) the Debian of DEBIANDIR boots with that kernel
# and an initramfs with its modules, otherwise with its own.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
kernel=$(cd "$1" && pwd)
BUILD=$(cd "$root" && cd "${BUILD:-build}" && pwd)
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d "${TMPDIR:-/tmp}/vmmd-lab.XXXXXX")
trap 'rm -rf "$work"' EXIT

# The image of a whole Debian, on a disk with an ext4 that has room for the template and the guest made of it.
debian_disk() { # IMAGE FILE
    mkdir "$work/debian"
    cp --sparse=always "$1" "$work/debian/disk.raw"
    truncate -s 4G "$2"
    mke2fs -q -F -t ext4 -d "$work/debian" "$2"
    rm -r "$work/debian"
}

archive() { # DIRECTORY FILE
    (cd "$1" && find . | cpio -o -H newc --quiet) >"$2"
}

modules() { # DIRECTORY KERNELDIR MODULE...: with what they need, and DIRECTORY/modules/list in the order of loading
    to=$1/modules from=$2
    shift 2
    mkdir -p "$to"
    : >"$to/list"
    for module; do
        modprobe -d "$from" -S "$(ls "$from/lib/modules")" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p' | while read -r file; do
            name=$(basename "$file")
            [ -e "$to/$name" ] && continue
            cp "$file" "$to/"
            strip -g "$to/$name"
            echo "$name" >>"$to/list"
        done
    done
}

programs() { # DIRECTORY PROGRAM...: with their libraries, where the loader looks for them
    to=$1
    shift
    for program; do
        cp "$program" "$to/lab/"
        strip -g "$to/lab/$(basename "$program")"
        ldd "$program" | sed -n 's/.* => \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/[^ ]*\).*/\1/p' | while read -r library; do
            [ -e "$to$library" ] || { mkdir -p "$to$(dirname "$library")"; cp "$library" "$to$library"; }
        done
    done
}

skeleton() { # DIRECTORY
    mkdir -p "$1/bin" "$1/dev" "$1/proc" "$1/sys" "$1/tmp" "$1/etc" "$1/lab"
    cp /bin/busybox "$1/bin/"
}

# ---- the guest inside: a shell on the serial line behind a "login:" ----
skeleton "$work/guest"
modules "$work/guest" "$kernel" virtio_pci virtio_blk virtio_console virtio-rng virtio_balloon
install -m 755 "$root/tests/lab/guest-init.sh" "$work/guest/init"
archive "$work/guest" "$work/guest.cpio"

# ---- the machine around it ----
machine=$work/machine
skeleton "$machine"
if [ -n "${3:-}" ]; then
    skeleton "$work/other"
    modules "$work/other" "$(cd "$3" && pwd)" virtio_pci virtio_blk virtio_console virtio-rng virtio_balloon ext4 button evdev
    install -m 755 "$root/tests/lab/switch-init.sh" "$work/other/init"
    archive "$work/other" "$machine/lab/other.cpio"
    cp "$3/vmlinuz" "$machine/lab/other-vmlinuz"
fi
modules "$machine" "$kernel" kvm-amd virtio_pci virtio_blk ext4
programs "$machine" "$BUILD/vmmd" "$BUILD/vmmd-guest-kvm" "$BUILD/vmmd-import" "$BUILD/vmctl" "$BUILD/tests/test-vmm-kvm" \
    "$BUILD/tests/test-vmm-timers" "$BUILD/tests/test-vmm-cpumodel" \
    "$(command -v dbus-daemon)"
cp "$root/tests/lab/inside.sh" "$BUILD/guests/checksum" "$BUILD/guests/fidelity" "$BUILD/guests/storm" "$machine/lab/"
cp "$kernel/vmlinuz" "$work/guest.cpio" "$machine/lab/"
# What the scenario bench compares: QEMU with the parts of its firmware that booting a kernel takes.
case ",${LAB_ONLY:-}," in
*,bench,*)
    programs "$machine" "$BUILD/guest-run" "$(command -v qemu-system-x86_64)"
    cp "$BUILD/guests/nano" "$BUILD/nano-native" "$machine/lab/"
    mkdir "$machine/lab/roms" "$work/forkwait" "$work/forkwait/dev"
    cp -L /usr/share/seabios/bios-256k.bin /usr/share/qemu/linuxboot_dma.bin /usr/share/qemu/kvmvapic.bin "$machine/lab/roms/"
    cp "$BUILD/nano-native" "$work/forkwait/init"
    archive "$work/forkwait" "$machine/lab/forkwait.cpio"
    ;;
esac
head -c 8M /dev/urandom >"$machine/lab/disk.raw"
echo "root:x:0:0:root:/:/bin/sh" >"$machine/etc/passwd"
cat >"$machine/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs -o size=60% none /tmp
mkdir -p /dev/pts && mount -t devpts none /dev/pts
while read -r module; do insmod "/modules/$module"; done </modules/list
mkdir /debian && mount -t ext4 /dev/vda /debian 2>/dev/null
LAB_ONLY=$(sed -n 's/.*lab_only=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' ')
export LAB_ONLY
{ sh /lab/inside.sh 2>&1; echo "LAB-EXIT $?"; } | cat
poweroff -f
END
chmod 755 "$machine/init"
archive "$machine" "$work/machine.cpio"

disk=
if [ -f "${2:-}/disk.raw" ]; then
    debian_disk "$2/disk.raw" "$work/debian.raw"
    disk="-drive file=$work/debian.raw,if=virtio,format=raw,cache=unsafe"
fi

# Only the scenario of memory pressure asks the kernel for PSI.
psi=
case ",${LAB_ONLY:-}," in *,memory_pressure,*) psi=" psi=1" ;; esac

# One CPU, and without CMPXCHG16B: QEMU 7.2's emulation of it corrupts kernels that use it.
timeout -k 5 "${LAB_SECONDS:-1500}" qemu-system-x86_64 -nodefaults -no-user-config -display none -serial stdio -no-reboot \
    -M pc -m "${LAB_MEMORY:-1536}" -smp 1 \
    -cpu EPYC,-cx16 -accel tcg,thread=multi,tb-size=256 -kernel "$kernel/vmlinuz" \
    -initrd "$work/machine.cpio" $disk -append "console=ttyS0 panic=-1 quiet loglevel=1 no_timer_check tsc=reliable mitigations=off$psi${LAB_ONLY:+ lab_only=$LAB_ONLY}" \
    </dev/null 2>"$work/qemu.log" | tee "$work/log" || true
if grep -q '^LAB-EXIT 0' "$work/log"; then exit 0; fi
cat "$work/qemu.log" >&2
echo "lab.sh: the lab with $(ls "$kernel/lib/modules") failed" >&2
exit 1
