//! Large reads and writes that pass the kernel's page cache by.
//!
//! Shards are written once, made durable at once and rarely read soon after. Through the page cache each
//! costs a copy, fresh pages and the eviction of what other programs of the machine want to keep.
//! What is read a second time goes through the cache, so that what many ask for is served from memory.
//! Where the filesystem does not offer it (`O_DIRECT`), the cache is used for all.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{pread, pwritev, retry_on_intr};

/// Offsets, lengths and memory are multiples of this: as much as any device asks for.
const UNIT: usize = 4096;
/// Less than this goes through the page cache: one copy is cheaper than waiting for the device.
const LEAST_BYTES: usize = 128 << 10;
/// Bytes that are gathered for one write.
const GATHER_BYTES: usize = 1 << 20;
/// Most pieces of one write.
const PIECES_MAX: usize = 64;
/// Places that are remembered as read.
const PLACES: usize = 4096;

/// What the files of one disk share.
#[derive(Debug)]
pub(super) struct DirectIo {
    /// The filesystem refused once.
    refused: AtomicBool,
    /// Memory for gathering; the log has one writer.
    spare: Mutex<Option<Aligned>>,
    /// Places read lately, each in the slot that its hash names.
    read: Box<[AtomicU64]>,
}

/// The second descriptor of a file, opened when it is first needed.
#[derive(Debug, Default)]
pub(super) struct DirectFile(OnceLock<Option<OwnedFd>>);

/// Memory that begins at a multiple of [`UNIT`].
#[derive(Debug)]
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Zeros.
    fn new(len: usize) -> io::Result<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len + UNIT)?;
        bytes.resize(len + UNIT, 0);
        let start = bytes.as_ptr().align_offset(UNIT);
        match start < UNIT {
            true => Ok(Aligned { bytes, start, len }),
            false => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }

    fn all(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.len;
        self.bytes.get_mut(range).unwrap_or_default()
    }
}

impl Default for DirectIo {
    fn default() -> Self {
        DirectIo {
            refused: AtomicBool::new(false),
            spare: Mutex::default(),
            read: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl DirectIo {
    /// The file's direct descriptor, if the filesystem has such.
    fn open<'f>(&self, file: &OwnedFd, direct: &'f DirectFile) -> Option<BorrowedFd<'f>> {
        if self.refused.load(Ordering::Relaxed) {
            return None;
        }
        let again = || {
            let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
            let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty()).ok()
        };
        let opened = direct.0.get_or_init(again).as_ref();
        if opened.is_none() {
            self.refused.store(true, Ordering::Relaxed);
        }
        opened.map(AsFd::as_fd)
    }

    /// Whether the place was read lately. Remembers that it is now.
    fn read_again(&self, file: u64, offset: u64) -> bool {
        // Zero stands for nothing.
        let tag = (file << 32 ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let slot = self.read.get((tag >> 32) as usize % PLACES);
        slot.is_some_and(|slot| slot.swap(tag, Ordering::Relaxed) == tag)
    }

    /// The bytes at `offset`, fewer at the end of the file; `None` if they are to be read through the
    /// cache. `number` tells files apart.
    pub(super) fn read(
        &self,
        file: &OwnedFd,
        direct: &DirectFile,
        number: u64,
        offset: u64,
        len: usize,
    ) -> io::Result<Option<Bytes>> {
        if len < LEAST_BYTES || self.read_again(number, offset) {
            return Ok(None);
        }
        let Some(descriptor) = self.open(file, direct) else {
            return Ok(None);
        };
        let before = (offset % UNIT as u64) as usize;
        let from = offset - before as u64;
        let mut memory = Aligned::new((before + len).next_multiple_of(UNIT))?;
        let room = memory.all();
        let mut done = 0;
        while let Some(rest) = room.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let count = match retry_on_intr(|| pread(descriptor, &mut *rest, from + done as u64)) {
                Ok(count) => count,
                Err(errno) if is_refusal(errno) => {
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                Err(errno) => return Err(errno.into()),
            };
            done += count;
            // Short of a whole unit only at the end of the file.
            if count == 0 || !done.is_multiple_of(UNIT) {
                break;
            }
        }
        let start = memory.start + before;
        let end = memory.start + done.min(before + len);
        Ok(Some(Bytes::from(memory.bytes).slice(start.min(end)..end)))
    }

    /// Writes the whole units among `parts`; what is before and behind them goes to `cached`, with its
    /// offset. `false` if nothing was written because all is to go through the cache.
    ///
    /// # Errors
    /// After an error any of it may have been written.
    pub(super) fn write(
        &self,
        file: &OwnedFd,
        direct: &DirectFile,
        offset: u64,
        parts: &[IoSlice<'_>],
        mut cached: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let end = offset + len as u64;
        let units = offset.next_multiple_of(UNIT as u64)..end - end % UNIT as u64;
        if units.end.saturating_sub(units.start) < LEAST_BYTES as u64 {
            return Ok(false);
        }
        let Some(descriptor) = self.open(file, direct) else {
            return Ok(false);
        };
        let mut rest = Gather::new(parts);
        let mut edge = vec![0; (units.start - offset) as usize];
        rest.fill(&mut edge);
        if !edge.is_empty() {
            cached(offset, &edge)?;
        }
        let mut memory = self.take()?;
        let mut at = units.start;
        while at < units.end {
            let (pieces, len) = rest.collect((units.end - at) as usize, memory.all());
            let room = memory.all();
            let slices: Vec<IoSlice<'_>> = pieces
                .iter()
                .map(|piece| match piece {
                    Piece::There(bytes) => IoSlice::new(bytes),
                    Piece::Gathered(range) => {
                        IoSlice::new(room.get(range.clone()).unwrap_or_default())
                    }
                })
                .collect();
            self.write_units(descriptor, at, slices, &mut cached)?;
            at += len as u64;
        }
        edge.resize((end - units.end) as usize, 0);
        rest.fill(&mut edge);
        if !edge.is_empty() {
            cached(units.end, &edge)?;
        }
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
        Ok(true)
    }

    /// Writes whole units; what cannot be written directly, through the cache.
    fn write_units(
        &self,
        descriptor: BorrowedFd<'_>,
        mut offset: u64,
        mut slices: Vec<IoSlice<'_>>,
        cached: &mut impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match retry_on_intr(|| pwritev(descriptor, rest, offset)) {
                // A part of a unit cannot be continued directly.
                Ok(count) if count > 0 && count.is_multiple_of(UNIT) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                    continue;
                }
                Ok(_) => {}
                Err(errno) if is_refusal(errno) => self.refused.store(true, Ordering::Relaxed),
                Err(errno) => return Err(errno.into()),
            }
            for slice in rest {
                cached(offset, slice)?;
                offset += slice.len() as u64;
            }
            return Ok(());
        }
        Ok(())
    }

