//! Checkpoints: made now and then and announced, and merged when what is missing is in no feed any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::{Inner, Sharer};
use crate::base::{Class, Classify};
use crate::blocks::PointerError;
use crate::feeds::checkpoint::PageHash;
use crate::vfs::{Point, PointError};

/// A volume to which something was written gets a checkpoint so often.
const INTERVAL: Duration = Duration::from_secs(600);
/// After it was opened, or if that failed, it gets one after so long.
const FIRST: Duration = Duration::from_secs(60);
/// Records are looked for so often at most.
const LOOK: Duration = Duration::from_secs(5);
/// And where some have to wait until it is known whether their makers were revoked.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Checkpoints that could not be merged and are not tried again.
const BAD_MAX: usize = 1024;

/// What is not to be done again, and what is.
#[derive(Default)]
struct Tried {
    /// Roots of checkpoints that are no good.
    bad: BTreeSet<PageHash>,
    /// Some have to wait.
    has_waiting: bool,
}

/// Why a checkpoint is not known to others.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It could not be made.
    #[error(transparent)]
    Point(#[from] PointError),
    /// Its record was not kept by anybody.
    #[error("the record of a checkpoint: {0}")]
    Record(#[from] PointerError),
}

impl Classify for PublishError {
    fn class(&self) -> Class {
        match self {
            PublishError::Point(error) => error.class(),
            PublishError::Record(error) => error.class(),
        }
    }
}

impl Sharer {
    /// Makes a checkpoint and tells where it is. How many peers keep the record, this one included.
    ///
    /// # Errors
    /// If it cannot be made, or nobody keeps its record.
    pub async fn publish(&self) -> Result<usize, PublishError> {
        self.0.publish().await
    }

    /// Looks for checkpoints of others and merges what is new in them. How many that were.
    pub async fn catch_up(&self) -> usize {
        self.0.catch_up(&mut Tried::default()).await
    }
}

impl Inner {
    pub(super) async fn publish(&self) -> Result<usize, PublishError> {
        let mut held = self.publishing.lock().await;
        // Boxed, so that the compiler sees that they can go from thread to thread.
        let point = self.vfs.make_point().boxed().await?;
        let count = self.blocks.publish_record(&point.record).boxed().await?;
        let before = self.vfs.is_published(&point);
        let is_said = self.say_covered(&point, count).boxed().await;
        *held = (!is_said).then_some(point);
        tracing::info!(volume = %self.volume, peers = count, "a checkpoint is published");
        // Who lacks what the last but one says merges this one.
        if count > 1
            && let Err(error) = self.vfs.drop_deltas(before).await
        {
            tracing::debug!("old deltas are dropped later: {error}");
        }
        Ok(count)
    }

    /// Whoever keeps the feed lets go of it once as many others have what makes up for it, and that survives as much as was
    /// promised. `count` peers have the record, this one included. Whether they are told.
    async fn say_covered(&self, point: &Point, count: usize) -> bool {
        let Some(word) = &point.covered else {
            return true;
        };
        // Those that are away count: who is alone has nobody to whom the checkpoint went.
        let places = self.blocks.tail_places(self.volume).await;
        let wanted = self
            .tails
            .wanted_of(places.holders.len() + places.others.len());
        if wanted == 0 || count <= wanted || !self.vfs.is_safe(point).await {
            return false;
        }
        self.tails.cover(word.clone());
        true
    }

    /// Looks whether the last checkpoint is safe enough by now.
    async fn say_covered_later(&self) {
        let mut held = self.publishing.lock().await;
        let Some(point) = &*held else {
            return;
        };
        let is_done = match self.blocks.publish_record(&point.record).boxed().await {
            Ok(count) => self.say_covered(point, count).boxed().await,
            // Another life of this device has a later one.
            Err(PointerError::Stale) => true,
            Err(_) => false,
        };
        if is_done {
            *held = None;
        }
    }

    /// Makes checkpoints when there is something new.
    pub(super) async fn publish_always(self: Arc<Self>) {
        if self.vfs.is_reader() {
            return;
        }
        let mut next = Instant::now() + FIRST;
        loop {
            let earliest = Instant::now() + FIRST;
            let is_held = self.publishing.lock().await.is_some();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                // While nobody may let go for the last one, another would make no room either.
                () = self.tails.early.notified(), if !is_held => {
                    tokio::time::sleep_until(earliest.min(next)).await;
                }
                () = tokio::time::sleep_until(earliest), if is_held => {
                    self.say_covered_later().await;
                    continue;
                }
            }
            next = Instant::now() + INTERVAL;
            if !self.vfs.is_reader()
                && self.vfs.has_news().await
                && let Err(error) = self.publish().await
            {
                tracing::warn!(volume = %self.volume, "no checkpoint was made: {error}");
                next = Instant::now() + FIRST;
            }
        }
    }

    /// Merges checkpoints when deltas that are missing cannot be had.
    pub(super) async fn catch_up_always(self: Arc<Self>) {
        let mut tried = Tried::default();
        if !matches!(self.vfs.unfinished_join(), Ok(None)) {
            self.lacks.notify_one();
        }
        loop {
            match std::mem::take(&mut tried.has_waiting) {
                false => self.lacks.notified().await,
                true => {
                    let again = tokio::time::sleep(LOOK_AGAIN);
                    tokio::select! {
                        biased;
                        () = self.lacks.notified() => {}
                        () = again => {}
                    }
                }
            }
            if self.catch_up(&mut tried).await > 0 {
                self.soon.notify_one();
                self.tails.news.notify_one();
            }
            if tried.bad.len() > BAD_MAX {
                tried.bad.clear();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn catch_up(&self, tried: &mut Tried) -> usize {
        let mut records = self.blocks.find_records(self.volume).boxed().await;
        // The newest says most.
        records.sort_by_key(|record| std::cmp::Reverse(record.hlc));
        // Who was revoked, and keys that were handed out since, are known before anything is merged.
        self.vfs.look_beside(&records).boxed().await;
        let mut merged = 0;
        for record in records {
            if tried.bad.contains(&record.root) {
                continue;
            }
            match self.vfs.join_point(&record).boxed().await {
                Ok(true) => {
                    tracing::info!(volume = %self.volume, of = ?record.writer, "a checkpoint is merged");
                    merged += 1;
                }
                Ok(false) => {}
                Err(error @ PointError::Unheard(_)) => {
                    tracing::info!(volume = %self.volume, "{error}");
                    tried.has_waiting = true;
                }
                Err(error) => {
                    tracing::warn!(volume = %self.volume, of = ?record.writer, "a checkpoint is not merged: {error}");
                    // Others may have what is missing now.
                    if is_bad(&error) {
                        tried.bad.insert(record.root);
                    }
                }
            }
        }
        if merged > 0 {
            self.vfs.look_at_clock().await;
        }
        merged
    }
}

/// Whether a checkpoint is not worth another try.
fn is_bad(error: &PointError) -> bool {
    error.class() == Class::Corrupt
        || matches!(error, PointError::Sealed(_) | PointError::Writer { .. })
}
