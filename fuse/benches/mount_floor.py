"""The workloads of mount-floor: small files, a tar of small files, one large file."""
import io, os, statistics, subprocess, sys, tarfile, time

work, rounds = sys.argv[1], int(sys.argv[2])
pids = {"memfs": sys.argv[3], "bindfs": sys.argv[4]}
FILES = int(os.environ.get("FILES", "5000"))
SEQ = int(os.environ.get("SEQ_MB", "512"))
TICK = os.sysconf("SC_CLK_TCK")
results = {}


def cpu(side):
    with open(f"/proc/{pids[side]}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def make_tar(path):
    with tarfile.open(path, "w") as tar:
        for index in range(FILES):
            body = os.urandom(512) * (1 + index % 16)
            info = tarfile.TarInfo(f"tree/d{index // 100:03}/f{index:05}")
            info.size, info.mtime, info.mode = len(body), 1_700_000_000, 0o644
            tar.addfile(info, io.BytesIO(body))


def measure(side, what, units, act):
    before, start = cpu(side), time.monotonic()
    act()
    took = time.monotonic() - start
    results.setdefault((what, side), []).append((units / took, cpu(side) - before))


def uncache(path):
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def one_round(side, tar):
    top = os.path.join(work, side, "bench")
    os.mkdir(top)
    names = [f"{top}/f{index}" for index in range(FILES)]
    small, large = os.urandom(4096), os.urandom(1 << 20)

    def create():
        for name in names:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, small)
            os.close(fd)

    def stat():
        for name in names:
            assert os.stat(name).st_size == 4096

    def read():
        for name in names:
            fd = os.open(name, os.O_RDONLY)
            assert len(os.read(fd, 8192)) == 4096
            os.close(fd)

    def rename():
        for name in names:
            os.rename(name, name + ".r")

    def unlink():
        for name in names:
            os.unlink(name + ".r")

    def untar():
        subprocess.check_call(["tar", "-xf", tar, "-C", top, "--no-same-owner"])

    def remove():
        subprocess.check_call(["rm", "-rf", top + "/tree"])

    def write_seq():
        with open(top + "/seq", "wb", buffering=0) as f:
            for _ in range(SEQ):
                f.write(large)
            os.fsync(f.fileno())

    def read_seq():
        with open(top + "/seq", "rb", buffering=0) as f:
            while f.read(1 << 20):
                pass

    measure(side, "create 4 KiB files, per s", FILES, create)
    measure(side, "stat, per s", FILES, stat)
    measure(side, "open + read 4 KiB, per s", FILES, read)
    measure(side, "rename, per s", FILES, rename)
    measure(side, "unlink, per s", FILES, unlink)
    measure(side, "untar, files per s", FILES, untar)
    measure(side, "rm -rf, files per s", FILES, remove)
    measure(side, "sequential write, MiB/s", SEQ, write_seq)
    uncache(top + "/seq")
    measure(side, "sequential read cold, MiB/s", SEQ, read_seq)
    measure(side, "sequential read warm, MiB/s", SEQ, read_seq)
    os.unlink(top + "/seq")
    os.rmdir(top)


tar = os.path.join(work, "tree.tar")
make_tar(tar)
for number in range(rounds):
    for side in ("memfs", "bindfs") if number % 2 == 0 else ("bindfs", "memfs"):
        one_round(side, tar)
print(f"{'medians of ' + str(rounds):32} {'memfs':>10} {'bindfs':>10} {'ratio':>6}   daemon CPU s")
for what in dict.fromkeys(key[0] for key in results):
    rate = {s: statistics.median(r[0] for r in results[what, s]) for s in pids}
    used = {s: statistics.median(r[1] for r in results[what, s]) for s in pids}
    ratio = rate["memfs"] / rate["bindfs"]
    print(
        f"{what:32} {rate['memfs']:10.0f} {rate['bindfs']:10.0f} {ratio:6.2f}"
        f"   {used['memfs']:.2f} {used['bindfs']:.2f}"
    )
