//! Watching for names of blocks that come while somebody asks about them. A watch begins in the same moment as the look
//! through everything that is there, and sees every row that changes after that: so what it says is true of the
//! whole time since. It is in memory only, and whoever asks for one that is gone hears so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant};

use crate::base::limits::CHUNK_MAX_BYTES;
use crate::base::{BlockId, PeerId};
use crate::dag;
use crate::feeds::Told;
use crate::feeds::clearing::bits_of;
use crate::namespace::state::decode_row;
use crate::namespace::{Changes, Key, VersionVector};
use crate::vfs::checkpoint::bodies;
use crate::vfs::remove::Gone;

/// A round ends within this time.
const LIFE: Duration = Duration::from_secs(900);
/// Members that ask at a time.
const WATCHES_MAX: usize = 64;
/// Looks that may wait for one another.
const LOOKS_MAX: usize = 8;
/// Contents with manifests that may come during a round.
const LOGGED_MAX: usize = 4096;

struct Watch {
    round: u64,
    version: VersionVector,
    /// Ascending.
    blocks: Vec<BlockId>,
    named: Vec<bool>,
    /// Bytes of each that are in use, of own blocks only; the most that can be where that is not known.
    used: Vec<u64>,
    /// Contents that came, and whose manifests nobody has looked into yet.
    logged: Vec<Gone>,
    is_looked_through: bool,
    /// Too much came, or something that cannot be looked through beside everything else.
    is_void: bool,
    /// Whether snapshots that come are to be looked through as well.
    has_snapshots: bool,
    begun: Instant,
}

impl Watch {
    fn name(&mut self, block: &BlockId) {
        self.use_bytes(block, u64::MAX);
    }

    fn use_bytes(&mut self, block: &BlockId, bytes: u64) {
        let Ok(at) = self.blocks.binary_search(block) else {
            return;
        };
        if let Some(named) = self.named.get_mut(at) {
            *named = true;
        }
        if let Some(used) = self.used.get_mut(at) {
            *used = used.saturating_add(bytes);
        }
    }

    fn log(&mut self, body: &Gone) {
        match &body.1 {
            dag::Body::Inline(extents) => {
                extents
                    .iter()
                    .for_each(|extent| self.name(&extent.block.id));
            }
            dag::Body::Manifest(_) if self.logged.contains(body) => {}
            dag::Body::Manifest(_) if self.logged.len() >= LOGGED_MAX => self.is_void = true,
            dag::Body::Manifest(root) => {
                self.name(&root.block.id);
                self.logged.push(body.clone());
            }
        }
    }
}

