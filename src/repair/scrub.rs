//! Reading the own shards again, slowly: what the disk no longer has as it was is taken out, and others make it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Repair;
use crate::base::wire;
use crate::base::worker::{Next, Worker};
use crate::base::{BlockId, ByteSize, Classify, ShardId};
use crate::blocks::Blocks;
use crate::store::StoreError;

/// Key-value space of upkeep.
const UPKEEP: &str = "upkeep";
/// How far the present pass is.
const SCRUB: &[u8] = b"scrub";
/// Shards looked up at once.
const PAGE: usize = 64;
/// Slowest and fastest that a disk is read.
const RATE_MIN: u64 = 64 << 10;
const RATE_MAX: u64 = 64 << 20;
/// Longest pause between two looks at what reads found damaged.
const REST_MAX: Duration = Duration::from_secs(10);
/// The place of a pass is written down so often.
const WRITTEN: Duration = Duration::from_secs(60);
/// Blocks looked at together for what earlier runs found damaged.
const RECALLED: usize = 1024;
/// A shard that the disk does not give is tried so often, with such pauses, before it counts as lost.
const UNREAD_TRIES: u8 = 4;
const UNREAD_PAUSE: Duration = Duration::from_secs(60);
/// Most shards about which that is remembered.
const UNREAD_MAX: usize = 4096;
/// Pause after a failure of the own store.
const TROUBLE: Duration = Duration::from_secs(30);

/// What is written down of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Pass {
    /// All blocks up to this one were looked at.
    after: Option<BlockId>,
    begun_ms: u64,
    /// Whether all were.
    is_done: bool,
}

/// Reads all shards of the own store once in a while.
#[derive(Debug)]
pub struct Scrubber {
    blocks: Blocks,
    period: Duration,
    pass: Option<Pass>,
    page: Vec<ShardId>,
    /// Where the pass goes on when the page is done.
    next: Option<BlockId>,
    written: Option<Instant>,
    examined: u64,
    bytes: u64,
    damaged: u64,
    /// Shards that the disk did not give.
    unread: BTreeMap<ShardId, Unread>,
    recall: Recall,
}

/// How far it was looked for what earlier runs found damaged.
#[derive(Debug, Clone, Copy)]
enum Recall {
    After(Option<BlockId>),
    Done,
}

#[derive(Debug, Clone, Copy)]
struct Unread {
    tries: u8,
    last: Instant,
}

impl Scrubber {
    pub(super) fn new(repair: &Repair) -> Self {
        Scrubber {
            blocks: repair.blocks.clone(),
            period: repair.options.scrub,
            pass: None,
            page: Vec::new(),
            next: None,
            written: None,
            examined: 0,
            bytes: 0,
            damaged: 0,
            unread: BTreeMap::new(),
            recall: Recall::After(None),
        }
    }

