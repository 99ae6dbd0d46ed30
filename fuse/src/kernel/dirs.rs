//! Listings: a batch of the filesystem put into the kernel's buffer, whose size the protocol crate
//! knows and does not tell.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::convert::{bare_attr, errno, file_attr};
use super::flight::Finish;
use crate::{DirBatch, DirItem, Errno, FileSystem};

/// The kernel's buffers are whole pages.
const PAGE_BYTES: usize = 4096;
/// More is not asked of a filesystem at once.
const MOST_BYTES: usize = 32 * 1024;

/// A guess at the size of the kernel's buffer, learned from batches that were too large.
///
/// Too low a guess makes listings take more requests, too high a one has the filesystem count
/// lookups that are taken back: neither is wrong.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Default for Room {
    fn default() -> Room {
        Room(AtomicUsize::new(PAGE_BYTES))
    }
}

impl Room {
    /// A batch of `asked` bytes fitted.
    fn fitted(&self, asked: usize) {
        self.0.store((asked * 2).min(MOST_BYTES), Relaxed);
    }

    /// Only `taken` bytes fitted.
    fn was_less(&self, taken: usize) {
        let pages = taken.next_multiple_of(PAGE_BYTES);
        self.0.store(pages.clamp(PAGE_BYTES, MOST_BYTES), Relaxed);
    }
}

enum Buffer {
    Plain(ReplyDirectory),
    Plus(ReplyDirectoryPlus),
}

impl Buffer {
    /// False if it is full.
    fn add(&mut self, item: &DirItem<'_>) -> bool {
        let name = OsStr::from_bytes(item.name.bytes());
        match self {
            Buffer::Plain(reply) => {
                let kind = bare_attr(item.ino.0, item.kind).kind;
                !reply.add(INodeNo(item.ino.0), item.next_offset, kind, name)
            }
            Buffer::Plus(reply) => {
                let (attr, ttl) = match &item.entry {
                    Some(entry) => (file_attr(&entry.attr), entry.attr_ttl.min(entry.entry_ttl)),
                    None => (bare_attr(item.ino.0, item.kind), Default::default()),
                };
                let ino = INodeNo(item.ino.0);
                let offset = item.next_offset;
                !reply.add(ino, offset, name, &ttl, &attr, Generation(0))
            }
        }
    }
}

/// The reply to a request for a listing.
pub(super) struct DirReply<F> {
    buffer: Buffer,
    fs: Arc<F>,
    room: Arc<Room>,
    asked_bytes: usize,
}

impl<F: FileSystem> DirReply<F> {
    pub(super) fn plain(reply: ReplyDirectory, fs: &Arc<F>, room: &Arc<Room>) -> DirReply<F> {
        DirReply::new(Buffer::Plain(reply), fs, room)
    }

    pub(super) fn plus(reply: ReplyDirectoryPlus, fs: &Arc<F>, room: &Arc<Room>) -> DirReply<F> {
        DirReply::new(Buffer::Plus(reply), fs, room)
    }

    fn new(buffer: Buffer, fs: &Arc<F>, room: &Arc<Room>) -> DirReply<F> {
        DirReply {
            buffer,
            fs: fs.clone(),
            room: room.clone(),
            asked_bytes: room.0.load(Relaxed),
        }
    }

    /// What the filesystem is to fill.
    pub(super) fn batch(&self) -> DirBatch {
        DirBatch::new(self.asked_bytes, matches!(self.buffer, Buffer::Plus(_)))
    }
}

impl<F: FileSystem> Finish<DirBatch> for DirReply<F> {
    fn finish(mut self, result: Result<DirBatch, Errno>) {
        let batch = match (result, self.buffer) {
            (Ok(batch), buffer) => {
                self.buffer = buffer;
                batch
            }
            (Err(error), Buffer::Plain(reply)) => return reply.error(errno(error)),
            (Err(error), Buffer::Plus(reply)) => return reply.error(errno(error)),
        };
        let mut taken_bytes = 0;
        let mut is_full = false;
        for item in batch.items() {
            if !is_full && self.buffer.add(&item) {
                taken_bytes += batch.bytes_of(item.name);
                continue;
            }
            is_full = true;
            // The kernel will not see this one, so it knows of no lookup.
            if let Some(entry) = item.entry {
                self.fs.forget(entry.attr.ino, 1);
            }
        }
        if is_full {
            self.room.was_less(taken_bytes);
        } else if batch.was_refused() {
            self.room.fitted(self.asked_bytes);
        }
        match self.buffer {
            Buffer::Plain(reply) => reply.ok(),
            Buffer::Plus(reply) => reply.ok(),
        }
    }
}
