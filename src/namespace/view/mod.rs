//! The tree of files that the rows show. A function of the rows alone: two replicas with the same
//! rows show the same.
//!
//! 1. Of entries with one name the one written last keeps it; others are shown by a conflict name.
//!    Where all lead to directories, these are shown as one.
//! 2. Of contents of one file that were written at the same time the last is the file's; others
//!    are shown beside it by a conflict name.
//! 3. A directory with several entries is shown at the newest. A circle is opened at its newest
//!    link, and that directory is shown where it was before.
//! 4. A directory that was removed and has something in it, and a file that was removed and edited
//!    at the same time, are shown where they were, else in `lost+found`.
//!
//! Where nobody disagreed, a look-up reads one row and a listing is one scan.

mod disputes;
mod names;
pub(super) mod place;
mod records;
mod resolve;

use std::collections::BTreeSet;

use bytes::Bytes;

use super::clock::{Hlc, Stamp};
use super::error::StateError;
use super::id::{Ino, Name};
use super::key::{self, Key};
use super::row;
use super::state::{self, Rows, Totals};
use super::value::{Attrs, Body, Content, Field, Home, Node};
use super::version::VersionVector;
use crate::base::PeerId;
use crate::dag::Timestamp;

pub use disputes::{CONFLICT_XATTR, Dispute, DisputeKind, Disputes, Party};
pub(super) use resolve::resolve;
pub use resolve::{Shown, Spot};

/// What a file is, all told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is, with a link's target and a device's number.
    pub node: Node,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead to it; for a directory, 2 and one for each directory in it.
    pub links: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Content of a regular file.
    pub content: Option<Content>,
}

impl Stat {
    /// Bytes of a file's content or of a link's target.
    pub fn size(&self) -> u64 {
        match (&self.content, &self.node) {
            (Some(content), _) => content.size,
            (None, Node::Symlink(target)) => target.len() as u64,
            _ => 0,
        }
    }
}

/// The files of a volume, read from its rows as they were when this was made.
#[derive(Clone, Copy)]
pub struct View<'a> {
    rows: &'a dyn Rows,
    totals: Totals,
}

