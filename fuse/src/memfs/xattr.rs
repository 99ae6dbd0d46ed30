//! Extended attributes.

use bytes::Bytes;

use super::node::SETGID;
use super::tree::Tree;
use crate::acl::{self, Acl};
use crate::{Caller, Errno, Ino, Name};

const TRUSTED: &[u8] = b"trusted.";
const SPACES: [&[u8]; 3] = [b"user.", b"security.", TRUSTED];
/// Largest value in bytes, the kernel's own limit.
const VALUE_BYTES_MAX: usize = 64 * 1024;

fn check_name(name: Name<'_>) -> Result<(), Errno> {
    let is_acl = name.bytes() == acl::ACCESS || name.bytes() == acl::DEFAULT;
    let mut spaces = SPACES.iter();
    let is_known = spaces.any(|space| name.starts_with(space) && name.len() > space.len());
    match is_acl || is_known {
        true if name.len() > 255 => Err(Errno::ERANGE),
        true => Ok(()),
        false => Err(Errno::ENOTSUP),
    }
}

impl Tree {
    pub(super) fn get_xattr(&self, ino: Ino, name: Name<'_>) -> Result<Bytes, Errno> {
        let found = self.node(ino)?.xattrs.get(name.bytes());
        match found {
            Some(value) => Ok(value.clone()),
            None => check_name(name).and(Err(Errno::ENODATA)),
        }
    }

    pub(super) fn set_xattr(
        &mut self,
        caller: &Caller,
        ino: Ino,
        name: Name<'_>,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        check_name(name)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Errno::E2BIG);
        }
        let has = self.node(ino)?.xattrs.contains_key(name.bytes());
        if flags & libc::XATTR_CREATE != 0 && has {
            return Err(Errno::EEXIST);
        }
        if flags & libc::XATTR_REPLACE != 0 && !has {
            return Err(Errno::ENODATA);
        }
        if name.bytes() == acl::ACCESS || name.bytes() == acl::DEFAULT {
            return self.set_acl(caller, ino, name, Acl::parse(value)?);
        }
        let node = self.node_mut(ino)?;
        let value = Bytes::copy_from_slice(value);
        node.xattrs.insert(name.bytes().into(), value);
        node.changed();
        Ok(())
    }

    fn set_acl(
        &mut self,
        caller: &Caller,
        ino: Ino,
        name: Name<'_>,
        acl: Option<Acl>,
    ) -> Result<(), Errno> {
        let node = self.node_mut(ino)?;
        let is_access = name.bytes() == acl::ACCESS;
        if !is_access && !node.is_dir() {
            return match acl {
                Some(_) => Err(Errno::EACCES),
                None => Ok(()),
            };
        }
        if let (true, Some(acl)) = (is_access, &acl) {
            let attr = node.raw_mut();
            attr.perm = attr.perm & !0o777 | acl.mode();
            // As with chmod: nobody makes a program run with a group that is not theirs.
            if !caller.is_privileged() && !caller.groups().contains(&attr.gid) {
                attr.perm &= !SETGID;
            }
        }
        match acl {
            Some(acl) if !(is_access && acl.is_minimal()) => {
                node.xattrs.insert(name.bytes().into(), acl.encode());
            }
            _ => {
                node.xattrs.remove(name.bytes());
            }
        }
        node.changed();
        Ok(())
    }

    pub(super) fn list_xattr(&self, caller: &Caller, ino: Ino) -> Result<Bytes, Errno> {
        let mut all = Vec::new();
        for name in self.node(ino)?.xattrs.keys() {
            if name.starts_with(TRUSTED) && !caller.is_privileged() {
                continue;
            }
            all.extend_from_slice(name);
            all.push(0);
        }
        Ok(all.into())
    }

    pub(super) fn remove_xattr(&mut self, ino: Ino, name: Name<'_>) -> Result<(), Errno> {
        check_name(name)?;
        let node = self.node_mut(ino)?;
        match node.xattrs.remove(name.bytes()) {
            Some(_) => {
                node.changed();
                Ok(())
            }
            None => Err(Errno::ENODATA),
        }
    }
}
