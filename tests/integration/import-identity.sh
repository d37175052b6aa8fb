#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# vmmd-import --remove-identity on file systems of every kind: see import-identity.py.
PATH=$PATH:/sbin:/usr/sbin
BUILD=${BUILD:-build}
for tool in mke2fs e2fsck debugfs sfdisk mkswap qemu-img python3; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
[ -x "$BUILD/vmmd-import" ] || { echo "skipped: $BUILD/vmmd-import is not built"; exit 77; }
export PATH
exec python3 "$(dirname "$0")/import-identity.py" "$BUILD/vmmd-import"
