//! Snapshots: what they show, what they keep, and how files come back.

mod kept;
mod restore;
mod seen;
mod team;

use std::collections::BTreeMap;

use cairnfs::vfs::{SnapshotInfo, Vfs};
use cairnfs_fuse::{Attr, Errno, FileType, Ino, OpenFlags};

use super::twin::Fs;

pub const RD: OpenFlags = OpenFlags(libc::O_RDONLY);
pub const DIRECTORY: &str = ".snapshots";

/// What is at a path, all told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct All {
    pub attr: Attr,
    pub target: Vec<u8>,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub type Tree = BTreeMap<String, All>;

async fn all(fs: &dyn Fs, ino: Ino) -> Result<All, Errno> {
    let mut attr = fs.attr(ino).await?;
    let mut content = Vec::new();
    if attr.kind == FileType::Regular {
        fs.raw().open(ino, RD).wait().await?;
        content = fs.content(ino, 100_000).await?;
        fs.raw().release(ino).wait().await?;
    }
    let target = match attr.kind {
        FileType::Symlink => fs.raw().readlink(ino).wait().await?.to_vec(),
        _ => Vec::new(),
    };
    let mut xattrs = BTreeMap::new();
    let list = fs.raw().listxattr(ino).wait().await?;
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let value = fs.raw().getxattr(ino, name).wait().await?;
        xattrs.insert(name.to_vec(), value.to_vec());
    }
    attr.ino = Ino(0);
    Ok(All {
        attr,
        target,
        content,
        xattrs,
    })
}

/// Everything below a directory, itself included.
pub async fn tree(vfs: &Vfs, top: Ino) -> Tree {
    let fs: &dyn Fs = vfs;
    let mut found = Tree::new();
    let mut waiting = vec![(String::new(), top)];
    while let Some((path, ino)) = waiting.pop() {
        let seen = all(fs, ino).await;
        let seen = seen.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        if seen.attr.kind == FileType::Directory {
            for name in fs.names(ino, path.len() % 2 == 0).await.unwrap() {
                let child = fs.lookup(ino, &name).await.unwrap();
                let child = child.unwrap_or_else(|| panic!("{name:?} is listed and not there"));
                let name = String::from_utf8(name).unwrap();
                waiting.push((format!("{path}/{name}"), child));
            }
        }
        found.insert(path, seen);
        if ino != top {
            fs.raw().forget(ino);
        }
    }
    found
}

/// The live tree, everything being in blocks before, so that it shows what it will go on to show.
pub async fn live(vfs: &Vfs) -> Tree {
    vfs.sync().await.unwrap();
    tree(vfs, Ino::ROOT).await
}

/// The tree of a snapshot.
pub async fn past(vfs: &Vfs, snapshot: &SnapshotInfo) -> Tree {
    let fs: &dyn Fs = vfs;
    let dir = fs.lookup(Ino::ROOT, DIRECTORY.as_bytes()).await.unwrap();
    let top = fs.lookup(dir.unwrap(), snapshot.name.as_bytes()).await;
    let top = top.unwrap().unwrap();
    let found = tree(vfs, top).await;
    fs.raw().forget(top);
    found
}

/// Both are the same; what differs is told by name.
pub fn same(one: &Tree, two: &Tree, what: &str) {
    let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<String>>();
    assert_eq!(names(one), names(two), "{what}");
    for (path, seen) in one {
        let brief = |seen: &All| {
            let mut seen = seen.clone();
            seen.content.truncate(16);
            format!("{seen:?}")
        };
        let other = &two[path];
        assert!(
            seen == other,
            "{what}: {path}\n{}\n{}",
            brief(seen),
            brief(other)
        );
    }
}
