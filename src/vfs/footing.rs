//! What the contents below a path stand on: the blocks that they are in, and what no block has yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairnfs_fuse::Errno;

use super::Vfs;
use super::errno::{Step, Stop};
use super::file::{Base, FileState};
use super::inner::{Core, Inner};
use super::read::ReadError;
use crate::base::{BlockId, Class, Classify, EcProfile};
use crate::content::overlay::Source;
use crate::dag::{self, NodeAt};
use crate::namespace::{Body, Content, Ino, Kind, Name, Shown};

/// Entries that are looked at in one go.
const PAGE: usize = 256;

/// What is below a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footing {
    /// Files that are no directories, each once however many names it has.
    pub files: u64,
    /// Directories, the one that was named among them.
    pub directories: u64,
    /// Sizes of all regular files.
    pub size_bytes: u64,
    /// Blocks of contents and of manifests, with their redundancy.
    pub blocks: BTreeMap<BlockId, EcProfile>,
    /// Bytes of contents that are in no block yet. Small contents are in the rows of the volume, which every member
    /// has, and checkpoints keep.
    pub unplaced_bytes: u64,
    /// Of those, what is in the journal of this machine alone.
    pub journal_bytes: u64,
    /// Bytes of contents in blocks of another redundancy than is wanted where they are: they are stored anew by and by.
    pub recode_bytes: u64,
}

/// Why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum FootingError {
    /// The path does not lead there.
    #[error("there is no such file")]
    NotFound,
    /// The volume is busy, or being brought up to date.
    #[error("the volume is busy")]
    Busy,
    /// Rows cannot be read.
    #[error("the volume cannot be read: {0}")]
    Volume(std::io::Error),
    /// A manifest cannot be read.
    #[error("the list of a file's blocks cannot be read: {0}")]
    Manifest(String),
}

impl Classify for FootingError {
    fn class(&self) -> Class {
        match self {
            FootingError::NotFound | FootingError::Manifest(_) => Class::Missing,
            FootingError::Busy => Class::Retry,
            FootingError::Volume(_) => Class::Corrupt,
        }
    }
}

impl From<Stop> for FootingError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Busy => FootingError::Busy,
            Stop::Errno(Errno::ENOENT | Errno::ENOTDIR) => FootingError::NotFound,
            Stop::Errno(errno) => {
                FootingError::Volume(std::io::Error::from_raw_os_error(errno.raw()))
            }
        }
    }
}

impl From<ReadError> for FootingError {
    fn from(error: ReadError) -> Self {
        FootingError::Manifest(error.to_string())
    }
}

/// Contents whose blocks are to be found.
type Stored = (EcProfile, dag::Body<NodeAt>);

/// What is left to look at.
struct Walk {
    /// Directories, and after which name to go on.
    directories: Vec<(Ino, Option<Name>)>,
    /// Files met, of those that may have several names.
    linked: BTreeSet<Ino>,
}

impl Vfs {
    /// What is below a path, which goes from the top directory and has `/` between names. Directories are walked through
    /// page by page: what changes meanwhile may be counted or not.
    ///
    /// # Errors
    /// If there is nothing, or rows or manifests cannot be read.
    pub async fn footing(&self, path: &[u8]) -> Result<Footing, FootingError> {
        self.walk(path, true).await
    }

    /// Bytes of contents below a path that have another redundancy than is wanted there. Walks like
    /// [`Vfs::footing`], and reads no manifest.
    ///
    /// # Errors
    /// As [`Vfs::footing`].
    pub async fn stored_otherwise(&self, path: &[u8]) -> Result<u64, FootingError> {
        Ok(self.walk(path, false).await?.recode_bytes)
    }

    async fn walk(&self, path: &[u8], with_blocks: bool) -> Result<Footing, FootingError> {
        let mut found = Footing::default();
        let mut walk = Walk {
            directories: Vec::new(),
            linked: BTreeSet::new(),
        };
        let disk = self.0.blocks.pools().disk.clone();
        let mut stored;
        {
            let (inner, path) = (Arc::clone(&self.0), path.to_vec());
            let first = disk.run(move || {
                let step = inner.begin_footing(&path, &mut found, &mut walk);
                step.map(|stored| (found, walk, stored))
            });
            (found, walk, stored) = first.await?;
        }
        loop {
            for (profile, body) in stored.into_iter().filter(|_| with_blocks) {
                self.0.add_blocks(profile, &body, &mut found).await?;
            }
            if walk.directories.is_empty() {
                return Ok(found);
            }
            let inner = Arc::clone(&self.0);
            let page = disk.run(move || {
                let step = inner.footing_page(&mut found, &mut walk);
                step.map(|stored| (found, walk, stored))
            });
            (found, walk, stored) = page.await?;
        }
    }
}

impl Inner {
    /// What a path shows, from the top directory on; none: that one. The caller holds the lock of the core.
    fn shown_at(&self, path: &[u8]) -> Step<Option<Shown>> {
        let mut dir = Ino::ROOT;
        let mut last = None;
        let names = path.split(|byte| *byte == b'/');
        for name in names.filter(|name| !name.is_empty()) {
            let name = Name::new(name).map_err(|_| Errno::ENOENT)?;
            let there = self.view(|view| view.lookup(dir, &name))?;
            let there = there.ok_or(Errno::ENOENT)?;
            dir = there.ino;
            last = Some(there);
        }
        Ok(last)
    }

