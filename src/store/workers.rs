//! The store's upkeep in the background, throttled.

use std::time::Duration;

use super::engine::{Answer, Work};
use super::error::StoreError;
use super::handle::Store;
use super::plan::claim_cost;
use crate::base::ClaimId;
use crate::base::worker::{Next, Worker};

/// How long compaction rests when nothing is worth it.
const REST: Duration = Duration::from_secs(10);
/// Claims looked at in one step.
const CLAIMS_PER_STEP: usize = 4096;
/// Claims released with one operation.
const CLAIMS_AT_ONCE: usize = 256;

/// Rewrites segments that are mostly dead, and counts what others write to the data directory.
#[derive(Debug)]
pub struct Compaction {
    store: Store,
    moved_bytes: u64,
    trouble: Option<StoreError>,
}

impl Compaction {
    pub(super) const fn new(store: Store) -> Self {
        Compaction {
            store,
            moved_bytes: 0,
            trouble: None,
        }
    }

    /// Waits so long after moving so much. Nothing while room is short.
    fn pause(&self, moved_bytes: u64) -> Next {
        let shared = self.store.shared();
        if moved_bytes == 0 || shared.ledger.is_tight() {
            return Next::Again;
        }
        let rate = shared.options.compaction_rate.max(1);
        Next::Idle(Duration::from_micros(
            moved_bytes.saturating_mul(1_000_000) / rate,
        ))
    }
}

impl Worker for Compaction {
    fn name(&self) -> &'static str {
        "store-compaction"
    }

    async fn step(&mut self) -> Next {
        match self.store.submit(Work::Compact, None).await {
            Ok(Answer::Progress(progress)) => {
                self.trouble = None;
                self.moved_bytes += progress.moved_bytes;
                if progress.more {
                    return self.pause(progress.moved_bytes);
                }
                // Its outcome shows in the usage.
                let _ = self.store.submit(Work::Count, None).await;
                Next::Idle(REST)
            }
            Ok(_) => Next::Idle(REST),
            Err(StoreError::Closed | StoreError::Poisoned(_)) => Next::Done,
            Err(error) => {
                self.trouble = Some(error);
                Next::Idle(REST)
            }
        }
    }

    fn status(&self) -> String {
        match &self.trouble {
            Some(error) => format!("waiting: {error}"),
            None => format!("{} moved", crate::base::ByteSize(self.moved_bytes)),
        }
    }
}

/// Releases claims that have expired.
#[derive(Debug)]
pub struct Expiry {
    store: Store,
    after: Option<ClaimId>,
    expired: u64,
}

impl Expiry {
    pub(super) const fn new(store: Store) -> Self {
        Expiry {
            store,
            after: None,
            expired: 0,
        }
    }

    async fn page(&mut self) -> Result<bool, StoreError> {
        let after = self.after.take();
        let look = move |shared: &super::shared::Shared| {
            shared.expired(after.as_ref(), CLAIMS_PER_STEP, shared.clock.now_ms())
        };
        let (claims, next) = self.store.read(look).await?;
        for claims in claims.chunks(CLAIMS_AT_ONCE) {
            let cost = claim_cost(0) * claims.len() as u64;
            let room = self.store.room_to_let_go(cost).await?;
            let work = Work::Expire(claims.to_vec());
            self.store.submit(work, Some(room)).await?;
            self.expired += claims.len() as u64;
        }
        self.after = next;
        Ok(self.after.is_some())
    }
}

impl Worker for Expiry {
    fn name(&self) -> &'static str {
        "store-expiry"
    }

    async fn step(&mut self) -> Next {
        match self.page().await {
            Ok(true) => Next::Again,
            Err(StoreError::Closed | StoreError::Poisoned(_)) => Next::Done,
            Ok(false) | Err(_) => Next::Idle(self.store.shared().options.expiry_interval),
        }
    }

    fn status(&self) -> String {
        format!("{} claims expired", self.expired)
    }
}
