//! Renames in all their forms.

use super::tree::Tree;
use crate::{Caller, Errno, Ino, Rename, RenameFlags};

impl Tree {
    pub(super) fn rename(&mut self, caller: &Caller, rename: &Rename<'_>) -> Result<(), Errno> {
        let Rename {
            parent,
            name,
            new_parent,
            new_name,
            flags,
        } = *rename;
        let moved = self.find(parent, name)?;
        let there = match self.find(new_parent, new_name) {
            Ok(ino) => Some(ino),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        self.check_sticky(caller, parent, moved)?;
        if let Some(there) = there {
            self.check_sticky(caller, new_parent, there)?;
        }
        // A directory cannot come to lie within itself.
        if self.node(moved)?.is_dir() && self.is_within(new_parent, moved)? {
            return Err(Errno::EINVAL);
        }
        match (flags, there) {
            (RenameFlags::NoReplace, Some(_)) => Err(Errno::EEXIST),
            (RenameFlags::Exchange, None) => Err(Errno::ENOENT),
            (RenameFlags::Exchange, Some(there)) => self.exchange(rename, moved, there),
            // Two names of one file: nothing to do, as POSIX has it.
            (RenameFlags::Replace, Some(there)) if there == moved => Ok(()),
            (_, there) => self.move_over(rename, moved, there),
        }
    }

    fn move_over(
        &mut self,
        rename: &Rename<'_>,
        moved: Ino,
        there: Option<Ino>,
    ) -> Result<(), Errno> {
        let is_dir = self.node(moved)?.is_dir();
        match there {
            None => self.check_new(rename.new_parent, rename.new_name)?,
            Some(there) => match (is_dir, self.node(there)?.dir()) {
                (true, Ok(dir)) if !dir.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Err(_)) => return Err(Errno::ENOTDIR),
                (false, Ok(_)) => return Err(Errno::EISDIR),
                _ => (),
            },
        }
        let old = self.node_mut(rename.parent)?;
        old.dir_mut()?.remove(rename.name);
        if is_dir {
            old.raw_mut().nlink -= 1;
        }
        old.modified();
        let new = self.node_mut(rename.new_parent)?;
        new.dir_mut()?.set(rename.new_name, moved);
        if is_dir && there.is_none() {
            new.raw_mut().nlink += 1;
        }
        new.modified();
        if let Some(there) = there {
            self.lose_name(there)?;
        }
        self.arrived(moved, rename.new_parent)
    }

    fn exchange(&mut self, rename: &Rename<'_>, moved: Ino, there: Ino) -> Result<(), Errno> {
        if self.node(there)?.is_dir() && self.is_within(rename.parent, there)? {
            return Err(Errno::EINVAL);
        }
        let sides = [
            (rename.parent, rename.name, moved, there),
            (rename.new_parent, rename.new_name, there, moved),
        ];
        for (parent, name, leaves, comes) in sides {
            let lost = u32::from(self.node(leaves)?.is_dir());
            let gained = u32::from(self.node(comes)?.is_dir());
            let dir = self.node_mut(parent)?;
            dir.dir_mut()?.set(name, comes);
            let nlink = &mut dir.raw_mut().nlink;
            *nlink = *nlink + gained - lost;
            dir.modified();
        }
        self.arrived(moved, rename.new_parent)?;
        self.arrived(there, rename.parent)
    }

    fn arrived(&mut self, ino: Ino, parent: Ino) -> Result<(), Errno> {
        let node = self.node_mut(ino)?;
        if node.is_dir() {
            node.parent = parent;
        }
        node.changed();
        Ok(())
    }
}
