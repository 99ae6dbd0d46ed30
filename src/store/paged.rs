//! A file of pages each of which has its checksum: what is read back is what was written, or an error.
//!
//! The database above never overwrites a page that its last commit needs, only free ones, so a page and its sum
//! need not change together: after a crash they can disagree only where nothing is. Sums are gathered
//! in memory and written before each sync, one page of them in front of the pages that they are of.
//! The first page is the exception: the database changes it in place, and has sums of its own there.
//!
//! After a write or sync failed, the file on the disk is changed no more and what is written is kept aside: the
//! database above goes on believing, so that what it committed before stays readable, and whoever uses it
//! asks for the failure after each commit.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::disk::{DiskFile, write_all_at};

/// Bytes of one page.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Pages whose sums fill one page.
const GROUP_PAGES: u64 = PAGE_BYTES / SUM_BYTES;
/// Bytes of one sum.
const SUM_BYTES: u64 = 4;
/// A group with the page of its sums.
const GROUP_BYTES: u64 = (GROUP_PAGES + 1) * PAGE_BYTES;

/// Sums of one group; zero stands for a page that was never written.
#[derive(Debug)]
struct Sums {
    of_page: Vec<u32>,
    is_dirty: bool,
}

/// The file, as long as the database sees it.
#[derive(Debug)]
pub(super) struct PagedFile {
    file: Arc<dyn DiskFile>,
    inner: RwLock<Inner>,
    failure: Mutex<Option<Failure>>,
}

/// The first write that failed.
#[derive(Debug)]
struct Failure {
    error: io::Error,
    /// Pages written since.
    aside: BTreeMap<u64, Vec<u8>>,
}

#[derive(Debug)]
struct Inner {
    len: u64,
    groups: BTreeMap<u64, Sums>,
}

fn pages(len: u64) -> u64 {
    len.div_ceil(PAGE_BYTES)
}

/// Bytes on the disk for so many as the database sees.
fn stored_len(len: u64) -> u64 {
    len + pages(len).div_ceil(GROUP_PAGES) * PAGE_BYTES
}

/// Where a page is on the disk.
const fn place(page: u64) -> u64 {
    page / GROUP_PAGES * GROUP_BYTES + (1 + page % GROUP_PAGES) * PAGE_BYTES
}

fn sum(page: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&page.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize().max(1)
}

fn wrong(page: u64) -> io::Error {
    let at = place(page);
    io::Error::new(
        ErrorKind::InvalidData,
        format!("the page at byte {at} does not verify"),
    )
}

impl PagedFile {
    /// On a file that is empty or was written by this.
    pub(super) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let stored = file.len()?;
        let len = stored.saturating_sub(stored.div_ceil(GROUP_BYTES) * PAGE_BYTES);
        Ok(PagedFile {
            file,
            inner: RwLock::new(Inner {
                len,
                groups: BTreeMap::new(),
            }),
            failure: Mutex::default(),
        })
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a write failed: nothing that was done since is on the disk.
    pub(super) fn has_failed(&self) -> bool {
        self.failure().is_some()
    }

    /// Why a write failed, if one did. Gives back the memory of what came after it.
    pub(super) fn take_stock(&self) -> io::Result<()> {
        match &mut *self.failure() {
            Some(failure) => {
                failure.aside.clear();
                let error = &failure.error;
                Err(io::Error::new(error.kind(), error.to_string()))
            }
            None => Ok(()),
        }
    }

    /// Does something to the file, unless something failed before.
    fn attempt(&self, change: impl FnOnce() -> io::Result<()>) {
        if self.has_failed() {
            return;
        }
        if let Err(error) = change() {
            self.failure().get_or_insert(Failure {
                error,
                aside: BTreeMap::new(),
            });
        }
    }