    fn take(&self) -> io::Result<Aligned> {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        spare.map_or_else(|| Aligned::new(GATHER_BYTES), Ok)
    }
}

/// Whether the filesystem takes no such request, for which it may have any reason.
fn is_refusal(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::INVAL | Errno::OPNOTSUPP)
}

/// Part of a direct write.
enum Piece<'p> {
    /// Taken from where it is.
    There(&'p [u8]),
    /// A range of the memory for gathering.
    Gathered(Range<usize>),
}

/// Takes the bytes of several slices in order.
struct Gather<'p, 's> {
    parts: &'p [IoSlice<'s>],
    /// Bytes taken of the first.
    taken: usize,
}

impl<'p, 's> Gather<'p, 's> {
    const fn new(parts: &'p [IoSlice<'s>]) -> Self {
        Gather { parts, taken: 0 }
    }

    /// What is left of the first slice that has something left.
    fn first(&mut self) -> Option<&'p [u8]> {
        loop {
            let (first, others) = self.parts.split_first()?;
            match first.get(self.taken..) {
                Some(rest) if !rest.is_empty() => return Some(rest),
                _ => (self.parts, self.taken) = (others, 0),
            }
        }
    }

    /// Fills `target`, as far as there are bytes.
    fn fill(&mut self, mut target: &mut [u8]) {
        while !target.is_empty()
            && let Some(source) = self.first()
        {
            let len = source.len().min(target.len());
            let (now, later) = target.split_at_mut(len);
            now.copy_from_slice(source.get(..len).unwrap_or_default());
            target = later;
            self.taken += len;
        }
    }

    /// Whole units for one write, at most `most` bytes, and how many they are. What lies right in
    /// memory stays there; the rest is copied to `memory`.
    fn collect(&mut self, most: usize, memory: &mut [u8]) -> (Vec<Piece<'p>>, usize) {
        let mut pieces = Vec::new();
        let (mut len, mut used) = (0usize, 0usize);
        // Where the piece begins that is being gathered; it ends at a whole unit.
        let mut begun = 0usize;
        while len < most
            && pieces.len() < PIECES_MAX
            && let Some(source) = self.first()
        {
            let whole = source.len().min(most - len) / UNIT * UNIT;
            let is_unit = (used - begun).is_multiple_of(UNIT);
            if is_unit && whole > 0 && source.as_ptr().addr().is_multiple_of(UNIT) {
                if used > begun {
                    pieces.push(Piece::Gathered(begun..used));
                    begun = used;
                }
                pieces.push(Piece::There(source.get(..whole).unwrap_or_default()));
                self.taken += whole;
                len += whole;
                continue;
            }
            // At most up to where the next aligned bytes may begin.
            let unit_left = UNIT - (used - begun) % UNIT;
            let portion = match source.len() {
                long if long >= UNIT => long.min(memory.len() - used),
                short => short.min(unit_left),
            };
            let portion = portion.min(most - len);
            let target = memory.get_mut(used..used + portion).unwrap_or_default();
            if target.is_empty() {
                break;
            }
            self.fill(target);
            used += portion;
            len += portion;
        }
        if used > begun {
            pieces.push(Piece::Gathered(begun..used));
        }
        (pieces, len)
    }
}

#[cfg(test)]
#[path = "direct_laws.rs"]
mod laws;
