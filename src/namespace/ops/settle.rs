//! Making plain what is contested: everything shown gets an entry of its own.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::create::first;
use super::{Edit, home};
use crate::namespace::clock::Stamp;
use crate::namespace::error::OpError;
use crate::namespace::id::{Ino, Kind, Name};
use crate::namespace::key::Key;
use crate::namespace::row;
use crate::namespace::state::Rows;
use crate::namespace::value::{Content, Node, Value};
use crate::namespace::version::VersionVector;
use crate::namespace::view::{self, CONFLICT_XATTR, Shown, place};

/// A content that lost, and that a rule let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedContent {
    /// The file, by its names from the top directory, with `/` between them.
    pub path: Vec<u8>,
    /// When and by whom the content was written.
    pub edited: Stamp,
}

impl Edit<'_> {
    /// Gives everything that is shown in `parent` because of the name `base` an entry of its own.
    ///
    /// # Errors
    /// [`OpError::Gone`], [`OpError::NotADirectory`].
    pub fn settle_name(&mut self, parent: Ino, base: &Name) -> Result<(), OpError> {
        let group = self.host(parent)?;
        self.settle(&group, base)
    }

    /// The same, in directories that are shown as one.
    pub(super) fn settle(&mut self, group: &[Ino], base: &Name) -> Result<(), OpError> {
        let all = view::resolve(&self.work, group, base)?;
        let is_kept = |shown: &Shown| shown.copy.is_none() && shown.name == *base;
        let rule = self.drops(group, base, &all)?;
        for shown in &all {
            match (shown.copy, &rule) {
                (Some(edited), Some(path)) => self.dropped.push(DroppedContent {
                    path: path.clone(),
                    edited,
                }),
                (Some(copy), None) => self.split(group, shown, copy)?,
                (None, _) => {}
            }
        }
        // Contents that lost are files of their own by now. They were shown at one of the file's names, which need
        // not be this one.
        for shown in all.iter().filter(|shown| shown.copy.is_some()) {
            self.keep_first_content(shown.ino)?;
        }
        for shown in all.iter().filter(|shown| shown.copy.is_none()) {
            self.give_entry(group, shown)?;
        }
        // What keeps the name keeps its entries; others go from it.
        let stay: BTreeSet<Ino> = all
            .iter()
            .filter(|shown| is_kept(shown))
            .flat_map(|shown| shown.merged.iter().copied())
            .collect();
        for dir in group {
            let key = Key::Entry(*dir, base.clone());
            if self.writes.contains_key(&key.encode()) {
                continue;
            }
            let row = self.work.siblings(&key)?;
            let stays = row::entries(&row).filter(|(_, entry)| stay.contains(&entry.child));
            let stays = stays.map(|(sibling, _)| sibling.stamp()).collect();
            self.keep_only(key, stays)?;
        }
        self.refresh()
    }

    /// The path of a file of which only the newest content is to stay. None if all are.
    fn drops(&self, group: &[Ino], base: &Name, all: &[Shown]) -> Result<Option<Vec<u8>>, OpError> {
        let (Some(rule), Some(dir)) = (self.keeps_newest, group.first()) else {
            return Ok(None);
        };
        if all.iter().all(|shown| shown.copy.is_none()) {
            return Ok(None);
        }
        let Some(mut way) = self.view()?.path(*dir)? else {
            return Ok(None);
        };
        way.push(base.clone());
        let names: Vec<&[u8]> = way.iter().map(Name::bytes).collect();
        let path = names.join(&b'/');
        Ok(rule(&path).then_some(path))
    }

    /// An entry for what has none under the name that it is shown by.
    fn give_entry(&mut self, group: &[Ino], shown: &Shown) -> Result<(), OpError> {
        let has_entry = shown.spots.iter().any(|spot| spot.is_entry);
        if shown.merged.contains(&Ino::LOST) || (has_entry && !shown.is_contested()) {
            return Ok(());
        }
        let dir = first(group)?;
        let mut entries = Vec::new();
        for ino in &shown.merged {
            entries.push(self.entry(dir, *ino, shown.kind)?);
            // Who removes it now without having seen this must not leave a name without a file.
            let home = home(dir, shown.name.clone(), &self.attrs(*ino)?);
            self.reassert(*ino, Some(home))?;
        }
        self.put(Key::Entry(dir, shown.name.clone()), entries)?;
        match shown.kind {
            // Nobody has decided yet which of them stays.
            Kind::File if shown.is_contested() => self.mark(shown.ino, &shown.base),
            _ => Ok(()),
        }
    }

    /// Says in a file's attributes that it competed for a name.
    fn mark(&mut self, ino: Ino, base: &Name) -> Result<(), OpError> {
        let mark = Name::xattr(CONFLICT_XATTR).map_err(OpError::Invalid)?;
        let of = Bytes::copy_from_slice(base.bytes());
        self.put(Key::Xattr(ino, mark), vec![Value::Xattr(self.field(of))])
    }

    /// Makes a file of a content that lost. Whoever does the same makes the same file.
    fn split(&mut self, group: &[Ino], shown: &Shown, copy: Stamp) -> Result<(), OpError> {
        let row = self.work.siblings(&Key::Content(shown.ino))?;
        let all = row::contents(&row);
        let Some(content) = all.into_iter().find(|content| content.edited == copy) else {
            return Ok(());
        };
        let content = content.clone();
        let dir = first(group)?;
        let ino = ino_of_copy(shown.ino, &content.edits);
        let attrs = self.attrs(shown.ino)?;
        let entry = self.entry(dir, ino, shown.kind)?;
        let content = Content {
            home: home(dir, shown.name.clone(), &attrs),
            ..content
        };
        self.put(Key::Entry(dir, shown.name.clone()), vec![entry])?;
        self.put(Key::Attrs(ino), vec![Value::Attrs(attrs)])?;
        self.put(Key::Content(ino), vec![Value::Content(content)])?;
        // Access control lists are among them: without them the mode would mean something else.
        for name in self.view()?.xattrs(shown.ino)? {
            let row = self.work.siblings(&Key::Xattr(shown.ino, name.clone()))?;
            if let Some(value) = row::xattr(&row).cloned() {
                self.put(Key::Xattr(ino, name), vec![Value::Xattr(value)])?;
            }
        }
        self.mark(ino, &shown.base)
    }

    /// Takes away the contents that lost, which are files of their own now.
    fn keep_first_content(&mut self, ino: Ino) -> Result<(), OpError> {
        let key = Key::Content(ino);
        let row = self.work.siblings(&key)?;
        let Some(version) = row::contents(&row).first().map(|first| first.edits.clone()) else {
            return Ok(());
        };
        let stays = row.iter().filter(
            |sibling| matches!(&sibling.value, Value::Content(content) if content.edits == version),
        );
        let stays = stays.map(|sibling| sibling.stamp()).collect();
        self.keep_only(key, stays)
    }

    /// Makes a file plain whose content is contested, or that came back without an entry.
    ///
    /// # Errors
    /// [`OpError::Gone`].
    pub fn settle_file(&mut self, ino: Ino) -> Result<(), OpError> {
        if self.view()?.is_plain() {
            return Ok(());
        }
        let row = self.work.siblings(&Key::Content(ino))?;
        let is_contested = row::contents(&row).len() > 1;
        let is_guest = place::stored(&self.work, ino)?.is_some();
        if !is_contested && !is_guest {
            return Ok(());
        }
        let Some((dir, name)) = place::first_name(&self.work, ino)? else {
            return Err(OpError::Gone);
        };
        let group = self.host(dir)?;
        self.settle(&group, &name)
    }

    /// Gives a directory that came back without an entry one, and those above it.
    pub(super) fn anchor(&mut self, dir: Ino) -> Result<(), OpError> {
        let mut way = Vec::new();
        let mut seen = BTreeSet::new();
        let mut at = dir;
        while !at.is_reserved() && seen.insert(at) {
            let Some((parent, name)) = place::shown_at(&self.work, at)? else {
                return Err(OpError::Gone);
            };
            let stored = place::stored(&self.work, at)?;
            if stored.is_some_and(|place| place.is_guest) {
                way.push((parent, name));
            }
            at = parent;
        }
        for (parent, name) in way.into_iter().rev() {
            let group = self.view()?.group(parent)?;
            self.settle(&group, &name)?;
        }
        if self.attrs(dir)?.node != Node::Directory {
            return Err(OpError::NotADirectory);
        }
        Ok(())
    }
}

/// The file that a content becomes when it is split off: the same wherever that is done.
fn ino_of_copy(ino: Ino, edits: &VersionVector) -> Ino {
    let mut hasher = blake3::Hasher::new_derive_key("cairn 2026 conflict copy of a file");
    hasher.update(&ino.0);
    for (writer, count) in edits.iter() {
        hasher.update(writer.peer.as_bytes());
        hasher.update(&writer.incarnation.to_le_bytes());
        hasher.update(&count.to_le_bytes());
    }
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Ino(bytes)
}