    fn inner(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner_mut(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> u64 {
        self.inner().len
    }

    /// Reads the sums of a group unless they are here.
    fn load(&self, group: u64) -> io::Result<()> {
        if self.inner().groups.contains_key(&group) {
            return Ok(());
        }
        let bytes = self
            .file
            .read_vec(group * GROUP_BYTES, PAGE_BYTES as usize)?;
        let mut of_page: Vec<u32> = bytes
            .chunks_exact(SUM_BYTES as usize)
            .map(|sum| {
                sum.iter()
                    .rev()
                    .fold(0, |all, byte| all << 8 | u32::from(*byte))
            })
            .collect();
        of_page.resize(GROUP_PAGES as usize, 0);
        let sums = Sums {
            of_page,
            is_dirty: false,
        };
        self.inner_mut().groups.entry(group).or_insert(sums);
        Ok(())
    }

    fn known_sum(&self, page: u64) -> io::Result<u32> {
        self.load(page / GROUP_PAGES)?;
        let inner = self.inner();
        let sums = inner.groups.get(&(page / GROUP_PAGES));
        let sum = sums.and_then(|sums| sums.of_page.get((page % GROUP_PAGES) as usize));
        Ok(sum.copied().unwrap_or(0))
    }

    fn set_sum(&self, page: u64, value: u32) -> io::Result<()> {
        self.load(page / GROUP_PAGES)?;
        let mut inner = self.inner_mut();
        if let Some(sums) = inner.groups.get_mut(&(page / GROUP_PAGES))
            && let Some(sum) = sums.of_page.get_mut((page % GROUP_PAGES) as usize)
        {
            *sum = value;
            sums.is_dirty = true;
        }
        Ok(())
    }

    /// Whole pages, verified.
    fn read_pages(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        let failure = self.failure();
        let Some(failure) = &*failure else {
            drop(failure);
            return self.read_stored(first, out);
        };
        for (page, out) in (first..).zip(out.chunks_mut(PAGE_BYTES as usize)) {
            match failure.aside.get(&page) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => self.read_stored(page, out)?,
            }
        }
        Ok(())
    }

    /// Whole pages from the disk, verified.
    fn read_stored(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        let mut page = first;
        let mut rest = out;
        while !rest.is_empty() {
            // Up to the end of the group they lie one after the other.
            let run = (GROUP_PAGES - page % GROUP_PAGES).min(pages(rest.len() as u64));
            let len = ((run * PAGE_BYTES) as usize).min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
            if self.file.read_at(place(page), now)? != len {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            for (number, bytes) in (page..).zip(now.chunks(PAGE_BYTES as usize)) {
                let known = self.known_sum(number)?;
                let is_sound = match known {
                    _ if number == 0 => true,
                    0 => bytes.iter().all(|byte| *byte == 0),
                    known => known == sum(number, bytes),
                };
                if !is_sound {
                    return Err(wrong(number));
                }
            }
            page += run;
            rest = later;
        }
        Ok(())
    }

    /// Bytes as the database sees them.
    ///
    /// # Errors
    /// `InvalidData` if a page is not what was written.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let before = (offset % PAGE_BYTES) as usize;
        let first = offset / PAGE_BYTES;
        if before == 0 && (out.len() as u64).is_multiple_of(PAGE_BYTES) {
            return self.read_pages(first, out);
        }
        let whole = (before + out.len()).next_multiple_of(PAGE_BYTES as usize);
        let mut covering = vec![0; whole];
        self.read_pages(first, &mut covering)?;
        let part = covering.get(before..before + out.len()).unwrap_or_default();
        out.copy_from_slice(part);
        Ok(())
    }

    /// Writes bytes as the database sees them.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let before = (offset % PAGE_BYTES) as usize;
        let first = offset / PAGE_BYTES;
        if before == 0 && (data.len() as u64).is_multiple_of(PAGE_BYTES) {
            return self.write_pages(first, data);
        }
        let whole = (before + data.len()).next_multiple_of(PAGE_BYTES as usize);
        let mut covering = vec![0; whole];
        self.read_pages(first, &mut covering)?;
        if let Some(part) = covering.get_mut(before..before + data.len()) {
            part.copy_from_slice(data);
        }
        self.write_pages(first, &covering)
    }

    fn write_pages(&self, first: u64, data: &[u8]) -> io::Result<()> {
        self.attempt(|| self.store(first, data));
        if let Some(failure) = &mut *self.failure() {
            let pages = data.chunks(PAGE_BYTES as usize);
            let pages = (first..).zip(pages.map(<[u8]>::to_vec));
            failure.aside.extend(pages);
        }
        let mut inner = self.inner_mut();
        inner.len = inner.len.max(first * PAGE_BYTES + data.len() as u64);
        Ok(())
    }

