//! Looking at a filesystem without a kernel: everything below a directory, all told.

use std::collections::BTreeMap;

use cairnfs_fuse::{
    Answer, Attr, Caller, DirBatch, Errno, Fh, FileSystem, FileType, Ino, Lookup, Name, OpenFlags,
};

pub const RW: OpenFlags = OpenFlags(libc::O_RDWR);
/// Bytes of one answer to a listing: small, so that listings go on.
const BATCH_BYTES: usize = 700;

/// What is at a path, all told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: FileType,
    pub perm: u16,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Option<(i64, u32)>,
    pub target: Vec<u8>,
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The part of the trait that comparing needs, for both.
pub trait Fs: Sync {
    fn raw(&self) -> &dyn Raw;
}

/// The trait of filesystems, as an object.
#[allow(async_fn_in_trait)]
pub trait Raw: Sync {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Answer<Lookup>;
    fn forget(&self, ino: Ino);
    fn attr(&self, ino: Ino) -> Answer<cairnfs_fuse::AttrReply>;
    fn readlink(&self, ino: Ino) -> Answer<bytes::Bytes>;
    fn readdir(&self, ino: Ino, offset: u64, batch: DirBatch) -> Answer<DirBatch>;
    fn open(&self, ino: Ino, flags: OpenFlags) -> Answer<cairnfs_fuse::Opened>;
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Answer<cairnfs_fuse::Data>;
    fn release(&self, ino: Ino) -> Answer<()>;
    fn listxattr(&self, ino: Ino) -> Answer<bytes::Bytes>;
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Answer<bytes::Bytes>;
}

impl<F: FileSystem> Raw for F {
    fn lookup(&self, parent: Ino, name: &[u8]) -> Answer<Lookup> {
        FileSystem::lookup(self, &Caller::ROOT, parent, Name::new(name))
    }
    fn forget(&self, ino: Ino) {
        FileSystem::forget(self, ino, 1);
    }
    fn attr(&self, ino: Ino) -> Answer<cairnfs_fuse::AttrReply> {
        FileSystem::getattr(self, &Caller::ROOT, ino, None)
    }
    fn readlink(&self, ino: Ino) -> Answer<bytes::Bytes> {
        FileSystem::readlink(self, &Caller::ROOT, ino)
    }
    fn readdir(&self, ino: Ino, offset: u64, batch: DirBatch) -> Answer<DirBatch> {
        FileSystem::readdir(self, ino, Fh(0), offset, batch)
    }
    fn open(&self, ino: Ino, flags: OpenFlags) -> Answer<cairnfs_fuse::Opened> {
        FileSystem::open(self, &Caller::ROOT, ino, flags)
    }
    fn read(&self, ino: Ino, offset: u64, len: u32) -> Answer<cairnfs_fuse::Data> {
        FileSystem::read(self, ino, Fh(ino.0), offset, len, RW)
    }
    fn release(&self, ino: Ino) -> Answer<()> {
        FileSystem::release(self, ino, Fh(ino.0), RW)
    }
    fn listxattr(&self, ino: Ino) -> Answer<bytes::Bytes> {
        FileSystem::listxattr(self, &Caller::ROOT, ino)
    }
    fn getxattr(&self, ino: Ino, name: &[u8]) -> Answer<bytes::Bytes> {
        FileSystem::getxattr(self, &Caller::ROOT, ino, Name::new(name))
    }
}

impl<F: FileSystem> Fs for F {
    fn raw(&self) -> &dyn Raw {
        self
    }
}

impl dyn Fs + '_ {
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Ino>, Errno> {
        match self.raw().lookup(parent, name).wait().await? {
            Lookup::Found(entry) => Ok(Some(entry.attr.ino)),
            Lookup::Absent(_) => Ok(None),
        }
    }

    pub async fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        Ok(self.raw().attr(ino).wait().await?.attr)
    }

    /// Names in a directory, without dots.
    pub async fn names(&self, ino: Ino, plus: bool) -> Result<Vec<Vec<u8>>, Errno> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let batch = DirBatch::new(BATCH_BYTES, plus);
            let batch = self.raw().readdir(ino, offset, batch).wait().await?;
            if batch.is_empty() {
                names.sort();
                return Ok(names);
            }
            for item in batch.items() {
                offset = item.next_offset;
                if !matches!(item.name.bytes(), b"." | b"..") {
                    names.push(item.name.to_vec());
                    if plus {
                        self.raw().forget(item.ino);
                    }
                }
            }
        }
    }

    /// All of a file's bytes.
    pub async fn content(&self, ino: Ino, step: u32) -> Result<Vec<u8>, Errno> {
        let mut all = Vec::new();
        loop {
            let data = self.raw().read(ino, all.len() as u64, step).wait().await?;
            if data.is_empty() {
                return Ok(all);
            }
            all.extend(data.to_vec());
        }
    }

    pub async fn seen(&self, ino: Ino, step: u32) -> Result<Seen, Errno> {
        let attr = self.attr(ino).await?;
        let mut content = Vec::new();
        if attr.kind == FileType::Regular {
            self.raw().open(ino, RW).wait().await?;
            content = self.content(ino, step).await?;
            self.raw().release(ino).wait().await?;
        }
        let target = match attr.kind {
            FileType::Symlink => self.raw().readlink(ino).wait().await?.to_vec(),
            _ => Vec::new(),
        };
        let mut xattrs = BTreeMap::new();
        let list = self.raw().listxattr(ino).wait().await?;
        for name in list
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let value = self.raw().getxattr(ino, name).wait().await?;
            xattrs.insert(name.to_vec(), value.to_vec());
        }
        let is_set = attr.mtime.secs < 1_000_000;
        Ok(Seen {
            kind: attr.kind,
            perm: attr.perm,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: if attr.kind == FileType::Directory {
                0
            } else {
                attr.size
            },
            // Those that were set, not those that the clock gave.
            mtime: is_set.then_some((attr.mtime.secs, attr.mtime.nanos)),
            target,
            content,
            xattrs,
        })
    }

    /// The whole tree below a directory.
    pub async fn tree(&self, step: u32) -> Result<BTreeMap<Vec<Vec<u8>>, Seen>, Errno> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![(Vec::new(), Ino::ROOT)];
        while let Some((path, ino)) = waiting.pop() {
            let seen = self.seen(ino, step).await;
            let seen = seen.inspect_err(|error| eprintln!("{path:?}: {error:?}"))?;
            if seen.kind == FileType::Directory {
                let names = self.names(ino, path.len() % 2 == 0).await?;
                for name in names {
                    let child = self.lookup(ino, &name).await?;
                    let child = child.unwrap_or_else(|| panic!("{name:?} is listed and not there"));
                    let path: Vec<Vec<u8>> = path.iter().cloned().chain([name]).collect();
                    waiting.push((path, child));
                }
            }
            found.insert(path, seen);
            if ino != Ino::ROOT {
                self.raw().forget(ino);
            }
        }
        Ok(found)
    }
}
