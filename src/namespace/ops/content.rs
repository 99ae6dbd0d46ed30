//! Attributes, contents, extended attributes.

use bytes::Bytes;

use super::{Edit, home};
use crate::base::PeerId;
use crate::base::limits::XATTR_MAX_BYTES;
use crate::dag::Timestamp;
use crate::namespace::clock::Stamp;
use crate::namespace::delta::Write;
use crate::namespace::error::OpError;
use crate::namespace::id::{Ino, Name, SnapshotId};
use crate::namespace::key::Key;
use crate::namespace::row::{self, Sibling};
use crate::namespace::state::Rows;
use crate::namespace::value::{Body, Content, Home, Node, Value};
use crate::namespace::version::VersionVector;
use crate::namespace::view::{self, place};

/// Attributes to set; what is none stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttrChange {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last read.
    pub atime: Option<Timestamp>,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
}

impl Edit<'_> {
    /// Sets attributes. The time of change becomes that of the operation.
    ///
    /// # Errors
    /// [`OpError::Gone`], [`OpError::Invalid`].
    pub fn set_attrs(&mut self, ino: Ino, change: &AttrChange) -> Result<(), OpError> {
        let mut attrs = self.attrs(ino)?;
        let at = self.now.hlc;
        if let Some(mode) = change.mode {
            attrs.mode.set(at, mode);
        }
        if let Some(uid) = change.uid {
            attrs.uid.set(at, uid);
        }
        if let Some(gid) = change.gid {
            attrs.gid.set(at, gid);
        }
        if let Some(atime) = change.atime {
            attrs.atime.set(at, atime);
        }
        if let Some(mtime) = change.mtime {
            attrs.mtime.set(at, mtime);
        }
        attrs.ctime.set(at, self.now.time);
        self.put(Key::Attrs(ino), vec![Value::Attrs(attrs)])
    }

    /// Gives a regular file another content. What competed with the old one becomes a file of its
    /// own.
    ///
    /// # Errors
    /// [`OpError::Gone`], [`OpError::WrongKind`], [`OpError::Invalid`].
    pub fn set_content(
        &mut self,
        ino: Ino,
        size: u64,
        mtime: Timestamp,
        body: Body,
    ) -> Result<(), OpError> {
        self.settle_file(ino)?;
        let attrs = self.attrs(ino)?;
        if attrs.node != Node::File {
            return Err(OpError::WrongKind);
        }
        let row = self.work.siblings(&Key::Content(ino))?;
        let mut edits = VersionVector::default();
        for sibling in row.iter() {
            if let Value::Content(content) = &sibling.value {
                edits.join(&content.edits);
            }
        }
        edits.raise(self.writer, self.now.hlc.0);
        let place = place::first_name(&self.work, ino)?;
        let (parent, name) = place.ok_or(OpError::Gone)?;
        let content = Content {
            size,
            mtime,
            edits,
            edited: self.stamp(),
            home: home(parent, name, &attrs),
            body,
        };
        self.put(Key::Content(ino), vec![Value::Content(content)])
    }

    /// Gives a regular file a content that was made by editing the one of version `seen`, when the file was at
    /// `home`. Contents of other versions stay, and each becomes a file of its own; a file that was removed
    /// meanwhile comes back. In a volume in which nobody disagrees it is [`set_content`](Edit::set_content).
    ///
    /// # Errors
    /// [`OpError::WrongKind`], [`OpError::Invalid`].
    pub fn edit_content(
        &mut self,
        ino: Ino,
        (seen, home_then): (&VersionVector, &Home),
        size: u64,
        mtime: Timestamp,
        body: Body,
    ) -> Result<(), OpError> {
        let was_plain = self.view()?.is_plain();
        let attrs = view::attrs(&self.work, ino)?;
        if attrs.as_ref().is_some_and(|attrs| attrs.node != Node::File) {
            return Err(OpError::WrongKind);
        }
        let place = place::first_name(&self.work, ino)?;
        let (home, is_back) = match (attrs, place) {
            (Some(attrs), Some((parent, name))) => (home(parent, name, &attrs), false),
            _ => (home_then.clone(), true),
        };
        let key = Key::Content(ino);
        let row = self.work.siblings(&key)?;
        let is_other = |sibling: &&Sibling| {
            let Value::Content(content) = &sibling.value else {
                return false;
            };
            !seen.includes(&content.edits)
        };
        let mut keeps: Vec<Stamp> = row.iter().filter(is_other).map(Sibling::stamp).collect();
        keeps.sort_unstable();
        keeps.dedup();
        let mut edits = seen.clone();
        edits.raise(self.writer, self.now.hlc.0);
        let value = Value::Content(Content {
            size,
            mtime,
            edits,
            edited: self.stamp(),
            home,
            body,
        });
        value
            .check(&key)
            .map_err(|_| OpError::Invalid("a content that cannot be"))?;
        let is_settled = was_plain && keeps.is_empty() && !is_back;
        self.write(Write {
            key,
            keeps,
            values: vec![value],
        })?;
        if !is_settled {
            self.refresh()?;
            self.settle_file(ino)?;
        }
        Ok(())
    }

    /// Says that a device is a member, with what proves it.
    ///
    /// # Errors
    /// [`OpError::Invalid`] if the proof is too long.
    pub fn set_member(&mut self, device: PeerId, proof: Bytes) -> Result<(), OpError> {
        self.put(Key::Member(device), vec![Value::Member(proof)])
    }

    /// Says that a snapshot is kept, and where it is.
    ///
    /// # Errors
    /// [`OpError::Invalid`] if the record is too long.
    pub fn set_snapshot(&mut self, id: SnapshotId, record: Bytes) -> Result<(), OpError> {
        self.put(Key::Snapshot(id), vec![Value::Snapshot(record)])
    }

    /// Says that a snapshot is kept no longer.
    ///
    /// # Errors
    /// [`OpError::NotFound`].
    pub fn remove_snapshot(&mut self, id: SnapshotId) -> Result<(), OpError> {
        let key = Key::Snapshot(id);
        if self.work.siblings(&key)?.is_empty() {
            return Err(OpError::NotFound);
        }
        self.clear(key)
    }

    /// Adds a document about members and keys.
    ///
    /// # Errors
    /// [`OpError::Invalid`] if it is too long.
    pub fn add_ruling(&mut self, kind: u8, document: Bytes) -> Result<(), OpError> {
        let key = Key::Ruling(kind, super::key::ruling_name(&document));
        self.put(key, vec![Value::Ruling(document)])
    }

    /// Says that a content lies elsewhere now; it stays the same content.
    ///
    /// # Errors
    /// [`OpError::Changed`] if no value of the file has this version any more.
    pub fn relocate(
        &mut self,
        ino: Ino,
        version: &VersionVector,
        body: Body,
    ) -> Result<(), OpError> {
        let key = Key::Content(ino);
        let row = self.work.siblings(&key)?;
        let mut keeps: Vec<Stamp> = Vec::new();
        let mut replaced: Option<Content> = None;
        for sibling in row.iter() {
            match &sibling.value {
                Value::Content(content) if content.edits == *version => {
                    replaced = Some(content.clone());
                }
                _ => keeps.push(sibling.stamp()),
            }
        }
        let content = replaced.ok_or(OpError::Changed)?;
        keeps.sort_unstable();
        keeps.dedup();
        let value = Value::Content(Content { body, ..content });
        value
            .check(&key)
            .map_err(|_| OpError::Invalid("extents that cannot be"))?;
        self.write(Write {
            key,
            keeps,
            values: vec![value],
        })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`OpError::Gone`], [`OpError::Invalid`].
    pub fn set_xattr(&mut self, ino: Ino, name: &Name, value: Bytes) -> Result<(), OpError> {
        if value.len() > XATTR_MAX_BYTES {
            return Err(OpError::Invalid("a value of more than 64 KiB"));
        }
        let value = Value::Xattr(self.field(value));
        self.set_attrs(ino, &AttrChange::default())?;
        self.put(Key::Xattr(ino, name.clone()), vec![value])
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`OpError::Gone`], [`OpError::NoXattr`].
    pub fn remove_xattr(&mut self, ino: Ino, name: &Name) -> Result<(), OpError> {
        let key = Key::Xattr(ino, name.clone());
        let row = self.work.siblings(&key)?;
        self.set_attrs(ino, &AttrChange::default())?;
        if row::xattr(&row).is_none() {
            return Err(OpError::NoXattr);
        }
        self.clear(key)
    }
}
