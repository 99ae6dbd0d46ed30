"""One worker of `tests/long mount-crash`: changes files on the mount and writes down, outside of it,
what it is about to do and what it was told is durable.

    crash_worker.py KIND DIR LOG

The log has lines `begin N` and `done N`: operation N is about to start, and was acknowledged. The
worker goes on after the last operation begun, and ends at the first error, which is the kill.
"""

import os
import sqlite3
import sys

from crash_model import BLOCK, BLOCKS, NAMES, RECORDS, Log, block, record, records, table, tree_step, version

kind, top, log_path = sys.argv[1:]
log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def say(word, number):
    os.write(log, f"{word} {number}\n".encode())


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data) :]


def replace(number):
    """Write-temp, fsync, rename over, fsync of the directory."""
    target = f"{top}/{number % NAMES}"
    fd = os.open(f"{target}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    write_all(fd, version(number))
    os.fsync(fd)
    os.close(fd)
    os.rename(f"{target}.tmp", target)
    sync_dir(top)


def append(number):
    part = number // RECORDS
    is_new = number in (first, part * RECORDS)
    fd = os.open(f"{top}/log{part}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if is_new:
        # What the crash left of an unacknowledged record is cut off, as a database does.
        os.ftruncate(fd, len(records(range(part * RECORDS, number))))
    write_all(fd, record(number))
    os.fsync(fd)
    os.close(fd)
    if is_new:
        if part >= 2 and os.path.exists(f"{top}/log{part - 2}"):
            os.unlink(f"{top}/log{part - 2}")
        sync_dir(top)


def overwrite(number):
    fd = os.open(f"{top}/blocks", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, block(number), number % BLOCKS * BLOCK)
    os.fdatasync(fd)
    if number == first:
        os.fsync(fd)
        sync_dir(top)
    os.close(fd)


def tree(number):
    """A directory with a file comes; one that came some time before goes."""
    there, gone = tree_step(number)
    path = f"{top}/{there}"
    os.makedirs(path, exist_ok=True)
    fd = os.open(f"{path}/file", os.O_WRONLY | os.O_CREAT, 0o644)
    write_all(fd, version(number))
    os.fsync(fd)
    os.close(fd)
    sync_dir(path)
    if gone:
        try:
            os.unlink(f"{top}/{gone}/file")
        except FileNotFoundError:
            pass
        try:
            os.rmdir(f"{top}/{gone}")
        except FileNotFoundError:
            pass
    sync_dir(top)


class Sqlite:
    def __init__(self, mode):
        self.path, self.mode, self.database = f"{top}/{mode}.db", mode, None

    def __call__(self, number):
        if self.database is None:
            self.database = sqlite3.connect(self.path, isolation_level=None, timeout=30)
            self.database.execute(f"PRAGMA journal_mode = {self.mode}")
            # FULL does not wait for the removal of a rollback journal, which is the commit.
            self.database.execute("PRAGMA synchronous = EXTRA")
            self.database.execute("CREATE TABLE IF NOT EXISTS a (n INTEGER PRIMARY KEY, body BLOB)")
            self.database.execute("CREATE TABLE IF NOT EXISTS b (n INTEGER PRIMARY KEY, body BLOB)")
        self.database.execute("BEGIN IMMEDIATE")
        for name in "ab":
            self.database.execute(f"INSERT OR REPLACE INTO {name} VALUES (?, ?)", (number, table(number)))
            self.database.execute(f"DELETE FROM {name} WHERE n < ?", (number - 2000,))
        self.database.execute("COMMIT")
        if self.mode == "DELETE":
            # The commit is the removal of the journal. SQLite syncs the directory after it, but takes it for
            # done if it cannot be opened because the server has just been killed.
            sync_dir(top)


KINDS = {
    "replace": replace, "append": append, "overwrite": overwrite, "tree": tree,
    "wal": Sqlite("WAL"), "rollback": Sqlite("DELETE"),
}
os.makedirs(top, exist_ok=True)
sync_dir(os.path.dirname(top))
known = Log(log_path)
# Appended records have no gaps: what was not acknowledged is written again.
first = known.done + 1 if kind == "append" else known.begun + 1
number = first
try:
    while True:
        say("begin", number)
        KINDS[kind](number)
        say("done", number)
        number += 1
except (OSError, sqlite3.Error) as error:
    print(f"{kind}: ended at {number}: {error}")
