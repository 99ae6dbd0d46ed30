"""The trial behind `tests/long programs`: real programs do on the mount what they do anywhere."""

import argparse
import io
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from mounts import SYSTEMS, WORK, Report, command, guard, judged
from trees import differences, listing, source_tree

PROJECT = Path(__file__).resolve().parents[3]
GIT = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "PATH": os.environ["PATH"],
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@a", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@a",
}


def fail_if(wrong):
    if wrong:
        raise RuntimeError(wrong)


def git(top, args, system):
    """A repository of some hundred commits made on this disk, cloned, checked and packed on the mount;
    and one made on the mount."""
    origin, clone = WORK / "origin", top / "clone"
    files, _ = source_tree(WORK / "sources", args.files)
    crates = sorted(WORK.joinpath("sources").iterdir())

    def run(where, *words):
        return command("git", "-C", where, *words, timeout=1200, env=GIT)

    def history(where, commits):
        run(where, "init", "-q", "-b", "main")
        for number in range(commits):
            if number < len(crates):
                shutil.copytree(crates[number], where / crates[number].name)
            else:
                changed = sorted(path for path in (where / crates[number % len(crates)].name).rglob("*") if path.is_file())
                with open(changed[number % len(changed)], "a") as file:
                    file.write(f"// {number}\n")
            run(where, "add", "-A")
            run(where, "commit", "-q", "-m", f"change {number}")

    origin.mkdir()
    history(origin, args.commits)
    run(top, "clone", "-q", "--no-local", origin, clone)
    fail_if(run(clone, "status", "--porcelain")[:300])
    fail_if(differences(tracked(origin), tracked(clone)))
    run(clone, "fsck", "--full", "--strict")
    run(clone, "gc", "-q", "--prune=now")
    run(clone, "fsck", "--full", "--strict")
    fail_if(run(clone, "rev-parse", "HEAD") != run(origin, "rev-parse", "HEAD"))
    made = top / "made"
    made.mkdir()
    history(made, min(args.commits, 60))
    run(made, "gc", "-q")
    run(made, "fsck", "--full", "--strict")
    fail_if(run(made, "status", "--porcelain")[:300])
    return f"{args.commits} commits, {files} files"


def tracked(repository):
    rows = listing(repository, times=False, xattrs=False)
    return {path: row for path, row in rows.items() if not path.startswith(".git") and path != "."}


def sqlite(mode):
    def load(top, args, system):
        """Four processes change one database; totals stay, and it passes its check."""
        path = top / f"{mode}.db"
        database = sqlite3.connect(path)
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER)")
        database.execute("CREATE TABLE move (id INTEGER PRIMARY KEY, body BLOB)")
        database.executemany("INSERT INTO account VALUES (?, 1000)", ((at,) for at in range(1000)))
        database.commit()
        mover = (
            "import sqlite3, random, sys, os, time\n"
            "path, seed, end = sys.argv[1], int(sys.argv[2]), time.time() + float(sys.argv[3])\n"
            "dice, done = random.Random(seed), 0\n"
            "db = sqlite3.connect(path, isolation_level=None, timeout=60)\n"
            "db.execute('PRAGMA synchronous = FULL')\n"
            "while time.time() < end:\n"
            "    one, two, sum = dice.randrange(1000), dice.randrange(1000), dice.randrange(50)\n"
            "    db.execute('BEGIN IMMEDIATE')\n"
            "    db.execute('UPDATE account SET amount = amount - ? WHERE id = ?', (sum, one))\n"
            "    db.execute('UPDATE account SET amount = amount + ? WHERE id = ?', (sum, two))\n"
            "    db.execute('INSERT INTO move (body) VALUES (?)', (os.urandom(dice.randrange(2000)),))\n"
            "    db.execute('DELETE FROM move WHERE id < (SELECT max(id) FROM move) - 3000')\n"
            "    db.execute('ROLLBACK' if dice.random() < 0.1 else 'COMMIT')\n"
            "    done += 1\n"
            "print(done)\n"
        )
        words = [sys.executable, "-c", mover, str(path)]
        movers = [
            subprocess.Popen([*words, str(seed), str(args.seconds)], stdout=subprocess.PIPE) for seed in range(4)
        ]
        checks = 0
        while any(mover.poll() is None for mover in movers):
            fail_if(unsound(path))
            checks += 1
            time.sleep(0.5)
        fail_if(any(mover.returncode for mover in movers) and "a process failed")
        done = sum(int(mover.stdout.read()) for mover in movers)
        fail_if(unsound(path))
        return f"{done} transactions, {checks + 1} checks"

    load.__name__ = f"sqlite, {mode.lower()}"
    return load


