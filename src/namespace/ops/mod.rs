//! Operations of a local writer. Each is checked against what the tree shows, and becomes one
//! draft, all of whose writes take effect together.
//!
//! An operation that meets something contested first makes it plain: whatever is shown by a
//! conflict name, or came back without an entry, gets an entry of its own. So every operation means
//! what the user saw, and disappears nothing that the user did not name.

mod commit;
mod content;
mod create;
mod remove;
mod rename;
mod resolve;
mod settle;

use std::collections::BTreeMap;

use super::clock::{Hlc, Stamp};
use super::delta::{Draft, Write};
use super::error::{OpError, StateError};
use super::id::{Dot, Ino, Kind, Name, WriterId};
use super::index::{self, Touched};
use super::key::{self, Key};
use super::merge;
use super::row::{self, Sibling};
use super::state::{self, Rows, Work};
use super::value::{Attrs, Content, Entry, Field, Home, Node, Value};
use super::version::VersionVector;
use super::view::{self, Shown, View, place};
use crate::dag::Timestamp;

pub use commit::Committed;
pub use content::AttrChange;
pub use create::NewNode;
pub use remove::Removed;
pub use rename::RenameMode;
pub use settle::DroppedContent;

/// When an operation takes place.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The writer's clock, ticked for this operation.
    pub hlc: Hlc,
    /// The time that files show.
    pub time: Timestamp,
}

/// One operation being made. After an error it is to be dropped.
pub struct Edit<'a> {
    work: Work<'a>,
    writer: WriterId,
    now: Now,
    context: VersionVector,
    writes: BTreeMap<Vec<u8>, Write>,
    touched: Touched,
    keeps_newest: Option<&'a dyn Fn(&[u8]) -> bool>,
    dropped: Vec<DroppedContent>,
}

/// What a name was found to lead to, contested no more.
#[derive(Clone, Debug)]
struct Found {
    ino: Ino,
    kind: Kind,
    merged: Vec<Ino>,
    /// Directories that have the entry.
    dirs: Vec<Ino>,
}