impl<'a> View<'a> {
    /// Looks at rows.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn new(rows: &'a dyn Rows) -> Result<View<'a>, StateError> {
        let totals = state::totals(rows)?;
        Ok(View { rows, totals })
    }

    /// Whether writers disagreed about anything.
    pub const fn is_plain(&self) -> bool {
        self.totals.odd == 0
    }

    fn is_odd(&self, dir: Ino, name: &Name) -> Result<bool, StateError> {
        Ok(!self.is_plain() && self.rows.get(&key::odd(dir, name))?.is_some())
    }

    /// What a name in a directory leads to.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn lookup(&self, dir: Ino, name: &Name) -> Result<Option<Shown>, StateError> {
        if self.is_plain() {
            return self.simple(dir, name);
        }
        self.lookup_in(&self.group(dir)?, name)
    }

    /// The same, in directories that are shown as one.
    pub(super) fn lookup_in(
        &self,
        group: &[Ino],
        name: &Name,
    ) -> Result<Option<Shown>, StateError> {
        let all = self.shown_for(group, name)?;
        if let Some(shown) = all.into_iter().find(|shown| shown.name == *name) {
            return Ok(Some(shown));
        }
        // Whatever is shown because of another name has a conflict name.
        if !names::has_mark(name) {
            return Ok(None);
        }
        for base in self.odd_names(group)? {
            let all = resolve(self.rows, group, &base)?;
            if let Some(shown) = all.into_iter().find(|shown| shown.name == *name) {
                return Ok(Some(shown));
            }
        }
        Ok(None)
    }

    fn odd_names(&self, group: &[Ino]) -> Result<BTreeSet<Name>, StateError> {
        let mut names = BTreeSet::new();
        if self.is_plain() {
            return Ok(names);
        }
        for dir in group {
            for key in state::keys_below(self.rows, &key::odd_of(*dir), usize::MAX)? {
                names.insert(name_in(&key)?);
            }
        }
        if group.len() > 1 {
            // Names that two of the directories have are as good as odd.
            let mut seen = BTreeSet::new();
            for dir in group {
                for key in state::keys_below(self.rows, &key::entries_of(*dir), usize::MAX)? {
                    let name = name_in(&key)?;
                    if !seen.insert(name.clone()) {
                        names.insert(name);
                    }
                }
            }
        }
        Ok(names)
    }

    /// All that is shown because of one name.
    fn shown_for(&self, group: &[Ino], base: &Name) -> Result<Vec<Shown>, StateError> {
        match group {
            [dir] if !self.is_odd(*dir, base)? => {
                Ok(self.simple(*dir, base)?.into_iter().collect())
            }
            _ => resolve(self.rows, group, base),
        }
    }

    fn simple(&self, dir: Ino, name: &Name) -> Result<Option<Shown>, StateError> {
        let row = self.rows.siblings(&Key::Entry(dir, name.clone()))?;
        let first = row::entries(&row).next();
        Ok(first.map(|(_, entry)| Shown::plain(dir, name.clone(), entry.child, entry.kind)))
    }

    /// The directories that are shown as one with `dir`; usually itself alone. The first takes new
    /// entries.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn group(&self, dir: Ino) -> Result<Vec<Ino>, StateError> {
        if self.is_plain() {
            return Ok(vec![dir]);
        }
        let mut way = Vec::new();
        let mut seen = BTreeSet::from([dir]);
        let mut at = dir;
        while at != Ino::ROOT {
            let Some((parent, name)) = place::shown_at(self.rows, at)? else {
                break;
            };
            way.push((at, name));
            if !seen.insert(parent) {
                return Err(StateError::corrupt(
                    "the directories",
                    "they run in a circle",
                ));
            }
            at = parent;
        }
        let mut group = vec![at];
        for (child, name) in way.into_iter().rev() {
            let is_merged = group.len() > 1
                || match group.first() {
                    Some(dir) => self.is_odd(*dir, &name)?,
                    None => false,
                };
            let mut below = vec![child];
            if is_merged {
                let all = resolve(self.rows, &group, &name)?;
                if let Some(shown) = all.into_iter().find(|s| s.merged.contains(&child)) {
                    below = shown.merged;
                }
            }
            group = below;
        }
        Ok(group)
    }

    /// What a directory shows because of the names after `after`, in their order, until there are
    /// `limit` or slightly more. With the name to go on after, if there may be more.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn list(
        &self,
        dir: Ino,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<(Vec<Shown>, Option<Name>), StateError> {
        let group = self.group(dir)?;
        if let ([dir], true) = (group.as_slice(), self.is_plain()) {
            return self.list_plain(*dir, after, limit);
        }
        let mut all: Vec<Shown> = Vec::new();
        let mut last = after.cloned();
        while all.len() < limit {
            let (names, has_more) = self.names_after(&group, last.as_ref(), limit)?;
            for name in names {
                all.extend(self.shown_for(&group, &name)?);
                last = Some(name);
                if all.len() >= limit {
                    return Ok((all, last));
                }
            }
            if !has_more {
                return Ok((all, None));
            }
        }
        Ok((all, last))
    }

    fn list_plain(
        &self,
        dir: Ino,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<(Vec<Shown>, Option<Name>), StateError> {
        let found = self.scan_after(&key::entries_of(dir), after, limit)?;
        let mut all = Vec::with_capacity(found.len());
        for (key, value) in &found {
            let name = name_in(key)?;
            let key = Key::Entry(dir, name.clone());
            let row =
                row::decode(&key, value).map_err(|error| StateError::corrupt("a row", error))?;
            if let Some((_, entry)) = row::entries(&row).next() {
                all.push(Shown::plain(dir, name, entry.child, entry.kind));
            }
        }
        let next = all.last().filter(|_| found.len() == limit);
        let next = next.map(|shown| shown.name.clone());
        Ok((all, next))
    }

    /// The next names of which something may be shown.
    fn names_after(
        &self,
        group: &[Ino],
        after: Option<&Name>,
        limit: usize,
    ) -> Result<(Vec<Name>, bool), StateError> {
        let mut names = BTreeSet::new();
        let mut has_more = false;
        for dir in group {
            for prefix in [key::entries_of(*dir), key::odd_of(*dir)] {
                let found = self.scan_after(&prefix, after, limit)?;
                has_more |= found.len() == limit;
                for (key, _) in &found {
                    names.insert(name_in(key)?);
                }
            }
        }
        has_more |= names.len() > limit;
        Ok((names.into_iter().take(limit).collect(), has_more))
    }

    fn scan_after(
        &self,
        prefix: &[u8],
        after: Option<&Name>,
        limit: usize,
    ) -> Result<state::Pairs, StateError> {
        let start = match after {
            Some(name) => state::after(&[prefix, name.bytes()].concat()),
            None => prefix.to_vec(),
        };
        self.rows.scan(&start, &state::end_of(prefix), limit)
    }

    /// Whether a directory shows nothing.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn is_empty(&self, dir: Ino) -> Result<bool, StateError> {
        Ok(self.list(dir, None, 1)?.0.is_empty())
    }

    /// The directory that shows a directory, and by which base name. None for the top directory,
    /// and for one that is gone.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn parent(&self, dir: Ino) -> Result<Option<(Ino, Name)>, StateError> {
        place::shown_at(self.rows, dir)
    }

    /// Directory and name under which a file of any kind is shown; of several names the same one everywhere. None for the
    /// top directory and for what is gone.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn home_of(&self, ino: Ino) -> Result<Option<(Ino, Name)>, StateError> {
        place::first_name(self.rows, ino)
    }

    /// Everything about a file; `copy` picks the content of a conflict copy. None if it is gone.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn stat(&self, shown: &Shown) -> Result<Option<Stat>, StateError> {
        let Some(mut stat) = self.stat_ino(shown.ino)? else {
            return Ok(None);
        };
        if let Some(copy) = shown.copy {
            let row = self.rows.siblings(&Key::Content(shown.ino))?;
            let all = row::contents(&row);
            let found = all.into_iter().find(|content| content.edited == copy);
            stat.content = found.cloned();
            stat.links = 1;
            if let Some(content) = &stat.content {
                stat.mtime = content.mtime;
            }
        }
        Ok(Some(stat))
    }

    /// Everything about a file. None if it is gone.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn stat_ino(&self, ino: Ino) -> Result<Option<Stat>, StateError> {
        let row = self.rows.siblings(&Key::Content(ino))?;
        let content = row::contents(&row)
            .first()
            .map(|content| (*content).clone());
        let Some(attrs) = attrs(self.rows, ino)? else {
            return Ok(None);
        };
        let content = match content {
            None if attrs.node == Node::File => Some(self.no_content(ino, &attrs)?),
            content => content,
        };
        let counts = state::counts(self.rows, ino)?;
        let mut newest = (attrs.mtime.at, attrs.mtime.value);
        let mut changed = (attrs.ctime.at, attrs.ctime.value);
        if let Some(content) = &content {
            let at = content.edited.hlc;
            newest = newest.max((at, content.mtime));
            changed = changed.max((at, time_of(at)));
        }
        if attrs.node == Node::Directory {
            let row = self.rows.siblings(&Key::Changed(ino))?;
            if let Some(at) = row.iter().map(|sibling| sibling.hlc).max() {
                newest = newest.max((at, time_of(at)));
                changed = changed.max((at, time_of(at)));
            }
        }
        let (mtime, ctime) = (newest.1, changed.1);
        Ok(Some(Stat {
            links: match attrs.node {
                Node::Directory => 2 + counts.directories,
                _ => counts.links.max(1),
            },
            node: attrs.node,
            mode: attrs.mode.value,
            uid: attrs.uid.value,
            gid: attrs.gid.value,
            atime: attrs.atime.value,
            mtime,
            ctime,
            content,
        }))
    }

    /// What a file shows that has a name and no content: one writer gave it another name, another removed the
    /// content that a third had kept of several. It is an empty file; the other contents are files of their own.
    fn no_content(&self, ino: Ino, attrs: &Attrs) -> Result<Content, StateError> {
        let (parent, name) = match place::first_name(self.rows, ino)? {
            Some(place) => place,
            None => {
                let name = Name::new(ino.to_string().as_bytes());
                let name = name.map_err(|why| StateError::corrupt("a file", why))?;
                (Ino::LOST, name)
            }
        };
        Ok(Content {
            size: 0,
            mtime: attrs.mtime.value,
            edits: VersionVector::default(),
            edited: Stamp {
                hlc: Hlc(0),
                writer: (PeerId([0; 32]), 0).into(),
            },
            home: Home {
                parent,
                name,
                mode: attrs.mode.value,
                uid: attrs.uid.value,
                gid: attrs.gid.value,
            },
            body: Body::EMPTY,
        })
    }

    /// Names of the extended attributes of a file, ascending.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Name>, StateError> {
        let found = state::keys_below(self.rows, &key::xattrs_of(ino), usize::MAX)?;
        let read = |key: &Vec<u8>| {
            Name::xattr(key::tail(key, 18)).map_err(|why| StateError::corrupt("a key", why))
        };
        found.iter().map(read).collect()
    }

    /// Whether contents of a file compete.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn is_contested(&self, ino: Ino) -> Result<bool, StateError> {
        if self.is_plain() {
            return Ok(false);
        }
        let row = self.rows.siblings(&Key::Content(ino))?;
        Ok(row::contents(&row).len() > 1)
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn xattr(&self, ino: Ino, name: &Name) -> Result<Option<Bytes>, StateError> {
        let row = self.rows.siblings(&Key::Xattr(ino, name.clone()))?;
        Ok(row::xattr(&row).map(|field| field.value.clone()))
    }

    /// Names of which something else is shown than their only entry says: directory and name, after
    /// `after`, at most `limit`.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn odd(
        &self,
        after: Option<&(Ino, Name)>,
        limit: usize,
    ) -> Result<Vec<(Ino, Name)>, StateError> {
        if self.is_plain() {
            return Ok(Vec::new());
        }
        let all = key::odd_of(Ino([0; 16]));
        let space = all.get(..1).unwrap_or_default();
        let start = match after {
            Some((dir, name)) => state::after(&key::odd(*dir, name)),
            None => space.to_vec(),
        };
        let found = self.rows.scan(&start, &state::end_of(space), limit)?;
        let read = |(key, _): &(Vec<u8>, Bytes)| Ok((key::ino_at(key, 1), name_in(key)?));
        found.iter().map(read).collect()
    }
}

