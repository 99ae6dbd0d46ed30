//! Bringing files of a snapshot back into the live tree. First it is found out what differs, which is the plan; then it
//! is carried out step by step. No byte of content is copied: a file that comes back names the blocks that the snapshot
//! keeps.

mod carry;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use self::plan::Planning;
use super::SnapshotError;
use super::tree::Opened;
use crate::namespace::{Ino, Kind, Name, Node, Shown, SnapshotId, Stat, StateError, View};
use crate::vfs::errno::Step;
use crate::vfs::inner::Inner;

/// Steps of one plan.
const STEPS_MAX: usize = 1_000_000;
/// Entries that are read at once.
const PAGE: usize = 48;
/// How deep directories may lie in one another.
const DEPTH_MAX: usize = 4096;

/// What is to be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// Of which snapshot.
    pub snapshot: SnapshotId,
    /// What of it: names with `/` between them; empty for all of it.
    pub path: Vec<u8>,
    /// Where to in the volume, as the name that it gets; none: where it was.
    pub to: Option<Vec<u8>>,
    /// Remove what is there and not in the snapshot.
    pub delete: bool,
}

/// What becomes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreAction {
    /// It comes back.
    Create,
    /// It gets its old content, or what it was instead of what is there now.
    Replace,
    /// It gets its old attributes.
    Attributes,
    /// It becomes another name of a file that is brought back.
    Link,
    /// It goes.
    Remove,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreStep {
    /// Where in the volume: names with `/` between them.
    pub path: Vec<u8>,
    /// What becomes of it.
    pub action: RestoreAction,
    /// Bytes of the content that it gets.
    pub bytes: u64,
    /// Which file of the snapshot.
    source: Ino,
    /// Of a link: the path of the file.
    first: Option<Vec<u8>>,
    /// Whether a file of its own is made although one is there, which has other names.
    is_anew: bool,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// Of which snapshot.
    pub snapshot: SnapshotId,
    /// The steps.
    pub steps: Vec<RestoreStep>,
    /// Files that were looked at.
    pub looked_at: u64,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Steps that were carried out.
    pub done: u64,
    /// Steps of the plan.
    pub steps: u64,
    /// Bytes of contents that came back.
    pub bytes: u64,
}

/// A file of a snapshot, with everything that belongs to it.
struct Found {
    name: Name,
    ino: Ino,
    stat: Stat,
    xattrs: BTreeMap<Name, Bytes>,
}

fn join(dir: &[u8], name: &Name) -> Vec<u8> {
    match dir.is_empty() {
        true => name.bytes().to_vec(),
        false => [dir, b"/", name.bytes()].concat(),
    }
}

/// The names of a path.
fn names(path: &[u8]) -> Result<Vec<Name>, SnapshotError> {
    let parts = path.split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
    let read = |part: &[u8]| {
        Name::new(part).map_err(|_| SnapshotError::Path {
            path: shown(path),
            why: "this is no path within a volume",
        })
    };
    parts.map(read).collect()
}

