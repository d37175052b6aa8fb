#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on an image through cowdisk (served by nbdkit), on a twin image through qemu-io,
and on a flat file. At every stop all three are equal and both images are clean.

    cowdisk-nbd.py PLUGIN VMMD-IMAGE DIRECTORY SEED STOPS
"""
import os
import random
import signal
import socket
import subprocess
import sys

import nbd

PLUGIN, IMAGE, WORK, SEED, STOPS = sys.argv[1:4] + [int(sys.argv[4]), int(sys.argv[5])]
OPERATIONS = 40


def run(*command, may_fail=False):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode and not may_fail:
        raise SystemExit(f"seed {SEED}: {' '.join(command)}: exit {result.returncode}\n{result.stdout}")
    return result.returncode


class Trio:
    """The image under test, the twin, the model; alike in everything."""

    def __init__(self, rng, name, cluster, backing, size, options):
        self.rng, self.cluster, self.size = rng, cluster, size
        self.ours, self.twin = f"{WORK}/{name}-ours.qcow2", f"{WORK}/{name}-twin.qcow2"
        self.model = f"{WORK}/{name}-model.raw"
        self.socket = f"{WORK}/socket"
        self.server = None
        if backing:
            run(IMAGE, "create", self.ours, "--replace", f"--backing={backing}", f"--size={size}",
                f"--cluster-size={cluster}")
            form = "raw" if backing.endswith(".raw") else "qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "-b", backing,
                "-F", form, self.twin, str(size))
        else:
            run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}{options}",
                self.twin, str(size))
            if name.startswith("snapshot"):
                run("qemu-io", "-f", "qcow2", "-c", "write -P 5 100k 900k", "-c", "write -P 6 2M 100k", self.twin)
                run("qemu-img", "snapshot", "-c", "frozen", self.twin)
            run("cp", self.twin, self.ours)
        run("qemu-img", "convert", "-O", "raw", self.twin, self.model)
        self.fd = os.open(self.model, os.O_RDWR)

    def start(self):
        """nbdkit gets a socket that listens already: nothing to wait for."""
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.socket)
            listener.listen()
            command = f'LISTEN_FDS=1 LISTEN_PID=$$ exec nbdkit --exit-with-parent "$@" 3<&{listener.fileno()}'
            self.server = subprocess.Popen(["bash", "-c", command, "bash", PLUGIN, f"file={self.ours}"],
                                           pass_fds=[listener.fileno()])
        self.nbd = nbd.NBD()
        self.nbd.connect_unix(self.socket)

    def stop(self, kill):
        """Gently, or by kill -9 after a flush."""
        if kill:
            self.nbd.flush()
            self.server.send_signal(signal.SIGKILL)
        else:
            self.nbd.shutdown()
            self.server.send_signal(signal.SIGTERM)
        self.server.wait()

    def range(self, unit):
        offset = self.rng.randrange(self.size) // unit * unit
        length = max(1, self.rng.randrange(1, 5 * self.cluster) // unit) * unit
        return offset, min(length, self.size - offset, 8 << 20)

    def operation(self, commands):
        kind = self.rng.choice(["write"] * 4 + ["zero", "zero", "discard", "read", "read", "flush", "fua"])
        unit = self.rng.choice([512, 512, 4096, self.cluster])
        offset, length = self.range(self.cluster if kind == "discard" else unit)
        if kind == "read":
            if self.nbd.pread(length, offset) != os.pread(self.fd, length, offset):
                raise SystemExit(f"seed {SEED}: {length} bytes at {offset} read differently")
        elif kind == "flush":
            self.nbd.flush()
            commands.append("flush")
        elif kind in ("write", "fua"):
            pattern = self.rng.randrange(256)
            data = bytes([pattern]) * length
            self.nbd.pwrite(data, offset, nbd.CMD_FLAG_FUA if kind == "fua" else 0)
            os.pwrite(self.fd, data, offset)
            commands.append(f"write -P {pattern} {offset} {length}")
        else:
            # A discarded cluster reads as zeroes; the disk's last one counts as whole.
            (self.nbd.zero if kind == "zero" else self.nbd.trim)(length, offset)
            os.pwrite(self.fd, bytes(length), offset)
            commands.append(f"{'write -z' if kind == 'zero' else 'discard'} {offset} {length}")

    def resize(self):
        size = self.rng.randrange(1, 2 * self.size // 512) * 512
        size = max(size, 512 * 1024)
        run(IMAGE, "resize", self.ours, f"--size={size}", "--shrink")
        run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", self.twin, str(size))
        # QEMU shows again what a shrunk disk had in its last cluster.
        end = min(size, -(-self.size // self.cluster) * self.cluster)
        if end > self.size:
            run("qemu-io", "-f", "qcow2", "-c", f"write -z {self.size} {end - self.size}", self.twin)
        os.ftruncate(self.fd, size)
        self.size = size

    def compare(self):
        run("qemu-img", "check", "-q", "-f", "qcow2", self.ours)
        if run(IMAGE, "check", self.ours, may_fail=True):
            raise SystemExit(f"seed {SEED}: vmmd-image check finds errors that qemu-img check does not")
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", self.ours, self.model)
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", self.ours, self.twin)

    def round(self):
        commands = []
        self.start()
        for _ in range(self.rng.randrange(1, OPERATIONS)):
            self.operation(commands)
        self.stop(self.rng.random() < 0.3)
        arguments = [word for command in commands for word in ("-c", command)]
        run("qemu-io", "-f", "qcow2", "-d", "unmap", *arguments, self.twin)
        self.compare()
        if self.rng.random() < 0.4:
            self.resize()
            self.compare()


def main():
    rng = random.Random(SEED)
    base = f"{WORK}/base.raw"
    with open(base, "wb") as out:
        for _ in range(24):
            out.write(rng.randbytes(65536) if rng.random() < 0.6 else bytes(65536))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", f"{WORK}/middle.qcow2", "1M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 77 100k 300k", "-c", "write -z 700k 100k", f"{WORK}/middle.qcow2")
    trios = []
    for cluster in (512, 4096, 65536, 2 << 20):
        size = rng.randrange(3 << 11, 6 << 11) * 512
        for name, backing in (("raw", base), ("chain", f"{WORK}/middle.qcow2"), ("alone", None)):
            trios.append(Trio(rng, f"{name}-{cluster}", cluster, backing, size, ""))
    trios.append(Trio(rng, "lazy", 65536, None, 5 << 20, ",lazy_refcounts=on"))
    trios.append(Trio(rng, "metadata", 4096, None, 5 << 20, ",preallocation=metadata"))
    for name, options in (("version-2", ",compat=0.10"), ("narrow", ",refcount_bits=1"), ("wide", ",refcount_bits=64")):
        trios.append(Trio(rng, name, 4096, None, 5 << 20, options))
    frozen = [Trio(rng, f"snapshot-{cluster}", cluster, None, 5 << 20, "") for cluster in (4096, 65536)]
    for trio in frozen:
        run("qemu-img", "convert", "-l", "frozen", "-O", "raw", trio.twin, f"{trio.model}.frozen")
    trios += frozen
    for _ in range(STOPS):
        rng.choice(trios).round()
    for trio in frozen:
        run(IMAGE, "convert", trio.ours, "--snapshot=frozen", f"--output={trio.model}.now", "--to=raw")
        run("cmp", f"{trio.model}.now", f"{trio.model}.frozen")
    print(f"ok: seed {SEED}: {STOPS} stops on {len(trios)} images, equal and clean at each")


main()
