#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Damages the tables of images at random and lets both judge: vmmd-image check and qemu-img check
agree; repairs make nothing worse, as QEMU sees it, change no data, and leave no more errors than
QEMU's own repair.

    image-check.py VMMD-IMAGE DIRECTORY SEED MUTANTS
"""
import json
import random
import re
import shutil
import struct
import subprocess
import sys

IMAGE, WORK, SEED, MUTANTS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
OFFSETS = 0x00FFFFFFFFFFFE00
CANNOT, CLEAN, ERRORS, LEAKS, REFUSED = "cannot", "clean", "errors", "leaks", "refused"
SHOWN = 16  # problems of an image that are told; there may be more
QEMU = {0: CLEAN, 1: CANNOT, 2: ERRORS, 3: LEAKS, 63: CANNOT}
BAD = {CLEAN: 0, LEAKS: 1, ERRORS: 2, CANNOT: 2}
VARIANTS = [
    "-o cluster_size=512", "-o cluster_size=4k", "-o cluster_size=64k", "-c -o cluster_size=4k",
    "-o cluster_size=4k,refcount_bits=1", "-o cluster_size=4k,refcount_bits=2", "-o cluster_size=4k,refcount_bits=8",
    "-o cluster_size=4k,refcount_bits=64", "-o cluster_size=4k,compat=0.10", "-o cluster_size=4k,lazy_refcounts=on",
    "-o cluster_size=16k,extended_l2=on", "-c -o cluster_size=4k,compression_type=zstd",
]


def shell(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True)


def must(command):
    result = shell(command)
    if result.returncode:
        raise SystemExit(f"{command}: {result.stderr}")


def make_images():
    raw = f"{WORK}/raw"
    must(f"truncate -s 4M {raw}")
    for at in (0, 10, 30):
        must(f"dd if=/dev/urandom of={raw} bs=64k seek={at} count=6 conv=notrunc status=none")
    images = []
    for options in VARIANTS:
        images.append(f"{WORK}/variant{len(images)}")
        must(f"qemu-img convert -f raw -O qcow2 {options} {raw} {images[-1]}")
    for name, steps in {
            "snapshots": "qemu-img snapshot -c a {0}; qemu-io -c 'write 0 100k' {0}; qemu-img snapshot -c b {0};"
                         "qemu-io -c 'write 80k 100k' {0}",
            "bitmaps": "qemu-img bitmap --add {0} a; qemu-io -c 'write 0 100k' {0}; qemu-img bitmap --add -g 512 {0} b",
            "zeroes": "qemu-io -c 'write -z 0 100k' -c 'discard 100k 100k' -c 'write -z -u 1M 100k' {0}"}.items():
        images.append(f"{WORK}/{name}")
        must(f"qemu-img convert -f raw -O qcow2 -o cluster_size=4k {raw} {images[-1]}; {steps.format(images[-1])}")
    return images


def places(data, rng):
    """Where an entry is: (kind, offset)."""
    cluster = 1 << struct.unpack(">I", data[20:24])[0]
    l1_size, l1 = struct.unpack(">IQ", data[36:48])
    rt, rt_clusters = struct.unpack(">QI", data[48:60])
    found = [("l1", l1 + 8 * i) for i in range(l1_size)]
    for i in range(l1_size):
        l2 = struct.unpack_from(">Q", data, l1 + 8 * i)[0] & OFFSETS
        if l2:
            found += [("l2", l2 + 8 * k) for k in rng.sample(range(cluster // 8), min(16, cluster // 8))]
    for i in range(rt_clusters * cluster // 8):
        block = struct.unpack_from(">Q", data, rt + 8 * i)[0]
        if block:
            found += [("count", block + rng.randrange(min(cluster, 64))) for _ in range(4)]
            found.append(("block", rt + 8 * i))
    return cluster, found


def damage(data, rng):
    cluster, found = places(data, rng)
    n = len(data) // cluster
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        kind, at = rng.choice(found)
        if kind == "count":
            data[at] = rng.choice([0, 1, 2, 255, data[at] ^ 1 << rng.randrange(8)])
            continue
        value = struct.unpack_from(">Q", data, at)[0]
        value = rng.choice([
            0, value ^ 1 << 63, value ^ 1 << rng.randrange(64), value & ~OFFSETS | rng.randrange(n) * cluster,
            value & ~OFFSETS | (n + rng.randrange(100)) * cluster, value | 1, value ^ 1 << rng.randrange(9, 40),
            rng.getrandbits(64)])
        struct.pack_into(">Q", data, at, value)
    if rng.randrange(12) == 0:
        del data[rng.randrange(len(data) // 2, len(data)):]


def qemu_check(path, *options):
    result = shell(f"qemu-img check --output=json -f qcow2 {' '.join(options)} {path}")
    return QEMU[result.returncode], json.loads(result.stdout) if result.returncode in (0, 3) else {}


def our_check(path, *options):
    result = shell(f"{IMAGE} check --format json {' '.join(options)} {path}")
    if result.returncode not in (0, 1, 3):
        raise SystemExit(f"seed {SEED}: {path}: exit {result.returncode}: {result.stderr}")
    row = json.loads(result.stdout) if result.stdout else {"why": result.stderr}
    verdict = row.get("result", CANNOT)
    if {CLEAN: 0, LEAKS: 3}.get(verdict, 1) != result.returncode:
        raise SystemExit(f"seed {SEED}: {path}: {verdict}, but exit {result.returncode}")
    return verdict, row


def content(path):
    """A file with the disk's content as QEMU reads it, or None."""
    out = f"{path}.content"
    return out if shell(f"qemu-img convert -f qcow2 -O raw {path} {out}").returncode == 0 else None


