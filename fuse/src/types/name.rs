//! Names: any bytes but `/` and NUL.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;

use super::Errno;

/// Longest name of a directory entry in bytes. The FUSE of the kernel would let 1,024 pass.
pub const NAME_MAX_BYTES: usize = 255;

/// One name in a directory, borrowed from the request: whoever keeps it copies it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The name as it stands, unchecked.
    pub fn new(bytes: &'a [u8]) -> Name<'a> {
        Name(bytes)
    }

    /// The bytes.
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Refuses what cannot be the name of a new entry: `ENAMETOOLONG`, or `EINVAL` for an empty one,
    /// one with a slash or NUL (no kernel sends these), `EEXIST` for `.` and `..`.
    pub fn check_new(self) -> Result<Name<'a>, Errno> {
        match self.0 {
            b"." | b".." => Err(Errno::EEXIST),
            long if long.len() > NAME_MAX_BYTES => Err(Errno::ENAMETOOLONG),
            [] => Err(Errno::EINVAL),
            bytes if bytes.iter().any(|b| matches!(b, b'/' | 0)) => Err(Errno::EINVAL),
            _ => Ok(self),
        }
    }
}

impl Deref for Name<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl<'a> From<&'a OsStr> for Name<'a> {
    fn from(name: &'a OsStr) -> Name<'a> {
        Name(name.as_bytes())
    }
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(name: &'a str) -> Name<'a> {
        Name(name.as_bytes())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, Name};

    #[test]
    fn only_names_that_can_be_are_taken() {
        assert!(Name::new(&[0xff; 255]).check_new().is_ok());
        let wrong = |name: &[u8]| Name::new(name).check_new().unwrap_err();
        assert_eq!(wrong(&[b'a'; 256]), Errno::ENAMETOOLONG);
        assert_eq!(wrong(b""), Errno::EINVAL);
        assert_eq!(wrong(b"a/b"), Errno::EINVAL);
        assert_eq!(wrong(b"a\0"), Errno::EINVAL);
        assert_eq!(wrong(b".."), Errno::EEXIST);
    }
}
