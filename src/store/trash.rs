//! Trash: blocks that a complete upload kept and nothing keeps any more rest for a while before they go. They are held like
//! any others meanwhile, served, and counted within the quota; a claim on one takes it out again.
//!
//! For the log and the index trash is claims like others, of an owner that no peer can be: one for each
//! hour, which expires. So nothing else has to know of it. What is in trash goes before its time where room is short, the oldest
//! first; then nothing new is put there. What was being let go when power was lost goes at once.

use std::time::Duration;

use super::engine::{Batch, Engine, Fail, Work};
use super::error::StoreError;
use super::handle::Store;
use super::plan::claim_cost;
use super::read::ReadFail;
use super::record::Entry;
use super::rows::{BlockRow, ClaimRow, ClaimState};
use super::shared::Shared;
use crate::base::worker::{Next, Worker};
use crate::base::{BlockId, ByteSize, ClaimId, OwnerId, PeerId};
use bytes::Bytes;

/// Whose claims trash is.
const OWNER: OwnerId = OwnerId(*b"cairn trash, v1\0");
/// What goes into trash within this time at most has one claim.
const PART_MAX_MS: u64 = 3_600_000;
/// Of the time that it rests one part is at most one in so many.
const PARTS: u64 = 64;
/// How often it is looked whether room is short.
const LOOK: Duration = Duration::from_secs(2);
/// Looks until it is counted again.
const COUNT: u32 = 450;
/// Claims and members read at once.
const PAGE: usize = 1024;

/// Whether a claim is trash.
pub(super) fn is_trash(claim: &ClaimId) -> bool {
    claim.owner == OWNER
}

/// Of what goes into trash from a moment on.
const fn claim_from(number: u64) -> ClaimId {
    ClaimId {
        owner: OWNER,
        writer: PeerId([0; 32]),
        number,
    }
}

/// What went into trash within an hour, or less where it rests for less than some days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashPart {
    /// When that time began (ms since 1970).
    pub since_ms: u64,
    /// When it goes.
    pub until_ms: u64,
    /// Blocks that nothing else keeps.
    pub blocks: u64,
    /// Bytes of their shards that are held here.
    pub bytes: u64,
}

impl Engine {
    /// Puts those blocks into trash that a claim, which is being let go, keeps alone.
    pub(super) fn throw_away(
        &mut self,
        batch: &mut Batch,
        claim: &ClaimId,
        blocks: &[(BlockId, ())],
    ) -> Result<(), Fail> {
        let rest = self.shared.options.trash.as_millis() as u64;
        if rest == 0 || !self.to_trash.contains(claim) || self.shared.ledger.is_scarce() {
            return Ok(());
        }
        let (mut alone, mut bytes) = (Vec::new(), 0);
        for (block, ()) in blocks {
            let row = batch.draft.block(block)?;
            if let Some(row) = row.filter(|row| row.claims == 1 && !row.shards.is_empty()) {
                alone.push(*block);
                bytes += held_bytes(&row);
            }
        }
        if alone.is_empty() {
            return Ok(());
        }
        let part = (rest / PARTS).clamp(1000, PART_MAX_MS);
        let now_ms = self.shared.clock.now_ms();
        let mut claim = claim_from(now_ms - now_ms % part);
        // That of this time may have been emptied already, and takes nothing more.
        while let Some(row) = batch.draft.claim(&claim)?
            && row.state != ClaimState::Open
        {
            claim.number = claim.number.max(now_ms) + 1;
        }
        let entry = Entry::Claim {
            claim,
            expires_ms: claim.number + part + rest,
            blocks: alone,
        };
        self.emit(batch, &entry, Bytes::new())?;
        self.shared.ledger.trash_grows(bytes, 0);
        Ok(())
    }
}

/// Bytes of the shards of a block that are held.
fn held_bytes(row: &BlockRow) -> u64 {
    let shards = row.shards.iter();
    shards.map(|shard| u64::from(shard.data_len)).sum()
}

