//! The vocabulary between kernel and filesystem: plain values without behaviour of their own.

mod attr;
mod caller;
mod data;
mod dir;
mod errno;
mod name;
mod open;
mod time;

pub use attr::{Attr, AttrReply, Entry, FileType, Ino, Lookup, SetAttr, SetTime, Statfs};
pub use caller::Caller;
pub use data::Data;
pub use dir::{DirBatch, DirItem};
pub use errno::Errno;
pub use name::{NAME_MAX_BYTES, Name};
pub use open::{AllocMode, Fh, LockKind, LockRange, OpenFlags, Opened, RenameFlags, Whence};
pub use time::Time;