    async fn turn(&mut self) -> Result<Next, StoreError> {
        let store = self.blocks.store().clone();
        self.look_at_trouble().await?;
        let now_ms = self.blocks.clock().now_ms();
        let period_ms = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX);
        let new = Pass {
            after: None,
            begun_ms: now_ms,
            is_done: false,
        };
        let pass = match self.pass {
            Some(pass) => pass,
            None => {
                let row = store.kv_get(UPKEEP, SCRUB).await?;
                let row = row.and_then(|row| wire::decode::<Pass>(&row, 256).ok());
                row.unwrap_or(new)
            }
        };
        self.pass = Some(pass);
        if pass.is_done {
            let age_ms = now_ms.saturating_sub(pass.begun_ms);
            if age_ms < period_ms {
                let left = Duration::from_millis(period_ms - age_ms);
                return Ok(Next::Idle(left.min(REST_MAX)));
            }
            self.pass = Some(new);
            return Ok(Next::Again);
        }
        if let Some(id) = self.page.pop() {
            let bytes = self.examine(id).await?;
            return Ok(self.pause(bytes));
        }
        self.turn_page(pass).await?;
        Ok(Next::Again)
    }

    async fn turn_page(&mut self, pass: Pass) -> Result<(), StoreError> {
        let store = self.blocks.store().clone();
        let after = self.next.take().or(pass.after);
        let (mut page, next) = store.shards_after(after, PAGE).await?;
        page.reverse();
        let is_done = next.is_none() && page.is_empty();
        // The last page: what is behind its last block is nothing.
        self.next = next.or_else(|| page.first().map(|id| id.block));
        self.page = page;
        let pass = Pass {
            after,
            is_done,
            ..pass
        };
        self.pass = Some(pass);
        let is_due = self
            .written
            .is_none_or(|written| written.elapsed() >= WRITTEN);
        if is_done || is_due {
            self.written = Some(Instant::now());
            let row = (
                UPKEEP.to_owned(),
                SCRUB.to_vec(),
                Some(wire::encode(&pass).into()),
            );
            match store.kv_put(vec![row]).await {
                // A store without room is read as any other; a start then begins the pass where it was last written down.
                Err(StoreError::Full { .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        if is_done {
            self.next = None;
        }
        Ok(())
    }

    /// What somebody who reads stumbled upon comes first.
    async fn look_at_trouble(&mut self) -> Result<(), StoreError> {
        if let Recall::After(after) = self.recall {
            let next = self.blocks.store().recall_trouble(after, RECALLED);
            self.recall = match next.await? {
                Some(next) => Recall::After(Some(next)),
                None => Recall::Done,
            };
        }
        let troubled = self.blocks.store().troubled_shards();
        if !self.unread.is_empty() {
            let known: BTreeSet<ShardId> = troubled.iter().copied().collect();
            self.unread.retain(|id, _| known.contains(id));
        }
        for id in troubled {
            let waits = |unread: &Unread| unread.last.elapsed() < UNREAD_PAUSE;
            if !self.unread.get(&id).is_some_and(waits) {
                self.examine(id).await?;
            }
        }
        Ok(())
    }

    /// Bytes read. Fails only if the store takes no writes.
    async fn examine(&mut self, id: ShardId) -> Result<u64, StoreError> {
        let store = self.blocks.store();
        let examined = store.examine(id).await?;
        self.examined += 1;
        self.bytes += examined.bytes;
        let mut is_lost = examined.was_damaged;
        if examined.is_unreadable {
            is_lost = self.has_waited_enough(id);
            if is_lost {
                self.blocks.store().write_off(id).await?;
            }
        } else {
            self.unread.remove(&id);
        }
        if is_lost {
            self.damaged += 1;
            tracing::warn!(block = %id.block, index = id.index, "a damaged shard was taken out");
        }
        Ok(examined.bytes)
    }

    /// Whether the disk did not give a shard so often that it is not to be expected any more: a cable that is loose for a
    /// while costs nothing.
    fn has_waited_enough(&mut self, id: ShardId) -> bool {
        if self.unread.len() >= UNREAD_MAX && !self.unread.contains_key(&id) {
            return false;
        }
        let now = Instant::now();
        let unread = self.unread.entry(id).or_insert(Unread {
            tries: 0,
            last: now,
        });
        if unread.tries == 0 || now - unread.last >= UNREAD_PAUSE {
            unread.tries += 1;
            unread.last = now;
        }
        unread.tries >= UNREAD_TRIES
    }

    /// All of the store in one period, within what a disk should bear.
    fn pause(&self, bytes: u64) -> Next {
        let all = self.blocks.store().usage().shard_bytes as f64;
        let rate = (all / self.period.as_secs_f64().max(1.0)) as u64;
        let rate = rate.clamp(RATE_MIN, RATE_MAX);
        let pause = Duration::from_secs_f64(bytes as f64 / rate as f64);
        Next::Idle(pause.min(REST_MAX))
    }
}

impl Worker for Scrubber {
    fn name(&self) -> &'static str {
        "scrub"
    }

    async fn step(&mut self) -> Next {
        match self.turn().await {
            Ok(next) => next,
            Err(StoreError::Closed | StoreError::Poisoned(_)) => Next::Done,
            Err(error) => {
                tracing::warn!(class = ?error.class(), "scrubbing waits: {error}");
                Next::Idle(TROUBLE)
            }
        }
    }

    fn status(&self) -> String {
        let mut text = format!(
            "{} shards read again ({})",
            self.examined,
            ByteSize(self.bytes)
        );
        if self.damaged > 0 {
            text.push_str(&format!(", {} damaged ones taken out", self.damaged));
        }
        if self.pass.is_some_and(|pass| pass.is_done) {
            text.push_str("; all were, until the next time");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_written_down_as_described() {
        let under_way = Pass {
            after: Some(BlockId([7; 32])),
            begun_ms: 1_767_225_600_000,
            is_done: false,
        };
        let done = Pass {
            after: None,
            is_done: true,
            ..under_way
        };
        for (name, pass) in [("upkeep-scrub", under_way), ("upkeep-scrub-begun", done)] {
            let golden = crate::base::golden::row(name);
            assert_eq!(wire::encode(&pass), golden, "{name}");
            assert_eq!(wire::decode::<Pass>(&golden, 256).unwrap(), pass, "{name}");
        }
    }
}