/// The directory and name that a derived row marks as odd, if it is one of these rows.
pub fn odd_name(key: &[u8]) -> Option<(Ino, Name)> {
    let is_odd = key.first() == key::odd_of(Ino::ROOT).first() && key.len() > 17;
    is_odd.then(|| Some((key::ino_at(key, 1), name_in(key).ok()?)))?
}

/// The name at the end of the key of an entry or of an odd name.
fn name_in(key: &[u8]) -> Result<Name, StateError> {
    Name::new(key::tail(key, 17)).map_err(|why| StateError::corrupt("a key", why))
}

/// The time that files show for a moment: its millisecond, and the count within it as nanoseconds.
pub fn time_of(at: Hlc) -> Timestamp {
    Timestamp {
        seconds: (at.ms() / 1000) as i64,
        nanos: (at.ms() % 1000) as u32 * 1_000_000 + (at.0 & 0xffff) as u32,
    }
}

/// Attributes of a file, made up from its home where its own were removed. None if it is gone.
pub(super) fn attrs(rows: &dyn Rows, ino: Ino) -> Result<Option<Attrs>, StateError> {
    let own = row::attrs(&rows.siblings(&Key::Attrs(ino))?);
    let has_link = ino.is_reserved() || state::any(rows, &key::links_of(ino))?;
    if !has_link && place::stored(rows, ino)?.is_none() {
        return Ok(None);
    }
    if own.is_some() {
        return Ok(own);
    }
    let row = rows.siblings(&Key::Content(ino))?;
    let content = row::contents(&row)
        .first()
        .map(|content| (*content).clone());
    let (node, at, time, home) = match content {
        Some(content) => (
            Node::File,
            content.edited.hlc,
            content.mtime,
            Some(content.home),
        ),
        None if ino == Ino::LOST => (Node::Directory, Hlc(0), Timestamp::default(), None),
        None => {
            let home = place::home_by_entries(rows, ino)?;
            (Node::Directory, Hlc(0), Timestamp::default(), home)
        }
    };
    let rights = |mode| (mode, 0, 0);
    let (mode, uid, gid) = match &home {
        Some(Home { mode, uid, gid, .. }) => (*mode, *uid, *gid),
        None if ino == Ino::ROOT => rights(0o755),
        None => rights(0o700),
    };
    let field = |value| Field { at, value };
    Ok(Some(Attrs {
        home: Field {
            at,
            value: home.filter(|_| node == Node::Directory),
        },
        node,
        mode: Field { at, value: mode },
        uid: Field { at, value: uid },
        gid: Field { at, value: gid },
        atime: field(time),
        mtime: field(time),
        ctime: field(time),
    }))
}
