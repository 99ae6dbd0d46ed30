//! What is to be done, in the order in which it is done: the least redundant first, and last what only somebody promises
//! who did not keep such promises lately.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Purpose, Rebuild};
use crate::base::{BlockId, IndexSet, PeerId};

/// Most repairs that are planned; more are found again when these are done.
const QUEUE_MAX: usize = 4096;
/// Repairs carried out beside one another.
const TOGETHER: usize = 4;
/// Blocks for which a peer did not have what it said, after which it is doubted.
const DOUBTED_FROM: u32 = 3;
/// How long such a block counts.
const DOUBTED_FOR: Duration = Duration::from_secs(3600);
/// Peers about which that is remembered.
const DOUBTS_MAX: usize = 1024;
/// While somebody waits for a block, repairs are so much slower.
const YIELDED: u32 = 4;

/// Doubtful ones last; what is safe and belongs elsewhere behind all that is not; then by what they survive; what is missing
/// before what is only in the wrong place.
type Key = (bool, Purpose, usize, bool, BlockId);

#[derive(Debug, Clone, Copy)]
struct Doubt {
    blocks: u32,
    last: Instant,
}

/// The repairs that are planned.
#[derive(Debug, Default)]
pub(super) struct Queue {
    tasks: BTreeMap<Key, Rebuild>,
    doubts: BTreeMap<PeerId, Doubt>,
}

impl Queue {
    pub(super) fn insert(&mut self, task: Rebuild) {
        self.tasks.insert(self.key(&task), task);
        if self.tasks.len() > QUEUE_MAX {
            self.tasks.pop_last();
        }
    }

