//! What the writer, the readers and the handle of one open store have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use super::disk::{Disk, DiskEntry, DiskFile};
use super::error::StoreError;
use super::index::{INDEX_FILE, SharedIndex};
use super::parts::Outboards;
use super::quota::Ledger;
use super::record::{ChecksumKey, Position};
use super::ring::{Ring, is_ring};
use super::segment::{is_segment, segment_name};
use super::volume::counted_by;
use crate::base::limits::{LOG_DIR, LOGS_MAX_BYTES};
use crate::base::{Clock, Entropy, ShardId, VolumeId};

/// Segment files kept open.
const OPEN_FILES: usize = 64;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Hard limit on the bytes allocated by the whole data directory.
    pub quota_bytes: u64,
    /// Space of the disk that is left to others.
    pub reserve_free_bytes: u64,
    /// Size of a segment; `None`: follows the quota.
    pub segment_bytes: Option<u64>,
    /// How long a commit waits for company. Zero: takes what is there already.
    pub commit_window: Duration,
    /// Bytes of shards after which a commit waits no longer.
    pub commit_bytes: usize,
    /// Writes that may wait.
    pub queue: usize,
    /// Bytes of shards that may wait.
    pub queue_bytes: usize,
    /// The index is brought up to date after so many changed rows.
    pub flush_rows: usize,
    /// ... or after so many bytes of log: what a start after a crash has to read.
    pub flush_tail_bytes: u64,
    /// ... or when nothing was written for so long.
    pub flush_idle: Duration,
    /// Memory that the index database may use as a cache.
    pub cache_bytes: usize,
    /// Memory for what parts of recently used shards are checked with: about 1/500 of those shards.
    pub outboard_bytes: usize,
    /// Most bytes of the directory for shards of others that were fetched; they make way for data.
    pub ring_bytes: u64,
    /// Bytes that compaction moves before it lets other work pass.
    pub compaction_step_bytes: u64,
    /// Bytes per second that compaction may move while there is room.
    pub compaction_rate: u64,
    /// How often expired claims are looked for.
    pub expiry_interval: Duration,
    /// How long what nothing keeps any more rests before it goes; zero: it goes at once.
    pub trash: Duration,
    /// For the identity of a new store.
    pub entropy: Entropy,
}

impl StoreOptions {
    /// The usual bounds under a quota.
    pub fn new(quota_bytes: u64, entropy: Entropy) -> Self {
        StoreOptions {
            quota_bytes,
            reserve_free_bytes: 0,
            segment_bytes: None,
            commit_window: Duration::ZERO,
            commit_bytes: 4 << 20,
            queue: 1024,
            queue_bytes: 16 << 20,
            flush_rows: 16_384,
            flush_tail_bytes: (quota_bytes / 8).clamp(4 << 20, 256 << 20),
            flush_idle: Duration::from_secs(5),
            cache_bytes: 4 << 20,
            outboard_bytes: 8 << 20,
            ring_bytes: 0,
            compaction_step_bytes: 1 << 20,
            compaction_rate: 64 << 20,
            expiry_interval: Duration::from_secs(60),
            trash: Duration::ZERO,
            entropy,
        }
    }
}

