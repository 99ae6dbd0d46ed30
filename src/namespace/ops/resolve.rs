//! Ending what writers disagreed about, as somebody decided: each is one operation, so it is seen whole or not at all.

use super::{Edit, Removed, RenameMode};
use crate::namespace::error::OpError;
use crate::namespace::id::{Ino, Kind, Name};
use crate::namespace::key::Key;
use crate::namespace::row;
use crate::namespace::state::{self, Rows};
use crate::namespace::view::CONFLICT_XATTR;

impl Edit<'_> {
    /// Of what is shown in `dir` by the name `kept` and by those of `losers` the first stays, and gets the name `base`. With
    /// what went, in the order of `losers`.
    ///
    /// # Errors
    /// As for removals and renames; [`OpError::NotEmpty`] for a directory among the losers that shows anything,
    /// [`OpError::Exists`] if something has the base name that is none of them.
    pub fn keep_one(
        &mut self,
        dir: Ino,
        base: &Name,
        kept: &Name,
        losers: &[Name],
    ) -> Result<Vec<Removed>, OpError> {
        self.settle_name(dir, base)?;
        let mut removed = Vec::with_capacity(losers.len());
        for loser in losers {
            let found = self.view()?.lookup(dir, loser)?;
            let is_directory = found.is_some_and(|found| found.kind == Kind::Directory);
            removed.push(match is_directory {
                true => self.rmdir(dir, loser)?,
                false => self.unlink(dir, loser)?,
            });
            self.refresh()?;
        }
        if kept != base {
            self.rename((dir, kept), (dir, base.bytes()), RenameMode::NoReplace)?;
            self.refresh()?;
        }
        self.unmark(dir, base)?;
        Ok(removed)
    }

    /// Everything that is shown because of `base` stays under the name that it is shown by; so does what `names` has.
    /// Nothing of it is contested any more.
    ///
    /// # Errors
    /// [`OpError::Gone`], [`OpError::NotADirectory`].
    pub fn keep_all(&mut self, dir: Ino, base: &Name, names: &[Name]) -> Result<(), OpError> {
        self.settle_name(dir, base)?;
        for name in names {
            self.unmark(dir, name)?;
        }
        Ok(())
    }

    /// A directory that was moved to several places is in one of them from now on.
    ///
    /// # Errors
    /// As for renames; [`OpError::IntoItself`] if it lies in itself there.
    pub fn keep_place(
        &mut self,
        ino: Ino,
        (shown_dir, shown_name): (Ino, &Name),
        (dir, name): (Ino, &Name),
    ) -> Result<(), OpError> {
        match (shown_dir, shown_name) == (dir, name) {
            true => self.settle_name(dir, name)?,
            false => {
                let mode = RenameMode::NoReplace;
                self.rename((shown_dir, shown_name), (dir, name.bytes()), mode)?;
            }
        }
        self.refresh()?;
        let group = self.view()?.group(dir)?;
        for (at, other) in state::links(&self.work, ino, usize::MAX)? {
            if other == *name && group.contains(&at) {
                continue;
            }
            let key = Key::Entry(at, other);
            let row = self.work.siblings(&key)?;
            let stay = row::entries(&row).filter(|(_, entry)| entry.child != ino);
            let stay = stay.map(|(sibling, _)| sibling.stamp()).collect();
            self.keep_only(key, stay)?;
        }
        self.refresh()
    }

    /// Takes the mark of a conflict copy off what has a name.
    fn unmark(&mut self, dir: Ino, name: &Name) -> Result<(), OpError> {
        let mark = Name::xattr(CONFLICT_XATTR).map_err(OpError::Invalid)?;
        let Some(shown) = self.view()?.lookup(dir, name)? else {
            return Ok(());
        };
        match self.view()?.xattr(shown.ino, &mark)? {
            Some(_) => self.remove_xattr(shown.ino, &mark),
            None => Ok(()),
        }
    }
}
