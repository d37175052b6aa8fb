#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# prepare-unicorn.sh ARCHIVE OUT - makes a copy of Debian's libunicorn.a in which the functions that the
# software engine overrides are weak, so that the linker takes ours, and stay reachable as real_NAME.
#
# An alias beside a weak name, not a rename: calls inside the same object go through the name as well, so
# that every caller in the library reaches the override. Refuses any other version of the library: the
# engine knows its private structures.
set -eu
archive=$1 out=$2
want=2.0.1
have=$(pkg-config --modversion unicorn)
case $have in
$want*) ;;
*) echo "libunicorn $have: the software engine needs $want (Debian 12: libunicorn-dev)" >&2; exit 1 ;;
esac

wrapped="tb_htable_lookup_x86_64 tlb_set_page_with_attrs_x86_64 tb_flush_x86_64 page_collection_lock_x86_64
 page_collection_unlock_x86_64 tb_invalidate_phys_page_fast_x86_64 memory_mapping
 tcg_exec_init_x86_64 tcg_region_reset_all_x86_64 tlb_flush_x86_64 helper_hlt_x86_64
 helper_ltr_x86_64 raise_exception_err_x86_64 helper_rdmsr_x86_64 helper_wrmsr_x86_64 helper_read_crN_x86_64 helper_write_crN_x86_64
 cpu_x86_cpuid_x86_64 cpu_breakpoint_insert_x86_64 cpu_breakpoint_remove_by_ref_x86_64"
replaced="tlb_protect_code_x86_64 tlb_unprotect_code_x86_64 check_exit_request_x86_64
 helper_syscall_x86_64 x86_cpu_exec_interrupt_x86_64 helper_inb_x86_64 helper_inw_x86_64
 helper_inl_x86_64 helper_outb_x86_64 helper_outw_x86_64 helper_outl_x86_64
 helper_rdpmc_x86_64 qemu_system_reset_request cpu_watchpoint_insert_x86_64 cpu_watchpoint_remove_by_ref_x86_64
 cpu_watchpoint_address_matches_x86_64 cpu_check_watchpoint_x86_64"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Members of one name stand in the archive once per guest architecture: unpack each under its own name.
unpack() {
    ar t "$archive" | awk '{ print $1, ++n[$1] }' >"$work/members"
    mkdir "$work/all" "$work/one"
    while read -r name instance; do
        (cd "$work/one" && ar xN "$instance" "$archive" "$name")
        mv "$work/one/$name" "$work/all/$instance-$name"
    done <"$work/members"
}

unpack
nm -A "$work"/all/*.o 2>/dev/null | awk '$2 == "T" || $3 == "T" || $2 ~ /^[0-9a-f]+$/ && $3 == "T" {
    split($1, a, ":"); print a[1], $NF }' >"$work/defined"

object_of() {
    file=$(awk -v s="$1" '$2 == s { print $1 }' "$work/defined")
    [ -n "$file" ] || { echo "libunicorn.a does not define $1" >&2; exit 1; }
    echo "$file"
}

alias_of() { # -> "--add-symbol real_NAME=SECTION:VALUE,function,global"
    objdump -t "$2" | awk -v s="$1" '$NF == s && $0 ~ / F / {
        for (i = 1; i <= NF; i++) if ($i == "F") print "--add-symbol real_" s "=" $(i + 1) ":0x" $1 ",function,global" }'
}

for symbol in $wrapped; do
    file=$(object_of "$symbol")
    objcopy $(alias_of "$symbol" "$file") --weaken-symbol="$symbol" "$file"
done
for symbol in $replaced; do
    objcopy --weaken-symbol="$symbol" "$(object_of "$symbol")"
done
# The library zeroes its whole code buffer on each flush; ours gives the pages back instead.
objcopy --redefine-sym memset=vmmd_tcg_memset "$(object_of tcg_region_reset_all_x86_64)"

rm -f "$out"
find "$work/all" -name '*.o' | LC_ALL=C sort | xargs ar rcs "$out"
