//! The frames in which a command and its peer send each other a blob or a tree.
//!
//! A blob is `(Data | Hole)* End`. A tree is the entry of its root, which has no name, and then
//! what is in it: a directory is `Entry .. End` with its entries in between, ascending by name; a file
//! `Entry (Data | Hole)* End`; a symbolic or hard link `Entry`. Nothing follows the last `End`. An
//! `Error` may come at any time, and nothing after it.

use bytes::Bytes;

use crate::base::Class;
use crate::dag::{Meta, Timestamp};

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A name, and what it stands for.
    Entry(Head),
    /// Bytes of the file. Never empty; how they are divided means nothing.
    Data(Bytes),
    /// So many zero bytes, at least one.
    Hole(u64),
    /// The end of the file or directory.
    End,
    /// Why the stream ends here.
    Error(Remark),
}

/// What is sent of an entry before its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its name; empty for the root.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: HeadKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadKind {
    /// A regular file; its bytes follow.
    File {
        /// Mode and time.
        meta: Meta,
        /// Bytes to come. Exact in what a peer sends; of a command, whose files may change while
        /// they are read, the expected number: what comes counts.
        size: u64,
    },
    /// A directory; its entries follow.
    Directory {
        /// Mode and time.
        meta: Meta,
    },
    /// A symbolic link.
    Symlink {
        /// Last change.
        mtime: Timestamp,
        /// Where it points to.
        target: Vec<u8>,
    },
    /// Another name of a file that came before.
    HardLink {
        /// Its path from the root: names joined by `/`.
        first: Vec<u8>,
    },
}

/// A failure in words, for the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// What can be done about it.
    pub class: Class,
    /// What happened.
    pub message: String,
}
