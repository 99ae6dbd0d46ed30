"""The part `locks` of `tests/long shared`: programs of several machines that rely on locks between them."""

import json
import subprocess
import threading
import time

from mounts import command, wait_until

SETTINGS = '[mount]\nlocks = "cluster"\n'

# Appends lines to a file under a lock, each with what it found there: an own number for each.
APPENDER = """
import fcntl, os, sys
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for at in range(count):
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().count(b"\\n")
        file.write(f"{lines} {name} {at}\\n".encode())
"""


def set_voters(members):
    """All machines vote."""
    first = members.all[0]
    peers = []
    for member in members.all:
        shown = json.loads(member.run("--json", "volume", "members", "shared"))["members"]
        peers += [peer["peer"] for peer in shown if peer["own"]]

    said = []

    def are_set():
        try:
            said[:] = first.run("-q", "volume", "voters", "shared", *peers).split()
        except RuntimeError as error:
            said[:] = [str(error)]
        return set(said) == set(peers)

    try:
        wait_until(are_set, "the voters agree", 120)
    except RuntimeError:
        print(f"  voters: {said}", flush=True)
        raise


def at_once(works):
    """Runs all at the same time; what went wrong."""
    wrong = []

    def guarded(work):
        try:
            work()
        except Exception as error:  # All are told.
            wrong.append(repr(error)[:300])

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def appends(members, args, report):
    first = members.all[0]
    (first.dir / "log").write_bytes(b"")
    wait_until(lambda: all((member.dir / "log").exists() for member in members.all), "the file arrives")
    begun = time.monotonic()

    def append(member):
        words = ["python3", "-c", APPENDER, str(member.dir / "log"), str(member.number), str(args.lines)]
        command(*words, timeout=1200)

    wrong = at_once([lambda member=member: append(member) for member in members.all])
    took = time.monotonic() - begun
    members.wait_equal()
    text = (first.dir / "log").read_bytes()
    lines = text.splitlines()
    total = args.lines * len(members.all)
    is_whole = [line.split()[0] for line in lines if line.strip()] == [str(at).encode() for at in range(total)]
    if not is_whole:
        # The first line that is not as it was written, with those around it, as each machine reads it.
        at = next((at for at, line in enumerate(lines) if not line.startswith(f"{at} ".encode())), len(lines))
        for member in members.all:
            seen = (member.dir / "log").read_bytes().splitlines()
            print(f"  line {at} on machine {member.number}: {seen[max(at - 2, 0):at + 3]}", flush=True)
    odd = [path.name for path in first.dir.iterdir() if "conflict-" in path.name]
    report.check(
        "locks: appending under flock on all machines loses no line", is_whole and not wrong and not odd,
        f"{len(lines)} lines of {total} in {took:.1f} s, {1000 * took / max(total, 1):.0f} ms each; conflict copies: {odd}; {wrong[:2]}")


def commits(members, args, report, environment):
    """Machines that commit in one working directory at the same time, as scripts do that try again while the index is
    locked."""
    first = members.all[0]
    top = "work"

    def run(member, *words):
        return command("git", "-C", member.dir / top, *words, timeout=600, env=environment)

    (first.dir / top).mkdir()
    run(first, "init", "-q", "-b", "main")
    run(first, "commit", "-q", "--allow-empty", "-m", "begin")
    members.wait_equal()
    tries = {member.number: 0 for member in members.all}
    begun = time.monotonic()

    def again(member, *words):
        while True:
            tries[member.number] += 1
            try:
                return run(member, *words)
            except RuntimeError as error:
                said = str(error)
                is_locked = "File exists" in said or "cannot lock ref" in said or "Another git process" in said
                if not is_locked or time.monotonic() > begun + 900:
                    raise
                time.sleep(0.05)

    def work(member):
        for at in range(args.commits):
            name = f"file-{member.number}-{at}"
            (member.dir / top / name).write_text(name * 100)
            again(member, "add", name)
            again(member, "commit", "-q", "--allow-empty", "-m", name)

    wrong = at_once([lambda member=member: work(member) for member in members.all[:2]])
    took = time.monotonic() - begun
    total = 2 * args.commits
    report.check("locks: git on two machines in one working directory", not wrong, f"{total} commits in {took:.1f} s, {sum(tries.values())} tries; {wrong[:2]}")
    different, _, _ = members.wait_equal(times=False)
    report.check("locks: the same everywhere", not different, different)
    for member in members.all:
        wanted = {f"file-{number}-{at}" for number in range(2) for at in range(args.commits)}
        there = set(run(member, "ls-tree", "--name-only", "HEAD").split())
        log = run(member, "log", "--format=%s").split("\n")
        said = run(member, "fsck", "--full", "--strict")
        odd = [path.name for path in (member.dir / top).rglob("*conflict-*")]
        is_whole = wanted <= there and sum(line.startswith("file-") for line in log) == total
        report.check(f"locks: every commit is there on machine {member.number}", is_whole and not odd, f"missing {sorted(wanted - there)[:3]}; {len(log)} commits; conflict copies: {odd[:3]}; {said.strip()[:100]}")


def locks(members, args, report, environment):
    set_voters(members)
    appends(members, args, report)
    commits(members, args, report, environment)
    # Nobody else decides for the one who is left.
    first, second, third = members.all
    for member in (second, third):
        member.set_link(False)
    words = ["python3", "-c", APPENDER, str(first.dir / "log"), "alone", "1"]
    tried = subprocess.run(words, capture_output=True, text=True, timeout=120)
    report.check("locks: without a majority there are none", "Errno 37" in tried.stderr, tried.stderr[-200:])
    for member in (second, third):
        member.set_link(True)
    wait_until(lambda: subprocess.run(words, capture_output=True, timeout=120).returncode == 0, "locks are had again", 120)


