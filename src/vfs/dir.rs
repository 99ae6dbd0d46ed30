//! Looking names up, and listing directories.

use cairnfs_fuse::{self as fuse, DirBatch, Errno, FileType};

use super::cursor::After;
use super::errno::Step;
use super::inner::{Core, Inner};
use super::snapshots;
use crate::base::limits::NAME_MAX_BYTES;
use crate::namespace::{Ino, Kind, Name, Shown};

/// Entries that are read from the tables at once.
const PAGE: usize = 256;

/// A name as the namespace wants it; `ENOENT` for what no entry can be called.
pub(super) fn name_of(name: fuse::Name<'_>) -> Result<Name, Errno> {
    if name.len() > NAME_MAX_BYTES {
        return Err(Errno::ENAMETOOLONG);
    }
    Name::new(name.bytes()).map_err(|_| Errno::ENOENT)
}

pub(super) const fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::Regular,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

impl Inner {
    /// What a name leads to.
    pub(super) fn find(&self, dir: Ino, name: fuse::Name<'_>) -> Step<Option<Shown>> {
        let name = name_of(name)?;
        self.view(|view| view.lookup(dir, &name))
    }

    pub(super) fn must_find(&self, dir: Ino, name: fuse::Name<'_>) -> Step<Shown> {
        Ok(self.find(dir, name)?.ok_or(Errno::ENOENT)?)
    }

    pub(super) fn lookup(&self, parent: u64, name: fuse::Name<'_>) -> Step<fuse::Lookup> {
        let mut core = self.core();
        let node = core.node(parent)?;
        if node.orphan.is_some() {
            return Ok(fuse::Lookup::Absent(self.ttl()));
        }
        let dir = node.ino;
        match self.find(dir, name)? {
            Some(shown) => Ok(fuse::Lookup::Found(self.hand_out(&mut core, shown.ino)?)),
            None if dir == Ino::ROOT && name.bytes() == snapshots::DIRECTORY => {
                drop(core);
                Ok(fuse::Lookup::Found(self.snapshots_entry()?))
            }
            None => {
                self.must_be_directory(&mut core, parent, dir)?;
                Ok(fuse::Lookup::Absent(self.ttl()))
            }
        }
    }

    pub(super) fn must_be_directory(&self, core: &mut Core, number: u64, dir: Ino) -> Step<()> {
        match self.stat(core, number, dir)?.node.kind() {
            Kind::Directory => Ok(()),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    pub(super) fn readdir(&self, number: u64, offset: u64, mut batch: DirBatch) -> Step<DirBatch> {
        let mut core = self.core();
        let node = core.node(number)?;
        let (dir, is_gone) = (node.ino, node.orphan.is_some());
        let parent = match is_gone {
            true => None,
            false => self.view(|view| view.parent(dir))?,
        };
        let parent = parent.map_or(number, |(parent, _)| core.inodes.number(parent));
        for (at, (name, ino)) in (0..).zip([(".", number), ("..", parent)]) {
            let ino = fuse::Ino(ino);
            if offset <= at && !batch.push(name.into(), at + 1, ino, FileType::Directory) {
                return Ok(batch);
            }
        }
        if is_gone {
            return Ok(batch);
        }
        // A place that is known no more is not the end: whoever lists is to know that there may be more.
        let begin = core.cursors.of(dir).find(offset).ok_or(Errno::ESTALE)?;
        let After { name, mut skip } = begin.clone();
        let (mut begin, mut after) = (Some(begin), name);
        'pages: loop {
            let (page, next) = self.view(|view| view.list(dir, after.as_ref(), PAGE))?;
            for (at, shown) in page.iter().enumerate() {
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                if let Some(begin) = begin.take() {
                    core.cursors.of(dir).begin_batch(begin);
                }
                let is_same =
                    |at: usize| page.get(at).is_some_and(|other| other.base == shown.base);
                let is_contested = is_same(at + 1) || at > 0 && is_same(at - 1);
                if !self.show(&mut core, dir, (shown, is_contested), &mut batch)? {
                    break 'pages;
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        core.cursors.of(dir).end_batch();
        Ok(batch)
    }

    /// Adds an entry to a batch. False if it does not fit.
    fn show(
        &self,
        core: &mut Core,
        dir: Ino,
        (shown, is_contested): (&Shown, bool),
        batch: &mut DirBatch,
    ) -> Step<bool> {
        let next = core.cursors.of(dir).next();
        let name = fuse::Name::new(shown.name.bytes());
        let fits = if batch.wants_attrs() {
            // If it is damaged, others are shown all the same.
            let Ok(entry) = self.hand_out(core, shown.ino) else {
                return Ok(true);
            };
            let fits = batch.push_entry(name, next, entry);
            if !fits {
                self.forget_in(core, entry.attr.ino.0, 1);
            }
            fits
        } else {
            let ino = fuse::Ino(core.inodes.number(shown.ino));
            batch.push(name, next, ino, file_type(shown.kind))
        };
        if fits {
            let places = core.cursors.of(dir);
            places.push(shown.base.clone(), is_contested);
        }
        Ok(fits)
    }
}
