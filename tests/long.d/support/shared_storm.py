"""The part `storm` of `tests/long shared`: all machines do everything in one small tree at the same time."""

import json
import os
import subprocess
import sys
import time

from measure import cpu_of
from trees import differences, listing

# Does random things with few names until the time is over, and counts what came of them. Run as a program
# of its own for each machine.
WORKER = r"""
import collections, errno, json, os, random, stat, sys, time
top, seed, seconds, most = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)
# What may be told to who finds the tree otherwise than it was a moment ago.
USUAL = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ESTALE}
DIRS = [""] + [f"d{at}" for at in range(4)] + [f"d{at}/e{to}" for at in range(2) for to in range(2)]
done, odd = collections.Counter(), collections.Counter()

def name():
    return os.path.join(top, dice.choice(DIRS), dice.choice("abcdefgh"))

def body():
    return bytes([dice.randrange(256)]) * dice.choice([0, 1, 100, 5000, 20_000, 200_000])

def write():
    with open(name(), "wb") as file:
        file.write(body())
        if dice.random() < 0.1:
            os.fsync(file.fileno())

def edit():
    fd = os.open(name(), os.O_RDWR)
    try:
        for _ in range(dice.randint(1, 4)):
            os.pwrite(fd, body()[:30_000], dice.randrange(50_000))
            time.sleep(dice.random() * 0.02)
        if dice.random() < 0.3:
            os.ftruncate(fd, dice.randrange(60_000))
    finally:
        os.close(fd)

def append():
    fd = os.open(name(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, body()[:3000])
    finally:
        os.close(fd)

def replace():
    there = name()
    new = os.path.join(top, f"new-{seed}")
    with open(new, "wb") as file:
        file.write(body())
    os.rename(new, there)

def read():
    with open(name(), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.read()

def hold():
    # Keeps it open for a while, in which others may do anything to it.
    fd = os.open(name(), os.O_RDWR)
    try:
        for _ in range(5):
            os.pread(fd, 100_000, 0)
            time.sleep(dice.random() * 0.1)
        os.pwrite(fd, b"held", 10)
    finally:
        os.close(fd)

def folder():
    os.mkdir(os.path.join(top, dice.choice(DIRS[1:])))

def move_folder():
    os.rename(os.path.join(top, dice.choice(DIRS[1:])), os.path.join(top, dice.choice(DIRS[1:])))

def listing():
    for entry in os.scandir(os.path.join(top, dice.choice(DIRS))):
        entry.stat(follow_symlinks=False)

ACTS = [
    (10, write), (8, edit), (6, append), (6, replace), (8, read), (1, hold), (6, folder), (3, move_folder), (8, listing),
    (6, lambda: os.rename(name(), name())), (6, lambda: os.unlink(name())), (3, lambda: os.link(name(), name())),
    (2, lambda: os.symlink("nowhere", name())), (3, lambda: os.rmdir(os.path.join(top, dice.choice(DIRS[1:])))),
    (3, lambda: os.chmod(name(), dice.choice([0o600, 0o644, 0o755]))), (2, lambda: os.utime(name(), (5, dice.randrange(10**9)))),
    (2, lambda: os.setxattr(name(), "user.x", body()[:200] or b"0")), (1, lambda: os.removexattr(name(), "user.x")),
    (1, lambda: os.truncate(name(), dice.randrange(100_000))),
]
weights = [weight for weight, _ in ACTS]
end = time.monotonic() + seconds
while time.monotonic() < end and sum(done.values()) < most:
    (act,) = dice.choices([act for _, act in ACTS], weights)
    try:
        act()
        done["done"] += 1
    except OSError as error:
        usual = error.errno in USUAL or error.errno == errno.ENODATA
        done["refused" if usual else "odd"] += 1
        if not usual:
            odd[f"{act.__name__}: {error.strerror}"] += 1
    time.sleep(dice.random() * 0.004)
print(json.dumps([done, odd]))
"""


def unreadable(top):
    """Regular files that cannot be opened and read, with what was said."""
    bad = []
    for directory, _, names in os.walk(top):
        for path in (os.path.join(directory, name) for name in names):
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            try:
                with open(path, "rb") as file:
                    file.read()
            except OSError as error:
                bad.append(f"{os.path.relpath(path, top)}: {error.strerror}")
    return bad


def storm(members, args, report):
    """All change one small tree at once, then with the links of one down now and then."""
    for number, cuts in enumerate((False, True)):
        title = "with cuts" if cuts else "connected"
        top = f"storm-{number}"
        (members.all[0].dir / top).mkdir()
        members.wait_equal()
        cpu = [cpu_of(member.node.pid) for member in members.all]
        workers = []
        for member in members.all:
            words = [member.dir / top, args.seed * 10 + member.number, args.storm, 1_000_000]
            words = [sys.executable, "-c", WORKER, *map(str, words)]
            workers.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
        at = 0
        while any(worker.poll() is None for worker in workers):
            time.sleep(1)
            at += 1
            if cuts:
                # Short and long ones, of each machine in turn.
                members.all[at // 8 % 3].set_link(at % 8 not in (1, 2, 3, 4, 6))
        for member in members.all:
            member.set_link(True)
        said = [worker.communicate()[0] for worker in workers]
        ended = all(worker.returncode == 0 for worker in workers)
        report.check(f"storm, {title}: the workers end", ended, f"{[worker.returncode for worker in workers]}")
        if ended:
            counts, odd = zip(*(json.loads(one) for one in said))
            # Who is cut off may be unable to read.
            unexpected = [one for one in odd if one and not (cuts and all("Input/output" in what for what in one))]
            report.check(f"storm, {title}: no call fails without a reason", not unexpected, f"{list(counts)} {[one for one in odd if one]}"[:400])
        # One that cannot be opened would end each walk, so it is told for itself.
        time.sleep(5)
        bad = unreadable(members.all[0].dir / top)
        report.check(f"storm, {title}: every file can be read", not bad, f"{len(bad)} cannot: {bad[:2]}"[:300] if bad else "")
        if bad:
            continue
        wrong, tree, passed = members.wait_equal(seconds=120, times=False)
        report.check(f"storm, {title}: the same everywhere", not wrong, wrong or f"{len(tree)} entries after {passed:.1f} s")
        wrong, _, _ = members.wait_equal(seconds=60)
        report.check(f"storm, {title}: and the same times", not wrong, wrong)
        used = [cpu_of(member.node.pid) - was for member, was in zip(members.all, cpu)]
        print(f"  CPU seconds {', '.join(f'{one:.1f}' for one in used)}", flush=True)
        time.sleep(5)
        before = [listing(member.dir) for member in members.all]
        for member, shown in zip(members.all, before):
            member.remount()
            wrong = differences(shown, listing(member.dir))
            report.check(f"storm, {title}: mounted again machine {member.number} shows the same", not wrong, wrong)
        wrong, _, _ = members.wait_equal(seconds=60)
        report.check(f"storm, {title}: the same everywhere when mounted again", not wrong, wrong)
        command = ["rm", "-rf", str(members.all[number].dir / top)]
        removed = subprocess.run(command, stderr=subprocess.PIPE)
        report.check(f"storm, {title}: all of it can be removed", removed.returncode == 0, removed.stderr.decode()[:300])
        wrong, tree, _ = members.wait_equal()
        report.check(f"storm, {title}: removed on one it is gone everywhere", not wrong and set(tree) == {"."}, wrong or f"{sorted(tree)[:5]}")
        report.check(f"storm, {title}: df -i counts what is there", *members.counts(tree))
