"""A network of six peers of this machine, as `cairn devnet` makes it, and streams to put."""

import json
import os
import signal
import subprocess
import time

from measure import run

CAIRN = os.environ["CAIRN"]


class Devnet:
    def __init__(self, directory, *arguments):
        self.directory = directory
        self.process = subprocess.Popen(
            [CAIRN, "--json", "devnet", "--dir", directory, *arguments], stdout=subprocess.PIPE
        )
        self.peers = []
        for line in self.process.stdout:
            value = json.loads(line)
            if value.get("ready"):
                break
            self.peers.append(value)

    def pids(self):
        return [peer["pid"] for peer in self.peers]

    def command(self, at, *arguments):
        return [CAIRN, "-q", "--data-dir", self.peers[at]["data_dir"], *arguments]

    def run(self, at, *arguments):
        return run(*self.command(at, *arguments))

    def kill(self, at):
        os.kill(self.peers[at]["pid"], signal.SIGKILL)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)


class Stream:
    """`size` bytes that are the same for the same seed, and compress to nothing."""

    def __init__(self, size, seed):
        self.head = subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE)
        cipher = ["openssl", "enc", "-aes-256-ctr", "-nosalt", "-K", f"{seed:064x}", "-iv", f"{0:032x}"]
        self.cipher = subprocess.Popen(cipher, stdin=self.head.stdout, stdout=subprocess.PIPE, bufsize=0)
        self.head.stdout.close()
        self.output = self.cipher.stdout

    def read(self, count):
        return read(self.output, count)

    def end(self):
        """Whether all of it was taken."""
        self.output.close()
        return self.cipher.wait() == 0 and self.head.wait() == 0


def read(file, count):
    """So many bytes of a pipe, fewer only at its end."""
    found = b""
    while len(found) < count and (piece := file.read(count - len(found))):
        found += piece
    return found


def first_bytes(command, count=1):
    """Starts a command; it, its first bytes and after how many seconds they were there."""
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    first = read(process.stdout, count)
    return process, first, time.monotonic() - begun
