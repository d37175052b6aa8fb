#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 in the middle of commit, rebase, resize, convert and repair: at every system call that
changes a file, or at MOST of them for each operation, chosen at random. Each time the image is clean
(a damaged one no worse) and shows what it showed, and what was killed can be done again.

    image-kill.py VMMD-IMAGE KILL-AT.SO DIRECTORY SEED MOST
"""
import os
import random
import shutil
import signal
import struct
import subprocess
import sys

IMAGE, SHIM, WORK, SEED, MOST = sys.argv[1:4] + [int(sys.argv[4]), int(sys.argv[5])]
RNG = random.Random(SEED)
SIZE = 3 << 20
BAD = {0: 0, 3: 1, 2: 2, 1: 2}


def run(*command, codes=(0,)):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode not in codes:
        raise SystemExit(f"seed {SEED}: {' '.join(command)}: exit {result.returncode}\n{result.stdout}")
    return result.returncode


def path(name):
    return f"{WORK}/{name}"


def killed(command, at, half):
    """Runs it; True if it was killed at that call, False if it was done before."""
    environment = dict(os.environ, LD_PRELOAD=SHIM, KILL_AT=str(at), KILL_HALF="1" if half else "0")
    status = subprocess.run([IMAGE, *command], env=environment, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL).returncode
    # convert works in a child; its parent tells.
    if status == -signal.SIGKILL or (command[0] == "convert" and status == 1):
        return True
    if status:
        raise SystemExit(f"seed {SEED}: {command}: exit {status}")
    return False


class Case:
    """One operation: what is there before, the command, what must hold after a kill and at the end."""

    def __init__(self, name, files, command, check, finished):
        self.name, self.files, self.command, self.check, self.finished = name, files, command, check, finished

    def restore(self):
        for name in os.listdir(path("now")):
            os.unlink(path(f"now/{name}"))
        for name in self.files:
            shutil.copy(path(f"before/{name}"), path(f"now/{name}"))

    def try_once(self, at, half):
        self.restore()
        if not killed(self.command, at, half):
            self.finished()
            return False
        try:
            self.check()
            run(IMAGE, *self.command)
            self.finished()
        except SystemExit as problem:
            raise SystemExit(f"{self.name}, killed at call {at}{' half' if half else ''}: {problem}") from None
        return True

    def run(self):
        last = 1
        while self.count(last * 2):
            last *= 2
        points = list(range(1, 2 * last + 1))
        if len(points) > MOST:
            points = sorted(RNG.sample(points, MOST))
        n = sum(self.try_once(at, RNG.random() < 0.5) for at in points)
        if n < 2:
            raise SystemExit(f"{self.name}: killed only {n} times")
        print(f"ok: {self.name}: {n} kills")

    def count(self, at):
        self.restore()
        return killed(self.command, at, False)


def clean(name):
    run("qemu-img", "check", "-q", "-f", "qcow2", path(f"now/{name}"))


def same(name, model, form="qcow2"):
    run("qemu-img", "compare", "-q", "-f", form, "-F", "raw", path(f"now/{name}"), path(model))


def virtual_size(name):
    with open(path(f"now/{name}"), "rb") as image:
        return struct.unpack(">Q", image.read(32)[24:])[0]


def make_files():
    for directory in ("before", "now"):
        os.mkdir(path(directory))
    base = bytearray(RNG.randbytes(SIZE))
    base[1 << 20:1 << 21] = bytes(1 << 20)
    for name, data in (("base.raw", base), ("other.raw", base[:700000] + RNG.randbytes(200000) + base[900000:2500096])):
        with open(path(f"before/{name}"), "wb") as out:
            out.write(data)
    os.chdir(path("before"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "base.raw", "-F", "raw", "middle.qcow2")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 100k 200k", "-c", "write -z 1900k 100k", "middle.qcow2")
    for name, below, form, cluster in (("flat.qcow2", "base.raw", "raw", "64k"), ("deep.qcow2", "middle.qcow2", "qcow2", "4k")):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "-b", below, "-F", form, name,
            str(SIZE + 300 * 1024))
        run("qemu-io", "-f", "qcow2", "-c", "write -P 1 30k 100k", "-c", "write -z 600k 300k", "-c", "write -P 2 2M 300k",
            "-c", f"write -P 3 {SIZE + 100 * 1024} 50k", name)
        run("qemu-img", "convert", "-O", "raw", name, path(f"{name}.model"))
    damaged = bytearray(open("flat.qcow2", "rb").read())
    table, = struct.unpack_from(">Q", damaged, 48)
    block, = struct.unpack_from(">Q", damaged, table)
    for cluster, count in ((4, 0), (5, 0), (60, 1), (61, 7)):
        struct.pack_into(">H", damaged, block + 2 * cluster, count)
    with open("damaged.qcow2", "wb") as out:
        out.write(damaged)
    damaged[block:block + 128] = open("flat.qcow2", "rb").read()[block:block + 128]
    struct.pack_into(">H", damaged, block + 120, 3)
    struct.pack_into(">H", damaged, block + 10, 2)
    with open("leaky.qcow2", "wb") as out:
        out.write(damaged)
    os.chdir(path("now"))


def unchanged(name, clean_too=()):
    def check():
        for image in (name, *clean_too):
            clean(image)
        same(name, f"{name}.model")
    return check


def commit_case(name, below, form, *options):
    def finished():
        unchanged(name)()
        same(below, f"{name}.model", form)
    also = () if form == "raw" else (below,)
    return Case(f"commit {name} {' '.join(options)}", ["base.raw", "middle.qcow2", name],
                ["commit", path(f"now/{name}"), *options], unchanged(name, also), finished)


def rebase_case(name, backing):
    return Case(f"rebase {name} to {backing or 'nothing'}", ["base.raw", "other.raw", "middle.qcow2", name],
                ["rebase", path(f"now/{name}"), f"--backing={backing}"], unchanged(name), unchanged(name))


def resize_case(name, size):
    old = SIZE + 300 * 1024

    def check(only=None):
        now = virtual_size(name)
        if now not in ([only] if only else [old, size]):
            raise SystemExit(f"size {now}")
        clean(name)
        shutil.copy(path(f"{name}.model"), path("model"))
        os.truncate(path("model"), now)
        same(name, "model")
    return Case(f"resize {name} to {size}", ["base.raw", "middle.qcow2", name],
                ["resize", path(f"now/{name}"), f"--size={size}", "--shrink"], check, lambda: check(size))


def convert_case(name, *options):
    def finished():
        clean("new")
        same("new", f"{name}.model")

    def check():
        unchanged(name)()
        if sorted(os.listdir(path("now"))) != sorted(["base.raw", "middle.qcow2", name]):
            raise SystemExit(f"left behind: {os.listdir(path('now'))}")
    return Case(f"convert {name} {' '.join(options)}", ["base.raw", "middle.qcow2", name],
                ["convert", path(f"now/{name}"), f"--output={path('now/new')}", *options], check, finished)


def repair_case(name, what, before):
    def check():
        now = run("qemu-img", "check", "-q", "-f", "qcow2", path(f"now/{name}"), codes=(0, 1, 2, 3))
        # A flag that is missing for a moment costs a copy, nothing else; QEMU calls it an error.
        if BAD[now] > BAD[before] and what != "leaks":
            raise SystemExit(f"worse: {now}")
        same(name, "flat.qcow2.model")

    def finished():
        clean(name)
        same(name, "flat.qcow2.model")
    return Case(f"repair {what} of {name}", ["base.raw", name], ["check", path(f"now/{name}"), f"--repair={what}"],
                check, finished)


def main():
    make_files()
    for case in (commit_case("flat.qcow2", "base.raw", "raw"), commit_case("flat.qcow2", "base.raw", "raw", "--keep"),
                 commit_case("deep.qcow2", "middle.qcow2", "qcow2"),
                 rebase_case("flat.qcow2", "other.raw"), rebase_case("flat.qcow2", ""),
                 rebase_case("deep.qcow2", "other.raw"), rebase_case("deep.qcow2", ""),
                 resize_case("flat.qcow2", 9 << 20), resize_case("deep.qcow2", 90 << 20), resize_case("deep.qcow2", 1200128),
                 convert_case("deep.qcow2"), convert_case("flat.qcow2", "--compress"),
                 repair_case("damaged.qcow2", "all", 2), repair_case("leaky.qcow2", "leaks", 3)):
        case.run()
    print(f"ok: seed {SEED}")


main()
