"""Machines that mount one volume: each a peer in a network namespace of its own, all on one switch.

The trial runs in namespaces of its own already; of those the network one is the switch.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

from measure import cpu_of
from mounts import CAIRN, LONG, WORK, Cairn, command, is_mounted, wait_until
from trees import differences, listing

VOLUME = "shared"
CONFIG = '[storage]\nquota = "8 GiB"\nreserve_free = "0 B"\n[network]\nmdns = false\n'


class Member(Cairn):
    """One machine: `dir` is its mount of the volume."""

    name = "member"

    def __init__(self, home, number, settings=""):
        super().__init__(home)
        self.settings = settings
        self.number = number
        self.port = f"port{number}"
        self.address = f"10.78.0.{number + 1}"
        self.node = None

    def plug_in(self):
        """Makes its network. The namespace lasts as long as the process that holds it."""
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        own = os.readlink("/proc/self/ns/net")

        def has_begun():
            try:
                return os.readlink(f"/proc/{self.holder.pid}/ns/net") != own
            except OSError:
                return False

        wait_until(has_begun, "a network namespace")
        there = str(self.holder.pid)
        command("ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", there)
        command("ip", "link", "set", self.port, "master", "switch", "up")
        for words in ("link set lo up", f"addr add {self.address}/24 dev eth0", "link set eth0 up"):
            command("nsenter", "-t", there, "-n", "ip", *words.split())

    def set_link(self, is_up):
        command("ip", "link", "set", self.port, "up" if is_up else "down")

    def traffic(self):
        """Bytes that went through its port so far, both ways."""
        shown = json.loads(command("ip", "-s", "-j", "link", "show", self.port))[0]["stats64"]
        return shown["rx"]["bytes"] + shown["tx"]["bytes"]

    def start_node(self):
        self.store.mkdir(parents=True, exist_ok=True)
        if not is_mounted(self.dir):
            self.dir.mkdir(parents=True, exist_ok=True)
        (self.store / "config.toml").write_text(CONFIG + self.settings)
        words = ["nsenter", "-t", str(self.holder.pid), "-n", CAIRN, "--data-dir", str(self.store), "node"]
        with open(self.home / "node.log", "ab") as log:
            environment = os.environ | {"CAIRN_LOG": os.environ.get("CAIRN_LOG", "cairnfs=info")}
            self.node = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        wait_until(self.answers, f"peer {self.number} answers")

    def answers(self):
        if self.node.poll() is not None:
            raise RuntimeError(f"peer {self.number} ended: {self.said()}")
        # A command on a directory without a peer would start one of its own.
        with socket.socket(socket.AF_UNIX) as control:
            return control.connect_ex(str(self.store / "control.sock")) == 0

    def said(self):
        return (self.home / "node.log").read_text(errors="replace")[-2000:]

    def mount(self):
        self.run("mount", VOLUME, self.dir)
        wait_until(lambda: is_mounted(self.dir), "cairn mount")

    def unmount(self):
        self.run("umount", self.dir)

    def remount(self):
        self.unmount()
        self.mount()

    def stop(self):
        """Ends in good order."""
        self.node.send_signal(signal.SIGTERM)
        self.node.wait(LONG)

    def kill(self):
        self.node.kill()
        self.node.wait(LONG)

    def pids(self):
        return [self.node.pid] if self.node and self.node.poll() is None else []

    def files(self):
        """How many files this replica knows of, without a look at any of them."""
        stat = os.statvfs(self.dir)
        return stat.f_files - stat.f_ffree

    def live(self):
        """How many peers it sees, itself included."""
        peers = json.loads(self.run("--json", "peers"))["peers"]
        return sum(peer["live"] for peer in peers)


class Members:
    """A number of machines with one volume, mounted everywhere."""

    def __init__(self, name, count=3, settings=""):
        self.all = [Member(WORK / name / f"member-{number}", number, settings) for number in range(count)]

    def start(self):
        command("ip", "link", "add", "switch", "type", "bridge")
        command("ip", "link", "set", "switch", "up")
        for member in self.all:
            member.plug_in()
            member.start_node()
        first = self.all[0]
        first.run("volume", "create", VOLUME)
        ticket = first.run("-q", "volume", "ticket", VOLUME).strip()
        first.mount()
        for member in self.all[1:]:
            member.run("volume", "open", ticket)
        self.wait_connected()
        for member in self.all[1:]:
            member.mount()

    def wait_connected(self, seconds=LONG):
        count = sum(bool(member.pids()) for member in self.all)
        wait_until(lambda: all(member.live() == count for member in self.all if member.pids()), "the peers meet", seconds)

    def pids(self):
        return [pid for member in self.all for pid in member.pids()]

    def end(self):
        """Whatever state they are in, nothing of them is left."""
        for member in self.all:
            if member.pids():
                member.node.terminate()
        for member in self.all:
            if member.pids():
                try:
                    member.node.wait(30)
                except subprocess.TimeoutExpired:
                    member.node.kill()
                    member.node.wait(LONG)
            if is_mounted(member.dir):
                command("umount", "-l", member.dir)
            holder = getattr(member, "holder", None)
            if holder:
                holder.kill()
                holder.wait()
            # It goes with the namespace at the other end, but only soon.
            subprocess.run(["ip", "link", "del", member.port], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", "switch"], stderr=subprocess.DEVNULL)

    def wait_files(self, among=None, seconds=LONG):
        """Waits until these know of the same number of files; how many."""
        among = among or self.all
        wait_until(lambda: len({member.files() for member in among}) == 1, "the same number of files everywhere", seconds)
        return among[0].files()

    def counts(self, tree):
        """Whether each counts as many files as a tree without hard links has; what they count."""
        found = [member.files() for member in self.all]
        return set(found) == {len(tree)}, f"{found}, there are {len(tree)}"

    def wait_equal(self, among=None, seconds=LONG, times=True):
        """Waits until these show the same tree: what they still disagree about in the end, the tree of the
        first one, and the seconds."""
        among = among or self.all
        begun = time.monotonic()
        while True:
            trees, wrong = [], ""
            try:
                trees = [listing(member.dir, times=times) for member in among]
                wrongs = (differences(trees[0], tree) for tree in trees[1:])
                wrong = next(filter(None, wrongs), "")
            except OSError as error:
                # Something went away under the walk.
                wrong = f"a walk failed: {error}"
            passed = time.monotonic() - begun
            if not wrong or passed > seconds:
                return wrong, trees[0] if trees else {}, passed
            time.sleep(0.25)


def cpu_rates(members, seconds):
    """What each takes of a core in the next seconds, as a share."""
    before = [cpu_of(member.node.pid) for member in members.all]
    begun = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begun
    return [(cpu_of(member.node.pid) - was) / passed for member, was in zip(members.all, before)]


def python(code, *words, **options):
    """A worker of its own, so that its waits do not hold up the trial."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **options
    )
