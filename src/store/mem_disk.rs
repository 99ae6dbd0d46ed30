//! [`Disk`] in memory that forgets as a real one may: what was not synced is lost, kept or torn in a
//! crash image, by seed. For tests and simulation.

mod file;
mod handle;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use self::file::{BLOCK, File};
use self::handle::MemFile;
use super::disk::{Disk, DiskEntry, DiskFile};

pub use self::file::Crash;

/// A call that changes the disk, as fault hooks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOp {
    /// `write_at`.
    Write,
    /// `sync_data` or `sync_dir`.
    Sync,
    /// `set_len`.
    SetLen,
    /// `punch_hole`.
    Punch,
    /// Creation, removal, renaming.
    Name,
    /// `read_at` or `read_vec` (not counted among the changes).
    Read,
}

/// Asked before each call; an error is what the call then answers (a failed sync dooms what was
/// not synced before, as Linux does).
pub type FaultHook = Box<dyn FnMut(DiskOp, &str) -> Option<io::ErrorKind> + Send>;

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct MemDisk(Arc<Mutex<State>>);

struct State {
    capacity: u64,
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    dirs: BTreeSet<String>,
    /// Name changes not yet durable, oldest first, with the map before each.
    unsynced_names: Vec<BTreeMap<String, u64>>,
    next_file: u64,
    changes: u64,
    power_off_at: Option<u64>,
    hook: Option<FaultHook>,
    /// What cannot be read of a file.
    broken: Option<(String, Range<u64>)>,
    bytes_read: BTreeMap<String, u64>,
    bytes_written: u64,
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemDisk(..)")
    }
}

