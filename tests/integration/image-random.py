#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of images of random sizes, formats and contents; one of commit, rebase, flattening and
convert on each. What the top image shows never changes, and all is clean.

    image-random.py VMMD-IMAGE DIRECTORY SEED CHAINS
"""
import os
import random
import subprocess
import sys

IMAGE, WORK, SEED, CHAINS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
RNG = random.Random(SEED)


def run(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {result.returncode}\n{result.stdout}")


def raw_image(name, size):
    with open(name, "wb") as out:
        for _ in range(RNG.randrange(1, 6)):
            out.seek(RNG.randrange(max(1, size - 60000)))
            out.write(RNG.randbytes(RNG.randrange(1, 60000)))
        # Now and then not whole sectors.
        out.truncate(size - RNG.choice([0, 0, RNG.randrange(511)]))
    return name, "raw"


def changes(size):
    commands = []
    for _ in range(RNG.randrange(8)):
        offset = RNG.randrange(size // 512) * 512
        length = min(size - offset, RNG.randrange(1, 600) * 512)
        commands += ["-c", RNG.choice([f"write -P {RNG.randrange(256)} {offset} {length}"] * 3 +
                                      [f"write -z {offset} {length}", f"discard {offset} {length}"])]
    return commands


def make_image(name, below=None):
    """(name, format)"""
    size = RNG.randrange(200, 9000) * 512
    if not below and RNG.random() < 0.6:
        return raw_image(name, size)
    options = f"cluster_size={RNG.choice(['512', '4k', '64k', '1M'])}{RNG.choice(['', ',refcount_bits=8', ',compat=0.10'])}"
    backing = ["-b", below[0], "-F", below[1]] if below else []
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *backing, name, str(size))
    commands = changes(size)
    if commands:
        run("qemu-io", "-f", "qcow2", *commands, name)
    return name, "qcow2"


def clean(image):
    if image[1] == "qcow2":
        run("qemu-img", "check", "-q", "-f", "qcow2", image[0])


def same(image):
    run("qemu-img", "compare", "-q", "-f", image[1], "-F", "raw", image[0], "model")


def commit(below):
    run(IMAGE, "commit", "top", *RNG.choice([[], [], ["--keep"]]))
    clean(below)
    run("qemu-img", "convert", "-f", below[1], "-O", "raw", below[0], "below")
    with open("below", "rb") as one, open("model", "rb") as other:
        wanted = other.read()
        found = one.read()[:len(wanted)]
    if found + bytes(len(wanted) - len(found)) != wanted:
        raise SystemExit("the backing file does not have what was committed")


def rebase(below):
    other = make_image("other")
    if RNG.random() < 0.3:
        other = make_image("other-2", other)
    run(IMAGE, "rebase", "top", f"--backing={other[0]}", f"--backing-format={other[1]}")


def flatten(below):
    run(IMAGE, "rebase", "top", "--backing=")


def convert(below):
    options = RNG.choice([[], ["--to=raw"], ["--compress"], ["--compress", "--cluster-size=512"], ["--cluster-size=2M"]])
    run(IMAGE, "convert", "top", "--output=new", *options)
    new = "new", "raw" if "--to=raw" in options else "qcow2"
    clean(new)
    same(new)


def one_chain():
    for name in os.listdir("."):
        os.unlink(name)
    below = make_image("base")
    if RNG.random() < 0.5:
        below = make_image("middle", below)
    top = make_image("top", below)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "top", "model")
    RNG.choice([commit, rebase, rebase, flatten, convert])(below)
    clean(top)
    same(top)


def main():
    os.chdir(WORK)
    for number in range(CHAINS):
        try:
            one_chain()
        except SystemExit as problem:
            raise SystemExit(f"seed {SEED}, chain {number}: {problem}") from None
    print(f"ok: seed {SEED}: {CHAINS} chains")


main()
