//! What a file is, and how one asks to change it.

use std::time::Duration;

use super::{Fh, Time};

/// A file's number within one mount. Never used again for another file while the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The top directory: the kernel asks for it without looking it up.
    pub const ROOT: Ino = Ino(1);
}

/// What kind of thing a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileType {
    /// The type in the upper bits of a mode; none of them means a regular file, as in mknod(2).
    pub fn from_mode(mode: u32) -> Option<FileType> {
        Some(match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileType::Regular,
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            _ => return None,
        })
    }
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Which file.
    pub ino: Ino,
    /// What it is.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky: 0o7777 at most.
    pub perm: u16,
    /// Names that lead to it; for a directory, 2 and one for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for devices only.
    pub rdev: u32,
    /// Length in bytes.
    pub size: u64,
    /// What it takes, in units of 512 bytes.
    pub blocks: u64,
    /// The size of requests that suits it, in bytes.
    pub blksize: u32,
    /// Last read.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
}

/// A file that a name was found to mean. Each one handed to the kernel counts as one lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub attr: Attr,
    /// How long the kernel may answer for the attributes by itself.
    pub attr_ttl: Duration,
    /// How long the kernel may answer for the name by itself.
    pub entry_ttl: Duration,
}

/// What became of a name that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is there.
    Found(Entry),
    /// It is not, and the kernel may say so by itself for this long.
    Absent(Duration),
}

/// Attributes and how long they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrReply {
    /// The attributes.
    pub attr: Attr,
    /// How long the kernel may answer for them by itself.
    pub ttl: Duration,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The filesystem's own clock.
    Now,
    /// This one.
    At(Time),
}

/// Changes asked for in one call: chmod, chown, truncate and utimens in any combination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// New permission bits (0o7777).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length in bytes.
    pub size: Option<u64>,
    /// New time of last read.
    pub atime: Option<SetTime>,
    /// New time of last change of the content.
    pub mtime: Option<SetTime>,
    /// The open file it was asked through: ftruncate(2) works whatever the mode says.
    pub fh: Option<Fh>,
    /// A change of size takes setuid, and setgid of an executable group, away.
    pub kill_suidgid: bool,
}

/// What statfs(2) shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// Size of a block in bytes, the unit of the counts below.
    pub block_bytes: u32,
    /// All blocks.
    pub blocks: u64,
    /// Blocks not used.
    pub blocks_free: u64,
    /// Blocks that an ordinary user may still use.
    pub blocks_available: u64,
    /// Files there can be.
    pub files: u64,
    /// Files that can still be made.
    pub files_free: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}
