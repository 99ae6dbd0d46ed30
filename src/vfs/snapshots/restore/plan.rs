//! Finding out what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    DEPTH_MAX, Found, PAGE, RestoreAction, RestoreStep, STEPS_MAX, is_fitting, join, path_of,
    shown, whole, xattrs_of,
};
use crate::namespace::{Ino, Kind, Name, Stat, StateError, View};
use crate::vfs::inner::Inner;
use crate::vfs::snapshots::SnapshotError;
use crate::vfs::snapshots::tree::{Opened, is_missing};

/// What a directory of a snapshot has, some of it.
fn list(
    view: &View<'_>,
    dir: Ino,
    after: Option<&Name>,
) -> Result<(Vec<Found>, Option<Name>), StateError> {
    let (page, next) = view.list(dir, after, PAGE)?;
    let mut found = Vec::with_capacity(page.len());
    let mut missed = None;
    for entry in page {
        match whole(view, entry.name, entry.ino) {
            Ok(one) => found.extend(one),
            Err(error) if is_missing(&error) => missed = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missed {
        Some(error) => Err(error),
        None => Ok((found, next)),
    }
}

/// Whether a file has the content that it had.
fn is_same_content(one: &Stat, other: &Stat) -> bool {
    match (&one.content, &other.content) {
        (Some(one), Some(other)) => {
            let is_version = one.edits == other.edits && one.edits.iter().next().is_some();
            is_version || one.size == other.size && one.body == other.body
        }
        (None, None) => one.node == other.node,
        _ => false,
    }
}

fn are_same_attrs(one: &Stat, other: &Stat) -> bool {
    one.mode == other.mode
        && one.uid == other.uid
        && one.gid == other.gid
        && one.mtime == other.mtime
}

/// A directory that is being looked through.
struct Open {
    path: Vec<u8>,
    source: Ino,
    /// The directory in the live tree, if there is one.
    live: Option<Ino>,
    /// Whether its attributes are set at the end.
    is_to_set: bool,
    /// How many steps there were when it was begun.
    before: usize,
    entries: std::vec::IntoIter<Found>,
    next: Option<Name>,
    has_more: bool,
    seen: BTreeSet<Name>,
}

/// A plan being made.
pub(super) struct Planning<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) opened: &'a Opened,
    pub(super) delete: bool,
    pub(super) steps: Vec<RestoreStep>,
    pub(super) looked_at: u64,
    /// Of files with several names in the snapshot: where the first of them is.
    pub(super) firsts: BTreeMap<Ino, Vec<u8>>,
    /// Files of the live tree with several names, and which of the snapshot each becomes.
    pub(super) taken: BTreeMap<Ino, Ino>,
}