impl<'a> Edit<'a> {
    /// An operation of `writer` on rows that show all its drafts.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn new(rows: &'a dyn Rows, writer: WriterId, now: Now) -> Result<Edit<'a>, StateError> {
        Ok(Edit {
            work: Work::new(rows),
            writer,
            now,
            context: state::version(rows)?,
            writes: BTreeMap::new(),
            touched: Touched::default(),
            keeps_newest: None,
            dropped: Vec::new(),
        })
    }

    /// Where `rule` says so of a file's path (names with `/` between them, from the top one), contents that lost against
    /// a later one are let go instead of becoming files of their own.
    pub fn keep_newest(&mut self, rule: &'a dyn Fn(&[u8]) -> bool) {
        self.keeps_newest = Some(rule);
    }

    /// Contents that were let go because of that.
    pub fn dropped(&self) -> &[DroppedContent] {
        &self.dropped
    }

    /// The draft. Empty if the operation changed nothing.
    pub fn finish(self) -> Draft {
        Draft {
            context: self.context,
            hlc: self.now.hlc,
            writes: self.writes.into_values().collect(),
        }
    }

    const fn stamp(&self) -> Stamp {
        Stamp {
            hlc: self.now.hlc,
            writer: self.writer,
        }
    }

    /// Replaces the values of a row by new ones.
    fn put(&mut self, key: Key, values: Vec<Value>) -> Result<(), OpError> {
        for value in &values {
            value.check(&key).map_err(|_| {
                OpError::Invalid("a name, mode, time, target or size that cannot be")
            })?;
        }
        self.write(Write {
            key,
            keeps: Vec::new(),
            values,
        })
    }

    /// Removes all values of a row that `keeps` does not name.
    fn keep_only(&mut self, key: Key, mut keeps: Vec<Stamp>) -> Result<(), OpError> {
        keeps.sort_unstable();
        keeps.dedup();
        let row = self.work.siblings(&key)?;
        if row
            .iter()
            .all(|sibling| keeps.binary_search(&sibling.stamp()).is_ok())
        {
            return Ok(());
        }
        self.write(Write {
            key,
            keeps,
            values: Vec::new(),
        })
    }

    fn clear(&mut self, key: Key) -> Result<(), OpError> {
        if self.work.siblings(&key)?.is_empty() {
            return Ok(());
        }
        self.put(key, Vec::new())
    }

    fn write(&mut self, mut write: Write) -> Result<(), OpError> {
        // What this operation itself wrote is not there for others to keep: it is written again.
        if let Ok(at) = write.keeps.binary_search(&self.stamp())
            && let Some(before) = self.writes.get(&write.key.encode())
        {
            write.keeps.remove(at);
            let mut values = before.values.clone();
            values.retain(|value| !write.values.contains(value));
            values.append(&mut write.values);
            write.values = values;
        }
        let added = write
            .values
            .iter()
            .enumerate()
            .map(|(index, value)| Sibling {
                dot: Dot {
                    writer: self.writer,
                    // Only has to differ from others in this row; the draft has no dots yet.
                    counter: u64::MAX - write.values.len() as u64 + index as u64,
                },
                hlc: self.now.hlc,
                value: value.clone(),
            });
        let added = added.collect();
        merge::replace(&mut self.work, &mut self.touched, &write, added, &|_| true)?;
        self.writes.insert(write.key.encode(), write);
        Ok(())
    }

    /// Makes the view show what was written so far.
    fn refresh(&mut self) -> Result<(), OpError> {
        let touched = std::mem::take(&mut self.touched);
        Ok(index::update(&mut self.work, touched)?)
    }

    fn view(&self) -> Result<View<'_>, StateError> {
        View::new(&self.work)
    }

    /// Attributes of a file that is there.
    fn attrs(&self, ino: Ino) -> Result<Attrs, OpError> {
        view::attrs(&self.work, ino)?.ok_or(OpError::Gone)
    }

    /// Where a directory is, for what is put into it.
    fn home_of(&self, dir: Ino) -> Result<Option<Home>, OpError> {
        let Some((parent, name)) = place::shown_at(&self.work, dir)? else {
            return Ok(None);
        };
        let attrs = self.attrs(dir)?;
        Ok(Some(home(parent, name, &attrs)))
    }

    /// The directories shown as one with `dir`, all of them with entries; the first takes new names.
    fn host(&mut self, dir: Ino) -> Result<Vec<Ino>, OpError> {
        if self.attrs(dir)?.node != Node::Directory {
            return Err(OpError::NotADirectory);
        }
        if self.view()?.is_plain() {
            return Ok(vec![dir]);
        }
        self.anchor(dir)?;
        Ok(self.view()?.group(dir)?)
    }

    /// What a name leads to, made plain.
    fn find(&mut self, group: &[Ino], name: &Name) -> Result<Option<Found>, OpError> {
        let Some(shown) = self.view()?.lookup_in(group, name)? else {
            return Ok(None);
        };
        let is_plain = self.view()?.is_plain() || {
            let all = view::resolve(&self.work, group, &shown.base)?;
            all.len() == 1 && shown.spots.iter().all(|spot| spot.is_entry)
        };
        if is_plain {
            return Ok(Some(found(shown)));
        }
        self.settle(group, &shown.base)?;
        let shown = self.view()?.lookup_in(group, name)?;
        Ok(shown.map(found))
    }

    fn must_find(&mut self, group: &[Ino], name: &Name) -> Result<Found, OpError> {
        self.find(group, name)?.ok_or(OpError::NotFound)
    }

    fn entry(&self, dir: Ino, child: Ino, kind: Kind) -> Result<Value, OpError> {
        let home = self.home_of(dir)?;
        Ok(Value::Entry(Entry { child, kind, home }))
    }

    /// Writes a file's own rows anew, so that nobody removes them who did not see this operation.
    fn reassert(&mut self, ino: Ino, home: Option<Home>) -> Result<(), OpError> {
        let mut attrs = self.attrs(ino)?;
        let at = self.now.hlc;
        attrs.ctime.set(at, self.now.time);
        if attrs.node == Node::Directory
            && let Some(home) = home.clone()
        {
            attrs.home.set(at, Some(home));
        }
        let is_file = attrs.node == Node::File;
        self.put(Key::Attrs(ino), vec![Value::Attrs(attrs)])?;
        if is_file && let Some(mut content) = self.content(ino)? {
            if let Some(home) = home {
                content.home = home;
            }
            // Contents that compete with it are not this operation's business.
            let key = Key::Content(ino);
            let row = self.work.siblings(&key)?;
            let is_other = |sibling: &&Sibling| match &sibling.value {
                Value::Content(other) => !content.edits.includes(&other.edits),
                _ => false,
            };
            let mut keeps: Vec<Stamp> = row.iter().filter(is_other).map(Sibling::stamp).collect();
            keeps.sort_unstable();
            keeps.dedup();
            self.write(Write {
                key,
                keeps,
                values: vec![Value::Content(content)],
            })?;
        }
        for name in self.view()?.xattrs(ino)? {
            let key = Key::Xattr(ino, name);
            let row = self.work.siblings(&key)?;
            if let Some(value) = row::xattr(&row).cloned() {
                self.put(key, vec![Value::Xattr(value)])?;
            }
        }
        Ok(())
    }

    fn content(&self, ino: Ino) -> Result<Option<Content>, StateError> {
        let row = self.work.siblings(&Key::Content(ino))?;
        Ok(row::contents(&row)
            .first()
            .map(|content| (*content).clone()))
    }

    /// A field set by this operation.
    const fn field<T>(&self, value: T) -> Field<T> {
        Field {
            at: self.now.hlc,
            value,
        }
    }
}

fn home(parent: Ino, name: Name, attrs: &Attrs) -> Home {
    Home {
        parent,
        name,
        mode: attrs.mode.value,
        uid: attrs.uid.value,
        gid: attrs.gid.value,
    }
}

fn found(shown: Shown) -> Found {
    Found {
        ino: shown.ino,
        kind: shown.kind,
        merged: shown.merged,
        dirs: shown.spots.into_iter().map(|spot| spot.dir).collect(),
    }
}

/// A name for a new entry.
pub(super) fn new_name(bytes: &[u8]) -> Result<Name, OpError> {
    if bytes.len() > crate::base::limits::NAME_MAX_BYTES {
        return Err(OpError::NameTooLong);
    }
    match bytes {
        b"." | b".." => Err(OpError::Exists),
        _ => Name::new(bytes).map_err(OpError::Invalid),
    }
}

/// All rows of a file itself.
fn own_rows(rows: &dyn Rows, ino: Ino) -> Result<Vec<Key>, StateError> {
    let found = state::keys_below(rows, &key::rows_of(ino), usize::MAX)?;
    let read =
        |key: &Vec<u8>| Key::decode(key).map_err(|error| StateError::corrupt("a key", error));
    let keys: Vec<Key> = found.iter().map(read).collect::<Result<_, _>>()?;
    let is_own = |key: &Key| !matches!(key, Key::Changed(_));
    Ok(keys.into_iter().filter(is_own).collect())
}