    /// The same, as an identity.
    pub(super) fn ino_at(&self, path: &[u8]) -> Step<Ino> {
        let last = self.shown_at(path)?;
        Ok(last.map_or(Ino::ROOT, |shown| shown.ino))
    }

    fn begin_footing(
        &self,
        path: &[u8],
        found: &mut Footing,
        walk: &mut Walk,
    ) -> Step<Vec<Stored>> {
        let mut core = self.core();
        let last = self.shown_at(path)?;
        let mut stored = Vec::new();
        match &last {
            Some(shown) => self.meet(&mut core, shown, found, walk, &mut stored)?,
            None => {
                found.directories += 1;
                walk.directories.push((Ino::ROOT, None));
            }
        }
        Ok(stored)
    }

    /// The next entries of a directory.
    fn footing_page(&self, found: &mut Footing, walk: &mut Walk) -> Step<Vec<Stored>> {
        let mut stored = Vec::new();
        let Some((dir, after)) = walk.directories.pop() else {
            return Ok(stored);
        };
        let mut core = self.core();
        let (entries, next) = self.view(|view| view.list(dir, after.as_ref(), PAGE))?;
        if next.is_some() {
            walk.directories.push((dir, next));
        }
        for entry in entries {
            self.meet(&mut core, &entry, found, walk, &mut stored)?;
        }
        Ok(stored)
    }

    fn meet(
        &self,
        core: &mut Core,
        shown: &Shown,
        found: &mut Footing,
        walk: &mut Walk,
        stored: &mut Vec<Stored>,
    ) -> Step<()> {
        if shown.kind == Kind::Directory {
            found.directories += 1;
            walk.directories.push((shown.ino, None));
            return Ok(());
        }
        let Some(stat) = self.view(|view| view.stat(shown))? else {
            return Ok(());
        };
        if stat.links > 1 && shown.copy.is_none() && !walk.linked.insert(shown.ino) {
            return Ok(());
        }
        found.files += 1;
        let number = core.inodes.number(shown.ino);
        let open = match shown.copy {
            None => core.inodes.get(number).and_then(|node| node.file.clone()),
            Some(_) => None,
        };
        let wanted = self.policy_at(shown.ino)?.0;
        let stored_as = match (&open, &stat.content) {
            (Some(file), _) => match &self.lock(file).base {
                Base::Stored(profile, _) => Some(*profile),
                Base::Inline(_) => None,
            },
            (None, Some(content)) => match &content.body {
                Body::Stored(profile, _) => Some(*profile),
                Body::Inline(_) => None,
            },
            (None, None) => None,
        };
        if stored_as.is_some_and(|stored| !self.is_as_wanted(wanted, stored)) {
            found.recode_bytes += stat.size();
        }
        match (open, &stat.content) {
            (Some(file), _) => add_state(&self.lock(&file), found, stored),
            (None, Some(content)) => add_content(content, found, stored),
            (None, None) => {}
        }
        Ok(())
    }

    async fn add_blocks(
        &self,
        profile: EcProfile,
        body: &dag::Body<NodeAt>,
        found: &mut Footing,
    ) -> Result<(), ReadError> {
        if let dag::Body::Manifest(root) = body {
            let nodes = self
                .extent_map
                .nodes(&self.blocks, profile, *root, |_| true);
            let nodes = nodes.await?;
            let blocks = nodes.iter().map(|(at, _)| (at.block.id, profile));
            found.blocks.extend(blocks);
        }
        let extents = self.extents(profile, body, 0, u64::MAX).await?;
        let blocks = extents.iter().map(|extent| (extent.block.id, profile));
        found.blocks.extend(blocks);
        Ok(())
    }
}

fn add_content(content: &Content, found: &mut Footing, stored: &mut Vec<Stored>) {
    found.size_bytes += content.size;
    match &content.body {
        Body::Inline(bytes) => found.unplaced_bytes += bytes.len() as u64,
        Body::Stored(profile, body) => stored.push((*profile, body.clone())),
    }
}

/// The same of a file that is open, or was changed a moment ago.
fn add_state(state: &FileState, found: &mut Footing, stored: &mut Vec<Stored>) {
    found.size_bytes += state.size();
    let profile = match &state.base {
        Base::Inline(bytes) => {
            found.unplaced_bytes += bytes.len() as u64;
            EcProfile::DEFAULT
        }
        Base::Stored(profile, body) => {
            stored.push((*profile, body.clone()));
            *profile
        }
    };
    for piece in state.overlay.pieces() {
        match &piece.source {
            Source::Memory { .. } | Source::Journal { .. } => {
                found.unplaced_bytes += piece.len;
                found.journal_bytes += piece.len;
            }
            Source::Block { block, .. } => {
                found.blocks.insert(block.id, profile);
            }
            Source::Hole => {}
        }
    }
}
