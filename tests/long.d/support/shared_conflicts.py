"""The part `partition` of `tests/long shared`: both sides of a cut do what cannot both be had."""

import hashlib
import os
import shutil
import time

from trees import differences, listing

SIZES = (300, 3000, 100_000, 1_200_000)
PAIRS = len(SIZES)


def content(label, number):
    """Of its own for each, so that it can be found again under any name."""
    word = f"{label} {number}\n".encode()
    size = SIZES[number % PAIRS]
    return (word * (size // len(word) + 1))[:size]


def digest(body):
    return hashlib.blake2b(body, digest_size=16).hexdigest()


class Side:
    """One machine while the links are down: what it does, and the versions that must be there afterwards."""

    def __init__(self, label, member, top):
        self.label, self.top = label, member.dir / top
        self.versions = {}

    def write(self, path, number, before=None):
        """A new content, or what follows `before`. Nothing is read, since its holders may be out of reach."""
        body = content(f"{self.label} {path} {self.top.name}", number)
        with open(self.top / path, "wb" if before is None else "ab") as file:
            file.write(body)
            if number % 2:
                os.fsync(file.fileno())
        self.versions[digest((before or b"") + body)] = f"{self.label}'s {path}"


def prepare(top):
    for number in range(PAIRS):
        for path in (f"edits/e{number}", f"appends/p{number}", f"deletes/d{number}", f"removed/r{number}/old"):
            file = top / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content(path, number))
        for path in (f"moves/m{number}/deep", f"circles/a{number}", f"circles/b{number}", "moves/to-a", "moves/to-b"):
            (top / path).mkdir(parents=True, exist_ok=True)
        for path in (f"moves/m{number}/deep/in", f"circles/a{number}/in", f"circles/b{number}/in"):
            (top / path).write_bytes(content(path, number))
        os.setxattr(top / f"edits/e{number}", "user.kept", b"%d" % number)
    (top / "names").mkdir()


def keep_apart(top):
    """Contents that nobody edits and that no move may lose."""
    kept = {}
    for number in range(PAIRS):
        for path in (f"moves/m{number}/deep/in", f"circles/a{number}/in", f"circles/b{number}/in"):
            kept[digest((top / path).read_bytes())] = path
    return kept


def disagree(one, other):
    """What both sides do, in their own words."""
    for side in (one, other):
        is_one = side is one
        for number in range(PAIRS):
            # One new name for two files, for two directories, for a file and a directory.
            side.write(f"names/same-{number}.txt", number)
            (side.top / f"names/dir-{number}").mkdir()
            side.write(f"names/dir-{number}/of-{side.label}", number)
            side.write(f"names/dir-{number}/both", number)
            if is_one:
                side.write(f"names/kind-{number}", number)
            else:
                (side.top / f"names/kind-{number}").mkdir()
                side.write(f"names/kind-{number}/inside", number)
            side.write(f"edits/e{number}", number)
            side.write(f"appends/p{number}", number, content(f"appends/p{number}", number))
            if (number % 2 == 0) == is_one:
                side.write(f"deletes/d{number}", number, content(f"deletes/d{number}", number))
                side.write(f"removed/r{number}/new", number)
            else:
                (side.top / f"deletes/d{number}").unlink()
                shutil.rmtree(side.top / f"removed/r{number}")
            to = "to-a" if is_one else "to-b"
            (side.top / f"moves/m{number}").rename(side.top / f"moves/{to}/m{number}")
            inner, outer = ("a", "b") if is_one else ("b", "a")
            circles = side.top / "circles"
            (circles / f"{inner}{number}").rename(circles / f"{outer}{number}/{inner}")


def is_marked(path):
    """Whether a conflict copy says which file it competed with."""
    return "user.cairn.conflict" in os.listxattr(path) and os.getxattr(path, "user.cairn.conflict").decode() == path.name.split(".conflict-")[0]


def rate(place, count=1500):
    """New files per second of the last ones, when there are many."""
    for at in range(count):
        if at == count - 200:
            begun = time.monotonic()
        (place / f"more-{at:05}").write_bytes(b"x")
    return 200 / (time.monotonic() - begun)


def find(tree):
    """Digests of all contents of a tree."""
    return {cell for row in tree.values() for cell in row if isinstance(cell, str)}


def partition(members, args, report):
    """The links of the first machine are down, while it and the others change the same things."""
    first, second, third = members.all
    for number, seconds in enumerate(float(text) for text in args.cuts.split(",")):
        top = f"round-{number}"
        (first.dir / top).mkdir()
        prepare(first.dir / top)
        wrong, _, _ = members.wait_equal()
        title = f"cut for {seconds:.0f} s"
        report.check(f"{title}: the same everywhere before", not wrong, wrong)
        versions = keep_apart(first.dir / top)
        first.set_link(False)
        begun = time.monotonic()
        one, other = Side("one", first, top), Side("other", second, top)
        disagree(one, other)
        wrong, _, _ = members.wait_equal([second, third])
        report.check(f"{title}: those who see each other agree", not wrong, wrong)
        time.sleep(max(0.0, seconds - (time.monotonic() - begun)))
        first.set_link(True)
        # Contents and names first: times that differ are another matter.
        wrong, tree, passed = members.wait_equal(seconds=180, times=False)
        report.check(f"{title}: the same everywhere after {passed:.1f} s", not wrong, wrong or f"{len(tree)} entries")
        wrong, _, _ = members.wait_equal(seconds=60)
        report.check(f"{title}: and the same times", not wrong, wrong)
        versions |= one.versions | other.versions
        for member in members.all:
            there = find(listing(member.dir))
            lost = sorted(name for sum, name in versions.items() if sum not in there)
            report.check(f"{title}: every version is on machine {member.number}", not lost, f"{len(versions)} versions, {len(lost)} lost: {'; '.join(lost[:4])}")
        before = listing(first.dir)
        copies = [path for path in before if ".conflict-" in path]
        shown = [path for path in copies if "/edits/" in path]
        marked = [path for path in shown if is_marked(first.dir / path)]
        kept = [path for path in shown if "user.kept" in os.listxattr(first.dir / path)]
        report.check(f"{title}: a marked conflict copy of each edit", len(shown) == PAIRS and len(marked) == PAIRS, f"{len(shown)} of {PAIRS}, {len(marked)} marked; {len(copies)} conflict names in all")
        report.check(f"{title}: it has the extended attributes of the file", len(kept) == PAIRS, f"{len(kept)} of {PAIRS}")
        # Nothing goes on changing by itself, and nothing rests on what the kernel remembers.
        time.sleep(10)
        wrong = differences(before, listing(first.dir))
        report.check(f"{title}: it stays so", not wrong, wrong)
        for member in members.all:
            member.remount()
            wrong = differences(before, listing(member.dir))
            report.check(f"{title}: mounted again machine {member.number} shows the same", not wrong, wrong)
        merged, plain = rate(first.dir / top / "names/dir-0"), rate(first.dir / top / "edits")
        report.check(f"{title}: a directory that both made takes files as any other", merged >= plain / 2, f"{merged:.0f} per s, another one {plain:.0f} (target: not below the half)")
        # All of it can be removed, from wherever.
        shutil.rmtree(members.all[number % 3].dir / top)
        wrong, tree, _ = members.wait_equal()
        report.check(f"{title}: removed on one it is gone everywhere", not wrong and set(tree) == {"."}, wrong or f"{sorted(tree)[:5]}")
        report.check(f"{title}: df -i counts what is there", *members.counts(tree))
