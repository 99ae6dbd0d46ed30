"""What the trials of mounts are tried on: each system shows a directory by its own means.

    cairn         one peer, which serves its mount
    cairn-devnet  six peers, 4+2; peer 1 serves the mount
    memfs         the filesystem in memory behind the same adapter: the floor
    bindfs        a directory of this disk shown through FUSE
    ext4          a plain directory of this disk
    gluster       GlusterFS, six bricks, disperse 4+2, on loopback: a rival
"""

import ctypes
import json
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from measure import cpu_of

CAIRN = os.path.realpath(os.environ["CAIRN"])
MEMFS = os.environ.get("MEMFS", "")
# The trial's directory: others than root are to find their way in.
WORK = Path(os.environ["WORK"])
WORK.chmod(0o755)
# Handed to `cairn mount`, for instance `-o dev,suid`.
MOUNT_OPTIONS = os.environ.get("CAIRN_MOUNT_OPTIONS", "--allow-other").split()
# How long a mount, an unmount or a network may take.
LONG = 120
MS_REMOUNT = 32


def command(*words, timeout=LONG, **options):
    """Runs a command to its end; its standard output. A failure shows what it said."""
    words = [str(word) for word in words]
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout, **options
        )
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"{' '.join(words)}: not done after {timeout} s") from late
    if done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def wait_until(condition, what, seconds=LONG):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def is_mounted(directory):
    with open("/proc/self/mounts") as mounts:
        return any(line.split()[1] == str(directory) for line in mounts)


def uncache(top):
    """Takes the files under `top`, and nothing else, out of the page cache."""
    command("sync", "-f", top, timeout=600)
    for directory, _, files in os.walk(top):
        for name in files:
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                fd = os.open(os.path.join(directory, name), flags)
            except OSError:
                continue
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def stored(top):
    """Bytes of disk taken under `top`."""
    return int(command("du", "-s", "--block-size=1", top, timeout=600).split()[0])


class System:
    """Shows `dir`. What it keeps is under `store`."""

    name = ""
    # Whether what was written is there again after a remount, and whether there is a process to kill.
    keeps = True
    is_served = True

    def __init__(self, home=None):
        self.home = Path(home or WORK / self.name)
        self.dir = self.home / "mnt"
        self.store = self.home / "store"

    def start(self):
        """Mounts for the first time, or again after `stop` or `kill`."""
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            # What a killed server left: it is mounted over.
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                raise
        self.store.mkdir(parents=True, exist_ok=True)
        self.mount()

    def stop(self):
        """Unmounts; nothing runs any more."""
        self.unmount()

    def mount(self):
        raise NotImplementedError

    def unmount(self):
        command("umount", self.dir)

    def pids(self):
        """The processes that serve."""
        return []

    def cpu(self):
        return sum(cpu_of(pid) for pid in self.pids())

    def kill(self):
        """kill -9 of all that serves, without a word to anybody."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until(lambda: not self.pids(), f"{self.name}: the end of killed processes")

    def clear_stale(self):
        """Removes a mount whose process was killed, where the next mount does not do it itself."""
        if is_mounted(self.dir):
            command("umount", "-l", self.dir)

    def sync(self):
        """Everything written so far is where it will stay."""
        command("sync", "-f", self.dir, timeout=900)

    def cold(self, synced=True):
        """Later reads find nothing in a cache of this system or of the kernel."""
        if synced:
            self.sync()
        self.unmount()
        uncache(self.store)
        self.mount()

    def used(self):
        self.sync()
        return stored(self.store)

    def remove(self):
        shutil.rmtree(self.home, ignore_errors=True)


class Ext4(System):
    name = "ext4"
    is_served = False

    def __init__(self, home=None):
        super().__init__(home)
        self.store = self.dir

    def mount(self):
        pass

    def unmount(self):
        pass

    # Names and attributes stay in memory: only the whole machine could forget them.


class Bindfs(System):
    name = "bindfs"

    def mount(self):
        words = ["bindfs", "-f", str(self.store), str(self.dir)]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        wait_until(lambda: is_mounted(self.dir), "bindfs")

    def unmount(self):
        super().unmount()
        self.process.wait(LONG)

    def pids(self):
        return [self.process.pid] if self.process.poll() is None else []

    def sync(self):
        # FUSE hands no sync down.
        command("sync", "-f", self.store, timeout=900)


class Memfs(System):
    name = "memfs"
    keeps = False

    def mount(self):
        if not MEMFS:
            raise RuntimeError("MEMFS must name a release build of the example memfs")
        words = [MEMFS, str(self.dir), "--allow-other"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        wait_until(lambda: is_mounted(self.dir), "memfs")

    def unmount(self):
        super().unmount()
        self.process.wait(LONG)

    def pids(self):
        return [self.process.pid] if self.process.poll() is None else []

    def sync(self):
        pass

    def cold(self, synced=True):
        """It keeps nothing, so it cannot be mounted again: the kernel is made to forget this mount's
        names, and with them its inodes and pages, by remounting in place."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"memfs", bytes(self.dir), b"fuse.memfs", MS_REMOUNT, None):
            raise OSError(ctypes.get_errno(), "remount in place")

    def used(self):
        stat = os.statvfs(self.dir)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


