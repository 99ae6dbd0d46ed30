//! The memory of payloads: what other peers send unasked is bounded, and spent buffers serve again.
//!
//! No peer takes more than its share of the budget, so there is some left for others however much one
//! sends. A payload's part of the budget, and its memory, come back when the last reference to its bytes
//! is dropped, wherever that is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::base::PeerId;

/// One peer may take one part in so many of the budget.
const SHARES: u32 = 3;
/// Bytes of one unit of the budget.
const UNIT_BYTES: usize = 1 << 10;
/// Smaller buffers are not worth keeping.
const SPARE_MIN_BYTES: usize = 64 << 10;
/// Spare memory kept for the next payloads.
const SPARE_MAX_BYTES: usize = 16 << 20;
/// Large payloads begin at a multiple of this, so that a disk can take them from where they are.
const PAGE: usize = 4096;
/// What was not needed for so long is given back to the system.
const SPARE_PERIOD: Duration = Duration::from_secs(5);

/// Bounds the memory of payloads received and not yet handled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PayloadBudget {
    units: Arc<Semaphore>,
    total_units: u32,
    /// The shares of peers that have taken of theirs.
    shares: Arc<Mutex<BTreeMap<PeerId, Weak<Semaphore>>>>,
    spare: Arc<Spare>,
}

impl PayloadBudget {
    /// A budget of so many bytes (at least 1 KiB).
    pub fn new(bytes: usize) -> Self {
        let total_units = u32::try_from(bytes / UNIT_BYTES)
            .unwrap_or(u32::MAX >> 4)
            .clamp(1, u32::MAX >> 4);
        PayloadBudget {
            units: Arc::new(Semaphore::new(total_units as usize)),
            total_units,
            shares: Arc::default(),
            spare: Arc::new(Spare::default()),
        }
    }

    /// Waits for room for what `peer` sends, first come first served; for more than a peer's share until it has all
    /// of that. Cancel safe.
    pub async fn reserve(&self, peer: PeerId, bytes: usize) -> Reservation {
        let units = units_of(bytes).min(self.share_units());
        let share = self.share_of(peer);
        // The semaphores are never closed; without a permit there is only less accounting.
        let of_share = Arc::clone(&share).acquire_many_owned(units).await.ok();
        let of_all = Arc::clone(&self.units).acquire_many_owned(units).await.ok();
        Reservation {
            permits: [of_share, of_all],
        }
    }

    fn share_units(&self) -> u32 {
        (self.total_units / SHARES).max(1)
    }

    fn share_of(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&peer).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.share_units() as usize));
        shares.insert(peer, Arc::downgrade(&share));
        share
    }

    /// Bytes that are free now.
    pub fn free_bytes(&self) -> usize {
        self.units.available_permits() * UNIT_BYTES
    }

    /// Memory for a payload of `len` bytes, empty. With a reservation if the payload was not
    /// asked for: who asks bounds by itself what may come.
    pub fn buffer(&self, len: usize, reservation: Option<Reservation>) -> PayloadBuffer {
        let bytes = self.spare.take(len);
        let start = match len >= SPARE_MIN_BYTES {
            true => bytes.as_ptr().align_offset(PAGE).min(bytes.len() - len),
            false => 0,
        };
        PayloadBuffer {
            bytes,
            start,
            filled: start,
            end: start + len,
            spare: Arc::clone(&self.spare),
            _reservation: reservation,
        }
    }

    /// Gives spare memory back that has not been needed lately. To be called every now and then.
    pub fn trim(&self) {
        self.spare.trim(Instant::now());
    }
}

fn units_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// Part of a [`PayloadBudget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Reservation {
    /// Takes `bytes` of it into one of their own; fewer if there are not so many.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Reservation {
        let permits = self.permits.each_mut().map(|permit| {
            let permit = permit.as_mut()?;
            permit.split((units_of(bytes) as usize).min(permit.num_permits()))
        });
        Reservation { permits }
    }
}

/// A payload that is being received.
#[derive(Debug)]
pub struct PayloadBuffer {
    /// All of it has been written to at some time, so that nothing has to be filled with zeros again.
    bytes: Vec<u8>,
    /// Where the payload begins, how far it is there, and where it will end.
    start: usize,
    filled: usize,
    end: usize,
    spare: Arc<Spare>,
    _reservation: Option<Reservation>,
}

impl PayloadBuffer {
    /// Where the rest goes, as much as was announced.
    pub fn unfilled(&mut self) -> &mut [u8] {
        self.bytes
            .get_mut(self.filled..self.end)
            .unwrap_or_default()
    }

    /// The first `len` bytes of [`PayloadBuffer::unfilled`] are there.
    pub fn advance(&mut self, len: usize) {
        self.filled = (self.filled + len).min(self.end);
    }

    /// The payload, complete.
    pub fn freeze(self) -> Bytes {
        if self.as_ref().is_empty() {
            Bytes::new()
        } else {
            Bytes::from_owner(self)
        }
    }
}

impl AsRef<[u8]> for PayloadBuffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.start..self.filled).unwrap_or_default()
    }
}

impl Drop for PayloadBuffer {
    fn drop(&mut self) {
        self.spare.put(std::mem::take(&mut self.bytes));
    }
}

/// Memory of spent payloads. Fresh memory costs a page fault for every 4 KiB.
#[derive(Debug, Default)]
struct Spare(Mutex<Buffers>);

#[derive(Debug, Default)]
struct Buffers {
    free: Vec<Vec<u8>>,
    bytes: usize,
    /// Least that was free at any time of this period: nobody needed that.
    idle_bytes: usize,
    since: Option<Instant>,
}

