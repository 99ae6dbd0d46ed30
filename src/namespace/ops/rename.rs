//! Renames in all their forms.

use std::collections::BTreeSet;

use super::create::first;
use super::{Edit, Found, Removed, home, new_name};
use crate::namespace::error::OpError;
use crate::namespace::id::{Ino, Kind, Name};
use crate::namespace::key::Key;
use crate::namespace::view::place;

/// What is to become of a file that has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It loses that name.
    Replace,
    /// The rename is refused.
    NoReplace,
    /// It gets the old name.
    Exchange,
}

impl Edit<'_> {
    /// Moves a name. With what lost its name to it, if anything did.
    ///
    /// # Errors
    /// [`OpError::NotFound`], [`OpError::Exists`], [`OpError::NotEmpty`], [`OpError::IsADirectory`],
    /// [`OpError::NotADirectory`], [`OpError::IntoItself`], [`OpError::Fixed`],
    /// [`OpError::NameTooLong`].
    pub fn rename(
        &mut self,
        (parent, name): (Ino, &Name),
        (new_parent, new): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<Option<Removed>, OpError> {
        let old_group = self.host(parent)?;
        let new_group = self.host(new_parent)?;
        let new = new_name(new)?;
        let moved = self.must_find(&old_group, name)?;
        let there = self.find(&new_group, &new)?;
        // Contents that compete may be shown at another name of a file.
        for found in [Some(&moved), there.as_ref()].into_iter().flatten() {
            if found.kind == Kind::File {
                self.settle_file(found.ino)?;
            }
        }
        self.check_way(&moved, &new_group)?;
        match (mode, there) {
            (RenameMode::NoReplace, Some(_)) => Err(OpError::Exists),
            (RenameMode::Exchange, None) => Err(OpError::NotFound),
            (RenameMode::Replace, Some(there)) if there.ino == moved.ino => Ok(None),
            (RenameMode::Exchange, Some(there)) if there.ino == moved.ino => Ok(None),
            (RenameMode::Exchange, Some(there)) => {
                self.check_way(&there, &old_group)?;
                self.clear_names(&moved, name)?;
                self.clear_names(&there, &new)?;
                self.arrive(
                    &moved,
                    (first(&old_group)?, name),
                    (first(&new_group)?, &new),
                )?;
                self.arrive(
                    &there,
                    (first(&new_group)?, &new),
                    (first(&old_group)?, name),
                )?;
                Ok(None)
            }
            (_, there) => {
                if let Some(there) = &there {
                    match (moved.kind, there.kind) {
                        (Kind::Directory, _) => self.check_empty(there)?,
                        (_, Kind::Directory) => return Err(OpError::IsADirectory),
                        _ => {}
                    }
                }
                let removed = match &there {
                    None => None,
                    Some(there) => {
                        self.clear_names(there, &new)?;
                        Some(self.lose_name(there)?)
                    }
                };
                self.clear_names(&moved, name)?;
                self.arrive(
                    &moved,
                    (first(&old_group)?, name),
                    (first(&new_group)?, &new),
                )?;
                Ok(removed)
            }
        }
    }

    /// A directory comes to lie neither in itself nor anywhere below.
    fn check_way(&self, moved: &Found, group: &[Ino]) -> Result<(), OpError> {
        if moved.kind != Kind::Directory {
            return Ok(());
        }
        if moved.ino.is_reserved() {
            return Err(OpError::Fixed);
        }
        let mut seen = BTreeSet::new();
        let mut ways: Vec<Ino> = group.to_vec();
        while let Some(dir) = ways.pop() {
            if moved.merged.contains(&dir) {
                return Err(OpError::IntoItself);
            }
            if seen.insert(dir)
                && let Some((parent, _)) = place::shown_at(&self.work, dir)?
            {
                ways.push(parent);
            }
        }
        Ok(())
    }

    /// Puts files under a name, which nothing has any more.
    fn arrive(
        &mut self,
        moved: &Found,
        (old_dir, old_name): (Ino, &Name),
        (dir, name): (Ino, &Name),
    ) -> Result<(), OpError> {
        let mut entries = Vec::new();
        for ino in &moved.merged {
            entries.push(self.entry(dir, *ino, moved.kind)?);
        }
        self.put(Key::Entry(dir, name.clone()), entries)?;
        for ino in &moved.merged {
            let attrs = self.attrs(*ino)?;
            let home = match moved.kind {
                Kind::Directory => home(old_dir, old_name.clone(), &attrs),
                _ => home(dir, name.clone(), &attrs),
            };
            self.reassert(*ino, Some(home))?;
        }
        Ok(())
    }
}
