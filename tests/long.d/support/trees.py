"""Trees of files to work with, and what must be the same in a copy."""

import hashlib
import os
import random
import stat
import tarfile
from pathlib import Path

# Of a crate's sources: larger files would make another workload of it.
FILE_MAX = 300_000
# Cargo's own, and what would tell git to leave files out or to change them.
LEFT_OUT = (".cargo-ok", ".gitignore", ".gitattributes")


def registry():
    """The sources of crates that cargo has unpacked here, the same in every run."""
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    return sorted(path for path in home.glob("registry/src/*/*") if path.is_dir())


def source_tree(top, want):
    """Makes about `want` files of program sources below `top`, one directory for each crate; what
    crates do not give is made up. Returns the number of files and their bytes."""
    files = size = 0
    for crate in registry():
        paths = [path for path in sorted(crate.rglob("*")) if path.is_file() and not path.is_symlink()]
        paths = [path for path in paths if path.stat().st_size <= FILE_MAX and path.name not in LEFT_OUT]
        if len(paths) > want // 6:
            continue
        if files + len(paths) > want:
            break
        for path in paths:
            target = top / crate.name / path.relative_to(crate)
            target.parent.mkdir(parents=True, exist_ok=True)
            body = path.read_bytes()
            target.write_bytes(body)
            files, size = files + 1, size + len(body)
    made_up = random.Random(files)
    while files < want:
        target = top / f"made-{files // 100:04}" / f"part{files % 10}" / f"{files}.rs"
        target.parent.mkdir(parents=True, exist_ok=True)
        words = (made_up.choice(WORDS) for _ in range(made_up.randint(10, 3000)))
        body = " ".join(words).encode()
        target.write_bytes(body)
        files, size = files + 1, size + len(body)
    return files, size


WORDS = "let mut self fn impl struct match return Some None Ok Err ( ) { } ; :: -> & pub use crate".split()


def pack(top, tar):
    """One tar of all below `top`, whose first directory is `tree`."""

    def plain(info):
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mtime = 1_700_000_000
        return info

    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as out:
        out.add(top, arcname="tree", filter=plain)


def random_file(path, mib):
    """Incompressible, and no part equal to another."""
    with open(path, "wb") as out:
        for _ in range(mib):
            out.write(os.urandom(1 << 20))


def digest(path):
    sha = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            sha.update(part)
    return sha.hexdigest()


def listing(top, times=True, xattrs=True):
    """Everything below `top` by its path: kind, mode, owner, size, times, targets, names of one
    file, extended attributes (and with them ACLs), content."""
    top, found, names_of = Path(top), {}, {}
    for directory, dirs, files in os.walk(top):
        for name in dirs + files + [""]:
            path = os.path.join(directory, name)
            key = os.path.relpath(path, top)
            at = os.lstat(path)
            is_dir = stat.S_ISDIR(at.st_mode)
            row = [oct(at.st_mode), at.st_uid, at.st_gid]
            if not is_dir:
                row += [at.st_size, at.st_nlink]
                names_of.setdefault(at.st_ino, []).append(key)
            if times:
                row.append(at.st_mtime_ns)
            if stat.S_ISLNK(at.st_mode):
                row.append(os.readlink(path))
            elif stat.S_ISREG(at.st_mode):
                row.append(digest(path))
            elif not is_dir:
                row.append(at.st_rdev)
            if xattrs:
                names = sorted(os.listxattr(path, follow_symlinks=False))
                row += [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
            found[key] = row
    for keys in names_of.values():
        for key in keys:
            # A walk finds the names of one file in any order.
            found[key].append(min(keys))
    return found


def differences(one, two, most=5):
    """The first few paths that two listings disagree about, as text."""
    wrong = [path for path in one.keys() | two.keys() if one.get(path) != two.get(path)]
    lines = [f"{path}: {one.get(path)} / {two.get(path)}" for path in sorted(wrong)[:most]]
    return f"{len(wrong)} differ: " + "; ".join(lines) if wrong else ""
