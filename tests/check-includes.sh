#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# check-includes.sh - dependencies go one way: cli -> dbus; vmmd -> dbus memshare cowdisk; vmmd/vmm -> memshare cowdisk, never the
# bus. memshare, cowdisk and dbus know nothing of each other. Also: they neither print nor exit.
set -u
bad=0
forbid() { # FOLDER PATTERN WHY [DEPTH]
    found=$(find "$1" -name '*.[ch]' ${4:-} | xargs grep -nE "$2" /dev/null)
    if [ -n "$found" ]; then
        echo "$1: $3:"
        echo "$found" | sed 's/^/    /'
        bad=1
    fi
}
forbid cli '#include "(vmmd|memshare|cowdisk)/' "cli may include only dbus"
forbid memshare '#include "(vmmd|cli|cowdisk|dbus)/' "memshare knows nothing of the others"
forbid cowdisk '#include "(vmmd|cli|memshare|dbus)/' "cowdisk knows nothing of the others"
forbid dbus '#include "(vmmd|cli|memshare|cowdisk)/' "dbus knows nothing of the others"
forbid vmmd/vmm '#include ("dbus/|"cli/|<dbus/)' "the guest process never talks D-Bus"
found=$(grep -nE '#include "vmmd/vmm/' vmmd/*.[ch])
[ -z "$found" ] || { echo "vmmd: the daemon never includes the guest process:"; echo "$found"; bad=1; }
for folder in memshare dbus; do
    forbid $folder '\b(printf|puts|perror|exit|abort|syslog)\(|\bfprintf\((stderr|stdout)' "$folder neither prints nor exits"
done
exit $bad
