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
    done = subprocess.run(command, stdout=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"{command[0]} {command[1]} failed: {done.stdout.decode()[-2000:]}")
    return done.stdout.decode().strip()


def median(values):
    return statistics.median(values)
