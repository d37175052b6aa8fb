#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A template out of a guest: a Debian guest gets files of its own and an identity, a template is made of it, and a guest from
# that has the files and not the identity. What is refused is refused with the way out.
. "$(dirname "$0")/functions.sh"
. "$(dirname "$0")/guest-functions.sh"
PATH=$PATH:/sbin:/usr/sbin
need_debian
need e2fsck
start_bus
start_vmmd
import_debian debian

vmctl run debian --name one --memory 256M --wait || fail "no login prompt: $(vmctl logs one | tail -n 5)"
inside one 'echo kept >/root/kept; hostname web-5ecre7; echo web-5ecre7 >/etc/hostname; echo "127.0.1.1 web-5ecre7" >>/etc/hosts
mkdir -p /etc/ssh; echo 5ecre7-key >/etc/ssh/ssh_host_rsa_key; echo 5ecre7-history >/root/.bash_history
cp /boot/vmlinuz-$(uname -r) /boot/vmlinuz-99.1.0-upgraded; cp /boot/initrd.img-$(uname -r) /boot/initrd.img-99.1.0-upgraded
logger 5ecre7-log; journalctl --flush; sync' || fail "cannot write in the guest"
id=$(inside one 'cat /etc/machine-id')
[ ${#id} = 32 ] || fail "machine-id: $id"

expect_error "guest one is running: stop it first" "" vmctl template create golden --from one
say "after a forced stop the journal is to be replayed: refused; the identity may be kept"
vmctl stop -f one || fail "stop -f"
expect_error "not unmounted cleanly" "start the guest and shut it down" vmctl template create golden --from one
vmctl template create dirty --from one --keep-identity || fail "keep-identity"
grep -a -q "$id" "$STATE/templates/dirty/disk.raw" || fail "the identity was to be kept"
vmctl template delete dirty || fail "delete"
vmctl start one --wait || fail "does not start again"
vmctl stop one || fail "stop"

say "make a template; meanwhile the guest stays stopped"
vmctl template create golden --from one || fail "template create"
expect_error exists already vmctl template create golden --from one
expect_error "does not exist" "" vmctl template create other --from nobody
case $(vmctl template info golden --format json) in *vmlinuz-99.1.0-upgraded*) ;; *) fail "$(vmctl template info golden)" ;; esac
disk=$STATE/templates/golden/disk.raw
for word in "$id" 5ecre7; do
    grep -a -q "$word" "$disk" && fail "$word is left: $(grep -a -o -b ".\{20\}$word.\{20\}" "$disk" | head -n 3)"
done
case $(od -A n -t x2 -j 1080 -N 2 "$disk") in *ef53*) e2fsck -fn "$disk" >"$TMP/fsck" 2>&1 || fail "e2fsck: $(cat "$TMP/fsck")" ;; esac
vmctl template verify golden || fail "verify"

say "a guest of it; the first one and its template may go"
vmctl delete one || fail "delete"
vmctl template delete debian || fail "the new template depends on the old one"
vmctl run golden --name two --memory 256M --wait || fail "no login prompt: $(vmctl logs two | tail -n 5)"
expect kept inside two 'cat /root/kept'
expect localhost inside two 'hostname'
now=$(inside two 'cat /etc/machine-id')
[ ${#now} = 32 ] && [ "$now" != "$id" ] || fail "machine-id: $now, was $id"
expect gone inside two 'ls /etc/ssh/ssh_host_* /root/.bash_history >/dev/null 2>&1 || echo gone'
expect running inside two 'systemctl is-system-running --wait'
expect_error "used by guest two" "" vmctl template delete golden
vmctl stop -f two || fail "stop -f"
vmctl delete two && vmctl template delete golden || fail "delete"
pass
