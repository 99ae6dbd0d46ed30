//! Shards of others, kept for a while: what was fetched once need not be fetched again.
//!
//! A ring of files that are written one after the other and removed oldest first. Nothing in them is
//! durable, claimed or told to anybody; they are removed when the store is opened. What is read back is
//! checked as any shard is. The room they take is what data of peers does not need.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::quota::Ledger;
use crate::base::{BlockId, IndexSet, ShardId};
use crate::erasure::VerifiedShard;

/// Where they are.
pub(super) const RING_DIR: &str = "cache";
/// Files that the budget is divided into, so that little goes at once.
const FILES: u64 = 16;
/// Bounds of the size of one file.
const FILE_MIN: u64 = 1 << 20;
const FILE_MAX: u64 = 64 << 20;
/// Records begin at multiples of this, so that what they take is what is counted.
const UNIT: u64 = 4096;
/// Most shards remembered, so that tiny ones do not fill the memory.
const SHARDS_MAX: usize = 64 << 10;

/// Whether a file belongs to the ring.
pub(super) fn is_ring(name: &str) -> bool {
    name.strip_prefix(RING_DIR)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn name(number: u64) -> String {
    format!("{RING_DIR}/ring-{number:08x}")
}

/// The ring of one store.
#[derive(Debug)]
pub(super) struct Ring {
    disk: Arc<dyn Disk>,
    ledger: Ledger,
    /// Most bytes, whatever room there is.
    budget: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, RingFile>,
    places: BTreeMap<ShardId, Place>,
    next: u64,
    /// Of all files.
    bytes: u64,
}

#[derive(Debug)]
struct RingFile {
    file: Arc<dyn DiskFile>,
    len: u64,
    shards: Vec<ShardId>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    file: u64,
    offset: u64,
    header_len: usize,
    data_len: usize,
}

impl Ring {
    /// An empty ring. Files that an earlier process left are removed.
    pub(super) fn new(disk: Arc<dyn Disk>, ledger: Ledger, budget: u64) -> Self {
        let ring = Ring {
            disk,
            ledger,
            budget,
            state: Mutex::default(),
        };
        if let Err(error) = ring.sweep() {
            tracing::warn!("removing cached shards of an earlier run: {error}");
        }
        ring
    }

    fn sweep(&self) -> io::Result<()> {
        let names = match self.disk.list(RING_DIR) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        for name in names {
            self.disk.remove(&format!("{RING_DIR}/{name}"))?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Whether anything may be kept at all.
    pub(super) const fn is_wanted(&self) -> bool {
        self.budget > 0
    }

    /// Bytes that it may have now.
    fn allowed(&self) -> u64 {
        self.budget.min(self.ledger.ring_room())
    }

    /// Gives back what others need by now. To be called before anything of theirs is written.
    pub(super) fn make_room(&self) {
        if self.ledger.ring() == 0 {
            return;
        }
        let mut state = self.lock();
        self.shrink(&mut state, self.allowed());
    }

    /// Removes files until there are at most `most` bytes.
    fn shrink(&self, state: &mut State, most: u64) {
        while state.bytes > most
            && let Some((number, file)) = state.files.pop_first()
        {
            state.bytes -= file.len;
            for shard in file.shards {
                // It may have been written again since.
                if state.places.get(&shard).is_some_and(|p| p.file == number) {
                    state.places.remove(&shard);
                }
            }
            if let Err(error) = self.disk.remove(&name(number)) {
                tracing::warn!("removing cached shards: {error}");
            }
        }
        self.ledger.set_ring(state.bytes);
    }

    /// Keeps a shard, if there is room. Failing to is no harm.
    pub(super) fn put(&self, shard: &VerifiedShard) {
        let len = (shard.header().len() + shard.data().len()) as u64;
        let len = len.next_multiple_of(UNIT);
        let mut state = self.lock();
        if state.places.contains_key(&shard.id()) {
            return;
        }
        let allowed = self.allowed();
        if len > allowed {
            return;
        }
        let file_len = (allowed / FILES).clamp(FILE_MIN, FILE_MAX);
        self.shrink(&mut state, allowed - len);
        if let Err(error) = self.append(&mut state, shard, len, file_len) {
            tracing::debug!("a shard is not cached: {error}");
        }
        while state.places.len() > SHARDS_MAX && state.files.len() > 1 {
            let most = state.bytes - 1;
            self.shrink(&mut state, most);
        }
        self.ledger.set_ring(state.bytes);
    }

    fn append(
        &self,
        state: &mut State,
        shard: &VerifiedShard,
        len: u64,
        file_len: u64,
    ) -> io::Result<()> {
        let last = state.files.last_entry();
        let is_full = last.is_none_or(|last| last.get().len + len > file_len);
        if is_full {
            let file = match self.disk.create(&name(state.next)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.disk.create_dir(RING_DIR)?;
                    self.disk.create(&name(state.next))
                }
                created => created,
            };
            let file = RingFile {
                file: file?,
                len: 0,
                shards: Vec::new(),
            };
            state.files.insert(state.next, file);
            state.next += 1;
        }
        let Some(mut last) = state.files.last_entry() else {
            return Ok(());
        };
        let (number, offset) = (*last.key(), last.get().len);
        let mut parts = [IoSlice::new(shard.header()), IoSlice::new(shard.data())];
        // Counted in any case: an error may come after a part was written.
        last.get_mut().len += len;
        state.bytes += len;
        last.get().file.write_at(offset, &mut parts)?;
        last.get_mut().shards.push(shard.id());
        let place = Place {
            file: number,
            offset,
            header_len: shard.header().len(),
            data_len: shard.data().len(),
        };
        state.places.insert(shard.id(), place);
        Ok(())
    }

    /// The shards of `block` among `wanted` that are here and verify, at most `most`.
    pub(super) fn get(&self, block: BlockId, wanted: IndexSet, most: usize) -> Vec<VerifiedShard> {
        let mut found = Vec::new();
        for index in wanted.iter() {
            if found.len() >= most {
                break;
            }
            let id = ShardId { block, index };
            let Some((place, file)) = self.place(id) else {
                continue;
            };
            match read(&file, &place, id) {
                Some(shard) => found.push(shard),
                None => self.forget(id, &place),
            }
        }
        found
    }

    fn place(&self, id: ShardId) -> Option<(Place, Arc<dyn DiskFile>)> {
        let state = self.lock();
        let place = *state.places.get(&id)?;
        let file = Arc::clone(&state.files.get(&place.file)?.file);
        Some((place, file))
    }

    /// Forgets a copy that does not verify.
    fn forget(&self, id: ShardId, bad: &Place) {
        tracing::debug!(?id, "a cached shard is damaged");
        let mut state = self.lock();
        let known = state.places.get(&id);
        if known.is_some_and(|place| (place.file, place.offset) == (bad.file, bad.offset)) {
            state.places.remove(&id);
        }
    }
}

fn read(file: &Arc<dyn DiskFile>, place: &Place, id: ShardId) -> Option<VerifiedShard> {
    let len = place.header_len + place.data_len;
    let bytes: Bytes = file.read_bytes(place.offset, len).ok()?;
    if bytes.len() != len {
        return None;
    }
    let header = bytes.slice(..place.header_len);
    let data = bytes.slice(place.header_len..);
    VerifiedShard::verify(id.block, id.index, header, data).ok()
}
