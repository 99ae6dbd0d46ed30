//! Open files: flags in, handles out.

use super::Errno;

/// A number the filesystem chose for an open file or directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// The flags of open(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags(pub i32);

impl OpenFlags {
    /// Bytes may be read.
    pub fn reads(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_WRONLY
    }

    /// Bytes may be written.
    pub fn writes(self) -> bool {
        self.0 & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// The file is to be emptied on opening.
    pub fn truncates(self) -> bool {
        self.0 & libc::O_TRUNC != 0
    }

    /// The file must not be there yet.
    pub fn is_exclusive(self) -> bool {
        self.0 & libc::O_EXCL != 0
    }

    /// Every write goes to the end of the file.
    pub fn appends(self) -> bool {
        self.0 & libc::O_APPEND != 0
    }

    /// Past the page cache.
    pub fn is_direct(self) -> bool {
        self.0 & libc::O_DIRECT != 0
    }

    /// Each write is to be durable before it returns.
    pub fn is_sync(self) -> bool {
        self.0 & (libc::O_SYNC | libc::O_DSYNC) != 0
    }
}

/// An open file as the filesystem wants the kernel to treat it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Handed back with every request on this file.
    pub fh: Fh,
    /// What is in the page cache still holds: no read on reopening.
    pub keep_cache: bool,
    /// Past the page cache whatever the caller asked for.
    pub direct_io: bool,
    /// No `flush` at close: saves a round trip where it would do nothing.
    pub no_flush: bool,
    /// Writes past the page cache need no lock of the kernel against one another.
    pub parallel_direct_writes: bool,
}

/// How a rename treats what is at the new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameFlags {
    /// Replaced.
    #[default]
    Replace,
    /// Reason to fail with `EEXIST`.
    NoReplace,
    /// Swapped with the old.
    Exchange,
}

impl RenameFlags {
    /// From the flags of renameat2(2); `EINVAL` for combinations that make no sense and for
    /// whiteouts, which overlayfs wants of its upper layer and which a FUSE filesystem cannot give.
    pub fn from_bits(bits: u32) -> Result<RenameFlags, Errno> {
        match bits {
            0 => Ok(RenameFlags::Replace),
            libc::RENAME_NOREPLACE => Ok(RenameFlags::NoReplace),
            libc::RENAME_EXCHANGE => Ok(RenameFlags::Exchange),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The next byte that is stored.
    Data,
    /// The next byte that is not; the end of the file is one.
    Hole,
}

/// What fallocate(2) does to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocMode {
    /// Room is made; the file grows.
    Allocate,
    /// Room is made; the size stays.
    AllocateKeepSize,
    /// The range becomes a hole; the size stays.
    PunchHole,
    /// The range reads as zeros; the file grows.
    ZeroRange,
    /// The range reads as zeros; the size stays.
    ZeroRangeKeepSize,
}

impl AllocMode {
    /// From the mode of fallocate(2). `ENOTSUP` for modes not known here.
    pub fn from_bits(bits: i32) -> Result<AllocMode, Errno> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        match bits {
            0 => Ok(AllocMode::Allocate),
            libc::FALLOC_FL_KEEP_SIZE => Ok(AllocMode::AllocateKeepSize),
            PUNCH => Ok(AllocMode::PunchHole),
            libc::FALLOC_FL_ZERO_RANGE => Ok(AllocMode::ZeroRange),
            ZERO_KEEP => Ok(AllocMode::ZeroRangeKeepSize),
            _ => Err(Errno::ENOTSUP),
        }
    }
}

/// Kind of a lock on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None: released.
    Unlock,
}

/// A lock on a range of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRange {
    /// First byte.
    pub start: u64,
    /// Last byte, itself included.
    pub end: u64,
    /// What holds there.
    pub kind: LockKind,
    /// Who holds it, as shown by `F_GETLK`.
    pub pid: u32,
}
