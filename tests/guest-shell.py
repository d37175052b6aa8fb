#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""guest-shell.py NAME COMMAND: runs a shell command inside a guest over its serial console, as root without a password; prints
what it printed and exits with its status. Uses `vmctl console` as a person would ($VMCTL, default build/vmctl)."""
import os
import re
import selectors
import subprocess
import sys
import time

TIMEOUT = 120  # seconds; a guest on a loaded machine is slow


class Console:
    def __init__(self, name):
        vmctl = os.environ.get("VMCTL", "build/vmctl")
        self.process = subprocess.Popen([vmctl, "console", name], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.text = ""

    def send(self, line):
        os.write(self.process.stdin.fileno(), line.encode() + b"\n")

    def wait(self, *patterns):
        """Until the output since the last match has one of the patterns: (index, match)."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            for i, pattern in enumerate(patterns):
                match = re.search(pattern, self.text)
                if match:
                    before = self.text[:match.start()]
                    self.text = self.text[match.end():]
                    return i, match, before
            if not self.selector.select(deadline - time.monotonic()):
                sys.exit(f"guest-shell: no answer; the console showed: {self.text[-500:]!r}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                sys.exit("guest-shell: the console closed")
            self.text += data.decode(errors="replace").replace("\r", "")

    def close(self):
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait()


def main():
    name, command = sys.argv[1], sys.argv[2]
    console = Console(name)
    console.send("")
    which, _, _ = console.wait(r"login: $", r"[#$] .{0,8}$")
    if which == 0:
        console.send("root")
        console.wait(r"[#$] .{0,8}$")
    # A shell without line editing, so that nothing but the command's output comes back.
    console.send("exec env PS1= PS2= sh")
    console.send("stty -echo; dmesg -n 1; echo quiet-$((1 + 1))")
    console.wait(r"quiet-2\n")
    console.send("{ %s\n} 2>&1; echo status-$?-$((1 + 1))" % command)
    _, match, output = console.wait(r"status-(\d+)-2\n")
    console.send("stty echo; PS1='# '; exec bash")
    console.wait(r"# .{0,8}$")
    console.close()
    sys.stdout.write(output)
    sys.exit(int(match.group(1)))


main()