def unsound(path):
    database = sqlite3.connect(path, timeout=60)
    try:
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
        total = database.execute("SELECT sum(amount) FROM account").fetchone()[0]
        return "" if said == "ok" and total == 1_000_000 else f"{said}, total {total}"
    finally:
        database.close()


def rsync(top, args, system):
    """There and back with hard links, ACLs, extended attributes, owners, times, holes."""
    source = WORK / "rsync"
    source_tree(source, 1500)
    dice = random.Random(1)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in dice.sample(files, 200):
        os.setxattr(path, "user.origin", os.urandom(dice.randrange(1, 200)))
    for path in dice.sample(files, 100):
        os.link(path, path.with_name(path.name + ".also"))
        os.chown(path, dice.randrange(2000), dice.randrange(2000))
        path.chmod(dice.choice([0o600, 0o4755, 0o2711, 0o444]))
    for path in dice.sample(files, 100):
        command("setfacl", "-m", "u:1234:r,g:99:rw", path)
    folders = sorted(path for path in source.rglob("*") if path.is_dir())
    for path in dice.sample(folders, 20):
        command("setfacl", "-d", "-m", "u:1234:rx", path)
    os.symlink("nowhere at all", source / "dangling")
    os.symlink(files[0], source / "absolute")
    os.mkfifo(source / "fifo", 0o640)
    os.mknod(source / "device", 0o600 | 0o020000, os.makedev(1, 3))
    odd = os.fsencode(source) + b"/odd \xff\n name"
    with open(odd, "w") as file:
        file.write("x")
    with open(source / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(500 << 20)
        file.write(os.urandom(100_000))
    # Long ago: rsync leaves the times of links alone where the seconds are right.
    for path in sorted(source.rglob("*"), reverse=True):
        os.utime(path, ns=(time.time_ns(), dice.randrange(10**18, 17 * 10**17)), follow_symlinks=False)
    back = WORK / "rsync-back"
    for one, other in ((source, top / "rsync"), (top / "rsync", back)):
        command("rsync", "-aHAXS", "--numeric-ids", f"{one}/", f"{other}/", timeout=1200)
    want = listing(source)
    fail_if(differences(want, listing(top / "rsync")) and "there: " + differences(want, listing(top / "rsync")))
    fail_if(differences(want, listing(back)) and "back: " + differences(want, listing(back)))
    again = command("rsync", "-aHAXSn", "--numeric-ids", "--delete", "--itemize-changes", f"{source}/", f"{top}/rsync/", timeout=1200)
    fail_if(again[:500])
    return f"{len(want)} entries"


def tar(top, args, system):
    """A tar of many files, extracted and compared."""
    dice, archive = random.Random(2), WORK / "many.tar"
    with tarfile.open(archive, "w") as out:
        for number in range(args.tar):
            body = dice.randbytes(dice.choice([0, 10, 500, 4096, 20_000]))
            info = tarfile.TarInfo(f"many/d{number % 200:03}/f{number:05}")
            info.size, info.mode, info.mtime = len(body), dice.choice([0o644, 0o600, 0o755]), 1_600_000_000 + number
            out.addfile(info, io.BytesIO(body))
    command("tar", "-xf", archive, "-C", top, timeout=1200)
    command("tar", "-df", archive, "-C", top, timeout=1200)
    packed = top / "again.tar"
    command("tar", "-cf", packed, "-C", top, "many", timeout=1200)
    command("tar", "-df", packed, "-C", top, timeout=1200)
    return f"{args.tar} files"


def fio(top, args, system):
    """Random writes of mixed sizes, read back and compared by their checksums."""

    def run(*words):
        command("fio", f"--directory={top}", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", *words, timeout=1200)

    run(
        "--name=verify", "--size=256m", "--rw=randwrite", "--bsrange=512-128k", "--ioengine=psync", "--numjobs=2",
        "--fsync=64", "--end_fsync=1", "--randrepeat=0",
    )
    run(
        "--name=direct", "--size=64m", "--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=16",
    )
    run("--name=mapped", "--size=64m", "--rw=randrw", "--bs=4k", "--ioengine=mmap")
    return "512 MiB buffered, 64 MiB direct, 64 MiB mapped"


def postgres(top, args, system):
    """initdb, pgbench, and the total after a crash of the server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    fail_if(not found and "no initdb")
    bin_dir, data, sockets = found[-1].parent, top / "postgres", WORK / "sockets"
    data.mkdir(mode=0o700)
    sockets.mkdir()
    for path in (data, sockets):
        shutil.chown(path, "postgres", "postgres")

    def run(program, *words, **options):
        words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", bin_dir / program, *words]
        env = {"PATH": os.environ["PATH"], "PGHOST": str(sockets), "LC_ALL": "C"}
        return command(*words, env=env, cwd="/", timeout=600, **options)

    log = sockets / "log"
    options = f"-c listen_addresses='' -c unix_socket_directories={sockets} -c fsync=on -c checkpoint_timeout=30s"
    run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--data-checksums")
    run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start", )
    try:
        run("pgbench", "-U", "postgres", "-i", "-q", "-s", "10", "postgres")
        said = run("pgbench", "-U", "postgres", "-c", "8", "-j", "2", "-T", args.seconds, "postgres")
        # The server dies without a checkpoint and recovers from its log on the mount.
        run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        query = "SELECT (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches) " \
            "AND (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)"
        answer = run("psql", "-U", "postgres", "-Atc", query, "postgres").strip()
        fail_if(answer != "t" and f"the balances differ: {answer}")
        run("pg_amcheck", "-U", "postgres", "--install-missing", "--heapallindexed", "postgres")
    finally:
        run("pg_ctl", "-D", data, "-w", "-m", "fast", "stop")
    run("pg_checksums", "-D", data, "--check")
    rate = next((line.split("=")[1].split("(")[0].strip() for line in said.splitlines() if line.startswith("tps")), "?")
    return f"{rate} transactions per s"


def cargo(top, args, system):
    """A crate with a few dependencies, built with sources and target directory on the mount, run, built
    again with nothing to do."""
    crate = top / "crate"
    (crate / "src").mkdir(parents=True)
    (crate / "Cargo.toml").write_text(
        '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n[workspace]\n'
        '[dependencies]\nserde_json = "1"\nbytes = "1"\nserde = { version = "1", features = ["derive"] }\n'
    )
    shutil.copy(PROJECT / "Cargo.lock", crate / "Cargo.lock")
    (crate / "src/main.rs").write_text(
        "#[derive(serde::Serialize)]\nstruct A { b: u32 }\n"
        'fn main() { println!("{}", serde_json::to_string(&A { b: bytes::Bytes::from_static(b"x").len() as u32 }).unwrap()) }\n'
    )
    env = dict(os.environ, CARGO_TARGET_DIR=str(top / "target"))

    def build(where, *words):
        return command("cargo", "build", "--offline", *words, cwd=where, env=env, timeout=3600)

    build(crate)
    said = command(top / "target/debug/small", timeout=60)
    fail_if(said.strip() != '{"b":1}' and said)
    begun = time.monotonic()
    build(crate)
    again = time.monotonic() - begun
    fail_if(again > 5 and f"building nothing took {again:.1f} s")
    if not args.full:
        return "a small crate"
    copy = top / "project"
    names = command("git", "-C", PROJECT, "ls-files", "-z").split("\0")
    for name in filter(None, names):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, copy / name)
    build(copy, "--bin", "cairn", "--locked")
    said = command(top / "target/debug/cairn", "--version")
    return f"a small crate; this project: {said.strip()}"


PROGRAMS = {
    "git": git, "sqlite-wal": sqlite("WAL"), "sqlite-rollback": sqlite("DELETE"), "rsync": rsync, "tar": tar,
    "fio": fio, "postgres": postgres, "cargo": cargo,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="cairn")
    parser.add_argument("--only", default=",".join(PROGRAMS))
    parser.add_argument("--commits", type=int, default=300)
    parser.add_argument("--files", type=int, default=4000, help="in the repository")
    parser.add_argument("--tar", type=int, default=20_000, help="files in the archive")
    parser.add_argument("--seconds", type=int, default=20, help="of each load of a database")
    parser.add_argument("--full", action="store_true", help="also builds this project on the mount")
    parser.add_argument("--limit", type=int, default=7200)
    args = parser.parse_args()
    system = SYSTEMS[args.on]()
    guard(args.limit, [system])
    report = Report(f"programs: {system.name}")
    system.start()
    # Others than root need their way in.
    os.chmod(system.dir, 0o755)
    for name in args.only.split(","):
        top = system.dir / name
        top.mkdir()
        begun = time.monotonic()
        try:
            detail, holds = PROGRAMS[name](top, args, system), True
        except (RuntimeError, OSError, sqlite3.Error, subprocess.SubprocessError) as error:
            detail, holds = str(error)[:1500], False
        report.check(name, holds, f"{time.monotonic() - begun:.1f} s; {detail}")
        try:
            shutil.rmtree(top)
            report.check(f"{name}: all of it can be removed", not top.exists())
        except OSError as error:
            report.check(f"{name}: all of it can be removed", False, error)
    system.stop()
    report.end()


judged(main)