/// All watches of one open volume.
pub(in crate::vfs) struct Watches {
    is_any: AtomicBool,
    all: Mutex<BTreeMap<PeerId, Watch>>,
    /// Held by who looks through everything.
    pub(super) looking: tokio::sync::Mutex<()>,
    /// Looks that others wait for.
    pub(super) places: Arc<Semaphore>,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches {
            is_any: AtomicBool::new(false),
            all: Mutex::default(),
            looking: tokio::sync::Mutex::new(()),
            places: Arc::new(Semaphore::new(LOOKS_MAX)),
        }
    }
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Watch>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, asker: PeerId, round: u64, look: impl FnOnce(&mut Watch) -> T) -> Option<T> {
        let mut all = self.lock();
        let watch = all.get_mut(&asker).filter(|watch| watch.round == round)?;
        Some(look(watch))
    }

    /// Begins a watch for somebody in place of what it had. The caller holds the lock of the core. False if too many watch.
    pub(super) fn begin(
        &self,
        asker: PeerId,
        round: u64,
        version: VersionVector,
        blocks: Vec<BlockId>,
        has_snapshots: bool,
    ) -> bool {
        let mut all = self.lock();
        all.retain(|_, watch| watch.begun.elapsed() < LIFE);
        if all.len() >= WATCHES_MAX && !all.contains_key(&asker) {
            return false;
        }
        let watch = Watch {
            round,
            version,
            named: vec![false; blocks.len()],
            used: vec![0; if has_snapshots { blocks.len() } else { 0 }],
            blocks,
            logged: Vec::new(),
            is_looked_through: false,
            is_void: false,
            has_snapshots,
            begun: Instant::now(),
        };
        all.insert(asker, watch);
        self.is_any.store(true, Ordering::Release);
        true
    }

    pub(super) fn end(&self, asker: PeerId, round: u64) {
        let mut all = self.lock();
        if all.get(&asker).is_some_and(|watch| watch.round == round) {
            all.remove(&asker);
        }
        self.is_any.store(!all.is_empty(), Ordering::Release);
    }

    /// Rows have changed. The caller holds the lock of the core.
    pub(in crate::vfs) fn see(&self, changes: &Changes) {
        if !self.is_any.load(Ordering::Acquire) {
            return;
        }
        let mut all = self.lock();
        for (key, value) in changes {
            let Some(value) = value else { continue };
            see_row(&mut all, key, value);
        }
        all.retain(|_, watch| watch.begun.elapsed() < LIFE);
        self.is_any.store(!all.is_empty(), Ordering::Release);
    }

    pub(super) fn name<'a>(
        &self,
        asker: PeerId,
        round: u64,
        blocks: impl Iterator<Item = &'a BlockId>,
    ) {
        self.with(asker, round, |watch| {
            blocks.for_each(|block| watch.name(block));
        });
    }

    /// Bytes of blocks are in use.
    pub(super) fn use_bytes(
        &self,
        asker: PeerId,
        round: u64,
        uses: impl Iterator<Item = (BlockId, u64)>,
    ) {
        self.with(asker, round, |watch| {
            uses.for_each(|(block, bytes)| watch.use_bytes(&block, bytes));
        });
    }

    /// Bytes of each block that are in use, in order; none if that was not looked at.
    pub(super) fn used(&self, asker: PeerId, round: u64) -> Option<Vec<u64>> {
        self.with(asker, round, |watch| watch.used.clone())
    }

    pub(super) fn log(&self, asker: PeerId, round: u64, bodies: Vec<Gone>) {
        self.with(asker, round, |watch| {
            bodies.iter().for_each(|body| watch.log(body));
        });
    }

    /// Contents that are to be looked into.
    pub(super) fn take_logged(&self, asker: PeerId, round: u64) -> Vec<Gone> {
        let logged = self.with(asker, round, |watch| std::mem::take(&mut watch.logged));
        logged.unwrap_or_default()
    }

    pub(super) fn has_logged(&self, asker: PeerId, round: u64) -> bool {
        let has = self.with(asker, round, |watch| !watch.logged.is_empty());
        has.unwrap_or(false)
    }

    /// Whether there are blocks of which not all is in use as far as is known.
    pub(super) fn has_free(&self, asker: PeerId, round: u64) -> bool {
        let has = self.with(asker, round, |watch| {
            watch.used.iter().any(|used| *used < CHUNK_MAX_BYTES as u64)
        });
        has.unwrap_or(false)
    }

    /// All that was there when the watch began has been looked through.
    pub(super) fn is_looked_through(&self, asker: PeerId, round: u64) {
        self.with(asker, round, |watch| watch.is_looked_through = true);
    }

    /// Blocks that were not named since the watch began; none if there is no such watch, or it missed something.
    pub(super) fn unnamed(&self, asker: PeerId, round: u64) -> Option<BTreeSet<BlockId>> {
        let unnamed = self.with(asker, round, |watch| {
            let all = watch.blocks.iter().zip(&watch.named);
            let unnamed = all.filter(|(_, is_named)| !**is_named);
            let is_whole = watch.is_looked_through && !watch.is_void;
            is_whole.then(|| unnamed.map(|(block, _)| *block).collect())
        });
        unnamed.flatten()
    }

    /// Which blocks were named since the watch began; none if there is no such watch, or it missed something.
    pub(super) fn named(&self, asker: PeerId, round: u64) -> Option<Vec<bool>> {
        self.second_answer(asker, round).map(|(_, named)| named)
    }

    /// What is answered to a first question of a round that was begun.
    pub(super) fn first_answer(&self, asker: PeerId, round: u64) -> Option<Told> {
        self.with(asker, round, |watch| {
            match (watch.is_void, watch.is_looked_through) {
                (true, _) => Told::Lost,
                (false, false) => Told::Busy,
                (false, true) => Told::Named {
                    version: watch.version.clone(),
                    bits: bits_of(&watch.named),
                },
            }
        })
    }

    pub(super) fn second_answer(
        &self,
        asker: PeerId,
        round: u64,
    ) -> Option<(VersionVector, Vec<bool>)> {
        let answer = self.with(asker, round, |watch| {
            let is_whole = watch.is_looked_through && !watch.is_void;
            is_whole.then(|| (watch.version.clone(), watch.named.clone()))
        });
        answer.flatten()
    }
}

