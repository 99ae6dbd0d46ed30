"""CPU of a put beside the sum of its bare stages: `tests/long stages`."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from devnet import Devnet
from measure import Demands, Measured, median
from trees import random_file

WORK = Path(os.environ["WORK"])
GIB = 1 << 30
# Of 4+2: bytes of shards for each byte, and those of them that go to another peer than the putter.
SHARDS = 6 / 4
SENT = SHARDS * 5 / 6
# At most so many times the sum.
ALLOWED = 1.5

WANTED = [
    r"chunk/cut$",
    r"seal/seal random$",
    r"erasure 4\+2 .*/stripe with hashes$",
    r"primitive/aws-lc .* of 64 KiB$",
    r"primitive/BLAKE3 of 768 KiB$",
    r"store/put durably$",
]


def bench(flags):
    """Runs the benches; seconds per GiB by their names, and what they printed."""
    home = WORK / "criterion"
    said = ""
    # The bare transports are measured only when the benches of the network are asked for.
    for pattern in ["^(" + "|".join(WANTED) + ")", "net"]:
        command = ["cargo", "bench", "--locked", "--bench", "stages", *flags, "--", pattern]
        env = {**os.environ, "CRITERION_HOME": str(home)}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        said += done.stdout.decode()
        if done.returncode:
            sys.exit(f"the benches failed: {said[-2000:]}")
    return figures(home), said


def figures(home):
    found = {}
    for path in home.glob("**/new/benchmark.json"):
        about = json.loads(path.read_text())
        took = json.loads(path.with_name("estimates.json").read_text())["median"]["point_estimate"]
        size = (about["throughput"] or {}).get("Bytes")
        if size:
            found[about["full_id"]] = took / 1e9 * GIB / size
    return found


def bare_stages(found, said):
    """The stages of a put of 1 GiB at 4+2 by name: what it takes once, and how often."""

    def best(pattern):
        values = [value for name, value in found.items() if re.search(pattern, name)]
        if not values:
            sys.exit(f"no bench is called {pattern}: {sorted(found)}")
        return min(values)

    # Its CPU: it waits for the disk, and works in several threads. All others work in one.
    store = re.search(r"store/put durably: ([0-9.]+) CPU s/GiB", said)
    if not store:
        sys.exit("the bench of the store says nothing of its CPU")
    # Of sender and receiver: what a connection costs that nobody encrypts.
    tcp = re.search(r"bare TCP: .* CPU s/GiB ([0-9.]+) \+ ([0-9.]+)", said)
    if not tcp:
        sys.exit("the bench of the network says nothing of bare TCP")
    cut, seal, stripe, cipher, digest, _ = (best(pattern) for pattern in WANTED)
    return {
        "cut": (cut, 1),
        "hash of the content, seal": (seal, 1),
        "code, hashes of the shards": (stripe, 1),
        "cipher of the transport, both ends": (cipher, 2 * SENT),
        "TCP, both ends": (float(tcp[1]) + float(tcp[2]), SENT),
        "hash at the holders": (digest, SENT),
        "write to the store": (float(store[1]), SHARDS),
    }


def measured(mib, rounds):
    """CPU seconds per GiB of a put, by the command and all six peers."""
    costs = []
    net = Devnet(WORK / "net")
    try:
        for number in range(rounds):
            random_file(WORK / "file", mib)
            with Measured(net.pids()) as cost:
                net.run(0, "put", WORK / "file")
            costs.append(cost.cpu * 1024 / mib)
            print(f"  round {number + 1}: {costs[-1]:.3g} CPU s/GiB", flush=True)
    finally:
        net.stop()
        shutil.rmtree(WORK / "net")
    return median(costs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bench-flags", default="", help="more for `cargo bench`")
    args = parser.parse_args()
    stages = bare_stages(*bench(args.bench_flags.split()))
    print("put", flush=True)
    whole = measured(args.mib, args.rounds)
    print("\nCPU s per GiB put at 4+2")
    total = 0
    for name, (once, times) in stages.items():
        total += once * times
        print(f"  {name:36} {once:6.3f} x {times:.2f} = {once * times:6.3f}")
    without = total - stages["TCP, both ends"][0] * stages["TCP, both ends"][1]
    print(f"  {'the sum of the bare stages':36} {total:22.3f}")
    print(f"  {'the same without TCP':36} {without:22.3f}")
    print(f"  {'a put, all processes':36} {whole:22.3f}")
    demands = Demands()
    demands.say("put, CPU of the whole against its bare stages", whole / total, ALLOWED)
    demands.end()


if __name__ == "__main__":
    main()