impl MemDisk {
    /// An empty disk of `capacity_bytes`.
    pub fn new(capacity_bytes: u64) -> Self {
        MemDisk(Arc::new(Mutex::new(State {
            capacity: capacity_bytes,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            dirs: BTreeSet::from([String::new()]),
            unsynced_names: Vec::new(),
            next_file: 0,
            changes: 0,
            power_off_at: None,
            hook: None,
            broken: None,
            bytes_read: BTreeMap::new(),
            bytes_written: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Number of changing calls so far.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Lets the power fail in the changing call after `changes` of them: that call and all later
    /// calls answer errors.
    pub fn power_off_at(&self, changes: u64) {
        self.state().power_off_at = Some(changes);
    }

    /// Installs (or removes) a hook that may fail calls.
    pub fn set_hook(&self, hook: Option<FaultHook>) {
        self.state().hook = hook;
    }

    /// Changes how much fits.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.state().capacity = capacity_bytes;
    }

    /// The disk as it may be found after the power failed now.
    pub fn crash_image(&self, mode: &Crash) -> MemDisk {
        let state = self.state();
        let kept = match mode {
            Crash::LoseAll => 0,
            Crash::KeepAll => state.unsynced_names.len(),
            Crash::Random(entropy) => entropy.below(state.unsynced_names.len() as u64 + 1) as usize,
        };
        // Journaled file systems keep the order of name changes: a prefix of them survives.
        let names = state.unsynced_names.get(kept).unwrap_or(&state.names);
        let files = names
            .values()
            .filter_map(|id| Some((*id, state.files.get(id)?.after_crash(mode))))
            .collect();
        let image = MemDisk::new(state.capacity);
        {
            let mut fresh = image.state();
            fresh.names = names.clone();
            fresh.files = files;
            fresh.dirs = state.dirs.clone();
            fresh.next_file = state.next_file;
        }
        image
    }

    /// Inverts one bit of a file. Answers whether there is such a byte.
    pub fn flip_bit(&self, name: &str, at: u64, bit: u8) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.get(name).copied() else {
            return false;
        };
        let byte = state
            .files
            .get_mut(&id)
            .and_then(|file| file.bytes.get_mut(at as usize));
        byte.map(|byte| *byte ^= 1 << (bit % 8)).is_some()
    }

    /// Lets reads fail that need any of these bytes of a file; an empty range: none.
    pub fn break_range(&self, name: &str, range: Range<u64>) {
        self.state().broken = Some((name.to_owned(), range));
    }

    /// Bytes read so far from files whose names begin with `prefix`.
    pub fn bytes_read(&self, prefix: &str) -> u64 {
        let state = self.state();
        let matching = state
            .bytes_read
            .iter()
            .filter(|(n, _)| n.starts_with(prefix));
        matching.map(|(_, bytes)| bytes).sum()
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        self.state().bytes_written
    }
}

impl State {
    /// Counts a change and decides whether it happens. `Err((error, power_failed))`.
    fn before(&mut self, op: DiskOp, name: &str) -> Result<(), (io::Error, bool)> {
        let off = |state: &State| state.power_off_at.is_some_and(|at| state.changes > at);
        let dead = || io::Error::other("the power is off");
        if off(self) {
            return Err((dead(), false));
        }
        if op != DiskOp::Read {
            self.changes += 1;
        }
        if off(self) {
            return Err((dead(), true));
        }
        match self.hook.as_mut().and_then(|hook| hook(op, name)) {
            Some(kind) => Err((io::Error::new(kind, "injected fault"), false)),
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|id| self.files.get(id));
        named.map(File::allocated).sum()
    }

    fn change_names(&mut self, edit: impl FnOnce(&mut BTreeMap<String, u64>)) {
        self.unsynced_names.push(self.names.clone());
        edit(&mut self.names);
    }

    fn file(&mut self, id: u64) -> io::Result<&mut File> {
        self.files
            .get_mut(&id)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for MemDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let id = state.names.get(name).copied().ok_or_else(not_found)?;
        let handle = Arc::clone(&state.file(id)?.handles);
        Ok(Arc::new(MemFile {
            disk: self.clone(),
            id,
            name: name.to_owned(),
            _handle: handle,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state
            .before(DiskOp::Name, name)
            .map_err(|(error, _)| error)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, File::named(name));
        state.change_names(|names| {
            names.insert(name.to_owned(), id);
        });
        drop(state);
        self.open(name)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.state().dirs.insert(name.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state
            .before(DiskOp::Name, name)
            .map_err(|(error, _)| error)?;
        if !state.names.contains_key(name) {
            return Err(not_found());
        }
        state.change_names(|names| {
            names.remove(name);
        });
        Ok(())
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state
            .before(DiskOp::Name, name)
            .map_err(|(error, _)| error)?;
        let within = format!("{name}/");
        if state.names.keys().any(|name| name.starts_with(&within)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        match state.dirs.remove(name) {
            true => Ok(()),
            false => Err(not_found()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state
            .before(DiskOp::Name, from)
            .map_err(|(error, _)| error)?;
        let id = state.names.get(from).copied().ok_or_else(not_found)?;
        state.change_names(|names| {
            names.remove(from);
            names.insert(to.to_owned(), id);
        });
        if let Ok(file) = state.file(id) {
            file.name = to.to_owned();
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state();
        state
            .before(DiskOp::Sync, dir)
            .map_err(|(error, _)| error)?;
        // As ext4 does: a commit of the journal makes all earlier name changes durable.
        state.unsynced_names.clear();
        let State { files, names, .. } = &mut *state;
        let named: BTreeSet<u64> = names.values().copied().collect();
        files.retain(|id, file| named.contains(id) || Arc::strong_count(&file.handles) > 1);
        Ok(())
    }

    fn walk(&self, skip: &dyn Fn(&str) -> bool) -> io::Result<Vec<DiskEntry>> {
        let state = self.state();
        let mut found: Vec<DiskEntry> = state
            .dirs
            .iter()
            .filter(|name| name.is_empty() || !skip(name))
            .map(|name| DiskEntry {
                name: name.clone(),
                len: 0,
                allocated: BLOCK as u64,
                is_dir: true,
            })
            .collect();
        for (name, id) in state.names.iter().filter(|(name, _)| !skip(name)) {
            if let Some(file) = state.files.get(id) {
                found.push(DiskEntry {
                    name: name.clone(),
                    len: file.bytes.len() as u64,
                    allocated: file.allocated(),
                    is_dir: false,
                });
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        let in_dir = state.names.keys().filter_map(|name| {
            let (parent, base) = name.rsplit_once('/').unwrap_or(("", name));
            (parent == dir).then(|| base.to_owned())
        });
        Ok(in_dir.collect())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::write_all_at;

    #[test]
    fn a_crash_keeps_what_was_synced_and_mixes_the_rest() {
        let disk = MemDisk::new(1 << 20);
        let file = disk.create("a").unwrap();
        write_all_at(file.as_ref(), 0, &[1; 2000]).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir("").unwrap();
        write_all_at(file.as_ref(), 1000, &[2; 3000]).unwrap();
        let read = |seed: u64| {
            let image = disk.crash_image(&Crash::seeded(seed));
            let len = image.open("a").unwrap().len().unwrap() as usize;
            image.open("a").unwrap().read_vec(0, len).unwrap()
        };
        assert_eq!(read(0), vec![1; 2000]);
        assert_eq!(read(1).len(), 4000);
        let torn = (2..40).filter(|seed| {
            let bytes = read(*seed);
            assert_eq!(bytes[..1000], [1; 1000]);
            bytes.len() > 2000 && bytes[1000..].contains(&0)
        });
        assert!(torn.count() > 0);
    }

    #[test]
    fn names_need_their_directory_synced_and_failed_syncs_doom() {
        let disk = MemDisk::new(1 << 20);
        let file = disk.create("a").unwrap();
        assert!(disk.crash_image(&Crash::LoseAll).open("a").is_err());
        disk.sync_dir("").unwrap();
        write_all_at(file.as_ref(), 0, b"lost").unwrap();
        disk.set_hook(Some(Box::new(|op, _| {
            (op == DiskOp::Sync).then_some(io::ErrorKind::Other)
        })));
        assert!(file.sync_data().is_err());
        disk.set_hook(None);
        write_all_at(file.as_ref(), 4, b"kept").unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.read_vec(0, 8).unwrap(), b"lostkept");
        let image = disk.crash_image(&Crash::KeepAll).open("a").unwrap();
        assert_eq!(image.read_vec(0, 8).unwrap(), b"\0\0\0\0kept");
    }

    #[test]
    fn holes_give_space_back_and_capacity_holds() {
        let disk = MemDisk::new(64 << 10);
        let file = disk.create("a").unwrap();
        write_all_at(file.as_ref(), 0, &[7; 40 << 10]).unwrap();
        assert!(write_all_at(file.as_ref(), 40 << 10, &[7; 40 << 10]).is_err());
        file.punch_hole(4096, 32 << 10).unwrap();
        assert_eq!(file.allocated().unwrap(), 8 << 10);
        assert_eq!(disk.free_bytes().unwrap(), 56 << 10);
    }
}