    pub(super) fn clear(&mut self) {
        self.tasks.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// All of it, the most urgent first.
    pub(super) fn plan(&self) -> Vec<Rebuild> {
        self.tasks.values().cloned().collect()
    }

    /// The next ones: a few beside one another, but no more than `rate` bytes (0: no bound), and one if somebody waits for
    /// blocks.
    pub(super) fn take(&mut self, rate: u64, is_wanted: bool) -> Vec<Rebuild> {
        let most = if is_wanted { 1 } else { TOGETHER };
        let mut tasks: Vec<Rebuild> = Vec::with_capacity(most);
        let mut bytes = 0;
        while tasks.len() < most
            && let Some(entry) = self.tasks.first_entry()
        {
            bytes += moved(entry.get());
            if rate > 0 && bytes > rate && !tasks.is_empty() {
                break;
            }
            tasks.push(entry.remove());
        }
        tasks
    }

    /// These peers did not have what they had said, once for each block.
    pub(super) fn doubt(&mut self, peers: &[PeerId], now: Instant) {
        let before = self.doubted();
        self.forget(now);
        for peer in peers {
            if self.doubts.len() >= DOUBTS_MAX && !self.doubts.contains_key(peer) {
                continue;
            }
            let doubt = self.doubts.entry(*peer).or_insert(Doubt {
                blocks: 0,
                last: now,
            });
            doubt.blocks = doubt.blocks.saturating_add(1);
            doubt.last = now;
        }
        if self.doubted() != before {
            for (_, task) in std::mem::take(&mut self.tasks) {
                self.insert(task);
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        self.doubts
            .retain(|_, doubt| now - doubt.last < DOUBTED_FOR);
    }

    fn doubted(&self) -> BTreeSet<PeerId> {
        let some = self.doubts.iter();
        let some = some.filter(|(_, doubt)| doubt.blocks >= DOUBTED_FROM);
        some.map(|(peer, _)| *peer).collect()
    }

    /// Whether there are too few shards without those of peers that are doubted.
    fn is_doubtful(&self, task: &Rebuild) -> bool {
        if self.doubts.is_empty() {
            return false;
        }
        let is_doubted = |peer: &PeerId| {
            let doubt = self.doubts.get(peer);
            doubt.is_some_and(|doubt| doubt.blocks >= DOUBTED_FROM)
        };
        let believed = task.holders.iter().filter(|(peer, _)| !is_doubted(peer));
        let held = believed.map(|(_, held)| *held);
        let held = held.fold(IndexSet::EMPTY, IndexSet::union);
        held.len() < task.profile.data_shards()
    }

    fn key(&self, task: &Rebuild) -> Key {
        let is_doubtful = self.is_doubtful(task);
        (
            is_doubtful,
            task.purpose,
            task.survives,
            !task.is_missing(),
            task.block,
        )
    }
}

/// Bytes that a repair reads and sends, at most.
fn moved(task: &Rebuild) -> u64 {
    let read = match task.is_missing() {
        true => task.profile.data_shards(),
        false => task.missing.len(),
    };
    let shards = read + task.missing.len();
    u64::from(task.shard_bytes) * shards as u64
}

/// How long to rest after so many bytes, which took so long. A slow line takes longer than the rate alone: whoever waits
/// for blocks needs a share of that as well.
pub(super) fn rest(rate: u64, bytes: u64, took: Duration, is_wanted: bool) -> Duration {
    let least = match rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
    };
    let due = least.max(took);
    let due = match is_wanted {
        true => due.saturating_mul(YIELDED),
        false => due,
    };
    due.saturating_sub(took)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::EcProfile;

    fn peer(tag: u8) -> PeerId {
        PeerId([tag; 32])
    }

    fn task(tag: u8, holders: &[u8], survives: usize) -> Rebuild {
        let held = holders.iter().enumerate();
        Rebuild {
            block: BlockId([tag; 32]),
            profile: EcProfile::DEFAULT,
            shard_bytes: 1000,
            holders: held
                .map(|(index, tag)| (peer(*tag), IndexSet::one(index as u8)))
                .collect(),
            missing: vec![(5, peer(9))],
            survives,
            purpose: Purpose::Mend,
        }
    }

    fn order(queue: &Queue) -> Vec<u8> {
        queue.plan().iter().map(|task| task.block.0[0]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_a_liar_promises_comes_last() {
        let mut queue = Queue::default();
        // Peer 7 says that it has shards of blocks that nobody else knows.
        for tag in 0..100 {
            queue.insert(Rebuild {
                holders: vec![(peer(7), IndexSet::first(4))],
                ..task(100 + tag, &[], 0)
            });
        }
        queue.insert(task(1, &[1, 2, 3, 4, 7], 1));
        queue.insert(task(2, &[1, 2, 3, 7], 0));
        assert_eq!(order(&queue).last(), Some(&1));
        let now = Instant::now();
        queue.doubt(&[peer(7), peer(7)], now);
        assert_eq!(order(&queue).last(), Some(&1), "it may have been bad luck");
        queue.doubt(&[peer(7)], now);
        assert_eq!(order(&queue)[0], 1, "there are enough without it");
        // What comes later is ordered like that as well.
        queue.insert(task(3, &[1, 2, 3, 4, 5], 1));
        assert_eq!(order(&queue)[..2], [1, 3]);
        assert_eq!(queue.len(), 103);
        // It is not for ever.
        queue.doubt(&[], now + DOUBTED_FOR);
        queue.insert(task(4, &[1, 2, 3, 7], 0));
        assert_eq!(order(&queue)[0], 2);
    }

    #[test]
    fn no_more_is_begun_together_than_the_rate_allows() {
        let filled = || {
            let mut queue = Queue::default();
            (0..9).for_each(|tag| queue.insert(task(tag, &[1, 2, 3, 4, 5], 1)));
            queue
        };
        // Four shards are read for each, and one is sent.
        assert_eq!(filled().take(0, false).len(), TOGETHER);
        assert_eq!(filled().take(1 << 20, false).len(), TOGETHER);
        assert_eq!(filled().take(11_000, false).len(), 2);
        assert_eq!(filled().take(1, false).len(), 1);
        assert_eq!(filled().take(0, true).len(), 1);
        assert!(Queue::default().take(0, false).is_empty());
    }

    #[test]
    fn who_waits_for_blocks_has_most_of_the_line() {
        let second = Duration::from_secs(1);
        // A fast line: the rate says it all.
        assert_eq!(rest(1000, 2000, second / 2, false), 3 * second / 2);
        assert_eq!(rest(1000, 2000, second / 2, true), 15 * second / 2);
        // A line that is slower than the rate.
        assert_eq!(rest(1000, 2000, 4 * second, false), Duration::ZERO);
        assert_eq!(rest(1000, 2000, 4 * second, true), 12 * second);
        assert_eq!(rest(0, 2000, second, false), Duration::ZERO);
        assert_eq!(rest(0, 2000, second, true), 3 * second);
    }
}