    fn store(&self, first: u64, data: &[u8]) -> io::Result<()> {
        let mut page = first;
        let mut rest = data;
        while !rest.is_empty() {
            let run = (GROUP_PAGES - page % GROUP_PAGES) * PAGE_BYTES;
            let (now, later) = rest.split_at((run as usize).min(rest.len()));
            for (number, bytes) in (page..).zip(now.chunks(PAGE_BYTES as usize)) {
                if number > 0 {
                    self.set_sum(number, sum(number, bytes))?;
                }
            }
            write_all_at(self.file.as_ref(), place(page), now)?;
            page += pages(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Cuts the file, or extends it with zeros.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        let kept = pages(len);
        self.load(kept / GROUP_PAGES)?;
        self.attempt(|| self.file.set_len(stored_len(len)));
        let mut inner = self.inner_mut();
        if len < inner.len {
            inner.groups.split_off(&(kept / GROUP_PAGES + 1));
            if let Some(sums) = inner.groups.get_mut(&(kept / GROUP_PAGES)) {
                let gone = sums.of_page.iter_mut().skip((kept % GROUP_PAGES) as usize);
                gone.for_each(|sum| *sum = 0);
                // Where the cut took the page of the sums, there is nothing to write.
                sums.is_dirty = !kept.is_multiple_of(GROUP_PAGES);
            }
        }
        inner.len = len;
        Ok(())
    }

    /// Makes everything written so far durable, with its sums.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.attempt(|| self.sync());
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut dirty = Vec::new();
        for (group, sums) in &mut self.inner_mut().groups {
            if std::mem::take(&mut sums.is_dirty) {
                let bytes = sums.of_page.iter().flat_map(|sum| sum.to_le_bytes());
                dirty.push((*group, bytes.collect::<Vec<u8>>()));
            }
        }
        for (group, bytes) in dirty {
            write_all_at(self.file.as_ref(), group * GROUP_BYTES, &bytes)?;
        }
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Entropy;
    use crate::store::disk::Disk;
    use crate::store::mem_disk::MemDisk;

    fn file() -> (MemDisk, Arc<dyn DiskFile>) {
        let disk = MemDisk::new(1 << 30);
        let file = disk.create("f").unwrap();
        (disk, file)
    }

    #[test]
    fn it_reads_like_a_plain_file_also_after_reopening() {
        let (_, stored) = file();
        let mut paged = PagedFile::new(Arc::clone(&stored)).unwrap();
        let entropy = Entropy::seeded(1);
        let mut model: Vec<u8> = Vec::new();
        for round in 0..400u64 {
            let page = entropy.below(2 * GROUP_PAGES + 5);
            match entropy.below(8) {
                0 => {
                    let len = page * PAGE_BYTES;
                    paged.set_len(len).unwrap();
                    model.resize(len as usize, 0);
                }
                1 => {
                    paged.sync_data().unwrap();
                    paged = PagedFile::new(Arc::clone(&stored)).unwrap();
                }
                _ if !model.is_empty() => {
                    let at = (page * PAGE_BYTES) as usize % model.len();
                    let mut data = vec![0; (1 + entropy.below(4) as usize) * 4096];
                    entropy.fill(&mut data);
                    data.truncate(model.len() - at);
                    // Parts of pages as well.
                    let (at, data) = match round % 5 {
                        0 => (at + 100, &data[..data.len() / 2]),
                        _ => (at, data.as_slice()),
                    };
                    paged.write(at as u64, data).unwrap();
                    model[at..at + data.len()].copy_from_slice(data);
                }
                _ => {}
            }
            assert_eq!(paged.len(), model.len() as u64, "round {round}");
            let mut found = vec![1; model.len()];
            paged.read(0, &mut found).unwrap();
            assert!(found == model, "round {round}");
        }
    }

    #[test]
    fn a_changed_or_misplaced_page_is_refused() {
        let (disk, stored) = file();
        let paged = PagedFile::new(Arc::clone(&stored)).unwrap();
        paged.set_len(10 * PAGE_BYTES).unwrap();
        let data: Vec<u8> = (0..3 * 4096u32).map(|at| (at + at / 4096) as u8).collect();
        paged.write(4 * PAGE_BYTES, &data).unwrap();
        paged.sync_data().unwrap();
        let mut out = vec![0; 4096];
        for (at, bit) in [
            (place(5), 0),
            (place(5) + 4095, 7),
            (place(7) + 9, 3),
            (20, 1),
        ] {
            assert!(disk.flip_bit("f", at, bit));
            let paged = PagedFile::new(Arc::clone(&stored)).unwrap();
            let refused = (1..10).filter(|page| {
                let read = paged.read(page * PAGE_BYTES, &mut out);
                read.is_err_and(|error| error.kind() == ErrorKind::InvalidData)
            });
            assert_eq!(refused.count(), 1, "byte {at}");
            assert!(disk.flip_bit("f", at, bit));
        }
        // The same bytes in another place.
        let copy = stored.read_vec(place(4), 4096).unwrap();
        write_all_at(stored.as_ref(), place(5), &copy).unwrap();
        assert!(paged.read(5 * PAGE_BYTES, &mut out).is_err());
        assert!(paged.read(4 * PAGE_BYTES, &mut out).is_ok());
    }
}
