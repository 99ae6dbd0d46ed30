"""The comparison behind `tests/long mount-speed`."""

import argparse
import json
import mmap
import os
import shutil
import subprocess
import time
from pathlib import Path

from measure import Measured, median
from mounts import SYSTEMS, WORK, Report, command, guard, uncache
from trees import pack, random_file, source_tree

GIB = 1 << 30
SOURCE = WORK / "source"
TAR = WORK / "tree.tar"
SMALL = 4096
GIT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"]}
# Behind the name of what a network did while it had data to place.
PLACING = ", placing"


CPUS = os.sched_getaffinity(0)


def pin(pids):
    """Puts this program, with those it starts, and the threads that answer the kernel on one processor, and
    the servers' other threads on the others. Left to the scheduler they are on one or on two, by chance, and a
    question costs three times as much across: the same filesystem differs more from itself than from others."""
    if len(CPUS) < 2:
        return
    first, *others = sorted(CPUS)
    os.sched_setaffinity(0, {first})
    for pid in pids:
        for task, thread in tasks(pid):
            answers = thread.startswith(("fuser", "bindfs", "glfs_fuse"))
            place(task, {first} if answers else set(others))


def unpin(pids):
    """Leaves all of them to the scheduler."""
    os.sched_setaffinity(0, CPUS)
    for pid in pids:
        for task, _ in tasks(pid):
            place(task, CPUS)


def tasks(pid):
    """The threads of a process, which may end meanwhile, with their names."""
    try:
        found = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in found:
        try:
            yield int(task), Path(f"/proc/{pid}/task/{task}/comm").read_text().strip()
        except OSError:
            pass


def place(task, cpus):
    try:
        os.sched_setaffinity(task, cpus)
    except OSError:
        # It has ended.
        pass


class Results:
    def __init__(self):
        self.rows = {}

    def add(self, system, what, unit, value, cpu=None):
        note = f"  ({cpu:.2f} CPU s)" if cpu is not None else ""
        print(f"    {system:13} {what:34} {value:10.4g} {unit}{note}", flush=True)
        self.rows.setdefault((what, unit), {}).setdefault(system, []).append((value, cpu))

    def of(self, system, what):
        """The median, or None where it was not measured."""
        for (name, _), row in self.rows.items():
            if name == what and system in row:
                return median([value for value, _ in row[system]])
        return None

    def show(self, systems, rounds):
        print(f"\nmedians of {rounds}; CPU seconds of the serving processes in parentheses")
        print(f"{'':34} {'':9} " + " ".join(f"{name:>18}" for name in systems))
        for (what, unit), row in self.rows.items():
            cells = []
            for name in systems:
                if name not in row:
                    cells.append("-")
                    continue
                value = median([value for value, _ in row[name]])
                used = [cpu for _, cpu in row[name] if cpu is not None]
                cells.append(f"{value:.4g}" + (f" ({median(used):.2f})" if used else ""))
            print(f"{what:34} {unit:9} " + " ".join(f"{cell:>18}" for cell in cells))


