//! Names and files that go.

use super::{Edit, Found, own_rows};
use crate::namespace::error::{OpError, StateError};
use crate::namespace::id::{Ino, Kind, Name};
use crate::namespace::key::{self, Key};
use crate::namespace::state::{self, Rows};
use crate::namespace::value::Value;

/// What became of a file that lost a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The file.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Whether that was its last name: its rows are gone.
    pub was_last: bool,
}

impl Edit<'_> {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// [`OpError::NotFound`], [`OpError::IsADirectory`].
    pub fn unlink(&mut self, parent: Ino, name: &Name) -> Result<Removed, OpError> {
        let group = self.host(parent)?;
        let found = self.must_find(&group, name)?;
        if found.kind == Kind::Directory {
            return Err(OpError::IsADirectory);
        }
        self.clear_names(&found, name)?;
        self.lose_name(&found)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`OpError::NotFound`], [`OpError::NotADirectory`], [`OpError::NotEmpty`],
    /// [`OpError::Fixed`].
    pub fn rmdir(&mut self, parent: Ino, name: &Name) -> Result<Removed, OpError> {
        let group = self.host(parent)?;
        let shown = self.view()?.lookup_in(&group, name)?;
        let shown = shown.ok_or(OpError::NotFound)?;
        if shown.merged.contains(&Ino::LOST) {
            return Err(OpError::Fixed);
        }
        let found = self.must_find(&group, name)?;
        self.check_empty(&found)?;
        self.clear_names(&found, name)?;
        self.lose_name(&found)
    }

    /// An error unless it is a directory that shows nothing.
    pub(super) fn check_empty(&self, found: &Found) -> Result<(), OpError> {
        if found.kind != Kind::Directory {
            return Err(OpError::NotADirectory);
        }
        if found.ino.is_reserved() {
            return Err(OpError::Fixed);
        }
        if self.view()?.is_empty(found.ino)? {
            Ok(())
        } else {
            Err(OpError::NotEmpty)
        }
    }

    /// Takes the entries of a name away.
    pub(super) fn clear_names(&mut self, found: &Found, name: &Name) -> Result<(), OpError> {
        for dir in &found.dirs {
            self.clear(Key::Entry(*dir, name.clone()))?;
        }
        Ok(())
    }

    /// After an entry was taken away: a file without one is removed.
    pub(super) fn lose_name(&mut self, found: &Found) -> Result<Removed, OpError> {
        let mut was_last = true;
        for ino in &found.merged {
            if found.kind != Kind::Directory && state::any(&self.work, &key::links_of(*ino))? {
                let mut attrs = self.attrs(*ino)?;
                attrs.ctime.set(self.now.hlc, self.now.time);
                self.put(Key::Attrs(*ino), vec![Value::Attrs(attrs)])?;
                was_last = false;
                continue;
            }
            for key in own_rows(&self.work, *ino)? {
                self.clear(key)?;
            }
            if found.kind == Kind::Directory {
                self.clear_hidden(*ino)?;
            }
        }
        Ok(Removed {
            ino: found.ino,
            kind: found.kind,
            was_last,
        })
    }

    /// A directory that showed nothing may still have entries of what is shown elsewhere; and
    /// entries that lead to it, at which it was not shown, lead nowhere now.
    fn clear_hidden(&mut self, ino: Ino) -> Result<(), OpError> {
        for key in state::keys_below(&self.work, &key::entries_of(ino), usize::MAX)? {
            let key = Key::decode(&key).map_err(|e| StateError::corrupt("a key", e))?;
            self.clear(key)?;
        }
        for (dir, name) in state::links(&self.work, ino, usize::MAX)? {
            let key = Key::Entry(dir, name);
            let row = self.work.siblings(&key)?;
            let others = crate::namespace::row::entries(&row)
                .filter(|(_, entry)| entry.child != ino)
                .map(|(sibling, _)| sibling.stamp());
            let others = others.collect();
            self.keep_only(key, others)?;
        }
        Ok(())
    }
}
