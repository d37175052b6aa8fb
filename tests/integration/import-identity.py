#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""vmmd-import --remove-identity: what must go is nowhere on the disk, what must stay is there, and
e2fsck finds the file system clean. Every secret below holds the word MARK, so that one search of the
raw disk tells whether any is left; so do names that give a machine away."""
import glob, os, random, shutil, socket, struct, subprocess, sys, tempfile

IMPORT = sys.argv[1]
MARK = b"5ecre7-mark"
MACHINE_ID = b"0123456789abcdef0123456789abcdef"
DIRTY = 0x4  # EXT3_FEATURE_INCOMPAT_RECOVER


def fail(text):
    sys.exit("FAIL: " + text)


def sh(*words, **more):
    r = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    return r.returncode, r.stdout.decode(errors="replace")


def must(*words):
    status, out = sh(*words)
    if status:
        fail("%s: %s" % (" ".join(words), out))
    return out


def run_import(source, out, *options, below=()):
    """Plays the daemon. (type, text) of the last message; a signal is ("killed", number)."""
    os.makedirs(out, exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds = [theirs.fileno(), os.open(source, os.O_RDONLY)]
    for name in ("disk.raw", "hashes", "kernel", "initrd"):
        fds.append(os.open(os.path.join(out, name), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
    fds.append(os.open("/dev/null", os.O_RDONLY))
    fds += [os.open(path, os.O_RDONLY) for path in below]

    def place():
        high = [os.dup(fd) for fd in fds]
        high = [os.dup2(fd, 100 + i) for i, fd in enumerate(high)]
        for i, fd in enumerate(high):
            os.dup2(fd, 3 + i, inheritable=True)

    child = subprocess.Popen([IMPORT, *options], preexec_fn=place, close_fds=False,
                             stderr=subprocess.DEVNULL)
    for fd in fds[1:]:
        os.close(fd)
    theirs.close()
    last = ("silent", "")
    while message := ours.recv(65536):
        kind = struct.unpack_from("I", message)[0]
        if kind == 2:
            kernel = message[40 + 128:40 + 256].split(b"\0")[0].decode()
            last = ("done", kernel)
        elif kind == 3:
            last = ("failed", message[40 + 128 + 128 + 1024:].split(b"\0")[0].decode())
    ours.close()
    child.wait()
    return ("killed", str(-child.returncode)) if child.returncode < 0 else last


# ---- a tree

def put(root, path, data, mode=0o644):
    path = os.path.join(root, path.lstrip("/"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, mode)


def kernel(version):
    body = bytearray(4 * 512 + 65536)
    body[0x1f1] = 3
    struct.pack_into("<I", body, 0x1f4, 65536 // 16)
    struct.pack_into("<H", body, 0x1fe, 0xaa55)
    body[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", body, 0x206, 0x20f)
    body[0x211] = 1
    struct.pack_into("<H", body, 0x236, 0x3f)
    body[0x400:0x400 + len(version)] = version
    return bytes(body)


KEPT = {
    "/etc/ssh/sshd_config": b"Port 22\n",
    "/etc/fstab": b"",
    "/home/anna/notes": b"to be kept\n" * 1000,
    "/var/lib/systemd/catalog/database": b"kept" * 5000,
    "/var/lib/cloud/seed/nocloud/meta-data": b"kept\n",
    "/usr/bin/something": bytes(random.Random(5).randrange(256) for _ in range(300000)),
}
EMPTIED = ["/etc/machine-id", "/var/log/wtmp", "/var/log/apt/history.log", "/var/log/syslog"]
REMOVED = ["/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_rsa_key.pub", "/etc/ssh/ssh_host_ed25519_key",
           "/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret", "/boot/loader/random-seed",
           "/loader/random-seed", "/var/log/syslog.1", "/var/log/syslog.2.gz", "/root/.bash_history",
           "/home/anna/.bash_history", "/home/anna/.local/share/fish/fish_history", "/home/bert/.lesshst",
           "/var/lib/dhcp/dhclient.ens3.leases", "/var/lib/NetworkManager/internal-1.lease",
           "/var/lib/dbus/machine-id", "/tmp/5ecre7-mark-file", "/tmp/deep", "/var/tmp/x",
           "/var/log/journal/" + MACHINE_ID.decode(), "/var/lib/cloud/instances"]


def make_tree(root, fstab=b""):
    for path, data in KEPT.items():
        put(root, path, data)
    put(root, "/etc/fstab", fstab)
    put(root, "/sbin/init", b"x")
    put(root, "/usr/lib/os-release", b'PRETTY_NAME="Test OS"\n')
    put(root, "/boot/vmlinuz-6.1.0-9-amd64", kernel(b"old"))
    put(root, "/boot/vmlinuz-6.1.0-31-amd64", kernel(b"new"))
    put(root, "/etc/machine-id", MACHINE_ID + b"\n", 0o444)
    put(root, "/etc/hostname", b"web-5ecre7-mark\n")
    put(root, "/etc/hosts", b"127.0.0.1 localhost\n127.0.1.1\tweb-5ecre7-mark.example web-5ecre7-mark\n10.0.0.1 other\n")
    for path in REMOVED[:17]:
        put(root, path, b"x" * 5000 + MARK + b"y" * 3000, 0o600)
    put(root, "/var/log/wtmp", MARK * 2000, 0o664)
    put(root, "/var/log/syslog", MARK * 100, 0o640)
    put(root, "/var/log/apt/history.log", MARK)
    put(root, "/var/log/journal/%s/system.journal" % MACHINE_ID.decode(), MARK * 3000)
    put(root, "/var/lib/cloud/instances/i-5ecre7-mark/obj.pkl", MARK)
    put(root, "/var/tmp/x", MARK)
    for i in range(1500):  # a directory with an index
        put(root, "/tmp/deep/a/b/5ecre7-mark-%d" % i, b"")
    os.symlink("5ecre7-mark-target", os.path.join(root, "tmp/deep/fast"))
    os.symlink("5ecre7-mark-target" * 10, os.path.join(root, "tmp/deep/slow"))
    os.mkfifo(os.path.join(root, "tmp/deep/fifo"))
    os.link(os.path.join(root, "home/anna/notes"), os.path.join(root, "tmp/deep/notes"))


def look(raw, offset, path):
    """What is at a path: None, or (size, mode, contents)."""
    where = "%s?offset=%d" % (raw, offset)
    status, out = sh("debugfs", "-R", "stat " + path, where)
    if "File not found" in out:
        return None
    if "Size:" not in out:
        fail("debugfs stat %s: %s" % (path, out))
    size = int(out.split("Size:")[1].split()[0])
    mode = int(out.split("Mode:")[1].split()[0], 8)
    r = subprocess.run(["debugfs", "-R", "cat " + path, where], stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL)
    return size, mode, r.stdout


def check_clean(raw, offset, size, what):
    part = raw + ".part"
    must("dd", "if=" + raw, "of=" + part, "bs=1M", "skip=%d" % offset, "count=%d" % size,
         "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none")
    status, out = sh("e2fsck", "-fn", part)
    if status:
        fail("%s: e2fsck: %s" % (what, out))
    must("dumpe2fs", "-h", part)
    os.unlink(part)


def check_gone(raw, what):
    with open(raw, "rb") as f:
        data = f.read()
    for word in (MARK, MACHINE_ID):
        at = data.find(word)
        if at >= 0:
            fail("%s: %r is left at byte %d: %r" % (what, word, at, data[max(0, at - 40):at + 60]))


def check_result(raw, offset, size, what, kept=KEPT):
    check_gone(raw, what)
    check_clean(raw, offset, size, what)
    for path, data in kept.items():
        if path == "/etc/fstab":
            continue
        found = look(raw, offset, path)
        if not found or found[2] != data:
            fail("%s: %s was to be kept" % (what, path))
    if kept is not KEPT:
        return
    for path in EMPTIED:
        found = look(raw, offset, path)
        if not found or found[0] != 0:
            fail("%s: %s was to be emptied: %s" % (what, path, found))
    for path in REMOVED:
        if look(raw, offset, path):
            fail("%s: %s was to be removed" % (what, path))
    if look(raw, offset, "/etc/machine-id")[1] != 0o444 or look(raw, offset, "/var/log/wtmp")[1] != 0o664:
        fail(what + ": modes changed")
    if look(raw, offset, "/etc/hostname")[2] != b"localhost\n":
        fail(what + ": the host name is left")
    if look(raw, offset, "/etc/hosts")[2] != b"127.0.0.1 localhost\n10.0.0.1 other\n":
        fail("%s: /etc/hosts: %r" % (what, look(raw, offset, "/etc/hosts")[2]))


# ---- the tests

def test_kinds(work, tree):
    kinds = {"ext4": ["-b", "4096"], "ext4, 1k": ["-b", "1024"], "ext4, no csum": ["-O", "^metadata_csum,^64bit"],
             "ext4, uninit_bg": ["-O", "^metadata_csum,uninit_bg"], "ext4, bigalloc": ["-O", "bigalloc", "-C", "16384"],
             "ext4, no journal": ["-O", "^has_journal"], "ext4, small inodes": ["-I", "128"],
             "ext3": ["-t", "ext3"], "ext2": ["-t", "ext2"], "ext2, no filetype": ["-t", "ext2", "-O", "^filetype"]}
    for what, options in kinds.items():
        raw = work + "/kind.raw"
        must("mke2fs", "-q", "-F", *(options if "-t" in options else ["-t", "ext4", *options]), "-d", tree, raw, "64M")
        with open(raw, "rb") as f:
            if MARK not in f.read():
                fail("the test has no marks")
        end = run_import(raw, work + "/out", "--remove-identity")
        if end != ("done", "vmlinuz-6.1.0-31-amd64"):
            fail("%s: %s" % (what, end))
        check_result(work + "/out/disk.raw", 0, 64 << 20, what)
        print("ok:", what)


def test_old_bytes(work, tree):
    """What lies in free blocks, in the journal and in swap goes, too."""
    raw = work + "/free.raw"
    must("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-d", tree, raw, "64M")
    with open(work + "/big", "wb") as f:
        f.write(MARK * 100000)
    must("debugfs", "-w", "-R", "write %s/big big" % work, raw)
    blocks = must("debugfs", "-R", "blocks big", raw).split("\n")[-2].split()
    must("debugfs", "-w", "-R", "rm big", raw)
    journal = must("debugfs", "-R", "blocks <8>", raw).split("\n")[-2].split()
    with open(raw, "r+b") as f:
        for block in journal[5:50]:
            f.seek(int(block) * 4096)
            f.write(MARK * 10)
        f.seek(int(blocks[0]) * 4096)
        if MARK not in f.read(4096):
            fail("the test's free blocks are empty")
    if run_import(raw, work + "/out", "--remove-identity")[0] != "done":
        fail("old bytes")
    check_result(work + "/out/disk.raw", 0, 64 << 20, "old bytes")
    print("ok: free blocks and the journal")


def test_partitions(work, tree):
    """The root, /var and swap in partitions; fstab tells what is what."""
    uuid = "11111111-2222-3333-4444-555555555555"
    root = work + "/proot"
    fstab = (b"# a comment\nLABEL=root / ext4 defaults 0 1\nUUID=%s /var ext4 defaults 0 2\n"
             b"UUID=1234-ABCD /boot/efi vfat umask=0077 0 1\n" % uuid.encode())
    shutil.copytree(tree, root, symlinks=True, copy_function=shutil.copy2, ignore=shutil.ignore_patterns("fifo"))
    put(root, "/etc/fstab", fstab)
    shutil.move(root + "/var", work + "/pvar")
    os.mkdir(root + "/var")
    raw = work + "/parts.raw"
    must("truncate", "-s", "200M", raw)
    table = "label: gpt\nstart=2048,size=131072\nstart=133120,size=131072\nstart=264192,size=32768\n"
    subprocess.run(["sfdisk", "-q", raw], input=table.encode(), check=True)
    for tree_of, number, options in ((root, 0, ["-L", "root"]), (work + "/pvar", 1, ["-U", uuid])):
        must("mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", tree_of, work + "/p.raw", "64M")
        must("dd", "if=" + work + "/p.raw", "of=" + raw, "bs=1M", "seek=%d" % (1 + 64 * number), "conv=notrunc",
             "status=none")
    must("truncate", "-s", "16M", work + "/swap.raw")
    must("mkswap", "-q", work + "/swap.raw")
    with open(work + "/swap.raw", "r+b") as f:
        f.seek(5 << 20)
        f.write(MARK)
    must("dd", "if=" + work + "/swap.raw", "of=" + raw, "bs=1M", "seek=129", "conv=notrunc", "status=none")
    end = run_import(raw, work + "/out", "--remove-identity")
    if end != ("done", "vmlinuz-6.1.0-31-amd64"):
        fail("partitions: %s" % (end,))
    disk = work + "/out/disk.raw"
    check_result(disk, 1 << 20, 64 << 20, "partitions, root", {"/etc/ssh/sshd_config": b"Port 22\n"})
    check_result(disk, 65 << 20, 64 << 20, "partitions, /var", {"/lib/systemd/catalog/database": b"kept" * 5000})
    for path in ("/log/journal/" + MACHINE_ID.decode(), "/lib/systemd/random-seed", "/tmp/x"):
        if look(disk, 65 << 20, path):
            fail("partitions: /var%s was to be removed" % path)
    if look(disk, 65 << 20, "/log/wtmp")[0] != 0:
        fail("partitions: /var/log/wtmp was to be emptied")
    with open(disk, "rb") as f:
        f.seek(129 << 20)
        if b"SWAPSPACE2" not in f.read(4096):
            fail("partitions: swap lost its header")
    print("ok: partitions")
    # The same UUID, another kind of file system (swap will do): half an identity is not removed.
    must("mkswap", "-q", "-U", uuid, work + "/p.raw")
    must("dd", "if=" + work + "/p.raw", "of=" + raw, "bs=1M", "seek=65", "conv=notrunc", "status=none")
    end = run_import(raw, work + "/out", "--remove-identity")
    if end[0] != "failed" or "cannot be removed from /var: it is swap" not in end[1]:
        fail("a /var that is not ext4: %s" % (end,))


def test_refusals(work, tree):
    raw = work + "/refuse.raw"
    must("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, raw, "64M")
    must("debugfs", "-w", "-R", "feature needs_recovery", raw)
    kind, text = run_import(raw, work + "/out", "--remove-identity")
    if kind != "failed" or "not unmounted cleanly" not in text:
        fail("a journal to be replayed: %s %s" % (kind, text))
    if run_import(raw, work + "/out")[0] != "done":
        fail("a journal to be replayed, identity kept")
    must("mke2fs", "-q", "-F", "-t", "ext4", "-O", "inline_data", "-d", tree, raw, "64M")
    kind, text = run_import(raw, work + "/out", "--remove-identity")
    if kind != "failed" or "inline data" not in text:
        fail("inline data: %s %s" % (kind, text))
    must("truncate", "-s", "0", raw)
    must("truncate", "-s", "64M", raw)
    kind, text = run_import(raw, work + "/out", "--remove-identity")
    if kind != "failed" or "only from a root file system" not in text:
        fail("nothing there: %s %s" % (kind, text))
    print("ok: refusals")


def test_chain(work, tree):
    """The image comes from an overlay over raw, as a guest's does, and from a longer chain."""
    base, mid, top = work + "/base.raw", work + "/mid.qcow2", work + "/top.qcow2"
    must("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, base, "64M")
    must("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", mid)
    must("qemu-io", "-f", "qcow2", "-c", "write -P 7 63M 64k", mid)
    must("qemu-img", "create", "-q", "-f", "qcow2", "-b", mid, "-F", "qcow2", top)
    for image, below in ((mid, (base,)), (top, (mid, base))):
        if run_import(image, work + "/out", "--below", str(len(below)), below=below)[0] != "done":
            fail("a chain of %d" % (len(below) + 1))
        must("qemu-img", "compare", "-f", "raw", "-F", "qcow2", work + "/out/disk.raw", image)
    hashes = work + "/base"
    run_import(base, hashes)
    damaged = work + "/damaged.raw"
    shutil.copy(base, damaged)
    if run_import(mid, work + "/out", "--below", "1", "--below-hashes", below=(base, hashes + "/hashes"))[0] != "done":
        fail("with hashes")
    with open(damaged, "r+b") as f:
        f.seek(20480)
        byte = f.read(1)[0] ^ 1
        f.seek(20480)
        f.write(bytes([byte]))
    end = run_import(mid, work + "/out", "--below", "1", "--below-hashes", below=(damaged, hashes + "/hashes"))
    if end[0] != "failed" or "damaged at byte 20480" not in end[1]:
        fail("a damaged template: %s" % (end,))
    print("ok: chains")


def test_hostile(work, tree):
    """Damaged file systems: an end, in whatever way, but soon and without the disk growing."""
    raw = work + "/good.raw"
    must("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum,^64bit", "-d", tree, raw, "48M")
    with open(raw, "rb") as f:
        data = f.read()
    r = random.Random(int(os.environ.get("IDENTITY_SEED", "1")))
    spots = [i for i in range(0, 1200 * 1024, 16) if any(data[i:i + 16])]
    ends = {}
    for _ in range(int(os.environ.get("IDENTITY_MUTANTS", "60"))):
        d = bytearray(data)
        for _ in range(r.choice([1, 4, 30, 400])):
            d[r.choice(spots) + r.randrange(16)] = r.choice([0, 1, 0x7f, 0x80, 0xff, r.randrange(256)])
        with open(work + "/mutant.raw", "wb") as f:
            f.write(d)
        kind = run_import(work + "/mutant.raw", work + "/out", "--remove-identity")[0]
        ends[kind] = ends.get(kind, 0) + 1
        if os.stat(work + "/out/disk.raw").st_size != len(data) and kind == "done":
            fail("the size of the disk changed")
    print("ok: damaged file systems:", ends)


def main():
    work = tempfile.mkdtemp(prefix="import-identity.")
    try:
        tree = work + "/tree"
        make_tree(tree)
        for test in (test_kinds, test_old_bytes, test_partitions, test_refusals, test_chain, test_hostile):
            test(work, tree)
            for part in glob.glob(work + "/*.raw") + glob.glob(work + "/*.qcow2"):
                os.unlink(part)
    finally:
        shutil.rmtree(work)
    print("passed")


main()
