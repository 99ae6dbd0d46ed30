//! Extended attributes, and the access control lists among them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairnfs_fuse::acl::{self, Acl};
use cairnfs_fuse::{self as fuse, Caller, Errno};

use super::errno::Step;
use super::inner::{Core, Inner};
use super::policy::{self, REDUNDANCY_XATTR};
use super::rows::OWN;
use crate::base::limits::XATTR_MAX_BYTES;
use crate::namespace::{AttrChange, Ino, Name, OpError};
use crate::store::Group;

const TRUSTED: &[u8] = b"trusted.";
const SPACES: [&[u8]; 3] = [b"user.", b"security.", TRUSTED];
/// What a program may do when run; void once the program was changed.
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// The row that says that some file has, or had, an access control list.
pub(super) const HAS_ACLS: &[u8] = b"acls";
const SETGID: u16 = 0o2000;
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

pub(super) const fn is_acl(name: &[u8]) -> bool {
    matches!(name, acl::ACCESS | acl::DEFAULT)
}

fn check_name(name: fuse::Name<'_>) -> Result<Name, Errno> {
    let mut spaces = SPACES.iter();
    let is_known = spaces.any(|space| name.starts_with(space) && name.len() > space.len());
    if !is_known && !is_acl(name.bytes()) {
        return Err(Errno::ENOTSUP);
    }
    Name::xattr(name.bytes()).map_err(|_| Errno::ERANGE)
}

impl Inner {
    /// Whether any file may have an access control list: where none has, nobody has to look.
    pub(super) fn has_acls(&self) -> bool {
        self.acls.load(Ordering::Relaxed)
    }

    /// Some file has an access control list that another machine gave it.
    pub(super) fn note_acls(&self, group: &mut Group) {
        group.put(OWN, HAS_ACLS, &[]);
        self.acls.store(true, Ordering::Relaxed);
    }

    /// An attribute of a file that has a name.
    pub(super) fn xattr_of(&self, ino: Ino, name: &[u8]) -> Step<Option<Bytes>> {
        let name = Name::xattr(name).map_err(|_| Errno::ERANGE)?;
        self.view(|view| view.xattr(ino, &name))
    }

    pub(super) fn all_xattrs(&self, ino: Ino) -> Step<BTreeMap<Vec<u8>, Bytes>> {
        let names = self.view(|view| view.xattrs(ino))?;
        let mut all = BTreeMap::new();
        for name in names {
            if let Some(value) = self.view(|view| view.xattr(ino, &name))? {
                all.insert(name.bytes().to_vec(), value);
            }
        }
        Ok(all)
    }

    pub(super) fn getxattr(&self, number: u64, name: fuse::Name<'_>) -> Step<Bytes> {
        let mut core = self.core();
        let node = core.node(number)?;
        let wanted = check_name(name)?;
        if is_acl(name.bytes()) && !self.has_acls() {
            return Err(Errno::ENODATA.into());
        }
        let named = node.orphan.is_none().then_some(node.ino);
        let found = match &node.orphan {
            Some(orphan) => orphan.xattrs.get(name.bytes()).cloned(),
            None => {
                let ino = node.ino;
                self.view(|view| view.xattr(ino, &wanted))?
            }
        };
        if found.is_none() && name.bytes() == REDUNDANCY_XATTR {
            return self.inherited_policy(named);
        }
        Ok(found.ok_or(Errno::ENODATA)?)
    }

    pub(super) fn listxattr(&self, caller: &Caller, number: u64) -> Step<Bytes> {
        let mut core = self.core();
        let node = core.node(number)?;
        let names: Vec<Vec<u8>> = match &node.orphan {
            Some(orphan) => orphan.xattrs.keys().cloned().collect(),
            None => {
                let ino = node.ino;
                let names = self.view(|view| view.xattrs(ino))?;
                names.iter().map(|name| name.bytes().to_vec()).collect()
            }
        };
        let mut all = Vec::new();
        for name in names {
            if name.starts_with(TRUSTED) && !caller.is_privileged() {
                continue;
            }
            all.extend_from_slice(&name);
            all.push(0);
        }
        Ok(all.into())
    }

    pub(super) fn setxattr(
        &self,
        caller: &Caller,
        number: u64,
        name: fuse::Name<'_>,
        value: &[u8],
        flags: i32,
    ) -> Step<()> {
        let wanted = check_name(name)?;
        if value.len() > XATTR_MAX_BYTES {
            return Err(Errno::E2BIG.into());
        }
        let mut core = self.core();
        let has = match self.has_xattr(&mut core, number, &wanted)? {
            true if flags & XATTR_CREATE != 0 => return Err(Errno::EEXIST.into()),
            false if flags & XATTR_REPLACE != 0 => return Err(Errno::ENODATA.into()),
            has => has,
        };
        if is_acl(name.bytes()) {
            let acl = Acl::parse(value)?;
            return self.set_acl(&mut core, caller, number, (wanted, has), acl);
        }
        if name.bytes() == REDUNDANCY_XATTR {
            let kind = self.attr(&mut core, number)?.kind;
            return match policy::value_to_set(kind, value)? {
                None if !has => Ok(()),
                value => self.put_xattr(&mut core, number, wanted, value, None),
            };
        }
        let value = Bytes::copy_from_slice(value);
        self.put_xattr(&mut core, number, wanted, Some(value), None)
    }

