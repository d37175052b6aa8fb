#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bench-engines.py - single operations on each engine beside a process of the host: ns for each, medians of interleaved rounds.

In flat guests (tests/guest/nano.c) and as a process (tests/bench/nano-native.c, where it is the host's kernel that answers):

    syscall    SYSCALL and SYSRET; native: getppid
    in         a port that no device has
    cr3wr      MOV to CR3
    callret    CALL and RET
    pgfault    an absent page, which the handler makes present; native: the first touch of a page that a file in memory has
    divzero    DIV by 0, which the handler skips; native: SIGFPE
    ptemod     a page table entry, INVLPG and a read; native: mprotect and a read
    forkwait   fork, _exit, wait, by a static program under a Debian kernel; native: under the host's

--lab FILE: figures out of the log of a lab (tests/lab/lab.sh, scenario bench), where the host is emulated itself; adds the CPU seconds of a
boot beside QEMU's on the same KVM. --json: one object. Without --lab this host is measured; what an engine cannot do is "-".
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys

OPERATIONS = ["syscall", "in", "cr3wr", "callret", "pgfault", "divzero", "ptemod", "forkwait"]


def figures(command):
    """The lines "nano: NAME NS" that a command prints, if it comes to its end well."""
    run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    text = run.stdout.decode(errors="replace")
    found = {name: float(ns) for name, ns in re.findall(r"^nano: (\w+) ([0-9.]+)\r?$", text, re.M)}
    if run.returncode != 0 or not found:
        why = re.search(r"^guest-run: (state .*)$", text, re.M)
        raise RuntimeError(why[1] if why else text.strip()[-200:] or f"{command[0]} says nothing")
    return found


def host_columns(a):
    run, guest = f"{a.build}/guest-run", f"{a.build}/guests/nano"
    forks = [a.kernel, a.initrd, "-", "console=ttyS0 quiet"]
    columns = {"native": [[f"{a.build}/nano-native"]]}
    for name, option in (("soft", []), ("kvm", ["-k"])):
        columns[name] = [[run, *option, "-b", "0", "-m", "64", guest, "-", "-", "console=ttyS0"],
                         [run, *option, "-b", "0", "-m", "128", *forks]]
    columns["qemu tcg"] = [["qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-nodefaults", "-display", "none", "-serial", "stdio",
                            "-no-reboot", "-kernel", a.kernel, "-initrd", a.initrd, "-append", "console=ttyS0 quiet"]]
    return columns


def measure(a):
    """{column: {operation: [ns]}}, {column: why it has none}"""
    columns, found, missing = host_columns(a), {}, {}
    for number in range(a.rounds):
        for column, commands in columns.items():
            for command in commands if column not in missing else []:
                try:
                    for name, ns in figures(command).items():
                        found.setdefault(column, {}).setdefault(name, []).append(ns)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    missing[column] = str(error)
                    found.pop(column, None)
                    break
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {a.rounds}", end="", file=sys.stderr)
    return found, missing


def from_lab(path):
    found = {}
    with open(path, errors="replace") as log:
        for column, name, value in re.findall(r"^bench: (\w+) (\w+) ([0-9.]+)\r?$", log.read(), re.M):
            found.setdefault(column, {}).setdefault(name, []).append(float(value))
    if "boot" not in found.get("kvm", {}) or "boot" not in found.get("qemu", {}):
        sys.exit(f"{path}: the scenario bench of the lab did not come to its end")
    return found


def text_of(ns):
    return f"{ns:.1f} ns" if ns < 1000 else f"{ns / 1000:.1f} us" if ns < 1e6 else f"{ns / 1e6:.2f} ms"


def table(medians, columns):
    native = medians.get("native", {})
    lines = ["| operation | native | " + " | ".join(f"{c} | /native" for c in columns) + " |",
             "|---|---|" + "---|---|" * len(columns)]
    for name in OPERATIONS:
        cells = [name, text_of(native[name]) if name in native else "-"]
        for column in columns:
            ns = medians.get(column, {}).get(name)
            cells += [text_of(ns) if ns is not None else "-", f"{ns / native[name]:.2f}" if ns is not None and name in native else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--kernel")
    parser.add_argument("--initrd", help="an initramfs with nano-native as its init")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lab", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    found, missing = (from_lab(a.lab), {}) if a.lab else measure(a)
    medians = {c: {name: statistics.median(values) for name, values in operations.items()} for c, operations in found.items()}
    if "native" not in medians or not a.lab and "soft" not in medians:
        sys.exit(f"bench-engines: no figures: {missing}")
    if a.json:
        print(json.dumps({"unit": "ns", "host": "lab" if a.lab else os.uname().release, "medians": medians, "missing": missing}, indent=2))
        return
    print("\n".join(table(medians, ["kvm"] if a.lab else ["soft", "kvm", "qemu tcg"])))
    for column, why in missing.items():
        print(f"\nNo figures of {column}: {why}")
    if a.lab:
        ours, theirs = medians["kvm"]["boot"], medians["qemu"]["boot"]
        print(f"\nA boot of the same kernel to its login prompt: {ours:.2f} CPU-s, nested QEMU -accel kvm {theirs:.2f} CPU-s: ratio {ours / theirs:.2f}")


main()
