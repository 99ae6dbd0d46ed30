//! Values of this crate as the protocol crate has them, and back; and how each answer is sent.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{FileAttr, FileHandle, FopenFlags, Generation, INodeNo, TimeOrNow};

use super::flight::Finish;
use crate::{
    Attr, AttrReply, Data, Entry, Errno, FileType, LockKind, LockRange, Lookup, Opened, SetTime,
    Statfs, Time,
};

/// Numbers are never used again while the kernel knows them, so one generation is enough.
const GENERATION: Generation = Generation(0);

pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw())
}

fn file_type(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.to_system(),
        mtime: attr.mtime.to_system(),
        ctime: attr.ctime.to_system(),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Attributes for what has none but a number: a name known to be absent (0), `.` and `..`.
pub(super) fn bare_attr(ino: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The time the kernel sent. The crate subtracts the nanoseconds of times before 1970 instead of
/// adding them; this takes its sum apart again.
pub(super) fn kernel_time(time: SystemTime) -> Time {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) if !before.is_zero() => Time {
            secs: 0i64.saturating_sub_unsigned(before.as_secs()),
            nanos: before.subsec_nanos(),
        },
        _ => Time::from(time),
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(kernel_time(time)),
    }
}

pub(super) fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    let pairs = [
        (opened.keep_cache, FopenFlags::FOPEN_KEEP_CACHE),
        (opened.direct_io, FopenFlags::FOPEN_DIRECT_IO),
        (opened.no_flush, FopenFlags::FOPEN_NOFLUSH),
        (
            opened.parallel_direct_writes,
            FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
        ),
    ];
    for (is_on, flag) in pairs {
        flags.set(flag, is_on);
    }
    flags
}

pub(super) fn lock_kind(kind: i32) -> Result<LockKind, Errno> {
    match kind {
        libc::F_RDLCK => Ok(LockKind::Read),
        libc::F_WRLCK => Ok(LockKind::Write),
        libc::F_UNLCK => Ok(LockKind::Unlock),
        _ => Err(Errno::EINVAL),
    }
}

/// Implements [`Finish`] for a reply whose failure is `error`.
macro_rules! finish {
    ($reply:ty, $value:ty, |$own:ident, $got:ident| $send:expr) => {
        impl Finish<$value> for $reply {
            fn finish(self, result: Result<$value, Errno>) {
                let $own = self;
                match result {
                    Ok($got) => $send,
                    Err(error) => $own.error(errno(error)),
                }
            }
        }
    };
}

finish!(fuser::ReplyEmpty, (), |reply, _done| reply.ok());
finish!(fuser::ReplyEntry, Entry, |reply, entry| reply
    .entry_with_ttls(
        &entry.attr_ttl,
        &entry.entry_ttl,
        &file_attr(&entry.attr),
        GENERATION
    ));
finish!(fuser::ReplyEntry, Lookup, |reply, lookup| match lookup {
    Lookup::Found(entry) => reply.finish(Ok(entry)),
    Lookup::Absent(Duration::ZERO) => reply.error(fuser::Errno::ENOENT),
    // Inode 0 is a name that is known to be absent.
    Lookup::Absent(ttl) => {
        let attr = bare_attr(0, FileType::Regular);
        reply.entry_with_ttls(&ttl, &ttl, &attr, GENERATION);
    }
});
finish!(fuser::ReplyAttr, AttrReply, |reply, it| reply
    .attr(&it.ttl, &file_attr(&it.attr)));
finish!(fuser::ReplyOpen, Opened, |reply, opened| reply
    .opened(FileHandle(opened.fh.0), open_flags(&opened)));
finish!(fuser::ReplyCreate, (Entry, Opened), |reply, both| {
    let (entry, opened) = both;
    // One time to live for both in this crate: the shorter.
    let ttl = entry.attr_ttl.min(entry.entry_ttl);
    let fh = FileHandle(opened.fh.0);
    let attr = file_attr(&entry.attr);
    reply.created(&ttl, &attr, GENERATION, fh, open_flags(&opened));
});
finish!(fuser::ReplyData, Bytes, |reply, bytes| reply.data(&bytes));
finish!(fuser::ReplyWrite, u32, |reply, count| reply.written(count));
finish!(fuser::ReplyWrite, u64, |reply, count| {
    // Never more than was asked for, which is bounded far below.
    reply.written(u32::try_from(count).unwrap_or(u32::MAX));
});
finish!(fuser::ReplyLseek, u64, |reply, offset| {
    match i64::try_from(offset) {
        Ok(offset) => reply.offset(offset),
        Err(_) => reply.error(fuser::Errno::EOVERFLOW),
    }
});
finish!(fuser::ReplyStatfs, Statfs, |reply, it| reply.statfs(
    it.blocks,
    it.blocks_free,
    it.blocks_available,
    it.files,
    it.files_free,
    it.block_bytes,
    it.name_max,
    it.block_bytes,
));
finish!(fuser::ReplyLock, LockRange, |reply, lock| {
    let kind = match lock.kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
        LockKind::Unlock => libc::F_UNLCK,
    };
    reply.locked(lock.start, lock.end, kind, lock.pid);
});

thread_local! {
    /// Where slices are put together: one buffer a thread instead of one a request.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

finish!(fuser::ReplyData, Data, |reply, data| match data {
    Data::One(bytes) => reply.data(&bytes),
    Data::Many(parts) => JOINED.with_borrow_mut(|joined| {
        joined.clear();
        parts.iter().for_each(|part| joined.extend_from_slice(part));
        reply.data(joined);
    }),
});

/// The reply to a question for an attribute's value, or for its length only.
pub(super) struct XattrReply {
    pub(super) reply: fuser::ReplyXattr,
    pub(super) room: u32,
}

impl Finish<Bytes> for XattrReply {
    fn finish(self, result: Result<Bytes, Errno>) {
        let (value, len) = match result.map(|v| (u32::try_from(v.len()), v)) {
            Ok((Ok(len), value)) => (value, len),
            Ok((Err(_), _)) => return self.reply.error(fuser::Errno::E2BIG),
            Err(error) => return self.reply.error(errno(error)),
        };
        if self.room == 0 {
            self.reply.size(len);
        } else if len > self.room {
            self.reply.error(fuser::Errno::ERANGE);
        } else {
            self.reply.data(&value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_arrive_as_they_were_set() {
        // What the crate makes of -2 s and 800 ms.
        let sent = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let time = Time {
            secs: -2,
            nanos: 800_000_000,
        };
        assert_eq!(kernel_time(sent), time);
        assert_eq!(kernel_time(UNIX_EPOCH), Time::default());
        let later = UNIX_EPOCH + Duration::new(5, 7);
        assert_eq!(kernel_time(later), Time { secs: 5, nanos: 7 });
    }
}