fn see_row(all: &mut BTreeMap<PeerId, Watch>, key: &[u8], value: &Bytes) {
    // Derived rows have keys of their own.
    let Ok(key) = Key::decode(key) else { return };
    match &key {
        Key::Content(_) => match decode_row(&key, value) {
            Ok(row) => {
                let bodies = bodies(&row);
                for watch in all.values_mut() {
                    bodies.iter().for_each(|body| watch.log(body));
                }
            }
            Err(_) => all.values_mut().for_each(|watch| watch.is_void = true),
        },
        Key::Snapshot(_) => {
            let asking = all.values_mut().filter(|watch| watch.has_snapshots);
            asking.for_each(|watch| watch.is_void = true);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockKey, BlockRef, EcProfile};
    use crate::dag::{Extent, NodeAt};

    const ASKER: PeerId = PeerId([1; 32]);

    fn block(tag: u8) -> BlockRef {
        BlockRef {
            id: BlockId([tag; 32]),
            key: BlockKey([0; 32]),
            plain_len: 100,
        }
    }

    fn inline(tag: u8) -> Gone {
        let extent = Extent {
            offset: 0,
            len: 10,
            block: block(tag),
            block_offset: 0,
        };
        (EcProfile::DEFAULT, dag::Body::Inline(vec![extent]))
    }

    fn manifest(tag: u8, offset: u32) -> Gone {
        let at = NodeAt {
            block: block(tag),
            offset,
            len: 10,
        };
        (EcProfile::DEFAULT, dag::Body::Manifest(at))
    }

    fn watching() -> Watches {
        let watches = Watches::default();
        let blocks = vec![BlockId([1; 32]), BlockId([2; 32]), BlockId([3; 32])];
        assert!(watches.begin(ASKER, 7, VersionVector::default(), blocks, false));
        watches
    }

    #[tokio::test]
    async fn what_is_named_once_stays_named_in_that_round() {
        let watches = watching();
        assert_eq!(watches.first_answer(ASKER, 7), Some(Told::Busy));
        watches.log(ASKER, 7, vec![inline(2)]);
        watches.is_looked_through(ASKER, 7);
        watches.log(ASKER, 7, vec![manifest(3, 0), manifest(3, 0)]);
        assert_eq!(watches.named(ASKER, 7), Some(vec![false, true, true]));
        assert_eq!(watches.take_logged(ASKER, 7), [manifest(3, 0)]);
        assert_eq!(watches.first_answer(ASKER, 8), None);
        assert_eq!(watches.named(PeerId([2; 32]), 7), None);
        // A later round knows nothing of the one before.
        let blocks = vec![BlockId([2; 32])];
        assert!(watches.begin(ASKER, 8, VersionVector::default(), blocks, false));
        watches.is_looked_through(ASKER, 8);
        assert_eq!(watches.named(ASKER, 8), Some(vec![false]));
        assert_eq!(watches.second_answer(ASKER, 7), None);
    }

    #[tokio::test]
    async fn too_much_at_a_time_says_nothing() {
        let watches = watching();
        watches.is_looked_through(ASKER, 7);
        let many = (0..=LOGGED_MAX).map(|offset| manifest(9, offset as u32));
        watches.log(ASKER, 7, many.collect());
        assert_eq!(watches.second_answer(ASKER, 7), None);
        assert_eq!(watches.first_answer(ASKER, 7), Some(Told::Lost));
    }
}
