"""The trial behind `tests/long mount-crash`."""

import argparse
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from crash_model import CHECKS, Log, check, damage
from measure import median
from mounts import SYSTEMS, WORK, Report, command, guard, judged, wait_until

WORKER = Path(__file__).with_name("crash_worker.py")
# A worker that does not end so long after the server did hangs.
PATIENCE = 60


def start_workers(system):
    top, logs = system.dir / "crash", WORK / "logs"
    logs.mkdir(exist_ok=True)
    top.mkdir(exist_ok=True)
    return {
        kind: subprocess.Popen(
            [sys.executable, WORKER, kind, top / kind, logs / kind], stdout=subprocess.PIPE
        )
        for kind in CHECKS
    }


def interrupt_recovery(system, dice):
    """A kill while the mount comes up again after a kill."""

    def start():
        try:
            system.start()
        except RuntimeError:
            pass  # It was killed.

    starting = threading.Thread(target=start)
    starting.start()
    time.sleep(dice.uniform(0, 0.3))
    system.kill()
    starting.join()
    system.kill()
    system.clear_stale()


def notices_damage(system, logs, report):
    """Whether the checks above find what is wrong: copies of what they passed, each damaged a little."""
    for kind, log in logs.items():
        copy = WORK / "damaged" / kind
        shutil.copytree(system.dir / "crash" / kind, copy)
        before = check(kind, copy, log)
        damage(kind, copy, log)
        found = check(kind, copy, log)
        report.check(f"a lost acknowledgement is noticed: {kind}", not before and bool(found), (found or ["nothing"])[0])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="cairn")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--most", type=float, default=2.0, help="seconds of work before a kill, at most")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--remount", type=float, default=5.0, help="seconds a remount may take")
    parser.add_argument("--limit", type=int, default=7200)
    args = parser.parse_args()
    print(f"seed {args.seed}")
    dice = random.Random(args.seed)
    system = SYSTEMS[args.on]()
    guard(args.limit, [system])
    report = Report(f"kill -9 at random moments: {system.name}, seed {args.seed}")
    system.start()
    logs = {kind: Log(WORK / "logs" / kind) for kind in CHECKS}
    remounts, failures, hung, faults = [], [], 0, []
    for number in range(1, args.kills + 1):
        before = sum(len(log.acked) for log in logs.values())
        workers = start_workers(system)
        pause = dice.uniform(0.05, args.most)
        begun = {kind: log.begun for kind, log in logs.items()}
        wait_until(
            lambda: all(log.update().begun > begun[kind] for kind, log in logs.items())
            or any(worker.poll() is not None for worker in workers.values()),
            "the first operation of each worker",
        )
        time.sleep(pause)
        early = [kind for kind, worker in workers.items() if worker.poll() is not None]
        for kind in early:
            said = workers[kind].stdout.read().decode().strip()
            faults.append(f"kill {number}: {said or kind + ' ended'}")
        # The kernel then has the attributes of the top, and goes on showing them when nobody is behind them.
        command("stat", system.dir)
        system.kill()
        if not system.is_served:
            for worker in workers.values():
                worker.kill()
        for kind, worker in workers.items():
            try:
                worker.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                hung += 1
                print(f"  kill {number}: {kind} hangs", flush=True)
                worker.kill()
        system.clear_stale()
        if system.name == "cairn" and dice.random() < 0.1:
            interrupt_recovery(system, dice)
        start = time.monotonic()
        system.start()
        if system.keeps:
            os.stat(system.dir)
        remounts.append(time.monotonic() - start)
        found = [text for kind in CHECKS for text in check(kind, system.dir / "crash" / kind, logs[kind].update())]
        acked = sum(len(log.acked) for log in logs.values()) - before
        failures += [f"kill {number}: {text}" for text in found]
        for text in found[:5]:
            print(f"  kill {number}: {text}", flush=True)
        if number % 10 == 0 or found:
            print(f"  {number} kills, {acked} acknowledged in this one, remount {remounts[-1]:.2f} s", flush=True)
        if len(failures) > 100 or len(faults) > 20:
            print("  that is enough")
            break
    for kind, log in logs.items():
        lost = [text for text in failures if f": {kind}: " in text]
        report.check(f"nothing acknowledged is lost: {kind}", not lost, f"{len(log.acked)} acknowledged, {len(lost)} wrong {lost[:1] or ''}")
    report.check("no error before a kill", not faults, f"{len(faults)} {faults[:1] or ''}")
    report.check("nobody hangs after a kill", hung == 0, f"{hung}")
    kills, slowest = len(remounts), max(remounts)
    report.check("kills", kills == args.kills, f"{kills} of {args.kills}")
    report.check("a remount takes seconds", slowest <= args.remount, f"median {median(remounts):.2f} s, longest {slowest:.2f} s (target <= {args.remount})")
    if not failures:
        notices_damage(system, logs, report)
    system.stop()
    report.end()


judged(main)