def fail(number, text):
    keep = f"{WORK}/kept-{number}"
    shutil.copy(f"{WORK}/mutant", keep)
    raise SystemExit(f"seed {SEED}, mutant {number} ({keep}): {text}")


def judge(number, mutant):
    theirs, their_row = qemu_check(mutant)
    ours, row = our_check(mutant)
    if theirs == CANNOT:
        if ours not in (CANNOT, ERRORS):
            fail(number, f"QEMU cannot check it, we say {ours}")
    elif ours != theirs:
        fail(number, f"QEMU says {theirs}, we say {ours}")
    if theirs in (CLEAN, LEAKS):
        for key, name in {"leaks": "leaks", "total-clusters": "clusters", "allocated-clusters": "allocated",
                          "compressed-clusters": "compressed", "fragmented-clusters": "fragmented",
                          "image-end-offset": "image_end"}.items():
            if their_row.get(key, 0) != row[name]:
                fail(number, f"{name}: QEMU counts {their_row.get(key, 0)}, we {row[name]}")
    return theirs


def repair(number, mutant, before, what):
    ours, theirs = f"{WORK}/ours", f"{WORK}/theirs"
    shutil.copy(mutant, ours)
    shutil.copy(mutant, theirs)
    # Where a table is data, too, a repaired flag of it is data that changes.
    problems = our_check(mutant)[1].get("problems", [])
    twice = len(problems) == SHOWN or any(re.search(r"used (?!1 )\d+ times|used by others", problem)
                                          for problem in problems)
    old = None if twice else content(mutant)
    said, row = our_check(ours, f"--repair={what}")
    if said == CANNOT and what == "all" and before != CANNOT:
        # One that was cut short: QEMU may make it look whole, with data missing.
        if "cut short" in row["why"]:
            if shell(f"cmp {mutant} {ours}").returncode:
                fail(number, "a repair was refused, but something was changed")
            return REFUSED
    shell(f"qemu-img check -r {what} -f qcow2 {theirs}")
    after, limit = qemu_check(ours)[0], qemu_check(theirs)[0]
    if BAD[after] > BAD[before]:
        fail(number, f"our repair of {what} made it worse: {before}, then {after}")
    with open(mutant, "rb") as source:
        version = source.read(8)[7]
    # In version 2 a zero flag means nothing; QEMU repairs as if it did.
    if what == "all" and version > 2 and BAD[after] > BAD[limit]:
        fail(number, f"after repair of all it is {after}, after QEMU's {limit}")
    if said == CLEAN and after != CLEAN:
        fail(number, f"we say it is repaired, QEMU says {after}")
    if old:
        new = content(ours)
        if not new or shell(f"cmp {old} {new}").returncode:
            fail(number, f"repair of {what} changed data")
    return after


def main():
    rng = random.Random(SEED)
    images, counts = make_images(), {}
    for image in images:
        if our_check(image)[0] != CLEAN:
            raise SystemExit(f"{image} is not clean to us")
    for number in range(MUTANTS):
        with open(rng.choice(images), "rb") as source:
            data = bytearray(source.read())
        damage(data, rng)
        mutant = f"{WORK}/mutant"
        with open(mutant, "wb") as out:
            out.write(data)
        before = judge(number, mutant)
        repaired = [repair(number, mutant, before, what) for what in ("leaks", "all")][1]
        counts[before, repaired] = counts.get((before, repaired), 0) + 1
    for (before, after), n in sorted(counts.items()):
        print(f"{n} {before}, after repair {after}")
    print(f"ok: seed {SEED}: {MUTANTS} damaged images judged alike")


main()
