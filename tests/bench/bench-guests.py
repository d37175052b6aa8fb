#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""bench-guests.py TEMPLATE: runs guests from a template and looks at their memory at set times after the last one's login prompt.
bench-guests.sh starts it, with $VMCTL, $VMMD_BUS_ADDRESS, $VMMD_PID and $STATE. Prints tables.

What is free: the resident pages of all guests less the distinct physical pages behind them, as the kernel tells in
/proc/PID/pagemap. What can be free (the oracle): the same pages less their distinct contents, read from /proc/PID/mem. Captured is
the quotient. Pages that are all zero are left out of both; pages of files (template, pool) are resident like others.

Looking must not disturb: until its one look nothing but /proc/PID/status is read in a round. For the look the guest processes are
stopped by SIGSTOP, scanners and all: `vmctl pause` holds the guest only, and its scanner goes on merging. So each time has a round
of its own. Counters that only a guest process knows are asked for just before.

--why SECONDS makes a round that does disturb: copies of all pages are taken at the prompt and half way, to tell what is not shared
by how long it has been what it is."""
import argparse
import array
import collections
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

PAGE = 4096
ZERO = bytes(PAGE)
PRESENT, FILE, ARMED, PFN = 1 << 63, 1 << 61, 1 << 57, (1 << 55) - 1
BOOT_LIMIT = 600  # seconds
ASK_BEFORE = 0.05
GROWTH_SECONDS = 10
VMCTL = os.environ["VMCTL"]


def vmctl(*args):
    return subprocess.check_output([VMCTL, *args], text=True)


def js(*args):
    return json.loads(vmctl(*args, "--format", "json"))


def die(text, status=1):
    print(f"bench-guests: {text}", file=sys.stderr)
    sys.exit(status)


def read(path):
    with open(path) as f:
        return f.read()


def digest(page):
    return hashlib.blake2b(page, digest_size=8).digest()


def cpu_of(pid, only=None):
    """Seconds (run, waited for a core) of a process's threads, or of those of one name."""
    run = wait = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            if only and read(f"/proc/{pid}/task/{tid}/comm").strip() != only:
                continue
            r, w, _ = read(f"/proc/{pid}/task/{tid}/schedstat").split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        run += int(r)
        wait += int(w)
    return run / 1e9, wait / 1e9