    pub(super) fn removexattr(&self, number: u64, name: fuse::Name<'_>) -> Step<()> {
        let wanted = check_name(name)?;
        let mut core = self.core();
        if !self.has_xattr(&mut core, number, &wanted)? {
            return Err(Errno::ENODATA.into());
        }
        self.put_xattr(&mut core, number, wanted, None, None)
    }

    fn has_xattr(&self, core: &mut Core, number: u64, name: &Name) -> Step<bool> {
        let node = core.node(number)?;
        match &node.orphan {
            Some(orphan) => Ok(orphan.xattrs.contains_key(name.bytes())),
            None => {
                let ino = node.ino;
                Ok(self.view(|view| view.xattr(ino, name))?.is_some())
            }
        }
    }

    /// Sets or removes an attribute, and the mode that goes with it.
    fn put_xattr(
        &self,
        core: &mut Core,
        number: u64,
        name: Name,
        value: Option<Bytes>,
        mode: Option<u16>,
    ) -> Step<()> {
        let now = self.now();
        let node = core.node(number)?;
        if let Some(file) = &node.file {
            self.lock(file).unguard();
        }
        let ino = node.ino;
        if let Some(orphan) = node.orphan.as_deref_mut() {
            match value {
                Some(value) => orphan.xattrs.insert(name.bytes().to_vec(), value),
                None => orphan.xattrs.remove(name.bytes()),
            };
            orphan.stat.mode = mode.unwrap_or(orphan.stat.mode);
            orphan.stat.ctime = now.time;
            return Ok(());
        }
        let has = value.is_some() || self.view(|view| view.xattr(ino, &name))?.is_some();
        let makes_first = is_acl(name.bytes()) && value.is_some() && !self.has_acls();
        let mut edited = self.edit(core, now, |edit| {
            let change = AttrChange {
                mode,
                ..AttrChange::default()
            };
            edit.set_attrs(ino, &change)?;
            match value {
                Some(value) => edit.set_xattr(ino, &name, value),
                None if has => edit.remove_xattr(ino, &name),
                None => Ok::<(), OpError>(()),
            }
        })?;
        if makes_first {
            edited.group.put(OWN, HAS_ACLS, &[]);
        }
        self.commit(core, edited)?;
        if makes_first {
            self.acls.store(true, Ordering::Relaxed);
        }
        core.changed(&[ino]);
        Ok(())
    }

    fn set_acl(
        &self,
        core: &mut Core,
        caller: &Caller,
        number: u64,
        (name, has): (Name, bool),
        acl: Option<Acl>,
    ) -> Step<()> {
        let attr = self.attr(core, number)?;
        let is_access = name.bytes() == acl::ACCESS;
        if !is_access && attr.kind != fuse::FileType::Directory {
            return match acl {
                Some(_) => Err(Errno::EACCES.into()),
                None => Ok(()),
            };
        }
        let mut mode = None;
        if let (true, Some(acl)) = (is_access, &acl) {
            let mut perm = attr.perm & !0o777 | acl.mode();
            // As with chmod: nobody makes a program run with a group that is not theirs.
            if !caller.is_privileged() && !caller.groups().contains(&attr.gid) {
                perm &= !SETGID;
            }
            mode = Some(perm);
        }
        match acl {
            Some(acl) if !(is_access && acl.is_minimal()) => {
                self.put_xattr(core, number, name, Some(acl.encode()), mode)
            }
            _ if has || mode.is_some() => self.put_xattr(core, number, name, None, mode),
            _ => Ok(()),
        }
    }

    /// After a file's content was changed: what a changed program must not keep goes. Looked at once
    /// until attributes change again.
    pub(super) fn guard(&self, core: &mut Core, number: u64, kill_suidgid: bool) -> Step<()> {
        let attr = self.attr(core, number)?;
        let mode = super::attrs::without_suidgid(attr.perm);
        if kill_suidgid && mode != attr.perm {
            let change = fuse::SetAttr {
                mode: Some(mode.into()),
                ..fuse::SetAttr::default()
            };
            self.set_mode(core, number, &change)?;
        }
        let name = Name::xattr(CAPABILITY).map_err(|_| Errno::EIO)?;
        if self.has_xattr(core, number, &name)? {
            self.put_xattr(core, number, name, None, None)?;
        }
        Ok(())
    }

    fn set_mode(&self, core: &mut Core, number: u64, change: &fuse::SetAttr) -> Step<()> {
        let node = core.node(number)?;
        let ino = node.ino;
        let mode = change.mode.map(|mode| mode as u16);
        if let Some(orphan) = node.orphan.as_deref_mut() {
            orphan.stat.mode = mode.unwrap_or(orphan.stat.mode);
            return Ok(());
        }
        let change = AttrChange {
            mode,
            ..AttrChange::default()
        };
        self.change(core, |edit| edit.set_attrs(ino, &change))?;
        core.changed(&[ino]);
        Ok(())
    }
}
