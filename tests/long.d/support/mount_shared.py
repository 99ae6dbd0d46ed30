"""The trial behind `tests/long shared`: one volume, mounted by three machines."""

import argparse
import hashlib
import os
import random
import shutil
import subprocess
import time
import traceback

from measure import cpu_of
from members import Members, cpu_rates, python
from mounts import WORK, Report, command, guard, judged, wait_until
from shared_conflicts import partition
from shared_locks import SETTINGS as LOCKS, locks
from shared_storm import storm
from trees import differences, listing, source_tree

# What a machine takes of a core when nothing happens, at most: above what `tests/long idle` demands,
# since a trial waits seconds and not minutes.
IDLE_SHARE = 0.03
GIT = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"],
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@a",
}

# Reads paths with digests of contents; says when each was there, and how often something else was.
WATCHER = """
import hashlib, sys, time
print("ready", flush=True)
for line in sys.stdin:
    path, digest, end = line.split()
    end = time.monotonic() + float(end)
    while True:
        try:
            with open(path, "rb") as file:
                is_there = hashlib.blake2b(file.read(), digest_size=16).hexdigest() == digest
        except FileNotFoundError:
            is_there = False
        if is_there or time.monotonic() > end:
            break
        time.sleep(0.001)
    print(time.monotonic() if is_there else "never", flush=True)
"""

# Writes files until it is told to stop, or fails, or has so many; says each one that is durable, if that
# is wanted.
WRITER = """
import os, sys
top, name, count, size, is_synced = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "synced"
os.makedirs(top, exist_ok=True)
for at in range(count):
    with open(f"{top}/{name}-{at:06}", "wb") as file:
        file.write((b"%s %08d " % (name.encode(), at) * (size // 8))[:size])
        if is_synced:
            file.flush()
            os.fsync(file.fileno())
    if is_synced:
        print(at, flush=True)
"""