/// Shared by everything that belongs to one open store.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) store_id: [u8; 16],
    pub(super) key: ChecksumKey,
    pub(super) index: SharedIndex,
    pub(super) ledger: Ledger,
    pub(super) files: Files,
    pub(super) outboards: Outboards,
    pub(super) ring: Arc<Ring>,
    pub(super) clock: Clock,
    pub(super) options: StoreOptions,
    /// Held for reading during look-ups, for writing while the index is rebuilt.
    pub(super) gate: RwLock<()>,
    /// Counts rebuilds of the index.
    pub(super) generation: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) closed: AtomicBool,
    volumes: Mutex<BTreeSet<VolumeId>>,
    poison: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        store_id: [u8; 16],
        index: SharedIndex,
        ledger: Ledger,
        options: StoreOptions,
        clock: Clock,
    ) -> Self {
        Shared {
            files: Files::new(Arc::clone(&disk)),
            outboards: Outboards::new(options.outboard_bytes),
            ring: Arc::new(Ring::new(
                Arc::clone(&disk),
                ledger.clone(),
                options.ring_bytes,
            )),
            disk,
            store_id,
            key: ChecksumKey::new(&store_id),
            index,
            ledger,
            clock,
            options,
            gate: RwLock::new(()),
            generation: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            volumes: Mutex::default(),
            poison: Mutex::new(None),
        }
    }

    /// Refuses writes from now on.
    pub(super) fn poison(&self, why: String) {
        let mut poison = self.poison.lock().unwrap_or_else(|p| p.into_inner());
        poison.get_or_insert(why);
    }

    /// Remembers and counts a shard that does not verify where it is.
    pub(super) fn note_damage(&self, shard: ShardId, at: Position) {
        if self.index.report_damage(shard, at) {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                ?shard,
                segment = at.segment,
                "a shard on this disk is damaged"
            );
        }
    }

    /// The volumes that are open, or are being made or removed.
    pub(super) fn open_volumes(&self) -> MutexGuard<'_, BTreeSet<VolumeId>> {
        self.volumes.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// Whether a file is counted by an open volume.
    pub(super) fn counts_itself(&self, name: &str) -> bool {
        counted_by(name).is_some_and(|id| self.ledger.has_volume(id))
    }

    /// Counts what neither the log nor an open volume writes.
    pub(super) fn count_rest(&self) {
        let Ok(entries) = self.disk.walk(&|name| is_segment(name) || is_ring(name)) else {
            return;
        };
        let (mut index, mut other) = (0, 0);
        self.ledger.set_aside(logs_may_grow(&entries));
        for entry in entries {
            if entry.name == INDEX_FILE {
                index += entry.allocated;
            } else if !self.counts_itself(&entry.name) {
                other += entry.allocated;
            }
        }
        self.ledger.set_index(index);
        self.ledger.set_other(other);
    }

    /// Why writes are refused, if they are.
    pub(super) fn poisoned(&self) -> Option<StoreError> {
        let poison = self.poison.lock().unwrap_or_else(|p| p.into_inner());
        poison.clone().map(StoreError::Poisoned)
    }

    /// Whether writes are accepted.
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        self.poisoned().map_or(Ok(()), Err)
    }
}

/// What the logs of the data directory, if it has any, may grow by: nobody asks the store before they do.
pub(super) fn logs_may_grow(entries: &[DiskEntry]) -> u64 {
    let is_log = |entry: &&DiskEntry| {
        let below = entry.name.strip_prefix(LOG_DIR);
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    };
    let mut logs = entries.iter().filter(is_log).peekable();
    if logs.peek().is_none() {
        return 0;
    }
    let allocated: u64 = logs.map(|entry| entry.allocated).sum();
    LOGS_MAX_BYTES.saturating_sub(allocated)
}

/// Open segment files: the few used last.
#[derive(Debug)]
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: BTreeMap<u32, (Arc<dyn DiskFile>, u64)>,
    uses: u64,
}

impl Files {
    fn new(disk: Arc<dyn Disk>) -> Self {
        Files {
            disk,
            open: Mutex::default(),
        }
    }

    /// The file of a segment.
    pub(super) fn get(&self, id: u32) -> io::Result<Arc<dyn DiskFile>> {
        {
            let mut open = self.open.lock().unwrap_or_else(|p| p.into_inner());
            open.uses += 1;
            let now = open.uses;
            if let Some((file, used)) = open.files.get_mut(&id) {
                *used = now;
                return Ok(Arc::clone(file));
            }
        }
        let file = self.disk.open(&segment_name(id))?;
        self.insert(id, Arc::clone(&file));
        Ok(file)
    }

    pub(super) fn insert(&self, id: u32, file: Arc<dyn DiskFile>) {
        let mut open = self.open.lock().unwrap_or_else(|p| p.into_inner());
        open.uses += 1;
        let now = open.uses;
        open.files.insert(id, (file, now));
        if open.files.len() > OPEN_FILES {
            let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                open.files.remove(&id);
            }
        }
    }

    pub(super) fn forget(&self, id: u32) {
        let mut open = self.open.lock().unwrap_or_else(|p| p.into_inner());
        open.files.remove(&id);
    }
}
