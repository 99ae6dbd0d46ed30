//! Readers of one block, or of one frame of it, share one fetch; what was read last stays in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::range::{Frames, Known};
use super::{Blocks, GetError};
use crate::base::limits::FRAME_BYTES;
use crate::base::{BlockRef, EcProfile, Lru};

/// Memory for the headers of recently used blocks: some 4,000 of them.
const HEADERS_BYTES: usize = 8 << 20;
/// Memory that a block or frame takes besides its bytes.
const ENTRY_BYTES: usize = 256;

type Fetch<T> = Shared<BoxFuture<'static, Result<T, GetError>>>;

/// A fetch under way, as long as somebody waits for it.
struct Flight<T> {
    /// Tells it from an earlier one of the same key.
    number: u64,
    fetch: WeakShared<BoxFuture<'static, Result<T, GetError>>>,
}

/// A block, and how long a read of it waits: those who wait longer need a fetch of their own.
type BlockKey = (BlockRef, Duration);
/// One frame of it.
type FrameKey = (BlockRef, Duration, usize);

/// Fetches under way, and what was read last.
pub(super) struct SharedReads(Mutex<State>);

struct State {
    /// Plaintext: whole blocks (`None`) and single frames.
    plain: Lru<(BlockRef, Option<usize>), Bytes>,
    known: Lru<BlockRef, Arc<Known>>,
    blocks: BTreeMap<BlockKey, Flight<Bytes>>,
    frames: BTreeMap<FrameKey, Flight<Frames>>,
    flights: u64,
    /// Uses of `plain` when it was last looked at.
    uses_seen: u64,
}

impl std::fmt::Debug for SharedReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedReads(..)")
    }
}

/// What a reader of frames waits for.
pub(super) struct Planned {
    /// Frames that were in memory.
    pub have: Vec<(usize, Bytes)>,
    /// Fetches of the others.
    pub wait: Vec<Fetch<Frames>>,
}

/// What is in memory of a range.
pub(super) enum Recalled {
    /// All of it.
    Whole(Bytes),
    /// These frames are to be fetched or waited for.
    Plan(Planned),
}

impl Blocks {
    /// The verified plaintext of a block, from memory, the own store or the network.
    ///
    /// Cancel safe; a fetch that others wait for goes on.
    pub async fn read_block(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
    ) -> Result<Bytes, GetError> {
        let fetch = {
            let mut state = self.shared.lock();
            if let Some(bytes) = state.plain.get(&(*reference, None)) {
                return Ok(bytes.clone());
            }
            let key = (*reference, self.fetch_timeout);
            match under_way(&state.blocks, &key) {
                Some(fetch) => fetch,
                None => self.begin_block(&mut state, key, profile),
            }
        };
        fetch.await
    }

    fn begin_block(&self, state: &mut State, key: BlockKey, profile: EcProfile) -> Fetch<Bytes> {
        state.flights += 1;
        let number = state.flights;
        let (blocks, reference) = (self.clone(), key.0);
        // Taken out of the table with the future, whether it ends or nobody waits for it any more.
        let landing = Landing::new(self, move |state| {
            forget(&mut state.blocks, &key, number);
        });
        let fetch = async move {
            let _landing = landing;
            let bytes = blocks.fetch_block(&reference, profile).await?;
            let mut state = blocks.shared.lock();
            let weight = bytes.len() + ENTRY_BYTES;
            state.plain.insert((reference, None), bytes.clone(), weight);
            drop(state);
            Ok(bytes)
        };
        let fetch = fetch.boxed().shared();
        if let Some(weak) = fetch.downgrade() {
            let flight = Flight {
                number,
                fetch: weak,
            };
            state.blocks.insert(key, flight);
        }
        fetch
    }

    /// What memory has of the bytes `range`, which are within the block, and the fetches of what it lacks.
    pub(super) fn recall(
        &self,
        reference: &BlockRef,
        profile: EcProfile,
        range: &Range<usize>,
    ) -> Recalled {
        let mut state = self.shared.lock();
        if let Some(bytes) = state.plain.get(&(*reference, None)) {
            // The length of a whole block was compared with the reference.
            return Recalled::Whole(bytes.slice(range.clone()));
        }
        let mut planned = Planned {
            have: Vec::new(),
            wait: Vec::new(),
        };
        let mut joined = Vec::new();
        let mut missing: Vec<Range<usize>> = Vec::new();
        for frame in range.start / FRAME_BYTES..range.end.div_ceil(FRAME_BYTES) {
            if let Some(bytes) = state.plain.get(&(*reference, Some(frame))) {
                planned.have.push((frame, bytes.clone()));
                continue;
            }
            let key = (*reference, self.fetch_timeout, frame);
            if let Some(fetch) = under_way(&state.frames, &key) {
                let number = state.frames.get(&key).map(|flight| flight.number);
                // Frames of one fetch lie side by side.
                if joined.last() != Some(&number) {
                    joined.push(number);
                    planned.wait.push(fetch);
                } else {
                    // Not the last clone: the one before it is kept.
                    drop(fetch);
                }
                continue;
            }
            match missing.last_mut() {
                Some(run) if run.end == frame => run.end += 1,
                _ => missing.push(frame..frame + 1),
            }
        }
        for run in missing {
            let fetch = self.begin_frames(&mut state, reference, profile, run);
            planned.wait.push(fetch);
        }
        Recalled::Plan(planned)
    }

