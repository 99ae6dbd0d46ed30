"""The trial behind `tests/long million`: very many files in one volume."""

import argparse
import os
import threading
import time

from measure import median, peak_mib
from mounts import SYSTEMS, Report, command, guard, judged

# Created files are timed in windows of so many; a directory has a thousand.
WINDOW = 10_000
FOLDER = 1000


def rss_mib(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS:")), 0.0)
    except OSError:
        return 0.0


class Memory:
    """The most that one of the serving processes ever had resident, in MiB."""

    def __init__(self, system):
        self.system, self.most = system, 0.0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            for pid in self.system.pids():
                self.most = max(self.most, rss_mib(pid), peak_mib(pid))
            time.sleep(2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="cairn")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=100, help="in each file")
    parser.add_argument("--rss", type=int, default=300, help="MiB that a serving process may take")
    parser.add_argument("--remount", type=float, default=10.0, help="seconds a remount may take")
    parser.add_argument("--leave", action="store_true", help="do not remove them again")
    parser.add_argument("--limit", type=int, default=7200)
    args = parser.parse_args()
    system = SYSTEMS[args.on]()
    guard(args.limit, [system])
    report = Report(f"{args.files} files of {args.bytes} bytes in one volume: {system.name}")
    system.start()
    memory = Memory(system)
    top = system.dir / "many"
    top.mkdir()
    windows = []
    begun = time.monotonic()
    for at in range(args.files):
        if at % FOLDER == 0:
            folder = f"{top}/d{at // FOLDER:04}"
            os.mkdir(folder)
        fd = os.open(f"{folder}/f{at:07}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, b"%0*d" % (args.bytes, at))
        os.close(fd)
        if (at + 1) % WINDOW == 0:
            now = time.monotonic()
            windows.append(now - begun)
            begun = now
            if len(windows) % 10 == 0:
                print(f"  {at + 1} files, {WINDOW / windows[-1]:.0f} per s, {memory.most:.0f} MiB at most", flush=True)
    # One window is at the mercy of whatever else the machine does.
    early, late = median(windows[:3]), median(windows[-5:])
    report.check(
        "time of a new file, at the end against the first 10,000", late <= 1.5 * early,
        f"{late / early:.2f} (target <= 1.5): {WINDOW / early:.0f} and {WINDOW / late:.0f} per s",
    )

    def timed(what, act):
        begun = time.monotonic()
        answer = act()
        return answer, f"{time.monotonic() - begun:.1f} s {what}"

    def find():
        return command("find", top, "-type", "f", "-printf", "x", timeout=3600).count("x")

    def du():
        return int(command("du", "-s", "--apparent-size", "--block-size=1", top, timeout=3600).split()[0])

    for state in ("warm", "cold"):
        if state == "cold":
            system.sync()
            begun = time.monotonic()
            if system.keeps and system.is_served:
                system.unmount()
                down = time.monotonic()
                system.mount()
                assert os.stat(top).st_nlink > 2
                seconds = time.monotonic() - down
                report.check(
                    "a remount", seconds <= args.remount,
                    f"{seconds:.2f} s (target <= {args.remount:.0f}), unmounting {down - begun:.2f} s",
                )
            else:
                report.check("a remount", None, "not of this system")
                system.cold()
        count, detail = timed(state, find)
        report.check(f"find sees every file, {state}", count == args.files, f"{count} files, {detail}")
        size, detail = timed(state, du)
        folders = -(-args.files // FOLDER)
        enough = size >= args.files * args.bytes
        report.check(f"du adds up, {state}", enough, f"{size} bytes in {args.files} files and {folders} directories, {detail}")
    some = range(0, args.files, max(1, args.files // 2000))
    wrong = 0
    for at in some:
        with open(f"{top}/d{at // FOLDER:04}/f{at:07}", "rb") as file:
            wrong += file.read() != b"%0*d" % (args.bytes, at)
    report.check("content", wrong == 0, f"{len(some)} files read, {wrong} wrong")
    wide = system.dir / "wide"
    wide.mkdir()
    count = min(args.files, 1_000_000) // 10
    begun = time.monotonic()
    for at in range(count):
        os.close(os.open(f"{wide}/{at}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    seconds = time.monotonic() - begun
    listed, detail = timed("to list", lambda: len(os.listdir(wide)))
    report.check("one wide directory", listed == count, f"{listed} entries, {count / seconds:.0f} per s to make, {detail}")
    if system.is_served:
        report.check("memory of a serving process", memory.most < args.rss, f"{memory.most:.0f} MiB (target < {args.rss})")
    if not args.leave:
        _, detail = timed("to remove all", lambda: command("rm", "-rf", top, wide, timeout=3600))
        report.check("rm -rf", not top.exists(), detail)
    system.stop()
    report.end()


judged(main)
