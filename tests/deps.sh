#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# deps.sh build|test|demo|bench|fuzz|lab... - installs what is missing of the Debian packages that a step needs (apt-get, as root). Prints nothing
# when all is there.
set -eu

build="gcc make pkg-config binutils acpica-tools libevent-dev libxxhash-dev libdbus-1-dev libjansson-dev libinih-dev
 libsystemd-dev libcap-ng-dev libseccomp-dev libext2fs-dev libqcow-dev libblkid-dev zlib1g-dev libdeflate-dev libzstd-dev liburing-dev libunicorn-dev"
demo="dbus e2fsprogs fdisk mmdebstrap python3 procps"
tests="$demo clang-format libcmocka-dev qemu-utils libglib2.0-bin dbus-bin systemd jq bsdutils mount man-db
 nbdkit nbdkit-plugin-dev libnbd-bin python3-libnbd"
bench="$tests qemu-system-x86 cpio"
lab="qemu-system-x86 busybox-static kmod cpio xz-utils dbus libcmocka-dev"
fuzz="clang libclang-rt-14-dev"

wanted=
for set in "$@"; do
    case $set in
    build) wanted="$wanted $build" ;;
    demo) wanted="$wanted $demo" ;;
    test) wanted="$wanted $tests" ;;
    fuzz) wanted="$wanted $fuzz" ;;
    lab) wanted="$wanted $lab" ;;
    bench) wanted="$wanted $bench" ;;
    *) echo "deps.sh: no set of packages is called $set" >&2; exit 2 ;;
    esac
done

missing=
for package in $wanted; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "these packages are missing (install them as root):$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update -q && apt-get install -q -y --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