class Bench:
    """All workloads, once, on one system."""

    def __init__(self, system, results, args):
        self.system, self.results, self.args = system, results, args
        self.top = system.dir / "bench"
        # Whether program and server share a processor: see `pin`.
        self.is_pinned = False
        file = open(SOURCE, "rb")
        self.bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def measure(self, what, unit, count, act, with_cpu=False):
        if self.is_pinned:
            pin(self.system.pids())
        before = self.system.cpu()
        begun = time.monotonic()
        act()
        seconds = time.monotonic() - begun
        if with_cpu:
            # What daemons still do in the background after an answer belongs to it.
            time.sleep(1)
        cpu = self.system.cpu() - before if self.system.is_served else None
        value = seconds if unit == "s" else count / seconds
        self.results.add(self.system.name, what, unit, value, cpu)
        return cpu

    def cold(self):
        # What is started now would count one processor and be small for good. The next measurement pins it.
        os.sched_setaffinity(0, CPUS)
        self.system.cold()
        if not self.system.is_served:
            uncache(self.top)

    def run(self):
        self.top.mkdir()
        for phase in self.args.only.split(","):
            # What was written before is not to be on the way to the disk meanwhile.
            self.system.sync()
            self.is_pinned = self.args.pin and phase in ("small", "tree")
            try:
                getattr(self, phase)()
            finally:
                unpin(self.system.pids())

    # -- one large file

    def sequential(self):
        size, path = len(self.bytes), self.top / "large"
        mb, gib = size / 1e6, size / GIB

        def write():
            with open(path, "wb", buffering=0) as file:
                for at in range(0, size, 1 << 20):
                    file.write(self.bytes[at : at + (1 << 20)])
            self.system.sync()

        def read():
            buffer = bytearray(1 << 20)
            with open(path, "rb", buffering=0) as file:
                got = 0
                while count := file.readinto(buffer):
                    got += count
            assert got == size

        cpu = self.measure("sequential write, then sync", "MB/s", mb, write, with_cpu=True)
        self.per_gib("sequential write, then sync: CPU", cpu, gib)
        self.cold()
        cpu = self.measure("sequential read, cold", "MB/s", mb, read, with_cpu=True)
        self.per_gib("sequential read, cold: CPU", cpu, gib)
        self.measure("sequential read, warm", "MB/s", mb, read)
        if self.args.full:
            self.cold()
            with open(path, "rb") as file:
                for at in range(0, size, 1 << 20):
                    assert file.read(1 << 20) == self.bytes[at : at + (1 << 20)], f"byte {at}"
        for threads in (1, 16):
            self.cold()
            part = size // threads
            self.fio(
                f"random 4 KiB reads, cold, {threads:2}", "read", "--rw=randread", f"--numjobs={threads}",
                f"--filename={path}", f"--size={part}", f"--offset_increment={part}",
            )
        path.unlink()

    def per_gib(self, what, cpu, gib):
        if cpu is not None:
            self.results.add(self.system.name, what, "CPU s/GiB", cpu / gib)

    def fio(self, what, kind, *words):
        """A random load of at most so many seconds."""
        common = [
            "fio", "--name=load", "--ioengine=psync", "--thread=1", "--bs=4k", "--group_reporting=1",
            "--fallocate=none", "--output-format=json", f"--runtime={self.args.seconds}",
        ]
        before = self.system.cpu()
        said = command(*common, *words, timeout=600)
        job = json.loads(said[said.index("{") :])["jobs"][0][kind]
        cpu = self.system.cpu() - before if self.system.is_served else None
        self.results.add(self.system.name, what, "per s", job["iops"], cpu)

    def fsync(self):
        for threads in (1, 16):
            where = self.top / f"fsync{threads}"
            where.mkdir()
            self.fio(
                f"4 KiB write + fsync, {threads:2}", "write", "--rw=randwrite", "--fsync=1", "--overwrite=1",
                f"--directory={where}", "--size=8m", "--time_based", f"--numjobs={threads}",
            )
            shutil.rmtree(where)

    # -- many small files

    def small(self):
        count, top = self.args.files, self.top / "small"
        names = [f"{top}/d{at % 50:02}/f{at:05}" for at in sorted(range(count), key=lambda at: at % 50)]
        pool = memoryview(os.urandom(count * SMALL))
        bodies = [pool[at * SMALL : (at + 1) * SMALL] for at in range(count)]

        def create():
            for at in range(min(50, count)):
                os.makedirs(f"{top}/d{at:02}")
            for name, body in zip(names, bodies):
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(fd, body)
                os.close(fd)

        def stat():
            for name in names:
                assert os.stat(name).st_size == SMALL

        def read():
            for name, body in zip(names, bodies):
                fd = os.open(name, os.O_RDONLY)
                assert os.read(fd, 2 * SMALL) == body
                os.close(fd)

        def rename():
            for name in names:
                os.rename(name, name + ".r")

        def unlink():
            for name in names:
                os.unlink(name + ".r")

        def rate(what, act):
            self.measure(what, "per s", count, act)

        rate("create 4 KiB files", create)
        rate("stat, warm", stat)
        self.cold()
        rate("stat, cold", stat)
        self.cold()
        rate("open + read small files, cold", read)
        rate("rename", rename)
        rate("unlink", unlink)
        shutil.rmtree(top)
        if self.system.name == "cairn-devnet":
            # Once more while the network is busy with placing what was written just before.
            with open(self.top / "placed", "wb") as placed:
                for _ in range(512):
                    placed.write(os.urandom(1 << 20))
            for what, act in (("create 4 KiB files", create), ("stat, warm", stat), ("rename", rename), ("unlink", unlink)):
                rate(what + PLACING, act)
            shutil.rmtree(top)

    def space(self):
        """Disk that small files take. First of all phases, so that nothing of others comes back meanwhile."""
        count, top = self.args.files, self.top / "space"
        before = self.settled()
        pool = memoryview(os.urandom(count * SMALL))
        for at in range(count):
            if at % 100 == 0:
                os.makedirs(f"{top}/{at // 100}")
            with open(f"{top}/{at // 100}/{at}", "wb", buffering=0) as file:
                file.write(pool[at * SMALL : (at + 1) * SMALL])
        grown = self.settled() - before
        self.results.add(self.system.name, "disk used per byte of 4 KiB files", "x", grown / count / SMALL)
        shutil.rmtree(top)

    def settled(self):
        """Disk used, once it has not changed for some seconds: journals are cut in the background."""
        used, since = self.system.used(), time.monotonic()
        end = since + 60
        while time.monotonic() < min(end, since + 8):
            time.sleep(1)
            now = self.system.used()
            if now != used:
                used, since = now, time.monotonic()
        return used

    # -- a tree

    def tree(self):
        tree = self.top / "tree"

        def seconds(what, *words):
            self.measure(what, "s", 1, lambda: command(*words, timeout=1200, env=GIT))

        # Read once before.
        TAR.read_bytes()
        seconds("untar of the tree", "tar", "-xf", TAR, "-C", self.top, "--no-same-owner")
        git = f"cd '{tree}' && git init -q . && git add -A && git -c user.name=b -c user.email=b@b " \
            "-c gc.auto=0 commit -qm x"
        seconds("git init + add + commit", "bash", "-c", git)
        seconds("rm -rf of tree and repository", "rm", "-rf", tree)

    # -- the bounds of large files: what put and get of as much cost

    def put(self):
        if not hasattr(self.system, "put"):
            return
        file, back = WORK / "other", WORK / "back"
        gib = file.stat().st_size / GIB
        for what in ("put", "get"):
            with Measured(self.system.pids()) as cost:
                if what == "put":
                    link = self.system.put(file)
                else:
                    self.system.get(link, back)
            self.results.add(self.system.name, f"{what}: CPU", "CPU s/GiB", cost.cpu / gib)
        command("cmp", file, back, timeout=600)
        back.unlink()