impl Planning<'_> {
    fn step(
        &mut self,
        path: Vec<u8>,
        action: RestoreAction,
        (source, bytes): (Ino, u64),
    ) -> Result<&mut RestoreStep, SnapshotError> {
        if self.steps.len() >= STEPS_MAX {
            return Err(SnapshotError::Path {
                path: shown(&path),
                why: "a million files and more: restore it in parts",
            });
        }
        self.steps.push(RestoreStep {
            path,
            action,
            bytes,
            source,
            first: None,
            is_anew: false,
        });
        let last = self.steps.last_mut();
        last.ok_or(SnapshotError::Damaged("a plan without steps"))
    }

    /// Directories that are to be made again so that something can be where it was.
    pub(super) async fn ways(&mut self, above: &[Name]) -> Result<(), SnapshotError> {
        for depth in 1..=above.len() {
            let path = above.get(..depth).unwrap_or_default();
            if self.inner.live_at(path)?.is_none() {
                let old = self.inner.old_at(self.opened, path).await?;
                self.step(path_of(path), RestoreAction::Create, (old.ino, 0))?;
            }
        }
        Ok(())
    }

    /// What one entry needs, without what is below it. Answers the directory in the live tree, for one to go on with.
    fn one(
        &mut self,
        found: &Found,
        path: &[u8],
        dir: Option<Ino>,
    ) -> Result<Option<Ino>, SnapshotError> {
        self.looked_at += 1;
        let kind = found.stat.node.kind();
        let bytes = match kind {
            Kind::File => found.stat.size(),
            _ => 0,
        };
        let there = match dir {
            Some(dir) => self.inner.live_whole(&found.name, dir)?,
            None => None,
        };
        if kind != Kind::Directory && found.stat.links > 1 {
            if let Some(first) = self.firsts.get(&found.ino).cloned() {
                let is_linked = there
                    .as_ref()
                    .is_some_and(|there| self.taken.get(&there.ino) == Some(&found.ino));
                if !is_linked {
                    self.in_the_way(there.as_ref(), path)?;
                    let link = self.step(path.to_vec(), RestoreAction::Link, (found.ino, 0))?;
                    link.first = Some(first);
                }
                return Ok(None);
            }
            self.firsts.insert(found.ino, path.to_vec());
        }
        let Some(there) = there else {
            self.step(path.to_vec(), RestoreAction::Create, (found.ino, bytes))?;
            return Ok(None);
        };
        let is_fitting = is_fitting(&there.stat.node, &found.stat.node);
        let mut is_anew = false;
        if is_fitting && kind != Kind::Directory && there.stat.links > 1 {
            // Two files of the snapshot cannot both become one.
            let known = *self.taken.entry(there.ino).or_insert(found.ino);
            is_anew = known != found.ino;
        }
        if !is_fitting || is_anew {
            self.in_the_way(Some(&there), path)?;
            let step = self.step(path.to_vec(), RestoreAction::Replace, (found.ino, bytes))?;
            step.is_anew = true;
            return Ok(None);
        }
        if kind == Kind::Directory {
            return Ok(Some(there.ino));
        }
        if !is_same_content(&there.stat, &found.stat) {
            self.step(path.to_vec(), RestoreAction::Replace, (found.ino, bytes))?;
        } else if !are_same_attrs(&there.stat, &found.stat) || there.xattrs != found.xattrs {
            self.step(path.to_vec(), RestoreAction::Attributes, (found.ino, 0))?;
        }
        Ok(None)
    }

    /// A directory in the place of something else goes only if that was asked for.
    fn in_the_way(&mut self, there: Option<&Found>, path: &[u8]) -> Result<(), SnapshotError> {
        let Some(there) = there else {
            return Ok(());
        };
        if there.stat.node.kind() == Kind::Directory {
            if !self.delete {
                return Err(SnapshotError::Path {
                    path: shown(path),
                    why: "a directory is there now that is none in the snapshot; move it away, or remove it with --delete",
                });
            }
            self.step(path.to_vec(), RestoreAction::Remove, (there.ino, 0))?;
        }
        Ok(())
    }

    /// An entry with everything below it.
    pub(super) async fn entry(
        &mut self,
        found: Found,
        above: &[u8],
        dir: Option<Ino>,
    ) -> Result<(), SnapshotError> {
        let path = join(above, &found.name);
        let live = self.one(&found, &path, dir)?;
        if found.stat.node.kind() == Kind::Directory {
            self.walk(found, path, live).await?;
        }
        Ok(())
    }

    fn begin(
        &self,
        found: &Found,
        path: Vec<u8>,
        live: Option<Ino>,
    ) -> Result<Open, SnapshotError> {
        let is_to_set = match live {
            None => true,
            Some(live) => {
                let _core = self.inner.core();
                let stat = self.inner.view(|view| view.stat_ino(live))?;
                let xattrs = self.inner.view(|view| xattrs_of(view, live))?;
                let is_same = stat.is_some_and(|stat| are_same_attrs(&stat, &found.stat));
                !is_same || xattrs != found.xattrs
            }
        };
        Ok(Open {
            path,
            source: found.ino,
            live,
            is_to_set,
            before: self.steps.len(),
            entries: Vec::new().into_iter(),
            next: None,
            has_more: true,
            seen: BTreeSet::new(),
        })
    }

    /// Everything below a directory, and the directory itself once that is done.
    pub(super) async fn walk(
        &mut self,
        top: Found,
        path: Vec<u8>,
        live: Option<Ino>,
    ) -> Result<(), SnapshotError> {
        let mut open = vec![self.begin(&top, path, live)?];
        while let Some(mut dir) = open.pop() {
            if let Some(found) = dir.entries.next() {
                let path = join(&dir.path, &found.name);
                if self.delete && dir.live.is_some() {
                    dir.seen.insert(found.name.clone());
                }
                let live = self.one(&found, &path, dir.live)?;
                open.push(dir);
                if found.stat.node.kind() == Kind::Directory {
                    if open.len() > DEPTH_MAX {
                        let why = "directories lie too deep in one another";
                        let path = shown(&path);
                        return Err(SnapshotError::Path { path, why });
                    }
                    let below = self.begin(&found, path, live)?;
                    open.push(below);
                }
                continue;
            }
            if dir.has_more {
                let (source, after) = (dir.source, dir.next.take());
                let (found, next) = self
                    .inner
                    .look_into(self.opened, move |view| list(view, source, after.as_ref()))
                    .await?;
                dir.entries = found.into_iter();
                dir.has_more = next.is_some();
                dir.next = next;
                open.push(dir);
                continue;
            }
            if let Some(live) = dir.live.filter(|_| self.delete) {
                for besides in self.inner.live_besides(live, &dir.seen)? {
                    let path = join(&dir.path, &besides.name);
                    self.step(path, RestoreAction::Remove, (besides.ino, 0))?;
                }
            }
            // What came or went in it has changed its times.
            if dir.is_to_set || self.steps.len() > dir.before {
                self.step(dir.path, RestoreAction::Attributes, (dir.source, 0))?;
            }
        }
        Ok(())
    }
}
