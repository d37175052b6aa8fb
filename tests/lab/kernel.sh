#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# kernel.sh DIR SUITE PACKAGE - unpacks Debian's kernel of SUITE (bookworm, bookworm-backports) into DIR, once; PACKAGE is the name without a
# version: linux-image-cloud-amd64 or linux-image-amd64. DIR/vmlinuz and DIR/lib/modules, the modules decompressed and indexed. Nothing
# is installed. Packages come from the mirror that this machine's apt uses; the suite need not be among its own.
set -eu
dir=$1 suite=$2 package=$3
[ -f "$dir/done" ] && exit 0
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT

mirror() { # of the host's first source that is Debian's own
    { sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/debian.sources
      sed -n 's/^deb \(\[[^]]*\] \)*\([^ ]*\) .*/\2/p' /etc/apt/sources.list; } 2>/dev/null | grep -m 1 debian
}

apt_of_suite() { # an apt with this one suite, and lists of its own; keys are the host's
    apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root "$@"
}

mkdir -p "$work/lists/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main" >"$work/sources.list"
cd "$work"
{
    apt_of_suite update
    # The name without a version depends on the one with it: the last that a dry run would install.
    versioned=$(apt_of_suite install --no-install-recommends --download-only --print-uris -y "$package" |
        sed -n "s/^'.*' \(linux-image-[0-9][^_]*\)_.*/\1/p" | tail -n 1)
    apt_of_suite download "$versioned"
} >log 2>&1 || { tail -n 20 log >&2; exit 1; }
dpkg-deb -x linux-image-[0-9]*.deb root
find root -name '*.ko.xz' -exec unxz {} +
depmod -b "$work/root" "$(ls root/lib/modules)"
mv root/boot/vmlinuz-* "$dir/vmlinuz"
rm -rf "$dir/lib"
mv root/lib "$dir/lib"
: >"$dir/done"