class Guest:
    def __init__(self, name):
        info = js("info", name)
        self.name, self.pid = name, int(info["pid"])
        self.start, self.bytes = int(info["ram_address"]), int(info["memory"])

    def shared(self):
        """Bytes mapped from the template and the pool, and some of the program: counted by the kernel as it happens."""
        status = read(f"/proc/{self.pid}/status")
        return sum(int(re.search(key + r":\s*(\d+)", status)[1]) * 1024 for key in ("RssFile", "RssShmem"))

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)

    def wait_stopped(self):
        while True:
            states = {read(f"/proc/{self.pid}/task/{t}/stat").rsplit(")", 1)[1].split()[0]
                      for t in os.listdir(f"/proc/{self.pid}/task")}
            if states == {"T"}:
                return
            time.sleep(0.001)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)

    def mappings(self):
        """[first page, end, kind] of the mappings of guest RAM."""
        result = []
        for line in open(f"/proc/{self.pid}/maps"):
            span, _, _, _, inode, *path = line.split(None, 5)
            start, end = (int(x, 16) for x in span.split("-"))
            start, end = max(start, self.start), min(end, self.start + self.bytes)
            if start < end:
                kind = "own" if inode == "0" else "pool" if path and "memfd:" in path[0] else "template"
                result.append(((start - self.start) // PAGE, (end - self.start) // PAGE, kind))
        return result

    def entries(self):
        table = array.array("Q")
        with open(f"/proc/{self.pid}/pagemap", "rb") as f:
            f.seek(self.start // PAGE * 8)
            table.frombytes(f.read(self.bytes // PAGE * 8))
        return table

    def contents(self, entries):
        """(page, its bytes) of all that are present. Others are not looked at, or the kernel would map zeros there."""
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)
        n, page = len(entries), 0
        while page < n:
            if not entries[page] & PRESENT:
                page += 1
                continue
            end = page
            while end < n and end - page < 256 and entries[end] & PRESENT:
                end += 1
            data = os.pread(fd, (end - page) * PAGE, self.start + page * PAGE)
            for i in range(len(data) // PAGE):
                yield page + i, data[i * PAGE:(i + 1) * PAGE]
            page = end
        os.close(fd)


Copy = collections.namedtuple("Copy", "guest page pfn kind split armed")


class Look:
    """What is in the RAM of stopped guests."""

    def __init__(self, guests):
        self.copies = collections.defaultdict(list)  # content: of all guests
        self.resident = 0
        pfns, zeros = set(), collections.Counter()
        for g in guests:
            entries = g.entries()
            kinds = [""] * len(entries)
            for first, end, kind in g.mappings():
                kinds[first:end] = [kind] * (end - first)
            for page, content in g.contents(entries):
                if content == ZERO:
                    zeros[entries[page] & PFN] += 1
                    continue
                e = entries[page]
                if not e & PFN:
                    die("skipped: the kernel does not tell physical pages", 77)
                self.resident += 1
                pfns.add(e & PFN)
                split = not e & FILE and kinds[page] != "own"
                kind = kinds[page] if e & FILE else "own"
                self.copies[digest(content)].append(Copy(g.name, page, e & PFN, kind, split, bool(e & ARMED)))
        self.physical = len(pfns)
        self.zero = sum(n for n in zeros.values() if n == 1)  # the others are the kernel's one page of zeros
        self.possible = self.resident - len(self.copies)
        self.free = self.resident - self.physical

    @property
    def captured(self):
        return self.free / self.possible if self.possible else 1.0


def vmmd_cpu():
    return cpu_of(os.environ["VMMD_PID"])[0]


def cpu_now(guests):
    """Seconds: of the scanner threads, what these waited for a core, of the whole guest processes, of vmmd."""
    scanners = [cpu_of(g.pid, "scanner") for g in guests]
    return {"scanners": sum(s[0] for s in scanners), "waited": sum(s[1] for s in scanners),
            "guests": sum(cpu_of(g.pid)[0] for g in guests), "vmmd": vmmd_cpu()}


class Round:
    """Guests from their start on. `began` is when the last one showed its login prompt, by time.time()."""

    def __init__(self, args):
        count = ["--count", str(args.guests)] if args.guests > 1 else []
        self.names = [f"bench-{i + 1}" for i in range(args.guests)] if count else ["bench"]
        self.began = 0.0
        events = subprocess.Popen([VMCTL, "events", "--format", "json"], stdout=subprocess.PIPE, text=True)
        signal.signal(signal.SIGALRM, lambda *_: die(f"no login prompt within {BOOT_LIMIT} s"))
        signal.alarm(BOOT_LIMIT)
        vmctl("run", args.template, "--name", "bench", "--memory", args.memory, *count)
        self.guests = [Guest(n) for n in self.names]
        self.wait_for_logins(events.stdout)
        signal.alarm(0)
        self.at_login = cpu_now(self.guests)
        events.terminate()
        events.wait()

    def wait_for_logins(self, events):
        waiting = set(self.names)
        while waiting:
            event = json.loads(events.readline() or die("vmctl events ended"))
            if event["name"] not in waiting:
                continue
            if event["kind"] == "guest-login":
                waiting.discard(event["name"])
                self.began = event["time"] / 1e6
            elif event["kind"] == "guest-state" and "failed" in event["text"]:
                die(f"{event['name']}: {event['text']}")

    def seconds(self):
        return time.time() - self.began

    def sleep_until(self, seconds):
        time.sleep(max(0, seconds - self.seconds()))

    def look(self, at):
        """Stops everything at that time, and looks."""
        asked = None
        if at >= 2 * ASK_BEFORE:
            self.sleep_until(at - ASK_BEFORE)
            asked = subprocess.Popen([VMCTL, "memory", "--format", "json"], stdout=subprocess.PIPE, text=True)
            self.sleep_until(at)
        for g in self.guests:
            g.stop()
        self.at = self.seconds()
        for g in self.guests:
            g.wait_stopped()
        self.cpu = cpu_now(self.guests)
        look = Look(self.guests)
        for g in self.guests:
            g.go_on()
        memory = json.loads(asked.communicate()[0]) if asked else js("memory")
        self.memory = [m for m in memory["guests"] if m["name"] in self.names]
        return look

    def row(self, look, label=""):
        since = {k: self.cpu[k] - self.at_login[k] for k in self.cpu}
        return [f"{label}{self.at:.2f} s", mib(look.resident), mib(look.possible), f"{look.captured * 100:.1f} %",
                f"{self.cpu['scanners']:.2f} s", f"{since['scanners']:.2f} s", f"{since['waited']:.2f} s",
                f"{since['guests'] - since['scanners']:.2f} s", f"{since['vmmd']:.2f} s",
                str(max(m["passes"] for m in self.memory)), f"{max(m['longest_freeze_seconds'] for m in self.memory) * 1e3:.2f} ms"]

    def end(self):
        """The guests must have come to no harm."""
        shell = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "guest-shell.py")
        for name in self.names:
            if subprocess.check_output([shell, name, "echo alive"], text=True) != "alive\n":
                die(f"{name} does not answer")
        vmctl("stop", "-f", *self.names)
        for name in self.names:
            overlay = f"{os.environ['STATE']}/guests/{name}/overlay.qcow2"
            check = subprocess.run(["qemu-img", "check", overlay], capture_output=True, text=True)
            if check.returncode:
                die(f"qemu-img check of {name}: {check.stdout}{check.stderr}")
        vmctl("delete", *self.names)


# ---- tables ----

TIMES_HEAD = ["after the last login prompt", "resident", "possible", "captured", "CPU of scanners", "since the prompt",
              "waited for a core", "guests", "vmmd", "passes", "longest freeze"]


def mib(pages):
    return f"{pages * PAGE / 2**20:.1f} MiB"


def table(head, rows, markdown):
    if markdown:
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for r in rows:
            print("| " + " | ".join(r) + " |")
    else:
        widths = [max(len(r[i]) for r in [head] + rows) for i in range(len(head))]
        for r in [head] + rows:
            print("  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(r, widths))))
    print(flush=True)


# ---- what is missing ----

AGES = ["as at the prompt", "changed in the first half", "changed in the second half"]


def snapshot(guests):
    """Copies of what is there now, while guests run: copied as fast as can be, hashed by and by."""
    return [list(g.contents(g.entries())) for g in guests]


def hashes(guests, shot):
    return {g.name: {page: digest(content) for page, content in pages} for g, pages in zip(guests, shot)}


def template_contents(template):
    info = js("template", "info", template)
    contents = set()
    with open((info[0] if isinstance(info, list) else info)["path"] + "/disk.raw", "rb") as disk:
        while block := disk.read(PAGE):
            contents.add(digest(block))
    return contents


def missing(look, disk, early, half):
    """Counts physical pages that perfect sharing would free, by (where else, since when, state). Of pages with the same content the
    one that needs not go is that of a file, else the oldest."""
    def age(content, copy):
        if half[copy.guest].get(copy.page) != content:
            return 2
        return 1 if early[copy.guest].get(copy.page) != content else 0

    why = collections.Counter()
    for content, copies in look.copies.items():
        one_each = {c.pfn: c for c in copies}.values()
        kinds = {c.kind for c in copies}
        for c in sorted(one_each, key=lambda c: (c.kind == "own", age(content, c)))[1:]:
            if c.kind != "own":
                why["held twice: " + "+".join(sorted(kinds - {"own"})), "", ""] += 1
                continue
            where = ("in the template" if content in disk else "in the pool" if "pool" in kinds else
                     "private in several guests" if len({x.guest for x in copies}) > 1 else "twice in one guest")
            state = "split" if c.split else "armed, not written since" if c.armed else "written, not armed"
            why[where, AGES[age(content, c)], state] += 1
    return why


def explain(args, at):
    disk = template_contents(args.template)
    r = Round(args)
    early = snapshot(r.guests)
    early_at = r.seconds()
    r.sleep_until(at / 2)
    half_at = r.seconds()
    half = snapshot(r.guests)
    look = r.look(at)
    why = missing(look, disk, hashes(r.guests, early), hashes(r.guests, half))
    print(f"At {r.at:.2f} s (copied at the prompt, until {early_at:.2f} s, and at {half_at:.2f} s) {look.possible - look.free} pages of "
          f"{look.possible} are missing; {look.zero} pages of zeros are resident.\n")
    table(["same content", "is what it is", "state", "pages", "of possible"],
          [[*k, str(n), f"{n / look.possible * 100:.2f} %"] for k, n in why.most_common()], args.markdown)
    table(TIMES_HEAD, [r.row(look)], args.markdown)
    r.end()


# ---- the steady state ----

def watch_growth(r):
    """When does what is mapped from template and pool stop growing? The kernel's counts, which cost nothing to read."""
    seen = []
    while r.seconds() < GROWTH_SECONDS:
        seen.append((r.seconds(), sum(g.shared() for g in r.guests)))
        time.sleep(0.1)
    most = max(s for _, s in seen)
    done = next(t for t, s in seen if s >= most * 0.99)
    vmctl("memory", "--settle", "--timeout", "300")
    print(f"Mapped from template and pool (and program): {seen[0][1] / 2**20:.0f} MiB at the prompt, at most {most / 2**20:.0f} MiB within "
          f"{GROWTH_SECONDS} s, 99 % of that after {done:.1f} s; settled within {r.seconds():.0f} s.\n")


def guests_now(r):
    memory = {m["name"]: m for m in js("memory")["guests"]}
    return [(memory[g.name], cpu_of(g.pid, "scanner")[0], cpu_of(g.pid)[0]) for g in r.guests]


def steady(args):
    """What guests cost that have settled; returns the row of a last look at them."""
    r = Round(args)
    watch_growth(r)
    before, vmmd, begin = guests_now(r), vmmd_cpu(), time.monotonic()
    time.sleep(args.steady)
    lasted = time.monotonic() - begin
    vmmd = vmmd_cpu() - vmmd
    rows, sums = [], [0.0, 0.0, 0.0]
    for g, (b, b_thread, b_all), (a, a_thread, a_all) in zip(r.guests, before, guests_now(r)):
        spent = [a["cpu_seconds"] - b["cpu_seconds"], a_thread - b_thread, a_all - b_all]
        sums = [x + y for x, y in zip(sums, spent)]
        then = [str(a[k] - b[k]) for k in ("merges", "splits", "passes")]
        rows.append([g.name, str(a["merges"]), str(a["splits"]), str(a["mappings"]), f"{a['cpu_seconds']:.2f} s", *then,
                     *(f"{x / lasted * 100:.3f} %" for x in spent)])
    gib = sum(g.bytes for g in r.guests) / 2**30
    rows.append(["a GiB of guest RAM"] + [""] * 7 + [f"{x / lasted / gib * 100:.3f} %" for x in sums])
    table([f"then {lasted:.0f} s settled", "merges", "splits", "mappings", "scanner CPU", "merges then", "splits then", "passes then",
           "by the ledger", "scanner thread", "whole process"], rows, args.markdown)
    print(f"vmmd itself: {vmmd / lasted * 100:.3f} % of a core.\n")
    row = r.row(r.look(r.seconds() + 2 * ASK_BEFORE), "settled, ")
    r.end()
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("template")
    parser.add_argument("--guests", type=int, default=4)
    parser.add_argument("--memory", default="256M")
    parser.add_argument("--times", default="0,0.5,1,2,5")
    parser.add_argument("--steady", type=float, default=60)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--why", type=float)
    args = parser.parse_args()
    if args.markdown:
        print("\n## Real guests\n")
    print(f"{args.guests} guests of {args.memory}, scan budget {os.environ['BUDGET']} %, load {os.getloadavg()[0]:.1f} before.\n")
    if args.why is not None:
        explain(args, args.why)
        return
    rows = []
    for at in (float(t) for t in args.times.split(",") if t):
        r = Round(args)
        rows.append(r.row(r.look(at)))
        r.end()
    if args.steady:
        rows.append(steady(args))
    table(TIMES_HEAD, rows, args.markdown)


main()