class Cairn(System):
    name = "cairn"

    def run(self, *words, timeout=LONG, data_dir=None):
        """A command of the program; it is not to keep our pipes when it goes into the background."""
        log = self.home / "cairn.out"
        words = [CAIRN, "--data-dir", str(data_dir or self.store), *map(str, words)]
        with open(log, "wb") as out:
            # As in `command`, but a daemon may keep the file open.
            try:
                done = subprocess.run(
                    words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=timeout
                )
            except subprocess.TimeoutExpired as late:
                raise RuntimeError(f"{' '.join(words)}: not done after {timeout} s") from late
        said = log.read_text(errors="replace")
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {said[-2000:]}")
        return said

    def mount(self):
        self.run("mount", *MOUNT_OPTIONS, self.dir)
        wait_until(lambda: is_mounted(self.dir), "cairn mount")

    def unmount(self):
        self.run("umount", self.dir)
        wait_until(lambda: not self.pids(), "the end of the peer after its unmount")

    def clear_stale(self):
        pass  # `cairn mount` must do that itself.

    def pids(self):
        """The processes of this program with our data directory."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                exe = os.readlink(f"/proc/{entry}/exe").removesuffix(" (deleted)")
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if exe == CAIRN and os.fsencode(self.store) in words:
                found.append(int(entry))
        return found

    def sync(self):
        self.run("sync", self.dir, timeout=900)

    def put(self, file):
        """`cairn put`: the link, with which `get` brings it back."""
        return self.run("-q", "put", file, timeout=900).strip()

    def get(self, link, to):
        self.run("-q", "get", link, "-o", to, timeout=900)


class Devnet(Cairn):
    name = "cairn-devnet"
    peers_count = 6

    def __init__(self, home=None):
        super().__init__(home)
        self.peers = []

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        words = [CAIRN, "--json", "devnet", "--peers", str(self.peers_count)]
        words += ["--dir", str(self.store), "--mount", str(self.dir)]
        self.log = open(self.home / "devnet.err", "ab")
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log
        )
        self.peers, ready = [], threading.Event()

        def read():
            for line in self.process.stdout:
                value = json.loads(line)
                if value.get("ready"):
                    ready.set()
                elif "pid" in value:
                    self.peers.append(value)
            ready.set()

        threading.Thread(target=read, daemon=True).start()
        if not ready.wait(LONG) or len(self.peers) != self.peers_count:
            said = (self.home / "devnet.err").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the network did not start: {said}")
        wait_until(lambda: is_mounted(self.dir), "cairn devnet --mount")

    def stop(self):
        self.process.terminate()
        self.process.wait(LONG)
        if is_mounted(self.dir):
            raise RuntimeError("the network ended and left its mount")

    def run(self, *words, timeout=LONG, data_dir=None):
        return super().run(*words, timeout=timeout, data_dir=data_dir or self.peers[0]["data_dir"])

    def unmount(self):
        self.run("umount", self.dir)
        wait_until(lambda: not is_mounted(self.dir), "cairn umount")

    def pids(self):
        pids = [peer["pid"] for peer in self.peers]
        if self.process.poll() is None:
            pids.append(self.process.pid)
        return [pid for pid in pids if os.path.exists(f"/proc/{pid}/exe") and not is_zombie(pid)]

    def cpu(self):
        # The parent counts the children that ended; those are no part of what is going on.
        return sum(cpu_of(peer["pid"]) for peer in self.peers)

    def kill_peer(self, index):
        """kill -9 of one peer by its number, from 1."""
        pid = next(peer["pid"] for peer in self.peers if peer["index"] == index)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_zombie(pid), f"the end of peer {index}")


def is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


class Gluster(System):
    name = "gluster"
    # It takes no loopback address; this one is given to the namespace's loopback device.
    address = "10.99.0.1"
    bricks_count = 6
    own = {"lib": "/var/lib/glusterd", "log": "/var/log/glusterfs", "run": "/run/gluster"}

    def start(self):
        subprocess.run(["ip", "addr", "add", f"{self.address}/32", "dev", "lo"], stderr=subprocess.DEVNULL)
        self.store.mkdir(parents=True)
        # What it keeps of itself stays within this trial.
        for name, place in self.own.items():
            (self.home / name).mkdir(parents=True)
            command("mount", "--bind", self.home / name, place)
        command("glusterd", f"--pid-file={self.home}/glusterd.pid")
        bricks = [f"{self.address}:{self.store}/{at}" for at in range(self.bricks_count)]
        wait_until(lambda: self.said("pool", "list") is not None, "glusterd")
        command("gluster", "--mode=script", "volume", "create", "trial", "disperse", "6", "redundancy", "2", *bricks, "force")
        command("gluster", "--mode=script", "volume", "start", "trial")
        super().start()

    @staticmethod
    def said(*words):
        try:
            return command("gluster", "--mode=script", *words)
        except RuntimeError:
            return None

    def mount(self):
        command("mount", "-t", "glusterfs", f"{self.address}:/trial", self.dir)
        wait_until(lambda: is_mounted(self.dir), "the mount of gluster")

    def stop(self):
        self.unmount()
        self.kill()

    def remove(self):
        for place in self.own.values():
            if is_mounted(place):
                command("umount", "-l", place)
        super().remove()

    def sync(self):
        command("sync", "-f", self.store, timeout=900)

    def pids(self):
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and not is_zombie(entry):
                try:
                    exe = os.readlink(f"/proc/{entry}/exe")
                except OSError:
                    continue
                if os.path.basename(exe).startswith("gluster"):
                    found.append(int(entry))
        return found


SYSTEMS = {kind.name: kind for kind in (Ext4, Bindfs, Memfs, Cairn, Devnet, Gluster)}


def guard(seconds, systems):
    """After so many seconds all that serves is killed, which frees whoever waits for it; then the trial ends."""

    def end():
        print(f"GIVEN UP after {seconds} s", flush=True)
        for system in systems:
            for pid in system.pids():
                os.kill(pid, signal.SIGKILL)
        time.sleep(10)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


class Report:
    """One table of demands; the exit code says whether all hold."""

    current = None

    def __init__(self, title):
        self.title = title
        self.rows = []
        Report.current = self

    def check(self, what, holds, detail=""):
        """A demand: held, missed or, with None, not to be judged here."""
        word = {True: "holds", False: "MISSED", None: "-"}[holds]
        self.rows.append((word, what, str(detail)))
        print(f"  {word:6} {what}  {detail}", flush=True)

    def end(self):
        width = max((len(row[1]) for row in self.rows), default=0)
        print(f"\n{self.title}")
        for word, what, detail in self.rows:
            print(f"  {word:6} {what:{width}}  {detail}")
        missed = sum(row[0] == "MISSED" for row in self.rows)
        judged = sum(row[0] != "-" for row in self.rows)
        print(f"{judged - missed} of {judged} hold" + (f", {missed} MISSED" if missed else ""))
        sys.exit(1 if missed or not judged else 0)


def judged(main):
    """Runs a trial: what it fails at is one more demand that was missed."""
    try:
        main()
    except Exception as error:  # Whatever it is: the table is to be printed.
        traceback.print_exc()
        report = Report.current or Report("it did not begin")
        report.check("ran to its end", False, repr(error)[:500])
        report.end()
