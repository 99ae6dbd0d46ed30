//! New files and new names.

use super::{Edit, home, new_name};
use crate::namespace::error::OpError;
use crate::namespace::id::{Ino, Kind, Name};
use crate::namespace::key::Key;
use crate::namespace::value::{Attrs, Body, Content, Node, Value};
use crate::namespace::version::VersionVector;

/// A file to be made.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Its identity: random, never used before.
    pub ino: Ino,
    /// What it is.
    pub node: Node,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Edit<'_> {
    /// Gives the top directory its attributes: the first operation on a volume.
    ///
    /// # Errors
    /// If rows cannot be read.
    pub fn create_root(&mut self, mode: u16, uid: u32, gid: u32) -> Result<(), OpError> {
        let new = NewNode {
            ino: Ino::ROOT,
            node: Node::Directory,
            mode,
            uid,
            gid,
        };
        let attrs = self.new_attrs(&new);
        self.put(Key::Attrs(Ino::ROOT), vec![Value::Attrs(attrs)])
    }

    fn new_attrs(&self, new: &NewNode) -> Attrs {
        Attrs {
            node: new.node.clone(),
            mode: self.field(new.mode),
            uid: self.field(new.uid),
            gid: self.field(new.gid),
            atime: self.field(self.now.time),
            mtime: self.field(self.now.time),
            ctime: self.field(self.now.time),
            home: self.field(None),
        }
    }

    /// The directories for a new name, and the name, if it is free.
    pub(super) fn place_for(
        &mut self,
        parent: Ino,
        name: &[u8],
    ) -> Result<(Vec<Ino>, Name), OpError> {
        let group = self.host(parent)?;
        let name = new_name(name)?;
        match self.view()?.lookup_in(&group, &name)? {
            Some(_) => Err(OpError::Exists),
            None => Ok((group, name)),
        }
    }

    /// Makes a file of any kind.
    ///
    /// # Errors
    /// [`OpError::Gone`] or [`OpError::NotADirectory`] for the parent, [`OpError::Exists`],
    /// [`OpError::NameTooLong`], [`OpError::Invalid`].
    pub fn create(&mut self, parent: Ino, name: &[u8], new: &NewNode) -> Result<(), OpError> {
        let (group, name) = self.place_for(parent, name)?;
        let dir = first(&group)?;
        if new.ino.is_reserved() {
            return Err(OpError::Invalid("an identity that is taken"));
        }
        let mut attrs = self.new_attrs(new);
        let place = home(dir, name.clone(), &attrs);
        if new.node == Node::Directory {
            attrs.home.value = Some(place.clone());
        }
        let entry = self.entry(dir, new.ino, new.node.kind())?;
        self.put(Key::Entry(dir, name), vec![entry])?;
        self.put(Key::Attrs(new.ino), vec![Value::Attrs(attrs)])?;
        if new.node == Node::File {
            let mut edits = VersionVector::default();
            edits.raise(self.writer, self.now.hlc.0);
            let content = Content {
                size: 0,
                mtime: self.now.time,
                edits,
                edited: self.stamp(),
                home: place,
                body: Body::EMPTY,
            };
            self.put(Key::Content(new.ino), vec![Value::Content(content)])?;
        }
        Ok(())
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// As for [`Edit::create`]; [`OpError::WrongKind`] for directories, [`OpError::Gone`] if the
    /// file has no name any more.
    pub fn link(&mut self, ino: Ino, parent: Ino, name: &[u8]) -> Result<(), OpError> {
        let (group, name) = self.place_for(parent, name)?;
        let dir = first(&group)?;
        self.settle_file(ino)?;
        let attrs = self.attrs(ino)?;
        let kind = attrs.node.kind();
        if kind == Kind::Directory {
            return Err(OpError::WrongKind);
        }
        let entry = self.entry(dir, ino, kind)?;
        self.put(Key::Entry(dir, name), vec![entry])?;
        self.reassert(ino, None)
    }
}

/// The directory that takes new entries.
pub(super) fn first(group: &[Ino]) -> Result<Ino, OpError> {
    group.first().copied().ok_or(OpError::Gone)
}
