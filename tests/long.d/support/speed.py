"""The comparison behind `tests/long speed`: prints one row per measurement, medians of all rounds."""

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from devnet import Devnet
from measure import Demands, Measured, cpu_of, median, peak_mib, run, run_peak

CAIRN = os.environ["CAIRN"]
WORK = Path(os.environ["WORK"])
HERE = Path(__file__).parent
VENV = Path(os.environ["RIVALS"]) / "bin"
GIB = 1 << 30


class Results:
    def __init__(self):
        self.rows = {}

    def add(self, name, **figures):
        print(f"  {name}: " + "  ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)
        row = self.rows.setdefault(name, {})
        for key, value in figures.items():
            row.setdefault(key, []).append(value)

    def of(self, name, key):
        values = self.rows.get(name, {}).get(key)
        return median(values) if values else None

    def show(self):
        print("\nmedians")
        for name, row in self.rows.items():
            print(f"  {name:28} " + "  ".join(f"{k} {median(v):.4g}" for k, v in row.items()))


def small_files(directory, count):
    for number in range(count):
        folder = directory / f"{number // 200:04}"
        if number % 200 == 0:
            folder.mkdir(parents=True)
        (folder / f"{number}").write_bytes(os.urandom(4096))


def cairn(results, args, file):
    directory = WORK / "cairn"
    net = Devnet(directory)
    size = file.stat().st_size / GIB
    try:
        with Measured(net.pids()) as cost:
            link, command_mib = run_peak(*net.command(0, "put", file))
        results.add(
            "cairn put",
            mb_per_s=size * GIB / 1e6 / cost.seconds,
            cpu_per_gib=cost.cpu / size,
            cpu_putter=(cost.commands + cost.by_pid[net.pids()[0]]) / size,
        )
        with Measured(net.pids()) as cost:
            net.run(3, "get", link, "-o", WORK / "back")
        subprocess.run(["cmp", file, WORK / "back"], check=True)
        os.unlink(WORK / "back")
        results.add(
            "cairn get",
            mb_per_s=size * GIB / 1e6 / cost.seconds,
            cpu_per_gib=cost.cpu / size,
            cpu_getter=(cost.commands + cost.by_pid[net.pids()[3]]) / size,
        )
        if args.files:
            with Measured(net.pids()) as cost:
                tree = net.run(0, "put", WORK / "small")
            results.add("cairn put small files", per_s=args.files / cost.seconds, cpu=cost.cpu)
            with Measured(net.pids()) as cost:
                # Left there: ext4 takes no inode that was freed in the last minute, and looks at each
                # of them for every file that is made.
                net.run(4, "get", tree, "-o", WORK / f"small-back-{time.monotonic_ns()}")
            results.add("cairn get small files", per_s=args.files / cost.seconds, cpu=cost.cpu)
        first_byte(results, net)
        # Also of those that end here.
        peaks = [command_mib, *(peak_mib(net.pids()[at]) for at in (1, 4))]
        net.kill(1)
        net.kill(4)
        time.sleep(2)
        living = [pid for at, pid in enumerate(net.pids()) if at not in (1, 4)]
        with Measured(living) as cost:
            net.run(5, "get", link, "-o", WORK / "back")
        subprocess.run(["cmp", file, WORK / "back"], check=True)
        os.unlink(WORK / "back")
        results.add(
            "cairn get, two dead",
            mb_per_s=size * GIB / 1e6 / cost.seconds,
            cpu_per_gib=cost.cpu / size,
        )
        peaks += [peak_mib(pid) for pid in living]
        results.add("cairn memory", peak_mib=max(peaks), command_mib=command_mib)
    finally:
        net.stop()
        shutil.rmtree(directory)


def first_byte(results, net):
    """From the request to a running peer to its first byte; and of whole commands, which are processes."""
    asked, commands, bare = [], [], []
    for number in range(20):
        blob = WORK / "blob"
        blob.write_bytes(os.urandom(4096))
        links = []
        for _ in range(2):
            # Another one each time, so that nothing of it is in any memory.
            blob.write_bytes(os.urandom(4096))
            links.append(net.run(0, "put", blob))
        asked.append(first_of_request(net.peers[2]["data_dir"], links[0]))
        commands.append(first_of_command(net.command(2, "get", links[1])))
        bare.append(first_of_command([CAIRN, "--version"]))
    results.add(
        "cairn first byte of 4 KiB", ms=median(asked), ms_of_command=median(commands), ms_of_version=median(bare)
    )


def first_of_request(data_dir, link):
    begun = time.monotonic()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{data_dir}/control.sock")
        peer.sendall(f"GET /v1/get?link={link.replace(':', '%3A')} HTTP/1.1\r\nhost: peer\r\n\r\n".encode())
        answer = b""
        # Until there is something behind the head.
        while not answer.partition(b"\r\n\r\n")[2]:
            piece = peer.recv(1 << 16)
            if not piece:
                sys.exit("cairn answered nothing")
            answer += piece
        if not answer.startswith(b"HTTP/1.1 200"):
            sys.exit(f"cairn answered {answer[:200]}")
        return (time.monotonic() - begun) * 1e3


def first_of_command(command):
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.read(1)
    taken = (time.monotonic() - begun) * 1e3
    process.stdout.read()
    process.wait()
    return taken


def kubo(results, _args, file):
    repo = WORK / "kubo"
    answer = json.loads(run(VENV / "python", HERE / "rival_kubo.py", repo, file, cwd=WORK).splitlines()[-1])
    size = file.stat().st_size
    results.add(
        "kubo add", mb_per_s=size / 1e6 / answer["seconds"], cpu_per_gib=answer["cpu"] * GIB / size
    )
    shutil.rmtree(repo)


def torrent(results, _args, file):
    make = (
        "import libtorrent as lt, sys, os\n"
        "path, out = sys.argv[1:]\n"
        "fs = lt.file_storage(); lt.add_files(fs, path)\n"
        "t = lt.create_torrent(fs, 1 << 20, lt.create_torrent.v1_only)\n"
        "lt.set_piece_hashes(t, os.path.dirname(path))\n"
        "open(out, 'wb').write(lt.bencode(t.generate()))\n"
    )
    meta = WORK / "file.torrent"
    if not meta.exists():
        run(VENV / "python", "-c", make, file, meta)
    target = WORK / "leech"
    target.mkdir()
    script = [VENV / "python", HERE / "rival_torrent.py"]
    seeder = subprocess.Popen(
        [*script, "seed", meta, file.parent, "7001"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    seeder.stdout.readline()
    time.sleep(0.5)
    before = cpu_of(seeder.pid)
    answer = json.loads(run(*script, "leech", meta, target, "7002", "7001").splitlines()[-1])
    cpu = answer["cpu"] + cpu_of(seeder.pid) - before
    seeder.stdin.close()
    seeder.wait()
    size = file.stat().st_size
    results.add(
        "torrent leech", mb_per_s=size / 1e6 / answer["seconds"], cpu_per_gib=cpu * GIB / size
    )
    shutil.rmtree(target)


class Tahoe:
    """An introducer, six servers and a client, 4-of-6."""

    def __init__(self, directory):
        self.directory = directory
        self.processes = []
        intro = directory / "intro"
        self.tahoe(
            "create-introducer", "--port=tcp:7100:interface=127.0.0.1", "--location=tcp:127.0.0.1:7100", intro
        )
        self.start(intro)
        furl_file = intro / "private" / "introducer.furl"
        self.until(furl_file.exists)
        furl = furl_file.read_text().strip()
        shares = ["--shares-needed=4", "--shares-happy=6", "--shares-total=6"]
        for number in range(6):
            port = 7101 + number
            node = directory / f"server-{number}"
            self.tahoe(
                "create-node", f"--introducer={furl}", f"--port=tcp:{port}:interface=127.0.0.1",
                f"--location=tcp:127.0.0.1:{port}", "--webport=none", *shares, node,
            )
            self.start(node)
        client = directory / "client"
        self.tahoe(
            "create-client", f"--introducer={furl}", "--webport=tcp:7110:interface=127.0.0.1", *shares, client
        )
        self.start(client)
        self.until(lambda: self.connected() >= 6)

    def tahoe(self, *arguments):
        run(VENV / "tahoe", *arguments)

    def command(self, name, *arguments):
        """A command of the client, which it has its node carry out."""
        return run(VENV / "tahoe", "--node-directory", self.directory / "client", name, *arguments)

    def start(self, node):
        self.processes.append(
            subprocess.Popen(
                [VENV / "tahoe", "run", node],
                # It ends when its standard input does.
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )

    @staticmethod
    def until(condition):
        for _ in range(600):
            try:
                if condition():
                    return
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit("tahoe did not start")

    @staticmethod
    def request(method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", 7110)
        connection.request(method, path, body)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            sys.exit(f"tahoe answered {answer.status}: {data[:300]}")
        return data

    def connected(self):
        servers = json.loads(self.request("GET", "/?t=json"))["servers"]
        return sum("connected" in server["connection_status"].lower() for server in servers)

    def pids(self):
        return [process.pid for process in self.processes]

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.directory)


def tahoe(results, _args, file):
    size = file.stat().st_size
    (WORK / "tahoe").mkdir()
    grid = Tahoe(WORK / "tahoe")
    try:
        with Measured(grid.pids()) as cost:
            cap = grid.command("put", file)
        results.add("tahoe put", mb_per_s=size / 1e6 / cost.seconds, cpu_per_gib=cost.cpu * GIB / size)
        with Measured(grid.pids()) as cost:
            grid.command("get", cap, WORK / "back")
        subprocess.run(["cmp", file, WORK / "back"], check=True)
        os.unlink(WORK / "back")
        results.add("tahoe get", mb_per_s=size / 1e6 / cost.seconds, cpu_per_gib=cost.cpu * GIB / size)
    finally:
        grid.stop()


def sha256(results, _args, file):
    with Measured() as cost:
        run("openssl", "dgst", "-sha256", file)
    results.add("openssl sha256", cpu_per_gib=cost.cpu * GIB / file.stat().st_size)


def verdicts(results):
    demands = Demands()
    say = demands.say

    def ratio(above, below, key="cpu_per_gib"):
        left, right = results.of(above, key), results.of(below, key)
        return left / right if left and right else None

    say("put, CPU against Kubo's add", ratio("cairn put", "kubo add"), 1.0)
    say("put, CPU against sha256 (where Kubo will not run)", ratio("cairn put", "openssl sha256"), 5.7)
    say("put, rate against Tahoe's", ratio("cairn put", "tahoe put", "mb_per_s"), 10, False)
    say("get, CPU against a leech", ratio("cairn get", "torrent leech"), 1.25)
    say("get, CPU against sha256 (where no leech will run)", ratio("cairn get", "openssl sha256"), 5)
    say("get with two dead, CPU against get", ratio("cairn get, two dead", "cairn get"), 1.25)
    say("get, rate against Tahoe's", ratio("cairn get", "tahoe get", "mb_per_s"), 15, False)
    say("small files in, per s", results.of("cairn put small files", "per_s"), 3000, False)
    say("small files out, per s", results.of("cairn get small files", "per_s"), 5000, False)
    say("first byte of 4 KiB, ms", results.of("cairn first byte of 4 KiB", "ms"), 3.0)
    say("memory of each process at most, MiB", results.of("cairn memory", "peak_mib"), 250)
    demands.end()


CONTESTS = {"sha256": sha256, "kubo": kubo, "cairn": cairn, "torrent": torrent, "tahoe": tahoe}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--only", default=",".join(CONTESTS))
    args = parser.parse_args()
    (WORK / "in").mkdir()
    file = WORK / "in" / "file"
    with open(file, "wb") as out:
        for _ in range(args.mib):
            out.write(os.urandom(1 << 20))
    small_files(WORK / "small", args.files) if args.files else None
    results = Results()
    for number in range(args.rounds):
        print(f"round {number + 1}", flush=True)
        for name in args.only.split(","):
            CONTESTS[name](results, args, file)
    results.show()
    verdicts(results)


main()
