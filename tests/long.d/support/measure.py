"""CPU seconds, peak memory and time of process groups."""

import os
import resource
import statistics
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid):
    """User and system CPU seconds of a living process and of the children it has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICK


def peak_mib(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except FileNotFoundError:
        pass
    return 0.0


class Measured:
    """What a block of work cost: `seconds`, and `cpu` of daemons and of children that ended."""

    def __init__(self, pids=()):
        self.pids = list(pids)

    def __enter__(self):
        self.daemons = {pid: cpu_of(pid) for pid in self.pids}
        self.own = self._children()
        self.begun = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.begun
        # What daemons still do in the background after an answer belongs to it.
        time.sleep(1.0)
        self.by_pid = {pid: cpu_of(pid) - before for pid, before in self.daemons.items()}
        self.commands = self._children() - self.own
        self.cpu = self.commands + sum(self.by_pid.values())

    @staticmethod
    def _children():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime


def run(*command, **options):
    """Runs a command to its end; its standard output."""
    return run_peak(*command, **options)[0]


def run_peak(*command, **options):
    """Runs a command to its end; its standard output, and the most memory that it had, in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
    said = process.stdout.read()
    peak = reap(process)
    if process.returncode:
        sys.exit(f"{command[0]} {command[1]} failed: {said.decode()[-2000:]}")
    return said.decode().strip(), peak


def reap(process):
    """Waits for a child; the most memory that it had, in MiB (at least what this process had when it
    started it)."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024


def median(values):
    return statistics.median(values)


class Demands:
    """Figures beside their targets; the exit code says whether all hold."""

    def __init__(self):
        self.missed = 0
        print("\ntargets")

    def say(self, what, value, target, at_most=True):
        """One target, unless there is no figure: it was not asked for."""
        if value is None:
            return
        holds = value <= target if at_most else value >= target
        self.missed += not holds
        sign = "<=" if at_most else ">="
        print(f"  {'holds ' if holds else 'MISSED'} {what}: {value:.3g} (target {sign} {target:.4g})", flush=True)

    def end(self):
        if self.missed:
            print(f"{self.missed} MISSED")
        sys.exit(1 if self.missed else 0)