impl Spare {
    fn take(&self, len: usize) -> Vec<u8> {
        let mut need = len;
        if len >= SPARE_MIN_BYTES {
            need += PAGE;
            let mut buffers = self.lock();
            // The newest first: the processor may still have it in its cache.
            let fits = |buffer: &Vec<u8>| (need..=need + len / 4).contains(&buffer.len());
            if let Some(at) = buffers.free.iter().rposition(fits) {
                let buffer = buffers.free.remove(at);
                buffers.bytes -= buffer.len();
                buffers.idle_bytes = buffers.idle_bytes.min(buffers.bytes);
                return buffer;
            }
        }
        vec![0; need]
    }

    fn put(&self, buffer: Vec<u8>) {
        let size = buffer.len();
        if size < SPARE_MIN_BYTES {
            return;
        }
        let mut buffers = self.lock();
        if buffers.bytes + size <= SPARE_MAX_BYTES {
            buffers.bytes += size;
            buffers.free.push(buffer);
        }
    }

    fn trim(&self, now: Instant) {
        let mut buffers = self.lock();
        let since = *buffers.since.get_or_insert(now);
        if now.duration_since(since) < SPARE_PERIOD {
            return;
        }
        let mut excess = buffers.idle_bytes;
        // The oldest first.
        let keep_from = buffers.free.iter().position(|buffer| {
            let stays = buffer.len() > excess;
            excess = excess.saturating_sub(buffer.len());
            stays
        });
        let keep_from = keep_from.unwrap_or(buffers.free.len());
        let freed: Vec<Vec<u8>> = buffers.free.drain(..keep_from).collect();
        buffers.bytes -= freed.iter().map(Vec::len).sum::<usize>();
        buffers.idle_bytes = buffers.bytes;
        buffers.since = Some(now);
    }

    fn lock(&self) -> MutexGuard<'_, Buffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    async fn has_room(budget: &PayloadBudget, peer: PeerId, bytes: usize) -> bool {
        let reserved = budget.reserve(peer, bytes);
        let reserved = tokio::time::timeout(Duration::from_secs(1), reserved);
        reserved.await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn payloads_wait_for_room() {
        let budget = PayloadBudget::new(60 << 10);
        let peers = (1..=3).map(|n| PeerId([n; 32]));
        let mut held = Vec::new();
        for peer in peers {
            held.push(budget.reserve(peer, 18 << 10).await);
        }
        assert_eq!(budget.free_bytes(), 6 << 10);
        assert!(!has_room(&budget, PeerId([9; 32]), 8 << 10).await);
        held.pop();
        assert!(has_room(&budget, PeerId([9; 32]), 8 << 10).await);
        held.clear();
        assert_eq!(budget.free_bytes(), 60 << 10);
    }

    #[tokio::test(start_paused = true)]
    async fn one_peer_has_its_share_only() {
        let budget = PayloadBudget::new(60 << 10);
        let first = budget.reserve(A, 15 << 10).await;
        assert!(!has_room(&budget, A, 6 << 10).await);
        assert!(has_room(&budget, A, 5 << 10).await);
        assert!(has_room(&budget, B, 20 << 10).await);
        drop(first);
        // Larger than a share: alone, but not never.
        let mut whole = budget.reserve(A, 1 << 20).await;
        assert_eq!(budget.free_bytes(), 40 << 10);
        assert!(!has_room(&budget, A, 1).await);
        // A part of it may come back before the rest.
        drop(whole.split(5 << 10));
        assert_eq!(budget.free_bytes(), 45 << 10);
        assert!(has_room(&budget, A, 5 << 10).await);
        drop(whole);
        assert_eq!(budget.free_bytes(), 60 << 10);
        // Nothing is remembered of whom has nothing.
        drop(budget.reserve(B, 1).await);
        assert_eq!(budget.shares.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn spent_memory_serves_again_until_nobody_needs_it() {
        let budget = PayloadBudget::new(64 << 20);
        let spare = || budget.spare.lock().bytes;
        let payload = |len| {
            let mut buffer = budget.buffer(len, None);
            let room = buffer.unfilled();
            assert_eq!(room.len(), len);
            room.fill(7);
            buffer.advance(len);
            let payload = buffer.freeze();
            assert_eq!(payload, vec![7; len]);
            assert!(payload.as_ptr().addr().is_multiple_of(PAGE));
            payload
        };
        let first = payload(512 << 10);
        let place = first.as_ptr();
        let part = first.slice(100..200);
        drop(first);
        assert_eq!(spare(), 0);
        drop(part);
        assert_eq!(spare(), (512 << 10) + PAGE);
        let second = payload(500 << 10);
        assert_eq!(second.as_ptr(), place);
        // Neither much too large nor too small a buffer is taken.
        drop(second);
        drop((payload(200 << 10), payload(1 << 20)));
        assert_eq!(spare(), (512 << 10) + (200 << 10) + (1 << 20) + 3 * PAGE);
        // Bounded.
        let many: Vec<_> = (0..40).map(|_| payload(1 << 20)).collect();
        drop(many);
        assert!(spare() <= SPARE_MAX_BYTES);
        // What is used stays; the rest goes.
        for _ in 0..4 {
            drop(payload(1 << 20));
            tokio::time::advance(SPARE_PERIOD).await;
            budget.trim();
        }
        assert!((1 << 20..4 << 20).contains(&spare()), "{}", spare());
        for _ in 0..2 {
            tokio::time::advance(SPARE_PERIOD).await;
            budget.trim();
        }
        assert_eq!(spare(), 0);
    }
}