/// Stands for the name of what is asked for by its identity.
fn nameless() -> Result<Name, SnapshotError> {
    Name::new(b"?").map_err(SnapshotError::Damaged)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn path_of(names: &[Name]) -> Vec<u8> {
    let names: Vec<&[u8]> = names.iter().map(|name| name.bytes()).collect();
    names.join(&b'/')
}

fn xattrs_of(view: &View<'_>, ino: Ino) -> Result<BTreeMap<Name, Bytes>, StateError> {
    let mut all = BTreeMap::new();
    for name in view.xattrs(ino)? {
        if let Some(value) = view.xattr(ino, &name)? {
            all.insert(name, value);
        }
    }
    Ok(all)
}

fn whole(view: &View<'_>, name: Name, ino: Ino) -> Result<Option<Found>, StateError> {
    let Some(stat) = view.stat_ino(ino)? else {
        return Ok(None);
    };
    let xattrs = xattrs_of(view, ino)?;
    Ok(Some(Found {
        name,
        ino,
        stat,
        xattrs,
    }))
}

impl Inner {
    /// The file at a path of the live tree.
    fn live_at(&self, path: &[Name]) -> Step<Option<(Ino, Kind)>> {
        let _core = self.core();
        let mut at = (Ino::ROOT, Kind::Directory);
        for name in path {
            match self.view(|view| view.lookup(at.0, name))? {
                Some(shown) => at = (shown.ino, shown.kind),
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn live_whole(&self, name: &Name, dir: Ino) -> Step<Option<Found>> {
        let _core = self.core();
        let Some(found) = self.view(|view| view.lookup(dir, name))? else {
            return Ok(None);
        };
        self.view(|view| whole(view, name.clone(), found.ino))
    }

    /// Names of a directory of the live tree that are not among some.
    fn live_besides(&self, dir: Ino, known: &BTreeSet<Name>) -> Step<Vec<Shown>> {
        let _core = self.core();
        let (mut besides, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = self.view(|view| view.list(dir, after.as_ref(), PAGE))?;
            besides.extend(
                page.into_iter()
                    .filter(|shown| !known.contains(&shown.name)),
            );
            match next {
                Some(next) if besides.len() < STEPS_MAX => after = Some(next),
                _ => return Ok(besides),
            }
        }
    }

    /// The file at a path of a snapshot.
    async fn old_at(
        self: &Arc<Self>,
        opened: &Opened,
        path: &[Name],
    ) -> Result<Found, SnapshotError> {
        let (names, nameless) = (path.to_vec(), nameless()?);
        let found = self.look_into(opened, move |view| {
            let mut at = Ino::ROOT;
            for name in &names {
                match view.lookup(at, name)? {
                    Some(shown) => at = shown.ino,
                    None => return Ok(None),
                }
            }
            let last = names.last().unwrap_or(&nameless);
            whole(view, last.clone(), at)
        });
        let missing = || SnapshotError::NotThere(shown(&path_of(path)));
        found.await?.ok_or_else(missing)
    }

    async fn old_whole(
        self: &Arc<Self>,
        opened: &Opened,
        ino: Ino,
    ) -> Result<Found, SnapshotError> {
        let name = nameless()?;
        let found = self.look_into(opened, move |view| whole(view, name.clone(), ino));
        found
            .await?
            .ok_or(SnapshotError::Damaged("a file of it is not there"))
    }

    pub(super) async fn plan_restore(
        self: Arc<Self>,
        request: RestoreRequest,
    ) -> Result<RestorePlan, SnapshotError> {
        if self.is_reader() {
            return Err(SnapshotError::Reader);
        }
        // What differs is told by what is in the namespace.
        self.seal_all().await.map_err(SnapshotError::Unsynced)?;
        let opened = self.open_snapshot(request.snapshot).await?;
        let from = names(&request.path)?;
        let to = match &request.to {
            Some(to) => names(to)?,
            None => from.clone(),
        };
        let source = self.old_at(&opened, &from).await?;
        let mut planning = Planning {
            inner: &self,
            opened: &opened,
            delete: request.delete,
            steps: Vec::new(),
            looked_at: 0,
            firsts: BTreeMap::new(),
            taken: BTreeMap::new(),
        };
        match to.split_last() {
            None => {
                if source.stat.node.kind() != Kind::Directory {
                    return Err(SnapshotError::Path {
                        path: shown(&request.path),
                        why: "only a directory can take the place of the whole volume",
                    });
                }
                planning.walk(source, Vec::new(), Some(Ino::ROOT)).await?;
            }
            Some((name, above)) => {
                let dir = self.live_at(above)?;
                let dir = match dir {
                    Some((dir, Kind::Directory)) => Some(dir),
                    Some(_) => {
                        return Err(SnapshotError::Path {
                            path: shown(&path_of(above)),
                            why: "it is no directory",
                        });
                    }
                    // The directories above come back with what is in them, where they were.
                    None if request.to.is_none() => None,
                    None => {
                        return Err(SnapshotError::Path {
                            path: shown(&path_of(above)),
                            why: "there is no such directory to restore to",
                        });
                    }
                };
                if dir.is_none() {
                    planning.ways(above).await?;
                }
                let found = Found {
                    name: name.clone(),
                    ..source
                };
                planning.entry(found, &path_of(above), dir).await?;
            }
        }
        let (steps, looked_at) = (planning.steps, planning.looked_at);
        Ok(RestorePlan {
            snapshot: request.snapshot,
            steps,
            looked_at,
        })
    }
}

/// Whether a file can become what it was without being made anew.
fn is_fitting(there: &Node, old: &Node) -> bool {
    match (there, old) {
        (Node::File, Node::File) | (Node::Directory, Node::Directory) => true,
        (there, old) => there == old,
    }
}