def verdicts(results, report, systems):
    """The targets, as far as this run measured both sides."""

    def compare(what, one, other, factor, at_most):
        if one is None or not other:
            return
        ratio = one / other
        holds = ratio <= factor if at_most else ratio >= factor
        report.check(what, holds, f"{ratio:.3g} (target {'<=' if at_most else '>='} {factor})")

    small = ("create 4 KiB files", "stat, warm", "stat, cold", "open + read small files, cold", "rename", "unlink")
    tree = ("untar of the tree", "git init + add + commit", "rm -rf of tree and repository")
    for name, small_min, tree_max, space_max in (("cairn", 0.6, 2, 1.3), ("cairn-devnet", 0.4, 3, 2.0)):
        if name not in systems:
            continue

        def of(what, system=name):
            return results.of(system, what)

        for whats, factor, at_most in ((small, small_min, False), (tree, tree_max, True)):
            for what in whats:
                floor, rival = of(what, "memfs"), of(what, "bindfs")
                if floor and rival and (floor > rival if at_most else floor < rival):
                    report.check(f"{name}: {what} / floor", None, "the floor did not beat bindfs")
                else:
                    busy = of(what + PLACING)
                    note = PLACING if busy else ""
                    compare(f"{name}: {what}{note} / floor", busy or of(what), floor, factor, at_most)
        for what, bound in (("sequential write, then sync", "put"), ("sequential read, cold", "get")):
            cpu, limit = of(what + ": CPU"), of(bound + ": CPU")
            if cpu is not None and limit is not None:
                report.check(
                    f"{name}: {what}, CPU s/GiB", cpu <= limit + 1, f"{cpu:.3g} (target <= {bound}'s {limit:.3g} + 1)"
                )
        ext4 = "ext4"
        what = "sequential read, warm"
        compare(f"{name}: {what} / ext4", of(what), of(what, ext4), 0.9, False)
        what = "random 4 KiB reads, cold,  1"
        if name == "cairn":
            for what in (what, "random 4 KiB reads, cold, 16"):
                compare(f"{name}: {what} / ext4", of(what), of(what, ext4), 0.3, False)
        one, many = "4 KiB write + fsync,  1", "4 KiB write + fsync, 16"
        compare(f"{name}: {one} / bindfs", of(one), of(one, "bindfs"), 1, False)
        compare(f"{name}: {many} / one thread", of(many), of(one), 3, False)
        used = of("disk used per byte of 4 KiB files")
        if used is not None:
            # Less than nothing: room of an earlier part came back meanwhile, and the figure says nothing.
            report.check(f"{name}: disk used per byte of 4 KiB files", 0 < used <= space_max, f"{used:.3g} (target <= {space_max})")
    if "cairn-devnet" in systems and "gluster" in systems:
        faster = [("create 4 KiB files", 30, False), ("sequential write, then sync", 3, False),
                  ("sequential read, cold", 2, False), ("random 4 KiB reads, cold,  1", 3, False)]
        faster += [(what, 0.1, True) for what in tree]
        for what, factor, at_most in faster:
            compare(
                f"cairn-devnet: {what} / gluster", results.of("cairn-devnet", what), results.of("gluster", what),
                factor, at_most,
            )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="ext4,memfs,bindfs,cairn,cairn-devnet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large file")
    parser.add_argument("--files", type=int, default=5000, help="number of small files")
    parser.add_argument("--tree", type=int, default=10_000, help="files of the tree")
    parser.add_argument("--seconds", type=int, default=8, help="of each random load")
    parser.add_argument("--only", default="space,sequential,put,fsync,small,tree")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="leave it to chance who shares a processor")
    parser.add_argument("--full", action="store_true", help="also compare the large file after a remount")
    parser.add_argument("--limit", type=int, default=7200, help="seconds for all of it")
    args = parser.parse_args()
    names = args.on.split(",")
    random_file(SOURCE, args.mib)
    if "put" in args.only and any(name.startswith("cairn") for name in names):
        random_file(WORK / "other", args.mib)
    if "tree" in args.only:
        files, size = source_tree(WORK / "tree", args.tree)
        pack(WORK / "tree", TAR)
        shutil.rmtree(WORK / "tree")
        print(f"the tree: {files} files, {size / 1e6:.0f} MB")
    results, running, failed = Results(), [], []
    guard(args.limit, running)
    for number in range(args.rounds):
        # Each round begins with another system.
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            print(f"round {number + 1}, {name}", flush=True)
            system = SYSTEMS[name]()
            running.append(system)
            try:
                system.start()
                Bench(system, results, args).run()
                system.stop()
            except (RuntimeError, OSError, AssertionError, subprocess.SubprocessError) as error:
                failed.append(f"{name}, round {number + 1}: {error!r}")
                print(f"  FAILED {failed[-1]}", flush=True)
                system.kill()
                if os.path.ismount(system.dir):
                    command("umount", "-l", system.dir)
            running.remove(system)
            system.remove()
    results.show(names, args.rounds)
    report = Report("targets")
    print()
    for failure in failed:
        report.check("ran to its end", False, failure)
    if not failed:
        report.check("ran to its end", True, f"{args.rounds} rounds on {', '.join(names)}")
    verdicts(results, report, names)
    report.end()


main()
