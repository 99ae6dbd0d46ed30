"""Memory of every process while a stream is put and got: `tests/long memory`."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from devnet import Devnet, Stream, first_bytes
from measure import Demands, peak_mib, reap, run_peak

WORK = Path(os.environ["WORK"])
# MiB of each process.
MOST = 250
SEED = 7


def put(net, size):
    """The link, and the most memory of the command in MiB."""
    stream = Stream(size, SEED)
    link, peak = run_peak(*net.command(0, "put", "-"), stdin=stream.output)
    if not stream.end():
        sys.exit("put did not take the whole stream")
    return link, peak


def get(net, link, size):
    """Gets it at a peer that did not put it and compares; how long the first bytes and all of it took,
    MiB that this peer had written down before somebody read on, and the most memory of the command."""
    data_dir = net.peers[3]["data_dir"]
    before = allocated(data_dir)
    process, first, soon = first_bytes(net.command(3, "get", link), 1 << 16)
    # Nobody reads on: what is fetched now is fetched ahead, and is in memory or on the disk.
    time.sleep(5)
    ahead = (allocated(data_dir) - before) / (1 << 20)
    begun = time.monotonic()
    stream = Stream(size, SEED)
    if stream.read(len(first)) != first:
        sys.exit("the first bytes are others")
    other = stream.output.fileno()
    compared = subprocess.Popen(["cmp", "-", f"/dev/fd/{other}"], stdin=process.stdout, pass_fds=[other])
    process.stdout.close()
    peak = reap(process)
    took = time.monotonic() - begun
    if compared.wait() or process.returncode or not stream.end():
        sys.exit("what came back is not what was put")
    return soon, took, ahead, peak


def allocated(top):
    """Bytes of the disk that everything below takes."""
    total = 0
    for directory, _, names in os.walk(top):
        for path in [directory, *(os.path.join(directory, name) for name in names)]:
            try:
                total += os.lstat(path).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=4096)
    args = parser.parse_args()
    size = args.mib << 20
    net = Devnet(WORK / "net")
    try:
        link, of_put = put(net, size)
        after_put = [peak_mib(pid) for pid in net.pids()]
        print(f"put, MiB at most: command {of_put:.0f}; peers " + " ".join(f"{mib:.0f}" for mib in after_put))
        soon, took, ahead, of_get = get(net, link, size)
        after_get = [peak_mib(pid) for pid in net.pids()]
        print(f"get, MiB at most: command {of_get:.0f}; peers " + " ".join(f"{mib:.0f}" for mib in after_get))
        print(f"first 64 KiB after {soon:.3f} s, all of {args.mib} MiB after {took:.1f} s")
    finally:
        net.stop()
        shutil.rmtree(WORK / "net")
    demands = Demands()
    demands.say("memory of the putting command, MiB", of_put, MOST)
    demands.say("memory of the putter, MiB", after_put[0], MOST)
    demands.say("memory of a holder, MiB", max(after_put[1:]), MOST)
    demands.say("memory of the getting command, MiB", of_get, MOST)
    demands.say("memory of any peer after the get, MiB", max(after_get), MOST)
    demands.say("first 64 KiB against the whole, seconds", soon / took, 0.1)
    demands.say("on the getter's disk when nobody reads beyond them, MiB", ahead, min(MOST, args.mib / 4))
    demands.end()


main()