impl Shared {
    fn trash_claims(&self) -> Result<Vec<(ClaimId, ClaimRow)>, ReadFail> {
        self.look_up(|| {
            let mut found = Vec::new();
            // None is before this one.
            let mut after = claim_from(0);
            loop {
                let page = self.index.claims(Some(&after), PAGE)?;
                let rows = page.rows.into_iter();
                let mut is_beyond = false;
                for (claim, row) in rows {
                    is_beyond |= !is_trash(&claim);
                    if is_trash(&claim) && row.state == ClaimState::Open {
                        found.push((claim, row));
                    }
                }
                match page.next.filter(|_| !is_beyond) {
                    Some(next) => after = next,
                    None => return Ok(found),
                }
            }
        })
    }

    fn trash(&self) -> Result<Vec<TrashPart>, ReadFail> {
        let claims = self.trash_claims()?;
        self.look_up(|| {
            let mut parts = Vec::with_capacity(claims.len());
            for (claim, row) in &claims {
                let mut part = TrashPart {
                    since_ms: claim.number,
                    until_ms: row.expires_ms,
                    blocks: 0,
                    bytes: 0,
                };
                let mut after = None;
                loop {
                    let none = super::rows::Rows::default();
                    let page = self.index.members(row.short, after.as_ref(), PAGE, &none)?;
                    let blocks: Vec<BlockId> = page.rows.iter().map(|(block, ())| *block).collect();
                    let rows = self.index.blocks(&blocks)?;
                    for row in rows.into_iter().flatten().filter(|row| row.claims == 1) {
                        part.blocks += 1;
                        part.bytes += held_bytes(&row);
                    }
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                parts.push(part);
            }
            Ok(parts)
        })
    }
}

impl Store {
    /// What is in trash, the oldest first. Looks at each of its blocks.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub async fn trash(&self) -> Result<Vec<TrashPart>, StoreError> {
        self.read(Shared::trash).await
    }

    /// Empties trash: all of it, or only the oldest part. Answers whether there was any.
    ///
    /// # Errors
    /// If the index cannot be read, or the store takes no writes.
    pub async fn empty_trash(&self, is_all: bool) -> Result<bool, StoreError> {
        let claims = self.read(Shared::trash_claims).await?;
        let count = if is_all { usize::MAX } else { 1 };
        for (claim, _) in claims.iter().take(count) {
            let release = Work::Release {
                claim: *claim,
                is_remembered: false,
            };
            let room = self.room_to_let_go(claim_cost(0)).await?;
            self.submit(release, Some(room)).await.map(drop)?;
        }
        Ok(!claims.is_empty())
    }
}

/// Empties trash where room is short, the oldest first; and counts it now and then.
#[derive(Debug)]
pub struct TrashKeeper {
    store: Store,
    emptied: u64,
    /// Steps until it is counted again.
    counted: u32,
}

impl TrashKeeper {
    pub(super) const fn new(store: Store) -> Self {
        TrashKeeper {
            store,
            emptied: 0,
            counted: 0,
        }
    }
}

impl Worker for TrashKeeper {
    fn name(&self) -> &'static str {
        "store-trash"
    }

    async fn step(&mut self) -> Next {
        if self.counted == 0
            && let Ok(parts) = self.store.trash().await
        {
            let bytes = parts.iter().map(|part| part.bytes).sum();
            self.store.shared().ledger.set_trash(bytes);
            self.counted = COUNT;
        }
        self.counted = self.counted.saturating_sub(1);
        if !self.store.shared().ledger.is_scarce() {
            return Next::Idle(LOOK);
        }
        match self.store.empty_trash(false).await {
            Ok(was_any) => {
                self.emptied += u64::from(was_any);
                Next::Idle(LOOK)
            }
            Err(StoreError::Closed | StoreError::Poisoned(_)) => Next::Done,
            Err(_) => Next::Idle(LOOK),
        }
    }

    fn status(&self) -> String {
        let bytes = ByteSize(self.store.shared().ledger.trash());
        format!(
            "{bytes} in it, {} parts emptied for want of room",
            self.emptied
        )
    }
}
