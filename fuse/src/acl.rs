//! POSIX access control lists as extended attributes (POSIX 1003.1e, draft 17; Linux's
//! `posix_acl_xattr.h`). The kernel enforces them; here they are checked, handed down and kept equal to
//! the permission bits.

use bytes::Bytes;

use crate::Errno;

/// The attribute with a file's list.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute with the list that new files in a directory begin with.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Item {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A list that passed all checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl(Vec<Item>);

impl Acl {
    /// From an attribute's value. None for an empty list, which means to remove it; `EINVAL` for
    /// one that makes no sense.
    pub fn parse(value: &[u8]) -> Result<Option<Acl>, Errno> {
        if value.is_empty() {
            return Ok(None);
        }
        let items = value.strip_prefix(&VERSION).ok_or(Errno::ENOTSUP)?;
        if items.len() % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let short = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        let items: Vec<Item> = items
            .chunks_exact(8)
            .map(|b| Item {
                tag: short(&b[..2]),
                perm: short(&b[2..4]),
                id: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            })
            .collect();
        if items.is_empty() {
            return Ok(None);
        }
        let count = |tag| items.iter().filter(|item| item.tag == tag).count();
        let known = USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER;
        let is_known =
            |item: &Item| item.tag.is_power_of_two() && item.tag & known != 0 && item.perm <= 7;
        // By tag, and users and groups by number, each once.
        let is_ordered = items.windows(2).all(|pair| {
            let named = pair[0].tag == USER || pair[0].tag == GROUP;
            pair[0].tag < pair[1].tag
                || (named && pair[0].tag == pair[1].tag && pair[0].id != pair[1].id)
        });
        let has_base = count(USER_OBJ) == 1 && count(GROUP_OBJ) == 1 && count(OTHER) == 1;
        let needs_mask = count(USER) + count(GROUP) > 0;
        let is_sound = items.iter().all(is_known) && is_ordered && has_base;
        if !is_sound || (needs_mask && count(MASK) != 1) {
            return Err(Errno::EINVAL);
        }
        Ok(Some(Acl(items)))
    }

    /// The attribute's value.
    pub fn encode(&self) -> Bytes {
        let mut value = VERSION.to_vec();
        for item in &self.0 {
            value.extend_from_slice(&item.tag.to_le_bytes());
            value.extend_from_slice(&item.perm.to_le_bytes());
            value.extend_from_slice(&item.id.to_le_bytes());
        }
        value.into()
    }

    fn perm(&self, tag: u16) -> Option<u16> {
        let item = self.0.iter().find(|item| item.tag == tag);
        item.map(|item| item.perm)
    }

    /// The permission bits say all that the list says.
    pub fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The permission bits (0o777) that go with the list.
    pub fn mode(&self) -> u16 {
        let group = self.perm(MASK).or_else(|| self.perm(GROUP_OBJ));
        let of = |perm: Option<u16>| perm.unwrap_or(0);
        of(self.perm(USER_OBJ)) << 6 | of(group) << 3 | of(self.perm(OTHER))
    }

    /// After chmod: owner and others as the mode has them; its group bits are the mask's, or the
    /// group's if there is none.
    pub fn chmod(&mut self, mode: u16) {
        let group = if self.perm(MASK).is_some() {
            MASK
        } else {
            GROUP_OBJ
        };
        for item in &mut self.0 {
            match item.tag {
                USER_OBJ => item.perm = mode >> 6 & 7,
                OTHER => item.perm = mode & 7,
                tag if tag == group => item.perm = mode >> 3 & 7,
                _ => (),
            }
        }
    }

    /// The list of a new file, from its directory's default list: never more than the mode asked
    /// for. Returns the mode that results.
    pub fn inherit(&mut self, mode: u16) -> u16 {
        let allowed = self.mode() & mode;
        self.chmod(allowed);
        mode & !0o777 | allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[(u16, u16, u32)]) -> Vec<u8> {
        let items = items.iter().map(|&(tag, perm, id)| Item { tag, perm, id });
        Acl(items.collect()).encode().to_vec()
    }

    #[test]
    fn only_sound_lists_are_taken() {
        let base = [(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 1, 0)];
        let acl = Acl::parse(&list(&base)).unwrap().unwrap();
        assert!(acl.is_minimal());
        assert_eq!(acl.mode(), 0o751);
        assert_eq!(Acl::parse(b"").unwrap(), None);
        assert_eq!(Acl::parse(b"\x01\0\0\0"), Err(Errno::ENOTSUP));
        assert_eq!(Acl::parse(&list(&base[..2])), Err(Errno::EINVAL));
        let named = [
            (USER_OBJ, 7, 0),
            (USER, 7, 5),
            (GROUP_OBJ, 5, 0),
            (OTHER, 1, 0),
        ];
        assert_eq!(Acl::parse(&list(&named)), Err(Errno::EINVAL), "no mask");
    }

    #[test]
    fn chmod_sets_the_mask_and_new_files_get_no_more_than_asked() {
        let items = [
            (USER_OBJ, 7, 0),
            (USER, 6, 5),
            (GROUP_OBJ, 4, 0),
            (MASK, 7, 0),
            (OTHER, 5, 0),
        ];
        let mut acl = Acl::parse(&list(&items)).unwrap().unwrap();
        assert_eq!(acl.clone().inherit(0o2640), 0o2640);
        acl.chmod(0o710);
        assert_eq!(acl.mode(), 0o710);
        assert_eq!(acl.perm(GROUP_OBJ), Some(4));
        assert_eq!(acl.perm(USER), Some(6));
    }
}