    fn begin_frames(
        &self,
        state: &mut State,
        reference: &BlockRef,
        profile: EcProfile,
        run: Range<usize>,
    ) -> Fetch<Frames> {
        state.flights += 1;
        let number = state.flights;
        let (blocks, reference, timeout) = (self.clone(), *reference, self.fetch_timeout);
        let all = run.clone();
        let landing = Landing::new(self, move |state| {
            for frame in all.clone() {
                forget(&mut state.frames, &(reference, timeout, frame), number);
            }
        });
        let wanted = run.clone();
        let fetch = async move {
            let _landing = landing;
            let frames = blocks.fetch_frames(&reference, profile, wanted).await?;
            if let Frames::Single { first, frames } = &frames {
                let mut state = blocks.shared.lock();
                for (at, bytes) in frames.iter().enumerate() {
                    let key = (reference, Some(first + at));
                    let weight = bytes.len() + ENTRY_BYTES;
                    state.plain.insert(key, bytes.clone(), weight);
                }
            }
            Ok(frames)
        };
        let fetch = fetch.boxed().shared();
        for frame in run {
            if let Some(weak) = fetch.downgrade() {
                let flight = Flight {
                    number,
                    fetch: weak,
                };
                state.frames.insert((reference, timeout, frame), flight);
            }
        }
        fetch
    }

    /// Lets go of the plaintext in memory if none of it was used since the last call. Says whether there was any.
    pub fn forget_unused(&self) -> bool {
        let mut state = self.shared.lock();
        let uses = state.plain.uses();
        let is_unused = std::mem::replace(&mut state.uses_seen, uses) == uses;
        let forgets = is_unused && state.plain.weight() > 0;
        if forgets {
            state.plain.clear();
        }
        forgets
    }

    /// Stripe and layout of a block, if it was used lately.
    pub(super) fn known(&self, reference: &BlockRef) -> Option<Arc<Known>> {
        self.shared.lock().known.get(reference).map(Arc::clone)
    }

    /// Remembers stripe and layout of a block.
    pub(super) fn remember(&self, reference: &BlockRef, known: &Arc<Known>) {
        let mut state = self.shared.lock();
        let weight = known.memory_bytes();
        state.known.insert(*reference, Arc::clone(known), weight);
    }
}

/// The fetch of this key, if anybody still waits for it.
fn under_way<K: Ord, T: Clone>(flights: &BTreeMap<K, Flight<T>>, key: &K) -> Option<Fetch<T>> {
    flights.get(key)?.fetch.upgrade()
}

fn forget<K: Ord, T>(flights: &mut BTreeMap<K, Flight<T>>, key: &K, number: u64) {
    if flights
        .get(key)
        .is_some_and(|flight| flight.number == number)
    {
        flights.remove(key);
    }
}

/// Takes a fetch out of the table when it is dropped.
struct Landing<F: Fn(&mut State)> {
    blocks: Blocks,
    leave: F,
}

impl<F: Fn(&mut State)> Landing<F> {
    fn new(blocks: &Blocks, leave: F) -> Self {
        Landing {
            blocks: blocks.clone(),
            leave,
        }
    }
}

impl<F: Fn(&mut State)> Drop for Landing<F> {
    fn drop(&mut self) {
        (self.leave)(&mut self.blocks.shared.lock());
    }
}

impl SharedReads {
    pub(super) fn new(memory_bytes: usize) -> Self {
        SharedReads(Mutex::new(State {
            plain: Lru::new(memory_bytes),
            known: Lru::new(HEADERS_BYTES),
            blocks: BTreeMap::new(),
            frames: BTreeMap::new(),
            flights: 0,
            uses_seen: 0,
        }))
    }

    /// Whether anybody waits for a fetch.
    pub(super) fn has_flights(&self) -> bool {
        let state = self.lock();
        !state.blocks.is_empty() || !state.frames.is_empty()
    }

    /// A fetch is never dropped under this lock: its end takes it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}
