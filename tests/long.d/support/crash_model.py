"""What each operation of a worker writes, and what must be there after a crash."""

import hashlib
import os
import sqlite3

# Files that are replaced in turn; blocks of the file that is overwritten in place.
NAMES = 8
BLOCKS = 256
BLOCK = 4096
# A directory goes when so many newer ones are there.
KEPT = 20
# Records of one file that is appended to; the file before the last one is removed.
RECORDS = 2000


class Log:
    """What a worker wrote down: the last operation begun, the last and all acknowledged ones."""

    def __init__(self, path):
        self.path, self.offset = path, 0
        self.begun = self.done = -1
        self.acked = set()
        self.update()

    def update(self):
        try:
            with open(self.path, "rb") as log:
                log.seek(self.offset)
                text = log.read()
        except FileNotFoundError:
            return self
        self.offset += len(text)
        for line in text.splitlines():
            word, number = line.split()
            if word == b"begin":
                self.begun = max(self.begun, int(number))
            else:
                self.done = max(self.done, int(number))
                self.acked.add(int(number))
        return self


def filled(number, size):
    """Bytes that say which operation wrote them, whole or not."""
    seed = hashlib.sha256(str(number).encode()).digest()
    head = f"{number:012}".encode()
    return head + (seed * (size // len(seed) + 1))[: size - len(head)]


def version(number):
    return filled(number, 100 + number * 7919 % 60_000)


def record(number):
    return filled(number, 50 + number * 31 % 3000)


def records(numbers):
    return b"".join(record(number) for number in numbers)


def block(number):
    return filled(number, BLOCK)


def table(number):
    return filled(number, 200)


def tree_step(number):
    """The directory that operation `number` makes, and the one that it removes."""
    return f"d{number:06}", f"d{number - KEPT:06}" if number >= KEPT else None


def number_in(data):
    """Which operation wrote this, if any did as far as its head tells."""
    head = bytes(data[:12])
    return int(head) if head.isdigit() else None


def read(path):
    with open(path, "rb") as file:
        return file.read()


def check_replace(top, log, wrong):
    newest = {number % NAMES: number for number in sorted(log.acked)}
    for name, oldest in newest.items():
        # What began later may be there as well.
        try:
            data = read(f"{top}/{name}")
        except FileNotFoundError:
            wrong(f"{name} is neither old nor new")
            continue
        number = number_in(data)
        if number is None or data != version(number) or number % NAMES != name:
            wrong(f"{name} is torn ({len(data)} bytes, as if of {number})")
        elif not oldest <= number <= log.begun:
            wrong(f"{name} holds version {number}, acknowledged was {oldest}, begun {log.begun}")


def check_append(top, log, wrong):
    if log.done < 0:
        return
    newest = log.begun // RECORDS
    for part in range(max(0, newest - 1), newest + 1):
        numbers = range(part * RECORDS, (part + 1) * RECORDS)
        acked = records(number for number in numbers if number <= log.done)
        data = read_or_none(f"{top}/log{part}")
        if data is None and acked:
            wrong(f"log{part} is lost")
        elif data is not None and not data.startswith(acked):
            wrong(f"a record of log{part} is lost, acknowledged was {log.done}")
        elif data is not None:
            begun = records(number for number in numbers if log.done < number <= log.begun)
            tail = data[len(acked) :]
            if not begun.startswith(tail):
                wrong(f"{len(tail)} bytes behind record {log.done} were never appended in this order")


def check_overwrite(top, log, wrong):
    if log.done < 0:
        return
    data = read(f"{top}/blocks")
    newest = {number % BLOCKS: number for number in sorted(log.acked)}
    for place, oldest in newest.items():
        part = data[place * BLOCK : (place + 1) * BLOCK]
        number = number_in(part)
        if number is None or part != block(number):
            wrong(f"block {place} is torn, acknowledged was {oldest}, begun {log.begun}")
        elif not oldest <= number <= log.begun:
            wrong(f"block {place} holds {number}, acknowledged was {oldest}")


def check_tree(top, log, wrong):
    there = set(os.listdir(top)) if os.path.isdir(top) else set()
    # Older ones were seen to be gone in the rounds before.
    for number in range(max(0, log.begun - 5000), log.done + 1):
        if number not in log.acked:
            continue
        name, remover = tree_step(number)[0], number + KEPT
        if remover in log.acked:
            if name in there:
                wrong(f"{name} is there again, its removal was acknowledged")
        elif remover > log.begun:
            if name not in there:
                wrong(f"{name} is lost")
            elif read_or_none(f"{top}/{name}/file") != version(number):
                wrong(f"{name}/file is lost or torn")


def read_or_none(path):
    try:
        return read(path)
    except FileNotFoundError:
        return None


def check_sqlite(path, log, wrong):
    if log.done < 0:
        return
    if not os.path.exists(path):
        wrong("the database is lost")
        return
    database = sqlite3.connect(path, timeout=30)
    try:
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
        if said != "ok":
            wrong(f"integrity_check: {said[:200]}")
        newest = {name: database.execute(f"SELECT max(n) FROM {name}").fetchone()[0] for name in "ab"}
        if newest["a"] != newest["b"]:
            wrong(f"half a transaction: {newest}")
        elif newest["a"] is None or not log.done <= newest["a"] <= log.begun:
            wrong(f"transaction {newest['a']} is the newest, acknowledged was {log.done}")
        else:
            for number, body in database.execute("SELECT n, body FROM a"):
                if body != table(number):
                    wrong(f"row {number} is another")
                    break
    finally:
        database.close()


CHECKS = {
    "replace": check_replace,
    "append": check_append,
    "overwrite": check_overwrite,
    "tree": check_tree,
    "wal": lambda top, log, wrong: check_sqlite(f"{top}/WAL.db", log, wrong),
    "rollback": lambda top, log, wrong: check_sqlite(f"{top}/DELETE.db", log, wrong),
}


def check(kind, top, log):
    """What is wrong with the files of one worker, as texts."""
    found = []
    try:
        CHECKS[kind](str(top), log, lambda text: found.append(f"{kind}: {text}"))
    except (OSError, sqlite3.Error) as error:
        found.append(f"{kind}: not readable: {error!r}")
    return found


def damage(kind, top, log):
    """Takes back what was acknowledged, in a way that a bad filesystem might."""
    if kind == "replace":
        newest = max(log.acked)
        older = version(max(newest - NAMES, newest % NAMES) if newest >= NAMES else newest + NAMES)
        with open(f"{top}/{newest % NAMES}", "wb") as file:
            file.write(older)
    elif kind == "append":
        path = f"{top}/log{log.done // RECORDS}"
        kept = records(range(log.done // RECORDS * RECORDS, log.done + 1))
        os.truncate(path, len(kept) - 1)
    elif kind == "overwrite":
        with open(f"{top}/blocks", "r+b") as file:
            file.seek(log.done % BLOCKS * BLOCK + 1000)
            file.write(b"x")
    elif kind == "tree":
        os.truncate(f"{top}/{tree_step(log.done)[0]}/file", 0)
    else:
        database = sqlite3.connect(f"{top}/{'WAL' if kind == 'wal' else 'DELETE'}.db", isolation_level=None)
        database.execute("DELETE FROM a WHERE n = (SELECT max(n) FROM a)")
        database.close()
