"""The trial behind `tests/long posix`: pjdfstest on the mount and on ext4, then fsx on the mount."""

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mounts import SYSTEMS, WORK, Ext4, Report, command, guard, judged

TOOLS = Path(os.environ["TOOLS"]) / "bin"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
VERDICT = re.compile(r"^(\S.*?)\s+(ok|FAILED|skipped)$")

PJDFSTEST = """
[features]
{features}
secondary_fs = "{secondary}"

[settings]
naptime = 0.01
allow_remount = true

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"], ["bin", "bin"]]
"""
# Of the opt-in features those that Linux and ext4 have.
FEATURES = ["posix_fallocate", "rename_ctime", "utime_now", "utimensat"]
# What no filesystem can pass behind FUSE, and why.
IMPOSSIBLE = {
    "link::link_count_max": "the C library knows the most links by the kind of filesystem, and none for FUSE",
}

# Of one run of fsx. It leaves mappings behind, which makes it ever slower.
OPERATIONS = 20_000
# Weights: what a database and an editor do, and what is rare but easily wrong.
FSX = """
flen = 1048576

[opsize]
# posix_fallocate of nothing is an error everywhere.
min = 1
max = 65536

[weights]
close_open = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 10
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 3
punch_hole = 5
sendfile = 2
posix_fadvise = 2
copy_file_range = 6
"""


def pjdfstest(directory, config):
    """The verdict and the words about each test."""
    words = [TOOLS / "pjdfstest", "-c", config, "-p", directory]
    env = dict(os.environ, PATH=f"{WORK / 'bin'}:{os.environ['PATH']}")
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, timeout=3600)
    verdicts, name = {}, None
    for line in COLOURS.sub("", done.stdout.decode(errors="replace")).splitlines():
        if found := VERDICT.match(line):
            name = found[1]
            verdicts[name] = [found[2], ""]
        elif name and line.startswith("\t"):
            verdicts[name][1] += " " + line.strip()
    if not verdicts:
        raise RuntimeError(f"pjdfstest: {done.stdout.decode(errors='replace')[-2000:]}")
    return verdicts


def compare(system, report):
    """What passes on ext4 must pass on the mount."""
    # A filesystem of its own, so that it can be remounted read-only, and a third one for links across.
    image, ext4 = WORK / "ext4.img", Ext4()
    ext4.start()
    with open(image, "wb") as file:
        file.truncate(2 << 30)
    command("mkfs.ext4", "-q", "-F", image)
    command("mount", "-o", "loop", image, ext4.dir)
    second = WORK / "second"
    second.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", second)
    # mount(8) would hand a remount to a helper of the filesystem's own name.
    wrapper = WORK / "bin" / "mount"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("mount")} -i "$@"\n')
    wrapper.chmod(0o755)
    features = "\n".join(f"{feature} = {{}}" for feature in FEATURES)
    config = WORK / "pjdfstest.toml"
    config.write_text(PJDFSTEST.format(features=features, secondary=second))
    try:
        verdicts = {}
        for one in (ext4, system):
            # Tests of others than root need their way in.
            os.chmod(one.dir, 0o777)
            begun = time.monotonic()
            verdicts[one.name] = pjdfstest(one.dir, config)
            count = {word: sum(row[0] == word for row in verdicts[one.name].values()) for word in ("ok", "FAILED", "skipped")}
            print(f"  pjdfstest on {one.name}: {count}, {time.monotonic() - begun:.0f} s", flush=True)
    finally:
        command("umount", second)
        command("umount", ext4.dir)
    here = verdicts[system.name]
    passed = [name for name, row in verdicts["ext4"].items() if row[0] == "ok"]
    missing = {name: here.get(name, ["absent", ""]) for name in passed if here.get(name, [""])[0] != "ok"}
    if system.is_served:
        for name in IMPOSSIBLE.keys() & missing.keys():
            print(f"    impossible behind FUSE: {name}: {IMPOSSIBLE[name]}")
            passed.remove(name)
            del missing[name]
    for name, (word, why) in sorted(missing.items()):
        print(f"    {word} on {system.name}, ok on ext4: {name}:{why[:300]}")
    for name, (word, why) in verdicts["ext4"].items():
        if word == "FAILED":
            print(f"    failed on ext4 itself, {here[name][0]} on {system.name}: {name}:{why[:200]}")
    report.check(
        "pjdfstest: what passes on ext4 passes here", not missing,
        f"{len(passed) - len(missing)} of {len(passed)}; left: {len(missing)} {' '.join(sorted(missing)[:20])}",
    )


def fsx(system, seeds, report):
    config, artifacts = WORK / "fsx.toml", WORK / "fsx"
    config.write_text(FSX)
    artifacts.mkdir()

    def one(seed):
        file = system.dir / f"fsx-{seed}"
        words = [TOOLS / "fsx", "-q", "-f", config, "-N", OPERATIONS, "-S", seed, "-P", artifacts, file]
        done = subprocess.run(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800
        )
        if done.returncode == 0:
            file.unlink()
        return seed, done.returncode, done.stdout.decode(errors="replace")

    begun, failed = time.monotonic(), []
    with ThreadPoolExecutor(2) as pool:
        for number, (seed, code, said) in enumerate(pool.map(one, seeds), 1):
            if code:
                failed.append(seed)
                kept = Path(tempfile.gettempdir()) / f"fsx-{system.name}-{seed}.log"
                kept.write_text(said)
                print(f"    seed {seed}: {said[-1500:]}\n    kept in {kept}", flush=True)
            if number % 10 == 0:
                print(f"  fsx: {number * OPERATIONS} operations, {time.monotonic() - begun:.0f} s", flush=True)
    report.check(
        "fsx: no difference", not failed,
        f"{len(seeds)} seeds from {seeds[0]}, {len(seeds) * OPERATIONS} operations, {time.monotonic() - begun:.0f} s; "
        f"differ: {failed}",
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="cairn")
    parser.add_argument("--operations", type=int, default=1_000_000, help=f"of fsx, {OPERATIONS} for each seed")
    parser.add_argument("--seeds", default="", help="of fsx, separated by commas; else as many as it takes, by the clock")
    parser.add_argument("--only", default="pjdfstest,fsx")
    parser.add_argument("--limit", type=int, default=7200)
    args = parser.parse_args()
    first = int(time.time()) % 1_000_000
    count = max(1, args.operations // OPERATIONS)
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else list(range(first, first + count))
    system = SYSTEMS[args.on]()
    if system.name == "ext4":
        system.home = WORK / "plain"
        system.dir = system.store = system.home / "mnt"
    guard(args.limit, [system])
    report = Report(f"POSIX: {system.name}")
    system.start()
    if "pjdfstest" in args.only:
        compare(system, report)
    if "fsx" in args.only:
        fsx(system, seeds, report)
    system.stop()
    report.end()


judged(main)