def written(name, at, size):
    """What the writer writes."""
    return (b"%s %08d " % (name.encode(), at) * (size // 8))[:size]


class Watcher:
    """Waits for files on one machine."""

    def __init__(self, member):
        self.member = member
        words = ["python3", "-u", "-c", WATCHER]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def expect(self, path, body, seconds):
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        self.process.stdin.write(f"{self.member.dir}/{path} {digest} {seconds}\n")
        self.process.stdin.flush()

    def seen(self):
        """When it was there; none if it never was."""
        line = self.process.stdout.readline().strip()
        return None if line == "never" else float(line)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def sample(watchers, source, name, size):
    """Seconds from `close` on one machine to the content on each of the others; infinite if it never came."""
    body = os.urandom(size)
    for watcher in watchers:
        watcher.expect(f"delay/{name}", body, 60)
    time.sleep(0.02)
    with open(source.dir / "delay" / name, "wb") as file:
        file.write(body)
    closed = time.monotonic()
    seen = [watcher.seen() for watcher in watchers]
    return [float("inf") if at is None else max(0.0, at - closed) for at in seen]


def delay(members, args, report):
    """How soon what one machine wrote is read on the others."""
    source, busy = members.all[0], members.all[2]
    small, large = 4 << 10, 1 << 20
    (source.dir / "delay").mkdir()
    members.wait_files()
    watchers = [Watcher(member) for member in members.all[1:]]
    # The first ones pay for connections and empty caches.
    for at in range(5):
        sample(watchers, source, f"warm-{at}", small)

    def tell(state, size, found, target):
        what = f"delay of {size >> 10} KiB, {state}"
        if not found:
            report.check(what, None, "nothing was measured")
            return
        lost = found.count(float("inf"))
        p50, p99 = (1000 * quantile(found, share) for share in (0.5, 0.99))
        detail = f"p50 {p50:.1f} ms (target < {target}), p99 {p99:.1f} ms, {len(found)} samples, {lost} never came"
        report.check(what, p50 < target and not lost, detail)

    for size, samples, target in ((small, args.samples, 50), (large, args.samples // 4 + 1, 500)):
        found = [sample(watchers, source, f"idle-{size}-{at}", size) for at in range(samples)]
        tell("idle", size, sum(found, []), target)
    begun = time.monotonic()
    writer = python(WRITER, busy.dir / "busy", "busy", args.busy, 4096, "-")
    found, at = {small: [], large: []}, 0
    while writer.poll() is None:
        size = large if at % 4 == 3 else small
        found[size] += sample(watchers, source, f"busy-{at}", size)
        at += 1
    took = time.monotonic() - begun
    # A flood is not to stop the others: these are bounds and no aims.
    tell(f"while {args.busy} files are written", small, found[small], 250)
    tell(f"while {args.busy} files are written", large, found[large], 2000)
    for watcher in watchers:
        watcher.end()
    files = members.wait_files(seconds=600)
    took_all = time.monotonic() - begun
    report.check(
        f"{args.busy} files arrive", files >= args.busy,
        f"written in {took:.1f} s, {args.busy / took:.0f} per s; everywhere after {took_all:.1f} s",
    )
    report.check("the same everywhere", *equal(members))


def equal(members, seconds=180, among=None):
    """The last two arguments of a check."""
    wrong, tree, passed = members.wait_equal(among, seconds)
    return not wrong, wrong or f"{len(tree)} entries, the walks took {passed:.1f} s"


def wait_idle(members, seconds=180):
    """Waits until no machine takes more than an idle one; the shares, and the seconds."""
    begun = time.monotonic()
    while True:
        rates = cpu_rates(members, 5)
        passed = time.monotonic() - begun
        if max(rates) <= IDLE_SHARE or passed > seconds:
            return rates, passed


def many(members, args, report):
    """One machine brings a large tree; the others get it, and then little costs little."""
    dirs, files = (70_000, 250_000) if args.full else (args.dirs, args.files)
    source, limit = members.all[0], 7200 if args.full else 900
    ports_before = [member.traffic() for member in members.all]
    cpu_before = [cpu_of(member.node.pid) for member in members.all]
    begun = time.monotonic()
    places = []
    for at in range(dirs):
        place = source.dir / "many" / f"a{at // 200:04}" / f"d{at:06}"
        place.mkdir(parents=True)
        places.append(place)
    for at in range(files):
        (places[at % dirs] / f"f{at:06}").write_bytes(b"%0100d" % at)
    took = time.monotonic() - begun
    wait_until(lambda: len({member.files() for member in members.all}) == 1, "the tree arrives everywhere", limit)
    arrived = time.monotonic() - begun
    cpu = [cpu_of(member.node.pid) - was for member, was in zip(members.all, cpu_before)]
    count = dirs + files
    detail = f"written in {took:.1f} s, everywhere after {arrived:.1f} s; CPU seconds {', '.join(f'{one:.1f}' for one in cpu)}"
    report.check(f"{dirs} directories and {files} files arrive", arrived <= 3 * took + 30, f"{detail} (target: 3 times the writing + 30 s)")
    # Who merges does less than who writes.
    report.check("CPU of those who merge", max(cpu[1:]) <= 1.5 * cpu[0] + 1, f"{1e6 * max(cpu[1:]) / count:.0f} us each, the writer {1e6 * cpu[0] / count:.0f} us each (target: not above 1.5 times)")
    rates, passed = wait_idle(members)
    shares = ", ".join(f"{100 * rate:.1f} %" for rate in rates)
    report.check("CPU returns to idle", max(rates) <= IDLE_SHARE, f"{shares} of a core after {passed:.0f} s (target <= {100 * IDLE_SHARE:.0f} %)")
    brought = [member.traffic() - was for member, was in zip(members.all, ports_before)]
    report.check("the same everywhere", *equal(members, 600))
    # Then a little.
    wait_idle(members, 60)
    seconds = 30
    before = [member.traffic() for member in members.all]
    time.sleep(seconds)
    rest = [member.traffic() - was for member, was in zip(members.all, before)]
    before = [member.traffic() for member in members.all]
    cpu_before = [cpu_of(member.node.pid) for member in members.all]
    begun = time.monotonic()
    changed = random.Random(args.seed).sample(range(files), min(100, files))
    bodies = {}
    for at in changed:
        bodies[at] = b"changed %0100d" % at
        (places[at % dirs] / f"f{at:06}").write_bytes(bodies[at])

    def is_there(member):
        paths = ((places[at % dirs].relative_to(source.dir) / f"f{at:06}", body) for at, body in bodies.items())
        return all((member.dir / path).read_bytes() == body for path, body in paths)

    wait_until(lambda: all(is_there(member) for member in members.all), "100 changed files are everywhere")
    passed = time.monotonic() - begun
    time.sleep(max(0.0, seconds - passed))
    spent = [member.traffic() - was for member, was in zip(members.all, before)]
    cpu = [cpu_of(member.node.pid) - was for member, was in zip(members.all, cpu_before)]
    each = (sum(spent) - sum(rest)) / len(changed)
    each_before = sum(brought) / count
    report.check(
        f"{len(changed)} changed files cost as much as they are", each <= 3 * each_before + 4096,
        f"{each:.0f} bytes through all ports each, a new one {each_before:.0f} (target: not above 3 times and 4 KiB); "
        f"at rest {sum(rest) / seconds:.0f} bytes per s; everywhere after {passed:.2f} s; "
        f"CPU seconds {', '.join(f'{one:.2f}' for one in cpu)}",
    )
    report.check("the same everywhere afterwards", *equal(members, 600))


def away(members, args, report):
    """One machine is killed while it writes; another is away while the others write."""
    first, second, third = members.all
    size = 3000
    writer = python(WRITER, second.dir / "killed", "k", 1_000_000, size, "synced")
    time.sleep(args.seconds)
    second.kill()
    said = writer.communicate()[0].split()
    acknowledged = [int(line) for line in said]
    begun = time.monotonic()
    second.start_node()
    second.mount()
    back = time.monotonic() - begun

    def wrong(member):
        bad = 0
        for at in acknowledged:
            try:
                bad += (member.dir / "killed" / f"k-{at:06}").read_bytes() != written("k", at, size)
            except OSError:
                bad += 1
        return bad

    bad = wrong(second)
    report.check("kill -9 of who writes: what was synced is there", bool(acknowledged) and not bad, f"{len(acknowledged)} files, {bad} wrong; mounted again after {back:.1f} s")
    report.check("kill -9 of who writes: the same everywhere", *equal(members))
    bad = wrong(first) + wrong(third)
    report.check("kill -9 of who writes: what was synced is on the others", not bad, f"{bad} wrong")
    # It goes on writing, under whatever name.
    (second.dir / "after").write_text("after")
    wait_until(lambda: all((member.dir / "after").exists() for member in members.all), "what it writes after its return arrives")

    def write_some(label, count):
        # Made by one: what two make at once is tried by `partition`.
        (first.dir / label).mkdir()
        wait_until(lambda: (second.dir / label).exists(), "the directory arrives")
        writers = [python(WRITER, member.dir / label, f"w{member.number}", count // 2, size, "-") for member in (first, second)]
        for member in (first, second):
            for at in range(0, count // 2, 10):
                path = member.dir / label / f"w{member.number}-{at:06}"
                wait_until(lambda: path.exists() or any(one.poll() for one in writers), "the files are written", 600)
                if at % 20:
                    path.unlink(missing_ok=True)
                else:
                    path.rename(path.with_name(f"moved-{path.name}"))
        if any(one.wait() for one in writers):
            raise RuntimeError("a writer failed")

    third.stop()
    begun = time.monotonic()
    write_some("while-away", args.away)
    took = time.monotonic() - begun
    equal(members, among=[first, second])
    begun = time.monotonic()
    third.start_node()
    third.mount()
    mounted = time.monotonic() - begun
    wait_until(lambda: third.files() == first.files(), "who was away knows of all files", 300)
    caught_up = time.monotonic() - begun
    report.check(f"away while {args.away} files were written: comes back", caught_up <= took + 60, f"they took {took:.1f} s; mounted after {mounted:.1f} s, knew of all after {caught_up:.1f} s")
    report.check("away: the same everywhere", *equal(members))
    # The same with one that does not leave in good order, in the middle of it.
    half = python(WRITER, first.dir / "while-killed", "half", args.away, size, "-")
    time.sleep(args.seconds / 2)
    third.kill()
    half.wait()
    third.start_node()
    third.mount()
    wait_until(lambda: len({member.files() for member in members.all}) == 1, "who was killed knows of all files", 300)
    report.check("killed while it received: the same everywhere", *equal(members))
    trees = [listing(member.dir) for member in members.all]
    for member in members.all:
        member.remount()
    again = [listing(member.dir) for member in members.all]
    changes = [differences(old, new) for old, new in zip(trees, again)]
    report.check("mounted again it shows the same", not any(changes), "; ".join(filter(None, changes)))


def git(members, args, report):
    """Two machines push to one repository on the volume in turns, and a tree goes there and back."""
    first, second, third = members.all

    def run(where, *words):
        return command("git", "-C", where, *words, timeout=1200, env=GIT)

    begun = time.monotonic()
    run(WORK, "init", "-q", "--bare", "-b", "main", first.dir / "repo.git")
    clones = []
    for member in (first, second):
        wait_until(lambda: (member.dir / "repo.git/HEAD").exists() and (member.dir / "repo.git/refs/heads").exists(), "the repository arrives")
        clone = WORK / f"clone-{member.number}"
        run(WORK, "clone", "-q", member.dir / "repo.git", clone)
        run(clone, "checkout", "-q", "-B", "main")
        clones.append((member, clone))
    sources = WORK / "sources"
    files, _ = source_tree(sources, args.git_files)
    crates = sorted(sources.iterdir())
    dice, early, waits = random.Random(args.seed), 0, []
    for turn in range(args.turns):
        member, clone = clones[turn % 2]
        if turn:
            wanted = run(clones[(turn - 1) % 2][1], "rev-parse", "HEAD").strip()
            waited = time.monotonic()

            def has_come():
                try:
                    return wanted in run(WORK, "--git-dir", member.dir / "repo.git", "for-each-ref")
                except RuntimeError:
                    return False

            wait_until(has_come, "what was pushed there is the head here")
            waits.append(time.monotonic() - waited)
            # Where the name of a commit has arrived, all that it needs has arrived before it.
            try:
                run(clone, "pull", "-q", "--ff-only", "origin", "main")
            except RuntimeError as error:
                print(f"  turn {turn}: {error}", flush=True)
                early += 1
                time.sleep(5)
                run(clone, "pull", "-q", "--ff-only", "origin", "main")
        crate = crates[turn % len(crates)]
        if turn < len(crates):
            shutil.copytree(crate, clone / crate.name)
        else:
            changed = sorted(path for path in (clone / crate.name).rglob("*") if path.is_file())
            with open(dice.choice(changed), "a") as file:
                file.write(f"// {turn}\n")
        run(clone, "add", "-A")
        run(clone, "commit", "-q", "-m", f"turn {turn}")
        run(clone, "push", "-q", "origin", "main")
    took = time.monotonic() - begun
    report.check(f"git: {args.turns} pushes in turns", not early, f"{took:.1f} s; a push is seen after {1000 * quantile(waits, 0.5):.0f} ms (p50), {1000 * max(waits):.0f} ms at most; {early} came before what they need")
    report.check("git: the same everywhere", *equal(members))
    for member in members.all:
        said = command("git", "--git-dir", member.dir / "repo.git", "fsck", "--full", "--strict", timeout=1200, env=GIT)
        odd = [path for path in (member.dir / "repo.git").rglob("*conflict-*")]
        report.check(f"git: fsck on machine {member.number}", not odd, f"{said.strip()[:200]} conflict copies: {len(odd)}")
    run(third.dir, "--git-dir", third.dir / "repo.git", "gc", "-q", "--prune=now")
    report.check("git: the same everywhere after gc on the third", *equal(members))
    run(WORK, "clone", "-q", "--no-local", first.dir / "repo.git", WORK / "last")
    heads = {run(WORK / "last", "rev-parse", "HEAD"), run(clones[(args.turns - 1) % 2][1], "rev-parse", "HEAD")}
    report.check("git: a fresh clone has the last commit", len(heads) == 1)
    begun = time.monotonic()
    os.link(next(path for path in sources.rglob("*") if path.is_file()), sources / "second name")
    os.symlink("nowhere", sources / "link")
    # rsync sets no time that is right to the second.
    for path in (sources / "link", sources):
        os.utime(path, ns=(10**18 + 1, 10**18 + 123_456_789), follow_symlinks=False)
    command("rsync", "-aH", f"{sources}/", first.dir / "copy/", timeout=1200)
    there = time.monotonic() - begun
    report.check("rsync: the same everywhere", *equal(members))
    command("rsync", "-aH", f"{second.dir}/copy/", WORK / "back/", timeout=1200)
    wrong = differences(listing(sources), listing(WORK / "back"))
    report.check("rsync: there on one and back from another", not wrong, wrong or f"{files} files, there in {there:.1f} s")
    said = command("rsync", "-aHn", "--itemize-changes", f"{sources}/", third.dir / "copy/", timeout=1200)
    report.check("rsync: nothing is left to do on the third", not said.strip(), said.strip()[:200])


PARTS = {
    "delay": delay, "partition": partition, "many": many, "away": away, "git": git,
    "locks": lambda members, args, report: locks(members, args, report, GIT), "storm": storm,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--dirs", type=int, default=2000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--full", action="store_true", help="70,000 directories and 250,000 files")
    parser.add_argument("--samples", type=int, default=100, help="of each delay")
    parser.add_argument("--busy", type=int, default=10_000, help="files that are written during the delays")
    parser.add_argument("--away", type=int, default=5000, help="files that are written while one is away")
    parser.add_argument("--seconds", type=float, default=4.0, help="of writing before a kill")
    parser.add_argument("--cuts", default="5,45", help="seconds that the links are down, for each round")
    parser.add_argument("--storm", type=float, default=30.0, help="seconds of each storm")
    parser.add_argument("--turns", type=int, default=20, help="pushes of git")
    parser.add_argument("--lines", type=int, default=40, help="that each machine appends under a lock")
    parser.add_argument("--commits", type=int, default=12, help="of each of two machines in one working directory")
    parser.add_argument("--git-files", type=int, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--limit", type=int, default=0)
    args = parser.parse_args()
    parts = args.parts or list(PARTS)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    report = Report(f"one volume on three machines: {', '.join(parts)}, seed {args.seed}")
    running = []
    guard(args.limit or (20_000 if args.full else 3600), running)
    for part in parts:
        print(f"{part}", flush=True)
        members = Members(part, settings=LOCKS if part == "locks" else "")
        running[:] = [members]
        try:
            members.start()
            PARTS[part](members, args, report)
        except Exception as error:  # The other parts are to be tried all the same.
            traceback.print_exc()
            report.check(f"{part} ran to its end", False, repr(error)[:500])
        for member in members.all:
            alive = member.node is not None and member.node.poll() is None
            said = (member.home / "node.log").read_text(errors="replace") if alive else "it ended"
            bad = [line for line in said.splitlines() if "panicked" in line or " ERROR " in line]
            report.check(f"{part}: peer {member.number} lives, without a panic", alive and not bad, "; ".join(bad[:2]) if alive else member.said()[-300:])
        members.end()
    report.end()


judged(main)
