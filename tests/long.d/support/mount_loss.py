"""The trial behind `tests/long loss`: a volume on six peers survives any two of them."""

import argparse
import random
import shutil
import time

from mounts import SYSTEMS, WORK, Report, command, guard, judged
from trees import differences, digest, listing, random_file, source_tree


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="cairn-devnet")
    parser.add_argument("--mib", type=int, default=1024, help="of the large file")
    parser.add_argument("--files", type=int, default=5000, help="of the tree")
    parser.add_argument("--rounds", type=int, default=1, help="networks; each loses another two peers")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--limit", type=int, default=3600)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    source, large = WORK / "sources", WORK / "large"
    files, size = source_tree(source, args.files)
    random_file(large, args.mib)
    want, sum_of_large = listing(source), digest(large)
    running = []
    guard(args.limit, running)
    report = Report(f"loss: {args.on}, seed {args.seed}")
    for number in range(1, args.rounds + 1):
        system = SYSTEMS[args.on](WORK / f"net{number}")
        running[:] = [system]
        system.start()
        begun = time.monotonic()
        command("cp", "-a", source, system.dir / "tree", timeout=1800)
        shutil.copyfile(large, system.dir / "large")
        written = time.monotonic() - begun
        system.sync()
        synced = time.monotonic() - begun
        print(f"  {files} files of {size / 1e6:.0f} MB and {args.mib} MiB written in {written:.1f} s, synced after {synced:.1f} s")
        victims = []
        if hasattr(system, "kill_peer"):
            victims = sorted(dice.sample([peer["index"] for peer in system.peers if peer["index"] != 1], 2))
        for peer in victims:
            system.kill_peer(peer)
        # Nothing may come from a cache. Another sync would wait for redundancy that cannot be had.
        system.cold(synced=False)
        begun = time.monotonic()
        there = digest(system.dir / "large")
        rate = args.mib * 1.048576 / (time.monotonic() - begun)
        what = f"with peers {victims} killed" if victims else "with nothing killed"
        report.check(f"the large file is identical, {what}", there == sum_of_large, f"{rate:.0f} MB/s")
        begun = time.monotonic()
        wrong = differences(want, listing(system.dir / "tree"))
        report.check(f"the tree is identical, {what}", not wrong, wrong or f"{len(want)} entries, {time.monotonic() - begun:.1f} s")
        # What is left still takes changes.
        (system.dir / "after").write_text("after")
        report.check(f"writing goes on, {what}", (system.dir / "after").read_text() == "after")
        system.stop()
        system.remove()
    report.end()


judged(main)
